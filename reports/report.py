"""A report: what was asked of the fleet, and the answer that every output renders. Pure values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from reports.judgement import Judgement, Savings
from reports.policy import Policy
from reports.verdicts import Cause, Settings, Verdict

RECLAIMABLE = (Verdict.IDLE, Verdict.SCHEDULED, Verdict.OVERSIZED)
"""Verdicts that give capacity back; a VM has one verdict, so that their totals are of disjoint VMs."""


class Sort(Enum):
    """By what a list is ordered; the value is its name in options and addresses."""

    SCORE = "score"
    VCPUS = "vcpus"
    MEMORY = "memory"
    DISK = "disk"
    MONEY = "money"
    ENERGY = "energy"
    CONFIDENCE = "confidence"
    CPU = "cpu"
    NAME = "name"
    OWNER = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the fleet.

    Args:
        now_s: time of the report, Unix seconds.
        verdict: list only VMs with this one; None lists all, the reclaimable ones first.
        reclaimable: list only VMs with a verdict of RECLAIMABLE; `verdict` wins.
        search: list only VMs whose id, name, hostname, owner or tags hold this text, whatever its case.
        owner: list only VMs of this owner.
        ascending: the other way round than the usual one of `sort`.
        top: list at most so many after skipping `offset`; None lists every one. Totals count the whole fleet.
    """

    policy: Policy
    settings: Settings
    now_s: float
    verdict: Verdict | None = None
    reclaimable: bool = True
    search: str = ""
    owner: str | None = None
    sort: Sort = Sort.SCORE
    ascending: bool = False
    offset: int = 0
    top: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The whole fleet in numbers, whatever is listed.

    Attributes:
        by_cause: VMs by cause; all causes are there, with 0 too.
        freed: what the VMs of each reclaimable verdict would give back together, as far as sizes are known.
        unknown_size: reclaimable VMs that lack vCPU or memory size.
    """

    by_cause: Mapping[Cause, int]
    freed: Mapping[Verdict, Savings]
    unknown_size: int

    @property
    def vms(self) -> int:
        return sum(self.by_cause.values())

    def of(self, verdict: Verdict) -> int:
        return sum(count for cause, count in self.by_cause.items() if cause.verdict is verdict)

    @property
    def reclaimable(self) -> int:
        return sum(self.of(verdict) for verdict in RECLAIMABLE)

    @property
    def freed_together(self) -> Savings:
        """The sum over the reclaimable verdicts."""
        parts = list(self.freed.values())
        money = [part.money_per_month for part in parts if part.money_per_month is not None]
        return Savings(
            vcpus=sum(part.vcpus for part in parts),
            mem_bytes=sum(part.mem_bytes for part in parts),
            disk_bytes=sum(part.disk_bytes for part in parts),
            kwh_per_month=sum(part.kwh_per_month for part in parts),
            money_per_month=sum(money) if money else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One VM of the report. `rank` counts the listed reclaimable ones from 1 by place; other VMs have none."""

    rank: int | None
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What happened to reclaimable capacity since an earlier moment.

    Attributes:
        since_s: of the report before.
        reclaimed, kept, objected, returned: numbers of VMs.
        realised: what the VMs reclaimed in that time gave back.
    """

    since_s: float
    reclaimed: int = 0
    kept: int = 0
    objected: int = 0
    returned: int = 0
    realised: Savings = field(
        default_factory=lambda: Savings(
            vcpus=0.0, mem_bytes=0.0, disk_bytes=0.0, kwh_per_month=0.0, money_per_month=None
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer.

    Attributes:
        judged_s: when the totals and the order were made; listed VMs are judged at `question.now_s`.
        matching: VMs that would be listed without `top` and `offset`.
        changes: None where nobody asked, or nothing is recorded yet.
    """

    question: Question
    judged_s: float
    totals: Totals
    listed: tuple[Listed, ...]
    matching: int
    changes: Changes | None = None
