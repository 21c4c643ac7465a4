"""Numbers and times as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.words import (
    NOT_MEASURED,
    count_words,
    duration_words,
    gib,
    iso_time,
    kwh_words,
    listed_words,
    money_words,
    number,
    printable,
    time_words,
    vcpu_words,
)

UNITS = ("ratio", "bytes_per_s", "bytes_per_day", "vcpus", "s")


@pytest.mark.parametrize(
    ("value", "unit", "beside", "text"),
    [
        (None, "ratio", 0.1, "–"),
        (0.0, "ratio", 0.1, "0%"),
        (0.0001, "ratio", 0.1, "0.01%"),
        (1e-9, "ratio", 0.1, "<0.0001%"),
        (0.1, "ratio", 0.1, "10%"),
        (0.1234, "ratio", None, "12.3%"),
        (0.1004, "ratio", 0.1, "10.04%"),
        (0.94999, "ratio", 0.95, "94.999%"),
        (0.0002, "ratio", 0.0003, "0.02%"),
        (0.0003, "ratio", 0.0003, "0.03%"),
        (12.0, "bytes_per_s", None, "12 B/s"),
        (0.5, "bytes_per_s", None, "0.5 B/s"),
        (2_000_000.0, "bytes_per_s", None, "2 MB/s"),
        (999_960.0, "bytes_per_s", None, "1 MB/s"),
        (12_500_001.0, "bytes_per_s", 12_500_000.0, "12.500001 MB/s"),
        (2e12, "bytes_per_s", None, "2,000 GB/s"),
        (5_000_000.0, "bytes_per_day", 5e6, "5 MB"),
        (5_000_100.0, "bytes_per_day", 5e6, "5.0001 MB"),
        (0.03, "vcpus", 0.03, "0.03 vCPU"),
        (0.0301, "vcpus", 0.03, "0.0301 vCPU"),
        (123.4, "vcpus", None, "123 vCPU"),
        (90.0, "s", None, "1.5 min"),
        (3601.0, "s", 3600.0, "3,601 s"),
        (7200.0, "s", 3600.0, "2 h"),
        (-30.0, "s", 3600.0, "-30 s"),
    ],
)
def test_numbers(value: float | None, unit: str, beside: float | None, text: str) -> None:
    """Short, with the unit, and never so short that a figure looks like the limit it is not."""
    assert number(value, unit, beside=beside) == text


@given(unit=st.sampled_from(UNITS), limit=st.floats(1e-3, 1e9), share=st.floats(-0.5, 0.5))
def test_a_figure_never_reads_as_the_limit_it_is_not(unit: str, limit: float, share: float) -> None:
    """Two texts are equal only where the numbers differ by less than anybody measures."""
    value = limit * (1 + share)
    if abs(share) > 1e-9:
        assert number(value, unit, beside=limit) != number(limit, unit)


@given(unit=st.sampled_from(UNITS), value=st.floats(0, 1e15))
def test_no_number_is_written_in_powers_of_ten(unit: str, value: float) -> None:
    """`1e+06` is for programs."""
    assert "e" not in number(value, unit)


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


def test_sizes_energy_and_money_have_their_units() -> None:
    """Thousands are apart, and a little is not nothing."""
    assert (gib(2**40), gib(2**20), gib(0)) == ("1,024.0 GiB", "<0.1 GiB", "0.0 GiB")
    assert (vcpu_words(1234.56), vcpu_words(4.0), vcpu_words(0.01), vcpu_words(0)) == ("1,234.6", "4", "<0.1", "0")
    assert (kwh_words(1234.5), kwh_words(1.25), kwh_words(0.01), kwh_words(0)) == (
        "1,234 kWh",
        "1.2 kWh",
        "<0.1 kWh",
        "0 kWh",
    )
    assert (money_words(1234.5, "EUR"), money_words(0.0, None)) == ("1,234.50 EUR", "0.00")
    assert money_words(None, "EUR") == NOT_MEASURED


def test_counts_and_lists_are_english() -> None:
    """One of a thing has no s; the last of several stands behind an `and`."""
    assert [count_words(count, "VM") for count in (0, 1, 2000)] == ["0 VMs", "1 VM", "2,000 VMs"]
    assert [listed_words(["a", "b", "c"][:count]) for count in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_what_moves_a_cursor_is_not_printable() -> None:
    """Control characters, line breaks and changes of direction are replaced, letters of any script stay."""
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert printable("é字\x1b[1m\n\N{RIGHT-TO-LEFT OVERRIDE}") == f"é字{replaced}[1m{replaced}{replaced}"
