"""Computes again what a store derived: hours from the raw rows that are still there, windows from the hours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

import numpy as np

from aggregator import rollup
from aggregator.histogram import SLICES
from aggregator.rollup import Hour
from aggregator.store import Store
from aggregator.store_checks import hour_name
from aggregator.store_hours import HOUR_COLUMNS, gaps_of
from aggregator.store_rows import ends_of_rows, rows_between
from aggregator.summary import METRICS
from aggregator.windows import DAILY_DAYS, Windows, rebuild

_HOURS_AT_A_TIME = 31 * 24  # bounds memory where raw rows are kept for a year
_SELECT_HOURS = f"SELECT {', '.join(HOUR_COLUMNS)} FROM hour WHERE hour_s >= ? AND hour_s <= ?"  # noqa: S608

HourCells = Mapping[str, int | None]


def content_problems(connection: sqlite3.Connection, vm_id: str) -> Iterator[str]:
    """How hours and windows differ from what they are made of. Raises ValueError: a part cannot be read at all."""
    rows_from_to = ends_of_rows(connection)
    if rows_from_to is None:
        return
    first_s, newest_s = rows_from_to
    store = Store.over(connection, vm_id)
    open_hour = (newest_s - 1) // 3600
    for begin in range((first_s - 1) // 3600, open_hour + 1, _HOURS_AT_A_TIME):
        last = min(begin + _HOURS_AT_A_TIME - 1, open_hour)
        table = rows_between(connection, begin, last)
        expected = {hour.number: hour for _, hour in rollup.roll_up(np.zeros(len(table), np.int64), table)}
        rows = connection.execute(_SELECT_HOURS, (begin * 3600, last * 3600)).fetchall()
        cells = {row[0] // 3600: dict(zip(HOUR_COLUMNS, row, strict=True)) for row in rows}
        histograms = {hour.number: hour for hour in store.stored_hours(begin, last)}
        yield from compare_hours(expected, cells, histograms, open_hour)
    windows = store.windows()
    if windows is None:
        yield "has rows but no window sums"
    elif windows.open_hour != open_hour:
        ends, newest = hour_name(windows.open_hour), hour_name(open_hour)
        yield f"the window sums end before hour {ends}, the newest row is in {newest}"
    else:
        oldest = open_hour - 24 * max(*windows.days, DAILY_DAYS)
        yield from compare_windows(windows, rebuild(windows.days, open_hour, store.stored_hours(oldest, open_hour - 1)))


def compare_hours(
    expected: Mapping[int, Hour], cells: Mapping[int, HourCells], histograms: Mapping[int, Hour], open_hour: int
) -> Iterator[str]:
    """How stored hours differ from those that raw rows give, all by their number.

    Args:
        cells: rows of the table `hour`, by column.
        histograms: stored hours that have a histogram.
        open_hour: the newest; it has none yet, and older ones may have outlived theirs.
    """
    for number in sorted(expected.keys() | cells.keys()):
        hour, stored = expected.get(number), cells.get(number)
        if hour is None:
            yield f"hour {hour_name(number)}: a rollup, but no raw rows"
        elif stored is None:
            yield f"hour {hour_name(number)}: raw rows, but no rollup"
        else:
            wrong = [name for name, value in hour_cells(hour).items() if stored.get(name) != value]
            if wrong:
                yield f"hour {hour_name(number)}: the rollup differs from its raw rows in {', '.join(wrong)}"
            yield from _compare_histogram(hour, histograms.get(number), open_hour)


def _compare_histogram(hour: Hour, stored: Hour | None, open_hour: int) -> Iterator[str]:
    if hour.number == open_hour:
        return
    if stored is None:
        if hour.number > open_hour - 24 * DAILY_DAYS:
            yield f"hour {hour_name(hour.number)}: its histogram is missing"
    elif not (np.array_equal(stored.bins, hour.bins) and np.array_equal(stored.weights, hour.weights)):
        yield f"hour {hour_name(hour.number)}: the histogram differs from its raw rows"


def hour_cells(hour: Hour) -> dict[str, int | str | None]:
    """What the table `hour` must hold of an hour, as docs/stores.md says it."""
    cells: dict[str, int | str | None] = {
        "hour_s": hour.number * 3600,
        "samples": hour.samples,
        "covered_s": int(hour.totals[0]),
        "users_s": int(hour.totals[1]),
        "gaps": gaps_of(hour),
    }
    for index, metric in enumerate(METRICS):
        measured_s = int(hour.seconds[index])
        cells[f"{metric.name}_sum"] = int(hour.totals[2 + index]) if measured_s else None
        cells[f"{metric.name}_max"] = int(hour.maxima[index]) if measured_s else None
    return cells


def compare_windows(stored: Windows, rebuilt: Windows) -> Iterator[str]:
    """How stored window sums differ from those rebuilt from hours, both of the same days and open hour.

    The maximum of a metric that a window does not hold at all means nothing and is not compared.
    """
    for window, days in enumerate(stored.days):
        if not np.array_equal(stored.totals[window], rebuilt.totals[window]):
            yield f"window of {days} d: the sums differ from those of its hours"
        if not np.array_equal(stored.counts[window], rebuilt.counts[window]):
            yield f"window of {days} d: the histogram differs from that of its hours"
        wrong = [
            part.metric.name
            for index, part in enumerate(SLICES)
            if rebuilt.counts[window, part.start : part.stop].any()
            and stored.maxima[window, index] != rebuilt.maxima[window, index]
        ]
        if wrong:
            yield f"window of {days} d: the maximum differs from that of its hours in {', '.join(wrong)}"
    if not np.array_equal(stored.profile_s, rebuilt.profile_s) or not np.array_equal(
        stored.profile_cpu, rebuilt.profile_cpu
    ):
        yield "the hour-of-week profile differs from its hours"
    if stored.daily != rebuilt.daily:
        yield "the daily totals differ from their hours"
