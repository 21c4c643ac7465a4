"""The flush: buffer → workers → stores → journal segments dropped, summaries queued. Runs on the reactor.

Order is the whole of its safety. The journal is rotated before the buffer is taken, and every append before the
rotation has reached the buffer by then; so a segment goes only when the stores hold all of it, and what a store
could not take stays in the buffer while the segments that hold it stay on disk. A flush never waits for the fleet
database: whose summary that still lacks is noted in a file before a segment goes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aggregator.buffer import Buffer
from aggregator.debts import Debts
from aggregator.flush_report import FlushReport, FlushTotals
from aggregator.flush_take import CHUNK_VMS, PIECE_VMS, Pieces, take
from aggregator.flush_turns import FlushTurns
from aggregator.pending import PendingSummaries
from aggregator.pool import Workers
from aggregator.rows import ROW_BYTES
from aggregator.summary import ChunkResult, Summary, Taken
from aggregator.summary_queue import SummaryQueue
from aggregator.verify_turns import VerifyTurns

CHUNK_ROWS = 60_000  # bounds a worker's memory after an outage, when each VM brings days of rows
# While half of the fleet seems to be this far off, it is our clock that is wrong: delete nothing.
CLOCK_DOUBT_S = 3600.0
_YOUNG_S = 86400.0
# So long does whoever asks for a flush wait for the fleet database.
SUMMARIES_WITHIN_S = 60.0


class JournalLike(Protocol):
    """What a flush asks of the journal."""

    def rotate(self, done: Callable[[int], None]) -> None: ...
    def drop_through(self, segment: int) -> None: ...


class _Wish(NamedTuple):
    """What is asked of a flush: figures up to the newest sample, all VMs and not just those whose turn it is."""

    all_figures: bool
    everybody: bool


@dataclass(frozen=True, slots=True)
class _Turn:
    """What all parts of one flush share.

    Args:
        turns: of the VMs that are stored.
        pays: summaries that are owed are read from their stores.
    """

    turns: range
    report: FlushReport
    now_s: float
    may_forget: bool
    all_figures: bool
    pays: bool


class Flusher:
    """Empties the buffer into the stores; at most one flush runs at a time.

    Args:
        summaries: takes them to the fleet database.
        clock: Unix time in seconds.
        in_thread: runs blocking work elsewhere.
        chunk_vms: so many stores a worker is given at once.
        piece_vms: so many VMs are looked at between other events.
        known_vms: those that have had rows: the store of one of them that is gone is not new.
        turns: a VM's rows are stored by every so manieth scheduled flush; those of one that is new, or whose store
            failed, by the next.

    Attributes:
        on_newer_lives: told of VMs, and their life, whose store was the first sign that they were forgotten and came
            back.
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
        summaries: SummaryQueue,
        pending: PendingSummaries,
        call_in_reactor: Callable[..., object],
        clock: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]] = maybeDeferred,
        chunk_vms: int = CHUNK_VMS,
        piece_vms: int = PIECE_VMS,
        known_vms: Iterable[str] = (),
        turns: int = 1,
    ) -> None:
        self._buffer = buffer
        self._journal = journal
        self._workers = workers
        self._summaries = summaries
        self._debts = Debts(pending, summaries, in_thread)
        summaries.on_elsewhere = self._hurry_those
        self._call_in_reactor = call_in_reactor
        self._clock = clock
        self._chunk_vms = chunk_vms
        self._pieces = Pieces(call_in_reactor, piece_vms)
        self._running = False
        self._waiting: list[Deferred[FlushReport]] = []
        self._wish = _Wish(all_figures=False, everybody=False)  # of those who wait
        self._figures_due: set[str] = set()  # stored since their figures were last read
        self._known = set(known_vms)
        self._turns = FlushTurns(turns)
        self._verify_turns = [VerifyTurns() for _ in self._turns.everybody]
        self._young: set[str] = set()  # known for less than a day: figures follow each flush
        self._failed: frozenset[str] = frozenset()
        self._hurried: set[str] = set()
        self._forgotten_rows = 0
        self.on_newer_lives: Callable[[Mapping[str, int]], object] = lambda _lives: None
        self.replayed_through: int | None = None
        self.totals = FlushTotals()
        self.stores_failing: str | None = None
        self.stores_failing_ratio = 0.0
        self.failing = 0

    def forget(self, vm_id: str) -> None:
        """An admin forgot this VM: its store is gone for a reason."""
        self._known.discard(vm_id)
        self._debts.remove((vm_id,))
        self._figures_due.discard(vm_id)
        self._young.discard(vm_id)
        self._hurried.discard(vm_id)
        self._summaries.forget(vm_id)

    def know(self, vm_ids: Iterable[str]) -> None:
        """These too have had rows: the fleet database answered only after the start."""
        self._known.update(vm_ids)

    def knows(self, vm_id: str) -> bool:
        """Whether this VM has had rows here: a store of it that is not there is lost."""
        return vm_id in self._known

    def unknow(self, vm_id: str) -> None:
        """The store of this VM is about to go, or has gone, for a reason."""
        self._known.discard(vm_id)

    def life_of(self, vm_id: str) -> int:
        """Which life of a VM counts, as far as is known here."""
        return self._buffer.lives.of(vm_id)

    def owe(self, vm_ids: Sequence[str]) -> Deferred[int | None]:
        """Has the summaries of these VMs read from their stores and told anew; fires as `Debts.note`."""

        async def run() -> int | None:
            async for piece in self._pieces.of(vm_ids):
                self._debts.add(piece)
            return await self._debts.note()

        return Deferred.fromCoroutine(run())

    def hurry(self, vm_id: str) -> None:
        """Has the next flush store this VM's rows, whosever turn it is: somebody waits for them."""
        self._hurried.add(vm_id)

    def _hurry_those(self, vm_ids: Iterable[str]) -> None:
        """Nothing tells of VMs that came from another home before their rows are stored here."""
        self._hurried.update(vm_ids)

    def owes_summary(self, vm_id: str) -> bool:
        """Whether the fleet database may lack what was stored of this VM."""
        return vm_id in self._debts

    @property
    def summaries_owed(self) -> int:
        """VMs whose summary the fleet database lacks."""
        return len(self._debts)

    @property
    def is_running(self) -> bool:
        return self._running

    def tick(self) -> None:
        """The scheduled flush; one that comes while another runs is counted and left out."""
        if self._running:
            self.totals.overruns += 1
            self._log.warn("the last flush is still running: this one is left out")
            return
        self.flush_turn().addErrback(lambda failure: self._log.failure("flush failed", failure))

    def flush(self, *, all_figures: bool = True) -> Deferred[FlushReport]:
        """Flushes all that is acknowledged when it begins; while one runs, waits for it and then flushes again.

        Args:
            all_figures: brings the figures of every window up to the newest sample. Else those of a VM are read anew
                when an hour closes, in its first day, and once it has fallen silent.
        """
        return self._ask(_Wish(all_figures, everybody=True))

    def flush_turn(self) -> Deferred[FlushReport]:
        """A flush as a schedule asks for it: of the VMs whose turn it is; waits as `flush` does."""
        return self._ask(_Wish(all_figures=False, everybody=False))

    def _ask(self, wish: _Wish) -> Deferred[FlushReport]:
        waiter: Deferred[FlushReport] = Deferred()
        if self._running:
            self._waiting.append(waiter)
            self._wish = _Wish(*(one or other for one, other in zip(wish, self._wish, strict=True)))
        else:
            self._begin([waiter], wish)
        return waiter

    def until_written(self, report: FlushReport) -> Deferred[FlushReport]:
        """Waits until the fleet database has all summaries, for SUMMARIES_WITHIN_S at most; not if it fails."""

        async def wait() -> FlushReport:
            await self._summaries.drained(SUMMARIES_WITHIN_S)
            if self.summaries_owed != report.summaries_owed:
                await self._note_owed(report)
            return report

        return Deferred.fromCoroutine(wait())

    def _begin(self, waiters: list[Deferred[FlushReport]], wish: _Wish) -> None:
        def finished(outcome: FlushReport | Failure) -> None:
            self._running = False
            if self._waiting:
                following, self._waiting = self._waiting, []
                following_wish, self._wish = self._wish, _Wish(all_figures=False, everybody=False)
                self._begin(following, following_wish)
            for waiter in waiters:
                waiter.callback(outcome)

        self._running = True
        Deferred.fromCoroutine(self._run(wish)).addBoth(finished)

    async def _run(self, wish: _Wish) -> FlushReport:
        began_s = self._clock()
        rotated: Deferred[int] = Deferred()
        self._journal.rotate(rotated.callback)
        segment = await rotated
        # While the database is away, reading its debts again and again would be work for nothing.
        pays = wish.all_figures or not self._summaries.failures_in_row
        turns = self._turns.everybody if wish.everybody else self._turns.next()
        # As of now: no other event may come between the rotation's callback and this. What a replay puts into the
        # buffer from here on, this flush need not store.
        covered = segment if self.replayed_through is None else min(segment, self.replayed_through)
        report = FlushReport()
        now_s = self._clock()
        for each in turns:
            self._verify_turns[each].begin(now_s)
        turn = _Turn(turns, report, now_s, self._clock_is_trusted(), wish.all_figures, pays)
        shares = await self._take(turns, pays)
        # All of them end before this flush does: the next one may not take what another still stores.
        ended: list[tuple[bool, object]] = await DeferredList(
            [
                Deferred.fromCoroutine(self._flush_partition(number, vm_ids, turn))
                for number, vm_ids in enumerate(shares)
            ],
            consumeErrors=True,
        )
        for _, outcome in ended:
            if isinstance(outcome, Failure):
                outcome.raiseException()
        await self._settle(turns, covered, report)
        if not wish.everybody:
            # Not of those that are not known yet: a row that tells of what no store here holds would make this node
            # miss the store. The next flush stores them.
            self._summaries.hear(one for one in self._buffer.waiting() if one.vm_id in self._known)
        silent_at_s = self._clock()
        async for piece in self._pieces.of(self._buffer.vm_ids()):
            self._buffer.forget_silent(piece, silent_at_s)
        report.seconds = self._clock() - began_s
        self._count(report)
        return report

    async def _take(self, turns: range, pays: bool) -> list[list[str]]:
        owed = self._debts.vm_ids if pays else set()
        hurried, self._hurried = self._hurried, set()
        everybody = turns == self._turns.everybody
        turn_of, known, young, failed = self._turns.turn_of, self._known, self._young, self._failed

        def wanted(vm_id: str) -> bool:
            return (
                everybody
                or turn_of(vm_id) in turns
                or vm_id not in known
                or vm_id in young
                or vm_id in failed
                or vm_id in owed
                or vm_id in hurried
            )

        return await take(
            self._buffer,
            self._pieces,
            wanted=wanted,
            due=self._figures_due,
            owed=owed,
            partitions=self._workers.partitions,
        )

    async def _flush_partition(self, number: int, vm_ids: list[str], turn: _Turn) -> None:
        report = turn.report
        for chunk in self._chunks(vm_ids, turn):
            result = await self._submit(number, chunk, turn)
            self._meet(result.newer_lives)
            # What became of a VM that was forgotten meanwhile counts no more.
            stored = [one for one in chunk if one.vm_id not in result.failures and not self._is_over(one)]
            for share in stored:
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
            summaries = [summary for summary in result.summaries if not self._is_over(summary)]
            for summary in summaries:
                self._known.add(summary.vm_id)
                (self._figures_due.discard if summary.figures else self._figures_due.add)(summary.vm_id)
                is_young = summary.newest_s - summary.oldest_s < _YOUNG_S
                (self._young.add if is_young else self._young.discard)(summary.vm_id)
            # A VM without a single row has no summary to write, and owes none. One whose figures were not read may
            # owe those of an hour that has closed.
            paid = (share.vm_id for share in stored if share.wants_figures)
            self._debts.remove(paid)
            self._debts.add(self._summaries.put(summaries))

    def _meet(self, newer: Mapping[str, int]) -> None:
        """Stores are of a life that nobody here knew of: a fleet database of before the forgetting was put back.

        Or this program started without it, and replayed what came before.
        """
        for vm_id, life in newer.items():
            rows_before = self._buffer.forgotten_rows
            if self._buffer.lives.learn(vm_id, life):
                self._buffer.forget_before(vm_id, life)
                self.forget(vm_id)
                self._log.warn(
                    "{rows} samples of {vm_id} are dropped: its store is of after it was forgotten, the token they "
                    "came with of before",
                    rows=self._buffer.forgotten_rows - rows_before,
                    vm_id=vm_id,
                )
        if newer:
            self.on_newer_lives(newer)

    def _is_over(self, one: Taken | Summary) -> bool:
        return self._buffer.lives.is_over(one.vm_id, one.life)

    def _chunks(self, vm_ids: list[str], turn: _Turn) -> Iterator[list[Taken]]:
        chunk: list[Taken] = []
        size = 0
        for vm_id in vm_ids:
            share = self._buffer.taken(vm_id)
            if share is None:
                self._figures_due.discard(vm_id)
                if vm_id not in self._debts.vm_ids:
                    continue  # forgotten meanwhile
                # Owes a summary from before a restart and has not pushed since: its store knows the rest.
                share = Taken(vm_id, b"", 0, 0.0, 0.0, False, life=self.life_of(vm_id))
            if chunk and (len(chunk) >= self._chunk_vms or size + len(share.rows) > CHUNK_ROWS * ROW_BYTES):
                yield chunk
                chunk, size = [], 0
            # What the fleet database missed may have been the figures of an hour that closed then.
            wants_figures = turn.all_figures or (turn.pays and vm_id in self._debts.vm_ids)
            turn_of_vm = self._turns.turn_of(vm_id)
            verify = turn_of_vm in turn.turns and self._verify_turns[turn_of_vm].is_due(vm_id)
            had_history = vm_id in self._known
            chunk.append(share._replace(wants_figures=wants_figures, had_history=had_history, verify=verify))
            size += len(share.rows)
        if chunk:
            yield chunk

    def _submit(self, number: int, chunk: list[Taken], turn: _Turn) -> Deferred[ChunkResult]:
        done: Deferred[ChunkResult] = Deferred()

        def finished(result: ChunkResult) -> None:
            self._call_in_reactor(done.callback, result)

        self._workers.submit(number, chunk, turn.now_s, turn.may_forget, finished)
        return done

    async def _settle(self, turns: range, covered: int, report: FlushReport) -> None:
        self._note_failures(report)
        self._failed = frozenset(report.failures)
        stored = self._turns.settle(turns, covered, report.failures)
        # Without the note only the journal knows these VMs: keep it.
        if await self._note_owed(report) and stored:
            self._journal.drop_through(stored)

    async def _note_owed(self, report: FlushReport) -> bool:
        """Notes durably whose summary the fleet database lacks; False: the disk does not take it."""
        noted = await self._debts.note()
        report.summaries_owed = len(self._debts) if noted is None else noted
        return noted is not None

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
        self.totals.add(report, now_s=self._clock())
        if self._buffer.forgotten_rows > self._forgotten_rows:
            rows = self._buffer.forgotten_rows - self._forgotten_rows
            self._forgotten_rows += rows
            self._log.info("dropped {rows} samples of VMs that were forgotten after they came", rows=rows)
        if report.vms or report.failures:
            self._log.info(
                "flushed {rows} rows of {vms} VMs in {seconds:.1f} s ({failed} failed, {owed} summaries unwritten)",
                rows=report.rows,
                vms=report.vms,
                seconds=report.seconds,
                failed=len(report.failures),
                owed=report.summaries_owed,
            )
