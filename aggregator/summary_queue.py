"""Between the flush and the fleet database: a bounded queue and one writer, so that nothing waits for the database.

Runs on the reactor; the writing itself is handed to a thread, one transaction at a time. A database that is away is
asked again after a pause; what waits meanwhile is bounded, and whoever puts more is told what did not fit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aggregator.backlog import Backlog
from aggregator.homes import Whole
from aggregator.summary import Heard, Summary

# A row of theirs is to blame, or our own code: the database would say the same again.
_BLAMES_ROWS = (sa.exc.IntegrityError, sa.exc.DataError)


class Writer(Protocol):
    """What the queue asks of `SummaryWriter`. Blocking; raises what it likes."""

    def write(self, summaries: Sequence[Summary], *, now_s: float) -> None: ...
    def joined(self, wholes: Sequence[Whole], *, now_s: float) -> None: ...
    def heard(self, vms: Sequence[Heard], *, now_s: float) -> list[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Bounds of a queue.

    Args:
        vms, size_bytes: how many VMs' summaries may wait, and about how much memory they may take.
        batch_vms, heard_batch_vms, joined_batch_vms: of one transaction, of summaries, of those that were merely heard
            of, and of those that took in parts.
        away_batch_vms: the fewest of one while the database is away or slow.
        gather_s: how long the first of a batch waits for more.
        pause_s, longest_pause_s: after the first failure, doubled with each that follows, up to the longest.
    """

    vms: int = 4_000
    size_bytes: int = 50_000_000
    batch_vms: int = 1_000
    heard_batch_vms: int = 5_000
    joined_batch_vms: int = 64
    away_batch_vms: int = 64
    gather_s: float = 0.25
    pause_s: float = 1.0
    longest_pause_s: float = 60.0


@dataclass(slots=True)
class QueueCounters:
    """What was written since the start, and what was not. `seconds`: spent on it, failures included."""

    written: int = 0
    batches: int = 0
    failures: int = 0
    refused: int = 0
    seconds: float = 0.0
    last_error: str | None = None


class _Join(NamedTuple):
    whole: Whole
    done: Deferred[None]


