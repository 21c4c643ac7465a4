"""What must hold of every verdict, whatever the VM: found by Hypothesis on samples that go the aggregator's way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.traces import read_trace
from aggregator.histogram import Ints
from aggregator.rollup import ABSENT
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.windows import Windows
from reports.facts import Facts, Vm
from reports.fallow_policy import STRICTNESS
from reports.policies import POLICIES
from reports.policy import Policy
from reports.published import PUBLISHED
from reports.recorded import adapt, between, join, record, recorded_vms, table_of, unrecorded
from reports.verdicts import Cause, Judged, Limits, Settings, Verdict, judge
from tests.reports.recordings import DAY_S, START_S, recording
from tests.traces import trace

DAYS = (1, 3, 7, 14)
SAMPLES = 14 * 24  # one an hour
# Columns that show use: more of any is more use.
USE = ("cpu_busy", "cpu_max", "disk_read", "disk_write", "net_rx", "net_tx", "users")
_LARGEST = {"cpu_busy": 100_000, "cpu_max": 100_000, "users": 20}
_RATE = 20_000_000
# Levels around the limits of the policies, so that many VMs stand near one.
_LEVELS = {
    "cpu_busy": (0, 20, 50, 300, 600, 1_400, 2_000, 2_900, 3_000, 4_900, 5_000, 9_000, 60_000),
    "cpu_max": (0, 2_900, 4_900, 30_000, 50_000, 85_000),
    "users": (0, 0, 0, 1),
}
_RATES = (0, 20, 450, 900, 1_900, 9_000, 90_000, 190_000, 2_400_000)


def column(name: str) -> int:
    return SAMPLE_COLUMNS.index(name)


def facts_of_tables(tables: Sequence[Ints]) -> Facts:
    return join([record(Vm(vm_id=f"vm-{number}"), table, DAYS) for number, table in enumerate(tables)])


def at_the_end(facts: Facts, policy: Policy, days: int) -> Judged:
    """Judged when the last of them ends, which for nobody is a silence."""
    settings = Settings(window_days=days, limits=Limits(silent_after_s=math.inf))
    return judge(facts, policy, settings, now_s=float(np.nanmax(facts.newest_s, initial=0.0)))


def verdicts(facts: Facts, policy: Policy, days: int = 14) -> list[Verdict]:
    judged = at_the_end(facts, policy, days)
    return [judged.cause(row).verdict for row in range(len(facts))]


@st.composite
def tables(draw: st.DrawFn) -> Ints:
    """Two weeks of hours of one VM: a usual level of each figure, and some hours at others."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    odd_ratio = draw(st.sampled_from([0.0, 0.02, 0.06, 0.5]))
    table = table_of(recording("vm", np.zeros(SAMPLES), interval_s=3600, start_s=START_S)).copy()
    table[:, column("cpu_count")] = draw(st.sampled_from([1, 2, 16]))
    table[:, column("disk_total")] = 40_000
    table[:, column("disk_used")] = draw(st.sampled_from([800, 12_000]))
    table[:, column("mem_used")] = table[0, column("mem_total")] // draw(st.sampled_from([2, 12, 40]))
    for name in USE:
        if name != "cpu_busy" and draw(st.booleans()):
            continue
        levels = _LEVELS.get(name, _RATES)
        usual = draw(st.sampled_from(levels))
        odd = random.choice(levels, SAMPLES)
        table[:, column(name)] = np.where(random.random(SAMPLES) < odd_ratio, odd, usual)
    return table


@st.composite
def raised(draw: st.DrawFn) -> tuple[Ints, Ints]:
    """A VM, and the same with more of some figures at some hours."""
    before = draw(tables())
    after = before.copy()
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for name in draw(st.lists(st.sampled_from(USE), min_size=1, unique=True)):
        values = after[:, column(name)]
        largest = _LARGEST.get(name, _RATE)
        hit = (random.random(SAMPLES) < draw(st.sampled_from([0.01, 0.1, 1.0]))) & (values != ABSENT)
        more = random.integers(0, draw(st.sampled_from([2, 50, 1_000, largest])), SAMPLES)
        after[:, column(name)] = np.where(hit, np.minimum(values + more, largest), values)
    return before, after


