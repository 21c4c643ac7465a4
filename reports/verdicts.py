"""From a VM and a policy to a verdict with its evidence. Pure.

`reports.query` says the same in SQL to count and filter; a property test holds the two in agreement.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from aggregator.summary import SKEW_LIMIT_S
from reports.candidates import DAY_S, Candidate, Summary, Window
from reports.policies import Comparison, Policy
from reports.words import number, time_words

# A VM may begin this much of the window late and still be judged; later, it is too new.
LATE_START_RATIO = 0.05
CLOCK_SKEW_FLAG = "clock_skew"


class Verdict(Enum):
    """In the order in which a list of all VMs shows them."""

    IDLE = "idle"
    ACTIVE = "active"
    INSUFFICIENT = "insufficient data"
    EXCLUDED = "excluded"


class Cause(Enum):
    """Why a VM has its verdict. They are tried in this order and the first that applies is the one."""

    TAGGED = ("excluded by tag", Verdict.EXCLUDED)
    POWERED_OFF = ("powered off", Verdict.INSUFFICIENT)
    NO_AGENT = ("runs no agent", Verdict.INSUFFICIENT)
    NEVER_REPORTED = ("never reported", Verdict.INSUFFICIENT)
    SILENT = ("silent", Verdict.INSUFFICIENT)
    CLOCK_SKEW = ("clock skew", Verdict.INSUFFICIENT)
    FLAGGED = ("flagged", Verdict.INSUFFICIENT)
    NO_WINDOW = ("no figures yet", Verdict.INSUFFICIENT)
    TOO_NEW = ("too new", Verdict.INSUFFICIENT)
    GAPS = ("gaps", Verdict.INSUFFICIENT)
    MISSING_FIGURE = ("missing figure", Verdict.INSUFFICIENT)
    IDLE = ("within every limit", Verdict.IDLE)
    ACTIVE = ("above a limit", Verdict.ACTIVE)

    def __init__(self, words: str, verdict: Verdict) -> None:
        self.words = words
        self.verdict = verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What any policy needs before it may judge a VM.

    Args:
        min_coverage_ratio: share of the window that samples must cover.
        silent_after_s: a newest sample older than this means silence, and silence is never idleness.
        max_skew_s: how far a VM's clock may be off.
        exclude_tags: a VM with any of them is left alone.
    """

    min_coverage_ratio: float = 0.95
    silent_after_s: float = 3600.0
    max_skew_s: float = SKEW_LIMIT_S
    exclude_tags: tuple[str, ...] = ("fallow:keep",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number beside its limit. `value` None is not measured, and then `ok` is False."""

    name: str
    words: str
    value: float | None
    limit: float
    unit: str
    comparison: Comparison

    @property
    def ok(self) -> bool:
        return self.value is not None and self.comparison.holds(self.value, self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict and what it rests on.

    Attributes:
        reason: a sentence in plain words, with the numbers that decided.
        figures: the policy's, in the order of its rules, then coverage, age of the newest sample, clock skew.
    """

    cause: Cause
    reason: str
    figures: tuple[Figure, ...]

    @property
    def verdict(self) -> Verdict:
        return self.cause.verdict


def judge(candidate: Candidate, policy: Policy, limits: Limits, *, now_s: float) -> Judgement:
    """The verdict on one VM.

    Args: now_s: time of the report, Unix seconds, against which silence is measured.
    """
    figures = _figures(candidate, policy, limits, now_s)
    cause = _cause(candidate, policy, limits, now_s)
    return Judgement(cause=cause, reason=_reason(cause, candidate, policy, limits, figures), figures=figures)


def _cause(candidate: Candidate, policy: Policy, limits: Limits, now_s: float) -> Cause:  # noqa: PLR0911  one return a cause
    if not set(limits.exclude_tags).isdisjoint(candidate.tags):
        return Cause.TAGGED
    if candidate.power_state == "off":
        return Cause.POWERED_OFF
    summary, window = candidate.summary, candidate.window
    if summary is None:
        return Cause.NO_AGENT if candidate.enrolled_s is None else Cause.NEVER_REPORTED
    if summary.newest_s < now_s - limits.silent_after_s:
        return Cause.SILENT
    if abs(summary.skew_s) > limits.max_skew_s or CLOCK_SKEW_FLAG in summary.flags:
        return Cause.CLOCK_SKEW
    if summary.flags:
        return Cause.FLAGGED
    if window is None:
        return Cause.NO_WINDOW
    if window.coverage_ratio < limits.min_coverage_ratio:
        return Cause.TOO_NEW if _is_too_new(summary, window) else Cause.GAPS
    values = [window.statistics.get(rule.column) for rule in policy.rules]
    if None in values:
        return Cause.MISSING_FIGURE
    kept = (
        value is not None and rule.comparison.holds(value, rule.limit)
        for rule, value in zip(policy.rules, values, strict=True)
    )
    return Cause.IDLE if all(kept) else Cause.ACTIVE


def _is_too_new(summary: Summary, window: Window) -> bool:
    return summary.oldest_s - window.start_s > LATE_START_RATIO * window.days * DAY_S


def _figures(candidate: Candidate, policy: Policy, limits: Limits, now_s: float) -> tuple[Figure, ...]:
    summary, window = candidate.summary, candidate.window
    statistics = window.statistics if window is not None else {}
    figures = [
        Figure(
            name=rule.column,
            words=rule.words,
            value=statistics.get(rule.column),
            limit=rule.limit,
            unit=rule.unit,
            comparison=rule.comparison,
        )
        for rule in policy.rules
    ]
    figures.append(
        Figure(
            name="coverage_ratio",
            words="coverage",
            value=window.coverage_ratio if window is not None else None,
            limit=limits.min_coverage_ratio,
            unit="ratio",
            comparison=Comparison.AT_LEAST,
        )
    )
    for name, words, value, limit in (
        ("newest_age_s", "newest sample", now_s - summary.newest_s if summary else None, limits.silent_after_s),
        ("clock_skew_s", "clock off by", abs(summary.skew_s) if summary else None, limits.max_skew_s),
    ):
        figures.append(
            Figure(name=name, words=words, value=value, limit=limit, unit="s", comparison=Comparison.AT_MOST)
        )
    return tuple(figures)


def _reason(  # noqa: PLR0911  one return a cause
    cause: Cause, candidate: Candidate, policy: Policy, limits: Limits, figures: tuple[Figure, ...]
) -> str:
    summary, window = candidate.summary, candidate.window
    if cause is Cause.TAGGED:
        found = [tag for tag in candidate.tags if tag in limits.exclude_tags]
        return f"excluded by tag {', '.join(found)}"
    if summary is None or cause is Cause.POWERED_OFF:
        return _WITHOUT_SAMPLES[cause]
    if cause is Cause.SILENT:
        return f"silent since {time_words(summary.newest_s)}: newest sample {_beside(figures[-2])} old"
    if cause is Cause.CLOCK_SKEW:
        if figures[-1].ok:
            return "clock skew: the aggregator flagged the VM's clock"
        return f"clock skew: at the newest push the VM's clock was off by {_beside(figures[-1])}"
    if cause is Cause.FLAGGED:
        return f"flagged: {', '.join(flag.replace('_', ' ') for flag in summary.flags)}; its figures may not be its own"
    if window is None:
        return "no figures yet for this window"
    coverage = f"samples cover {_beside(figures[len(policy.rules)])} of {window.days} days"
    if cause is Cause.TOO_NEW:
        return f"too new: first sample {time_words(summary.oldest_s)}, {coverage}"
    if cause is Cause.GAPS:
        return f"gaps: {coverage}"
    judged = figures[: len(policy.rules)]
    if cause is Cause.MISSING_FIGURE:
        return (
            f"missing figure: {', '.join(figure.words for figure in judged if figure.value is None)} was not measured"
        )
    if cause is Cause.IDLE:
        return f"idle: {', '.join(map(_beside_with_words, judged))}; {coverage}"
    return f"in use: {', '.join(_beside_with_words(figure) for figure in judged if not figure.ok)}; {coverage}"


_WITHOUT_SAMPLES = {
    Cause.POWERED_OFF: "powered off, as the inventory says",
    Cause.NO_AGENT: "runs no agent: known from an import alone",
    Cause.NEVER_REPORTED: "never reported: enrolled, but no sample has arrived yet",
}

_SIDES = {
    Comparison.AT_MOST: ("at most", "above"),
    Comparison.BELOW: ("below", "not below"),
    Comparison.AT_LEAST: ("at least", "less than"),
}


def _beside(figure: Figure) -> str:
    value = number(figure.value, figure.unit, beside=figure.limit)
    kept, broken = _SIDES[figure.comparison]
    return f"{value} ({kept if figure.ok else broken} {number(figure.limit, figure.unit)})"


def _beside_with_words(figure: Figure) -> str:
    return f"{figure.words} {_beside(figure)}"
