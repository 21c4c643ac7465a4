"""What every policy keeps to, ours and others': who adds one to POLICIES is held to the same."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.traces import Recording
from aggregator.evidence import Evidence
from aggregator.summary import WINDOWS_DAYS
from reports.facts import Facts, WindowFacts
from reports.fallow_policy import STRICTNESS, fallow
from reports.measures import Measure
from reports.policies import DEFAULT_POLICY, POLICIES, find_policy
from reports.policy import Comparison, Policy
from reports.published import PUBLISHED
from reports.recorded import facts_of
from reports.verdicts import Judged, Settings, Verdict, judge
from tests.reports.recordings import recording

SAMPLES = 30 * 48
OURS = [name for name in POLICIES if name.startswith("fallow-")]
ASLEEP = {
    "cpu_max": 0.0,
    "mem_used": 1e8,
    "disk_total": 40e9,
    "disk_used": 1e9,
    "disk_read": 0.0,
    "disk_write": 0.0,
    "net_rx": 0.0,
    "net_tx": 0.0,
    "users": 0.0,
}
BUSY = {
    "cpu_max": 1.0,
    "mem_used": 3.9e9,
    "disk_total": 40e9,
    "disk_used": 30e9,
    "disk_read": 50e6,
    "disk_write": 50e6,
    "net_rx": 30e6,
    "net_tx": 30e6,
    "users": 3.0,
}


def vm(name: str, cpu: float, figures: Mapping[str, Any], samples: int = SAMPLES) -> Recording:
    return recording(name, np.full(samples, cpu), **figures)


def judged(facts: Facts, policy: Policy) -> Judged:
    return judge(facts, policy, Settings(), now_s=float(np.nanmax(facts.newest_s)))


def verdict(facts: Facts, policy: Policy) -> Verdict:
    return judged(facts, policy).cause(0).verdict


@pytest.fixture(scope="module")
def asleep() -> Facts:
    return facts_of([vm("asleep", 0.0, ASLEEP)], WINDOWS_DAYS)


@pytest.fixture(scope="module")
def busy() -> Facts:
    return facts_of([vm("busy", 0.9, BUSY)], WINDOWS_DAYS)


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    return POLICIES[request.param]


def test_a_policy_says_what_it_is(policy: Policy) -> None:
    """A name that fits a command line, one line of summary, a source."""
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", policy.name)
    assert POLICIES[policy.name] is policy
    for text in (policy.summary, policy.source):
        assert text
        assert text == text.strip()
        assert "\n" not in text


def test_its_maker_gives_source_and_figures(policy: Policy) -> None:
    """The docstring of a published rule names its source; one docstring speaks for all of ours."""
    if policy.name in OURS:
        assert fallow(policy.name.removeprefix("fallow-")) == policy
        assert len(inspect.getdoc(fallow) or "") > 80
        return
    (maker,) = [make for make in PUBLISHED if make().name == policy.name]
    assert "Source:" in (inspect.getdoc(maker) or "")


def test_its_figures_exist(policy: Policy) -> None:
    """Every figure can be read back from its name, limits are finite, shares are shares, windows whole days."""
    assert policy.rules()
    for rule in policy.rules():
        measure = rule.measure
        assert Measure.parse(f"{measure.metric}.{measure.statistic}", measure.days) == measure
        assert np.isfinite(rule.limit)
        assert rule.limit >= 0
        assert rule.comparison in Comparison
        if measure.unit == "ratio":
            assert rule.limit <= 1
        assert measure.days is None or measure.days in WINDOWS_DAYS


def test_it_is_found_by_its_name(policy: Policy) -> None:
    """What is listed can be asked for."""
    assert find_policy(policy.name) is policy


def test_what_sleeps_is_idle(policy: Policy, asleep: Facts) -> None:
    """A VM that did nothing in any respect for 30 days is idle by every policy."""
    assert verdict(asleep, policy) is Verdict.IDLE


def test_what_works_is_not_idle(policy: Policy, busy: Facts) -> None:
    """A VM at 90 % CPU with heavy disk and network is idle by none."""
    assert verdict(busy, policy) is not Verdict.IDLE


def test_youth_is_not_idleness(policy: Policy) -> None:
    """A VM that slept through the only two days of its life has insufficient data."""
    young = facts_of([vm("young", 0.0, ASLEEP, samples=96)], WINDOWS_DAYS)
    assert verdict(young, policy) is Verdict.INSUFFICIENT


def test_silence_is_not_idleness(policy: Policy, asleep: Facts) -> None:
    """A VM that slept and then fell silent has insufficient data."""
    late = judge(asleep, policy, Settings(), now_s=float(asleep.newest_s[0]) + 86_400)
    assert late.cause(0).verdict is Verdict.INSUFFICIENT


def without_columns(facts: Facts) -> Facts:
    windows = {
        days: WindowFacts(
            start_s=window.start_s,
            end_s=window.end_s,
            covered_s=window.covered_s,
            users_s=window.users_s,
            columns={name: np.full(len(facts), np.nan) for name in window.columns},
        )
        for days, window in facts.windows.items()
    }
    return replace(facts, windows=windows)


def test_nothing_known_is_not_idle(policy: Policy, asleep: Facts) -> None:
    """With full coverage but neither statistics nor histograms a VM is never idle."""
    unknown = replace(without_columns(asleep), evidence=Evidence.decode([None]))
    assert verdict(unknown, policy) is not Verdict.IDLE


def test_without_histograms_columns_decide(policy: Policy, asleep: Facts) -> None:
    """A damaged blob leaves a VM idle only where columns alone say so; whoever needs the blob does not."""
    damaged = replace(asleep, evidence=Evidence.decode([b"damaged"]))
    answer = policy.idle_when.answer(damaged, 14)
    needed = [rule for rule in policy.rules() if not rule.optional]
    all_known = all(not np.isnan(rule.measure.values(damaged, 14)).any() for rule in needed)
    if all_known:
        assert verdict(damaged, policy) is Verdict.IDLE
    elif not answer.holds[0]:
        assert judged(damaged, policy).cause(0).verdict is Verdict.INSUFFICIENT


@pytest.fixture(scope="module")
def many() -> Sequence[Recording]:
    """VMs of every kind: levels of CPU and traffic, short lives, figures that were not measured."""
    draw = np.random.default_rng(7)
    found = [vm("asleep", 0.0, ASLEEP), vm("busy", 0.9, BUSY), vm("young", 0.0, ASLEEP, samples=96)]
    for number in range(15):
        level = 10.0 ** draw.uniform(-4, 0)
        cpu = np.clip(level * draw.lognormal(0, 1, SAMPLES), 0, 1)
        extra: Any = ASLEEP if number % 3 else {"net_rx": 10.0 ** draw.uniform(1, 6), "net_tx": 100.0}
        found.append(recording(f"vm-{number}", cpu, **extra))
    return found


@pytest.fixture(scope="module")
def many_facts(many: Sequence[Recording]) -> Facts:
    return facts_of(many, WINDOWS_DAYS)


def assert_same(first: Judged, second: Judged) -> None:
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.score, second.score)
    np.testing.assert_array_equal(first.confidence_ratio, second.confidence_ratio)
    for ours, theirs in zip(first.freed, second.freed, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_facts_get_the_same_verdicts(policy: Policy, many: Sequence[Recording], many_facts: Facts) -> None:
    """Asked twice, of facts made twice, a policy says the same."""
    assert_same(judged(many_facts, policy), judged(facts_of(many, WINDOWS_DAYS), policy))


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(18)))
def test_the_order_of_vms_does_not_matter(many: Sequence[Recording], many_facts: Facts, order: list[int]) -> None:
    """Wherever a VM stands among others, its verdict is the same, by every policy."""
    mixed = facts_of([many[place] for place in order], WINDOWS_DAYS)
    for policy in POLICIES.values():
        expected, found = judged(many_facts, policy), judged(mixed, policy)
        np.testing.assert_array_equal(expected.codes[order], found.codes)
        np.testing.assert_array_equal(expected.score[order], found.score)


def test_one_vm_at_a_time_is_as_all_at_once(policy: Policy, many: Sequence[Recording], many_facts: Facts) -> None:
    """There is one way to judge, for a page as for a fleet."""
    expected = judged(many_facts, policy)
    now_s = float(np.nanmax(many_facts.newest_s))
    for row, one in enumerate(many):
        alone = judge(facts_of([one], WINDOWS_DAYS), policy, Settings(), now_s=now_s)
        assert alone.codes[0] == expected.codes[row]
        assert alone.score[0] == expected.score[row]


def test_names_say_nothing(policy: Policy, many: Sequence[Recording], many_facts: Facts) -> None:
    """VMs under other names get the same verdicts."""
    renamed = facts_of([replace(one, vm=f"x{place}") for place, one in enumerate(many)], WINDOWS_DAYS)
    assert_same(judged(many_facts, policy), judged(renamed, policy))


def test_ours_are_all_stops_of_the_dial() -> None:
    """Each strictness is a policy, and the default one of them."""
    assert [f"fallow-{name}" for name in STRICTNESS] == OURS
    assert DEFAULT_POLICY in OURS
    assert {"cautious", "balanced", "bold"} <= set(STRICTNESS)


@pytest.mark.parametrize("name", ["", "aws ", "AWS", "fallow-timid", None, 3])
def test_an_unknown_name_is_answered_with_those_that_exist(name: object) -> None:
    """The error lists what could have been meant."""
    with pytest.raises(ValueError, match=r"fallow-balanced.*google"):
        find_policy(name)
