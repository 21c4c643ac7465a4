"""What verdicts were worth: the definitions by hand, and a bound that nobody beats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.verdict_outcomes import Clairvoyant, LaterUse, Stakes, Worth, beaten_by, later_use, points_needed, worth_of
from reports.recorded import table_of
from tests.reports.recordings import DAY_S, GIB, START_S, recording

FLOATS = st.floats(0.01, 100)
# A use too small for a float to keep its digits is none.
SHARES = st.just(0.0) | st.floats(1e-9, 1)


def stakes(rows: list[tuple[float, float]]) -> Stakes:
    """VMs by vCPU-hours and share of them used later."""
    vcpu_h = np.array([freed for freed, _ in rows])
    cpu_h = np.array([freed * used for freed, used in rows])
    return Stakes(vcpu_h=vcpu_h, gib_h=2 * vcpu_h, cpu_h=cpu_h, woke=np.array([used > 0.5 for _, used in rows]))


def worth(freed_vcpu_h: float, regret_ratio: float | None) -> Worth:
    return Worth(idle=1, freed_vcpu_h=freed_vcpu_h, freed_gib_h=0.0, regret_ratio=regret_ratio, woken_ratio=0.0)


def test_later_use_by_hand() -> None:
    """CPU-hours are share x vCPUs at that time x interval, and the hours are those that samples cover."""
    cpu = [0.5, 0.5, 0.1, 0.1]
    table = table_of(recording("vm", cpu, cpu_count=[2, 2, 4, 4]))
    found = later_use(table, START_S)
    assert (found.covered_h, found.woke) == (2.0, False)
    assert found.cpu_h == pytest.approx(0.5 * 2 * 1.0 + 0.1 * 4 * 1.0)


def test_a_sample_without_cpu_is_neither_use_nor_covered() -> None:
    """What was not measured counts as not seen."""
    found = later_use(table_of(recording("vm", [0.5, math.nan, 0.5, math.nan])), START_S)
    assert found.covered_h == 1.0
    assert found.cpu_h == pytest.approx(0.5 * 2 * 1.0)


@pytest.mark.parametrize(
    ("cpu", "first_day", "woke"),
    [
        pytest.param([0.21] * 3, 0, True, id="three samples above 20 %"),
        pytest.param([0.21] * 2 + [0.2], 0, False, id="20 % itself is not above"),
        pytest.param([0.9] * 2, 0, False, id="two are too few"),
        pytest.param([0.9] * 3, 7, False, id="after more than seven days"),
        pytest.param([0.9] * 3, 6, True, id="on the seventh day"),
    ],
)
def test_woken_by_hand(cpu: list[float], first_day: int, woke: bool) -> None:
    """At least three samples above 20 % within seven days of the end of the judged part."""
    table = table_of(recording("vm", [*cpu, 0.0], start_s=START_S + first_day * DAY_S))
    assert later_use(table, START_S).woke is woke


def test_worth_by_hand() -> None:
    """Freed is size x covered hours, regret is used over freed, woken a share of the VMs called idle."""
    uses = [LaterUse(covered_h=10, cpu_h=1.0, woke=True), LaterUse(covered_h=20, cpu_h=30.0, woke=False)]
    uses.append(LaterUse(covered_h=5, cpu_h=0.5, woke=False))
    found = Stakes.of(uses, np.array([2.0, 4.0, 1.0]), np.array([4.0, 8.0, 1.0]) * GIB)
    assert worth_of(found, np.array([True, False, True])) == Worth(
        idle=2, freed_vcpu_h=25.0, freed_gib_h=45.0, regret_ratio=1.5 / 25, woken_ratio=0.5
    )


def test_who_frees_nothing_has_no_regret() -> None:
    """Neither a share of nothing nor zero, which would be the best there is."""
    found = worth_of(stakes([(1.0, 0.5)]), np.array([False]))
    assert (found.idle, found.regret_ratio, found.woken_ratio) == (0, None, None)


def test_a_vm_of_unknown_size_frees_nothing() -> None:
    """What is not known is not promised."""
    found = Stakes.of([LaterUse(covered_h=10, cpu_h=0.0, woke=False)], np.array([np.nan]), np.array([np.nan]))
    assert worth_of(found, np.array([True])).freed_vcpu_h == 0


@pytest.mark.parametrize(
    ("ours", "theirs", "beats"),
    [
        ((10, 0.1), (10, 0.1), True),
        ((11, 0.1), (10, 0.1), True),
        ((10, 0.09), (10, 0.1), True),
        ((9.9, 0.01), (10, 0.1), False),
        ((11, 0.11), (10, 0.1), False),
        ((1, 0.5), (0, None), True),
        ((0, None), (10, 0.1), False),
    ],
)
def test_beating_is_at_least_as_much_at_no_more_regret(
    ours: tuple[float, float | None], theirs: tuple[float, float | None], beats: bool
) -> None:
    """Both at once; who frees nothing is beaten by whoever frees something."""
    assert worth(*ours).beats(worth(*theirs)) is beats


def test_beaten_by_names_ours_in_their_order() -> None:
    """All of ours that do, and nobody else."""
    worths = {"a": worth(10, 0.1), "b": worth(5, 0.1), "c": worth(20, 0.05), "other": worth(10, 0.1)}
    assert beaten_by(worths, ["a", "b", "c"], "other") == ("a", "c")


def test_the_clairvoyant_by_hand() -> None:
    """Least used first; the last one in part, so far as the regret allows."""
    clairvoyant = Clairvoyant(stakes([(10, 0.3), (10, 0.0), (10, 0.1)]))
    assert clairvoyant.most_freed_vcpu_h(0.0) == pytest.approx(10)
    assert clairvoyant.most_freed_vcpu_h(0.05) == pytest.approx(20)
    assert clairvoyant.most_freed_vcpu_h(0.1) == pytest.approx(25)
    assert clairvoyant.most_freed_vcpu_h(1.0) == pytest.approx(30)
    assert clairvoyant.least_regret_ratio(10) == pytest.approx(0.0)
    assert clairvoyant.least_regret_ratio(15) == pytest.approx(0.5 / 15)
    assert clairvoyant.least_regret_ratio(30) == pytest.approx(4.0 / 30)
    assert math.isnan(clairvoyant.least_regret_ratio(31))
    assert math.isnan(clairvoyant.least_regret_ratio(0))


@given(st.lists(st.tuples(FLOATS, SHARES), min_size=1, max_size=12), st.data())
def test_nobody_beats_the_clairvoyant(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    """Whichever VMs are chosen: no more could be freed at their regret, and no less regretted at their hours."""
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    found = stakes(rows)
    some = worth_of(found, chosen)
    if some.regret_ratio is None:
        return
    clairvoyant = Clairvoyant(found)
    # A regret next to nothing is rounded away where much is freed: it is allowed that much more.
    allowed_ratio = some.regret_ratio * (1 + 1e-9) + 1e-12
    assert clairvoyant.most_freed_vcpu_h(allowed_ratio) >= some.freed_vcpu_h * (1 - 1e-9)
    assert clairvoyant.least_regret_ratio(some.freed_vcpu_h) <= some.regret_ratio * (1 + 1e-9) + 1e-12


@given(st.lists(st.tuples(FLOATS, SHARES), min_size=1, max_size=12), st.floats(0, 1))
def test_the_clairvoyant_keeps_to_the_regret(rows: list[tuple[float, float]], regret: float) -> None:
    """What it frees at a regret can be freed at that regret: its two answers agree."""
    clairvoyant = Clairvoyant(stakes(rows))
    freed = clairvoyant.most_freed_vcpu_h(regret)
    if freed > 0:
        assert clairvoyant.least_regret_ratio(freed) <= regret * (1 + 1e-6) + 1e-9


def test_points_needed_by_hand() -> None:
    """One choice beats several where it frees enough within the least regret of theirs."""
    clairvoyant = Clairvoyant(stakes([(10, 0.0), (10, 0.1), (10, 0.3)]))
    near = [worth(8, 0.01), worth(10, 0.2), worth(9, 0.3)]
    assert points_needed(near, clairvoyant) == 1
    assert points_needed([*near, worth(20, 0.06)], clairvoyant) == 2
    assert points_needed([*near, worth(20, 0.06), worth(30, 0.14), worth(0, None)], clairvoyant) == 3
    assert points_needed([], clairvoyant) == 0
