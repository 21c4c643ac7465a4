"""One VM's store: a SQLite file with its raw rows, its hours and the running sums of its windows.

A store has one writer at a time, a flush worker; anybody may read. It commits with synchronous=FULL in one transaction
a flush: after a crash it holds all of a flush or none of it.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.sample import FIELDS
from aggregator import store_schema
from aggregator.histogram import Ints
from aggregator.rollup import ABSENT, Hour
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_files import SELECT_SAMPLES
from aggregator.summary import METRICS
from aggregator.windows import Windows

_METRIC_COUNT = len(METRICS)
_WIDEST_STEP = 255
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
_INSERT_SAMPLE = (
    f"INSERT OR IGNORE INTO sample ({', '.join(SAMPLE_COLUMNS)}) VALUES (" + ", ".join("?" * len(SAMPLE_COLUMNS)) + ")"
)
_UPSERT_HOUR = (
    f"INSERT OR REPLACE INTO hour ({', '.join(store_schema.HOUR_COLUMNS)}) "
    f"VALUES ({', '.join('?' * len(store_schema.HOUR_COLUMNS))})"
)
_SELECT_HOURS = (
    f"SELECT {', '.join(f'hour.{name}' for name in store_schema.HOUR_COLUMNS)}, hour_histogram.body "
    "FROM hour JOIN hour_histogram USING (hour_s) WHERE hour.hour_s >= ? AND hour.hour_s <= ? ORDER BY hour.hour_s"
)
_SELECT_MAXIMA = (
    f"SELECT {', '.join(f'ifnull(max({metric.name}_max), {ABSENT})' for metric in METRICS)} "
    "FROM hour WHERE hour_s >= ? AND hour_s < ?"
)


_SELECT_FACTS = (
    "SELECT conflicts, replaced_s IS NOT NULL, (SELECT min(ts) FROM sample), (SELECT min(hour_s) FROM hour) "
    "FROM store WHERE id = 1"
)


class Facts(NamedTuple):
    """A store as a whole.

    Attributes:
        conflicts: samples refused ever because another with their ts was first.
        replaced: it took the place of a damaged store (0 or 1).
        oldest_ts: of the raw rows, None without any.
        oldest_hour_s: start of the oldest hour that it remembers.
    """

    conflicts: int
    replaced: int
    oldest_ts: int | None
    oldest_hour_s: int | None


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
            # First of all: each statement outside a transaction would lock the file and look for a journal anew.
            self._connection.execute("BEGIN IMMEDIATE")
            if self._connection.execute("PRAGMA user_version").fetchone()[0] != store_schema.SCHEMA_VERSION:
                self._connection.execute("ROLLBACK")
                store_schema.migrate(self._connection)
                self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._connection.close()
            raise

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
                [(hour.number * 3600, _encode_histogram(hour)) for hour in closed],
            )

    def stored_hours(self, first: int, last: int) -> list[Hour]:
        """Closed hours `first` to `last`, both included, that still have their histogram."""
        return [_read_hour(row) for row in self._connection.execute(_SELECT_HOURS, (first * 3600, last * 3600))]

    def maxima(self, first: int, end: int) -> Ints:
        """Largest value of each metric in the hours `first` to `end` - 1."""
        return np.array(self._connection.execute(_SELECT_MAXIMA, (first * 3600, end * 3600)).fetchone(), np.int64)

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


def _hour_row(hour: Hour) -> list[int | None]:
    covered = int(hour.totals[0])
    seconds = hour.seconds.tolist()
    return [
        hour.number * 3600,
        hour.samples,
        covered,
        int(hour.totals[1]),
        *(total if known else None for total, known in zip(hour.totals[2:].tolist(), seconds, strict=True)),
        # NULL means all of the covered seconds, which is nearly always so and takes no room.
        *(None if known == covered else known for known in seconds),
        *(value if value != ABSENT else None for value in hour.maxima.tolist()),
    ]


def _encode_histogram(hour: Hour) -> bytes:
    """Steps between bins and weights, a byte each where they fit: a noisy hour takes about 500 bytes.

    Layout: unit of the weights (u16), bytes a weight (u8), then all steps (u8), then all weights. A gap of more than
    255 bins is bridged by bins of no weight. An hour's weights fit 16 bits whatever mix of intervals it holds: the
    most is 65,520 s.
    """
    steps = np.diff(hour.bins, prepend=0)
    weights = hour.weights
    if len(steps) and steps.max() > _WIDEST_STEP:
        bridges = np.maximum(steps - 1, 0) // _WIDEST_STEP
        at = np.repeat(np.arange(len(steps)), bridges)
        steps = np.insert(steps - bridges * _WIDEST_STEP, at, _WIDEST_STEP)
        weights = np.insert(weights, at, 0)
    unit = int(np.gcd.reduce(weights)) or 1
    scaled = weights // unit
    width = 1 if not len(scaled) or scaled.max() <= 255 else 2
    return struct.pack("<HB", unit, width) + steps.astype("u1").tobytes() + scaled.astype(f"<u{width}").tobytes()


def _decode_histogram(body: bytes) -> tuple[Ints, Ints]:
    """Bins and weights. Raises ValueError: damaged."""
    try:
        unit, width = struct.unpack_from("<HB", body)
        count = (len(body) - 3) // (1 + width)
        bins = np.frombuffer(body, "u1", count, 3).astype(np.int64).cumsum()
        weights = np.frombuffer(body, f"<u{width}", count, 3 + count).astype(np.int64) * unit
    except (struct.error, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"a histogram is damaged: {error}") from error
    return bins[weights > 0], weights[weights > 0]


def _read_hour(row: Sequence[int | bytes | None]) -> Hour:
    *cells, body = row
    numbers = np.array([ABSENT if cell is None else cell for cell in cells], np.int64)
    sums, seconds, maxima = (numbers[4 + part * _METRIC_COUNT : 4 + (part + 1) * _METRIC_COUNT] for part in range(3))
    assert isinstance(body, bytes)
    bins, weights = _decode_histogram(body)
    return Hour(
        number=int(numbers[0]) // 3600,
        samples=int(numbers[1]),
        totals=np.concatenate((numbers[2:4], np.maximum(sums, 0))),
        seconds=np.where(seconds == ABSENT, numbers[2], seconds),
        maxima=maxima.copy(),
        bins=bins,
        weights=weights,
    )
