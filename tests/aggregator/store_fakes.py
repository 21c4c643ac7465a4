"""Rows, shares and flushes for the tests of the stores."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from agent.sample import FIELDS, Unit
from aggregator.histogram import Ints
from aggregator.rollup import ABSENT
from aggregator.rows import NAN, ROW, SAMPLE_COLUMNS
from aggregator.store_files import connect_read_only, store_path
from aggregator.store_rows import LAST_HOUR, delete_rows, packed_hours, rows_between, write_packed
from aggregator.store_verify import write_checks
from aggregator.summary import METRICS, ChunkResult, Taken, WorkerSettings
from aggregator.worker import FlushWorker
from bench.raw_rows import put_samples, raw_rows

HOUR_S = 3600
DAY_S = 86400
# A Monday, 00:00 UTC.
START_S = 1_699_833_600
WINDOWS = (1, 3, 7)

Row = dict[str, int]


def packed_row(ts: int, *, interval_s: int = 60, **figures: float) -> bytes:
    """One packed row; figures in wire names and units. What is not given was not measured."""
    given = {"cpu_busy_ratio": 0.1, "mem_total_bytes": 1 << 30, "mem_used_bytes": 1 << 29, **figures}
    return ROW.pack(ts, interval_s, *(given.get(field.name, NAN) for field in FIELDS))


def minutes(first: int, count: int, *, interval_s: int = 60, **figures: float) -> bytes:
    """`count` rows one after the other, the first with ts `first`."""
    return b"".join(packed_row(first + step * interval_s, interval_s=interval_s, **figures) for step in range(count))


def table_of(rows: Iterable[Mapping[str, int]]) -> Ints:
    """Rows by column as the integers of a store; what a row lacks is ABSENT."""
    cells = [[row.get(column, ABSENT) for column in SAMPLE_COLUMNS] for row in rows]
    return np.array(cells, np.int64).reshape(len(cells), len(SAMPLE_COLUMNS))


def packed(row: Row) -> bytes:
    """A row by column as it comes in a push."""
    values = (row[field.column] * field.unit.quantum if field.column in row else NAN for field in FIELDS)
    return ROW.pack(row["ts"], row["interval_s"], *values)


_LARGEST = {
    Unit.RATIO: 100_000,
    Unit.BYTES: 1 << 24,
    Unit.BYTES_PER_S: 1 << 20,  # exact in a float, so that what is pushed is what a store must hold
    Unit.COUNT: 100,
    Unit.LOAD: 10_000,
    Unit.CPU_S: 100_000,
}
_OPTIONAL = [field for field in FIELDS if not field.required]


@st.composite
def rows_at(draw: st.DrawFn, ts: int, interval_s: int) -> Row:
    """A row by column at a time, with any optional figures absent."""
    row = {"ts": ts, "interval_s": interval_s, "cpu_busy": draw(st.integers(0, 100_000))}
    row["mem_total"] = draw(st.integers(1, 1 << 24))
    row["mem_used"] = draw(st.integers(0, row["mem_total"]))
    for field in draw(st.lists(st.sampled_from(_OPTIONAL), unique_by=lambda field: field.column)):
        row[field.column] = draw(st.integers(0, _LARGEST[field.unit]))
    return row


def naive_values(row: Mapping[str, int]) -> dict[str, int | None]:
    """Each metric of one row in its quanta, as the docstrings say and with nothing but Python."""

    def ratio(part: str, whole: str) -> int | None:
        if part not in row or row.get(whole, 0) <= 0:
            return None
        return min((row[part] * 10_000 + row[whole] // 2) // row[whole], 10_000)

    def both(first: str, second: str) -> int | None:
        return row[first] + row[second] if first in row and second in row else None

    values: dict[str, int | None] = {metric.name: row.get(metric.name) for metric in METRICS}
    values["mem_used"] = ratio("mem_used", "mem_total")
    values["disk_used"] = ratio("disk_used", "disk_total")
    values["disk_io"] = both("disk_read", "disk_write")
    values["net_io"] = both("net_rx", "net_tx")
    return values


def settings(data_dir: Path, **changes: Any) -> WorkerSettings:
    """Short windows, so that they fill, and retention that is out of the way."""
    values: dict[str, Any] = {
        "data_dir": data_dir,
        "windows_days": WINDOWS,
        "raw_retention_s": 100.0 * DAY_S,
        "hour_retention_s": 400.0 * DAY_S,
        **changes,
    }
    return WorkerSettings(**values)


def share(vm_id: str, rows: bytes, **changes: Any) -> Taken:
    """A VM's part of a flush."""
    return Taken(vm_id, rows, 0, 0.0, 0.0, identity_conflict=False)._replace(**changes)


def flush(worker: FlushWorker, *shares: Taken, now_s: float = START_S, may_forget: bool = True) -> ChunkResult:
    """One flush of these VMs."""
    return worker.flush(shares, now_s=now_s, may_forget=may_forget)


def change(path: Path, statement: str, *values: object, reseal: bool = False) -> None:
    """Changes a store behind the worker's back, its raw rows as a table `sample`; `reseal`: with new sums, as if the
    worker itself had written it so."""
    with closing(sqlite3.connect(path)) as connection, connection:
        change_in(connection, statement, *values)
        if reseal:
            put_samples(connection)
            write_checks(connection)


def change_in(connection: sqlite3.Connection, statement: str, *values: object) -> None:
    """The same through an open connection: hours whose raw rows change are packed anew."""
    if "sample" not in statement:
        connection.execute(statement, values)
        return
    before = packed_hours(table_in(connection))
    put_samples(connection)
    connection.execute(statement, values)
    names = ", ".join(f"ifnull({name}, {ABSENT})" for name in SAMPLE_COLUMNS)
    rows = connection.execute(f"SELECT {names} FROM temp.sample ORDER BY ts").fetchall()
    after = packed_hours(np.array(rows, np.int64).reshape(len(rows), len(SAMPLE_COLUMNS)))
    delete_rows(connection, before.keys() - after.keys())
    write_packed(connection, {hour: body for hour, body in after.items() if before.get(hour) != body})
    connection.execute("DROP TABLE temp.sample")


def table_in(connection: sqlite3.Connection) -> Ints:
    """All raw rows."""
    return rows_between(connection, -LAST_HOUR, LAST_HOUR)


def contents_of(path: Path, tables: Iterable[str]) -> dict[str, list[tuple[object, ...]]]:
    """Every row of these tables; `sample` stands for the raw rows."""
    with closing(connect_read_only(path)) as connection:
        return {
            name: [*raw_rows(connection)]
            if name == "sample"
            else connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in tables
        }


def fill(data_dir: Path, vm_id: str, rows: bytes, **changes: Any) -> Path:
    """A store that holds these rows; returns its path."""
    result = flush(FlushWorker(settings(data_dir, **changes)), share(vm_id, rows))
    assert not result.failures
    return store_path(data_dir, vm_id)
