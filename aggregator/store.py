"""One VM's store: a SQLite file with its raw rows, its hours and the running sums of its windows.

A store has one writer at a time, a flush worker; anybody may read. It commits with synchronous=FULL in one transaction
a flush: after a crash it holds all of a flush or none of it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from agent.sample import FIELDS
from aggregator import store_schema
from aggregator.fleet import METRICS
from aggregator.histogram import Ints
from aggregator.rollup import ABSENT, SAMPLE_COLUMNS, Hour, dequantise
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
    f"INSERT OR IGNORE INTO sample ({', '.join(SAMPLE_COLUMNS)}) VALUES ("
    + ", ".join("?" if name in _REQUIRED else f"nullif(?, {ABSENT})" for name in SAMPLE_COLUMNS)
    + ")"
)
_SELECT_SAMPLES = f"SELECT {', '.join(SAMPLE_COLUMNS)} FROM sample WHERE ts >= ? AND ts <= ? ORDER BY ts"
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


class StoreError(Exception):
    """A store that cannot be read or written. `corrupt`: it will not get better by waiting."""

    def __init__(self, detail: str, *, corrupt: bool) -> None:
        self.corrupt = corrupt
        super().__init__(detail)


def store_path(data_dir: Path, vm_id: str) -> Path:
    """Where a VM's store lies: spread over 65,536 folders by a hash, so that no folder grows large."""
    digest = hashlib.sha256(vm_id.encode()).hexdigest()
    return data_dir / "stores" / digest[:2] / digest[2:4] / f"{vm_id}.db"


def as_store_error(error: sqlite3.Error | OSError | ValueError) -> StoreError:
    """Tells what waiting may cure (a full disk, a lock) from what it will not (a damaged file)."""
    curable = isinstance(error, sqlite3.OperationalError | OSError)
    return StoreError(f"{type(error).__name__}: {error}", corrupt=not curable)


class Store:
    """An open store inside one transaction: read, write, then `commit` or `close`."""

    def __init__(self, path: Path, vm_id: str, template: bytes) -> None:
        """Opens, creating the store where there is none.

        Raises: sqlite3.Error, OSError: it cannot be opened; ValueError: it is newer than this program.
        """
        if not path.exists() or not path.stat().st_size:
            _create(path, template)
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=10.0, cached_statements=32)
        try:
            self._connection.execute("PRAGMA synchronous = FULL")
            if self._connection.execute("PRAGMA user_version").fetchone()[0] != store_schema.SCHEMA_VERSION:
                store_schema.migrate(self._connection)
            self._connection.execute("BEGIN IMMEDIATE")
            self._vm_id = vm_id
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
        return self._connection.executemany(_INSERT_SAMPLE, table.tolist()).rowcount

    def differing(self, table: Ints) -> int:
        """How many of these rows differ from the stored row of the same ts."""
        count = 0
        for row in table.tolist():
            stored = self._connection.execute(_SELECT_SAMPLES, (row[0], row[0])).fetchone()
            count += stored != tuple(None if value == ABSENT else value for value in row)
        return count

    def count_conflicts(self, conflicts: int) -> int:
        """Adds to the number of refused samples; returns their number ever."""
        if conflicts:
            self._connection.execute(
                "UPDATE store SET conflicts = conflicts + ?, vm_id = ? WHERE id = 1", (conflicts, self._vm_id)
            )
        found: int = self._connection.execute("SELECT conflicts FROM store WHERE id = 1").fetchone()[0]
        return found

    def mark_replaced(self, now_s: float) -> None:
        """Notes that this store took the place of a damaged one."""
        self._connection.execute("UPDATE store SET replaced_s = ?, vm_id = ? WHERE id = 1", (int(now_s), self._vm_id))

    def was_replaced(self) -> bool:
        return self._connection.execute("SELECT replaced_s FROM store WHERE id = 1").fetchone()[0] is not None

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

    def newest_row(self) -> dict[str, float | int | None] | None:
        """The newest sample in wire fields, or None."""
        found = self._connection.execute(
            f"SELECT {', '.join(SAMPLE_COLUMNS)} FROM sample ORDER BY ts DESC LIMIT 1"
        ).fetchone()
        return dequantise(found) if found else None

    def oldest_s(self) -> int | None:
        """Start of the oldest hour that the store remembers."""
        found: int | None = self._connection.execute("SELECT min(hour_s) FROM hour").fetchone()[0]
        return found

    def forget_before(self, *, raw_s: float, histograms_s: float, hours_s: float) -> None:
        """Deletes whole hours that ended before each limit; does nothing until six hours of raw rows are due.

        Six, so that a flush seldom touches the old end of the file.
        """
        oldest = self._connection.execute("SELECT min(ts) FROM sample").fetchone()[0]
        if oldest is None or oldest > raw_s - 6 * 3600:
            return
        self._connection.execute("DELETE FROM sample WHERE ts <= ?", (int(raw_s) // 3600 * 3600,))
        self._connection.execute("DELETE FROM hour_histogram WHERE hour_s + 3600 <= ?", (int(histograms_s),))
        self._connection.execute("DELETE FROM hour WHERE hour_s + 3600 <= ?", (int(hours_s),))


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


def read_samples(path: Path, from_s: int, to_s: int) -> list[dict[str, float | int | None]]:
    """Raw rows of a store with from_s <= ts <= to_s as wire fields, by rising ts; none where there is no store.

    Raises StoreError.
    """
    if not path.exists():
        return []
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)
        try:
            return [dequantise(row) for row in connection.execute(_SELECT_SAMPLES, (from_s, to_s))]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise as_store_error(error) from error
