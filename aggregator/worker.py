"""What a flush worker does with a chunk of VMs: rows into stores, hours, windows, summaries.

Runs in a process of its own. Reading and writing go VM by VM, the arithmetic between them goes over the whole
chunk at once: numpy costs the same for sixty VMs as for one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aggregator import rollup, store_schema
from aggregator.buffer import Taken, flags_of
from aggregator.histogram import Ints
from aggregator.rollup import Hour
from aggregator.store import Store, StoreError, as_store_error, store_path
from aggregator.windows import DAILY_DAYS, Figures, Windows, read_figures, rebuild

_MARGIN_DAYS = 2  # histograms outlive the longest window by this, so that late rows find them


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker needs to know. Lengths are seconds, windows whole days."""

    data_dir: Path
    windows_days: tuple[int, ...]
    raw_retention_s: float
    hour_retention_s: float


class Summary(NamedTuple):
    """One VM after a flush: what the fleet database keeps of it."""

    vm_id: str
    oldest_s: int
    newest_s: int
    received_s: float
    skew_s: float
    interval_s: int
    conflicts: int
    cpu_count: int | None
    mem_total_bytes: int | None
    disk_total_bytes: int | None
    flags: list[str]
    figures: list[Figures]
    evidence_hour_s: int
    evidence: bytes | None  # None: unchanged since the hour last closed


class ChunkResult(NamedTuple):
    """What became of a chunk.

    Attributes:
        summaries: of every VM whose store holds its rows.
        failures: VM -> why its store could not take its rows now; they are still owed.
        lost_stores: VM -> path of a damaged store that was moved aside and replaced.
        inserted, duplicates, conflicts: rows.
    """

    summaries: list[Summary]
    failures: dict[str, str]
    lost_stores: dict[str, str]
    inserted: int
    duplicates: int
    conflicts: int


@dataclass(slots=True)
class _Work:
    """One VM on its way through a chunk."""

    share: Taken
    store: Store
    windows: Windows | None
    new: Ints
    merged: Ints
    conflicts: int
    duplicates: int
    hours: dict[int, Hour] = field(default_factory=dict)
    replaced: bool = False


