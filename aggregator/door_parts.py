"""What the agents' door is given: its parts, bounds and counters. No I/O; the service puts them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from aggregator.addresses import NO_PROXIES, Proxies
from aggregator.decode import DecodeLimits, Push
from aggregator.http import HttpLimits
from aggregator.problems import Problem

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

_RESERVED_FDS = 256  # journal, stores of this process, fleet database, workers' pipes, the admin door


class Clock(Protocol):
    """The part of a reactor that the door needs: `IReactorTime`, as a type checker understands it."""

    def seconds(self) -> float:
        """A clock that never goes back."""

    def callLater(self, delay: float, callable: Callable[..., Any], /, *args: object) -> Any:
        """Calls after `delay` seconds, unless what it returns is cancelled."""


class TokenKeys(Protocol):
    """Checks tokens without a look-up."""

    def verify(self, vm_id: str, token: bytes, /) -> int | None:
        """Generation of a token that is right for this VM, else None; never raises."""


class Revocations(Protocol):
    """Which tokens count no longer."""

    def refuses(self, vm_id: str, generation: int, /) -> str | None:
        """Why a right token is refused all the same (`revoked`, `identity-conflict`, …), else None."""


class Journal(Protocol):
    """Makes records durable, many at a time."""

    @property
    def queued_bytes(self) -> int:
        """What waits for the disk."""

    def append(self, payload: bytes, done: Callable[[Exception | None], None], /) -> None:
        """Calls `done` on the reactor's thread: None once the record is on disk, else why it is not."""


class Added(Protocol):
    """What became of the samples of one push; the three add up to its count."""

    @property
    def stored(self) -> int:
        """Samples that are new."""

    @property
    def duplicate(self) -> int:
        """Samples that were here already, the same."""

    @property
    def conflict(self) -> int:
        """Samples whose `ts` was here already with other figures: the first stays."""


class Buffer(Protocol):
    """Holds what is durable but not yet in the stores."""

    def heard_between(self, from_s: float, to_s: float, /) -> int:
        """How many VMs had their newest push taken between two times of our clock, Unix seconds."""

    def admit(self, push: Push, received_s: float, /) -> Problem | None:
        """Before the journal: why the push cannot be taken now (full 503, identity conflict 409)."""

    def add(self, push: Push, received_s: float, /) -> Added:
        """After the journal; never refuses."""


def connections_for(fd_limit: int) -> int:
    """Connections to hold at once under a limit of `fd_limit` descriptors."""
    return max(1, fd_limit - min(_RESERVED_FDS, fd_limit // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """Bounds of the door.

    Attributes:
        connections: open at once; a connection above is answered 503 and closed.
        per_address: the same of one address, but for loopback and proxies: 429.
        per_token: pushes of one VM on their way to the disk; one above is answered 429.
        pipelined: requests of one connection without an answer; above, reading pauses.
        request_s: from a request's first byte to its last, and from there to its answer.
        idle_s: a connection without a request is closed after this.
        linger_s: how long what still comes after a refusal is read and thrown away, so that the answer arrives.
        farewell_s: how long the answers that connections wait for are waited for at the end of the program.
        sweep_s: how often the deadlines are looked at; each may be late by this.
        queued_bytes: pushes are answered 503 while more than this waits for the disk.
        unfinished_bytes: bodies of requests that are not whole yet, of all connections; above, large ones are 503.
        enrolments: under way at once; above, 429.
        retry_after_s: smallest wait asked for with 429 and 503; some are told up to three times it, to spread them.
    """

    connections: int = 10_000
    per_address: int = 1_000
    per_token: int = 32
    pipelined: int = 16
    request_s: float = 30.0
    idle_s: float = 150.0
    linger_s: float = 5.0
    farewell_s: float = 2.0
    sweep_s: float = 1.0
    queued_bytes: int = 64 << 20
    unfinished_bytes: int = 256 << 20
    enrolments: int = 64
    retry_after_s: int = 5
    http: HttpLimits = field(default_factory=HttpLimits)
    decode: DecodeLimits = field(default_factory=DecodeLimits)


@dataclass(slots=True)
class DoorCounters:
    """Plain numbers that only grow, but for `connections_open`; read when `/metrics` is asked for."""

    connections_open: int = 0
    connections: int = 0
    connections_refused: int = 0
    requests: int = 0
    pushes: int = 0
    samples: int = 0
    duplicates: int = 0
    conflicts: int = 0
    samples_too_old: int = 0
    unknown_fields: int = 0
    agents_dropped: int = 0
    enrolments: int = 0
    rotations: int = 0
    outdated_tokens: int = 0
    timeouts: int = 0
    idle_closed: int = 0
    errors: int = 0
    rejected_by_reason: dict[str, int] = field(default_factory=dict)

    def rejected(self, reason: str) -> None:
        """Counts a request answered with a problem."""
        self.rejected_by_reason[reason] = self.rejected_by_reason.get(reason, 0) + 1


@dataclass(slots=True, kw_only=True)
class DoorParts:
    """Everything the door works with.

    Attributes:
        enroll: body of an enrolment, address it comes from → body of a 201, or a failure with `Refused`.
        rotate: VM and generation of its token → body of a 200, or a failure with `Refused`.
        ready: None, or why pushes cannot be taken just now.
        raw_retention_s: samples older than this are rejected `too_old`, the others of the push are stored.
        clock: Unix time, seconds.
        proxies: whose `X-Forwarded-For` is believed.
        is_outdated: whether a token that verified is of a key that is to go.
        leaving: None, or why no VM should be sent here any more, though pushes are taken.
    """

    keys: TokenKeys
    revocations: Callable[[], Revocations]
    journal: Journal
    buffer: Buffer
    enroll: Callable[[bytes, str], Deferred[bytes]]
    rotate: Callable[[str, int], Deferred[bytes]]
    ready: Callable[[], str | None]
    raw_retention_s: float
    clock: Callable[[], float]
    counters: DoorCounters = field(default_factory=DoorCounters)
    limits: DoorLimits = field(default_factory=DoorLimits)
    proxies: Proxies = NO_PROXIES
    is_outdated: Callable[[bytes], bool] = lambda _token: False
    leaving: Callable[[], str | None] = lambda: None
