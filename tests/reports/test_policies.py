"""One contract for every named policy."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.fleet import vm_window
from reports.policies import DEFAULT_POLICY, POLICIES, Comparison, Policy
from reports.query import read_report, snapshot
from reports.verdicts import Cause, Limits, Verdict, judge
from tests.reports.fleets import NOW_S, candidate, question, stored, window

DOCUMENT = Path(__file__).parents[2] / "docs" / "report.md"
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


def verdict_on(policy: Policy, figures: dict[str, float | None]) -> Verdict:
    return judge(candidate(window=window(figures)), policy, Limits(), now_s=NOW_S).verdict


def at_limits(policy: Policy) -> dict[str, float | None]:
    """Figures that just keep every rule."""
    step = {Comparison.BELOW: -math.inf}
    return {rule.column: math.nextafter(rule.limit, step.get(rule.comparison, rule.limit)) for rule in policy.rules}


def worse(policy: Policy, column: str, by: float) -> float:
    """A figure of `column` beyond its limit."""
    rule = next(rule for rule in policy.rules if rule.column == column)
    return rule.limit - by if rule.comparison is Comparison.AT_LEAST else rule.limit + by


def test_the_default_is_one_of_them() -> None:
    """The policy that is used unasked exists."""
    assert DEFAULT_POLICY in POLICIES


@every_policy
def test_is_listed_under_its_name_and_documented(policy: Policy) -> None:
    """A policy is found by its own name, says where its limits come from and has a section in the document."""
    assert POLICIES[policy.name] is policy
    assert policy.summary
    assert policy.source
    assert f"### `{policy.name}`" in DOCUMENT.read_text(encoding="utf-8")


@every_policy
def test_rules_are_on_columns_that_windows_have(policy: Policy) -> None:
    """Each rule reads a column of vm_window, in the unit of its name, and no two read the same."""
    columns = [rule.column for rule in policy.rules]
    assert columns
    assert len(set(columns)) == len(columns)
    assert set(columns) <= set(vm_window.c.keys())
    assert all(rule.column.endswith(rule.unit) for rule in policy.rules)


@every_policy
def test_figures_at_their_limits_are_idle(policy: Policy) -> None:
    """A limit itself still counts as idle where the rule says at most."""
    assert verdict_on(policy, at_limits(policy)) is Verdict.IDLE


@every_policy
def test_zero_is_a_value(policy: Policy) -> None:
    """A VM that was measured to do nothing at all is idle, not unmeasured."""
    assert verdict_on(policy, {rule.column: 0.0 for rule in policy.rules}) is Verdict.IDLE


@every_policy
def test_one_figure_above_its_limit_is_active(policy: Policy) -> None:
    """The smallest step over any one limit makes a VM active: nothing is rounded."""
    for rule in policy.rules:
        beyond = math.nextafter(rule.limit, worse(policy, rule.column, 1.0))
        assert verdict_on(policy, {**at_limits(policy), rule.column: beyond}) is Verdict.ACTIVE


@every_policy
def test_a_missing_figure_is_never_idle(policy: Policy) -> None:
    """Whatever the other figures say, one that was not measured leaves too little to judge by."""
    for rule in policy.rules:
        for other in (0.0, 1.0):
            figures: dict[str, float | None] = {r.column: other for r in policy.rules}
            judgement = judge(candidate(window=window({**figures, rule.column: None})), policy, Limits(), now_s=NOW_S)
            assert judgement.cause is Cause.MISSING_FIGURE
            assert rule.words in judgement.reason


@every_policy
def test_every_rule_shows_its_figure_beside_its_limit(policy: Policy) -> None:
    """The evidence holds each rule's figure and limit in the order of the rules, and coverage after them."""
    figures = judge(candidate(), policy, Limits(), now_s=NOW_S).figures
    assert [(f.name, f.limit) for f in figures[: len(policy.rules)]] == [(r.column, r.limit) for r in policy.rules]
    assert figures[len(policy.rules)].name == "coverage_ratio"
    assert figures[len(policy.rules)].limit == 0.95


@given(policy=st.sampled_from(list(POLICIES.values())), data=st.data())
def test_more_use_never_makes_a_vm_more_idle(policy: Policy, data: st.DataObject) -> None:
    """Raising any figure of a VM that is in use leaves it in use."""
    ratio = st.floats(0, 1)
    figures = {rule.column: data.draw(ratio) for rule in policy.rules}
    raised = {column: data.draw(st.floats(value, 1)) for column, value in figures.items()}
    if verdict_on(policy, {**figures}) is Verdict.ACTIVE:
        assert verdict_on(policy, {**raised}) is Verdict.ACTIVE


@every_policy
def test_the_lower_figure_of_the_first_rule_ranks_first(policy: Policy) -> None:
    """Among idle VMs of one size, the database puts the one that does less before the other."""
    less: dict[str, float | None] = {rule.column: 0.0 for rule in policy.rules}
    more = {**less, policy.rules[0].column: policy.rules[0].limit / 2}
    engine = stored([candidate(vm_id="a", window=window(more)), candidate(vm_id="b", window=window(less))])
    with snapshot(engine) as connection:
        report = read_report(connection, question(policy))
    assert [listed.candidate.vm_id for listed in report.listed] == ["b", "a"]


def test_classic_does_not_truncate() -> None:
    """10.9 % is above 10 %, where the rule's ancestor read it as 10."""
    figures: dict[str, float | None] = {rule.column: 0.109 for rule in POLICIES["classic"].rules}
    assert verdict_on(POLICIES["classic"], figures) is Verdict.ACTIVE


def test_a_rule_below_its_limit_excludes_the_limit() -> None:
    """`<` differs from `<=` at the limit alone."""
    rule = replace(POLICIES["p95"].rules[0], comparison=Comparison.BELOW)
    policy = replace(POLICIES["p95"], rules=(rule,))
    assert verdict_on(policy, {rule.column: rule.limit}) is Verdict.ACTIVE
    assert verdict_on(policy, at_limits(policy)) is Verdict.IDLE
