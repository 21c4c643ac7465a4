"""What verdicts were worth once later use is known: freed hours, regret, woken, and what nobody could beat. Pure numpy.

Regret is CPU-hours later used by the VMs called idle over the vCPU-hours freed with them; None where nothing is freed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.histogram import Floats, Ints
from aggregator.rollup import ABSENT
from aggregator.rows import SAMPLE_COLUMNS
from reports.policy import Bools
from reports.recorded import INTERVAL, TS

WOKEN_SAMPLES = 3
WOKEN_CPU_RATIO = 0.20
WOKEN_WITHIN_S = 7 * 86_400
_HOUR_S = 3600.0
_GIB = float(2**30)
_CPU, _VCPUS = SAMPLE_COLUMNS.index("cpu_busy"), SAMPLE_COLUMNS.index("cpu_count")
_CPU_QUANTUM = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterUse:
    """What one VM did after it was judged.

    Attributes:
        covered_h: hours that samples with CPU cover.
        cpu_h: CPU-hours used: CPU ratio x vCPUs at that time x interval.
        woke: whether enough samples were busy within WOKEN_WITHIN_S.
    """

    covered_h: float
    cpu_h: float
    woke: bool


def later_use(table: Ints, began_s: float) -> LaterUse:
    """Of the samples after the judged part, at least one, in the columns of a store.

    Args: began_s: when the later part began.
    """
    # A sample that lacks CPU says nothing of use, so that its time counts as not seen.
    table = table[table[:, _CPU] != ABSENT]
    interval_s, ratio = table[:, INTERVAL], table[:, _CPU] * _CPU_QUANTUM
    vcpus = np.where(table[:, _VCPUS] == ABSENT, 0, table[:, _VCPUS])
    soon = table[:, TS] <= began_s + WOKEN_WITHIN_S
    return LaterUse(
        covered_h=float(interval_s.sum() / _HOUR_S),
        cpu_h=float((ratio * vcpus * interval_s).sum() / _HOUR_S),
        # In whole quanta: 20 % itself is not above 20 %.
        woke=int((soon & (table[:, _CPU] > round(WOKEN_CPU_RATIO / _CPU_QUANTUM))).sum()) >= WOKEN_SAMPLES,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stakes:
    """What there was to win and to lose, (n,) each: one row a VM that was judged and has a later part.

    Attributes:
        vcpu_h, gib_h: size at the end of the judged part x covered hours of the later part.
        cpu_h: later used.
        woke: 1 for a VM that woke up soon.
    """

    vcpu_h: Floats
    gib_h: Floats
    cpu_h: Floats
    woke: Bools

    @classmethod
    def of(cls, uses: Sequence[LaterUse], vcpus: Floats, mem_bytes: Floats) -> Stakes:
        """Unknown sizes (NaN) count as nothing."""
        covered_h = np.array([use.covered_h for use in uses])
        return cls(
            vcpu_h=np.nan_to_num(vcpus) * covered_h,
            gib_h=np.nan_to_num(mem_bytes) / _GIB * covered_h,
            cpu_h=np.array([use.cpu_h for use in uses]),
            woke=np.array([use.woke for use in uses], bool),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What one policy's verdicts were worth.

    Attributes:
        idle: VMs called idle.
        freed_vcpu_h, freed_gib_h: theirs.
        regret_ratio: None where nothing is freed.
        woken_ratio: share of them that woke up soon; None without any.
    """

    idle: int
    freed_vcpu_h: float
    freed_gib_h: float
    regret_ratio: float | None
    woken_ratio: float | None

    def beats(self, other: Worth) -> bool:
        """Frees at least as much at no more regret. One that frees nothing is beaten by all."""
        if other.regret_ratio is None:
            return True
        return (
            self.freed_vcpu_h >= other.freed_vcpu_h
            and self.regret_ratio is not None
            and self.regret_ratio <= other.regret_ratio
        )


def worth_of(stakes: Stakes, idle: Bools) -> Worth:
    """Of calling these VMs idle, (n,)."""
    freed_vcpu_h = float(stakes.vcpu_h[idle].sum())
    used_h = float(stakes.cpu_h[idle].sum())
    count = int(idle.sum())
    return Worth(
        idle=count,
        freed_vcpu_h=freed_vcpu_h,
        freed_gib_h=float(stakes.gib_h[idle].sum()),
        regret_ratio=used_h / freed_vcpu_h if freed_vcpu_h > 0 else None,
        woken_ratio=float(stakes.woke[idle].mean()) if count else None,
    )


class Clairvoyant:
    """Who knows what each VM will do, and takes the least used ones first: nobody can do better.

    The last VM is taken in part, so that the figures are bounds on any choice of whole VMs.
    """

    def __init__(self, stakes: Stakes) -> None:
        """Args: stakes: VMs that free nothing are left out: nobody gains by them."""
        some = stakes.vcpu_h > 0
        mean = stakes.cpu_h[some] / stakes.vcpu_h[some]
        order = np.argsort(mean, kind="stable")
        self._freed_h = np.concatenate(([0.0], np.cumsum(stakes.vcpu_h[some][order])))
        self._used_h = np.concatenate(([0.0], np.cumsum(stakes.cpu_h[some][order])))

    def most_freed_vcpu_h(self, regret_ratio: float) -> float:
        """The most that can be freed at no more regret than this."""
        # Used less allowed: it falls while VMs are below the regret, then rises and crosses zero once.
        excess = self._used_h - regret_ratio * self._freed_h
        within = int(np.flatnonzero(excess <= 0)[-1])
        if within == len(excess) - 1:
            return float(self._freed_h[-1])
        share = -excess[within] / (excess[within + 1] - excess[within])
        return float(self._freed_h[within] + share * (self._freed_h[within + 1] - self._freed_h[within]))

    def least_regret_ratio(self, freed_vcpu_h: float) -> float:
        """The least regret at which so much can be freed; NaN for nothing, or for more than there is."""
        if not 0 < freed_vcpu_h <= self._freed_h[-1] * (1 + 1e-12):
            return float("nan")
        return float(np.interp(freed_vcpu_h, self._freed_h, self._used_h) / freed_vcpu_h)


def beaten_by(worths: Mapping[str, Worth], ours: Sequence[str], other: str) -> tuple[str, ...]:
    """Which of ours free at least as much as `other` at no more regret, in their order."""
    return tuple(name for name in ours if worths[name].beats(worths[other]))


def points_needed(others: Sequence[Worth], clairvoyant: Clairvoyant) -> int:
    """How many choices of VMs it takes at least to beat all others, each by one of them, even for a clairvoyant.

    The choice that beats the one with the least regret may regret no more than that. It beats as many of the others as
    free no more than it can free within that regret: no other choice that beats the first one beats more.
    """
    left = sorted((one.regret_ratio, one.freed_vcpu_h) for one in others if one.regret_ratio is not None)
    points = 0
    while left:
        most_h = max(clairvoyant.most_freed_vcpu_h(left[0][0]), left[0][1])
        left = [(regret, freed_h) for regret, freed_h in left if freed_h > most_h]
        points += 1
    return points