class FlushWorker:
    """Flushes chunks into the stores below one data directory."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._template = store_schema.template()
        self._histogram_retention_s = 86400.0 * (max(*settings.windows_days, DAILY_DAYS) + _MARGIN_DAYS)

    def flush(self, shares: Sequence[Taken], *, now_s: float, may_forget: bool) -> ChunkResult:
        """Stores every share; one VM's broken store never keeps another's rows.

        Args:
            now_s: when this flush was taken, on the aggregator's clock.
            may_forget: False while the clock is in doubt: nothing is deleted then.
        """
        result = ChunkResult([], {}, {}, 0, 0, 0)
        works: list[_Work] = []
        for share in shares:
            try:
                works.append(self._open(share, now_s, result.lost_stores))
            except StoreError as error:
                result.failures[share.vm_id] = str(error)
        try:
            self._roll_up(works)
            done: list[tuple[_Work, Windows, bytes | None, Summary]] = []
            inserted = duplicates = conflicts = 0
            for work in works:
                try:
                    finished = self._write(work, now_s, may_forget)
                except (sqlite3.Error, OSError, ValueError) as error:
                    result.failures[work.share.vm_id] = str(as_store_error(error))
                    continue
                if finished is not None:
                    done.append((work, *finished))
                inserted += len(work.new) - work.duplicates - (work.conflicts - work.share.conflicts)
                duplicates += work.duplicates
                conflicts += work.conflicts
        finally:
            for work in works:
                work.store.close()
        if done:
            figures = read_figures(
                [windows for _, windows, _, _ in done],
                [work.hours.get(windows.open_hour) for work, windows, _, _ in done],
            )
            for (_, _, evidence, summary), mine in zip(done, figures, strict=True):
                result.summaries.append(summary._replace(figures=mine, evidence=evidence))
        return result._replace(inserted=inserted, duplicates=duplicates, conflicts=conflicts)

    def _open(self, share: Taken, now_s: float, lost_stores: dict[str, str]) -> _Work:
        path = store_path(self._settings.data_dir, share.vm_id)
        try:
            return self._read(Store(path, share.vm_id, self._template), share)
        except (sqlite3.Error, OSError, ValueError) as error:
            trouble = as_store_error(error)
            if not trouble.corrupt or "newer than this program" in str(error):
                raise trouble from error
        # Damaged for good: keep the file for a person, start anew, and say so in the summary.
        aside = path.with_suffix(f".damaged-{int(now_s)}")
        try:
            path.rename(aside)
            work = self._read(Store(path, share.vm_id, self._template), share)
            work.store.mark_replaced(now_s)
        except (sqlite3.Error, OSError) as error:
            raise as_store_error(error) from error
        lost_stores[share.vm_id] = str(aside)
        return work

    def _read(self, store: Store, share: Taken) -> _Work:
        try:
            windows = store.windows()
            if windows is not None and windows.days != self._settings.windows_days:
                hours = store.stored_hours(windows.open_hour - 24 * max(self._settings.windows_days), windows.open_hour)
                windows = rebuild(self._settings.windows_days, windows.open_hour, hours)
            new = rollup.quantise(share.rows)
            new = new[np.argsort(new[:, 0], kind="stable")]
            first = np.ones(len(new), bool)
            first[1:] = new[1:, 0] != new[:-1, 0]
            repeated = new[~first]
            new = new[first]
            touched = set(rollup.hours_of(new).tolist())
            if windows is not None:
                touched.add(windows.open_hour)
            stored = store.rows_of_hours(touched)
            known = np.isin(new[:, 0], stored[:, 0], assume_unique=True)
            met_again = np.concatenate((new[known], repeated)) if known.any() or len(repeated) else new[:0]
            fresh = new[~known]
            merged = np.concatenate((stored, fresh))
            merged = merged[np.argsort(merged[:, 0], kind="stable")]
            store.insert(fresh)
            conflicts = store.differing(met_again) if len(met_again) else 0
        except BaseException:
            store.close()
            raise
        return _Work(
            share=share,
            store=store,
            windows=windows,
            new=np.concatenate((fresh, met_again)) if len(met_again) else fresh,
            merged=merged,
            conflicts=conflicts + share.conflicts,
            duplicates=len(met_again) - conflicts,
        )

    @staticmethod
    def _roll_up(works: Sequence[_Work]) -> None:
        if not works:
            return
        owner = np.repeat(np.arange(len(works)), [len(work.merged) for work in works])
        for index, hour in rollup.roll_up(owner, np.concatenate([work.merged for work in works])):
            works[index].hours[hour.number] = hour

    def _write(self, work: _Work, now_s: float, may_forget: bool) -> tuple[Windows, bytes | None, Summary] | None:
        """Writes hours and windows, commits; None for a VM that has never had a row."""
        store, windows, days = work.store, work.windows, self._settings.windows_days
        if not work.hours and windows is None:
            store.commit()
            return None
        newest_hour = max(work.hours) if work.hours else 0
        if windows is None:
            windows = Windows.empty(days, newest_hour)
        open_hour = max(newest_hour, windows.open_hour)
        # Everything older than the open hour that was touched; before this flush the old open hour was not closed.
        closed = [hour for number, hour in work.hours.items() if number < open_hour]
        moved = open_hour > windows.open_hour
        if closed or moved:
            replaced = [hour.number for hour in closed if hour.number < windows.open_hour]
            due = [*windows.expiring(open_hour), *((number, number) for number in replaced)]
            old = {hour.number: hour for first, last in due for hour in store.stored_hours(first, last)}
            windows.advance(open_hour, old, replaced, closed)
        store.save_hours(list(work.hours.values()), open_hour)
        evidence = None
        if closed or moved or work.windows is None:
            for window in np.flatnonzero(windows.stale.any(axis=1)).tolist():
                windows.maxima[window] = store.maxima(windows.first_hour(window), open_hour)
                windows.stale[window] = False
            evidence = windows.encode()
            store.save_windows(evidence)
        conflicts = store.count_conflicts(work.conflicts)
        row = store.newest_row()
        oldest_s = store.oldest_s()
        if row is None or oldest_s is None:
            store.commit()
            return None
        newest_s = _whole(row["ts"]) or 0
        if may_forget:
            reference_s = min(now_s, newest_s)
            store.forget_before(
                raw_s=reference_s - self._settings.raw_retention_s,
                histograms_s=reference_s - self._histogram_retention_s,
                hours_s=reference_s - self._settings.hour_retention_s,
            )
        flags = flags_of(
            work.share.skew_s, identity_conflict=work.share.identity_conflict, replaced=store.was_replaced()
        )
        store.commit()
        summary = Summary(
            vm_id=work.share.vm_id,
            oldest_s=oldest_s,
            newest_s=newest_s,
            received_s=work.share.received_s,
            skew_s=work.share.skew_s,
            interval_s=_whole(row["interval_s"]) or 0,
            conflicts=conflicts,
            cpu_count=_whole(row["cpu_count"]),
            mem_total_bytes=_whole(row["mem_total_bytes"]),
            disk_total_bytes=_whole(row["disk_total_bytes"]),
            flags=flags,
            figures=[],
            evidence_hour_s=open_hour * 3600,
            evidence=None,
        )
        return windows, evidence, summary


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


_worker: FlushWorker | None = None


def initialise(settings: WorkerSettings) -> None:
    """Called once in each worker process."""
    global _worker  # noqa: PLW0603 - a process pool offers no other place for what lives as long as the process
    # Ctrl-C reaches the whole process group; only the aggregator decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(5)  # an ack must never wait for a flush
    _worker = FlushWorker(settings)


def flush_chunk(shares: list[Taken], now_s: float, may_forget: bool) -> ChunkResult:
    """Called in a worker process; see `FlushWorker.flush`."""
    if _worker is None:
        raise RuntimeError("the worker process was not initialised")
    return _worker.flush(shares, now_s=now_s, may_forget=may_forget)
