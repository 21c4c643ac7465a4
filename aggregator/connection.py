"""HTTP connections of agents: order of answers, deadlines, back-pressure, the end of a connection.

`HttpConnection` is the shell around `aggregator.http`; what requests mean is up to its subclass. Deadlines of
all connections are looked at together, once a sweep, so that a request starts no timer and asks no clock for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure

from aggregator.answers import render_problem
from aggregator.door_parts import Clock, DoorCounters, DoorLimits
from aggregator.http import Request, RequestParser
from aggregator.problems import Problem, Refused

if TYPE_CHECKING:
    from socket import socket

_BROKEN = Problem(500, "internal", "the aggregator failed on this request; it is logged there", close=True)


class Slot:
    """The place of one request in the order of answers.

    Attributes:
        answer: None while it is being worked out.
        begun_s: when the request was complete, by the sweeps' clock.
        close: the connection ends after it.
        linger: what still comes after it is read and thrown away for a while.
    """

    __slots__ = ("answer", "begun_s", "close", "connection", "linger")

    def __init__(self, connection: HttpConnection, *, close: bool) -> None:
        self.connection = connection
        self.close = close
        self.linger = False
        self.answer: bytes | None = None
        self.begun_s = connection.factory.now_s

    def settle(self, answer: bytes) -> None:
        """Takes the answer; only the first one counts."""
        if self.answer is None:
            self.answer = answer
            self.connection.send_answers()

    def refuse(
        self, problem: Problem, *, head_only: bool = False, headers: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Answers with a problem, and counts it."""
        self.connection.factory.counters.rejected(problem.reason)
        if problem.close:
            self.close = self.linger = self.connection.closes = True
        self.settle(render_problem(problem, close=self.close, head_only=head_only, headers=headers))

    def fail(self, failure: Failure) -> None:
        """Answers what a part of the aggregator raised: a refusal as such, anything else as our mistake."""
        if isinstance(failure.value, Refused):
            self.refuse(failure.value.problem)
            return
        self.connection.factory.note_failure("a request failed", failure)
        self.refuse(_BROKEN)


