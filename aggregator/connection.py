"""HTTP connections of agents: order of answers, deadlines, back-pressure, the end of a connection.

`HttpConnection` is the shell around `aggregator.http`; what requests mean is up to its subclass. What all connections
of a door have in common is in `aggregator.connections`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from aggregator.answers import render_problem
from aggregator.connections import HttpConnectionFactory, failure_now
from aggregator.http import Request, RequestParser
from aggregator.problems import Problem, Refused
from aggregator.shared_reads import SharedReading

if TYPE_CHECKING:
    from socket import socket

# No agent's push of an hour is as large: those come through also while strangers fill what there is for the others.
_SMALL_BODY_BYTES = 64 << 10
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
        peer: address at the other end, which may be that of a proxy; empty where there is none.
        group: what `peer` is counted as; empty: it is not.
    """

    factory: HttpConnectionFactory

    def __init__(self, factory: HttpConnectionFactory) -> None:
        self.factory = factory
        self.closes = False
        self.slots: deque[Slot] = deque()
        self.peer = ""
        self.group = ""
        self._is_new = True
        self._parser = RequestParser(factory.limits.http)
        self._plain = False
        self._socket: socket | None = None
        self._reader: Any = None  # the transport, or who reads for it
        self._active_s = factory.now_s
        self._begun_s: float | None = None
        self._stuck_s: float | None = None
        self._closing_s: float | None = None
        self._crowded = False
        self._gone = False
        self._unfinished_bytes = 0

    def on_request(self, request: Request) -> None:
        """Sees to it that one slot is appended and settled, now or later. Raises Refused: the answer."""
        raise NotImplementedError

    # The transport calls these.

    def connectionMade(self) -> None:
        """Takes the connection, or refuses it when there are too many."""
        self._reader = transport = self._transport
        transport.registerProducer(self, True)
        if isinstance(transport, Connection):  # and not one wrapped in TLS
            self._plain = True
            transport.setTcpNoDelay(True)
            self._socket = transport.getHandle()
        problem = self.factory.admit(self)
        if problem is None:
            if self._plain and self.factory.reads is not None:
                self._reader = SharedReading(self.factory.reads, transport, self.dataReceived)
            return
        if self.factory.is_overrun(self):
            self.abort()
        else:
            self.closes = True
            slot = self.new_slot()
            slot.linger = True
            slot.refuse(problem)

    def dataReceived(self, data: bytes) -> None:
        """Feeds the parser and acts on what is complete. Nothing that goes wrong here may reach the reactor."""
        if self.closes:
            return
        if self._begun_s is None:
            self._begun_s = self.factory.now_s
        try:
            parser = self._parser
            events = parser.feed(data)
            if self._unfinished_bytes or not parser.between:
                self._count_unfinished(parser.unfinished_bytes)
            if not events:
                self._bound_unfinished()
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
                self._reader.pauseProducing()
        except Exception:
            self.factory.note_failure("a connection failed", failure_now())
            self.refuse(_BROKEN)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        """The connection is gone; what was on its way to the disk is stored all the same."""
        self._gone = True
        self._socket = None
        if self._reader is not self.transport:
            self._reader.closed()
        self._count_unfinished(0)
        self.factory.left(self)

    def pauseProducing(self) -> None:
        """The peer does not read its answers: nothing more is read from it until it does."""
        if self._stuck_s is None:
            self._stuck_s = self.factory.now_s
        self._reader.pauseProducing()

    def resumeProducing(self) -> None:
        """The peer has read its answers."""
        self._stuck_s = None
        if not self._crowded and not self._gone:
            self._reader.resumeProducing()

    def stopProducing(self) -> None:
        """The transport has ended; `connectionLost` does the rest."""

    def _bound_unfinished(self) -> None:
        """A body is held before anybody knows whose it is: all of them together must fit into memory."""
        factory = self.factory
        if self._unfinished_bytes > _SMALL_BODY_BYTES and factory.unfinished_bytes > factory.limits.unfinished_bytes:
            problem = factory.later("unfinished", "too many large requests are under way")
            self.refuse(replace(problem, close=True))

    def _count_unfinished(self, held_bytes: int) -> None:
        self.factory.unfinished_bytes += held_bytes - self._unfinished_bytes
        self._unfinished_bytes = held_bytes

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
        self._is_new = False
        self._write(answers[0] if len(answers) == 1 else b"".join(answers))
        if slot.close:
            self._finish(linger=slot.linger)
        elif self._crowded and len(slots) <= self.factory.limits.pipelined // 2:
            self._crowded = False
            if self._stuck_s is None:
                self._reader.resumeProducing()

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
            self._leave_reads()
            if linger and self._plain:
                transport.loseWriteConnection()
                transport.startReading()
            else:
                transport.loseConnection()

    def _leave_reads(self) -> None:
        if self._reader is not self.transport:
            self._reader.leave()
            self._reader = self.transport

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
        self._leave_reads()
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
        # Who connects has something to ask; before that, a handshake at a byte a second would last as long.
        elif now_s - self._active_s >= (limits.request_s if self._is_new else limits.idle_s):
            factory.counters.idle_closed += 1
            self._finish(linger=False)

    @property
    def _transport(self) -> Any:
        return self.transport
