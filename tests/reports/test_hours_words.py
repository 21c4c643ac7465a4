"""Hours of the week as people say them."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.hours_words import DAYS, needed_words
from reports.judgement import Timetable
from reports.timetable import WEEK_HOURS

HOURS_OF_ONE = re.compile(r"(\w{3})(?: (\d\d):00 to (\w{3}) (\d\d):00| (\d\d):00–(\d\d):00)")


def words(needed: Iterable[int]) -> str | None:
    hours = set(needed)
    return needed_words(Timetable(off=tuple(hour not in hours for hour in range(WEEK_HOURS)), provisional=False))


@pytest.mark.parametrize(
    ("needed", "text"),
    [
        ([24 * day + hour for day in range(5) for hour in range(8, 17)], "Mon–Fri 08:00–17:00 UTC"),
        ([24 * day + hour for day in (0, 2, 4) for hour in range(8, 17)], "Mon, Wed, Fri 08:00–17:00 UTC"),
        (
            [*(24 * day + hour for day in (0, 1) for hour in range(8, 17)), 150],
            "Mon–Tue 08:00–17:00 and Sun 06:00–07:00 UTC",
        ),
        ([(24 * day + hour) % WEEK_HOURS for day in range(7) for hour in range(20, 28)], "daily 20:00–04:00 UTC"),
        ([24 * day + hour for day in range(7) for hour in range(8, 24)], "daily 08:00–24:00 UTC"),
        (range(30, 100), "Tue 06:00 to Fri 04:00 UTC"),
        ([*range(160, 168), *range(5)], "Sun 16:00–05:00 UTC"),
    ],
)
def test_regular_hours_are_grouped_by_day(needed: Iterable[int], text: str) -> None:
    """Days with the same hours stand together; a night and the end of the week are no seam."""
    assert words(needed) == text


def test_what_is_no_pattern_is_not_said() -> None:
    """Never off, always off, and hours that differ from day to day."""
    assert words(range(WEEK_HOURS)) is None
    assert words(()) is None
    assert words(24 * day + 6 * part + hour for day in range(4) for part in (0, 2) for hour in range(day + 1)) is None


def test_hours_that_differ_every_day_are_said() -> None:
    """One group for each day of the week is no more than a reader can use."""
    text = words(24 * day + 8 + hour for day in range(7) for hour in range(day + 1))
    assert text is not None
    assert text.startswith("Mon 08:00–09:00, Tue 08:00–10:00, Wed")
    assert text.endswith(" and Sun 08:00–15:00 UTC")


@given(st.sets(st.integers(0, WEEK_HOURS - 1), min_size=1, max_size=WEEK_HOURS - 1).map(frozenset))
def test_what_is_said_of_single_days_is_needed(needed: frozenset[int]) -> None:
    """Hours read back from the words are those of the timetable."""
    text = words(needed)
    if text is None or "–" in re.sub(r"\d\d:00–\d\d:00", "", text) or "," in text or "daily" in text:
        return
    read: set[int] = set()
    for day, long_from, until_day, long_until, short_from, short_until in HOURS_OF_ONE.findall(text):
        start = DAYS.index(day) * 24 + int(long_from or short_from)
        until = (DAYS.index(until_day or day)) * 24 + int(long_until or short_until)
        length = (until - start) % WEEK_HOURS if until_day else (until - start - 1) % 24 + 1
        read |= {(start + hour) % WEEK_HOURS for hour in range(length)}
    assert read == needed
