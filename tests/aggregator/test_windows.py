"""Windows: running sums that never drift, their bytes, and the figures read off them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.traces import Recording, read_trace
from aggregator.check_content import compare_windows
from aggregator.histogram import SLICES
from aggregator.rollup import ABSENT, Hour, quantise, roll_up
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.summary import METRICS, STATISTIC_COLUMNS, Figures
from aggregator.windows import DAILY_DAYS, PROFILE_DAYS, Windows, profile_cell, read_figures, rebuild
from tests.aggregator.store_fakes import HOUR_S, START_S, WINDOWS, Row, naive_values, packed_row, rows_at, table_of
from tests.traces import trace

FIRST_HOUR = START_S // HOUR_S
REACH_HOURS = 24 * DAILY_DAYS
# Around the lengths of the windows, of the profile and of the daily totals.
JUMPS = (0, 0, 1, 2, 23, 24, 25, 71, 72, 167, 168, 169, 24 * PROFILE_DAYS - 1, 24 * PROFILE_DAYS, REACH_HOURS, 900)


class Model:
    """One VM as the worker keeps it, with dictionaries for a store."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.closed: dict[int, Hour] = {}
        self.open: Hour | None = None
        self.windows: Windows | None = None

    def flush(self, rows: Iterable[Row]) -> None:
        new = {row["ts"]: row for row in rows if row["ts"] not in self.rows}
        self.rows.update(new)
        touched = {(ts - 1) // HOUR_S for ts in new} | ({self.windows.open_hour} if self.windows else set())
        hours = self.rolled(touched)
        windows = self.windows or Windows.empty(WINDOWS, max(hours))
        open_hour = max(*hours, windows.open_hour)
        added = [hour for number, hour in hours.items() if number < open_hour]
        replaced = [hour.number for hour in added if hour.number < windows.open_hour]
        old = {number for first, last in windows.expiring(open_hour) for number in range(first, last + 1)}
        before = {number: self.closed[number] for number in old | set(replaced) if number in self.closed}
        windows.advance(open_hour, before, replaced, added)
        self.closed.update((hour.number, hour) for hour in added)
        for window in windows.stale():
            inside = range(windows.first_hour(window), open_hour)
            maxima = [hour.maxima for number, hour in self.closed.items() if number in inside]
            windows.renew_maxima(window, np.array(maxima, np.int64).reshape(-1, len(METRICS)))
        self.windows, self.open = windows, hours.get(open_hour)

    def rolled(self, numbers: set[int]) -> dict[int, Hour]:
        table = table_of(self.rows[ts] for ts in sorted(self.rows) if (ts - 1) // HOUR_S in numbers)
        return {hour.number: hour for _, hour in roll_up(np.zeros(len(table), np.int64), table)}


@st.composite
def flushes(draw: st.DrawFn) -> list[list[Row]]:
    """Flushes of one VM: mostly forward, some late rows, gaps and long jumps, intervals that change."""
    number, result = FIRST_HOUR, []
    for _ in range(draw(st.integers(1, 8))):
        number += draw(st.sampled_from(JUMPS))
        rows = []
        for _ in range(draw(st.integers(1, 4))):
            interval_s = draw(st.sampled_from([60, 300, 3600]))
            late = draw(st.sampled_from([0, 0, 0, 1, 2, 24, 73, 169, 680]))
            start_s = max(number - late, FIRST_HOUR - 50) * HOUR_S
            ts = start_s + interval_s * draw(st.integers(1, HOUR_S // interval_s))
            rows.append(draw(rows_at(ts, interval_s)))
        result.append(rows)
    return result


def filled(rows: Iterable[Row]) -> tuple[Windows, Hour | None]:
    model = Model()
    model.flush(rows)
    assert model.windows is not None
    return model.windows, model.open


@settings(max_examples=200)
@given(flushes())
def test_advancing_equals_rebuilding(sequence: list[list[Row]]) -> None:
    """After every flush the running sums equal those rebuilt from the closed hours, whatever came when."""
    model = Model()
    for rows in sequence:
        model.flush(rows)
        assert model.windows is not None
        reference = rebuild(WINDOWS, model.windows.open_hour, model.closed.values())
        assert list(compare_windows(model.windows, reference)) == []
        assert model.windows.encode() == reference.encode()


@given(flushes())
def test_figures_equal_those_of_the_rows(sequence: list[list[Row]]) -> None:
    """Coverage, logged-in time, means and maxima of each window are exact; percentiles are off by a bin at most."""
    model = Model()
    for rows in sequence:
        model.flush(rows)
    assert model.windows is not None
    for figures in read_figures([model.windows], [model.open])[0]:
        assert_exact(figures, [row for ts, row in model.rows.items() if ts > figures.start_s])


def assert_exact(figures: Figures, rows: list[Row]) -> None:
    """Holds one window's figures against its rows."""
    assert figures.covered_s == sum(row["interval_s"] for row in rows)
    assert figures.users_s == sum(row["interval_s"] for row in rows if row.get("users", 0) > 0)
    found = dict(zip(STATISTIC_COLUMNS, figures.statistics, strict=True))
    values = [naive_values(row) for row in rows]
    for part in SLICES:
        metric = part.metric
        measured = [
            (value, row["interval_s"])
            for row, each in zip(rows, values, strict=True)
            if (value := each[metric.name]) is not None
        ]
        if not measured:
            assert [found[metric.column(statistic)] for statistic in metric.statistics] == [None] * len(
                metric.statistics
            )
            continue
        numbers, weights = (np.array(column) for column in zip(*measured, strict=True))
        mean = float((numbers * weights).sum() / weights.sum()) * metric.quantum
        assert found[metric.column("mean")] == pytest.approx(mean, rel=1e-9, abs=1e-9)
        if "max" in metric.statistics:
            assert found[metric.column("max")] == pytest.approx(numbers.max() * metric.quantum, rel=1e-9, abs=1e-9)
        for statistic in {"p50", "p95", "p99"}.intersection(metric.statistics):
            fraction = int(statistic[1:]) / 100
            exact = np.array(
                [
                    np.quantile(numbers, near, weights=weights, method="inverted_cdf")
                    for near in (fraction - 1e-9, fraction + 1e-9)
                ]
            )
            index = part.bins(exact.astype(np.int64)) - part.start
            low = 0 if index[0] == 0 else part.edges[index[0] - 1]
            high = 0 if index[1] == 0 else part.edges[index[1]] - 1
            percentile = found[metric.column(statistic)]
            assert percentile is not None
            assert low * metric.quantum - 1e-9 <= percentile <= high * metric.quantum + 1e-9


@given(flushes())
def test_sums_survive_their_bytes(sequence: list[list[Row]]) -> None:
    """Decoding what was encoded gives sums that encode to the same bytes and are equal in every part."""
    model = Model()
    for rows in sequence:
        model.flush(rows)
    assert model.windows is not None
    body = model.windows.encode()
    again = Windows.decode(body)
    assert again.days == WINDOWS
    assert again.open_hour == model.windows.open_hour
    assert again.maxima.tolist() == model.windows.maxima.tolist()
    assert list(compare_windows(again, model.windows)) == []
    assert again.encode() == body


@given(st.data())
def test_damaged_bytes_are_refused(data: st.DataObject) -> None:
    """Whatever a disk made of the sums, decoding them says ValueError, which the worker knows."""
    row: Row = {"ts": START_S + 60, "interval_s": 60, "cpu_busy": 1, "mem_total": 2, "mem_used": 1}
    whole = filled([row])[0].encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    for body in (bytes(flipped), whole[:at], whole + b"x"):
        with pytest.raises(ValueError, match="window sums"):
            Windows.decode(body)


def test_sums_of_another_layout_are_refused() -> None:
    """Sums of a newer program are not misread."""
    row: Row = {"ts": START_S + 60, "interval_s": 60, "cpu_busy": 1, "mem_total": 2, "mem_used": 1}
    body = b"\x09" + filled([row])[0].encode()[1:-4]
    with pytest.raises(ValueError, match="layout 9"):
        Windows.decode(body + struct.pack("<I", crc32(body)))


def test_an_hour_leaves_a_window_when_it_should() -> None:
    """A window of a day holds the 24 hours that end with the open one: a row counts for 23 hours after its own."""
    rows = [
        {"ts": START_S + 60 + step * HOUR_S, "interval_s": 60, "cpu_busy": 1, "mem_total": 2, "mem_used": 1}
        for step in (0, 23, 24)
    ]
    for count, covered_s in ((2, 120), (3, 120)):
        windows, open_hour = filled(rows[:count])
        day = read_figures([windows], [open_hour])[0][0]
        assert day.covered_s == covered_s
        assert day.start_s == (windows.open_hour - 23) * HOUR_S


def test_a_maximum_leaves_with_its_hour() -> None:
    """When the hour with the peak leaves a window, the next highest of the hours that stay takes its place."""
    column = STATISTIC_COLUMNS.index("cpu_busy_max_ratio")
    model = Model()
    seen = []
    for step, busy in ((0, 90_000), (1, 40_000), (24, 10_000), (25, 10_000)):
        ts = START_S + 60 + step * HOUR_S
        model.flush([{"ts": ts, "interval_s": 60, "cpu_busy": busy, "mem_total": 2, "mem_used": 1}])
        assert model.windows is not None
        seen.append(read_figures([model.windows], [model.open])[0][0].statistics[column])
    assert seen == [0.9, 0.9, 0.4, 0.1]


@given(st.integers(0, 500_000))
def test_the_profile_is_by_hour_of_the_week(hour: int) -> None:
    """Cell 0 is Monday 00:00 UTC."""
    moment = datetime.fromtimestamp(hour * HOUR_S, UTC)
    assert profile_cell(hour) == moment.weekday() * 24 + moment.hour


def test_daily_totals_are_bytes_of_the_day() -> None:
    """Received and sent bytes of a day are rate times seconds, kept apart."""
    row: Row = {"ts": START_S + 300, "interval_s": 300, "cpu_busy": 1, "mem_total": 2, "mem_used": 1}
    later: Row = {**row, "ts": START_S + HOUR_S + 300}
    windows, _ = filled([{**row, "net_rx": 100, "net_tx": 7}, later])
    assert windows.daily == {START_S // 86400: [30_000, 2_100]}


def test_figures_of_a_fleet_equal_figures_of_each() -> None:
    """Reading many VMs at once gives each what it gives alone, also where one has measured nothing of a metric."""
    base: Row = {"ts": START_S + 60, "interval_s": 60, "cpu_busy": 5, "mem_total": 100, "mem_used": 7}
    fleet = [filled([base]), filled([{**base, "disk_read": 1 << 20}]), filled([{**base, "cpu_busy": 99_999}])]
    together = read_figures([windows for windows, _ in fleet], [hour for _, hour in fleet])
    assert together == [read_figures([windows], [hour])[0] for windows, hour in fleet]


def rows_of(recording: Recording) -> list[Row]:
    """A recorded VM as rows by column, in the integers of a store."""
    body = b"".join(
        packed_row(
            sample.ts,
            interval_s=recording.interval_s,
            **{name: getattr(sample, name) for name in recording.fields if getattr(sample, name) is not None},
        )
        for sample in recording.samples()
    )
    return [
        {name: value for name, value in zip(SAMPLE_COLUMNS, cells, strict=True) if value != ABSENT}
        for cells in quantise(body).tolist()
    ]


@pytest.mark.parametrize("vm", range(4))
def test_figures_of_a_recorded_vm(vm: int) -> None:
    """The figures of a recorded month equal the exact ones of its samples, percentiles to within a bin."""
    recordings = list(read_trace(trace("bitbrains/raw-sample-4vms.tar.xz")))
    rows = rows_of(recordings[vm])
    model = Model()
    for begin in range(0, len(rows), 97):
        model.flush(rows[begin : begin + 97])
    assert model.windows is not None
    for figures in read_figures([model.windows], [model.open])[0]:
        inside = [row for row in rows if row["ts"] > figures.start_s]
        assert len(inside) > 200
        assert_exact(figures, inside)
