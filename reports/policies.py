"""Named policies: which figures of a window make a VM idle. Pure, and data rather than code.

A policy is a conjunction of rules on columns of `vm_window`, so that one definition serves the Python that
explains a verdict and the SQL that counts 100,000 of them. Who adds a policy adds it to POLICIES and to
docs/report.md; the contract test covers it from then on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum


class Comparison(Enum):
    """How a figure has to stand to its limit. The value is the sign that people see."""

    AT_MOST = "<="
    BELOW = "<"
    AT_LEAST = ">="

    def holds(self, value: float, limit: float) -> bool:
        """Exact: no rounding and no truncation, 10.9 % is not at most 10 %."""
        return _COMPARE[self](value, limit)


_COMPARE: Mapping[Comparison, Callable[[float, float], bool]] = {
    Comparison.AT_MOST: operator.le,
    Comparison.BELOW: operator.lt,
    Comparison.AT_LEAST: operator.ge,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One figure and its limit.

    Args:
        column: of `vm_window`; its ending names the unit.
        words: what people call the figure, such as `mean CPU`.
    """

    column: str
    words: str
    comparison: Comparison
    limit: float

    @property
    def unit(self) -> str:
        return "bytes_per_s" if self.column.endswith("_bytes_per_s") else "ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A VM whose figures keep every rule is idle.

    Args:
        summary: one line for people, with its limits.
        source: where the limits come from.
        rules: at least one. Among VMs of one size, the lower figure of the first rule ranks first.
    """

    name: str
    summary: str
    source: str
    rules: tuple[Rule, ...]


def _at_most(column: str, words: str, limit: float) -> Rule:
    return Rule(column=column, words=words, comparison=Comparison.AT_MOST, limit=limit)


CLASSIC = Policy(
    name="classic",
    summary="mean CPU, memory and disk are all at most 10 %",
    source="VMstats, the push aggregator this report began as; it truncated 10.9 % to 10 %, this does not",
    rules=(
        _at_most("cpu_busy_mean_ratio", "mean CPU", 0.10),
        _at_most("mem_used_mean_ratio", "mean memory", 0.10),
        _at_most("disk_used_mean_ratio", "mean disk", 0.10),
    ),
)

P95 = Policy(
    name="p95",
    summary="CPU is at most 5 % in 95 % of the minutes",
    source="usual practice in right-sizing: a percentile forgives the odd burst that a mean hides and a maximum blames",
    rules=(_at_most("cpu_busy_p95_ratio", "p95 CPU", 0.05),),
)

POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (CLASSIC, P95)}
DEFAULT_POLICY = CLASSIC.name
