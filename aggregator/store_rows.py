"""The raw rows of a store: its table `rows`, an hour of them packed in each of its rows.

Those who only read also meet stores of before schema 3, where each raw row was one of the table `sample`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from aggregator.histogram import Ints
from aggregator.packed_rows import HOUR_S, pack, starts_of_hours, unpack
from aggregator.rollup import ABSENT, hours_of
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_checks import DamagedError, hour_name, packed

Packed = tuple[int, bytes]  # the number of an hour and its rows

LAST_HOUR = 1 << 50
_HOURS_AT_A_TIME = 168  # of minutes: 10,000 rows; bounds memory where raw rows are kept for a year
_ROWS_AT_A_TIME = 4096
_NO_ROWS: Ints = np.zeros((0, len(SAMPLE_COLUMNS)), np.int64)
_PACKED_SINCE = 3
# A table without indices but its key: to name the columns costs more than to read them.
_SELECT = "SELECT * FROM rows WHERE hour_s BETWEEN ? AND ? ORDER BY hour_s"
_UPSERT = "INSERT OR REPLACE INTO rows VALUES (?, ?)"
# NULL where there must be a number stays one, so that it shows.
_CELLS = ", ".join(name if name in ("ts", "interval_s") else f"ifnull({name}, {ABSENT})" for name in SAMPLE_COLUMNS)
_SELECT_SAMPLES = f"SELECT {_CELLS} FROM sample WHERE ts > ? AND ts <= ? ORDER BY ts"


def read_packed(connection: sqlite3.Connection, first: int, last: int) -> list[Packed]:
    """Hours `first` to `last`, both included, that have rows, rising."""
    found = connection.execute(_SELECT, (first * HOUR_S, last * HOUR_S))
    return [_packed_hour(row) for row in found]


def write_packed(connection: sqlite3.Connection, hours: Mapping[int, bytes]) -> None:
    """Puts these rows in the place of those that their hours had."""
    connection.executemany(_UPSERT, [(hour * HOUR_S, body) for hour, body in hours.items()])


def _packed_hour(row: tuple[int, bytes]) -> Packed:
    hour_s, body = row
    if hour_s % HOUR_S:
        raise DamagedError(f"rows: {hour_s} is not the start of an hour")
    return hour_s // HOUR_S, body


def unpacked(hours: Sequence[Packed]) -> Ints:
    """The rows of hours of one VM: (n, len(SAMPLE_COLUMNS)) by rising ts.

    Raises: DamagedError: names the first hour that cannot be read.
    """
    try:
        return unpack(hours)[0]
    except ValueError:
        for hour, body in hours:
            problem = problem_of(hour, body)
            if problem is not None:
                raise DamagedError(problem) from None
        raise


def problem_of(hour: int, body: bytes) -> str | None:
    """What is wrong with the packed rows of an hour, in words; None where they can be read."""
    try:
        unpack([(hour, body)])
    except ValueError as error:
        return f"rows: hour {hour_name(hour)}: {error}"
    return None


def packed_hours(table: Ints) -> dict[int, bytes]:
    """One VM's rows by rising ts as the hours of the table."""
    first = starts_of_hours(table)
    return dict(zip(hours_of(table[first]).tolist(), pack(table, first), strict=True))


def read_rows(connection: sqlite3.Connection, first: int = -LAST_HOUR, last: int = LAST_HOUR) -> Iterator[Ints]:
    """Rows of the hours `first` to `last`, both included, of a store of any schema, in pieces of whole hours.

    Raises: DamagedError: they cannot be read.
    """
    if is_packed(connection):
        cursor = connection.execute(_SELECT, (first * HOUR_S, last * HOUR_S))
        while found := cursor.fetchmany(_HOURS_AT_A_TIME):
            yield unpacked([_packed_hour(row) for row in found])
    else:
        yield from read_samples_table(connection, first, last)


def rows_between(connection: sqlite3.Connection, first: int, last: int) -> Ints:
    """The same as one table."""
    return np.concatenate([_NO_ROWS, *read_rows(connection, first, last)])


def read_samples_table(connection: sqlite3.Connection, first: int, last: int) -> Iterator[Ints]:
    """The same of a store of before schema 3."""
    cursor = connection.execute(_SELECT_SAMPLES, (first * HOUR_S, (last + 1) * HOUR_S))
    held = _NO_ROWS
    while found := cursor.fetchmany(_ROWS_AT_A_TIME):
        table = np.frombuffer(packed("sample", found), "<i8").reshape(len(found), len(SAMPLE_COLUMNS))
        table = np.concatenate((held, table))
        # The last hour may go on.
        cut = int(starts_of_hours(table)[-1])
        if cut:
            yield table[:cut]
        held = table[cut:]
    if len(held):
        yield held


def ends_of_rows(connection: sqlite3.Connection) -> tuple[int, int] | None:
    """ts of the oldest and of the newest raw row of a store of any schema; None without any. Raises DamagedError."""
    if not is_packed(connection):
        oldest_s, newest_s = connection.execute("SELECT min(ts), max(ts) FROM sample").fetchone()
        return None if oldest_s is None else (oldest_s, newest_s)
    ends = connection.execute(
        "SELECT * FROM rows WHERE hour_s IN ((SELECT min(hour_s) FROM rows), (SELECT max(hour_s) FROM rows)) "
        "ORDER BY hour_s"
    ).fetchall()
    if not ends:
        return None
    table = unpacked([_packed_hour(row) for row in ends])
    return int(table[0, 0]), int(table[-1, 0])


def count_rows(connection: sqlite3.Connection) -> int:
    """How many raw rows a store of any schema has."""
    if is_packed(connection):
        query = "SELECT ifnull(sum(samples), 0) FROM hour WHERE hour_s IN (SELECT hour_s FROM rows)"
    else:
        query = "SELECT count(*) FROM sample"
    count: int = connection.execute(query).fetchone()[0]
    return count


def newest_row(connection: sqlite3.Connection) -> Ints | None:
    """The newest raw row, None without any. Raises DamagedError: its hour cannot be read."""
    found = connection.execute("SELECT * FROM rows ORDER BY hour_s DESC LIMIT 1").fetchone()
    return None if found is None else unpacked([_packed_hour(found)])[-1]


def is_packed(connection: sqlite3.Connection) -> bool:
    """Whether a store has the table `rows`; before schema 3 there was a table `sample`."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version >= _PACKED_SINCE


def pack_samples(connection: sqlite3.Connection) -> None:
    """Fills `rows` from `sample`; part of a migration, so it may never change."""
    for table in read_samples_table(connection, -LAST_HOUR, LAST_HOUR):
        write_packed(connection, packed_hours(table))


def hours_with_rows(connection: sqlite3.Connection, first: int, last: int) -> set[int]:
    """Those of the hours `first` to `last`, both included, that have raw rows."""
    found = connection.execute("SELECT hour_s FROM rows WHERE hour_s BETWEEN ? AND ?", (first * HOUR_S, last * HOUR_S))
    return {hour_s // HOUR_S for (hour_s,) in found}


def delete_rows(connection: sqlite3.Connection, hours: Iterable[int]) -> None:
    """Deletes the raw rows of these hours."""
    connection.executemany("DELETE FROM rows WHERE hour_s = ?", [(hour * HOUR_S,) for hour in hours])
