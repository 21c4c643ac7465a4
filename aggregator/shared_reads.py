"""Sockets to read from as one descriptor of the reactor, which asks for all that are readable at once.

The reactor wraps each event in a log context and a few calls of its own: a seventh of what a push costs. Here one event
of the reactor's stands for all sockets that came in since, at most a few hundred before others have their turn.

At a thousand pushes a second each would still be an event of its own, which wakes this thread and the journal's: that
costs four times what the push does. So whoever comes within a moment of the last reads waits for its end, and all of
them are read, made durable and answered together. Who comes after a pause, and a crowd, are not kept waiting.
"""

from __future__ import annotations

import math
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
_ENOUGH = 128  # so many share the price of an event well enough: nobody waits for more to come
_LATELY_S = 0.25  # so long is remembered how fast they came


def _as_it_comes(work: Callable[[], None]) -> None:
    work()


@implementer(IReadDescriptor)
class SharedReads:
    """Calls who is to read when there is something. It is with the reactor, or has a timer, only while anybody is here.

    Args:
        reactor: with `addReader` and `removeReader`, `callLater` and `seconds`.
        gather_s: least time from the start of some reads to that of the next, unless many come meanwhile; 0: none.
        together: is given what reads from all that are readable, and calls it.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        gather_s: float = 0.0,
        together: Callable[[Callable[[], None]], None] = _as_it_comes,
    ) -> None:
        self._reactor = reactor
        self._gather_s = gather_s
        self._together = together
        self._found = 0  # at the last reads
        self._began_s = -math.inf  # those
        # How many came lately, and in how long.
        self._came = self._came_s = 0.0
        # With the reactor, or waiting for the timer.
        self._is_joined = False
        self._timer: Any = None
        self._epoll: select.epoll | None = None
        self._reads: dict[int, Callable[[], None]] = {}

    def __len__(self) -> int:
        """Descriptors that are read from."""
        return len(self._reads)

    def add(self, descriptor: int, read: Callable[[], None]) -> None:
        """Has `read` called while there is something to read, an end and an error included; again changes nothing.

        Raises: OSError: no descriptor is left for it.
        """
        if descriptor in self._reads:
            return
        epoll = self._epoll
        if epoll is None:
            epoll = self._epoll = select.epoll()
            self._join_reactor()
        self._reads[descriptor] = read
        try:
            epoll.register(descriptor, select.EPOLLIN)
        except OSError:
            self.closed(descriptor)
            raise

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
            self._leave_reactor()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._epoll.close()
            self._epoll = None

    def _join_reactor(self) -> None:
        if not self._is_joined:
            self._is_joined = True
            self._reactor.addReader(self)

    def _leave_reactor(self) -> None:
        if self._is_joined:
            self._is_joined = False
            self._reactor.removeReader(self)

    def _on_timer(self) -> None:
        self._timer = None
        self.doRead()

    # The reactor calls these.

    def fileno(self) -> int:
        """Of what becomes readable when any of the descriptors does."""
        return -1 if self._epoll is None else self._epoll.fileno()

    def doRead(self) -> None:
        """Has everybody read who can; for a moment from now on, who comes waits."""
        if self._epoll is None:
            return
        wait_s = self._work()
        if self._epoll is None:  # everybody has gone
            return
        if wait_s:
            self._leave_reactor()
            self._timer = self._reactor.callLater(wait_s, self._on_timer)
        else:
            self._join_reactor()

    def _work(self) -> float:
        """Reads from all that are readable; returns how long others that come have to wait, 0: the reactor tells."""
        began_s: float = self._reactor.seconds()
        since_s, self._began_s = min(began_s - self._began_s, 4 * _LATELY_S), began_s
        self._together(self._read_all)
        share = math.exp(-since_s / _LATELY_S)
        self._came, self._came_s = self._came * share + self._found, self._came_s * share + since_s
        if not self._gather_s or not self._found:
            return 0.0
        # As fast as they came since the last time, or lately, enough will be here after this. The last time alone says
        # too little: when the machine held its breath a few came, and all others would wait for longer than it did.
        enough_s = _ENOUGH * min(since_s / self._found, self._came_s / self._came)
        ends_s: float = self._reactor.seconds()
        return max(0.0, min(self._gather_s, enough_s) - (ends_s - began_s))

    def _read_all(self) -> None:
        if self._epoll is None:
            return
        events = self._epoll.poll(0, _AT_ONCE)
        self._found = len(events)
        for descriptor, _ in events:
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
        self._enter(reads)

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
            self._enter(self._reads)

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

    def _enter(self, reads: SharedReads) -> None:
        try:
            reads.add(self._descriptor, self._read)
        except OSError:  # this process may open nothing more, or the kernel watches no more: one by one it goes on
            self._reads = None
            self._transport.startReading()

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
