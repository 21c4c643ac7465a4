"""Shares, rates and windows as admins write them."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.config import parse_windows
from reports.quantities import (
    MAX_WINDOW_DAYS,
    limit_text,
    limit_words,
    parse_amount,
    parse_limit,
    parse_positive_amount,
    parse_positive_ratio,
    parse_ratio,
    parse_window_days,
    whole_number,
)

LARGEST = {"ratio": 1.0, "bytes_per_s": 1e300, "bytes_per_day": 1e300, "vcpus": 1e6}


@pytest.mark.parametrize(
    ("value", "unit", "limit"),
    [
        ("5%", "ratio", 0.05),
        ("0.05 %", "ratio", 0.0005),
        (0.05, "ratio", 0.05),
        (0, "ratio", 0.0),
        ("100%", "ratio", 1.0),
        ("2 kB/s", "bytes_per_s", 2000.0),
        ("2KB/s", "bytes_per_s", 2000.0),
        ("1.5 MB/s", "bytes_per_s", 1.5e6),
        ("1 KiB/s", "bytes_per_s", 1024.0),
        ("7 B/s", "bytes_per_s", 7.0),
        (2000, "bytes_per_s", 2000.0),
        ("5 MB", "bytes_per_day", 5e6),
        ("5 MB a day", "bytes_per_day", 5e6),
        (0.03, "vcpus", 0.03),
    ],
)
def test_a_limit_is_read_in_its_unit(value: object, unit: str, limit: float) -> None:
    """Text with a unit and plain numbers give exactly the number that is meant."""
    assert parse_limit(value, unit) == limit


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("5", "ratio"),
        ("101%", "ratio"),
        (1.01, "ratio"),
        ("2 kB/s", "ratio"),
        ("5%", "bytes_per_s"),
        ("2 kB", "bytes_per_s"),
        ("2 kb/s", "bytes_per_s"),
        ("2 Mb/s", "bytes_per_s"),
        ("2 kB/s\n", "bytes_per_s"),
        ("-2 kB/s", "bytes_per_s"),
        ("5 MB/s", "bytes_per_day"),
        ("0.03", "vcpus"),
        ("٣ B/s", "bytes_per_s"),
        (-1, "vcpus"),
        (True, "vcpus"),
        (float("nan"), "vcpus"),
        (float("inf"), "bytes_per_s"),
        (10**400, "bytes_per_s"),
        ("9" * 400 + " B/s", "bytes_per_s"),
        (["5%"], "ratio"),
    ],
)
def test_another_unit_or_no_number_is_refused(value: object, unit: str) -> None:
    """Nothing is guessed: the message is short and shows what a limit of this unit looks like."""
    with pytest.raises(ValueError, match="such as") as caught:
        parse_limit(value, unit)
    assert len(str(caught.value)) < 160


@given(st.sampled_from(sorted(LARGEST)), st.data())
def test_a_written_limit_is_read_as_the_same_number(unit: str, data: st.DataObject) -> None:
    """Whatever the limit, its text is a value of TOML that means exactly that number."""
    limit = data.draw(st.floats(0, LARGEST[unit]) | st.integers(0, 20_000).map(lambda count: count / 20_000))
    assert parse_limit(tomllib.loads(f"limit = {limit_text(limit, unit)}")["limit"], unit) == limit


def test_a_limit_is_written_as_people_would() -> None:
    """Usual limits have their unit, and people read them without quotes."""
    assert limit_text(0.05, "ratio") == '"5%"'
    assert limit_text(2000.0, "bytes_per_s") == '"2 kB/s"'
    assert limit_text(5e6, "bytes_per_day") == '"5 MB"'
    assert limit_text(0.03, "vcpus") == "0.03"
    assert limit_words(0.0005, "ratio") == "0.05%"
    assert limit_words(12.5e6, "bytes_per_s") == "12.5 MB/s"
    assert limit_words(0.03, "vcpus") == "0.03 vCPU"
    assert limit_words(1 / 3, "ratio") == "33.3%"


def test_shares_and_amounts_have_bounds() -> None:
    """A share is 0 to 1, a price is not negative, and some are more than zero."""
    assert parse_ratio("0%") == 0.0
    assert parse_amount(3) == 3.0
    for parse, value in (
        (parse_positive_ratio, 0),
        (parse_positive_amount, 0),
        (parse_amount, -0.5),
        (parse_amount, "3"),
        (parse_amount, float("nan")),
        (whole_number(1, 4), 5),
        (whole_number(1, 4), 2.0),
        (whole_number(0, 4), True),
    ):
        with pytest.raises(ValueError, match="is not"):
            parse(value)


def test_windows_are_whole_days_that_an_aggregator_can_keep() -> None:
    """The longest window here is the longest that the aggregator takes."""
    assert parse_window_days("2w") == 14
    assert parse_window_days(f"{MAX_WINDOW_DAYS}d") == MAX_WINDOW_DAYS
    assert parse_windows(f"{MAX_WINDOW_DAYS}d") == (MAX_WINDOW_DAYS,)
    with pytest.raises(ValueError, match="at most"):
        parse_windows(f"{MAX_WINDOW_DAYS + 1}d")
    for text in ("36h", f"{MAX_WINDOW_DAYS + 1}d", 14, "x"):
        with pytest.raises(ValueError, match="is not"):
            parse_window_days(text)
