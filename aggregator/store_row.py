"""The one row of the table `store`: what a store says of itself as a whole, with its CRC."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from aggregator.store_checks import DamagedError, crc_of_cells
from aggregator.store_hours import CELL_COUNT, SELECT_OPEN, Cells

_COLUMNS = ("conflicts", "replaced_s", "vm_id", "raw_from_s", "hours_sum", "histograms_sum")
# With the ends of the other tables: each statement costs a flush more than what it reads.
_SELECT = f"SELECT {', '.join(_COLUMNS)}, crc, (SELECT min(hour_s) FROM hour) FROM store WHERE id = 1"
_CRC = len(_COLUMNS)
_UPDATE = f"UPDATE store SET {', '.join(f'{name} = ?' for name in _COLUMNS)}, crc = ? WHERE id = 1"


class StoreRow(NamedTuple):
    """A store as a whole.

    Attributes:
        conflicts: samples refused ever because another with their ts was first.
        replaced_s: when it took the place of a damaged or vanished one, None if it never did.
        vm_id: whose it is, where one of the other two was ever set.
        raw_from_s: raw rows of hours that began before were deleted by age; None while none were.
        hours_sum, histograms_sum: of the CRCs of the closed hours and of the histograms.
    """

    conflicts: int
    replaced_s: int | None
    vm_id: str | None
    raw_from_s: int | None
    hours_sum: int
    histograms_sum: int


class Ends(NamedTuple):
    """Where the tables of a store begin and end; None of one without rows.

    Attributes:
        oldest_hour_s: of the hours.
        open_cells: the newest hour, not yet held against its CRC.
    """

    oldest_hour_s: int | None
    open_cells: Cells | None

    @property
    def newest_hour_s(self) -> int | None:
        """Of the hours."""
        return None if self.open_cells is None else self.open_cells[0]


def read_row(connection: sqlite3.Connection) -> tuple[StoreRow, Ends]:
    """Raises DamagedError: it is gone, or not what was written."""
    found = connection.execute(_SELECT).fetchone()
    if found is None:
        raise DamagedError("store: the table is empty")
    cells = found[:_CRC]
    if crc_of_cells(cells) != found[_CRC]:
        raise DamagedError("store: its row is not what was written")
    (oldest_hour_s,) = found[_CRC + 1 :]
    open_cells = None if oldest_hour_s is None else connection.execute(SELECT_OPEN).fetchone()
    if open_cells and (len(open_cells) != CELL_COUNT or not isinstance(open_cells[0], int)):
        raise DamagedError("hour: its columns are not those that were made")
    return StoreRow(*cells), Ends(oldest_hour_s, open_cells)


def write_row(connection: sqlite3.Connection, row: StoreRow) -> None:
    connection.execute(_UPDATE, (*row, crc_of_cells(row)))
