"""Why a VM has its verdict, in a sentence an admin can forward to its owner. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reports.facts import Vm
from reports.hours_words import needed_words
from reports.judgement import Figure, Size, Timetable
from reports.measures import NAMES
from reports.nodes import HISTORY_SPLIT_FLAG, part_words
from reports.policy import Comparison
from reports.quantities import limit_words
from reports.sizing import SizingLimits
from reports.verdicts import Cause, Settings
from reports.words import count_words, gib, listed_words, number, time_words, vcpu_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What a reason is made from; the fields are those of `Judgement`.

    Args:
        kept: who keeps the VM until when and why, if anybody.
        now_s: time of the report, Unix seconds.
    """

    vm: Vm
    cause: Cause
    figures: tuple[Figure, ...]
    size: Size | None
    proposal: Size | None
    timetable: Timetable | None
    newest_s: float | None
    oldest_s: float | None
    kept: str | None
    now_s: float


def reason(grounds: Grounds, settings: Settings) -> str:
    """A sentence in plain words, with the numbers that decided; without a full stop, as it stands in tables too."""
    if grounds.cause in ASKED:
        return _of_policy(grounds, settings)
    return _WITHOUT_SAMPLES.get(grounds.cause) or _of_data(grounds, settings)


# Causes for which the policy was asked.
ASKED = frozenset({Cause.IDLE, Cause.MISSING_FIGURE, Cause.SCHEDULED, Cause.OVERSIZED, Cause.ACTIVE})


def _of_data(grounds: Grounds, settings: Settings) -> str:  # noqa: PLR0911  one return a cause
    *_, coverage, age, skew = grounds.figures
    vm, cause = grounds.vm, grounds.cause
    if cause is Cause.TAGGED:
        return f"Excluded by tag {', '.join(tag for tag in vm.tags if tag in settings.limits.exclude_tags)}"
    if cause is Cause.EXEMPT:
        return f"Kept {grounds.kept or 'by an exemption'}"
    if cause is Cause.SILENT:
        return (
            f"Silent since {time_words(grounds.newest_s or 0)}: its newest sample is {_value(age)} old ({_limit(age)})"
        )
    if cause is Cause.CLOCK_SKEW:
        if age.value is not None and -age.value > settings.limits.max_skew_s:
            return "Clock skew: its newest sample lies ahead of this machine's clock"
        if skew.ok:
            return "Clock skew: the aggregator flagged the VM's clock"
        return f"Clock skew: at the newest push the VM's clock was off by {_value(skew)} ({_limit(skew)})"
    if cause is Cause.FLAGGED and "store_replaced" in vm.flags:
        return "Flagged: its history was damaged or lost, and what came since has not been accepted by a person"
    if cause is Cause.FLAGGED and set(vm.flags) == {HISTORY_SPLIT_FLAG}:
        return f"Flagged: {listed_words([part_words(part, grounds.now_s) for part in vm.parts])}"
    if cause is Cause.FLAGGED:
        return f"Flagged: {', '.join(flag.replace('_', ' ') for flag in vm.flags)}; its figures may not be its own"
    if cause is Cause.NO_WINDOW:
        return "No figures yet for every window that the policy looks at"
    if cause is Cause.TOO_NEW:
        # Another window than the one asked for, or the age that the policy wants.
        why = "the policy looks further back" if coverage.ok else _covered(coverage)
        return f"Too new: first seen {time_words(grounds.oldest_s or 0)}, {why}"
    if coverage.ok:
        return "Gaps: samples do not cover enough of every window that the policy looks at"
    return f"Gaps: {_covered(coverage)}"


def _of_policy(grounds: Grounds, settings: Settings) -> str:
    *judged, coverage, _, _ = grounds.figures
    cause, size, proposal, timetable = grounds.cause, grounds.size, grounds.proposal, grounds.timetable
    if cause is Cause.MISSING_FIGURE:
        names = dict.fromkeys(figure.words for figure in judged if figure.value is None and not figure.optional)
        return f"Missing figure: {listed_words([*names])} not measured"
    if cause is Cause.IDLE:
        return f"Idle: {_first_of([figure for figure in judged if figure.decides])}; {_covered(coverage)}"
    if cause is Cause.SCHEDULED and timetable is not None:
        return _of_timetable(timetable)
    if cause is Cause.OVERSIZED and size is not None and proposal is not None:
        return _of_size(size, proposal, settings.sizing)
    broken = [figure for figure in judged if figure.value is not None and not figure.ok]
    return f"In use: {_list([figure for figure in broken if figure.decides] or broken)}; {_covered(coverage)}"


