"""Hours of the week as people say them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from reports.judgement import Timetable
from reports.timetable import WEEK_HOURS
from reports.words import listed_words

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Other hours on every day of the week can still be said; more than this is no sentence any more.
_MAX_GROUPS = 7


def needed_words(timetable: Timetable) -> str | None:
    """When the VM is needed, as `Mon–Fri 08:00–17:00 UTC`; None where that is too much for a sentence."""
    groups: dict[tuple[int, int], list[int]] = {}
    for start, until in _needed(timetable):
        groups.setdefault((start % 24, until - start), []).append(start // 24)
    if not 0 < len(groups) <= _MAX_GROUPS:
        return None
    return listed_words([_group_words(days, hour, length) for (hour, length), days in groups.items()]) + " UTC"


def _needed(timetable: Timetable) -> list[tuple[int, int]]:
    """Hours of the week [from, until) between those in which it is off, in their order."""
    off = timetable.ranges()
    starts = [start for start, _ in off[1:]] + [start + WEEK_HOURS for start, _ in off[:1]]
    needed = [(until, start) for (_, until), start in zip(off, starts, strict=True) if until < start]
    return sorted((until % WEEK_HOURS, until % WEEK_HOURS + start - until) for until, start in needed)


def _group_words(days: Sequence[int], hour: int, length: int) -> str:
    until = hour + length
    if length > 24:
        parts = [f"{DAYS[day]} {hour:02}:00 to {DAYS[(day + until // 24) % 7]} {until % 24:02}:00" for day in days]
        return ", ".join(parts)
    end = 24 if until == 24 else until % 24
    return f"{_days_words(days)} {hour:02}:00–{end:02}:00"


def _days_words(days: Sequence[int]) -> str:
    """`Mon–Fri`, `Mon, Wed`, `daily` of days from 0, rising."""
    if len(days) == len(DAYS):
        return "daily"
    runs: list[list[int]] = []
    for day in days:
        if runs and day == runs[-1][-1] + 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join("–".join(DAYS[day] for day in dict.fromkeys((run[0], run[-1]))) for run in runs)
