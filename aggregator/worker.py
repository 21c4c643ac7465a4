"""What a flush worker does with a chunk of VMs: rows into stores, hours, windows, summaries.

Runs in a process of its own. Reading and writing go VM by VM, the arithmetic between them goes over the whole
chunk at once: numpy costs the same for sixty VMs as for one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from agent.sample import Unit
from aggregator import rollup, store_schema
from aggregator.chunk import Work, by_time, compute, split
from aggregator.histogram import Ints
from aggregator.rollup import ABSENT
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store import Facts, Store
from aggregator.store_checks import DamagedError, hour_name
from aggregator.store_files import (
    StoreError,
    as_store_error,
    connect_read_only,
    delete_store,
    move_aside,
    read_through,
    store_file,
    store_path,
)
from aggregator.store_life import read_life
from aggregator.summary import ChunkResult, LostStore, Summary, Taken, WorkerSettings, flags_of
from aggregator.windows import DAILY_DAYS, Windows, read_figures, rebuild

_FORGET_EVERY_S = 6 * 3600.0  # so that a flush seldom touches the old end of the file
_YOUNG_HOURS = 24  # until then figures follow every flush
_BYTES_QUANTUM = Unit.BYTES.quantum
_MARGIN_DAYS = 2  # histograms outlive the longest window by this, so that late rows find them


_Written = tuple[Windows | None, bytes | None, Summary]


class FlushWorker:
    """Flushes chunks into the stores below one data directory."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._template = store_schema.template()
        self._columns = _columns_of(self._template)
        self._histogram_retention_s = 86400.0 * (max(*settings.windows_days, DAILY_DAYS) + _MARGIN_DAYS)
        # An hour that is subtracted from the profile must still be there, however short the windows are.
        self._hour_retention_s = max(settings.hour_retention_s, self._histogram_retention_s)

    def flush(self, shares: Sequence[Taken], *, now_s: float, may_forget: bool) -> ChunkResult:
        """Stores every share; one VM's broken store never keeps another's rows.

        Args:
            now_s: when this flush was taken, on the aggregator's clock.
            may_forget: False while the clock is in doubt: nothing is deleted then.
        """
        result = ChunkResult([], {}, {}, 0, 0, 0, {})
        works: list[Work] = []
        tables = split(rollup.quantise(b"".join(share.rows for share in shares)), shares)
        for share, rows in zip(shares, tables, strict=True):
            try:
                opened = self._open(share, rows, now_s, result.lost_stores)
            except StoreError as error:
                result.failures[share.vm_id] = str(error)
                continue
            if opened is None:
                continue
            works.append(opened)
            if opened.share.life > share.life:
                result.newer_lives[share.vm_id] = opened.share.life
        try:
            self._compute(works, now_s, result)
            done: list[tuple[Work, Windows | None, bytes | None, Summary]] = []
            inserted = duplicates = conflicts = 0
            for index in range(len(works)):
                try:
                    finished = self._write_or_replace(works, index, now_s, may_forget, result.lost_stores)
                except StoreError as error:
                    result.failures[works[index].share.vm_id] = str(error)
                    continue
                work = works[index]
                if finished is not None:
                    done.append((work, *finished))
                inserted += work.inserted
                duplicates += work.duplicates
                conflicts += work.conflicts
        finally:
            for work in works:
                work.store.close()
        with_figures = [(work, windows) for work, windows, _, _ in done if windows is not None]
        figures = iter(
            read_figures(
                [windows for _, windows in with_figures],
                [work.hours.get(windows.open_hour) for work, windows in with_figures],
            )
        )
        for _, windows, evidence, summary in done:
            mine = [] if windows is None else next(figures)
            result.summaries.append(summary._replace(figures=mine, evidence=evidence))
        return result._replace(inserted=inserted, duplicates=duplicates, conflicts=conflicts)

    def _open(self, share: Taken, rows: Ints, now_s: float, lost_stores: dict[str, LostStore]) -> Work | None:
        """None where there is nothing to store or to tell. Raises StoreError."""
        path = store_file(self._settings.data_dir, share.vm_id)
        try:
            if not (share.rows or share.conflicts) and _has_nothing(Path(path), share):
                return None
            work = self._read(path, share, rows)
        except (sqlite3.Error, OSError, ValueError) as error:
            trouble = self._trouble(Path(path), error)
            if not trouble.corrupt or "newer than this program" in str(error):
                raise trouble from error
            return self._replace(share, rows, str(trouble), now_s, lost_stores)
        # Also after a crash between the making of the new store and its first commit.
        if work.share.had_history and work.facts.newest_hour is None and not work.facts.replaced:
            self._mark(work, LostStore("it was gone, or held nothing", None), now_s, lost_stores)
        return work

    def _trouble(self, path: Path, error: sqlite3.Error | OSError | ValueError) -> StoreError:
        """As `as_store_error`; and a statement that makes no sense to SQLite is damage if the tables are not ours."""
        trouble = as_store_error(error)
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
            return trouble
        try:
            with closing(connect_read_only(path)) as connection:
                damaged = not self._columns <= store_schema.columns(connection)
        except sqlite3.Error as worse:
            damaged = as_store_error(worse).corrupt or worse.sqlite_errorcode == sqlite3.SQLITE_ERROR
        return StoreError(str(trouble), corrupt=damaged)

    def _look_again(self, path: Path, share: Taken, rows: Ints) -> Work | None:
        """The store after all, if all of it can be read and holds; None where it is damaged.

        SQLite calls some failed reads of a bad disk damage, which it is not: that file may be well again tomorrow.

        Raises: StoreError: it cannot be read now.
        """
        try:
            read_through(path)
            work = self._read(path, share._replace(verify=True), rows)
        except (sqlite3.Error, OSError, ValueError) as error:
            trouble = self._trouble(path, error)
            if not trouble.corrupt:
                raise trouble from error
            return None
        if compute([work]):
            work.store.close()
            return None
        work.share = work.share._replace(verify=share.verify)
        return work

    @staticmethod
    def _mark(work: Work, lost: LostStore, now_s: float, lost_stores: dict[str, LostStore]) -> None:
        work.store.mark_replaced(now_s)
        work.facts = work.facts._replace(replaced=1)
        lost_stores[work.share.vm_id] = lost

    def _replace(self, share: Taken, rows: Ints, why: str, now_s: float, lost_stores: dict[str, LostStore]) -> Work:
        """Damaged for good: keeps the file for a person, starts anew, and says so in the summary. Raises StoreError."""
        path = store_path(self._settings.data_dir, share.vm_id)
        sound = self._look_again(path, share, rows)
        if sound is not None:
            return sound
        try:
            aside = move_aside(path, now_s)
            work = self._read(path, share, rows)
        except (sqlite3.Error, OSError) as error:
            raise as_store_error(error) from error
        self._mark(work, LostStore(why, str(aside)), now_s, lost_stores)
        return work

    def _read(self, path: Path | str, share: Taken, rows: Ints) -> Work:
        store, was_forgotten = Store.of_life(path, share.vm_id, self._template, share.life)
        try:
            if was_forgotten:
                share = share._replace(had_history=False)
            elif store.life > share.life:
                # Rows from before the VM was forgotten.
                share, rows = share._replace(rows=b"", conflicts=0, life=store.life), rows[:0]
            if share.verify:
                store.verify()
            facts = store.facts()
            new, repeated = by_time(rows)
            if facts.newest_hour is not None and len(new):
                new = self._without_forgotten(store, facts, new)
            touched = set(rollup.hours_of(new).tolist())
            windows = None
            if facts.newest_hour is not None:
                touched.add(facts.newest_hour)
                if self._needs_windows(share, facts, touched):
                    windows = self._windows(store, facts.newest_hour)
            checks, packed = store.checks(touched), store.packed_rows(touched)
        except BaseException:
            store.close()
            raise
        return Work(share, store, facts, windows, checks, packed, new, repeated)

    @staticmethod
    def _needs_windows(share: Taken, facts: Facts, touched: set[int]) -> bool:
        """Whether this flush reads figures or changes closed hours.

        A flush that only adds to the open hour of an older VM does neither: its figures stay as they were when the
        hour opened, which saves a quarter of the work of a flush and three of four writes to the fleet database.
        """
        if share.wants_figures or not share.rows or touched != {facts.newest_hour}:
            return True
        return (facts.newest_hour or 0) - (facts.oldest_hour or 0) < _YOUNG_HOURS

    def _windows(self, store: Store, newest_hour: int) -> Windows:
        windows = store.windows()
        if windows is None:
            raise DamagedError("windows: there are hours, but no sums of them")
        if windows.open_hour != newest_hour:
            raise DamagedError(f"windows: the sums are not of the newest hour, {hour_name(newest_hour)}")
        if windows.days == self._settings.windows_days:
            return windows
        # The profile and the daily totals reach back further than short windows.
        reach = 24 * max(*self._settings.windows_days, DAILY_DAYS)
        hours = store.stored_hours(newest_hour - reach, newest_hour)
        return rebuild(self._settings.windows_days, newest_hour, hours)

    def _without_forgotten(self, store: Store, facts: Facts, new: Ints) -> Ints:
        """Rows without those of hours whose raw rows were deleted by age.

        Only a replayed journal brings such rows, and they were stored before: the rollup of their hour stays whole.
        """
        # Where raw rows are kept for longer than they were, some that would be kept now are gone.
        oldest_kept = (facts.newest_hour or 0) - int(self._settings.raw_retention_s) // 3600
        oldest_kept = max(oldest_kept, (facts.raw_from_s or 0) // 3600 - 1)
        hours = rollup.hours_of(new)
        if hours[0] > oldest_kept:
            return new
        forgotten = store.forgotten_hours(int(hours[0]), oldest_kept)
        return new[~np.isin(hours, forgotten)] if forgotten else new

    def _compute(self, works: list[Work], now_s: float, result: ChunkResult) -> None:
        """Computes what is to be written; a store whose raw rows are not those that were written gives way to a new
        one."""
        for index, why in sorted(compute(works).items(), reverse=True):
            work = works[index]
            work.store.close()
            try:
                works[index] = self._replace_work(work, why, now_s, result.lost_stores)
            except StoreError as error:
                result.failures[work.share.vm_id] = str(error)
                del works[index]

    def _replace_work(self, work: Work, why: str, now_s: float, lost_stores: dict[str, LostStore]) -> Work:
        anew = self._replace(work.share, rollup.quantise(work.share.rows), why, now_s, lost_stores)
        compute([anew])
        return anew

    def _write_or_replace(
        self, works: list[Work], index: int, now_s: float, may_forget: bool, lost_stores: dict[str, LostStore]
    ) -> _Written | None:
        """`_write` of one VM; a store that shows only now to be damaged gives way to a new one. Raises StoreError."""
        work = works[index]
        try:
            return self._write(work, now_s, may_forget)
        except (sqlite3.Error, OSError, ValueError) as error:
            trouble = self._trouble(store_path(self._settings.data_dir, work.share.vm_id), error)
            if not trouble.corrupt:
                raise trouble from error
            why = str(trouble)
        work.store.close()
        anew = works[index] = self._replace_work(work, why, now_s, lost_stores)
        try:
            return self._write(anew, now_s, may_forget)
        except (sqlite3.Error, OSError, ValueError) as error:
            raise as_store_error(error) from error

    def _write(self, work: Work, now_s: float, may_forget: bool) -> _Written | None:
        """Writes hours and windows, commits; None for a VM that has never had a row.

        Returns: the window sums, None if this flush reads no figures; their bytes where they changed; the summary.
        """
        store, windows, facts = work.store, work.windows, work.facts
        open_hour = max(work.hours, default=-1)
        if facts.newest_hour is not None:
            open_hour = max(open_hour, facts.newest_hour)
        if open_hour < 0:
            store.commit()
            return None
        evidence = None
        if work.is_bare:
            _save_hours(work, open_hour)
        else:
            windows = windows or Windows.empty(self._settings.windows_days, open_hour)
            evidence = self._advance(work, windows, open_hour)
        store.save_rows(work.bodies)
        store.add_conflicts(work.conflicts)
        if work.newest is None:
            newest = store.newest_row()
        else:
            newest = dict(zip(SAMPLE_COLUMNS, work.newest.tolist(), strict=True))
        if newest is None:
            store.commit()
            return None
        oldest_hour = min([open_hour, *work.hours])
        if facts.oldest_hour is not None:
            oldest_hour = min(oldest_hour, facts.oldest_hour)
        if may_forget:
            reference_s = min(now_s, newest["ts"])
            raw_s = reference_s - self._settings.raw_retention_s
            # While none were deleted, the oldest rows are those of the oldest hour.
            raw_from_s = oldest_hour * 3600
            if facts.raw_from_s is not None:
                raw_from_s = min([facts.raw_from_s, *work.fresh[:1, 0].tolist()])
            if raw_from_s < raw_s - _FORGET_EVERY_S:
                store.forget_before(
                    raw_s=raw_s,
                    histograms_s=reference_s - self._histogram_retention_s,
                    hours_s=reference_s - self._hour_retention_s,
                )
        store.commit()
        summary = make_summary(
            work.share,
            newest,
            oldest_hour=oldest_hour,
            open_hour=open_hour,
            conflicts=facts.conflicts + work.conflicts,
            replaced=bool(facts.replaced),
        )
        return windows, evidence, summary

    @staticmethod
    def _advance(work: Work, windows: Windows, open_hour: int) -> bytes | None:
        """Takes closed hours into the sums and writes both; the sums' bytes, None where they did not change."""
        store, is_new = work.store, work.facts.newest_hour is None
        # Everything older than the open hour that was touched; before this flush the old open hour was not closed.
        closed = [hour for number, hour in work.hours.items() if number < open_hour]
        changes = bool(closed) or open_hour > windows.open_hour
        if changes:
            store.advance(windows, closed, open_hour)
        _save_hours(work, open_hour)
        if changes or is_new:
            store.renew_maxima(windows)
            evidence = windows.encode()
            store.save_windows(evidence)
            return evidence
        # A summary that is owed is owed whole.
        return None if work.share.rows and not work.share.wants_figures else windows.encode()


def _has_nothing(path: Path, share: Taken) -> bool:
    """Whether no store is to be opened, and so begun, of a VM that brings no rows; one of a life before goes.

    Raises: as `Store`.
    """
    if not path.exists():
        return not share.had_history
    if not share.life:
        return False
    with closing(connect_read_only(path)) as connection:
        if read_life(connection) >= share.life:
            return False
    delete_store(path)
    return True


def _save_hours(work: Work, open_hour: int) -> None:
    work.store.save_hours(
        list(work.hours.values()), work.hashes, work.checks, was_open=work.facts.newest_hour, open_hour=open_hour
    )


def _columns_of(template: bytes) -> frozenset[tuple[str, ...]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(template)
        return store_schema.columns(connection)


def make_summary(
    share: Taken, newest: Mapping[str, int], *, oldest_hour: int, open_hour: int, conflicts: int, replaced: bool
) -> Summary:
    """What the fleet database is to keep of a VM, its figures and evidence left out.

    Args:
        newest: the newest raw row by column, ABSENT where not measured.
        oldest_hour, open_hour: numbers of the first and the last hour.
        replaced: the store took the place of a lost one.
    """
    return Summary(
        vm_id=share.vm_id,
        oldest_s=oldest_hour * 3600,
        newest_s=newest["ts"],
        received_s=share.received_s,
        skew_s=share.skew_s,
        interval_s=newest["interval_s"],
        conflicts=conflicts,
        cpu_count=_known(newest["cpu_count"]),
        mem_total_bytes=_bytes(newest["mem_total"]),
        disk_total_bytes=_bytes(newest["disk_total"]),
        flags=flags_of(share.skew_s, identity_conflict=share.identity_conflict, replaced=replaced),
        figures=[],
        evidence_hour_s=open_hour * 3600,
        evidence=None,
        life=share.life,
    )


def _known(value: int) -> int | None:
    return None if value == ABSENT else value


def _bytes(steps: int) -> int | None:
    return None if steps == ABSENT else int(steps * _BYTES_QUANTUM)
