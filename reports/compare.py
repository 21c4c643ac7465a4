"""One fleet judged by several policies, side by side. Pure numpy over chunks, so that a fleet of any size fits."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reports.facts import Facts, Vm
from reports.judgement import Savings
from reports.policy import Policy
from reports.report import Totals
from reports.tally import Tally
from reports.verdicts import CAUSES, Cause, Judged, Settings, Verdict

_VERDICTS = tuple(Verdict)
# Place of a cause in CAUSES -> place of its verdict in _VERDICTS.
_VERDICT_OF = np.array([_VERDICTS.index(cause.verdict) for cause in CAUSES], np.int8)
_IDLE = _VERDICTS.index(Verdict.IDLE)
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLine:
    """The whole fleet by one policy.

    Attributes:
        missing_days: windows that the policy looks at and the aggregator does not keep: with any, it can judge no VM.
    """

    policy: Policy
    totals: Totals
    missing_days: tuple[int, ...] = ()

    @property
    def freed_idle(self) -> Savings:
        """What the idle VMs alone would give back; the rest is the same by most policies."""
        return self.totals.freed[Verdict.IDLE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Disputed:
    """A VM that not all policies judge alike.

    Attributes:
        causes: by policy, in the order of `Comparison.lines`.
        differing_pairs: pairs of policies that give it different verdicts.
        at_stake: vCPU-equivalents that the policy which frees most of it would free.
    """

    vm: Vm
    causes: tuple[Cause, ...]
    differing_pairs: int
    at_stake: float

    @property
    def idle_by(self) -> int:
        """How many policies call it idle."""
        return self.causes.count(Cause.IDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What several policies say of one fleet.

    Attributes:
        lines: a line a policy, in the order asked.
        idle_by_both: row by row in that order, how many VMs both policies call idle; the diagonal is each one's own.
        disputed_vms: how many VMs not all policies judge alike.
        disputed: those on which most pairs of policies differ; among equals, the larger come first.
    """

    settings: Settings
    now_s: float
    vms: int
    lines: tuple[PolicyLine, ...]
    idle_by_both: tuple[tuple[int, ...], ...]
    disputed_vms: int
    disputed: tuple[Disputed, ...]


def compare(
    chunks: Iterable[tuple[Facts, Sequence[Judged]]],
    policies: Sequence[Policy],
    settings: Settings,
    *,
    now_s: float,
    top: int,
    kept_days: Iterable[int] | None = None,
) -> Comparison:
    """Counts a fleet that was judged by each of the policies.

    Args:
        chunks: some VMs each, every VM once, with the verdicts in the order of the policies.
        top: how many disputed VMs are named.
        kept_days: windows that the aggregator keeps; None: every one.
    """
    tallies = [Tally() for _ in policies]
    both = np.zeros((len(policies), len(policies)), np.int64)
    vms, disputed_vms = 0, 0
    disputed: list[Disputed] = []
    for facts, judged in chunks:
        vms += len(facts)
        for tally, one in zip(tallies, judged, strict=True):
            tally.add(facts, one)
        verdicts = np.array([_VERDICT_OF[one.codes] for one in judged], np.int8).reshape(len(policies), len(facts))
        idle = (verdicts == _IDLE).astype(np.int64)
        both += idle @ idle.T
        pairs = _differing_pairs(verdicts)
        disputed_vms += int(np.count_nonzero(pairs))
        disputed = heapq.nsmallest(top, [*disputed, *_most_disputed(facts, judged, pairs, top)], key=_rank)
    missing = _missing_days(policies, settings, kept_days)
    return Comparison(
        settings=settings,
        now_s=now_s,
        vms=vms,
        lines=tuple(
            PolicyLine(
                policy=policy,
                totals=tally.totals(priced=settings.prices.currency is not None),
                missing_days=missing[policy.name],
            )
            for policy, tally in zip(policies, tallies, strict=True)
        ),
        idle_by_both=tuple(tuple(row) for row in both.tolist()),
        disputed_vms=disputed_vms,
        disputed=tuple(disputed),
    )


def _differing_pairs(verdicts: npt.NDArray[np.int8]) -> Counts:
    """(n,) pairs of policies with different verdicts, of (policies, n) verdicts."""
    alike = sum(np.count_nonzero(verdicts == code, axis=0) ** 2 for code in range(len(_VERDICTS)))
    return np.asarray((len(verdicts) ** 2 - alike) // 2, np.int64)


def _most_disputed(facts: Facts, judged: Sequence[Judged], pairs: Counts, top: int) -> list[Disputed]:
    if not pairs.any():
        return []
    at_stake = np.max([one.worth.vcpu_equivalents for one in judged], axis=0)
    rows = np.flatnonzero(pairs)
    ids = np.array([facts.vms[row].vm_id for row in rows.tolist()])
    first = rows[np.lexsort((ids, -at_stake[rows], -pairs[rows]))[:top]]
    return [
        Disputed(
            vm=facts.vms[row],
            causes=tuple(one.cause(row) for one in judged),
            differing_pairs=int(pairs[row]),
            at_stake=float(at_stake[row]),
        )
        for row in first.tolist()
    ]


def _rank(disputed: Disputed) -> tuple[int, float, str]:
    return -disputed.differing_pairs, -disputed.at_stake, disputed.vm.vm_id


def _missing_days(
    policies: Sequence[Policy], settings: Settings, kept_days: Iterable[int] | None
) -> Mapping[str, tuple[int, ...]]:
    kept = None if kept_days is None else frozenset(kept_days)
    return {
        policy.name: ()
        if kept is None
        else tuple(days for days in policy.days(settings.window_days) if days not in kept)
        for policy in policies
    }
