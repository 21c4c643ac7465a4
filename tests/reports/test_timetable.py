"""VMs that are busy at regular hours only, and when they could be off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from reports.judgement import Timetable
from reports.timetable import WEEK_HOURS, TimetableLimits, Timetables, propose
from tests.reports.columns import evidence, facts

OFFICE = [0.4 if day < 5 and 9 <= hour < 17 else 0.005 for day in range(7) for hour in range(24)]


def proposed(
    profile: Sequence[float],
    weeks: int = 4,
    *,
    users_ratio: float = 0.0,
    traffic_s: Mapping[str, Mapping[float, int]] | None = None,
) -> Timetables:
    """Args: traffic_s: metric -> seconds at each rate."""
    body = evidence(profile=profile, weeks=weeks, traffic_s=traffic_s)
    busy = {f"{metric}_p95_bytes_per_s": max(rates) for metric, rates in (traffic_s or {}).items()}
    return propose(facts(busy, body=body, users_ratio=users_ratio), TimetableLimits(), 14)


def test_office_hours() -> None:
    """Off from 17:00 to 08:00, an hour before work, and from Friday 17:00 to Monday 08:00: 123 hours."""
    found = proposed(OFFICE)
    assert found.scheduled[0]
    assert found.off_h_per_week[0] == 4 * 15 + 63
    assert not found.provisional[0]
    timetable = Timetable(off=tuple(found.off[0].tolist()), provisional=False)
    friday, monday = 4 * 24 + 17, 7 * 24 + 8
    assert (friday, monday) in timetable.ranges()
    assert (17, 24 + 8) in timetable.ranges()


def test_ranges_on_the_readers_clock() -> None:
    """Two hours ahead of UTC, work that ends at 17:00 UTC ends at 19:00."""
    timetable = Timetable(off=tuple(proposed(OFFICE).off[0].tolist()), provisional=False)
    assert (19, 24 + 10) in timetable.ranges(shift_h=2)
    assert sum(end - start for start, end in timetable.ranges(2)) == timetable.off_h_per_week


def test_always_busy_and_never_busy_have_no_timetable() -> None:
    """The one has no rests, the other no work."""
    assert not proposed([0.4] * WEEK_HOURS).scheduled[0]
    assert not proposed([0.005] * WEEK_HOURS).scheduled[0]


def test_short_rests_are_not_worth_a_stop() -> None:
    """An hour of work every fourth hour leaves rests of three."""
    assert not proposed([0.4 if hour % 4 == 0 else 0.0 for hour in range(WEEK_HOURS)]).scheduled[0]


def test_two_weeks_are_provisional_and_one_is_too_few() -> None:
    """A pattern must be seen to repeat."""
    assert proposed(OFFICE, weeks=2).scheduled[0]
    assert proposed(OFFICE, weeks=2).provisional[0]
    assert not proposed(OFFICE, weeks=1).scheduled[0]


@pytest.mark.parametrize("metric", ["net_io", "disk_io"])
def test_traffic_all_night_is_work(metric: str) -> None:
    """A VM that moves much in more of the time than it would be on is never proposed to be off."""
    window_s = 14 * 86_400
    day, night = int(window_s * 0.3), int(window_s * 0.7)
    assert not proposed(OFFICE, traffic_s={metric: {60e6: window_s}}).scheduled[0]
    assert not proposed(OFFICE, traffic_s={metric: {60e6: day + night // 5, 1e3: night - night // 5}}).scheduled[0]
    assert proposed(OFFICE, traffic_s={metric: {60e6: int(window_s * 0.3), 1e3: night}}).scheduled[0]


def test_somebody_logged_in_all_night_is_work() -> None:
    """Logins fit into the hours in which it would be on, or there is no timetable."""
    assert proposed(OFFICE, users_ratio=0.25).scheduled[0]
    assert not proposed(OFFICE, users_ratio=0.9).scheduled[0]


def test_without_evidence_nothing_is_proposed() -> None:
    """What was not seen is not at rest."""
    assert not propose(facts(), TimetableLimits(), 14).scheduled[0]


@given(st.lists(st.sampled_from((0.0, 0.01, 0.4)), min_size=WEEK_HOURS, max_size=WEEK_HOURS))
def test_it_is_never_off_at_work_nor_just_before(profile: list[float]) -> None:
    """Every hour off is at rest, and so is the hour after it; rests shorter than asked for stay on."""
    limits = TimetableLimits()
    off = proposed(profile).off[0]
    for hour in range(WEEK_HOURS):
        if off[hour]:
            assert profile[hour] <= limits.rest_ratio
            assert profile[(hour + 1) % WEEK_HOURS] <= limits.rest_ratio
    for start, end in Timetable(off=tuple(off.tolist()), provisional=False).ranges():
        assert end - start >= limits.min_rest_h
