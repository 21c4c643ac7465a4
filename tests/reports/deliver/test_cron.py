"""Cron lines mean what cron makes of them, and clock changes neither lose nor double a report."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.deliver.cron import latest_due_s, next_due_s, parse_cron

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [UTC, BERLIN, ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Asia/Kolkata")]
LINES = ["0 7 * * 1", "30 2 * * *", "*/30 * * * *", "15 * * * *", "0 0 1 * *", "45 1-3 * * sun", "0 */2 * * *"]


def times(line: str, after: datetime, count: int, zone: tzinfo = BERLIN) -> list[str]:
    """The next times in UTC, as `MM-DD HH:MM`."""
    cron, now_s, found = parse_cron(line), after.timestamp(), []
    for _ in range(count):
        due_s = next_due_s(cron, zone, now_s)
        assert due_s is not None
        found.append(f"{datetime.fromtimestamp(due_s, UTC):%m-%d %H:%M}")
        now_s = due_s
    return found


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", "Sun"),
        ("1", "Mon"),
        ("7", "Sun"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("mon,thu", "Mon Thu"),
        ("fri-sun", "Fri Sat Sun"),
        ("FRI-MON", "Mon Fri Sat Sun"),
        ("*/2", "Tue Thu Sat Sun"),
        ("1-5/2", "Mon Wed Fri"),
        ("5-7", "Fri Sat Sun"),
        ("0-7", "Mon Tue Wed Thu Fri Sat Sun"),
        ("*", "Mon Tue Wed Thu Fri Sat Sun"),
    ],
)
def test_days_of_the_week_are_those_of_cron(field: str, days: str) -> None:
    """1 is Monday, 0 and 7 are Sunday: not as APScheduler counts."""
    cron = parse_cron(f"0 7 * * {field}")
    monday = datetime(2026, 11, 23, tzinfo=UTC)
    found, now_s = [], monday.timestamp() - 1
    while (due_s := next_due_s(cron, UTC, now_s)) is not None and due_s < monday.timestamp() + 7 * 86_400:
        found.append(f"{datetime.fromtimestamp(due_s, UTC):%a}")
        now_s = due_s
    assert " ".join(found) == days


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("@daily", "not a cron line of five fields"),
        ("0 7 * *", "not a cron line of five fields"),
        ("0 0 7 * * 1", "not a cron line of five fields"),
        (7, "not a cron line of five fields"),
        ("", "not a cron line of five fields"),
        ("60 7 * * *", "is not a cron line: .*60"),
        ("0 24 * * *", "is not a cron line: .*24"),
        ("x 7 * * *", "is not a cron line: "),
        ("0 7 * * 8", "'8' is not a day of the week"),
        ("0 7 * * abc", "'abc' is not a day of the week"),
        ("0 7 * * 1,,2", "'' is not a day of the week"),
        ("0 7 * * 1/2", "'1/2' is not a day of the week"),
        ("0 7 30 2 *", "never comes"),
        ("0 7 1 * 1", "days of the month and days of the week"),
    ],
)
def test_what_is_no_cron_line_is_refused(line: object, problem: str) -> None:
    """The message repeats the line and says what is wrong with it."""
    with pytest.raises(ValueError, match=problem):
        parse_cron(line)


def test_a_fixed_hour_keeps_its_local_time() -> None:
    """Seven in the morning in Berlin is six in UTC in winter and five in summer."""
    assert times("0 7 * * *", datetime(2026, 3, 28, tzinfo=BERLIN), 3) == ["03-28 06:00", "03-29 05:00", "03-30 05:00"]
    assert times("0 7 * * *", datetime(2026, 10, 24, tzinfo=BERLIN), 3) == ["10-24 05:00", "10-25 06:00", "10-26 06:00"]


def test_a_time_that_is_left_out_comes_an_hour_later() -> None:
    """On 29 March 2026 there is no 02:30 in Berlin: the report is due at 03:30, once."""
    assert times("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2) == ["03-29 01:30", "03-30 00:30"]
    # Also for whoever asks after the clock was put forward and before 03:30.
    assert times("30 2 * * *", datetime(2026, 3, 29, 3, 10, tzinfo=BERLIN), 1) == ["03-29 01:30"]


def test_a_time_that_comes_twice_is_due_once() -> None:
    """On 25 October 2026 02:30 passes twice in Berlin: the first time counts."""
    assert times("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=BERLIN), 2) == ["10-25 00:30", "10-26 01:30"]
    between = datetime(2026, 10, 25, 2, 40, tzinfo=BERLIN)
    assert times("30 2 * * *", between, 1) == ["10-26 01:30"]


def test_midnight_after_a_clock_change_is_not_lost() -> None:
    """The first of the month and the Monday after the change come, however long before it one asks."""
    assert times("0 0 1 * *", datetime(2026, 2, 28, tzinfo=BERLIN), 3) == ["02-28 23:00", "03-31 22:00", "04-30 22:00"]
    assert times("0 0 * * 1", datetime(2026, 3, 23, 1, tzinfo=BERLIN), 2) == ["03-29 22:00", "04-05 22:00"]


def test_every_hour_goes_on_through_a_clock_change() -> None:
    """A line of all hours is due each hour that passes, none left out and none doubled."""
    spring = times("0 * * * *", datetime(2026, 3, 29, 0, 30, tzinfo=BERLIN), 3)
    assert spring == ["03-29 00:00", "03-29 01:00", "03-29 02:00"]
    autumn = times("0 * * * *", datetime(2026, 10, 25, 1, 30, tzinfo=BERLIN), 4)
    assert autumn == ["10-25 00:00", "10-25 01:00", "10-25 02:00", "10-25 03:00"]


def test_the_latest_time_is_found_in_a_span() -> None:
    """After the beginning, not after the end; none is None."""
    cron = parse_cron("0 7 * * *")
    seven_s = datetime(2026, 11, 21, 7, tzinfo=UTC).timestamp()
    assert latest_due_s(cron, UTC, after_s=seven_s - 3600, until_s=seven_s) == seven_s
    assert latest_due_s(cron, UTC, after_s=seven_s - 3600, until_s=seven_s - 0.001) is None
    assert latest_due_s(cron, UTC, after_s=seven_s, until_s=seven_s + 3600) is None
    assert latest_due_s(cron, UTC, after_s=seven_s - 90_000, until_s=seven_s + 60) == seven_s


@settings(max_examples=60)
@given(
    line=st.sampled_from(LINES),
    zone=st.sampled_from(ZONES),
    start_s=st.integers(1_760_000_000, 1_800_000_000),
)
def test_times_rise_and_do_not_depend_on_who_asks_when(line: str, zone: tzinfo, start_s: int) -> None:
    """Asked from anywhere between two times, the next is the same, and times never go back or repeat."""
    cron = parse_cron(line)
    found: list[float] = []
    now_s: float = start_s
    for _ in range(6):
        due_s = next_due_s(cron, zone, now_s)
        assert due_s is not None
        found.append(due_s)
        now_s = due_s
    for before_s, due_s in pairwise([float(start_s), *found]):
        assert before_s < due_s
        for asked_s in (before_s, (before_s + due_s) / 2, due_s - 1):
            if asked_s >= before_s:
                assert next_due_s(cron, zone, asked_s) == due_s
        assert latest_due_s(cron, zone, after_s=before_s, until_s=due_s) == due_s


def minute_by_minute(minutes: set[int], hours: set[int] | None, zone: tzinfo, start_s: int, end_s: int) -> list[float]:
    """What is due in a span by looking at every minute: the slow and plain way. `hours` None is every hour."""
    found: set[float] = set()
    for unix_s in range(start_s, end_s, 60):
        here = datetime.fromtimestamp(unix_s, zone)
        if here.minute in minutes and (hours is None or (here.hour in hours and not here.fold)):
            found.add(unix_s)
        # A wall clock that shows this minute nowhere.
        wall = datetime.fromtimestamp(unix_s, UTC).replace(tzinfo=zone)
        shown = datetime.fromtimestamp(wall.timestamp(), zone)
        is_left_out = shown.replace(tzinfo=None) != wall.replace(tzinfo=None)
        if is_left_out and wall.minute in minutes and (hours is None or wall.hour in hours):
            found.add(wall.timestamp())
    return sorted(due_s for due_s in found if start_s <= due_s < end_s)


@settings(max_examples=30)
@given(
    minutes=st.sets(st.sampled_from([0, 1, 15, 29, 30, 31, 45, 59]), min_size=1, max_size=3),
    hours=st.none() | st.sets(st.integers(0, 5) | st.integers(0, 23), min_size=1, max_size=4),
    zone=st.sampled_from(ZONES),
    # Weekends with clock changes in one of the zones, and one without.
    day=st.sampled_from(
        ["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01", "2026-11-21"]
    ),
)
def test_times_are_those_of_every_minute_looked_at(
    minutes: set[int], hours: set[int] | None, zone: tzinfo, day: str
) -> None:
    """Over three days around clock changes: none lost, none doubled, none made up."""
    start_s = int(datetime.fromisoformat(f"{day}T00:00+00:00").timestamp()) - 86_400
    end_s = start_s + 3 * 86_400
    line = f"{','.join(map(str, minutes))} {'*' if hours is None else ','.join(map(str, hours))} * * *"
    cron, found, now_s = parse_cron(line), [], float(start_s - 1)
    while (due_s := next_due_s(cron, zone, now_s)) is not None and due_s < end_s:
        found.append(due_s)
        now_s = due_s
    assert found == minute_by_minute(minutes, hours, zone, start_s, end_s)
