"""Numbers and times as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.words import duration_words, gib, iso_time, number, printable, time_words


@pytest.mark.parametrize(
    ("value", "unit", "beside", "text"),
    [
        (None, "ratio", 0.1, "–"),
        (0.0, "ratio", 0.1, "0%"),
        (0.0001, "ratio", 0.1, "<0.1%"),
        (0.1, "ratio", 0.1, "10%"),
        (0.1234, "ratio", None, "12.3%"),
        (0.1004, "ratio", 0.1, "10.04%"),
        (0.94999, "ratio", 0.95, "94.999%"),
        (0.0002, "ratio", 0.0003, "0.02%"),
        (12.0, "bytes_per_s", None, "12 B/s"),
        (2_000_000.0, "bytes_per_s", None, "2 MB/s"),
        (90.0, "s", None, "1.5 min"),
        (3601.0, "s", 3600.0, "3601 s"),
        (7200.0, "s", 3600.0, "2 h"),
    ],
)
def test_numbers(value: float | None, unit: str, beside: float | None, text: str) -> None:
    """Short, with the unit, and never so short that a figure looks like the limit it is not."""
    assert number(value, unit, beside=beside) == text


@given(value=st.floats(0, 1), limit=st.sampled_from((0.05, 0.1, 0.95)))
def test_a_figure_reads_as_its_limit_only_when_it_is_that_close(value: float, limit: float) -> None:
    """Two texts are equal only where the numbers differ by less than anybody measures."""
    if abs(value - limit) > 1e-9:
        assert number(value, "ratio", beside=limit) != number(limit, "ratio")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (90_000, "25 h"), (864_000, "10 d")]
)
def test_durations(seconds: float, text: str) -> None:
    """The unit grows with the length."""
    assert duration_words(seconds) == text


def test_times_are_utc() -> None:
    """The same text everywhere, and a number that no calendar holds is no crash."""
    assert time_words(0) == "1970-01-01 00:00 UTC"
    assert iso_time(1.9) == "1970-01-01T00:00:01Z"
    assert time_words(1e18) == "1000000000000000000 s"
    assert iso_time(1e18) == ""


def test_sizes_are_gib() -> None:
    """Memory is given in GiB, thousands apart."""
    assert gib(2**30 * 1024) == "1,024.0 GiB"


def test_what_moves_a_cursor_is_not_printable() -> None:
    """Control characters and line breaks are replaced, letters of any script stay."""
    assert printable("é字\x1b[1m\n") == "é字\N{REPLACEMENT CHARACTER}[1m\N{REPLACEMENT CHARACTER}"
