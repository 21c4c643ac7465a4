"""Hours agree with what plain Python makes of the same rows."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.sample import FIELDS
from aggregator.histogram import SLICES
from aggregator.rollup import ABSENT, Hour, hours_of, quantise, roll_up
from aggregator.rows import SAMPLE_COLUMNS, dequantise
from aggregator.summary import METRICS
from tests.aggregator.store_fakes import (
    HOUR_S,
    START_S,
    Row,
    naive_values,
    packed,
    packed_row,
    rows_at,
    table_of,
)

FIRST_HOUR = START_S // HOUR_S


@st.composite
def fleets(draw: st.DrawFn) -> list[list[Row]]:
    """Rows of a few VMs, by rising time, of mixed intervals and with figures missing."""
    fleet = []
    for _ in range(draw(st.integers(1, 3))):
        interval_s = draw(st.sampled_from([60, 300, 900, 3600]))
        steps = draw(st.sets(st.integers(1, 3 * HOUR_S // interval_s), min_size=1, max_size=12))
        fleet.append([draw(rows_at(START_S + step * interval_s, interval_s)) for step in sorted(steps)])
    return fleet


def together(fleet: list[list[Row]]) -> list[tuple[int, Hour]]:
    owner = np.repeat(np.arange(len(fleet)), [len(rows) for rows in fleet])
    return list(roll_up(owner, table_of(row for rows in fleet for row in rows)))


def one(rows: list[Row]) -> list[Hour]:
    return [hour for _, hour in together([rows])]


@given(fleets())
def test_hours_equal_a_naive_computation(fleet: list[list[Row]]) -> None:
    """Samples, sums, measured seconds, maxima and histograms are what counting row by row gives."""
    expected: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for owner, rows in enumerate(fleet):
        for row in rows:
            expected[owner, -(-row["ts"] // HOUR_S) - 1].append(row)
    found = {(owner, hour.number): hour for owner, hour in together(fleet)}
    assert list(found) == list(expected)
    for key, rows in expected.items():
        hour = found[key]
        assert hour.samples == len(rows)
        assert hour.totals[0] == sum(row["interval_s"] for row in rows)
        assert hour.totals[1] == sum(row["interval_s"] for row in rows if row.get("users", 0) > 0)
        weights: dict[int, int] = defaultdict(int)
        for index, part in enumerate(SLICES):
            measured = [
                (value, row["interval_s"]) for row in rows if (value := naive_values(row)[part.metric.name]) is not None
            ]
            assert hour.totals[2 + index] == sum(value * seconds for value, seconds in measured)
            assert hour.seconds[index] == sum(seconds for _, seconds in measured)
            assert hour.maxima[index] == max((value for value, _ in measured), default=ABSENT)
            for value, seconds in measured:
                weights[int(part.bins(np.array([value]))[0])] += seconds
        assert dict(zip(hour.bins.tolist(), hour.weights.tolist(), strict=True)) == dict(sorted(weights.items()))
        assert hour.bins.tolist() == sorted(weights)


@given(rows_at(START_S + 60, 60))
def test_a_row_comes_back_from_its_packed_form(row: Row) -> None:
    """Packing a row and quantising it again gives the integers that a store keeps, ABSENT for what is missing."""
    assert quantise(packed(row)).tolist() == table_of([row]).tolist()


@given(rows_at(START_S + 60, 60))
def test_stored_integers_read_back_in_the_units_of_the_wire(row: Row) -> None:
    """A stored row reads back within half a step of each figure, and as None where nothing was measured."""
    cells = [None if value == ABSENT else value for value in table_of([row])[0].tolist()]
    named = dequantise(cells)
    for field in FIELDS:
        value = named[field.name]
        if field.column not in row:
            assert value is None
        else:
            assert value is not None
            assert abs(value - row[field.column] * field.unit.quantum) <= field.unit.quantum / 2


def test_the_end_of_an_hour_belongs_to_it() -> None:
    """`ts` ends an interval, so 01:00:00 is of the hour that began at 00:00 and 01:01:00 of the next."""
    table = quantise(packed_row(START_S + HOUR_S) + packed_row(START_S + HOUR_S + 60))
    assert hours_of(table).tolist() == [FIRST_HOUR, FIRST_HOUR + 1]


def test_what_was_not_measured_never_counts_as_zero() -> None:
    """The mean of a figure is over the rows that have it; a row without it adds neither value nor seconds."""
    cpu_max = [metric.name for metric in METRICS].index("cpu_max")
    rows = [
        {"ts": START_S + 60, "interval_s": 60, "cpu_busy": 0, "mem_total": 8, "mem_used": 4, "cpu_max": 50_000},
        {"ts": START_S + 120, "interval_s": 60, "cpu_busy": 0, "mem_total": 8, "mem_used": 4},
    ]
    (hour,) = one(rows)
    assert hour.totals[0] == 120
    assert hour.seconds[cpu_max] == 60
    assert hour.totals[2 + cpu_max] / hour.seconds[cpu_max] == 50_000


def test_a_figure_that_is_never_there_has_no_maximum_and_no_bins() -> None:
    """A metric without a measurement is ABSENT in the hour and occupies no bin."""
    row = {"ts": START_S + 60, "interval_s": 60, "cpu_busy": 7, "mem_total": 8, "mem_used": 4}
    (hour,) = one([row])
    known = {"cpu_busy", "mem_used"}
    for index, part in enumerate(SLICES):
        occupied = ((hour.bins >= part.start) & (hour.bins < part.stop)).any()
        assert (hour.maxima[index] != ABSENT) == (part.metric.name in known) == bool(occupied)


def test_a_sum_of_two_rates_needs_both() -> None:
    """disk_io and net_io are unknown where one of their parts is, instead of too small."""
    row = {"ts": START_S + 60, "interval_s": 60, "cpu_busy": 7, "mem_total": 8, "mem_used": 4, "disk_read": 9}
    (hour,) = one([row])
    assert hour.seconds[[metric.name for metric in METRICS].index("disk_io")] == 0


def test_no_rows_make_no_hours() -> None:
    """A chunk of VMs that only want their summaries rolls up to nothing."""
    assert list(roll_up(np.zeros(0, np.int64), np.zeros((0, len(SAMPLE_COLUMNS)), np.int64))) == []


def test_more_hours_than_fit_one_block_are_all_there() -> None:
    """Hours are counted in blocks; each of a thousand has its own row's bin and seconds."""
    rows = [
        {"ts": START_S + (1 + step) * HOUR_S, "interval_s": 300, "cpu_busy": step, "mem_total": 8, "mem_used": 4}
        for step in range(1000)
    ]
    hours = one(rows)
    assert [hour.number for hour in hours] == [FIRST_HOUR + step for step in range(1000)]
    for step, hour in enumerate(hours):
        assert hour.bins[0] == SLICES[0].bins(np.array([step]))[0]
        assert hour.weights.tolist() == [300, 300]