class HttpConnection(Protocol):
    """One connection; also the push producer that its transport pauses.

    Attributes:
        closes: no further request is taken.
        slots: requests without an answer yet, oldest first.
    """

    factory: HttpConnectionFactory

    def __init__(self, factory: HttpConnectionFactory) -> None:
        self.factory = factory
        self.closes = False
        self.slots: deque[Slot] = deque()
        self._parser = RequestParser(factory.limits.http)
        self._plain = False
        self._socket: socket | None = None
        self._active_s = factory.now_s
        self._begun_s: float | None = None
        self._stuck_s: float | None = None
        self._closing_s: float | None = None
        self._crowded = False
        self._gone = False

    def on_request(self, request: Request) -> None:
        """Sees to it that one slot is appended and settled, now or later. Raises Refused: the answer."""
        raise NotImplementedError

    # The transport calls these.

    def connectionMade(self) -> None:
        """Takes the connection, or refuses it when there are too many."""
        transport = self._transport
        transport.registerProducer(self, True)
        if isinstance(transport, Connection):  # and not one wrapped in TLS
            self._plain = True
            transport.setTcpNoDelay(True)
            self._socket = transport.getHandle()
        if self.factory.admits(self):
            return
        if self.factory.overrun:
            self.abort()
        else:
            self.closes = True
            slot = self.new_slot()
            slot.linger = True
            slot.refuse(self.factory.later("connections", "too many connections"))

    def dataReceived(self, data: bytes) -> None:
        """Feeds the parser and acts on what is complete. Nothing that goes wrong here may reach the reactor."""
        if self.closes:
            return
        if self._begun_s is None:
            self._begun_s = self.factory.now_s
        try:
            parser = self._parser
            events = parser.feed(data)
            if not events:
                return
            self._begun_s = None if parser.between else self.factory.now_s
            for event in events:
                if isinstance(event, Request):
                    self._take(event)
                elif isinstance(event, Problem):
                    self.refuse(event)
                else:
                    self.new_slot().settle(event.value)
                if self.closes:
                    return
            if len(self.slots) > self.factory.limits.pipelined and not self._crowded:
                self._crowded = True
                self._transport.pauseProducing()
        except Exception:
            self.factory.note_failure("a connection failed", failure_now())
            self.refuse(_BROKEN)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        """The connection is gone; what was on its way to the disk is stored all the same."""
        self._gone = True
        self._socket = None
        self.factory.left(self)

    def pauseProducing(self) -> None:
        """The peer does not read its answers: nothing more is read from it until it does."""
        if self._stuck_s is None:
            self._stuck_s = self.factory.now_s
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The peer has read its answers."""
        self._stuck_s = None
        if not self._crowded and not self._gone:
            self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """The transport has ended; `connectionLost` does the rest."""

    # Requests and answers.

    def _take(self, request: Request) -> None:
        factory = self.factory
        factory.counters.requests += 1
        if not request.keep_alive or factory.nearly_full:
            self.closes = True
        try:
            self.on_request(request)
        except Refused as refused:
            self.refuse(refused.problem)

    def new_slot(self) -> Slot:
        """A place for the answer to the request at hand."""
        slot = Slot(self, close=self.closes)
        self.slots.append(slot)
        return slot

    def refuse(
        self, problem: Problem, *, head_only: bool = False, headers: Mapping[bytes, bytes] | None = None
    ) -> None:
        """Answers the request at hand with a problem."""
        self.new_slot().refuse(problem, head_only=head_only, headers=headers)

    def send_answers(self) -> None:
        """Sends the answers that are ready, up to the first that is not."""
        slots = self.slots
        answers = []
        while slots and (answer := slots[0].answer) is not None:
            slot = slots.popleft()
            answers.append(answer)
            if slot.close:
                break
        if not answers or self._gone:
            return
        self._active_s = self.factory.now_s
        self._write(answers[0] if len(answers) == 1 else b"".join(answers))
        if slot.close:
            self._finish(linger=slot.linger)
        elif self._crowded and len(slots) <= self.factory.limits.pipelined // 2:
            self._crowded = False
            if self._stuck_s is None:
                self._transport.resumeProducing()

    def _write(self, data: bytes) -> None:
        """Writes at once while the kernel takes all of it: a fraction of the cost of waiting to be told to."""
        if self._socket is not None:
            try:
                sent = self._socket.send(data)
            except OSError:  # full, or broken: the transport finds out which
                sent = 0
            if sent == len(data):
                return
            self._socket = None  # from now on the transport holds what comes first
            data = data[sent:]
        self._transport.write(data)

    # The end of a connection.

    def _finish(self, *, linger: bool) -> None:
        """Closes once everything is sent. Unread input would make the kernel throw the answer away: read it first."""
        self.closes = True
        self.slots.clear()
        if self._closing_s is None:
            self._closing_s = self.factory.now_s
            transport = self._transport
            transport.unregisterProducer()
            if linger and self._plain:
                transport.loseWriteConnection()
                transport.startReading()
            else:
                transport.loseConnection()

    def finish_when_answered(self) -> None:
        """Takes no further request; closes once those here are answered."""
        self.closes = True
        if self.slots:
            self.slots[-1].close = True
        else:
            self._finish(linger=False)

    def abort(self) -> None:
        """Closes at once, whatever is still to be sent."""
        self.closes = True
        self._closing_s = self.factory.now_s
        self._transport.abortConnection()

    def sweep(self, now_s: float) -> None:
        """Ends the connection if one of its deadlines has passed."""
        factory = self.factory
        limits = factory.limits
        if self._closing_s is not None:
            if now_s - self._closing_s >= limits.linger_s:
                self.abort()
        elif self._stuck_s is not None and now_s - self._stuck_s >= limits.request_s:
            factory.counters.timeouts += 1
            self.abort()
        elif self.slots:
            if now_s - self.slots[0].begun_s >= limits.request_s:
                factory.counters.timeouts += 1
                self.slots[0].close = True
                self.slots[0].refuse(factory.later("too-slow", "this took too long here"))
        elif self._begun_s is not None:
            if now_s - self._begun_s >= limits.request_s:
                factory.counters.timeouts += 1
                self.refuse(Problem(408, "too-slow", f"no whole request in {limits.request_s:g} s", close=True))
        elif now_s - self._active_s >= limits.idle_s:
            factory.counters.idle_closed += 1
            self._finish(linger=False)

    @property
    def _transport(self) -> Any:
        return self.transport


class HttpConnectionFactory(Factory):
    """Knows the open connections, bounds and sweeps them. Subclasses make them.

    Args:
        limits: bounds.
        counters: plain numbers, read elsewhere.
        clock: the reactor; the sweep runs from `startFactory` to `stopFactory`.
    Attributes:
        now_s: the clock as of the last sweep, good enough for deadlines.
        nearly_full: answers ask their connections to end, so that there is room for others.
    """

    log = Logger()
    noisy = False

    def __init__(self, limits: DoorLimits, counters: DoorCounters, clock: Clock) -> None:
        self.limits = limits
        self.counters = counters
        self.now_s = clock.seconds()
        self.nearly_full = False
        self._clock = clock
        self._connections: set[HttpConnection] = set()
        self._sweep_call: Any = None
        self._emptied: Deferred[None] | None = None
        self._turn = 0
        self._nearly = limits.connections - limits.connections // 10
        self._refused_at_once = limits.connections + max(1, limits.connections // 20)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection from `addr`, which means nothing: identity is in the token."""
        raise NotImplementedError

    def startFactory(self) -> None:
        """Begins to sweep."""
        self._sweep()

    def stopFactory(self) -> None:
        """Ends the sweep; open connections stay until `close_all`."""
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None

    def admits(self, connection: HttpConnection) -> bool:
        """Counts a new connection in; False when it is one too many."""
        self.counters.connections += 1
        self._connections.add(connection)
        self._note_count()
        if len(self._connections) <= self.limits.connections:
            return True
        self.counters.connections_refused += 1
        return False

    @property
    def overrun(self) -> bool:
        """So many are being refused that there is no room to tell them."""
        return len(self._connections) > self._refused_at_once

    def left(self, connection: HttpConnection) -> None:
        """Counts a connection out."""
        self._connections.discard(connection)
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
