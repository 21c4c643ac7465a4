"""From the spool to the aggregator: when to push, what each answer means, how long to wait after a failure.

The pusher is handed its connection, clock and randomness; `agent.link` holds the socket.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from typing import Protocol

from agent.spool import Chunk, Spool
from agent.wire import encode_batch

log = logging.getLogger(__name__)

MAX_SAMPLES_PER_PUSH = 500
# Below the limit of the wire: the head of the batch comes on top.
_MAX_PUSH_BYTES = 900_000
_BACKOFF_BASE_S = 1.0
_BACKOFF_CAP_S = 300.0
_RETRY_AFTER_CAP_S = 3600.0
_HOLD_S = 300.0
_QUARANTINE_FILES = 100
_DETAIL_CHARS = 300


class UnreachableError(Exception):
    """No answer came; the text says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the aggregator. `retry_after` is the header as it came."""

    status: int
    body: bytes
    retry_after: str | None = None


class Post(Protocol):
    """Sends one request. Raises UnreachableError: no answer."""

    def __call__(self, path: str, body: bytes, headers: Mapping[str, str]) -> Reply: ...


class Disposition(Enum):
    """What an answer means for the samples that were sent."""

    DONE = "stored, or refused for good one by one"
    POISON = "this batch will never be taken"
    UNAUTHORIZED = "kept until this VM is enrolled again"
    RETRY = "kept and sent again soon"
    HOLD = "kept; this is not an aggregator that understands us"


def disposition(status: int) -> Disposition:
    """The meaning of an HTTP status."""
    if 200 <= status < 300:
        return Disposition.DONE
    if status in (400, 413, 422):
        return Disposition.POISON
    if status in (401, 403, 409):
        return Disposition.UNAUTHORIZED
    if status in (408, 429) or status >= 500:
        return Disposition.RETRY
    return Disposition.HOLD


def push_offset_s(vm: str, interval_s: int) -> float:
    """When in each interval this VM pushes: stable, and even over all VMs. 0 < offset < interval.

    The edges are left free: a sample is made at the very start of an interval.
    """
    margin_s = min(1.0, interval_s / 10)
    share = int.from_bytes(hashlib.sha256(vm.encode()).digest()[:8]) / 2**64
    return margin_s + share * (interval_s - 2 * margin_s)


def next_slot_s(now_s: float, *, interval_s: int, offset_s: float) -> float:
    """Seconds from now to the next push, more than zero and at most one interval."""
    # The remainder of a tiny negative number rounds to the whole interval.
    return interval_s - (now_s - offset_s) % interval_s or float(interval_s)


def backoff_s(attempt: int, chance: float) -> float:
    """Full jitter: a random part of a bound that doubles with each attempt, from 1 s to 5 min.

    Args:
        attempt: failures in a row, from 1.
        chance: random, 0..1.
    """
    return chance * min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 30))


def hold_s(chance: float) -> float:
    """How long to leave alone what only a person can mend: 5 to 15 minutes, by chance."""
    return _HOLD_S * (1 + 2 * chance)


def retry_after_s(header: str | None, *, now_s: float) -> float:
    """Seconds that a Retry-After header asks for, at most an hour; 0 where it says nothing sensible."""
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        # A long row of digits is more than any cap, and more than int() likes.
        return min(_RETRY_AFTER_CAP_S, float(text[:9]))
    try:
        at_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError):
        return 0.0
    return min(_RETRY_AFTER_CAP_S, max(0.0, at_s - now_s))


class Quarantine:
    """Refused samples in a folder, a file each with the answer they got; the oldest files go.

    `total` counts what was put in, whether or not the disk took it.
    """

    def __init__(self, folder: Path, *, max_files: int = _QUARANTINE_FILES) -> None:
        self._folder = folder
        self._max_files = max_files
        self.total = 0

    def put(self, chunk: Chunk, *, status: int, detail: str, now_s: float) -> None:
        """Keeps the samples of `chunk`. Never raises: a full disk must not block the queue."""
        self.total += len(chunk.texts)
        text = json.dumps({"refused_s": now_s, "status": status, "detail": detail, "samples": list(chunk.texts)})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{int(now_s):012d}-{self.total:08d}.json").write_text(text + "\n", encoding="utf-8")
            for path in sorted(self._folder.glob("*.json"))[: -self._max_files]:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("quarantine: %s: %s", self._folder, error.strerror or error)


@dataclass(frozen=True, slots=True)
class Source:
    """A spool and the interval of the samples in it."""

    spool: Spool
    interval_s: int


class Pusher:
    """Sends what the spools hold, oldest first, one request each `step`.

    Args:
        sources: the spool that is being filled last; before it, what an earlier interval length left behind.
        post: the connection.
        token: this VM's token now; None: not enrolled.
        clock: Unix seconds.
        chance: random, 0..1.
        seq: number of the last push of this boot.
        dropped: samples given up so far, told to the aggregator with each push.

    Attributes:
        seq, acked_total, rejected_total, last_ack_s: as they say; samples are counted.
        trouble: why samples wait; None while pushes succeed.
        enrolment_needed: only a person can end the trouble, by enrolling this VM.
        changes: grows whenever any of these changed.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        post: Post,
        token: Callable[[], str | None],
        vm: str,
        boot: str,
        interval_s: int,
        quarantine: Quarantine,
        clock: Callable[[], float],
        chance: Callable[[], float],
        seq: int = 0,
        dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        self._sources = sources
        self._post = post
        self._token = token
        self._vm = vm
        self._boot = boot
        self._interval_s = interval_s
        self._quarantine = quarantine
        self._clock = clock
        self._chance = chance
        self._dropped = dropped
        self._offset_s = push_offset_s(vm, interval_s)
        self._limit = MAX_SAMPLES_PER_PUSH
        self._failures = 0
        self.seq = seq
        self.acked_total = 0
        self.rejected_total = 0
        self.last_ack_s: float | None = None
        self.trouble: str | None = None
        self.enrolment_needed = False
        self.changes = 0

    def until_slot_s(self) -> float:
        """Seconds to this VM's next turn in the interval."""
        return next_slot_s(self._clock(), interval_s=self._interval_s, offset_s=self._offset_s)

    def step(self) -> float:
        """Sends at most one request, or one and its repetition on a new connection.

        Returns: seconds to wait before the next call; 0 while a backlog drains.
        """
        try:
            found = self._oldest()
        except OSError as error:
            return self._failed(f"spool: {error}", 0.0)
        if found is None:
            return self.until_slot_s()
        source, chunk = found
        token = self._token()
        if token is None:
            return self._hold("not enrolled: run fallow-agent enroll", enrolment_needed=True)
        body, headers = self._request(source, chunk, token)
        try:
            reply = self._post("/v1/samples", body, headers)
        except UnreachableError as error:
            return self._failed(str(error), 0.0)
        return self._answered(reply, source, chunk)

    def _oldest(self) -> tuple[Source, Chunk] | None:
        for source in self._sources:
            chunk = source.spool.peek(max_samples=self._limit, max_bytes=_MAX_PUSH_BYTES)
            if chunk is not None:
                return source, chunk
        return None

    def _request(self, source: Source, chunk: Chunk, token: str) -> tuple[bytes, dict[str, str]]:
        body = encode_batch(
            vm=self._vm,
            boot=self._boot,
            seq=self.seq + 1,
            sent_s=self._clock(),
            interval_s=source.interval_s,
            samples=chunk.texts,
        )
        headers = {"Authorization": f"Bearer {token}", "Fallow-VM": self._vm, "Content-Type": "application/json"}
        if len(chunk.texts) > 1:
            body = _gzip(body)
            headers["Content-Encoding"] = "gzip"
        dropped_total = self._dropped()
        if dropped_total:
            headers["Fallow-Dropped"] = str(dropped_total)
        return body, headers

    def _answered(self, reply: Reply, source: Source, chunk: Chunk) -> float:
        match disposition(reply.status):
            case Disposition.DONE:
                return self._done(reply, source, chunk)
            case Disposition.POISON:
                return self._poisoned(reply, source, chunk)
            case Disposition.UNAUTHORIZED:
                return self._hold(f"{describe(reply)}: run fallow-agent enroll", enrolment_needed=True)
            case Disposition.RETRY:
                return self._failed(describe(reply), retry_after_s(reply.retry_after, now_s=self._clock()))
            case Disposition.HOLD:
                return self._hold(f"{describe(reply)}: is this an aggregator?", enrolment_needed=False)

    def _done(self, reply: Reply, source: Source, chunk: Chunk) -> float:
        rejected = rejected_count(reply)
        self.rejected_total += rejected
        self.acked_total += len(chunk.texts) - rejected
        self.last_ack_s = self._clock()
        self._limit = min(MAX_SAMPLES_PER_PUSH, self._limit * 2)
        self._settle(source, chunk)
        self._note(f"the aggregator rejected samples: {describe(reply)}" if rejected else None, enrolment_needed=False)
        return self._next_s()

    def _poisoned(self, reply: Reply, source: Source, chunk: Chunk) -> float:
        if len(chunk.texts) > 1:
            # Halving finds the sample that is refused; those beside it are stored on the way.
            self._limit = len(chunk.texts) // 2
            return 0.0
        self._quarantine.put(chunk, status=reply.status, detail=describe(reply), now_s=self._clock())
        self._settle(source, chunk)
        self._note(f"a sample was refused and put into quarantine: {describe(reply)}", enrolment_needed=False)
        return self._next_s()

    def _settle(self, source: Source, chunk: Chunk) -> None:
        source.spool.ack(chunk)
        self.seq += 1
        self._failures = 0

    def _next_s(self) -> float:
        return 0.0 if any(source.spool.depth for source in self._sources) else self.until_slot_s()

    def _failed(self, trouble: str, asked_s: float) -> float:
        self._failures += 1
        self._note(trouble, enrolment_needed=False)
        return asked_s + backoff_s(self._failures, self._chance())

    def _hold(self, trouble: str, *, enrolment_needed: bool) -> float:
        self._failures += 1
        self._note(trouble, enrolment_needed=enrolment_needed)
        return hold_s(self._chance())

    def _note(self, trouble: str | None, *, enrolment_needed: bool) -> None:
        if trouble != self.trouble:
            if trouble is None:
                log.info("pushes succeed again")
            else:
                log.warning("%s", trouble)
        self.trouble, self.enrolment_needed = trouble, enrolment_needed
        self.changes += 1


def describe(reply: Reply) -> str:
    """The status and the detail of an answer, for a person: one line, bounded, printable."""
    try:
        problem = json.loads(reply.body)
        detail = problem.get("detail") if isinstance(problem, dict) else None
    except (ValueError, RecursionError):
        detail = None
    if not isinstance(detail, str):
        detail = reply.body[:_DETAIL_CHARS].decode("utf-8", "replace")
    text = "".join(char if char.isprintable() else " " for char in detail[:_DETAIL_CHARS]).strip()
    return f"answer {reply.status}: {text}" if text else f"answer {reply.status}"


def rejected_count(reply: Reply) -> int:
    """How many samples a 2xx answer lists as rejected."""
    if reply.status != 200:
        return 0
    try:
        rejected = json.loads(reply.body).get("rejected", [])
        return len(rejected) if isinstance(rejected, list) else 0
    except (ValueError, AttributeError, RecursionError):
        return 0


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()
