"""Times in the reader's zone, right across a change of the clocks. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from reports.words import NOT_MEASURED

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
WEEK_HOURS = 168


class Shift(NamedTuple):
    """How hours of the week in UTC stand on the reader's clock.

    Attributes:
        hours: whole hours that it is ahead of UTC; negative where it is behind.
        minutes: past the hour at which an hour of UTC begins there: 0, or 30 or 45 in some zones.
    """

    hours: int
    minutes: int


def local_time(unix_s: float, zone: tzinfo) -> datetime | None:
    """The moment on the reader's clock; None when no calendar holds it."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).astimezone(zone)
    except (OverflowError, ValueError, OSError):
        return None


def time_words(unix_s: float | None, zone: tzinfo) -> str:
    """`2026-11-20 03:00 CET`; a dash for None.

    In the hour that a change of the clocks repeats, the offset stands behind it: `02:30 CEST (UTC+02:00)`.
    """
    if unix_s is None:
        return NOT_MEASURED
    moment = local_time(unix_s, zone)
    if moment is None:
        return f"{unix_s:.0f} s"
    repeated = moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset()
    offset = f" ({offset_words(moment)})" if repeated else ""
    return f"{moment:%Y-%m-%d %H:%M} {_abbreviation(moment)}{offset}"


def date_words(unix_s: float | None, zone: tzinfo) -> str:
    """`2026-11-20`; a dash for None."""
    moment = None if unix_s is None else local_time(unix_s, zone)
    return NOT_MEASURED if moment is None else f"{moment:%Y-%m-%d}"


def iso_words(unix_s: float | None, zone: tzinfo) -> str:
    """`2026-11-20T03:00:00+01:00`, for `<time datetime>`; empty for None and for what no calendar holds."""
    moment = None if unix_s is None else local_time(unix_s, zone)
    return "" if moment is None else moment.isoformat(timespec="seconds")


def zone_words(zone: tzinfo, at_s: float) -> str:
    """`Europe/Berlin (CET, UTC+01:00)`, as it is at that time."""
    moment = local_time(at_s, zone)
    if moment is None:
        return str(zone)
    name, short, offset = str(zone), _abbreviation(moment), offset_words(moment)
    return offset if name == short == offset else f"{name} ({', '.join(dict.fromkeys((short, offset)))})"


def offset_words(moment: datetime) -> str:
    """`UTC+01:00`; `UTC` without an offset."""
    offset = moment.utcoffset() or timedelta()
    if not offset:
        return "UTC"
    minutes = round(abs(offset).total_seconds() / 60)
    return f"UTC{'-' if offset < timedelta() else '+'}{minutes // 60:02}:{minutes % 60:02}"


def shift_of(zone: tzinfo, at_s: float) -> Shift:
    """The zone's offset at that time, for hours of the week."""
    moment = local_time(at_s, zone)
    offset = (moment.utcoffset() if moment else None) or timedelta()
    hours, minutes = divmod(round(offset.total_seconds() / 60), 60)
    return Shift(hours, minutes)


def hour_words(hour: int, minutes: int = 0) -> str:
    """An hour of the week as people say it: 30 is `Tue 06:00`. It may lie past the end of the week."""
    return f"{DAYS[hour // 24 % 7]} {hour % 24:02}:{minutes:02}"


def range_words(start: int, until: int, minutes: int = 0) -> str:
    """`Mon 19:00 – Tue 07:00` of hours of the week [start, until)."""
    if until - start >= WEEK_HOURS:
        return "the whole week"
    return f"{hour_words(start, minutes)} – {hour_words(until, minutes)}"


def _abbreviation(moment: datetime) -> str:
    """The zone's name at that time. Zones without one have digits there, which say nothing beside a time."""
    name = moment.tzname() or ""
    return name if name.isalpha() else offset_words(moment)
