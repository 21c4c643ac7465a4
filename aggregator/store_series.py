"""What a chart of one VM is made of, read out of its store: rows, and hours where the rows are gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from aggregator.histogram import Floats, Ints
from aggregator.rollup import ABSENT
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.series import (
    HOUR_S,
    METRIC_OF,
    READ_FIELDS,
    ROW_CELLS,
    SERIES,
    Hours,
    Series,
    Span,
    make_series,
    rows_of_samples,
)
from aggregator.store_files import as_store_error, connect_read_only
from aggregator.store_rows import ends_of_rows
from aggregator.store_verify import verified_rows, verify_hours

_HOURS_AT_A_TIME = 4096  # numpy keeps the interpreter to itself while it converts them
_ROW_QUANTA = np.array([1.0, 1.0, *(field.unit.quantum for field in READ_FIELDS)])
_ROW_COLUMNS = [SAMPLE_COLUMNS.index(name) for name in ("ts", "interval_s", *(field.column for field in READ_FIELDS))]
_METRICS = tuple(METRIC_OF.values())
_KEPT = [SERIES.index(name) for name in METRIC_OF]
_HOUR_QUANTA = np.array([metric.quantum for metric in _METRICS])
_SELECT_HOURS = (
    "SELECT hour_s, "
    + ", ".join(f"{metric.name}_sum" for metric in _METRICS)
    + ", "
    + ", ".join(f"{metric.name}_max" for metric in _METRICS)
    + ", "
    # `gaps` names the metrics that were not measured in all of the covered seconds.
    + ", ".join(
        f"iif({metric.name}_sum IS NULL, 0, ifnull(json_extract(gaps, '$.{metric.name}'), covered_s))"
        for metric in _METRICS
    )
    + " FROM hour WHERE hour_s > ? AND hour_s < ? AND hour_s < ?"
)


def read_series(
    path: Path, vm_id: str, span: Span, buffered: Iterable[Mapping[str, float | int | None]] = ()
) -> Series:
    """A VM's figures over a span, out of its store and of memory; an empty answer where both hold nothing of it.

    Args:
        path: of the store; there may be none yet.
        buffered: samples of the wire with `interval_s`, read from memory before this is called. What the store holds
            too counts once.

    Raises: StoreError: the store cannot be read, or holds in this span what was not written so.
    """
    rows, hours = _read(path, span) if path.exists() else (np.zeros((0, ROW_CELLS)), Hours.none())
    return make_series(vm_id, span, np.concatenate([rows, rows_of_samples(buffered)]), hours)


def _read(path: Path, span: Span) -> tuple[Floats, Hours]:
    try:
        connection = connect_read_only(path)
        try:
            # One snapshot: rows that a flush deletes meanwhile are still there.
            connection.execute("BEGIN")
            verify_hours(connection, span.from_s - HOUR_S, span.to_s)
            rows = [_floats(table) for table in verified_rows(connection, span.from_s, span.to_s)]
            ends = ends_of_rows(connection)
            raw_from_s = span.to_s if ends is None else (ends[0] - 1) // HOUR_S * HOUR_S
            found = connection.execute(_SELECT_HOURS, (span.from_s - HOUR_S, span.to_s, raw_from_s))
            hours = _hours(_table(found, 1 + 3 * len(_METRICS)))
        finally:
            connection.close()
    except (sqlite3.Error, ValueError) as error:
        raise as_store_error(error) from error
    return np.concatenate([np.zeros((0, ROW_CELLS)), *rows]), hours


def _floats(table: Ints) -> Floats:
    """Raw rows as (n, ROW_CELLS) in units of the wire, NaN for what was not measured."""
    cells = table[:, _ROW_COLUMNS]
    return np.where(cells == ABSENT, np.nan, cells * _ROW_QUANTA)


def _table(cursor: sqlite3.Cursor, columns: int) -> Floats:
    """(n, columns), NaN for NULL. Raises ValueError: a cell is no number."""
    parts = [np.zeros((0, columns))]
    while found := cursor.fetchmany(_HOURS_AT_A_TIME):
        parts.append(np.array(found, np.float64))
    return np.concatenate(parts)


def _hours(table: Floats) -> Hours:
    sums, largest, seconds = np.split(table[:, 1:], 3, axis=1)
    return Hours(
        table[:, 0] + HOUR_S,
        _spread(sums * _HOUR_QUANTA),
        _spread(seconds),
        _spread(largest * _HOUR_QUANTA),
    )


def _spread(kept: Floats) -> Floats:
    """Columns of the metrics → columns of SERIES; 0 for those that hours do not keep."""
    spread = np.zeros((len(kept), len(SERIES)))
    spread[:, _KEPT] = kept
    return spread
