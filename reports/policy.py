"""A policy: limits on figures, joined by and/or, with an answer that may be "not known". Pure numpy.

Not measured is neither kept nor broken: a policy says idle only when that holds whatever the missing figures are.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.histogram import Floats
from reports.facts import Facts
from reports.measures import Measure

Bools = npt.NDArray[np.bool_]


class Comparison(Enum):
    """How a figure has to stand to its limit. The value is the sign that people see."""

    AT_MOST = "<="
    BELOW = "<"
    AT_LEAST = ">="

    def holds(self, value: float, limit: float) -> bool:
        """Exact: no rounding and no truncation, 10.9 % is not at most 10 %."""
        return bool(_COMPARE[self](value, limit))


_COMPARE: Mapping[Comparison, Callable[[object, float], Bools]] = {
    Comparison.AT_MOST: operator.le,  # type: ignore[dict-item]
    Comparison.BELOW: operator.lt,  # type: ignore[dict-item]
    Comparison.AT_LEAST: operator.ge,  # type: ignore[dict-item]
}


class Answer(NamedTuple):
    """What a policy says of each VM.

    Attributes:
        holds: (n,) kept, whatever was not measured.
        possible: (n,) kept, if what was not measured kept its limit.
        margin_ratio: (n,) how far inside its limits a VM is, 1 far inside to 0 at the limit; 0 where it does not hold.
    """

    holds: Bools
    possible: Bools
    margin_ratio: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One figure and its limit.

    Args:
        optional: a VM on which the figure was not measured keeps the rule.
    """

    measure: Measure
    comparison: Comparison
    limit: float
    optional: bool = False

    def answer(self, facts: Facts, asked_days: int) -> Answer:
        values = self.measure.values(facts, asked_days)
        known = ~np.isnan(values)
        kept = known & _COMPARE[self.comparison](np.where(known, values, 0.0), self.limit)
        margin = np.where(kept, np.clip(self._margin(values), 0.0, 1.0), 0.0)
        if self.optional:
            return Answer(kept | ~known, kept | ~known, np.where(known, margin, 1.0))
        return Answer(kept, kept | ~known, margin)

    def _margin(self, values: Floats) -> Floats:
        if self.comparison is Comparison.AT_LEAST:
            return np.ones(len(values))
        return 1.0 - values / self.limit if self.limit > 0 else np.ones(len(values))

    def rules(self) -> Iterator[Rule]:
        yield self

    def without(self, missing: Callable[[Measure], bool]) -> Expression | None:
        return None if missing(self.measure) else self


@dataclass(frozen=True, slots=True)
class All:
    """Every part must hold."""

    parts: tuple[Expression, ...]

    def answer(self, facts: Facts, asked_days: int) -> Answer:
        answers = [part.answer(facts, asked_days) for part in self.parts]
        return Answer(
            np.logical_and.reduce([answer.holds for answer in answers]),
            np.logical_and.reduce([answer.possible for answer in answers]),
            np.minimum.reduce([answer.margin_ratio for answer in answers]),
        )

    def rules(self) -> Iterator[Rule]:
        for part in self.parts:
            yield from part.rules()

    def without(self, missing: Callable[[Measure], bool]) -> Expression | None:
        """The same on fewer figures; None when none is left."""
        kept = tuple(part for each in self.parts if (part := each.without(missing)) is not None)
        return All(kept) if kept else None


@dataclass(frozen=True, slots=True)
class Either:
    """At least one part must hold."""

    parts: tuple[Expression, ...]

    def answer(self, facts: Facts, asked_days: int) -> Answer:
        answers = [part.answer(facts, asked_days) for part in self.parts]
        return Answer(
            np.logical_or.reduce([answer.holds for answer in answers]),
            np.logical_or.reduce([answer.possible for answer in answers]),
            np.maximum.reduce([np.where(answer.holds, answer.margin_ratio, 0.0) for answer in answers]),
        )

    def rules(self) -> Iterator[Rule]:
        for part in self.parts:
            yield from part.rules()

    def without(self, missing: Callable[[Measure], bool]) -> Expression | None:
        """The same on fewer figures; None when none is left."""
        kept = tuple(part for each in self.parts if (part := each.without(missing)) is not None)
        return Either(kept) if kept else None


Expression = Rule | All | Either


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A VM on which `idle_when` holds is idle.

    Args:
        name: such as `classic` or `fallow-balanced`.
        summary: one line for people, with its limits.
        source: where the limits come from.
        min_age_days: samples must reach back so far; 0 leaves it to the coverage of the windows.
    """

    name: str
    summary: str
    source: str
    idle_when: Expression
    min_age_days: float = 0.0

    def rules(self) -> tuple[Rule, ...]:
        """Every rule once, in the order in which they stand."""
        return tuple(dict.fromkeys(self.idle_when.rules()))

    def days(self, asked_days: int) -> tuple[int, ...]:
        """The windows it looks at, rising."""
        return tuple(sorted({rule.measure.days or asked_days for rule in self.idle_when.rules()}))


def at_most(measure: str, limit: float, *, days: int | None = None, optional: bool = False) -> Rule:
    """A rule `measure <= limit`."""
    return Rule(measure=Measure.parse(measure, days), comparison=Comparison.AT_MOST, limit=limit, optional=optional)


def below(measure: str, limit: float, *, days: int | None = None, optional: bool = False) -> Rule:
    """A rule `measure < limit`."""
    return Rule(measure=Measure.parse(measure, days), comparison=Comparison.BELOW, limit=limit, optional=optional)
