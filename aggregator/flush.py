"""The flush: buffer → workers → stores → fleet database → journal segments dropped. Runs on the reactor.

Order is the whole of its safety. The journal is rotated before the buffer is taken, and every append before the
rotation has reached the buffer by then; so a segment goes only when the stores hold all of it, and what a store
could not take stays in the buffer while the segments that hold it stay on disk.
"""

from __future__ import annotations

import statistics
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from aggregator.buffer import Buffer
from aggregator.pending import PendingSummaries
from aggregator.pool import Workers, partition_of
from aggregator.rows import ROW_BYTES
from aggregator.summary import ChunkResult, Summary, Taken

CHUNK_VMS = 128
_WORKER_FDS = 24  # of a worker, beside its stores: its pipe, its modules
_STORE_FDS = 3  # the store, its rollback journal, their folder while that is synced
CHUNK_ROWS = 60_000  # bounds a worker's memory after an outage, when each VM brings days of rows
# While half of the fleet seems to be this far off, it is our clock that is wrong: delete nothing.
CLOCK_DOUBT_S = 3600.0
# Each store is held against its sums once in so long, each at its own time, while its VM pushes.
VERIFY_EVERY_S = 28 * 86400.0
_VERIFY_AT_ONCE_S = 3600.0  # of that: bounds what a flush verifies after a pause, or when the clock jumps


