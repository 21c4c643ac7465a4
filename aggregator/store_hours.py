"""The tables `hour` and `hour_histogram`: `Hour` ↔ cells, with the CRC of each row."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aggregator.histogram import Ints, decode_bins, encode_bins
from aggregator.rollup import ABSENT, Hour
from aggregator.store_checks import DamagedError, crc_of_body, crc_of_hour, hour_name, packed, sum_of_crcs
from aggregator.summary import METRICS

# As the first schema had them; `rows_hash` and `crc` follow.
HOUR_COLUMNS: tuple[str, ...] = (
    "hour_s",
    "samples",
    "covered_s",
    "users_s",
    *(f"{metric.name}_sum" for metric in METRICS),
    *(f"{metric.name}_max" for metric in METRICS),
    "gaps",
)
_NUMBERS = HOUR_COLUMNS[:-1]
_METRIC_COUNT = len(METRICS)
_METRIC_NUMBER = {metric.name: number for number, metric in enumerate(METRICS)}
_HOURS_A_QUERY = 500
_GAPS, _HASH, _CRC = len(_NUMBERS), len(_NUMBERS) + 1, len(_NUMBERS) + 2
CELL_COUNT = _CRC + 1
_WIDTH = len(_NUMBERS) + 1  # the sum of hashes with them
_PACKED_BYTES = 8 * _WIDTH
_NO_BINS: Ints = np.zeros(0, np.int64)

Cells = tuple[Any, ...]  # a row of `hour`; what follows it in a query may follow here
SELECT_CELLS = (
    f"SELECT {', '.join(HOUR_COLUMNS)}, rows_hash, crc FROM hour WHERE hour_s >= ? AND hour_s <= ? ORDER BY hour_s"
)
# To name the columns costs more than to read them: a flush prepares each statement for one store.
SELECT_OPEN = "SELECT * FROM hour ORDER BY hour_s DESC LIMIT 1"
_SELECT_BETWEEN = "SELECT * FROM hour WHERE hour_s >= ? AND hour_s <= ?"
_SELECT_HOURS = (
    "SELECT hour.*, hour_histogram.body, hour_histogram.crc "
    "FROM hour {} JOIN hour_histogram USING (hour_s) WHERE hour.hour_s "
)
_UPSERT_HOUR = f"INSERT OR REPLACE INTO hour VALUES ({', '.join('?' * (len(HOUR_COLUMNS) + 2))})"
_UPSERT_HISTOGRAM = "INSERT OR REPLACE INTO hour_histogram (hour_s, body, crc) VALUES (?, ?, ?)"
_SELECT_CHECKS = (
    "SELECT hour.hour_s / 3600, rows_hash, hour.crc, hour_histogram.crc "
    "FROM hour LEFT JOIN hour_histogram USING (hour_s) WHERE hour.hour_s "
)


class HourChecks(NamedTuple):
    """What an hour keeps to be verified by.

    Attributes:
        rows_hash: sum of the hashes of its raw rows; None of an hour whose rows had gone before there were hashes.
        crc: of its cells.
        histogram_crc: None while it has no histogram.
    """

    rows_hash: int | None
    crc: int
    histogram_crc: int | None


def read_checks(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, HourChecks]:
    """Of those of these hours that there are."""
    wanted = [number * 3600 for number in numbers]
    found: dict[int, HourChecks] = {}
    for start in range(0, len(wanted), _HOURS_A_QUERY):
        part = wanted[start : start + _HOURS_A_QUERY]
        query = f"{_SELECT_CHECKS} IN ({', '.join('?' * len(part))})"
        found.update((row[0], HourChecks(*row[1:])) for row in connection.execute(query, part))
    return found


def verify_cells(cells: Cells) -> None:
    """Holds an hour against its CRC. Raises DamagedError."""
    _verified([cells])


def checks_of(cells: Cells) -> HourChecks:
    """What an hour without a histogram keeps to be verified by."""
    return HourChecks(cells[_HASH], cells[_CRC], None)


def numbers_of(cells: Cells, rows_hash: int | None) -> Sequence[int]:
    """What the CRC of an hour with this sum of hashes is over besides its gaps; ABSENT for NULL."""
    numbers = (*cells[:_GAPS], rows_hash)
    return tuple(ABSENT if cell is None else cell for cell in numbers) if None in numbers else numbers


def _verified(rows: Sequence[Cells]) -> Ints:
    """The numbers of hours: (n, _WIDTH). Raises DamagedError: one is not what was written."""
    if rows and len(rows[0]) < CELL_COUNT:
        raise DamagedError("hour: the table lacks a column")
    numbers = packed("hour", [numbers_of(row, row[_HASH]) for row in rows])
    each = memoryview(numbers)
    for index, row in enumerate(rows):
        gaps = row[_GAPS]
        if gaps is not None and not isinstance(gaps, str):
            raise DamagedError(f"hour: {_name(row[0])}: its gaps are no text")
        if crc_of_hour(each[index * _PACKED_BYTES : (index + 1) * _PACKED_BYTES], gaps) != row[_CRC]:
            raise DamagedError(f"hour: {_name(row[0])}: is not what was written")
    return np.frombuffer(numbers, "<i8").reshape(len(rows), _WIDTH)


def verify_histogram(hour_s: int, body: bytes, crc: int) -> None:
    """Holds a histogram's bytes against their CRC. Raises DamagedError."""
    if not isinstance(body, bytes) or crc_of_body(hour_s, body) != crc:
        raise DamagedError(f"hour_histogram: {_name(hour_s)}: is not what was written")


