"""What the pages on policies show. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from reports.judgement import Savings
from reports.verdicts import Verdict
from reports.web.views_shared import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """Part of a policy's rules.

    Attributes:
        kind: `rule`, `all` (every part must hold) or `any` (at least one must).
        words: of a rule: figure, comparison and limit, such as `mean CPU at most 10%`; empty otherwise.
        figure: of a rule: its name, such as `cpu_busy.mean`.
        optional: a rule that counts as kept where its figure is not measured.
    """

    kind: str
    words: str = ""
    figure: str = ""
    optional: bool = False
    parts: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCard:
    """A policy with its rules. `is_own`: of the admin's configuration; `is_default`: what pages judge by."""

    name: str
    summary: str
    source: str
    min_age_days: float
    idle_when: Clause
    is_own: bool
    is_default: bool
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesView:
    """`/policies` (template `policies.html.j2`)."""

    frame: Frame
    policies: tuple[PolicyCard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareLine:
    """The whole fleet judged by one policy.

    Attributes:
        freed_idle: by the idle VMs alone. A VM that a policy does not call idle may still be oversized or scheduled.
        freed: by all reclaimable VMs, those too.
        freed_length_ratio: of the idle vCPUs; 1 for the policy that frees most.
        missing_days: windows the policy looks at and the aggregator does not keep: with any, it can judge no VM.
    """

    policy: str
    summary: str
    is_default: bool
    idle: int
    insufficient: int
    excluded: int
    freed_idle: Savings
    freed: Savings
    freed_length_ratio: float
    missing_days: tuple[int, ...]
    href: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputedLine:
    """A VM on which policies disagree. `verdicts` stand in the order of `CompareView.lines`."""

    vm_id: str
    name: str | None
    owner: str | None
    href: str
    idle_by: int
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareView:
    """`/compare` (template `compare.html.j2`).

    Attributes:
        compared_s: when the fleet was judged by all policies.
        agreement: for the policies of `lines`, row by row, VMs idle by both.
        disputed_vms: how many VMs the policies do not all judge alike; at most 50 of them are in `disputed`.
    """

    frame: Frame
    window_days: int
    vms: int
    compared_s: float
    currency: str | None
    lines: tuple[CompareLine, ...]
    agreement: tuple[tuple[int, ...], ...]
    disputed_vms: int
    disputed: tuple[DisputedLine, ...]
