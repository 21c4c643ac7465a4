"""Parts of the agents' door for tests: everything that a push meets, under the test's hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from agent.sample import Sample
from agent.wire import encode_batch, encode_sample
from aggregator.addresses import Proxies, parse_networks
from aggregator.agents_door import AgentsDoor, AgentsDoorFactory
from aggregator.decode import Push
from aggregator.door_parts import DoorLimits, DoorParts
from aggregator.problems import Problem

NOW_S = 1_790_000_000.0
TS = 1_789_999_980
VM = "6f9c2b1e-0000-4b1e-8d2a-3c4d5e6f7a8b"
OTHER_VM = "web-2"
TOKEN = f"token-of-{VM}"


def sample(ts: int = TS, **figures: Any) -> Sample:
    """A sample of a quiet VM."""
    known: dict[str, Any] = {"cpu_busy_ratio": 0.03, "mem_total_bytes": 8 << 30, "mem_used_bytes": 1 << 30}
    return Sample(ts=ts, **(known | figures))


def push_body(*samples: Sample, vm: str = VM, seq: int = 1, boot: str = "b1", interval_s: int = 60) -> bytes:
    """The body that an agent would send."""
    texts = [encode_sample(one) for one in samples or (sample(),)]
    return encode_batch(vm=vm, boot=boot, seq=seq, sent_s=NOW_S, interval_s=interval_s, samples=texts)


def request(
    body: bytes | None = None,
    *,
    method: str = "POST",
    path: str = "/v1/samples",
    drop: tuple[str, ...] = (),
    raw_headers: bytes = b"",
    **headers: str,
) -> bytes:
    """Bytes of a request that is right but for what is given; `fallow_vm="x"` sets `fallow-vm`."""
    body = push_body() if body is None else body
    known = {
        "host": "aggregator:8899",
        "authorization": f"Bearer {TOKEN}",
        "fallow-vm": VM,
        "content-type": "application/json",
        "content-length": str(len(body)),
    }
    known |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in known.items() if name not in drop)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n" + raw_headers + b"\r\n" + body


class Added(NamedTuple):
    """What a fake buffer says of a push."""

    stored: int
    duplicate: int = 0
    conflict: int = 0


class FakeKeys:
    """A token of a VM is `token-of-VM`, generation 1; `token-2-of-VM` is generation 2."""

    def __init__(self) -> None:
        self.asked = 0

    def verify(self, vm_id: str, token: bytes, /) -> int | None:
        self.asked += 1
        return {f"token-of-{vm_id}": 1, f"token-2-of-{vm_id}": 2}.get(token.decode("latin-1"))


@dataclass
class FakeRevocations:
    """Refuses what `reasons` names."""

    reasons: dict[tuple[str, int], str] = field(default_factory=dict)

    def refuses(self, vm_id: str, generation: int, /) -> str | None:
        return self.reasons.get((vm_id, generation))


@dataclass
class FakeJournal:
    """Durable at once, or when the test says so."""

    at_once: bool = True
    error: Exception | None = None
    breaks: Exception | None = None
    queued_bytes: int = 0
    payloads: list[bytes] = field(default_factory=list)
    waiting: list[Callable[[Exception | None], None]] = field(default_factory=list)

    def append(self, payload: bytes, done: Callable[[Exception | None], None], /) -> None:
        if self.breaks is not None:
            raise self.breaks
        self.payloads.append(payload)
        if self.at_once:
            done(self.error)
        else:
            self.waiting.append(done)

    def commit(self, error: Exception | None = None) -> None:
        """Settles everything that waits."""
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(error)


@dataclass
class FakeBuffer:
    """Takes everything and says what `answers` says, else that all is stored."""

    refusal: Problem | None = None
    breaks: Exception | None = None
    answers: list[Added] = field(default_factory=list)
    pushes: list[Push] = field(default_factory=list)

    def heard_between(self, from_s: float, to_s: float, /) -> int:
        """How many VMs had their newest push taken between two times of our clock, Unix seconds."""
        return len({push.vm for push in self.pushes}) if from_s <= NOW_S <= to_s else 0

    def admit(self, push: Push, received_s: float, /) -> Problem | None:
        return self.refusal

    def add(self, push: Push, received_s: float, /) -> Added:
        if self.breaks is not None:
            raise self.breaks
        self.pushes.append(push)
        return self.answers.pop(0) if self.answers else Added(push.count)


class Answer(NamedTuple):
    """One response, taken apart."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The body as JSON."""
        document: dict[str, Any] = json.loads(self.body)
        return document

    @property
    def reason(self) -> str:
        """Last part of a problem's type."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.document["status"] == self.status
        return str(self.document["type"]).removeprefix("urn:fallow:problem:")


def answers_in(data: bytes) -> list[Answer]:
    """All responses in `data`; fails where something else is in it."""
    found = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        assert separator, f"a response without an end: {data!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", "0"))
        assert len(rest) >= length
        found.append(Answer(int(status), headers, rest[:length]))
        data = rest[length:]
    return found


class Bench:
    """A door with fake parts: `connect` opens connections, `clock` moves time."""

    def __init__(self, *, proxies: Sequence[str] = (), **limits: Any) -> None:
        self.clock = Clock()
        self.keys = FakeKeys()
        self.revocations = FakeRevocations()
        self.journal = FakeJournal()
        self.buffer = FakeBuffer()
        self.unready: str | None = None
        self.leaving: str | None = None
        self.enrolments: list[bytes] = []
        self.peers: list[str] = []
        self.enroll_answer: Callable[[], Deferred[bytes]] = lambda: succeed(b'{"vm": "a"}')
        self.rotations: list[tuple[str, int]] = []
        self.parts = DoorParts(
            keys=self.keys,
            revocations=lambda: self.revocations,
            journal=self.journal,
            buffer=self.buffer,
            enroll=self._enroll,
            rotate=self._rotate,
            ready=lambda: self.unready,
            leaving=lambda: self.leaving,
            raw_retention_s=14 * 86400.0,
            clock=lambda: NOW_S,
            limits=DoorLimits(**limits),
            proxies=Proxies(parse_networks(list(proxies))),
        )
        self.counters = self.parts.counters
        self.factory = AgentsDoorFactory(self.parts, self.clock)
        self.factory.startFactory()

    def _enroll(self, body: bytes, peer: str) -> Deferred[bytes]:
        self.enrolments.append(body)
        self.peers.append(peer)
        return self.enroll_answer()

    def _rotate(self, vm: str, generation: int) -> Deferred[bytes]:
        self.rotations.append((vm, generation))
        return succeed(b'{"vm": "%b", "token": "new"}' % vm.encode())

    def connect(self, host: str | None = None) -> Line:
        """A new connection, from `host`."""
        address: Any = None if host is None else IPv4Address("TCP", host, 1024)
        line = Line(self.factory.buildProtocol(address))
        line.door.makeConnection(line.transport)  # type: ignore[no-untyped-call]
        return line

    def ask(self, data: bytes) -> Answer:
        """The one answer to `data` on a connection of its own."""
        line = self.connect()
        line.send(data)
        (answer,) = line.answers()
        return answer


class Line:
    """One connection and its transport."""

    def __init__(self, door: AgentsDoor) -> None:
        self.door = door
        self.transport: Any = StringTransport()  # type: ignore[no-untyped-call]

    def send(self, data: bytes, *, piece_bytes: int | None = None) -> None:
        """Hands bytes to the door, in pieces as TCP might."""
        for start in range(0, len(data), piece_bytes or max(1, len(data))):
            self.door.dataReceived(data[start : start + (piece_bytes or len(data))])

    def answers(self) -> list[Answer]:
        """Everything answered so far."""
        return answers_in(self.sent)

    @property
    def sent(self) -> bytes:
        """Every byte the door has sent."""
        sent: bytes = self.transport.value()
        return sent

    @property
    def closed(self) -> bool:
        """The door has ended the connection."""
        return bool(self.transport.disconnecting)

    @property
    def aborted(self) -> bool:
        """The door has dropped the connection with whatever was still to be sent."""
        return bool(self.transport.disconnected)
