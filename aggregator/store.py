"""One VM's store: a SQLite file with its raw rows, its hours and the running sums of its windows.

A store has one writer at a time, a flush worker; anybody may read. It commits with synchronous=FULL in one transaction
a flush: after a crash it holds all of a flush or none of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent.sample import FIELDS
from aggregator import store_schema
from aggregator.histogram import Ints, decode_bins, encode_bins
from aggregator.rollup import ABSENT, Hour
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_files import SELECT_SAMPLES
from aggregator.summary import METRICS
from aggregator.windows import Windows

_METRIC_COUNT = len(METRICS)
_HOURS_A_QUERY = 500
_METRIC_NUMBER = {metric.name: number for number, metric in enumerate(METRICS)}
_REQUIRED = {"ts", "interval_s", *(field.column for field in FIELDS if field.required)}
# What hours are made of; the other columns need not be read back at every flush.
_ROLLED = (
    *("ts", "interval_s", "cpu_busy", "cpu_max", "mem_total", "mem_used", "disk_total", "disk_used"),
    *("disk_read", "disk_write", "net_rx", "net_tx", "users"),
)
_ROLLED_INDEX = np.array([SAMPLE_COLUMNS.index(name) for name in _ROLLED])

_SELECT_ROLLED = (
    "SELECT "
    + ", ".join(name if name in _REQUIRED else f"ifnull({name}, {ABSENT})" for name in _ROLLED)
    + " FROM sample WHERE ts > ? AND ts <= ? ORDER BY ts"
)
# Tables are written in the order of their columns: matching 20 names costs more than binding 20 values.
_INSERT_SAMPLE = f"INSERT OR IGNORE INTO sample VALUES ({', '.join('?' * len(SAMPLE_COLUMNS))})"
_UPSERT_HOUR = f"INSERT OR REPLACE INTO hour VALUES ({', '.join('?' * len(store_schema.HOUR_COLUMNS))})"
_SELECT_HOURS = (
    f"SELECT {', '.join(f'hour.{name}' for name in store_schema.HOUR_COLUMNS)}, hour_histogram.body "
    "FROM hour JOIN hour_histogram USING (hour_s) WHERE hour.hour_s "
)
_SELECT_MAXIMA = (
    f"SELECT {', '.join(f'ifnull({metric.name}_max, {ABSENT})' for metric in METRICS)} "
    "FROM hour WHERE hour_s >= ? AND hour_s < ?"
)


_SELECT_FORGOTTEN = (
    "SELECT hour_s FROM hour WHERE hour_s BETWEEN ? AND ? "
    "AND NOT EXISTS (SELECT 1 FROM sample WHERE ts > hour_s AND ts <= hour_s + 3600)"
)
_SELECT_FACTS = (
    "SELECT conflicts, replaced_s IS NOT NULL, (SELECT min(ts) FROM sample), "
    "(SELECT min(hour_s) / 3600 FROM hour), (SELECT max(hour_s) / 3600 FROM hour) "
    "FROM store WHERE id = 1"
)


class Facts(NamedTuple):
    """A store as a whole.

    Attributes:
        conflicts: samples refused ever because another with their ts was first.
        replaced: it took the place of a damaged store (0 or 1).
        oldest_ts: of the raw rows, None without any.
        oldest_hour, newest_hour: numbers of the first and last hour that it remembers, None without any.
    """

    conflicts: int
    replaced: int
    oldest_ts: int | None
    oldest_hour: int | None
    newest_hour: int | None


class Store:
    """An open store inside one transaction: read, write, then `commit` or `close`."""

    def __init__(self, path: Path, vm_id: str, template: bytes) -> None:
        """Opens, creating the store where there is none.

        Raises: sqlite3.Error, OSError: it cannot be opened; ValueError: it is newer than this program.
        """
        self._vm_id = vm_id
        try:
            missing = not os.stat(path).st_size
        except FileNotFoundError:
            missing = True
        if missing:
            _create(path, template)
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10.0, cached_statements=32)
        try:
            # Made once a store: creating and deleting the rollback journal at each commit costs a fifth of a flush.
            self._connection.execute("PRAGMA journal_mode = TRUNCATE")
            # First of all: each statement outside a transaction would lock the file and look for a journal anew.
            self._connection.execute("BEGIN IMMEDIATE")
            if self._connection.execute("PRAGMA user_version").fetchone()[0] != store_schema.SCHEMA_VERSION:
                self._connection.execute("ROLLBACK")
                store_schema.migrate(self._connection)
                self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def over(cls, connection: sqlite3.Connection, vm_id: str) -> Store:
        """A store to read through a connection that its maker closes."""
        store = cls.__new__(cls)
        store._vm_id = vm_id
        store._connection = connection
        return store

    def close(self) -> None:
        """Rolls back what was not committed."""
        self._connection.close()

    def commit(self) -> None:
        """Makes everything since the opening durable and closes the store."""
        self._connection.execute("COMMIT")
        self._connection.close()

    def windows(self) -> Windows | None:
        """The running sums, or None in a store that has none yet. Raises ValueError: they are damaged."""
        found = self._connection.execute("SELECT body FROM windows WHERE id = 1").fetchone()
        return Windows.decode(found[0]) if found else None

    def save_windows(self, body: bytes) -> None:
        self._connection.execute("INSERT OR REPLACE INTO windows (id, body) VALUES (1, ?)", (body,))

    def rows_of_hours(self, hours: Iterable[int]) -> Ints:
        """Raw rows of the given hours, by rising ts; only the columns that hours are made of, the others ABSENT."""
        found: list[tuple[int, ...]] = []
        for first, last in _runs(hours):
            found += self._connection.execute(_SELECT_ROLLED, (first * 3600, (last + 1) * 3600)).fetchall()
        table = np.full((len(found), len(SAMPLE_COLUMNS)), ABSENT, np.int64)
        if found:
            table[:, _ROLLED_INDEX] = np.array(found, np.int64)
        return table

    def insert(self, table: Ints) -> int:
        """Adds rows whose ts is new; returns how many were."""
        rows = [[None if value == ABSENT else value for value in row] for row in table.tolist()]
        return self._connection.executemany(_INSERT_SAMPLE, rows).rowcount

    def differing(self, table: Ints) -> int:
        """How many of these rows differ from the stored row of the same ts."""
        count = 0
        for row in table.tolist():
            stored = self._connection.execute(SELECT_SAMPLES, (row[0], row[0])).fetchone()
            count += stored != tuple(None if value == ABSENT else value for value in row)
        return count

    def add_conflicts(self, conflicts: int) -> None:
        """Adds to the number of refused samples."""
        if conflicts:
            self._connection.execute(
                "UPDATE store SET conflicts = conflicts + ?, vm_id = ? WHERE id = 1", (conflicts, self._vm_id)
            )

    def mark_replaced(self, now_s: float) -> None:
        """Notes that this store took the place of a damaged one."""
        self._connection.execute("UPDATE store SET replaced_s = ?, vm_id = ? WHERE id = 1", (int(now_s), self._vm_id))

    def save_hours(self, hours: Sequence[Hour], open_hour: int) -> None:
        """Writes rollups; histograms only of closed hours, since the open one is computed anew each time."""
        self._connection.executemany(_UPSERT_HOUR, [_hour_row(hour) for hour in hours])
        closed = [hour for hour in hours if hour.number < open_hour]
        if closed:
            self._connection.executemany(
                "INSERT OR REPLACE INTO hour_histogram (hour_s, body) VALUES (?, ?)",
                [(hour.number * 3600, encode_bins(hour.bins, hour.weights)) for hour in closed],
            )

    def stored_hours(self, first: int, last: int) -> list[Hour]:
        """Closed hours `first` to `last`, both included, that still have their histogram, rising."""
        query = f"{_SELECT_HOURS} BETWEEN ? AND ? ORDER BY hour.hour_s"
        return _read_hours(self._connection.execute(query, (first * 3600, last * 3600)).fetchall())

    def stored_hours_of(self, numbers: Sequence[int]) -> list[Hour]:
        """These of the closed hours that still have their histogram, in no order."""
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(numbers), _HOURS_A_QUERY):
            part = [number * 3600 for number in numbers[start : start + _HOURS_A_QUERY]]
            query = f"{_SELECT_HOURS} IN ({', '.join('?' * len(part))})"
            found += self._connection.execute(query, part).fetchall()
        return _read_hours(found)

    def forgotten_hours(self, first: int, last: int) -> list[int]:
        """Hours `first` to `last` that have a rollup but no raw rows any more."""
        found = self._connection.execute(_SELECT_FORGOTTEN, (first * 3600, last * 3600))
        return [hour_s // 3600 for (hour_s,) in found]

    def maxima(self, first: int, end: int) -> Ints:
        """Largest value of each metric in each of the hours `first` to `end` - 1: (hours, metrics), ABSENT for none."""
        found = self._connection.execute(_SELECT_MAXIMA, (first * 3600, end * 3600)).fetchall()
        return np.array(found, np.int64).reshape(-1, _METRIC_COUNT)

    def newest_row(self) -> dict[str, int] | None:
        """The newest sample by column, ABSENT where not measured, or None."""
        found = self._connection.execute(
            f"SELECT {', '.join(SAMPLE_COLUMNS)} FROM sample ORDER BY ts DESC LIMIT 1"
        ).fetchone()
        if found is None:
            return None
        return {name: ABSENT if value is None else value for name, value in zip(SAMPLE_COLUMNS, found, strict=True)}

    def facts(self) -> Facts:
        """What the store says of itself as a whole."""
        return Facts(*self._connection.execute(_SELECT_FACTS).fetchone())

    def forget_before(self, *, raw_s: float, histograms_s: float, hours_s: float) -> None:
        """Deletes whole hours that ended before each limit, an hour later than due: no row of a retry is refused and
        yet finds its hour gone."""
        limits = (int(limit_s) // 3600 * 3600 - 3600 for limit_s in (raw_s, histograms_s, hours_s))
        raw, histograms, hours = limits
        self._connection.execute("DELETE FROM sample WHERE ts <= ?", (raw,))
        self._connection.execute("DELETE FROM hour_histogram WHERE hour_s + 3600 <= ?", (histograms,))
        self._connection.execute("DELETE FROM hour WHERE hour_s + 3600 <= ?", (hours,))


def _create(path: Path, template: bytes) -> None:
    """Puts a whole, durable, empty store in place: a crash leaves either none or this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of a store that is gone: SQLite would roll it back into the new one.
    Path(f"{path}-journal").unlink(missing_ok=True)
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


