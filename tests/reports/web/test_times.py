"""Times in the reader's zone, in the hours when its clocks change most of all."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from reports.web.times import (
    date_words,
    hour_words,
    iso_words,
    range_words,
    shift_of,
    time_words,
    zone_words,
)
from reports.words import NOT_MEASURED

BERLIN = ZoneInfo("Europe/Berlin")
KOLKATA = ZoneInfo("Asia/Kolkata")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_hour_that_happens_twice_says_which() -> None:
    """On the last Sunday of October 02:30 comes twice in Berlin: each shows its name and offset, and they differ."""
    first, second = _at("2026-10-25T00:30:00"), _at("2026-10-25T01:30:00")
    assert time_words(first, BERLIN) == "2026-10-25 02:30 CEST (UTC+02:00)"
    assert time_words(second, BERLIN) == "2026-10-25 02:30 CET (UTC+01:00)"


def test_hours_beside_the_repeated_one_carry_no_offset() -> None:
    """Only the hour that is told twice needs more than its zone's name."""
    assert time_words(_at("2026-10-24T23:59:00"), BERLIN) == "2026-10-25 01:59 CEST"
    assert time_words(_at("2026-10-25T02:00:00"), BERLIN) == "2026-10-25 03:00 CET"


def test_hour_that_is_skipped_is_never_shown() -> None:
    """On the last Sunday of March the clock goes from 01:59 to 03:00 in Berlin."""
    assert time_words(_at("2026-03-29T00:59:00"), BERLIN) == "2026-03-29 01:59 CET"
    assert time_words(_at("2026-03-29T01:00:00"), BERLIN) == "2026-03-29 03:00 CEST"


def test_zone_without_a_name_shows_its_offset() -> None:
    """Digits in the place of a name would say nothing beside a time."""
    assert time_words(_at("2026-07-01T12:00:00"), SAO_PAULO) == "2026-07-01 09:00 UTC-03:00"


def test_machine_readable_time_holds_the_offset() -> None:
    """`<time datetime>` is the same moment, whoever reads it."""
    second = _at("2026-10-25T01:30:00")
    assert iso_words(second, BERLIN) == "2026-10-25T02:30:00+01:00"
    assert datetime.fromisoformat(iso_words(second, BERLIN)).timestamp() == second


def test_day_is_the_readers() -> None:
    """Late in the evening in UTC it is the next day in Berlin."""
    assert date_words(_at("2026-07-01T22:30:00"), BERLIN) == "2026-07-02"


def test_unknown_time_is_a_dash() -> None:
    """None is not known, not 1970."""
    assert time_words(None, BERLIN) == NOT_MEASURED
    assert date_words(None, BERLIN) == NOT_MEASURED
    assert iso_words(None, BERLIN) == ""


def test_time_beyond_calendars_is_its_number() -> None:
    """A clock gone mad does not take the page with it."""
    assert time_words(1e18, BERLIN) == "1000000000000000000 s"
    assert iso_words(1e18, BERLIN) == ""


def test_zone_is_named_as_it_is_now() -> None:
    """The zone's words follow the season; UTC is not named twice."""
    assert zone_words(BERLIN, _at("2026-01-01T00:00:00")) == "Europe/Berlin (CET, UTC+01:00)"
    assert zone_words(BERLIN, _at("2026-07-01T00:00:00")) == "Europe/Berlin (CEST, UTC+02:00)"
    assert zone_words(ZoneInfo("UTC"), 0.0) == "UTC"
    assert zone_words(SAO_PAULO, _at("2026-07-01T00:00:00")) == "America/Sao_Paulo (UTC-03:00)"


def test_week_is_shifted_by_the_offset_of_now() -> None:
    """Hours of the week move by one between winter and summer; zones of half hours begin between them."""
    assert shift_of(BERLIN, _at("2026-01-01T00:00:00")) == (1, 0)
    assert shift_of(BERLIN, _at("2026-07-01T00:00:00")) == (2, 0)
    assert shift_of(KOLKATA, 0.0) == (5, 30)
    assert shift_of(SAO_PAULO, _at("2026-07-01T00:00:00")) == (-3, 0)
    assert shift_of(ZoneInfo("America/St_Johns"), _at("2026-01-01T00:00:00")) == (-4, 30)


def test_hours_of_the_week_in_words() -> None:
    """Monday is first; an hour past the week's end is next week's."""
    assert hour_words(0) == "Mon 00:00"
    assert hour_words(30, 30) == "Tue 06:30"
    assert hour_words(168) == "Mon 00:00"
    assert range_words(115, 175) == "Fri 19:00 – Mon 07:00"
    assert range_words(0, 168) == "the whole week"


@given(
    unix_s=st.integers(0, 4_000_000_000),
    zone=st.sampled_from([BERLIN, KOLKATA, SAO_PAULO, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("UTC")]),
)
def test_two_moments_never_read_alike(unix_s: int, zone: ZoneInfo) -> None:
    """A minute, and the same one an hour or half an hour later, are told apart by what is shown."""
    words = time_words(unix_s, zone)
    assert words != time_words(unix_s + 3600, zone)
    assert words != time_words(unix_s + 1800, zone)
    assert datetime.fromisoformat(iso_words(unix_s, zone)).timestamp() == unix_s
