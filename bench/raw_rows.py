"""Raw rows of a store as a table for SQL, for questions without the program's own arithmetic."""

from __future__ import annotations

import sqlite3

from aggregator.rollup import ABSENT
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_rows import read_rows

Row = tuple[int | None, ...]


def raw_rows(store: sqlite3.Connection) -> list[Row]:
    """All raw rows of a store by rising ts, in the order of SAMPLE_COLUMNS; None for what was not measured.

    Raises: DamagedError: they cannot be read.
    """
    return [
        tuple(None if cell == ABSENT else cell for cell in row) for table in read_rows(store) for row in table.tolist()
    ]


def put_samples(store: sqlite3.Connection, target: sqlite3.Connection | None = None) -> None:
    """Makes a temporary table `sample` of all raw rows, for this connection or another one. Raises: DamagedError."""
    to = store if target is None else target
    to.execute("DROP TABLE IF EXISTS temp.sample")
    columns = ", ".join(f"{name} INTEGER{' PRIMARY KEY' * (name == 'ts')}" for name in SAMPLE_COLUMNS)
    to.execute(f"CREATE TEMP TABLE sample ({columns}) STRICT")
    to.executemany(f"INSERT INTO temp.sample VALUES ({', '.join('?' * len(SAMPLE_COLUMNS))})", raw_rows(store))