def chunk_vms_for(descriptors: int) -> int:
    """How many VMs a worker that may open so many descriptors is given at once: it opens all their stores."""
    return max(1, min(CHUNK_VMS, (descriptors - _WORKER_FDS) // _STORE_FDS))


class JournalLike(Protocol):
    """What a flush asks of the journal."""

    def rotate(self, done: Callable[[int], None]) -> None: ...
    def drop_through(self, segment: int) -> None: ...


@dataclass(slots=True)
class FlushTotals:
    """What flushes have done since the start."""

    flushes: int = 0
    overruns: int = 0
    seconds: float = 0.0
    last_s: float = 0.0
    last_duration_s: float = 0.0
    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    stores: int = 0
    store_failures: int = 0
    stores_lost: int = 0
    summary_failures: int = 0


@dataclass(slots=True)
class FlushReport:
    """One flush. `failures`: VM -> why its rows are still owed."""

    vms: int = 0
    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    summaries_owed: int = 0
    seconds: float = 0.0


class Flusher:
    """Empties the buffer into the stores; at most one flush runs at a time.

    Args:
        write_summaries: fires when the fleet database has them, fails when it has not.
        clock: Unix time in seconds.
        known_vms: those that have had rows: the store of one of them that is gone is not new.

    Attributes:
        replayed_through: while a journal is replayed, the last segment that has reached the buffer as a whole.
        stores_failing: why some store could not be written in the last flush, or None.
        stores_failing_ratio: share of the VMs whose store failed in the last flush.
        failing: VMs whose store failed in the last flush.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        buffer: Buffer,
        journal: JournalLike,
        workers: Workers,
        write_summaries: Callable[[Sequence[Summary]], Deferred[None]],
        pending: PendingSummaries,
        call_in_reactor: Callable[..., object],
        clock: Callable[[], float],
        chunk_vms: int = CHUNK_VMS,
        known_vms: Iterable[str] = (),
    ) -> None:
        self._buffer = buffer
        self._journal = journal
        self._workers = workers
        self._write_summaries = write_summaries
        self._pending = pending
        self._owed = set(pending.vm_ids)  # may be ahead of the file while the disk does not take it
        self._call_in_reactor = call_in_reactor
        self._clock = clock
        self._chunk_vms = chunk_vms
        self._running = False
        self._waiting: list[Deferred[FlushReport]] = []
        self._figures_due: set[str] = set()  # stored since their figures were last read
        self._known = set(known_vms)
        self._verified_s: float | None = None  # stores whose time came until then are verified
        self._verify_from_s = 0.0
        self.replayed_through: int | None = None
        self.totals = FlushTotals()
        self.stores_failing: str | None = None
        self.stores_failing_ratio = 0.0
        self.failing = 0

    def forget(self, vm_id: str) -> None:
        """An admin forgot this VM: its store is gone for a reason."""
        self._known.discard(vm_id)

    @property
    def is_running(self) -> bool:
        return self._running

    def tick(self) -> None:
        """The scheduled flush; one that comes while another runs is counted and left out."""
        if self._running:
            self.totals.overruns += 1
            self._log.warn("the last flush is still running: this one is left out")
            return
        self.flush(all_figures=False).addErrback(lambda failure: self._log.failure("flush failed", failure))

    def flush(self, *, all_figures: bool = True) -> Deferred[FlushReport]:
        """Flushes all that is acknowledged when it begins; while one runs, waits for it and then flushes again.

        Args:
            all_figures: brings the figures of every window up to the newest sample. Else those of a VM are read anew
                when an hour closes, in its first day, and once it has fallen silent.
        """
        waiter: Deferred[FlushReport] = Deferred()
        if self._running:
            self._waiting.append(waiter)
            return waiter
        self._begin([waiter], all_figures)
        return waiter

    def _begin(self, waiters: list[Deferred[FlushReport]], all_figures: bool) -> None:
        def finished(outcome: FlushReport | Failure) -> None:
            self._running = False
            if self._waiting:
                following, self._waiting = self._waiting, []
                self._begin(following, all_figures=True)
            for waiter in waiters:
                waiter.callback(outcome)

        self._running = True
        Deferred.fromCoroutine(self._run(all_figures)).addBoth(finished)

    async def _run(self, all_figures: bool) -> FlushReport:
        began_s = self._clock()
        rotated: Deferred[int] = Deferred()
        self._journal.rotate(rotated.callback)
        segment = await rotated
        # No other event may come between the rotation's callback and this.
        owing = self._buffer.take()
        # As of now: what a replay puts into the buffer from here on, this flush does not store.
        covered = segment if self.replayed_through is None else min(segment, self.replayed_through)
        report = FlushReport()
        now_s = self._clock()
        may_forget = self._clock_is_trusted()
        self._verify_from_s = now_s if self._verified_s is None else max(self._verified_s, now_s - _VERIFY_AT_ONCE_S)
        self._verified_s = now_s
        everyone = sorted(self._owed.union(self._figures_due, owing))
        shares: list[list[str]] = [[] for _ in range(self._workers.partitions)]
        for vm_id in everyone:
            shares[partition_of(vm_id, len(shares))].append(vm_id)
        # All of them end before this flush does: the next one may not take what another still stores.
        ended: list[tuple[bool, object]] = await DeferredList(
            [
                Deferred.fromCoroutine(self._flush_partition(number, vm_ids, all_figures, now_s, may_forget, report))
                for number, vm_ids in enumerate(shares)
            ],
            consumeErrors=True,
        )
        for _, outcome in ended:
            if isinstance(outcome, Failure):
                outcome.raiseException()
        self._settle(covered, report)
        report.seconds = self._clock() - began_s
        self._count(report)
        return report

    async def _flush_partition(
        self, number: int, vm_ids: list[str], all_figures: bool, now_s: float, may_forget: bool, report: FlushReport
    ) -> None:
        for chunk in self._chunks(vm_ids, all_figures, now_s):
            result = await self._submit(number, chunk, now_s, may_forget)
            for share in chunk:
                if share.vm_id not in result.failures:
                    self._buffer.stored(share.vm_id)
            report.vms += len(chunk) - len(result.failures)
            report.rows += result.inserted
            report.duplicates += result.duplicates
            report.conflicts += result.conflicts
            report.failures.update(result.failures)
            for vm_id, (why, aside) in result.lost_stores.items():
                self.totals.stores_lost += 1
                moved = f"moved to {aside}, " if aside else ""
                self._log.error(
                    "the store of {vm_id} is lost: {why}: {moved}a new one begun; until a person has looked there is "
                    "no verdict on this VM",
                    vm_id=vm_id,
                    why=why,
                    moved=moved,
                )
            for summary in result.summaries:
                self._known.add(summary.vm_id)
                (self._figures_due.discard if summary.figures else self._figures_due.add)(summary.vm_id)
            written = [summary.vm_id for summary in result.summaries]
            try:
                await self._write_summaries(result.summaries)
                # A VM without a single row has no summary to write, and owes none.
                self._owed.difference_update(share.vm_id for share in chunk if share.vm_id not in result.failures)
            except Exception as error:  # whatever ails the database, the stores go on
                self.totals.summary_failures += 1
                self._owed.update(written)
                self._log.warn("{n} summaries wait for the fleet database: {error}", n=len(written), error=error)

    def _chunks(self, vm_ids: list[str], all_figures: bool, now_s: float) -> Iterator[list[Taken]]:
        chunk: list[Taken] = []
        size = 0
        for vm_id in vm_ids:
            share = self._buffer.taken(vm_id)
            if share is None:
                self._figures_due.discard(vm_id)
                if vm_id not in self._owed:
                    continue  # forgotten meanwhile
                # Owes a summary from before a restart and has not pushed since: its store knows the rest.
                share = Taken(vm_id, b"", 0, 0.0, 0.0, False)
            if chunk and (len(chunk) >= self._chunk_vms or size + len(share.rows) > CHUNK_ROWS * ROW_BYTES):
                yield chunk
                chunk, size = [], 0
            # What the fleet database missed may have been the figures of an hour that closed then.
            wants_figures = all_figures or vm_id in self._owed
            verify = self._is_due(vm_id, now_s)
            had_history = vm_id in self._known
            chunk.append(share._replace(wants_figures=wants_figures, had_history=had_history, verify=verify))
            size += len(share.rows)
        if chunk:
            yield chunk

    def _is_due(self, vm_id: str, now_s: float) -> bool:
        """Whether a store's time to be verified came since the last flush: nothing needs to be remembered of it."""
        due_s = zlib.crc32(vm_id.encode()) / (1 << 32) * VERIFY_EVERY_S
        return (self._verify_from_s - due_s) // VERIFY_EVERY_S < (now_s - due_s) // VERIFY_EVERY_S

    def _submit(self, number: int, chunk: list[Taken], now_s: float, may_forget: bool) -> Deferred[ChunkResult]:
        done: Deferred[ChunkResult] = Deferred()

        def finished(result: ChunkResult) -> None:
            self._call_in_reactor(done.callback, result)

        self._workers.submit(number, chunk, now_s, may_forget, finished)
        return done

    def _settle(self, covered: int, report: FlushReport) -> None:
        self._note_failures(report)
        report.summaries_owed = len(self._owed)
        try:
            self._pending.replace(self._owed)
        except OSError as error:
            # Without the note only the journal knows these VMs: keep it.
            self._log.warn("cannot note {n} owed summaries: {error}", n=len(self._owed), error=error)
            return
        if not report.failures:
            self._journal.drop_through(covered)

    def _note_failures(self, report: FlushReport) -> None:
        self.stores_failing_ratio = len(report.failures) / max(1, report.vms + len(report.failures))
        self.failing = len(report.failures)
        self.stores_failing = None
        if report.failures:
            some = next(iter(report.failures.items()))
            self.stores_failing = f"{len(report.failures)} stores cannot be written, such as {some[0]}: {some[1]}"
            self._log.error("{why}; the journal is kept", why=self.stores_failing)

    def _clock_is_trusted(self) -> bool:
        skews_s = [abs(skew_s) for skew_s in self._buffer.skews_s()]
        return bool(skews_s) and statistics.median(skews_s) <= CLOCK_DOUBT_S

    def _count(self, report: FlushReport) -> None:
        self._buffer.forget_silent(self._clock())
        self.totals.flushes += 1
        self.totals.seconds += report.seconds
        self.totals.last_s = self._clock()
        self.totals.last_duration_s = report.seconds
        self.totals.rows += report.rows
        self.totals.duplicates += report.duplicates
        self.totals.conflicts += report.conflicts
        self.totals.stores += report.vms
        self.totals.store_failures += len(report.failures)
        if report.vms or report.failures:
            self._log.info(
                "flushed {rows} rows of {vms} VMs in {seconds:.1f} s ({failed} failed, {owed} summaries owed)",
                rows=report.rows,
                vms=report.vms,
                seconds=report.seconds,
                failed=len(report.failures),
                owed=report.summaries_owed,
            )