@settings(max_examples=80, deadline=None)
@given(raised())
def test_more_use_never_makes_a_vm_more_idle(both: tuple[Ints, Ints]) -> None:
    """More CPU, disk, network or logins at any hours never turn a VM that is not idle into one that is."""
    facts = facts_of_tables(both)
    for policy in POLICIES.values():
        for days in (1, 7, 14):
            before, after = verdicts(facts, policy, days)
            assert not (after is Verdict.IDLE and before is not Verdict.IDLE), (policy.name, days)


@settings(max_examples=50, deadline=None)
@given(raised())
def test_more_use_never_lowers_a_figure(both: tuple[Ints, Ints]) -> None:
    """Means, maxima and percentiles read from columns or histograms follow use upwards, bins or not."""
    facts = facts_of_tables(both)
    measures = {rule.measure.resolved(14) for policy in POLICIES.values() for rule in policy.rules()}
    for measure in measures:
        before, after = measure.values(facts, 14)
        assert np.isnan(before) == np.isnan(after)
        assert not after < before - 1e-9 * abs(before), measure.name


@settings(max_examples=50, deadline=None)
@given(table=tables(), share=st.floats(0.01, 0.9), seed=st.integers(0, 2**32 - 1))
def test_a_missing_sample_is_never_zero_use(table: Ints, share: float, seed: int) -> None:
    """Gaps leave the figures of what remains and less coverage; zeros in their place lower means and full cover."""
    hit = np.random.default_rng(seed).random(SAMPLES) < share
    hit[0] = hit[-1] = False  # the window keeps its ends
    gappy, zeroed = table[~hit], table.copy()
    for name in USE:
        zeroed[hit, column(name)] = np.where(table[hit, column(name)] == ABSENT, ABSENT, 0)
    facts = facts_of_tables([table, gappy, zeroed])
    window = facts.windows[14]
    assert window.covered_s[1] == (SAMPLES - hit.sum()) * 3600
    assert window.covered_s[2] == window.covered_s[0] == SAMPLES * 3600
    for name, unit, quantum in (("cpu_busy", "ratio", 1e-5), ("net_rx", "bytes_per_s", 1.0)):
        remaining = table[~hit, column(name)]
        if (remaining == ABSENT).any():
            continue
        _, of_gaps, of_zeros = window.columns[f"{name}_mean_{unit}"]
        assert of_gaps == pytest.approx(remaining.mean() * quantum, rel=1e-6, abs=1e-9)
        if hit.any() and remaining.any():
            assert of_zeros < of_gaps
        assert window.columns[f"{name}_max_{unit}"][1] == pytest.approx(remaining.max() * quantum)


@settings(max_examples=30, deadline=None)
@given(table=tables(), share=st.floats(0.06, 1.0), seed=st.integers(0, 2**32 - 1))
def test_too_few_samples_are_never_idleness(table: Ints, share: float, seed: int) -> None:
    """A VM of which more than a twentieth is missing has insufficient data, however quiet the rest, by every policy."""
    missing = np.random.default_rng(seed).permutation(np.arange(1, SAMPLES - 1))[: int(share * SAMPLES)]
    facts = facts_of_tables([np.delete(table, missing, axis=0)])
    for policy in POLICIES.values():
        assert verdicts(facts, policy) == [Verdict.INSUFFICIENT], policy.name


