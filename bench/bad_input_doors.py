"""The agents' door without a socket, and answers taken apart: what `bench bad-input` asks most of its inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from aggregator.agents_door import AgentsDoorFactory
from aggregator.buffer import Buffer
from aggregator.door_parts import DoorCounters, DoorParts
from aggregator.enrolment import decode_enrolment
from aggregator.problems import Problem, Refused
from aggregator.tokens import Revocations, TokenKeys
from bench.bad_input_maker import CLONED_VM, REVOKED_VM

KEYS: Final[Mapping[str, bytes]] = {"k1": b"bad-input" * 4}
REVOKED: Final = {REVOKED_VM: (2, "revoked"), CLONED_VM: (2, "identity-conflict")}
_RAW_RETENTION_S: Final = 14 * 86_400.0
_BUFFER_ROWS: Final = 100_000
_FLUSH_EVERY_ROWS: Final = 50_000
_TICK_S: Final = 0.001


class AnswerError(ValueError):
    """What came back is no HTTP answer of ours; the text says why."""


def answers_in(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each whole answer in `data`; one that is cut off at the end is left out.

    Raises: AnswerError: it is not an answer, or a problem without the document that belongs to it.
    """
    found = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 "[: len(head)]):
            raise AnswerError(f"not an answer: {data[:100]!r}")
        if not separator:
            break
        status = int(head[9:12])
        length = _length_of(head)
        if len(rest) < length:
            break
        body, data = rest[:length], rest[length:]
        if status == 100:  # "go on" is no answer yet
            continue
        if status >= 400:
            _check_problem(status, head, body)
        found.append((status, body))
    return found


def _length_of(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length: ")
    return int(lowered[at + 18 :].partition(b"\r\n")[0]) if at >= 0 else 0


def _check_problem(status: int, head: bytes, body: bytes) -> None:
    if b"application/problem+json" not in head:
        raise AnswerError(f"a {status} that is not application/problem+json: {head!r}")
    if json.loads(body)["status"] != status:
        raise AnswerError(f"a {status} whose document says otherwise: {body!r}")


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def writeSequence(self, pieces: list[bytes]) -> None:
        self.written.extend(pieces)

    def loseConnection(self) -> None:
        self.closed = True

    def loseWriteConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.closed = True

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Nothing here is ever full."""

    def unregisterProducer(self) -> None:
        """As above."""

    def pauseProducing(self) -> None:
        """Everything of a connection is handed over, whatever it says."""

    def resumeProducing(self) -> None:
        """As above."""

    def startReading(self) -> None:
        """As above."""

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 50_000)

    def getHost(self) -> IPv4Address:
        return self.getPeer()


class _Journal:
    """Durable at once."""

    queued_bytes = 0

    def append(self, _payload: bytes, done: Callable[[Exception | None], None], /) -> None:
        done(None)


class Doors:
    """The real door with its real parts but for journal and catalogue, in this process.

    Args: now_s: Unix time of the run.
    """

    def __init__(self, now_s: float) -> None:
        revocations = Revocations(REVOKED)
        self.keys = TokenKeys(KEYS)
        self.counters = DoorCounters()
        self._buffer = Buffer(max_rows=_BUFFER_ROWS)
        self._clock = Clock()
        self._factory = AgentsDoorFactory(
            DoorParts(
                keys=self.keys,
                revocations=lambda: revocations,
                journal=_Journal(),
                buffer=self._buffer,
                enroll=_enroll,
                rotate=_rotate,
                ready=lambda: None,
                raw_retention_s=_RAW_RETENTION_S,
                clock=lambda: now_s,
                counters=self.counters,
            ),
            self._clock,
        )
        self._factory.startFactory()

    def ask(self, pieces: list[bytes]) -> bytes:
        """Everything that is answered to one connection's bytes, which come as given."""
        door = self._factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50_000))  # type: ignore[arg-type]
        transport = _Transport()
        door.makeConnection(transport)
        for piece in pieces:
            door.dataReceived(piece)
        door.connectionLost()
        self._clock.advance(_TICK_S)
        if self._buffer.unstored_rows > _FLUSH_EVERY_ROWS:
            for vm in self._buffer.take():
                self._buffer.stored(vm)
        return b"".join(transport.written)


def _enroll(body: bytes, *_more: Any) -> Deferred[bytes]:
    try:
        decode_enrolment(body)
        raise Refused(Problem(401, "join-token", "nobody is let in here"))
    except Refused:
        return fail()


def _rotate(_vm: str, _generation: int) -> Deferred[bytes]:
    return fail(Refused(Problem(401, "revoked", "nobody gets another token here")))
