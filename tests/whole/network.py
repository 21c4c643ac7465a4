"""Connections in memory: slow, cut, silent, and with a proxy in between that now and then sends a request once more."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from greenlet import getcurrent  # type: ignore[import-untyped]
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from tests.whole.hub import Call, Hub, Process
from tests.whole.ledger import Ledger, Sent

T = TypeVar("T")

_CLIENT = ("127.0.0.1", 40_000)
_SERVER = ("127.0.0.1", 8_899)


class Host(Protocol):
    """The aggregator, as the network sees it."""

    @property
    def process(self) -> Process | None: ...
    def accept(self) -> Any | None:
        """A protocol for a new connection; None: nobody listens."""


@dataclass(slots=True, kw_only=True)
class Weather:
    """How the network is just now. Ratios are of requests.

    Attributes:
        cut: VMs that nothing reaches and that reach nothing.
        request_lost, answer_lost: the connection ends before, or after, the door had the request.
        silent: of the lost ones, those of which neither side is told.
        doubled: the request comes once more, some time later, on another connection.
        pieces: the request comes in two pieces.
    """

    latency_s: float = 0.002
    cut: set[str] = field(default_factory=set)
    request_lost: float = 0.0
    answer_lost: float = 0.0
    silent: float = 0.5
    doubled: float = 0.0
    pieces: float = 0.0


class Ordered(dict[T, None]):
    """A set that is gone through in the order in which things were put in: that of a set depends on addresses."""

    def add(self, item: T) -> None:
        """At the end, if it is not there."""
        self[item] = None

    def discard(self, item: T) -> None:
        """Out, if it is there."""
        self.pop(item, None)


@dataclass(slots=True)
class _Request:
    """Bytes of one request as they come in."""

    sent: Sent | None
    data: bytes = b""
    arrived_s: float | None = None


class Network:
    """Between the agents and the one aggregator."""

    def __init__(self, hub: Hub, host: Host, ledger: Ledger) -> None:
        self.hub = hub
        self.host = host
        self.ledger = ledger
        self.weather = Weather()
        self.recorded: list[tuple[Sent, bytes]] = []
        self.counts = {"requests": 0, "answers": 0, "lost": 0, "doubled": 0}
        self.lines = Ordered[Line]()

    def connect(self, vm: str, client: Process, timeout_s: float) -> Line:
        """A connection of an agent, from one of its fibers. Raises OSError as a socket does."""
        client.sleep(self.weather.latency_s)
        if vm in self.weather.cut:
            client.sleep(timeout_s)
            raise TimeoutError("timed out")
        protocol = self.host.accept()
        if protocol is None:
            raise ConnectionRefusedError(111, "Connection refused")
        return Line(self, vm, client, protocol, timeout_s)

    def again(self, sent: Sent, data: bytes) -> None:
        """A request that was seen before comes once more; nobody waits for its answer."""
        protocol = self.host.accept()
        if protocol is None:
            return
        self.counts["doubled"] += 1
        server = ServerSide(self, protocol, lambda _data: None, lambda: None, lambda: None)
        server.begins(sent, data)
        server.deliver(data)


class ServerSide:
    """The transport that the door writes to.

    Args:
        answer: takes what the door sends. ended: told that the door has closed.
        unknown: told that bytes came to a machine that knows nothing of the connection any more.
    """

    def __init__(
        self,
        network: Network,
        protocol: Any,
        answer: Callable[[bytes], None],
        ended: Callable[[], None],
        unknown: Callable[[], None],
    ) -> None:
        self._network = network
        self._protocol = protocol
        self._answer = answer
        self._ended = ended
        self._unknown = unknown
        self._requests: deque[_Request] = deque()
        self._coming: _Request | None = None
        self.is_open = True
        process = network.host.process
        assert process is not None
        self.process = process
        protocol.makeConnection(self)

    def begins(self, sent: Sent | None, data: bytes) -> None:
        """The next request, all of it, is on its way."""
        self._coming = _Request(sent, data)

    def deliver(self, data: bytes) -> None:
        """Bytes come in."""
        if not self.process.alive and self._network.host.process is not None:
            self._unknown()
        if not self.is_open or not self.process.alive:
            return
        coming = self._coming
        if coming is not None:
            coming.data = coming.data[len(data) :]
            if not coming.data:
                coming.arrived_s = self._network.hub.now_s
                self._requests.append(coming)
                if coming.sent is not None:
                    self._network.ledger.arrived(coming.sent)
                self._coming = None
        self._protocol.dataReceived(data)

    def lose(self) -> None:
        """The other side is gone, and this one is told."""
        self._close(ConnectionLost())

    # What the protocol calls.

    def write(self, data: bytes) -> None:
        if self._requests:
            request = self._requests.popleft()
            status, body = int(data[9:12]), data.partition(b"\r\n\r\n")[2]
            if request.sent is not None:
                assert request.arrived_s is not None
                self._network.ledger.answered(request.sent, status, body, arrived_s=request.arrived_s)
            self._network.counts["answers"] += 1
        self._answer(data)

    def loseConnection(self) -> None:
        self.process.callFromThread(self._close, ConnectionDone())
        self._ended()

    def abortConnection(self) -> None:
        self.process.callFromThread(self._close, ConnectionLost())
        self._ended()

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Nothing here makes it pause."""

    def unregisterProducer(self) -> None:
        """As above."""

    def pauseProducing(self) -> None:
        """One request at a time comes anyway."""

    def resumeProducing(self) -> None:
        """As above."""

    def _close(self, reason: Exception) -> None:
        if self.is_open and self.process.alive:
            self.is_open = False
            self._protocol.connectionLost(Failure(reason))  # type: ignore[no-untyped-call]


