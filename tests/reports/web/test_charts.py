"""Bars and cells: nothing is lost between the evidence and what a page shows."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reports.judgement import Timetable
from reports.timetable import WEEK_HOURS
from reports.web.charts import BANDS, HISTOGRAM_METRICS, distribution, heat_map, histogram_of, hours_distribution
from tests.reports.fleets import ASLEEP, BUSY, OFFICE, Constant, Load, Spec, facts_of

WINTER = datetime(2026, 1, 15, tzinfo=UTC).timestamp()
SUMMER = datetime(2026, 7, 15, tzinfo=UTC).timestamp()
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("metric", HISTOGRAM_METRICS)
@pytest.mark.parametrize("load", [ASLEEP, BUSY, OFFICE])
def test_histogram_holds_every_second(metric: str, load: Load) -> None:
    """Its seconds are those of the window but for the open hour, and its bins rise without overlap."""
    layout = facts_of([Spec(load=load)]).evidence.layouts[0]
    found = histogram_of(layout, metric, 7)
    assert found is not None
    assert 7 * 86_400 - 3600 <= found.seconds.sum() <= 7 * 86_400
    assert (found.lows < found.highs).all()
    assert (found.highs[:-1] <= found.lows[1:] + 1e-12).all()
    bars = hours_distribution(found).bars
    assert sum(bar.amount for bar in bars) == pytest.approx(found.seconds.sum() / 3600)


def test_histogram_lies_where_the_figure_was() -> None:
    """A VM that always uses 30 % CPU has all its hours in the bar from 20 % to 40 %."""
    layout = facts_of([Spec(load=Load(cpu=Constant(0.3)))]).evidence.layouts[0]
    found = histogram_of(layout, "cpu_busy", 14)
    assert found is not None
    assert found.lows.max() <= 0.3 < found.highs.max()
    (bar,) = [bar for bar in hours_distribution(found).bars if bar.amount]
    assert (bar.words, bar.low, bar.high, bar.share_ratio, bar.length_ratio) == ("20% – 40%", 0.2, 0.4, 1.0, 1.0)


def test_no_evidence_is_no_histogram() -> None:
    """A VM without samples, or a window that is not kept, has none; it is not an empty one."""
    assert histogram_of(None, "cpu_busy", 14) is None
    assert histogram_of(facts_of([Spec()]).evidence.layouts[0], "cpu_busy", 5) is None


@given(amounts=st.lists(st.integers(0, 10**6), min_size=len(BANDS["ratio"]), max_size=len(BANDS["ratio"])))
def test_bars_share_the_whole(amounts: list[float]) -> None:
    """Shares add up to one, the longest bar is whole, and nothing is not divided by."""
    bars = distribution("Mean CPU", "ratio", amounts, amounts="VMs").bars
    assert [bar.amount for bar in bars] == amounts
    assert sum(bar.share_ratio for bar in bars) == pytest.approx(1.0 if any(amounts) else 0.0)
    assert max(bar.length_ratio for bar in bars) == (1.0 if any(amounts) else 0.0)
    assert bars[0].words == "below 1%"
    assert bars[-1].words == "80% – 100%"


def test_week_is_on_the_readers_clock() -> None:
    """What is busy at 09:00 UTC on Monday stands at 10:00 in Berlin's winter and at 11:00 in its summer."""
    seconds, ratio = np.full(WEEK_HOURS, 4 * 3600.0), np.zeros(WEEK_HOURS)
    ratio[9] = 0.5
    for now_s, hour in ((WINTER, 10), (SUMMER, 11)):
        found = heat_map(seconds, ratio, None, BERLIN, now_s)
        busy = [(row.day, cell.hour) for row in found.rows for cell in row.cells if cell.ratio]
        assert busy == [("Mon", hour)]
        assert found.rows[0].cells[hour].words == f"Mon {hour}:00: 50% CPU"
        assert found.heads[hour] == str(hour)
    half = heat_map(seconds, ratio, None, ZoneInfo("Asia/Kolkata"), WINTER)
    assert half.heads[14] == "14:30"
    assert half.rows[0].cells[14].words == "Mon 14:30: 50% CPU"


def test_week_wraps_round() -> None:
    """The last hour of Sunday in UTC is Monday in Berlin, and Sunday still in New York."""
    seconds, ratio = np.full(WEEK_HOURS, 3600.0), np.zeros(WEEK_HOURS)
    ratio[167] = 0.9
    assert heat_map(seconds, ratio, None, BERLIN, WINTER).rows[0].cells[0].ratio == 0.9
    assert heat_map(seconds, ratio, None, ZoneInfo("America/New_York"), WINTER).rows[6].cells[18].ratio == 0.9


def test_hour_that_was_never_seen_is_not_at_rest() -> None:
    """Without samples a cell has no level, which is not the level of rest."""
    ratio = np.full(WEEK_HOURS, np.nan)
    found = heat_map(np.zeros(WEEK_HOURS), ratio, None, BERLIN, WINTER)
    assert found.is_empty
    assert {cell.level for row in found.rows for cell in row.cells} == {None}
    assert found.rows[0].cells[0].words == "Mon 00:00: no samples"


def test_timetable_moves_with_the_clock() -> None:
    """Cells that are off and the ranges in words tell the same hours."""
    off = tuple(hour % 24 >= 18 for hour in range(WEEK_HOURS))
    timetable = Timetable(off=off, provisional=False)
    found = heat_map(np.full(WEEK_HOURS, 9e4), np.zeros(WEEK_HOURS), timetable, BERLIN, WINTER)
    assert [cell.off for cell in found.rows[2].cells] == [hour >= 19 or hour == 0 for hour in range(24)]
    assert found.off_ranges[0] == "Mon 19:00 – Tue 01:00"
    assert found.rows[2].cells[19].words == "Wed 19:00: 0% CPU, could be off"


@given(ratio=arrays(np.float64, WEEK_HOURS, elements=st.floats(0, 1)), shift=st.sampled_from(["UTC", "Asia/Tokyo"]))
def test_no_hour_is_lost(ratio: np.ndarray, shift: str) -> None:
    """Every hour of the week stands in one cell, and busier ones never look quieter."""
    found = heat_map(np.full(WEEK_HOURS, 3600.0), ratio, None, ZoneInfo(shift), WINTER)
    cells = [cell for row in found.rows for cell in row.cells]
    assert sorted(cell.ratio or 0.0 for cell in cells) == sorted(ratio.tolist())
    by_ratio = sorted(cells, key=lambda cell: cell.ratio or 0.0)
    levels = [cell.level or 0 for cell in by_ratio]
    assert levels == sorted(levels)
    assert set(levels) <= set(range(7))


def test_weeks_are_counted_as_for_a_timetable() -> None:
    """A few hours that were missed cost no week; more than a tenth of them do."""
    seconds = np.full(WEEK_HOURS, 4 * 3600.0)
    seconds[:16] = 0.0
    assert heat_map(seconds, np.zeros(WEEK_HOURS), None, BERLIN, WINTER).covered_weeks == 4
    seconds[:17] = 3600.0
    assert heat_map(seconds, np.zeros(WEEK_HOURS), None, BERLIN, WINTER).covered_weeks == 1