def _name(hour_s: object) -> str:
    try:
        return f"hour {hour_name(int(str(hour_s)) // 3600)}"
    except (ValueError, OverflowError, OSError):
        return f"hour_s {hour_s}"


def gaps_of(hour: Hour) -> str | None:
    """Metrics that were not measured in all of the covered seconds, as JSON: name -> seconds; None without any."""
    covered = hour.totals[0]
    if (hour.seconds == covered).all():
        return None
    partly = np.flatnonzero(hour.seconds != covered).tolist()
    return json.dumps({METRICS[index].name: int(hour.seconds[index]) for index in partly})


def write_hours(connection: sqlite3.Connection, hours: Sequence[Hour], hashes: Sequence[int]) -> list[int]:
    """Writes rollups, each with the sum of the hashes of its raw rows; returns their CRCs."""
    rows = [_hour_row(hour, rows_hash) for hour, rows_hash in zip(hours, hashes, strict=True)]
    connection.executemany(_UPSERT_HOUR, rows)
    return [int(row[-1] or 0) for row in rows]


def write_histograms(connection: sqlite3.Connection, hours: Sequence[Hour]) -> list[int]:
    """Returns the CRCs of what it wrote."""
    bodies = [(hour.number * 3600, encode_bins(hour.bins, hour.weights)) for hour in hours]
    rows = [(hour_s, body, crc_of_body(hour_s, body)) for hour_s, body in bodies]
    connection.executemany(_UPSERT_HISTOGRAM, rows)
    return [crc for *_, crc in rows]


def forget_hours(connection: sqlite3.Connection, table: str, until_s: int) -> int:
    """Deletes the rows of `hour` or `hour_histogram` up to this hour_s; returns what they were in the sum of CRCs."""
    crcs = [crc for (crc,) in connection.execute(f"SELECT crc FROM {table} WHERE hour_s <= ?", (until_s,))]
    connection.execute(f"DELETE FROM {table} WHERE hour_s <= ?", (until_s,))
    return sum_of_crcs(crcs)


def read_hours(connection: sqlite3.Connection, first: int, last: int) -> list[Hour]:
    """Hours `first` to `last`, both included, that still have their histogram, rising. Raises DamagedError."""
    query = f"{_SELECT_HOURS.format('')} BETWEEN ? AND ? ORDER BY hour.hour_s"
    return _with_histograms(connection.execute(query, (first * 3600, last * 3600)).fetchall())


def read_hours_of(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Hour]:
    """Those of these hours that there are, in no order. Raises DamagedError: also where one has no histogram."""
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(numbers), _HOURS_A_QUERY):
        part = [number * 3600 for number in numbers[start : start + _HOURS_A_QUERY]]
        query = f"{_SELECT_HOURS.format('LEFT')} IN ({', '.join('?' * len(part))})"
        found += connection.execute(query, part).fetchall()
    return _with_histograms(found)


def _hour_row(hour: Hour, rows_hash: int) -> list[int | str | None]:
    known = (hour.seconds > 0).tolist()
    figures = [*hour.totals[2:].tolist(), *hour.maxima.tolist()]
    is_whole = all(known)
    if not is_whole:
        figures = [value if is_known else ABSENT for value, is_known in zip(figures, (*known, *known), strict=True)]
    numbers = [hour.number * 3600, hour.samples, *hour.totals[:2].tolist(), *figures, rows_hash]
    gaps = gaps_of(hour)
    crc = crc_of_hour(packed("hour", [numbers]), gaps)
    cells: list[int | str | None] = [*numbers[:-1], gaps, rows_hash, crc]
    if not is_whole:
        cells[4:_GAPS] = [
            value if is_known else None for value, is_known in zip(figures, (*known, *known), strict=True)
        ]
    return cells


def _with_histograms(rows: Sequence[Cells]) -> list[Hour]:
    hours = []
    for hour, row in zip(decoded(rows), rows, strict=True):
        verify_histogram(row[0], row[-2], row[-1])
        bins, weights = decode_bins(row[-2])
        hours.append(hour._replace(bins=bins, weights=weights))
    return hours


def decoded(rows: Sequence[Cells]) -> list[Hour]:
    """Hours, without their histograms, of rows of `hour`. Raises DamagedError."""
    if not rows:
        return []
    numbers = _verified(rows)[:, :_GAPS].copy()
    sums = numbers[:, 4 : 4 + _METRIC_COUNT]
    sums[sums == ABSENT] = 0
    seconds = np.repeat(numbers[:, 2:3], _METRIC_COUNT, axis=1)
    hours = []
    for index, row in enumerate(rows):
        if row[_GAPS]:
            for name, measured_s in json.loads(row[_GAPS]).items():
                seconds[index, _METRIC_NUMBER[name]] = measured_s
        hours.append(
            Hour(
                number=row[0] // 3600,
                samples=row[1],
                totals=numbers[index, 2 : 4 + _METRIC_COUNT],
                seconds=seconds[index],
                maxima=numbers[index, 4 + _METRIC_COUNT :],
                bins=_NO_BINS,
                weights=_NO_BINS,
            )
        )
    return hours


def maxima_between(connection: sqlite3.Connection, first: int, end: int) -> Ints:
    """Largest value of each metric in each of the hours `first` to `end` - 1: (hours, metrics), ABSENT for none.

    Raises: DamagedError: an hour is not what was written.
    """
    found = connection.execute(_SELECT_BETWEEN, (first * 3600, (end - 1) * 3600)).fetchall()
    return _verified(found)[:, 4 + _METRIC_COUNT : _GAPS]
