"""One VM's verdict with its evidence: the value that every page and output shows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reports.facts import Vm
from reports.policy import Comparison
from reports.timetable import WEEK_HOURS
from reports.verdicts import Cause, Verdict

SPARK_CELLS = 28  # of 6 hours each: a week


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number beside its limit.

    Attributes:
        name: of the measure, such as `cpu_busy.p95`.
        words: what people call it.
        value: None is not measured.
        unit: `ratio`, `bytes_per_s`, `bytes_per_day`, `vcpus` or `s`.
        days: length of the window it is of; None for what is not of a window.
        optional: not measured counts as kept.
        decides: one of the figures that the verdict rests on.
    """

    name: str
    words: str
    value: float | None
    limit: float
    unit: str
    comparison: Comparison
    days: int | None = None
    optional: bool = False
    decides: bool = False

    @property
    def ok(self) -> bool:
        return self.optional if self.value is None else self.comparison.holds(self.value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLine:
    """One window in short; None is not known."""

    days: int
    coverage_ratio: float | None
    cpu_mean_ratio: float | None
    cpu_p95_ratio: float | None
    cpu_max_ratio: float | None
    mem_mean_ratio: float | None
    mem_max_ratio: float | None
    disk_io_mean_bytes_per_s: float | None
    net_io_mean_bytes_per_s: float | None
    awake_s: float | None
    users_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """vCPUs and memory."""

    vcpus: float
    mem_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When a VM could be off, every week.

    Attributes:
        off: (168) hours of the week, Monday 00:00 UTC first.
        provisional: fewer than four weeks were seen.
    """

    off: tuple[bool, ...]
    provisional: bool

    @property
    def off_h_per_week(self) -> int:
        return sum(self.off)

    def ranges(self, shift_h: int = 0) -> tuple[tuple[int, int], ...]:
        """Hours of the week [from, until) in which it is off; `until` may pass the end of the week.

        Args: shift_h: hours that the reader's clock is ahead of UTC.
        """
        cells = [self.off[(hour - shift_h) % WEEK_HOURS] for hour in range(WEEK_HOURS)]
        starts = [hour for hour in range(WEEK_HOURS) if cells[hour] and not cells[hour - 1]]
        if not starts:
            return ((0, WEEK_HOURS),) if cells[0] else ()
        found = []
        for start in starts:
            length = next(step for step in range(1, WEEK_HOURS) if not cells[(start + step) % WEEK_HOURS])
            found.append((start, start + length))
        return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Savings:
    """What the VM would give back; `money_per_month` None without prices."""

    vcpus: float
    mem_bytes: float
    disk_bytes: float
    kwh_per_month: float
    money_per_month: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict on one VM and what it rests on.

    Attributes:
        reason: a sentence in plain words, with the numbers that decided.
        figures: the policy's, in the order of its rules, then coverage, age of the newest sample, clock skew.
        windows: 1, 7, 14 and 30 days in short, as far as they are kept.
        statistics: every column of the window asked for that is known, such as `cpu_busy_p95_ratio`.
        vcpus, mem_total_bytes, disk_total_bytes: the present size, each None where it is not known.
        proposal: a smaller size that holds it, None where there is none.
        timetable: None where its hours are not regular.
        spark: mean CPU of each 6 hours of the week, Monday 00:00 UTC first; None where not seen.
    """

    vm: Vm
    cause: Cause
    reason: str
    figures: tuple[Figure, ...]
    windows: tuple[WindowLine, ...]
    statistics: Mapping[str, float]
    oldest_s: float | None
    newest_s: float | None
    vcpus: float | None
    mem_total_bytes: float | None
    disk_total_bytes: float | None
    proposal: Size | None
    timetable: Timetable | None
    savings: Savings
    confidence_ratio: float
    score: float
    spark: tuple[float | None, ...]

    @property
    def verdict(self) -> Verdict:
        return self.cause.verdict

    @property
    def size(self) -> Size | None:
        """The present size; None unless both of its parts are known."""
        if self.vcpus is None or self.mem_total_bytes is None:
            return None
        return Size(vcpus=self.vcpus, mem_bytes=self.mem_total_bytes)

    def figure(self, name: str) -> Figure:
        """The figure of that name. Raises: KeyError."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)
