"""Parts around a flush for tests: pushes of known rows, and a journal, workers and a database under the test's hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from agent.sample import FIELDS
from aggregator.buffer import Buffer
from aggregator.decode import Push
from aggregator.flush import Flusher
from aggregator.homes import Whole
from aggregator.pending import PendingSummaries
from aggregator.pool import ChunkDone, partition_of
from aggregator.rows import NAN, ROW, ROW_BYTES, row_ts
from aggregator.summary import STATISTIC_COLUMNS, ChunkResult, Figures, Heard, LostStore, Summary, Taken
from aggregator.summary_queue import QueueLimits, SummaryQueue

NOW_S = 1_790_000_000.0
TS = 1_789_999_980


def row(ts: int, cpu: float = 0.25) -> bytes:
    """One packed row; what a test does not look at was not measured."""
    figures = {"cpu_busy_ratio": cpu, "mem_total_bytes": 8 << 30, "mem_used_bytes": 1 << 30}
    return ROW.pack(ts, 60, *(figures.get(known.name, NAN) for known in FIELDS))


def push(vm: str, *times: int, boot: str = "a", cpu: float = 0.25, sent_s: float = NOW_S) -> Push:
    """A push of one row for each time, in that order."""
    rows = b"".join(row(ts, cpu) for ts in times)
    return Push(vm, boot, 1, sent_s, 60, rows, len(times), min(times), max(times))


def times_of(rows: bytes) -> list[int]:
    """`ts` of each packed row."""
    return [row_ts(rows, index) for index in range(len(rows) // ROW_BYTES)]


def summary(vm_id: str, *, received_s: float = NOW_S, newest_s: int = TS, flags: Sequence[str] = ()) -> Summary:
    """What a worker would return of a VM."""
    figures = [Figures(days, 0, 60, 0, tuple(0.5 for _ in STATISTIC_COLUMNS)) for days in (1, 7)]
    return Summary(
        vm_id=vm_id,
        oldest_s=TS - 3600,
        newest_s=newest_s,
        received_s=received_s,
        skew_s=1.5,
        interval_s=60,
        conflicts=0,
        cpu_count=2,
        mem_total_bytes=8 << 30,
        disk_total_bytes=None,
        flags=list(flags),
        figures=figures,
        evidence_hour_s=3600,
        evidence=b"evidence",
    )


@dataclass
class FakeJournal:
    """Rotates at once, or when the test says so; notes in `events` what it was asked."""

    events: list[object]
    at_once: bool = True
    segment: int = 0
    waiting: list[Callable[[int], None]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    def rotate(self, done: Callable[[int], None]) -> None:
        self.events.append("rotate")
        if self.at_once:
            self.segment += 1
            done(self.segment)
        else:
            self.waiting.append(done)

    def drop_through(self, segment: int) -> None:
        self.events.append(("drop", segment))
        self.dropped.append(segment)


@dataclass
class FakeWorkers:
    """Stores in a dictionary: VM → ts → row. Works at once, or when the test calls `work`.

    Attributes:
        broken: VM -> why its store cannot be written.
        newer: VM -> life of its store, which is after that of its rows.
        forgot: `may_forget` of each chunk.
        old: VMs are known for a month, else for an hour.
        spares_figures: summaries of VMs that push have none unless they are wanted.
    """

    events: list[object]
    partitions: int = 2
    at_once: bool = True
    stores: dict[str, dict[int, bytes]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    lost: dict[str, LostStore] = field(default_factory=dict)
    newer: dict[str, int] = field(default_factory=dict)
    chunks: list[tuple[int, list[Taken]]] = field(default_factory=list)
    forgot: list[bool] = field(default_factory=list)
    spares_figures: bool = False
    old: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def submit(self, partition: int, chunk: list[Taken], now_s: float, may_forget: bool, done: ChunkDone) -> None:
        self.events.append(("store", *(share.vm_id for share in chunk)))
        self.chunks.append((partition, chunk))
        self.forgot.append(may_forget)
        assert all(partition_of(share.vm_id, self.partitions) == partition for share in chunk)
        if self.at_once:
            done(self._store(chunk))
        else:
            self.waiting.append(lambda: done(self._store(chunk)))

    def work(self) -> None:
        """Finishes every chunk that waits."""
        waiting, self.waiting = self.waiting, []
        for job in waiting:
            job()

    def stop(self) -> None:
        """Nothing runs."""

    def _store(self, chunk: list[Taken]) -> ChunkResult:
        failures = {share.vm_id: self.broken[share.vm_id] for share in chunk if share.vm_id in self.broken}
        newer = {share.vm_id: self.newer[share.vm_id] for share in chunk if share.vm_id in self.newer}
        result = ChunkResult([], failures, dict(self.lost), 0, 0, 0, newer)
        inserted = 0
        for share in chunk:
            if share.vm_id in failures or share.vm_id in self.newer:
                continue
            store = self.stores.setdefault(share.vm_id, {})
            for at in range(0, len(share.rows), ROW_BYTES):
                one = share.rows[at : at + ROW_BYTES]
                inserted += row_ts(one, 0) not in store
                store.setdefault(row_ts(one, 0), one)
            if store:
                found = summary(share.vm_id, received_s=share.received_s)
                found = found._replace(oldest_s=TS - 30 * 86_400) if self.old else found
                spared = self.spares_figures and share.rows and not share.wants_figures
                result.summaries.append(found._replace(figures=[]) if spared else found)
        return result._replace(inserted=inserted, conflicts=sum(share.conflicts for share in chunk))


@dataclass
class FakeDatabase:
    """Takes summaries, or fails while `away`."""

    events: list[object]
    away: bool = False
    written: list[str] = field(default_factory=list)
    told: list[Heard] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)

    def heard(self, vms: Sequence[Heard], *, now_s: float) -> list[str]:
        if self.away:
            raise ConnectionError("the database is away")
        self.told += vms
        return [one.vm_id for one in vms if one.vm_id in self.elsewhere]

    def write(self, summaries: Sequence[Summary], *, now_s: float) -> None:
        self.events.append("summaries")
        if self.away:
            raise ConnectionError("the database is away")
        self.written += [one.vm_id for one in summaries]

    def joined(self, wholes: Sequence[Whole], *, now_s: float) -> None:
        self.write([whole.summary for whole in wholes], now_s=now_s)


class NotedPending(PendingSummaries):
    """Notes when it is asked; fails while `full`."""

    events: list[object]
    full = False

    def replace(self, vm_ids: object) -> None:
        self.events.append("pending")
        if self.full:
            raise OSError(28, "No space left on device")
        super().replace(vm_ids)  # type: ignore[arg-type]


class FlushBench:
    """A flusher with everything around it fake but the buffer, the queue and the file of owed summaries.

    Attributes: hang: takes what the database should do, and does it when the test wants; None: it is done at once.
    """

    def __init__(
        self,
        pending: NotedPending,
        *,
        max_rows: int = 1_000,
        chunk_vms: int = 64,
        known_vms: Sequence[str] = (),
        queue_vms: int = 1_000,
        turns: int = 1,
    ) -> None:
        self.events: list[object] = []
        self.now_s = NOW_S
        self.buffer = Buffer(max_rows=max_rows)
        self.journal = FakeJournal(self.events)
        self.workers = FakeWorkers(self.events)
        self.database = FakeDatabase(self.events)
        self.pending = pending
        pending.events = self.events
        self.reactor = Clock()
        self.hang: Callable[[Callable[[], object]], object] | None = None
        # One VM is a whole batch, so that nothing is gathered.
        self.summaries = SummaryQueue(
            self.database,
            in_thread=self._in_thread,
            call_later=self.reactor.callLater,
            clock=lambda: self.now_s,
            limits=QueueLimits(vms=queue_vms, batch_vms=1, away_batch_vms=1),
        )
        self.flusher = Flusher(
            buffer=self.buffer,
            journal=self.journal,
            workers=self.workers,
            summaries=self.summaries,
            pending=pending,
            call_in_reactor=lambda call, *arguments: call(*arguments),
            clock=lambda: self.now_s,
            chunk_vms=chunk_vms,
            known_vms=known_vms,
            turns=turns,
        )

    def _in_thread(self, work: Callable[[], None]) -> Deferred[None]:
        if self.hang is None:
            return maybeDeferred(work)
        self.hang(work)
        return Deferred()