@settings(max_examples=30, deadline=None)
@given(table=tables(), name=st.sampled_from(["disk_read", "disk_write", "net_rx", "net_tx"]))
def test_a_figure_that_was_never_measured_is_never_zero(table: Ints, name: str) -> None:
    """A published rule that says idle without a column says so whatever stands there: what it needs it waits for."""
    absent, busy = table.copy(), table.copy()
    absent[:, column(name)] = ABSENT
    busy[:, column(name)] = _RATE
    facts = facts_of_tables([absent, busy])
    for policy in (make() for make in PUBLISHED):
        without, with_much = verdicts(facts, policy)
        assert not (without is Verdict.IDLE and with_much is not Verdict.IDLE), policy.name


def sums(table: Ints, days: tuple[int, ...]) -> Windows:
    return Windows.decode(record(Vm(vm_id="vm"), table, days).evidence)


@settings(max_examples=30, deadline=None)
@given(table=tables(), week=st.just(7))
def test_windows_compose(table: Ints, week: int) -> None:
    """Totals, histograms, profile and days of two adjacent weeks add up to those of both; maxima are the larger."""
    first = between(table, 0, START_S + week * DAY_S)
    second = between(table, START_S + week * DAY_S, np.inf)
    a, b, whole = sums(first, (week,)), sums(second, (week,)), sums(table, (2 * week,))
    np.testing.assert_array_equal(a.totals + b.totals, whole.totals)
    np.testing.assert_array_equal(a.counts + b.counts, whole.counts)
    np.testing.assert_array_equal(np.maximum(a.maxima, b.maxima), whole.maxima)
    np.testing.assert_array_equal(a.profile_s + b.profile_s, whole.profile_s)
    np.testing.assert_array_equal(a.profile_cpu + b.profile_cpu, whole.profile_cpu)
    assert {**a.daily, **b.daily} == whole.daily


def test_the_first_window_of_a_longer_history_is_not_disturbed() -> None:
    """The last week of two has the same sums as that week alone."""
    table = table_of(recording("vm", np.random.default_rng(1).random(SAMPLES), interval_s=3600, net_rx=7.0))
    second = between(table, START_S + 7 * DAY_S, np.inf)
    alone, of_both = sums(second, (7,)), sums(table, (7,))
    np.testing.assert_array_equal(alone.totals, of_both.totals)
    np.testing.assert_array_equal(alone.counts, of_both.counts)
    np.testing.assert_array_equal(alone.maxima, of_both.maxima)


# From the strictest on; `keen` looks elsewhere than `balanced` and `ready`.
NESTED = [
    (inner, outer)
    for chain in (
        ("cautious", "careful", "steady", "balanced", "ready", "bold"),
        ("cautious", "careful", "steady", "keen", "bold"),
    )
    for inner, outer in combinations(chain, 2)
]


def assert_nested(facts: Facts, policies: dict[str, Policy], days: int) -> None:
    idle = {name: at_the_end(facts, policies[f"fallow-{name}"], days).of(Cause.IDLE) for name in STRICTNESS}
    for inner, outer in NESTED:
        assert not (idle[inner] & ~idle[outer]).any(), (inner, outer)


def test_every_strictness_stands_in_the_order() -> None:
    """Who adds a stop to the dial says where it is nested."""
    assert {name for both in NESTED for name in both} == set(STRICTNESS)


@settings(max_examples=50, deadline=None)
@given(st.lists(tables(), min_size=1, max_size=3), st.sampled_from([7, 14]))
def test_a_bolder_strictness_holds_what_a_stricter_one_holds(found: list[Ints], days: int) -> None:
    """Turning the dial adds VMs and takes none away."""
    assert_nested(facts_of_tables(found), dict(POLICIES), days)


def test_strictness_is_nested_on_real_vms() -> None:
    """So it is on a month of real VMs, whatever figures they lack."""
    vms = list(recorded_vms(read_trace(trace("bitbrains/raw-sample-4vms.tar.xz")), DAYS))
    missing = unrecorded(vms)
    adapted = {name: found.policy for name, policy in POLICIES.items() if (found := adapt(policy, missing))}
    assert_nested(join(vms), adapted, 14)
