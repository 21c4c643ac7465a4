"""A store that takes another's in: hours and rows of a second store of the same VM, inside one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from aggregator import store_hours, store_rows, store_schema, store_verify
from aggregator.histogram import encode_bins
from aggregator.store import Store
from aggregator.store_checks import DamagedError, crc_of_body, sum_of_crcs
from aggregator.store_hours import HOUR_COLUMNS
from aggregator.store_row import read_row

_CELLS = (*HOUR_COLUMNS, "rows_hash", "crc")
_SELECT_CELLS = f"SELECT {', '.join(_CELLS)} FROM hour WHERE hour_s = ?"
_INSERT_CELLS = f"INSERT OR REPLACE INTO hour ({', '.join(_CELLS)}) VALUES ({', '.join('?' * len(_CELLS))})"
_SELECT_BODY = "SELECT body, crc FROM hour_histogram WHERE hour_s = ?"
_INSERT_BODY = "INSERT OR REPLACE INTO hour_histogram (hour_s, body, crc) VALUES (?, ?, ?)"
# Made in the few stores that need it, and gone again when the last part is settled. As CREATE TABLE is undone by a
# rollback, so is all of a join.
_MAKE_TAKEN = (
    "CREATE TABLE taken_part (node TEXT PRIMARY KEY, change INTEGER NOT NULL, conflicts INTEGER NOT NULL) STRICT"
)
_HAS_TAKEN = "SELECT 1 FROM sqlite_master WHERE name = 'taken_part'"
_CHANGE_COUNTER = slice(24, 28)  # of the header of a file of SQLite
_NO_BINS = encode_bins(np.zeros(0, np.int64), np.zeros(0, np.int64))


class Outline(NamedTuple):
    """The hours of a store from one to another.

    Attributes:
        covered: hour → seconds that its samples cover.
        raw: those of which there are raw rows.
    """

    covered: dict[int, int]
    raw: set[int]


@contextmanager
def open_part(body: bytes, vm_id: str) -> Iterator[JoiningStore]:
    """A part in memory, brought to this program's schema and held against all of its sums.

    Raises: DamagedError, ValueError, sqlite3.Error: it is no sound store of this VM, or newer than this program.
    """
    if not body:
        raise DamagedError("store: the file is empty")
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.deserialize(body)
        store_schema.migrate(connection)
        row, _ = read_row(connection)
        if row.vm_id not in (None, vm_id):
            raise DamagedError(f"store: is of {row.vm_id}")
        store_verify.verify(connection)
        yield JoiningStore.over(connection, vm_id)
    finally:
        connection.close()


def change_of(body: bytes) -> int:
    """How often a file of SQLite was changed; a store that was begun anew starts from the beginning."""
    return int.from_bytes(body[_CHANGE_COUNTER], "big")


class JoiningStore(Store):
    """A store with what joining asks of either side."""

    def ends(self) -> tuple[int, int] | None:
        """Numbers of the first and the last hour that there are now, None without any."""
        first, last = self._connection.execute("SELECT min(hour_s), max(hour_s) FROM hour").fetchone()
        return None if first is None else (first // 3600, last // 3600)

    def outline(self, first: int, last: int) -> Outline:
        """Of the hours `first` to `last`, both included."""
        span = (first * 3600, last * 3600)
        covered = self._connection.execute(
            "SELECT hour_s / 3600, covered_s FROM hour WHERE hour_s BETWEEN ? AND ?", span
        )
        return Outline(dict(covered.fetchall()), store_rows.hours_with_rows(self._connection, first, last))

    @property
    def replaced_s(self) -> int | None:
        """When it took the place of a lost store."""
        return self._row.replaced_s

    def carry(self, part: JoiningStore) -> None:
        """Takes over what makes the part as a whole doubtful."""
        if self._row.replaced_s is None and part.replaced_s is not None:
            self.mark_replaced(part.replaced_s)

    def delete_rows(self, hours: Iterable[int]) -> None:
        """Deletes the raw rows of these hours; the hours stay."""
        store_rows.delete_rows(self._connection, hours)

    def without_rows(self, hours: Collection[int]) -> None:
        """Notes that raw rows of these hours, and of any before, may be gone."""
        if hours:
            from_s = (max(hours) + 1) * 3600
            self._row = self._row._replace(raw_from_s=max(from_s, self._row.raw_from_s or 0))

    def take_over(
        self, part: JoiningStore, hours: Sequence[int], *, was_open: int | None, needs_bins_from: int
    ) -> None:
        """Puts closed hours of the part in the place of our own, cell by cell.

        Args:
            was_open: our open hour before, None without any.
            needs_bins_from: later hours are subtracted from windows one day, so that each must have a histogram, if
                only an empty one; a part lacks it where its node has shorter windows.
        """
        before = store_hours.read_checks(self._connection, [hour for hour in hours if hour != was_open])
        gone = [one.crc for one in before.values()]
        bins_gone = [one.histogram_crc for one in before.values() if one.histogram_crc is not None]
        cells = [part._connection.execute(_SELECT_CELLS, (hour * 3600,)).fetchone() for hour in hours]
        bodies = []
        for hour in hours:
            found = part._connection.execute(_SELECT_BODY, (hour * 3600,)).fetchone()
            if found is None and hour >= needs_bins_from:
                found = _NO_BINS, crc_of_body(hour * 3600, _NO_BINS)
            if found is not None:
                bodies.append((hour * 3600, *found))
        self._connection.executemany("DELETE FROM hour_histogram WHERE hour_s = ?", [(hour * 3600,) for hour in hours])
        self._connection.executemany(_INSERT_CELLS, cells)
        self._connection.executemany(_INSERT_BODY, bodies)
        row = self._row
        self._row = row._replace(
            hours_sum=row.hours_sum + sum_of_crcs([one[-1] for one in cells]) - sum_of_crcs(gone),
            histograms_sum=row.histograms_sum + sum_of_crcs([one[-1] for one in bodies]) - sum_of_crcs(bins_gone),
        )

    # Conflicts of a part count once, however often it is joined: what was counted of it stands here until it is gone.

    def count_conflicts_of(self, node: str, *, change: int, conflicts: int) -> None:
        """Adds the conflicts of a node's part, less those that were counted of it before.

        Args:
            change: `change_of` the part. One that is smaller than at the last time is another store.
            conflicts: those that the part counted itself, and its rows that differ from ours.
        """
        taken = self._taken(node)
        counted = taken[1] if taken is not None and taken[0] <= change else 0
        self.add_conflicts(max(0, conflicts - counted))
        if taken == (change, conflicts) or (taken is None and not conflicts):
            return
        if not self._connection.execute(_HAS_TAKEN).fetchone():
            self._connection.execute(_MAKE_TAKEN)
        self._connection.execute("INSERT OR REPLACE INTO taken_part VALUES (?, ?, ?)", (node, change, conflicts))

    def settle(self, node: str) -> None:
        """Forgets what was counted of a node's part: that part is gone."""
        if self._taken(node) is None:
            return
        self._connection.execute("DELETE FROM taken_part WHERE node = ?", (node,))
        if not self._connection.execute("SELECT 1 FROM taken_part").fetchone():
            self._connection.execute("DROP TABLE taken_part")

    def _taken(self, node: str) -> tuple[int, int] | None:
        if not self._connection.execute(_HAS_TAKEN).fetchone():
            return None
        found: tuple[int, int] | None = self._connection.execute(
            "SELECT change, conflicts FROM taken_part WHERE node = ?", (node,)
        ).fetchone()
        return found

    @property
    def conflicts(self) -> int:
        """Samples refused ever, those of this transaction included."""
        return self._row.conflicts
