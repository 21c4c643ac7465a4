"""Cron lines: what they mean to cron, and when they are due in a time zone, clock changes included. Pure.

APScheduler finds the times, with two of its ways kept out. It counts days of the week from Monday as 0, cron from
Sunday as 0: here they become names. And across a clock change it loses times, such as midnight of the first of the
next month: here it counts on a clock that never changes, and its times are read as those of the zone afterwards.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAY_PART = re.compile(r"(?:(\*)|([0-7]|[a-z]{3})(?:-([0-7]|[a-z]{3}))?)(?:/([1-7]))?", re.ASCII)
# Longer than any change of clocks: a time inside the hour that is left out is found from before that hour.
_CLOCK_CHANGE_S = 7200.0
# Any will do: a line that has no time after it never has one.
_SOME_TIME_S = 1_767_225_600.0


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron line that is due at some time. `days` are those of the week, as APScheduler reads them."""

    text: str
    days: str

    @property
    def every_hour(self) -> bool:
        """Whether it goes by the clock's hours as they pass, not by certain ones."""
        return self.text.split()[1].startswith("*")


def parse_cron(text: object) -> Cron:
    """`0 7 * * 1` is Monday at 7: minute, hour, day of the month, month, day of the week (0 and 7 are Sunday).

    Raises: ValueError: anything else; days of the month and of the week together; a day that never comes.
    """
    fields = text.lower().split() if isinstance(text, str) else []
    if len(fields) != 5:
        raise ValueError(f"{text!r} is not a cron line of five fields (such as '0 7 * * 1': Mondays at 7:00)")
    if not fields[2].startswith("*") and not fields[4].startswith("*"):
        # cron would take either day, APScheduler only days that are both: nobody shall have to know.
        raise ValueError(f"{text!r} names days of the month and days of the week: give one of them and '*'")
    cron = Cron(" ".join(fields), _days(fields[4]))
    try:
        first = next_due_s(cron, UTC, _SOME_TIME_S)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a cron line: {error}") from error
    if first is None:
        raise ValueError(f"{text!r} never comes")
    return cron


def next_due_s(cron: Cron, zone: tzinfo, after_s: float) -> float | None:
    """The first time after `after_s`, Unix seconds; None where calendars end."""
    return next(_due_s(cron, zone, after_s), None)


def latest_due_s(cron: Cron, zone: tzinfo, *, after_s: float, until_s: float) -> float | None:
    """The last time after `after_s` that is not after `until_s`; None where there is none."""
    latest_s = None
    for latest_s in takewhile(lambda due_s: due_s <= until_s, _due_s(cron, zone, after_s)):  # noqa: B007
        pass
    return latest_s


def _due_s(cron: Cron, zone: tzinfo, after_s: float) -> Iterator[float]:
    """Times after `after_s`, rising.

    A time that a clock change leaves out comes as much later as the clock is put forward. In an hour that passes
    twice, a line of certain hours is due the first time alone, as with cron.
    """
    # Only whoever has deliveries needs it.
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415

    trigger = CronTrigger.from_crontab(" ".join([*cron.text.split()[:4], cron.days]), timezone=UTC)
    wall = datetime.fromtimestamp(after_s - _CLOCK_CHANGE_S, zone).replace(tzinfo=UTC)
    # Times that lie within a clock change of each other may come in another order than on the wall.
    waiting: list[float] = []
    latest_s = after_s
    while True:
        due: datetime | None = trigger.get_next_fire_time(None, wall)
        settled_s = math.inf
        if due is not None:
            first_s, second_s = (due.replace(tzinfo=zone, fold=fold).timestamp() for fold in (0, 1))
            heapq.heappush(waiting, first_s)
            # Left out, a time is not later the second time; only one that passes twice is.
            if cron.every_hour and second_s > first_s:
                heapq.heappush(waiting, second_s)
            settled_s = first_s - _CLOCK_CHANGE_S
            wall = due + timedelta(seconds=1)
        while waiting and waiting[0] <= settled_s:
            due_s = heapq.heappop(waiting)
            if due_s > latest_s:
                latest_s = due_s
                yield due_s
        if due is None:
            return


def _days(field: str) -> str:
    """Days of the week by name, `*` for all. Raises: ValueError."""
    chosen: set[int] = set()
    for part in field.split(","):
        match = _DAY_PART.fullmatch(part)
        if match is None or (match[4] and not match[1] and not match[3]):
            raise ValueError(f"{part!r} is not a day of the week (0 to 7 or sun to sat, such as 1-5 or mon,thu)")
        first, last = (0, 6) if match[1] else (_day(match[2]), _day(match[3] or match[2]))
        # Friday to Sunday, by name, ends at 0.
        chosen.update(day % 7 for day in range(first, last + (7 if last < first else 0) + 1, int(match[4] or 1)))
    return "*" if len(chosen) == 7 else ",".join(_DAYS[day] for day in sorted(chosen))


def _day(text: str) -> int:
    if text.isdigit():
        return int(text)
    if text not in _DAYS:
        raise ValueError(f"{text!r} is not a day of the week (sun to sat)")
    return _DAYS.index(text)