class SummaryQueue:
    """Summaries on their way to the fleet database.

    Args:
        in_thread: runs blocking work elsewhere; fires when it is done, fails as it does.
        call_later: of the reactor.
        clock: Unix time in seconds.

    Attributes:
        on_elsewhere: told of VMs that were heard of and are at home at another node, or nowhere yet.
        on_owed: told of VMs whose summary was let go of: it has to be read from the store again.
        failures_in_row: since the last write that succeeded.
    """

    _log = Logger()

    def __init__(
        self,
        writer: Writer,
        *,
        in_thread: Callable[[Callable[[], None]], Deferred[None]],
        call_later: Callable[..., Any],
        clock: Callable[[], float],
        limits: QueueLimits | None = None,
    ) -> None:
        self._writer = writer
        self._in_thread = in_thread
        self._call_later = call_later
        self._clock = clock
        self._limits = limits or QueueLimits()
        self._backlog = Backlog(max_vms=self._limits.vms, max_bytes=self._limits.size_bytes)
        self._joins: deque[_Join] = deque()
        self._joining: list[_Join] = []  # being written
        self._joined_batch_vms = self._limits.joined_batch_vms
        self._heard: Iterator[Heard] = iter(())
        self._batch_vms = self._limits.batch_vms
        self._is_writing = False
        self._is_stopped = False
        self._timer: Any = None
        self._drained: list[Callable[[], None]] = []
        self.on_elsewhere: Callable[[Iterable[str]], object] = lambda _vm_ids: None
        self.on_owed: Callable[[Iterable[str]], object] = lambda _vm_ids: None
        self.counters = QueueCounters()
        self.failures_in_row = 0

    @property
    def vm_ids(self) -> set[str]:
        """VMs of which the database may lack something, as far as this queue knows."""
        return self._backlog.vm_ids.union(join.whole.summary.vm_id for join in (*self._joins, *self._joining))

    def __contains__(self, vm_id: object) -> bool:
        """Whether a VM is one of them."""
        joins = (*self._joins, *self._joining)
        return vm_id in self._backlog or any(join.whole.summary.vm_id == vm_id for join in joins)

    @property
    def size_bytes(self) -> int:
        """About how much memory the summaries take."""
        return self._backlog.size_bytes

    def put(self, summaries: Iterable[Summary]) -> list[str]:
        """Takes summaries in, and returns at once the VMs whose summary did not fit."""
        refused = [summary.vm_id for summary in summaries if not self._backlog.put(summary)]
        self.counters.refused += len(refused)
        self._consider()
        return refused

    def joined(self, summary: Summary, of: Mapping[str, int]) -> Deferred[None]:
        """Writes the summary of a store that took in parts, before all that waits; several that wait at once.

        What waits of the VM was made before and is let go of. Fires when the database has it, and fails when it has
        not: then the VM is owed.

        Args: of: as that of `Whole`.
        """
        self._backlog.drop(summary.vm_id)
        join = _Join(Whole(summary, of), Deferred())
        self._joins.append(join)
        self._consider()
        return join.done

    def hear(self, vms: Iterable[Heard]) -> None:
        """Notes, once no summary waits, when VMs were last heard of whose rows are stored later.

        Nothing is owed of it: what fails is told anew by the next that is heard, which takes its place.
        """
        self._heard = iter(vms)
        self._consider()

    def forget(self, vm_id: str) -> None:
        """Lets go of what waits of a VM."""
        self._backlog.drop(vm_id)

    def drained(self, within_s: float) -> Deferred[None]:
        """Writes at once, and fires when nothing waits, when a write fails, or when the time is over."""
        done = self._when_told(within_s)
        self._consider(at_once=True)
        return done

    def stop(self, within_s: float) -> Deferred[None]:
        """Begins no further write; fires when the one under way has ended, or is left to its thread."""
        self._is_stopped = True
        self._stop_timer()
        self._tell_drained()
        while self._joins:
            self._joins.popleft().done.errback(ConnectionError("the aggregator is stopping"))
        ended = self._when_told(within_s)
        if not self._is_writing:
            self._tell_drained()
        return ended

    def _consider(self, *, at_once: bool = False) -> None:
        """Writes, or sees to it that somebody will."""
        if self._is_writing:
            return
        if self._is_stopped:
            self._tell_drained()
            return
        if self._joins:
            # Nothing overtakes them. While the database is away each that comes is a question whether it still is.
            if at_once or self.failures_in_row or len(self._joins) >= self._joined_batch_vms:
                self._begin_joins()
            else:
                self._gather()
        elif not self._backlog.waiting:
            self._stop_timer()
            self._tell_drained()
            self._begin_heard()
        elif at_once or (not self.failures_in_row and self._backlog.waiting >= self._batch_vms):
            self._begin_batch()
        else:
            self._gather()

    def _gather(self) -> None:
        if self._timer is None:
            self._timer = self._call_later(self._limits.gather_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._consider(at_once=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_batch(self) -> None:
        self._stop_timer()
        batch = self._backlog.take(self._batch_vms)
        now_s = self._clock()

        def ended(failure: Failure | None) -> None:
            if failure is None:
                self._wrote(len(batch))
            else:
                self._failed(failure, len(self._backlog.taken))
            self._consider(at_once=bool(self._drained))

        self._start(lambda: self._writer.write(batch, now_s=now_s), ended)

    def _begin_joins(self) -> None:
        batch = [self._joins.popleft() for _ in range(min(len(self._joins), self._joined_batch_vms))]
        wholes = [join.whole for join in batch]
        self._joining = batch
        now_s = self._clock()

        def ended(failure: Failure | None) -> None:
            self._joining = []
            if failure is None:
                self._joined_batch_vms = min(self._limits.joined_batch_vms, self._joined_batch_vms * 2)
                self._count_written(len(batch))
            else:
                self._count_failed(failure)
            if failure is not None and len(batch) > 1 and not self._is_stopped and not _is_away(failure):
                # One of them is to blame.
                self._joined_batch_vms = len(batch) // 2
                self._joins.extendleft(reversed(batch))
            else:
                self._tell_joined(batch, failure)
            # The database answers again: no need to pause any longer.
            self._consider(at_once=failure is None and self.failures_in_row > 0)

        self._start(lambda: self._writer.joined(wholes, now_s=now_s), ended)

    def _tell_joined(self, batch: Iterable[_Join], failure: Failure | None) -> None:
        for join in batch:
            if failure is None:
                join.done.callback(None)
            else:
                self.on_owed([join.whole.summary.vm_id])
                join.done.errback(failure)

    def _begin_heard(self) -> None:
        batch = list(islice(self._heard, self._limits.heard_batch_vms))
        if not batch:
            return
        now_s = self._clock()
        elsewhere: list[str] = []

        def ended(failure: Failure | None) -> None:
            if failure is None:
                self.on_elsewhere(elsewhere)
            else:
                self._heard = iter(())
                self._count_failed(failure)
            self._consider(at_once=bool(self._drained))

        self._start(lambda: elsewhere.extend(self._writer.heard(batch, now_s=now_s)), ended)

    def _start(self, work: Callable[[], None], ended: Callable[[Failure | None], None]) -> None:
        began_s = self._clock()

        def finished(outcome: Failure | None) -> None:
            self._is_writing = False
            self.counters.seconds += max(0.0, self._clock() - began_s)
            ended(outcome)

        self._is_writing = True
        maybeDeferred(self._in_thread, work).addBoth(finished)

    def _wrote(self, summaries: int) -> None:
        self._backlog.written()
        self._count_written(summaries)
        self._batch_vms = min(self._limits.batch_vms, self._batch_vms * 2)
        if self.failures_in_row:
            self._log.info("the fleet database takes summaries again")
            self.failures_in_row = 0

    def _failed(self, failure: Failure, vms: int) -> None:
        """Tries smaller ones: a slow database takes them in time, and a row that is refused is found."""
        self._count_failed(failure)
        if _is_away(failure):
            self._batch_vms = max(self._limits.away_batch_vms, self._batch_vms // 2)
            self._backlog.put_back()
            self._pause(failure)
        elif vms > 1:
            self._batch_vms = vms // 2
            self._backlog.put_back()
        else:
            refused = list(self._backlog.taken)
            self._backlog.written()
            self._log.error(
                "the fleet database refuses the summary of {vm_id}: {error}", vm_id=refused, error=failure.value
            )
            self.on_owed(refused)

    def _pause(self, failure: Failure) -> None:
        if not self.failures_in_row:
            self._log.warn(
                "{n} VMs' summaries wait for the fleet database: {error}", n=self._backlog.waiting, error=failure.value
            )
        self.failures_in_row += 1
        self._tell_drained()
        if self._is_stopped:
            return
        pause_s = min(self._limits.longest_pause_s, self._limits.pause_s * 2 ** min(self.failures_in_row - 1, 16))
        self._timer = self._call_later(pause_s, self._on_timer)

    def _count_written(self, summaries: int) -> None:
        self.counters.batches += 1
        self.counters.written += summaries
        self.counters.last_error = None

    def _count_failed(self, failure: Failure) -> None:
        self.counters.failures += 1
        self.counters.last_error = str(failure.value)

    def _when_told(self, within_s: float) -> Deferred[None]:
        done: Deferred[None] = Deferred()

        def fire() -> None:
            if late.active():
                late.cancel()
            if not done.called:
                done.callback(None)

        late = self._call_later(within_s, fire)
        self._drained.append(fire)
        return done

    def _tell_drained(self) -> None:
        told, self._drained = self._drained, []
        for fire in told:
            fire()


def _is_away(failure: Failure) -> bool:
    """Whether the database does not answer, rather than refuse what it was given."""
    error = failure.value
    return isinstance(error, (sa.exc.SQLAlchemyError, OSError)) and not isinstance(error, _BLAMES_ROWS)
