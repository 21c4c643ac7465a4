"""When flushes begin: at their time, under pressure before it, and all the same when the wall clock was set back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from aggregator.buffer import Buffer
from aggregator.flush import Flusher
from aggregator.flush_report import FlushReport

_FLUSH_EARLY_AT = 0.5  # of the buffer; leaves the other half for the time the flush takes
_STORES_RETRY_S = 30.0
_LATE_INTERVALS = 2.0


class FlushSchedule:
    """Begins flushes.

    Args:
        interval_s: from one to the next.
        scheduler: of APScheduler, not started.
        reactor: whose thread flushes belong to.
    """

    def __init__(self, flusher: Flusher, buffer: Buffer, *, interval_s: float, scheduler: Any, reactor: Any) -> None:
        self._flusher = flusher
        self._buffer = buffer
        self._interval_s = interval_s
        self._scheduler = scheduler
        self._reactor = reactor
        self._ticked_s = 0.0

    def start(self) -> None:
        """Counts from now."""
        self._ticked_s = self._reactor.seconds()
        # The scheduler runs jobs in its threads; the flush belongs to the reactor's.
        self._scheduler.add_job(
            self._reactor.callFromThread,
            "interval",
            args=[self._tick],
            seconds=self._interval_s,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
        self._scheduler.start()

    def stop(self) -> None:
        """Begins no more."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def look(self) -> None:
        """Flushes before its time under pressure, and when the scheduler is late: the wall clock was set back."""
        if self._flusher.is_running:
            return
        waited_s = self._reactor.seconds() - self._ticked_s
        # Stores that fail are not hammered: each try costs all workers' time.
        soonest_s = 0.0 if self._flusher.stores_failing is None else _STORES_RETRY_S
        under_pressure = self._buffer.fullness >= _FLUSH_EARLY_AT and waited_s >= soonest_s
        if under_pressure or waited_s > _LATE_INTERVALS * self._interval_s:
            self._tick()

    def flush_now(self, all_figures: bool) -> Deferred[Mapping[str, object]]:
        """Flushes, or waits for the flush that runs and flushes again; fires with what that did."""

        def as_mapping(report: FlushReport) -> Mapping[str, object]:
            return {
                "vms": report.vms,
                "samples": report.rows,
                "duplicates": report.duplicates,
                "conflicts": report.conflicts,
                "failures": report.failures,
                "summaries_owed": report.summaries_owed,
                "seconds": round(report.seconds, 3),
            }

        flushed = self._flusher.flush() if all_figures else self._flusher.flush_turn()
        return flushed.addCallback(self._flusher.until_written).addCallback(as_mapping)

    def _tick(self) -> None:
        self._ticked_s = self._reactor.seconds()
        self._flusher.tick()