def gaps_of(hour: Hour) -> str | None:
    """Metrics that were not measured in all of the covered seconds, as JSON: name -> seconds; None without any."""
    covered = hour.totals[0]
    if (hour.seconds == covered).all():
        return None
    partly = np.flatnonzero(hour.seconds != covered).tolist()
    return json.dumps({METRICS[index].name: int(hour.seconds[index]) for index in partly})


def _hour_row(hour: Hour) -> list[int | str | None]:
    known = hour.seconds > 0
    sums, maxima = hour.totals[2:].tolist(), hour.maxima.tolist()
    if not known.all():
        sums = [value if is_known else None for value, is_known in zip(sums, known, strict=True)]
        maxima = [value if is_known else None for value, is_known in zip(maxima, known, strict=True)]
    return [hour.number * 3600, hour.samples, *hour.totals[:2].tolist(), *sums, *maxima, gaps_of(hour)]


def _read_hours(rows: Sequence[tuple[Any, ...]]) -> list[Hour]:
    """Rows of `_SELECT_HOURS`. Raises ValueError: a histogram or the gaps are damaged."""
    if not rows:
        return []
    cells = [[ABSENT if cell is None else cell for cell in row[:-2]] for row in rows]
    numbers = np.array(cells, np.int64)
    sums = numbers[:, 4 : 4 + _METRIC_COUNT]
    sums[sums == ABSENT] = 0
    seconds = np.repeat(numbers[:, 2:3], _METRIC_COUNT, axis=1)
    hours = []
    for index, row in enumerate(rows):
        gaps, body = row[-2:]
        try:
            for name, measured_s in json.loads(gaps).items() if gaps else ():
                seconds[index, _METRIC_NUMBER[name]] = measured_s
        except (KeyError, AttributeError, TypeError, OverflowError) as error:
            raise ValueError(f"an hour's gaps are damaged: {gaps!r}") from error
        bins, weights = decode_bins(body)
        hours.append(
            Hour(
                number=row[0] // 3600,
                samples=row[1],
                totals=numbers[index, 2 : 4 + _METRIC_COUNT],
                seconds=seconds[index],
                maxima=numbers[index, 4 + _METRIC_COUNT :],
                bins=bins,
                weights=weights,
            )
        )
    return hours
