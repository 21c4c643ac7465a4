"""Many VMs' batches over few keep-alive connections: what the simulator and the replay send with.

A VM keeps to one lane, and a lane sends one request at a time, so the batches of a VM arrive in order.
Lanes hold a few batches each; whoever produces more waits. A batch is encoded when it is sent, since
`sent_s` must be the clock of that moment and not of the queue.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from agent.connection import Address, Answer, BadAnswerError, Connection
from agent.wire import encode_batch

log = logging.getLogger(__name__)

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_REQUEST_TIMEOUT_S = 60.0
_LANE_DEPTH = 2
_BACKOFF_BASE_S = 0.1
_BACKOFF_CAP_S = 10.0
_REFUSALS_LOGGED = 5


class LoadError(Exception):
    """The fleet cannot go on; the text says why."""


class UnreachableError(LoadError):
    """Nobody answers at the aggregator's address, or it has only put off for too long."""


def backoff_s(attempt: int, retry_after_s: float | None, source: random.Random) -> float:
    """Pause before a retry: full jitter over a doubling span, on top of what the other side asked for."""
    return (retry_after_s or 0.0) + source.uniform(0.0, min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0 ** min(attempt, 20)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a VM says of itself when it enrols."""

    vm: str
    hostname: str
    ips: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    machine: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What became of the samples so far. `refused_batches`: whole batches answered 4xx, in `rejected` too."""

    vms: int = 0
    samples: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    refused_batches: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    """One request: how to make it, for whom, and what to do with its answer."""

    vm: str
    path: str
    make: Callable[[], tuple[dict[str, str], bytes]]
    take: Callable[[Answer], None]


class Load:
    """Enrols VMs and pushes their batches.

    Args:
        join_token: enrols every VM.
        boot: boot id of all VMs in this run.
        patience_s: how long one request may be put off before the aggregator counts as unreachable.
        stop_grace_s: what is queued gets so long to be answered after `stop`.
        now: the clock of `sent_s`.  clock, sleep: for pauses.  source: jitter.
        on_answer: called after each answered request.
    """

    def __init__(
        self,
        address: Address,
        *,
        join_token: str,
        boot: str,
        connections: int = 8,
        patience_s: float = 120.0,
        stop_grace_s: float = 5.0,
        compress: bool = False,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        source: random.Random,
        on_answer: Callable[[Tally], None] | None = None,
    ) -> None:
        self.tally = Tally()
        self._address = address
        self._join_token = join_token
        self._boot = boot
        self._patience_s = patience_s
        self._stop_grace_s = stop_grace_s
        self._compress = compress
        self._now, self._clock, self._sleep = now, clock, sleep
        self._source = source
        self._on_answer = on_answer
        self._lanes: list[asyncio.Queue[_Job]] = [asyncio.Queue(_LANE_DEPTH) for _ in range(connections)]
        self._lane_of: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        self._seqs: dict[str, int] = {}
        self._answered = False
        self._producer: asyncio.Task[None] | None = None

    async def deliver(self, produce: Callable[[Load], Awaitable[None]]) -> bool:
        """Runs `produce`, which calls `enrol` and `push`, and waits until every request is answered.

        Returns: False where `stop` cut it short.  Raises: UnreachableError, LoadError, or what `produce` raised.
        """

        async def run() -> None:
            await produce(self)

        try:
            async with asyncio.TaskGroup() as group:
                lanes = [group.create_task(self._serve(queue)) for queue in self._lanes]
                self._producer = group.create_task(run())
                await asyncio.wait([self._producer])
                await self._drain(self._stop_grace_s if self._producer.cancelled() else None)
                for lane in lanes:
                    lane.cancel()
        except BaseExceptionGroup as errors:
            # Lanes fail together and for one reason: the first says it all.
            raise errors.exceptions[0] from None
        return not self._producer.cancelled()

    def stop(self) -> None:
        """Ends `produce` now; what is queued still gets `stop_grace_s`."""
        if self._producer is not None:
            self._producer.cancel()

    async def enrol(self, identity: Identity) -> None:
        """Queues an enrolment. The VM's batches, in the same lane, come after it."""

        def make() -> tuple[dict[str, str], bytes]:
            return {}, json.dumps({"join_token": self._join_token, **asdict(identity), "boot": self._boot}).encode()

        def take(answer: Answer) -> None:
            if answer.head.status != 201:
                raise LoadError(f"{self._address}: enrolment of {vm} refused: {_told(answer)}")
            try:
                self._tokens[vm] = str(json.loads(answer.body)["token"])
            except (ValueError, KeyError, TypeError) as error:
                raise LoadError(f"{self._address}: enrolment of {vm}: an answer without a token") from error
            self.tally.vms += 1

        vm = identity.vm
        await self._queue(_Job(vm, "/v1/enroll", make, take))

    async def push(self, vm: str, samples: Sequence[str], interval_s: int) -> None:
        """Queues samples that `wire.encode_sample` made, oldest first; waits while the VM's lane is full."""

        def make() -> tuple[dict[str, str], bytes]:
            headers = {"Authorization": f"Bearer {self._tokens[vm]}", "Fallow-VM": vm}
            body = encode_batch(
                vm=vm, boot=self._boot, seq=seq, sent_s=self._now(), interval_s=interval_s, samples=samples
            )
            if self._compress:
                return headers | {"Content-Encoding": "gzip"}, gzip.compress(body, 1)
            return headers, body

        def take(answer: Answer) -> None:
            self._count(vm, len(samples), answer)

        seq = self._seqs[vm] = self._seqs.get(vm, 0) + 1
        await self._queue(_Job(vm, "/v1/samples", make, take))

    async def _drain(self, limit_s: float | None) -> None:
        try:
            async with asyncio.timeout(limit_s):
                for queue in self._lanes:
                    await queue.join()
        except TimeoutError:
            log.warning("stopped with pushes that %s has not answered", self._address)

    async def _queue(self, job: _Job) -> None:
        lane = self._lane_of.setdefault(job.vm, len(self._lane_of) % len(self._lanes))
        await self._lanes[lane].put(job)

    async def _serve(self, queue: asyncio.Queue[_Job]) -> None:
        connection = Connection(self._address)
        try:
            while True:
                job = await queue.get()
                job.take(await self._exchange(connection, job))
                queue.task_done()
                if self._on_answer is not None:
                    self._on_answer(self.tally)
        finally:
            connection.close()

    async def _exchange(self, connection: Connection, job: _Job) -> Answer:
        began_s, attempt = self._clock(), 0
        while True:
            retry_after_s: float | None = None
            try:
                async with asyncio.timeout(_REQUEST_TIMEOUT_S):
                    await self._dial(connection)
                    headers, body = job.make()
                    answer = await connection.request(job.path, {"Content-Type": "application/json"} | headers, body)
                if answer.head.status not in _RETRIED:
                    return answer
                trouble, retry_after_s = _told(answer), answer.head.retry_after_s
            except (OSError, EOFError, BadAnswerError) as error:
                connection.close()
                trouble = str(error) or type(error).__name__
            pause_s = backoff_s(attempt, retry_after_s, self._source)
            if self._clock() - began_s + pause_s > self._patience_s:
                raise UnreachableError(f"{self._address}: gave up after {self._clock() - began_s:.0f} s: {trouble}")
            self.tally.retries += 1
            attempt += 1
            await self._sleep(pause_s)

    async def _dial(self, connection: Connection) -> None:
        """A connection that fails before any answer is most likely a wrong address: no use in waiting for it."""
        try:
            await connection.open()
            self._answered = True
        except OSError as error:
            if not self._answered or isinstance(error, ssl.SSLCertVerificationError):
                raise UnreachableError(f"{self._address}: {error}") from error
            raise

    def _count(self, vm: str, samples: int, answer: Answer) -> None:
        tally = self.tally
        tally.samples += samples
        if answer.head.status == 204:
            tally.stored += samples
        elif answer.head.status == 200:
            try:
                counts = json.loads(answer.body)
                tally.stored += int(counts["stored"])
                tally.duplicate += int(counts["duplicate"])
                tally.rejected += len(counts["rejected"])
            except (ValueError, KeyError, TypeError) as error:
                raise LoadError(f"{self._address}: an answer to {vm} that does not say what was stored") from error
        else:
            tally.rejected += samples
            tally.refused_batches += 1
            if tally.refused_batches <= _REFUSALS_LOGGED:
                log.warning("%s refused %d samples of %s: %s", self._address, samples, vm, _told(answer))


def _told(answer: Answer) -> str:
    return f"{answer.head.status} {answer.detail()}".rstrip()
