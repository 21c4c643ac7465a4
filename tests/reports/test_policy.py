"""Limits on figures, joined by and/or, with an answer that may be "not known"."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from reports.measures import Measure
from reports.policy import All, Comparison, Either, Expression, Rule, at_most, below
from tests.reports.columns import facts

CPU, MEMORY, DISK = "cpu_busy.mean", "mem_used.mean", "disk_used.mean"


def answer(expression: Expression, cpu: float, memory: float = math.nan, disk: float = math.nan) -> tuple[bool, bool]:
    """Whether it holds, and whether it might."""
    one = facts({"cpu_busy_mean_ratio": cpu, "mem_used_mean_ratio": memory, "disk_used_mean_ratio": disk})
    said = expression.answer(one, 14)
    return bool(said.holds[0]), bool(said.possible[0])


def test_limits_are_exact() -> None:
    """10.9 % is not at most 10 %, 10 % is, and 10 % is not below 10 %."""
    assert answer(at_most(CPU, 0.1), 0.109) == (False, False)
    assert answer(at_most(CPU, 0.1), 0.1) == (True, True)
    assert answer(below(CPU, 0.1), 0.1) == (False, False)
    assert answer(Rule(measure=Measure.parse(CPU), comparison=Comparison.AT_LEAST, limit=0.1), 0.1) == (True, True)


def test_not_measured_is_neither_kept_nor_broken() -> None:
    """A missing figure leaves the answer open; zero is a figure."""
    assert answer(at_most(MEMORY, 0.1), 0.0) == (False, True)
    assert answer(at_most(MEMORY, 0.1), 0.0, memory=0.0) == (True, True)


def test_all_is_settled_by_one_broken_rule() -> None:
    """Whatever the missing figure is, a VM that breaks another rule is in use."""
    both = All((at_most(CPU, 0.1), at_most(MEMORY, 0.1)))
    assert answer(both, 0.5) == (False, False)
    assert answer(both, 0.05) == (False, True)
    assert answer(both, 0.05, memory=0.05) == (True, True)


def test_either_is_settled_by_one_kept_rule() -> None:
    """Whatever the missing figure is, one way that holds is enough."""
    one = Either((at_most(CPU, 0.1), at_most(MEMORY, 0.1)))
    assert answer(one, 0.05) == (True, True)
    assert answer(one, 0.5) == (False, True)
    assert answer(one, 0.5, memory=0.5) == (False, False)


def test_optional_rule_holds_where_nothing_was_measured() -> None:
    """It bounds those VMs alone on which its figure is known."""
    optional = at_most(MEMORY, 0.1, optional=True)
    assert answer(optional, 0.0) == (True, True)
    assert answer(optional, 0.0, memory=0.5) == (False, False)


def test_margin_is_one_far_inside_and_nothing_at_the_limit() -> None:
    """And that of `all` is its tightest, that of `either` its best way that holds."""
    one = facts({"cpu_busy_mean_ratio": 0.05, "mem_used_mean_ratio": 0.1})
    cpu, memory = at_most(CPU, 0.1), at_most(MEMORY, 0.1)
    assert cpu.answer(one, 14).margin_ratio[0] == 0.5
    assert memory.answer(one, 14).margin_ratio[0] == 0.0
    assert All((cpu, memory)).answer(one, 14).margin_ratio[0] == 0.0
    assert Either((cpu, memory)).answer(one, 14).margin_ratio[0] == 0.5


RATIOS = st.one_of(st.just(math.nan), st.floats(0, 1))
RULES = st.builds(at_most, st.sampled_from((CPU, MEMORY, DISK)), st.floats(0.01, 1), optional=st.booleans())
EXPRESSIONS: st.SearchStrategy[Expression] = st.recursive(
    RULES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: Either(tuple(parts))),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, RATIOS, RATIOS, RATIOS)
def test_what_holds_is_possible(expression: Expression, cpu: float, memory: float, disk: float) -> None:
    """And with every figure known the two are the same."""
    holds, possible = answer(expression, cpu, memory, disk)
    assert possible or not holds
    if not any(map(math.isnan, (cpu, memory, disk))):
        assert holds == possible


@given(EXPRESSIONS, RATIOS, RATIOS, RATIOS, st.floats(0, 1))
def test_learning_a_figure_never_contradicts(
    expression: Expression, cpu: float, memory: float, disk: float, learnt: float
) -> None:
    """What is said of a VM while figures are missing stays true once they are known, but for optional rules."""
    if any(rule.optional for rule in expression.rules()):
        return
    holds, possible = answer(expression, cpu, memory, disk)
    now_holds, now_possible = answer(
        expression, *(learnt if math.isnan(value) else value for value in (cpu, memory, disk))
    )
    assert now_holds or not holds
    assert possible or not now_possible


@given(EXPRESSIONS)
def test_without_leaves_out_what_is_missing_alone(expression: Expression) -> None:
    """Every rule on another figure is still there, and none on the missing one."""
    kept = expression.without(lambda measure: measure.metric == "mem_used")
    left = [] if kept is None else list(kept.rules())
    assert left == [rule for rule in expression.rules() if rule.measure.metric != "mem_used"]


def test_rules_of_many_vms_are_those_of_each() -> None:
    """An array of one is judged as the arrays of many are."""
    values = np.array([0.05, 0.5])
    said = [answer(at_most(CPU, 0.1), value) for value in values]
    assert said == [(True, True), (False, False)]
