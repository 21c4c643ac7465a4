"""Sockets to read from as one descriptor of the reactor, which asks for all that are readable at once.

The reactor wraps each event in a log context and a few calls of its own: a seventh of what a push costs. Here one event
of the reactor's stands for all sockets that came in since, at most a few hundred before others have their turn.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from socket import socket
from typing import Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]

_READ_BYTES = 65536
_AT_ONCE = 256  # then the reactor's other work has its turn


@implementer(IReadDescriptor)
class SharedReads:
    """Calls who is to read when there is something. It is with the reactor only while anybody is here.

    Args: reactor: with `addReader` and `removeReader`.
    """

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._epoll: select.epoll | None = None
        self._reads: dict[int, Callable[[], None]] = {}

    def __len__(self) -> int:
        """Descriptors that are read from."""
        return len(self._reads)

    def add(self, descriptor: int, read: Callable[[], None]) -> None:
        """Has `read` called while there is something to read, an end and an error included; again changes nothing."""
        if descriptor in self._reads:
            return
        epoll = self._epoll
        if epoll is None:
            epoll = self._epoll = select.epoll()
            self._reactor.addReader(self)
        epoll.register(descriptor, select.EPOLLIN)
        self._reads[descriptor] = read

    def remove(self, descriptor: int) -> None:
        """No more of that; the descriptor is still open."""
        if self._reads.pop(descriptor, None) is not None and self._epoll is not None:
            self._epoll.unregister(descriptor)
        self._end()

    def closed(self, descriptor: int) -> None:
        """The same of a descriptor that is closed already: its number may be another's by now."""
        self._reads.pop(descriptor, None)
        self._end()

    def _end(self) -> None:
        if not self._reads and self._epoll is not None:
            epoll, self._epoll = self._epoll, None
            self._reactor.removeReader(self)
            epoll.close()

    # The reactor calls these.

    def fileno(self) -> int:
        """Of what becomes readable when any of the descriptors does."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def doRead(self) -> None:
        """Has everybody read who can."""
        if self._epoll is None:
            return
        for descriptor, _ in self._epoll.poll(0, _AT_ONCE):
            # One that was read before it in this turn may have closed it.
            read = self._reads.get(descriptor)
            if read is not None:
                try:
                    read()
                except Exception:
                    self._log.failure("a connection could not be read")

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gives this up when it stops."""

    def logPrefix(self) -> str:
        """Whose events these are."""
        return "reads"


class SharedReading:
    """Reads for one transport of plain TCP among all others, until that is at its end.

    Args: received: gets what was read, never nothing.
    """

    __slots__ = ("_descriptor", "_reads", "_received", "_socket", "_transport")

    def __init__(self, reads: SharedReads, transport: Any, received: Callable[[bytes], None]) -> None:
        self._reads: SharedReads | None = reads
        self._transport = transport
        self._received = received
        self._socket: socket = transport.getHandle()
        self._descriptor = self._socket.fileno()
        transport.stopReading()
        reads.add(self._descriptor, self._read)

    def pauseProducing(self) -> None:
        """Reads no more for now."""
        if self._reads is None:
            self._transport.pauseProducing()
        else:
            self._reads.remove(self._descriptor)

    def resumeProducing(self) -> None:
        """Reads on."""
        if self._reads is None:
            self._transport.resumeProducing()
        else:
            self._reads.add(self._descriptor, self._read)

    def leave(self) -> None:
        """From now on the transport reads by itself, once it is told to."""
        if self._reads is not None:
            reads, self._reads = self._reads, None
            reads.remove(self._descriptor)

    def closed(self) -> None:
        """The transport has closed the socket."""
        if self._reads is not None:
            reads, self._reads = self._reads, None
            reads.closed(self._descriptor)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received(data)
        else:
            # The transport will find the same, and knows what follows from it.
            self.leave()
            self._transport.startReading()