class Line:
    """An agent's end of a connection: as much of a socket as `http.client` and `agent.link` use."""

    family = 2

    def __init__(self, network: Network, vm: str, client: Process, protocol: Any, timeout_s: float) -> None:
        self._network = network
        self._vm = vm
        self._client = client
        self._timeout_s = timeout_s
        self._pending = b""
        self._out = b""
        self._fate = ""
        self._gone: OSError | None = None
        self._ended = False
        self._closed = False
        self._wake: Call | None = None
        self._due_s = 0.0
        self.sent: Sent | None = None
        self._server = ServerSide(network, protocol, self._on_answer, self._on_end, self.reset)
        network.lines.add(self)

    # As a socket.

    def sendall(self, data: bytes) -> None:
        if self._gone is not None:
            raise BrokenPipeError(32, "Broken pipe")
        self._out += data

    def makefile(self, mode: str) -> io.BufferedReader:
        assert mode == "rb"
        return io.BufferedReader(_Reading(self))

    def getpeername(self) -> tuple[str, int]:
        return _SERVER

    def getsockname(self) -> tuple[str, int]:
        return _CLIENT

    def setsockopt(self, *options: object) -> None:
        """None matters here."""

    def shutdown(self, how: int) -> None:
        self._gone = ConnectionAbortedError(103, "Software caused connection abort")
        self._rouse()

    def close(self) -> None:
        if not self._closed and self._vm not in self._network.weather.cut:
            self._at_server(self._network.weather.latency_s, self._server.lose)
        self._closed = True
        self._network.lines.discard(self)

    def receive(self, most_bytes: int) -> bytes:
        """What has come, waiting for it if need be; b"" at the end. Raises OSError."""
        if self._out:
            self._send()
        until_s = self._network.hub.now_s + self._timeout_s
        while not self._pending:
            if self._gone is not None:
                raise self._gone
            if self._ended:
                return b""
            left_s = until_s - self._network.hub.now_s
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._wake = self._client.callLater(left_s, getcurrent().switch)
            self._network.hub.give_way()
        data, self._pending = self._pending[:most_bytes], self._pending[most_bytes:]
        return data

    # What happens on the way.

    def _send(self) -> None:
        """A whole request goes out, and meets its fate."""
        network, weather, rng = self._network, self._network.weather, self._network.hub.rng
        data, self._out = self._out, b""
        network.counts["requests"] += 1
        sent = self.sent
        if sent is not None:
            network.recorded.append((sent, data))
            if weather.doubled and rng.random() < weather.doubled:
                network.hub.call_later(rng.choice((0.01, 1.0, 30.0, 600.0)), network.again, sent, data)
        self._fate = ""
        if self._vm in weather.cut:
            self._fate = "request silent"
        else:
            drawn = rng.random()
            if drawn < weather.request_lost + weather.answer_lost:
                which = "request" if drawn < weather.request_lost else "answer"
                self._fate = f"{which} {'silent' if rng.random() < weather.silent else 'told'}"
        if self._fate.startswith("request"):
            self._lose(data[: rng.randrange(len(data))] if rng.random() < 0.5 else b"")
            return
        self._server.begins(sent, data)
        if weather.pieces and rng.random() < weather.pieces:
            cut = rng.randrange(1, len(data))
            self._at_server(weather.latency_s, self._server.deliver, data[:cut])
            self._at_server(weather.latency_s + rng.choice((0.0, 0.5, 15.0)), self._server.deliver, data[cut:])
        else:
            self._at_server(weather.latency_s * rng.choice((1.0, 1.0, 3.0)), self._server.deliver, data)

    def _lose(self, head: bytes) -> None:
        self._network.counts["lost"] += 1
        weather = self._network.weather
        if head:
            self._at_server(weather.latency_s, self._server.deliver, head)
        if self._fate.endswith("told"):
            self._at_server(2 * weather.latency_s, self._server.lose)
            self._break()

    def _break(self) -> None:
        self._gone = ConnectionResetError(104, "Connection reset by peer")
        self._rouse()

    def _at_server(self, delay_s: float, work: Callable[..., object], *args: object) -> None:
        """In the order in which it was sent."""
        hub = self._network.hub
        self._due_s = max(self._due_s, hub.now_s + delay_s)
        hub.call_later(self._due_s - hub.now_s, work, *args)

    def _on_answer(self, data: bytes) -> None:
        if self._fate.startswith("answer") or self._vm in self._network.weather.cut:
            self._network.counts["lost"] += 1
            if self._fate.endswith("told"):
                self._client.callLater(self._network.weather.latency_s, self._break)
            return
        self._client.callLater(self._network.weather.latency_s, self._take, data)

    def _take(self, data: bytes) -> None:
        self._pending += data
        self._rouse()

    def _on_end(self) -> None:
        if self._vm not in self._network.weather.cut:
            self._client.callLater(self._network.weather.latency_s, self._finish)

    def _finish(self) -> None:
        self._ended = True
        self._rouse()

    def reset(self) -> None:
        """The other machine died; its kernel, or the next one, says so."""
        self._client.callLater(self._network.weather.latency_s, self._break)

    def _rouse(self) -> None:
        wake, self._wake = self._wake, None
        if wake is not None and wake.active() and self._client.alive:
            self._client.callLater(0.0, wake.run)


class _Reading(io.RawIOBase):
    """Reads a line; closing it leaves the line open, as with a socket's file."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._line.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)
