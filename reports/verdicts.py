"""From facts and a policy to verdicts: which VMs, why, what each frees and how sure that is. Pure numpy.

`judge` answers for as many VMs as it is given; `reports.explain` puts one of its rows into words.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from aggregator.histogram import Floats
from aggregator.summary import SKEW_LIMIT_S
from reports.facts import DAY_S, Facts, Vm, WindowFacts
from reports.policy import Answer, Bools, Policy
from reports.savings import Freed, Prices, Worth, worth
from reports.sizing import Sizes, SizingLimits, right_size
from reports.timetable import WEEK_HOURS, TimetableLimits, Timetables, propose

# A VM may begin this much of the window late and still be judged; later, it is too new.
LATE_START_RATIO = 0.05
CLOCK_SKEW_FLAG = "clock_skew"
# Longer histories make no verdict surer.
_SURE_AFTER_DAYS = 28.0
_PROVISIONAL_RATIO = 0.5
_NOT_BARRED = -1
Codes = npt.NDArray[np.int8]


class Verdict(Enum):
    """In the order in which a list of all VMs shows them."""

    IDLE = "idle"
    SCHEDULED = "scheduled"
    OVERSIZED = "oversized"
    ACTIVE = "active"
    INSUFFICIENT = "insufficient data"
    EXCLUDED = "excluded"


class Cause(Enum):
    """Why a VM has its verdict. They are tried in this order and the first that applies is the one."""

    TAGGED = ("excluded by tag", Verdict.EXCLUDED)
    EXEMPT = ("kept by exemption", Verdict.EXCLUDED)
    POWERED_OFF = ("powered off", Verdict.INSUFFICIENT)
    NO_AGENT = ("runs no agent", Verdict.INSUFFICIENT)
    NEVER_REPORTED = ("never reported", Verdict.INSUFFICIENT)
    SILENT = ("silent", Verdict.INSUFFICIENT)
    CLOCK_SKEW = ("clock skew", Verdict.INSUFFICIENT)
    FLAGGED = ("flagged", Verdict.INSUFFICIENT)
    NO_WINDOW = ("no figures yet", Verdict.INSUFFICIENT)
    TOO_NEW = ("too new", Verdict.INSUFFICIENT)
    GAPS = ("gaps", Verdict.INSUFFICIENT)
    IDLE = ("within the policy's limits", Verdict.IDLE)
    MISSING_FIGURE = ("missing figure", Verdict.INSUFFICIENT)
    SCHEDULED = ("busy at regular hours only", Verdict.SCHEDULED)
    OVERSIZED = ("larger than it needs", Verdict.OVERSIZED)
    ACTIVE = ("above a limit", Verdict.ACTIVE)

    def __init__(self, words: str, verdict: Verdict) -> None:
        self.words = words
        self.verdict = verdict


CAUSES = tuple(Cause)
_CODES: Mapping[Cause, int] = {cause: code for code, cause in enumerate(CAUSES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What any policy needs before it may judge a VM.

    Args:
        min_coverage_ratio: share of each window that samples must cover.
        silent_after_s: a newest sample older than this means silence, and silence is never idleness.
        max_skew_s: how far a VM's clock may be off.
        exclude_tags: a VM with any of them is left alone.
    """

    min_coverage_ratio: float = 0.95
    silent_after_s: float = 3600.0
    max_skew_s: float = SKEW_LIMIT_S
    exclude_tags: tuple[str, ...] = ("fallow:keep",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything but the policy that a verdict depends on.

    Args:
        window_days: the window asked for; a policy may fix others of its own.
    """

    window_days: int = 14
    limits: Limits = field(default_factory=Limits)
    sizing: SizingLimits = field(default_factory=SizingLimits)
    timetable: TimetableLimits = field(default_factory=TimetableLimits)
    prices: Prices = field(default_factory=Prices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Verdicts on many VMs, (n,) each, in the order of the facts.

    Attributes:
        codes: places in CAUSES.
        freed: what each VM would give back; each VM counts under its one verdict alone.
        worth: of that.
        confidence_ratio: 0..1; 0 where nothing is freed.
        score: vCPU-equivalents freed x confidence, which ranks.
        answer: of the policy, whatever kept it from being asked.
        sizes, timetables: proposals for every VM, whatever its verdict.
    """

    codes: Codes
    freed: Freed
    worth: Worth
    confidence_ratio: Floats
    score: Floats
    answer: Answer
    sizes: Sizes
    timetables: Timetables

    def cause(self, row: int) -> Cause:
        return CAUSES[int(self.codes[row])]

    def of(self, *causes: Cause) -> Bools:
        """(n,) VMs with one of these causes."""
        return np.isin(self.codes, [_CODES[cause] for cause in causes])


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What the verdicts on many VMs have in common, whatever the policy; (n,) each.

    Attributes:
        barred: places in CAUSES of what keeps a VM from being judged by any policy; -1 where nothing does.
        by_hours: busy at regular hours only, and a timetable frees at least as much as a smaller size would.
    """

    barred: Codes
    by_hours: Bools
    sizes: Sizes
    timetables: Timetables


def prepare(facts: Facts, settings: Settings, *, now_s: float, exempt: Container[str] = frozenset()) -> Common:
    """What `judge_by` needs: worked out once, for as many policies as there are. Arguments as for `judge`."""
    sizes = right_size(facts, settings.window_days, settings.sizing)
    timetables = propose(facts, settings.timetable, settings.window_days)
    by_hours = timetables.scheduled & (
        ~sizes.oversized | (_scheduled_vcpus(facts, timetables) >= np.nan_to_num(sizes.freed_vcpus))
    )
    return Common(
        barred=_barred(facts, settings.limits, now_s, exempt), by_hours=by_hours, sizes=sizes, timetables=timetables
    )


def judge(
    facts: Facts, policy: Policy, settings: Settings, *, now_s: float, exempt: Container[str] = frozenset()
) -> Judged:
    """The verdict on every VM.

    Args:
        now_s: time of the report, Unix seconds, against which silence is measured.
        exempt: ids of VMs that somebody asked to keep.
    """
    return judge_by(facts, policy, settings, prepare(facts, settings, now_s=now_s, exempt=exempt))


def judge_by(facts: Facts, policy: Policy, settings: Settings, common: Common) -> Judged:
    """The verdict on every VM; `common` is of `prepare` with the same facts and settings."""
    answer = policy.idle_when.answer(facts, settings.window_days)
    codes = _codes(facts, policy, settings, answer, common)
    freed = _freed(facts, codes, common.sizes, common.timetables)
    valued = worth(freed, settings.prices)
    sure = _confidence(facts, codes, settings, answer, common.timetables)
    confidence = np.where(valued.vcpu_equivalents > 0, sure, 0.0)
    return Judged(
        codes=codes,
        freed=freed,
        worth=valued,
        confidence_ratio=confidence,
        score=valued.vcpu_equivalents * confidence,
        answer=answer,
        sizes=common.sizes,
        timetables=common.timetables,
    )


def _barred(facts: Facts, limits: Limits, now_s: float, exempt: Container[str]) -> Codes:
    excluded_tags = frozenset(limits.exclude_tags)
    unseen = np.isnan(facts.newest_s)
    reporting = facts.newest_s >= now_s - limits.silent_after_s

    def those(test: Callable[[Vm], bool]) -> Bools:
        return np.fromiter(map(test, facts.vms), bool, len(facts))

    tests: dict[Cause, Bools] = {
        Cause.TAGGED: those(lambda vm: not excluded_tags.isdisjoint(vm.tags)),
        Cause.EXEMPT: those(lambda vm: vm.vm_id in exempt),
        # An inventory may be older than the newest sample, and a VM that sends is on.
        Cause.POWERED_OFF: those(lambda vm: vm.power_state == "off") & ~reporting,
        Cause.NO_AGENT: unseen & those(lambda vm: vm.enrolled_s is None),
        Cause.NEVER_REPORTED: unseen,
        Cause.SILENT: facts.newest_s < now_s - limits.silent_after_s,
        # A newest sample from the future: it is this machine's clock that is wrong, and nothing here has an age.
        Cause.CLOCK_SKEW: those(lambda vm: CLOCK_SKEW_FLAG in vm.flags)
        | (np.abs(facts.skew_s) > limits.max_skew_s)
        | (facts.newest_s > now_s + limits.max_skew_s),
        Cause.FLAGGED: those(lambda vm: bool(vm.flags)),
    }
    return _first_of(tests, _NOT_BARRED)


def _codes(facts: Facts, policy: Policy, settings: Settings, answer: Answer, common: Common) -> Codes:
    absent, too_new, gaps = _coverage(facts, policy, settings)
    tests: dict[Cause, Bools] = {
        Cause.NO_WINDOW: absent,
        Cause.TOO_NEW: too_new,
        Cause.GAPS: gaps,
        Cause.IDLE: answer.holds,
        Cause.MISSING_FIGURE: answer.possible,
        Cause.SCHEDULED: common.by_hours,
        Cause.OVERSIZED: common.sizes.oversized,
    }
    return np.where(common.barred != _NOT_BARRED, common.barred, _first_of(tests, _CODES[Cause.ACTIVE]))


def _first_of(tests: Mapping[Cause, Bools], otherwise: int) -> Codes:
    """(n,) the place in CAUSES of the first test that holds."""
    return np.select(list(tests.values()), [np.int8(_CODES[cause]) for cause in tests], np.int8(otherwise))


def _coverage(facts: Facts, policy: Policy, settings: Settings) -> tuple[Bools, Bools, Bools]:
    """Which VMs lack a window, are too new for one, or have too many gaps in one."""
    nothing = np.zeros(len(facts), bool)
    absent, too_new, gaps = nothing, nothing, nothing
    age_days = (facts.newest_s - facts.oldest_s) / DAY_S
    too_new = too_new | (age_days < policy.min_age_days)
    for days in sorted({*policy.days(settings.window_days), settings.window_days}):
        window = facts.windows.get(days)
        if window is None:
            return ~nothing, nothing, nothing
        absent = absent | np.isnan(window.covered_s)
        thin = window.coverage_ratio < settings.limits.min_coverage_ratio
        late = _starts_late(facts, window, days)
        too_new, gaps = too_new | (thin & late), gaps | (thin & ~late)
    return absent, too_new, gaps


def _starts_late(facts: Facts, window: WindowFacts, days: int) -> Bools:
    return np.asarray(facts.oldest_s - window.start_s > LATE_START_RATIO * days * DAY_S)


def _scheduled_vcpus(facts: Facts, timetables: Timetables) -> Floats:
    return np.nan_to_num(facts.cpu_count) * timetables.off_h_per_week / WEEK_HOURS


def _freed(facts: Facts, codes: Codes, sizes: Sizes, timetables: Timetables) -> Freed:
    share = timetables.off_h_per_week / WEEK_HOURS
    whole = Freed(facts.cpu_count, facts.mem_total_bytes, facts.disk_total_bytes)
    parts = {
        Cause.IDLE: whole,
        Cause.SCHEDULED: Freed(facts.cpu_count * share, facts.mem_total_bytes * share, np.zeros(len(facts))),
        Cause.OVERSIZED: Freed(sizes.freed_vcpus, sizes.freed_mem_bytes, np.zeros(len(facts))),
    }
    chosen = [part.only(codes == _CODES[cause]) for cause, part in parts.items()]
    return Freed(*(np.sum(each, axis=0) for each in zip(*chosen, strict=True)))


def _confidence(facts: Facts, codes: Codes, settings: Settings, answer: Answer, timetables: Timetables) -> Floats:
    """Coverage x age x margin: each of the last two counts for half at least.

    A VM seen for four weeks, without a gap, far inside its limits: 1. One at its limit or new: half of that.
    """
    window = facts.windows.get(settings.window_days)
    coverage = np.zeros(len(facts)) if window is None else np.nan_to_num(np.clip(window.coverage_ratio, 0.0, 1.0))
    age = np.nan_to_num(np.clip((facts.newest_s - facts.oldest_s) / DAY_S / _SURE_AFTER_DAYS, 0.0, 1.0))
    margin = np.where(codes == _CODES[Cause.IDLE], answer.margin_ratio, 0.5)
    sure = coverage * (0.5 + 0.5 * age) * (0.5 + 0.5 * margin)
    provisional = (codes == _CODES[Cause.SCHEDULED]) & timetables.provisional
    return np.where(provisional, sure * _PROVISIONAL_RATIO, sure)
