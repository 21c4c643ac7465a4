"""One VM's store: a SQLite file with its raw rows, its hours and the running sums of its windows.

A store has one writer at a time, a flush worker; anybody may read. It commits with synchronous=FULL in one transaction
a flush: after a crash it holds all of a flush or none of it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from aggregator import store_hours, store_rows, store_schema, store_verify
from aggregator.histogram import Ints
from aggregator.rollup import Hour
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_checks import sum_of_crcs
from aggregator.store_files import StoreError, as_store_error, delete_store
from aggregator.store_hours import HourChecks
from aggregator.store_life import read_life, write_life
from aggregator.store_row import read_row, write_row
from aggregator.store_rows import Packed
from aggregator.windows import Windows, reach_hours

_SELECT_FORGOTTEN = "SELECT hour_s FROM hour WHERE hour_s BETWEEN ? AND ? AND hour_s NOT IN (SELECT hour_s FROM rows)"


class Facts(NamedTuple):
    """A store as a whole.

    Attributes:
        conflicts: samples refused ever because another with their ts was first.
        replaced: it took the place of a damaged or vanished one (0 or 1).
        oldest_hour, newest_hour: numbers of the first and last hour that it remembers, None without any.
        raw_from_s: raw rows of hours that began before were deleted by age; None while none were.
    """

    conflicts: int
    replaced: int
    oldest_hour: int | None
    newest_hour: int | None
    raw_from_s: int | None


class Store:
    """An open store inside one transaction: read, write, then `commit` or `close`.

    What reads raises DamagedError, a ValueError, where it meets what was not written so.

    Attributes: life: of the VM, whose rows these are; see `aggregator.lives`.
    """

    def __init__(self, path: Path | str, vm_id: str, template: bytes) -> None:
        """Opens, creating the store where there is none.

        Raises: sqlite3.Error, OSError: it cannot be opened; ValueError: it is newer than this program.
        """
        self._vm_id = vm_id
        try:
            missing = not os.stat(path).st_size
        except FileNotFoundError:
            missing = True
        if missing:
            _create(Path(path), template)
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10.0, cached_statements=32)
        try:
            # First of all: each statement outside a transaction would lock the file and look for a journal anew.
            self._connection.execute("BEGIN IMMEDIATE")
            # Made once a store: creating and deleting the rollback journal at each commit costs a fifth of a flush.
            self._connection.execute("PRAGMA journal_mode = TRUNCATE")
            if self._connection.execute("PRAGMA user_version").fetchone()[0] != store_schema.SCHEMA_VERSION:
                self._connection.execute("ROLLBACK")
                store_schema.migrate(self._connection)
                self._connection.execute("BEGIN IMMEDIATE")
            self.life = read_life(self._connection)
            self._row, self._ends = read_row(self._connection)
            self._written = self._row
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def of_life(cls, path: Path | str, vm_id: str, template: bytes, life: int) -> tuple[Self, bool]:
        """The store of a VM and whether it is new because the VM was forgotten: one of an earlier life goes.

        Raises: as the constructor.
        """
        store = cls(path, vm_id, template)
        if store.life >= life:
            return store, False
        is_empty = store._ends.newest_hour_s is None and store._row.vm_id is None
        if not is_empty:
            store.close()
            delete_store(Path(path))
            store = cls(path, vm_id, template)
        write_life(store._connection, life)
        store.life = life
        return store, not is_empty

    @classmethod
    def over(cls, connection: sqlite3.Connection, vm_id: str) -> Self:
        """A store to read through a connection that its maker closes."""
        store = cls.__new__(cls)
        store._vm_id = vm_id
        store._connection = connection
        store.life = read_life(connection)
        store._row, store._ends = read_row(connection)
        store._written = store._row
        return store

    def close(self) -> None:
        """Rolls back what was not committed."""
        self._connection.close()

    def commit(self) -> None:
        """Makes everything since the opening durable and closes the store."""
        if self._row != self._written:
            write_row(self._connection, self._row)
        self._connection.execute("COMMIT")
        self._connection.close()

    def windows(self) -> Windows | None:
        """The running sums, or None in a store that has none yet. Raises ValueError: they are damaged."""
        found = self._connection.execute("SELECT body FROM windows WHERE id = 1").fetchone()
        return Windows.decode(found[0]) if found else None

    def save_windows(self, body: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO windows (id, body) VALUES (1, ?)", (body,))

    def verify(self) -> None:
        """Holds all that the store holds against the sums that were written with it. Raises DamagedError."""
        store_verify.verify(self._connection)

    def checks(self, hours: Iterable[int]) -> dict[int, HourChecks]:
        """What those of these hours that there are keep to be verified by; the open one is held against its CRC."""
        cells = self._ends.open_cells
        if cells is None:
            return {}
        newest = cells[0] // 3600
        older = [hour for hour in hours if hour < newest]
        found = store_hours.read_checks(self._connection, older) if older else {}
        store_hours.verify_cells(cells)
        # It is open, so it has no histogram.
        return {**found, newest: store_hours.checks_of(cells)}

    def packed_rows(self, hours: Iterable[int]) -> list[Packed]:
        """Raw rows of those of the given hours that have any, rising: neither unpacked nor held against `checks`."""
        found: list[Packed] = []
        for first, last in _runs(hours):
            found += store_rows.read_packed(self._connection, first, last)
        return found

    def rows_of_hours(self, hours: Iterable[int]) -> Ints:
        """Raw rows of the given hours, by rising ts: not yet held against `checks`. Raises DamagedError."""
        return store_rows.unpacked(self.packed_rows(hours))

    def save_rows(self, hours: Mapping[int, bytes]) -> None:
        """Puts packed rows in the place of those that their hours had."""
        store_rows.write_packed(self._connection, hours)

    def add_conflicts(self, conflicts: int) -> None:
        """Adds to the number of refused samples."""
        if conflicts:
            self._row = self._row._replace(conflicts=self._row.conflicts + conflicts, vm_id=self._vm_id)

    def mark_replaced(self, now_s: float) -> None:
        """Notes that this store took the place of one that was damaged or is gone."""
        self._row = self._row._replace(replaced_s=int(now_s), vm_id=self._vm_id)

    def accept(self) -> None:
        """Takes that note back: a person has looked."""
        self._row = self._row._replace(replaced_s=None)

    def save_hours(
        self,
        hours: Sequence[Hour],
        hashes: Mapping[int, int],
        checks: Mapping[int, HourChecks],
        *,
        was_open: int | None,
        open_hour: int,
    ) -> None:
        """Writes rollups; histograms only of closed hours, since the open one is computed anew each time.

        Args:
            hashes: sum of the hashes of each hour's raw rows.
            checks: of these hours, as they were.
            was_open: the open hour before, None in a store without any.
        """
        crcs = store_hours.write_hours(self._connection, hours, [hashes[hour.number] for hour in hours])
        closed = [(hour, crc) for hour, crc in zip(hours, crcs, strict=True) if hour.number < open_hour]
        if not closed:
            return
        histogram_crcs = store_hours.write_histograms(self._connection, [hour for hour, _ in closed])
        before = [checks[hour.number] for hour, _ in closed if hour.number in checks and hour.number != was_open]
        hours_sum = sum_of_crcs([crc for _, crc in closed]) - sum_of_crcs([one.crc for one in before])
        histograms_sum = sum_of_crcs(histogram_crcs) - sum_of_crcs(
            [one.histogram_crc for one in before if one.histogram_crc is not None]
        )
        self._row = self._row._replace(
            hours_sum=self._row.hours_sum + hours_sum, histograms_sum=self._row.histograms_sum + histograms_sum
        )

    def stored_hours(self, first: int, last: int) -> list[Hour]:
        """Closed hours `first` to `last`, both included, that still have their histogram, rising."""
        return store_hours.read_hours(self._connection, first, last)

    def stored_hours_of(self, numbers: Sequence[int]) -> list[Hour]:
        """Those of these closed hours that there are, in no order; a missing histogram is damage."""
        return store_hours.read_hours_of(self._connection, numbers)

    def forgotten_hours(self, first: int, last: int) -> list[int]:
        """Hours `first` to `last` that have a rollup but no raw rows any more."""
        found = self._connection.execute(_SELECT_FORGOTTEN, (first * 3600, last * 3600))
        return [hour_s // 3600 for (hour_s,) in found]

    def maxima(self, first: int, end: int) -> Ints:
        """Largest value of each metric in each of the hours `first` to `end` - 1: (hours, metrics), ABSENT for none."""
        return store_hours.maxima_between(self._connection, first, end)

    def advance(self, windows: Windows, closed: Sequence[Hour], open_hour: int) -> None:
        """Takes hours that closed or changed into the sums; before `save_hours`, which overwrites what they replace."""
        # Further back the sums hold nothing, and histograms are gone.
        first = windows.open_hour - reach_hours(windows.days)
        replaced = [hour.number for hour in closed if first <= hour.number < windows.open_hour]
        due = {number for first, last in windows.expiring(open_hour) for number in range(first, last + 1)}
        old = {hour.number: hour for hour in self.stored_hours_of(sorted(due.union(replaced)))}
        windows.advance(open_hour, old, replaced, closed)

    def renew_maxima(self, windows: Windows) -> None:
        """Reads those anew that left their window; after `save_hours`."""
        for window in windows.stale():
            windows.renew_maxima(window, self.maxima(windows.first_hour(window), windows.open_hour))

    def newest_row(self) -> dict[str, int] | None:
        """The newest sample by column, ABSENT where not measured, or None."""
        found = store_rows.newest_row(self._connection)
        return None if found is None else dict(zip(SAMPLE_COLUMNS, found.tolist(), strict=True))

    def facts(self) -> Facts:
        """What the store said of itself as a whole when it was opened."""
        row, ends = self._row, self._ends
        oldest_hour, newest_hour = (_hour(hour_s) for hour_s in (ends.oldest_hour_s, ends.newest_hour_s))
        replaced = int(row.replaced_s is not None)
        return Facts(row.conflicts, replaced, oldest_hour, newest_hour, row.raw_from_s)

    def forget_before(self, *, raw_s: float, histograms_s: float, hours_s: float) -> None:
        """Deletes whole hours that ended before each limit, an hour later than due: no row of a retry is refused and
        yet finds its hour gone."""
        limits = (int(limit_s) // 3600 * 3600 - 3600 for limit_s in (raw_s, histograms_s, hours_s))
        raw, histograms, hours = limits
        self._connection.execute("DELETE FROM rows WHERE hour_s <= ?", (raw - 3600,))
        row = self._row
        self._row = row._replace(
            raw_from_s=max(raw, row.raw_from_s or 0),
            histograms_sum=row.histograms_sum
            - store_hours.forget_hours(self._connection, "hour_histogram", histograms - 3600),
            hours_sum=row.hours_sum - store_hours.forget_hours(self._connection, "hour", hours - 3600),
        )


def _hour(hour_s: int | None) -> int | None:
    return None if hour_s is None else hour_s // 3600


def accept(path: Path, vm_id: str) -> bool:
    """Takes back the note that a store took the place of a lost one; whether it had one.

    Raises: StoreError: it is absent, damaged or locked.
    """
    if not path.exists():
        raise StoreError("there is no store", corrupt=False)
    try:
        store = Store(path, vm_id, b"")
        was_replaced = bool(store.facts().replaced)
        store.accept()
        store.commit()
    except (sqlite3.Error, OSError, ValueError) as error:
        raise as_store_error(error) from error
    return was_replaced


def _create(path: Path, template: bytes) -> None:
    """Puts a whole, durable, empty store in place: a crash leaves either none or this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Path(f"{path}-journal")
    if journal.exists():
        # Of a store that is gone: SQLite would roll it back into the new one. What is in it may be all that is left.
        journal.rename(f"{journal}.orphan") if journal.stat().st_size else journal.unlink()
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(template)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Consecutive numbers as (first, last) pairs."""
    first = last = None
    for number in sorted(set(numbers)):
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None and last is not None:
            yield first, last
        first = last = number
    if first is not None and last is not None:
        yield first, last