def _of_size(size: Size, proposal: Size, limits: SizingLimits) -> str:
    """Promises a limit for what shrinks alone: the rest stays as it is, however full that may be."""
    promises = []
    if proposal.vcpus < size.vcpus:
        promises.append(f"CPU at {limit_words(limits.cpu_p95_ratio, 'ratio')} or less for 95% of the time")
    if proposal.mem_bytes < size.mem_bytes:
        promises.append(f"memory never above {limit_words(limits.mem_max_ratio, 'ratio')}")
    return (
        f"Larger than it needs: {_size_words(proposal)} of memory would do in place of {_size_words(size)}, with "
        f"{listed_words(promises)}"
    )


def _of_timetable(timetable: Timetable) -> str:
    needed = needed_words(timetable)
    hours = f"{timetable.off_h_per_week} of 168 hours a week"
    words = f"needed {needed}, it could be off for the other {hours}" if needed else f"it could be off for {hours}"
    provisional = " (provisional: fewer than four weeks seen)" if timetable.provisional else ""
    return f"Busy at regular hours only: {words}{provisional}"


def _covered(coverage: Figure) -> str:
    return f"samples cover {_value(coverage)} of {count_words(coverage.days or 0, 'day')} ({_limit(coverage)})"


_WITHOUT_SAMPLES = {
    Cause.POWERED_OFF: "Powered off, as the inventory says",
    Cause.NO_AGENT: "Runs no agent: known from an import alone",
    Cause.NEVER_REPORTED: "Never reported: enrolled, but no sample has arrived yet",
}
# A sentence with more figures than these is not read to its end; the evidence has them all.
_NAMED = 3
_LIMITS = {
    Comparison.AT_MOST: "limit {}",
    Comparison.BELOW: "limit: below {}",
    Comparison.AT_LEAST: "at least {} needed",
}


def _list(figures: Iterable[Figure]) -> str:
    return listed_words(_beside_limits(figures))


def _first_of(figures: Sequence[Figure]) -> str:
    """The first few, which tell what the VM looks like; how many more there are that nothing speaks against."""
    if len(figures) <= _NAMED + 1:
        return _list(figures)
    return listed_words(
        [*_beside_limits(figures[:_NAMED]), f"{len(figures) - _NAMED} more figures within their limits"]
    )


def _beside_limits(figures: Iterable[Figure]) -> list[str]:
    return [f"{_measured(figure)} ({_limit(figure)})" for figure in figures]


def _measured(figure: Figure) -> str:
    """What was measured, such as `mean CPU 0.3%` or `CPU 2% or less for 95% of the time`."""
    metric, _, statistic = figure.name.partition("/")[0].partition(".")
    subject, value = NAMES[metric][1], _value(figure)
    fixed = "/" in figure.name
    length = f"last {count_words(figure.days or 0, 'day').removeprefix('1 ')}" if fixed else "time"
    if metric == "users":
        # As a share of the time nobody would say it.
        if figure.value == 0:
            return "nobody logged in" + (f" over the {length}" if fixed else "")
        return f"somebody logged in for {value} of the {length}"
    if not statistic.startswith("p"):
        return f"{figure.words} {value}"
    percent = float(statistic.removeprefix("p"))
    if figure.ok is (figure.comparison is not Comparison.AT_LEAST):
        return f"{subject} {value} or less for {percent:g}% of the {length}"
    return f"{subject} {value} or more for {round(100 - percent, 2):g}% of the {length}"


def _value(figure: Figure) -> str:
    return number(figure.value, figure.unit, beside=figure.limit)


def _limit(figure: Figure) -> str:
    limit = number(figure.limit, "s") if figure.unit == "s" else limit_words(figure.limit, figure.unit)
    return _LIMITS[figure.comparison].format(limit)


def _size_words(size: Size) -> str:
    return f"{vcpu_words(size.vcpus)} vCPU and {gib(size.mem_bytes)}"
