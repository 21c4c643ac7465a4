"""The open connections of a door: how many there may be, of all and of one address, and their deadlines.

Deadlines of all connections are looked at together, once a sweep, so that a request starts no timer and asks no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorFDSet
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from aggregator.addresses import NO_PROXIES, PerAddress, Proxies, peer_of
from aggregator.door_parts import Clock, DoorCounters, DoorLimits
from aggregator.problems import Problem
from aggregator.shared_reads import SharedReads


class OpenConnection(Protocol):
    """The part of a connection that bounds and sweeps need.

    Attributes: peer: its address. group: what that is counted as; empty: it is not.
    """

    peer: str
    group: str

    def sweep(self, now_s: float, /) -> None:
        """Ends it if one of its deadlines has passed."""

    def finish_when_answered(self) -> None:
        """Ends it after the answers that it waits for."""

    def abort(self) -> None:
        """Ends it at once."""


class HttpConnectionFactory(Factory):
    """Knows the open connections, bounds and sweeps them. Subclasses make them.

    Args:
        limits: bounds.
        counters: plain numbers, read elsewhere.
        clock: the reactor; the sweep runs from `startFactory` to `stopFactory`.
        proxies: whose connections are not counted by address.
        reads: makes what reads from plain sockets, where the clock is a reactor.
    Attributes:
        now_s: the clock as of the last sweep, good enough for deadlines.
        unfinished_bytes: held of requests that are not whole yet.
        nearly_full: answers ask their connections to end, so that there is room for others.
        reads: reads from plain sockets; None where the clock is no reactor.
    """

    log = Logger()
    noisy = False

    def __init__(
        self,
        limits: DoorLimits,
        counters: DoorCounters,
        clock: Clock,
        proxies: Proxies = NO_PROXIES,
        *,
        reads: Callable[[Any], SharedReads] = SharedReads,
    ) -> None:
        self.limits = limits
        self.counters = counters
        self.now_s = clock.seconds()
        self.unfinished_bytes = 0
        self.nearly_full = False
        self.reads = reads(clock) if IReactorFDSet.providedBy(clock) else None
        self._clock = clock
        self._connections: set[OpenConnection] = set()
        self._per_address = PerAddress(limits.per_address, proxies)
        self._sweep_call: Any = None
        self._emptied: Deferred[None] | None = None
        self._turn = 0
        self._nearly = limits.connections - limits.connections // 10
        self._refused_at_once = limits.connections + max(1, limits.connections // 20)

    def make_connection(self) -> Any:
        """A connection of the door's kind."""
        raise NotImplementedError

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection from `addr`. Who asks is told by tokens; the address only bounds how many there are."""
        connection = self.make_connection()
        connection.peer = peer_of(addr)
        return connection

    def startFactory(self) -> None:
        """Begins to sweep."""
        self._sweep()

    def stopFactory(self) -> None:
        """Ends the sweep; open connections stay until `close_all`."""
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None

    def admit(self, connection: OpenConnection) -> Problem | None:
        """Counts a new connection in. Returns why it is one too many, None: it is not."""
        self.counters.connections += 1
        self._connections.add(connection)
        connection.group = self._per_address.enter(connection.peer)
        self._note_count()
        if len(self._connections) > self.limits.connections:
            problem = self.later("connections", "too many connections")
        elif self._per_address.is_over(connection.group):
            problem = self.later("per-address", f"too many connections from {connection.peer}", status=429)
        else:
            return None
        self.counters.connections_refused += 1
        return problem

    def is_overrun(self, connection: OpenConnection) -> bool:
        """So many are being refused, of all or of this one's address, that there is no room to tell them."""
        return len(self._connections) > self._refused_at_once or self._per_address.is_overrun(connection.group)

    def left(self, connection: OpenConnection) -> None:
        """Counts a connection out."""
        self._connections.discard(connection)
        self._per_address.leave(connection.group)
        self._note_count()
        if not self._connections and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    def close_all(self) -> Deferred[None]:
        """Fires once every connection is closed: after the answers it waits for, or after `farewell_s`."""
        done: Deferred[None] = Deferred()
        if not self._connections:
            done.callback(None)
            return done
        self._emptied = done
        timer = self._clock.callLater(self.limits.farewell_s, self._abort_all)
        for connection in list(self._connections):
            connection.finish_when_answered()

        def stop_timer(_outcome: None) -> None:
            if timer.active():
                timer.cancel()

        return done.addCallback(stop_timer)

    def later(self, reason: str, detail: str, *, status: int = 503) -> Problem:
        """A refusal for now. The wait goes round, so that those refused together do not return together."""
        shortest_s = self.limits.retry_after_s
        self._turn = (self._turn + 1) % (2 * shortest_s + 1)
        return Problem(status, reason, detail, retry_after_s=shortest_s + self._turn)

    def note_failure(self, what: str, failure: Failure) -> None:
        """Logs and counts a mistake of ours."""
        self.counters.errors += 1
        self.log.failure("{what}", failure, what=what)

    def _note_count(self) -> None:
        count = len(self._connections)
        self.counters.connections_open = count
        self.nearly_full = count >= self._nearly

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def _sweep(self) -> None:
        self.now_s = self._clock.seconds()
        for connection in list(self._connections):
            try:
                connection.sweep(self.now_s)
            except Exception:
                self.note_failure("a connection could not be swept", failure_now())
                connection.abort()
        self._sweep_call = self._clock.callLater(self.limits.sweep_s, self._sweep)


def failure_now() -> Failure:
    """The exception being handled."""
    return Failure()  # type: ignore[no-untyped-call]
