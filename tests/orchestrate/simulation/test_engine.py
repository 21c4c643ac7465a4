"""Runs over parks of a few hosts, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrate.simulation.engine import Result, simulate
from orchestrate.simulation.park import Park
from orchestrate.simulation.policy import GONE, CannotPlace, Mode, Policy
from tests.orchestrate.simulation.parks import Scripted, load, park, steady

JOULES = 3.6e6
REFERENCE, HONEST = Mode.REFERENCE, Mode.HONEST


def joules(result: Result) -> float:
    return result.totals.energy_kwh * JOULES


def test_reference_pays_from_the_first_tick_to_the_last_event() -> None:
    """Half a host for one interval: 150 W from 300.1 to 600.1 s, nothing before and nothing after."""
    result = simulate(park([1000], [1000]), steady([0.5]), Scripted([0]), mode=REFERENCE)
    assert joules(result) == pytest.approx(150 * 300)
    assert result.totals.mean_active_hosts == pytest.approx(300 / 600.1)


def test_honest_pays_from_the_first_second_to_the_last() -> None:
    """Three samples are 900 s, and all of them cost."""
    result = simulate(park([1000], [1000]), steady([0.5]), Scripted([0]), mode=HONEST)
    assert joules(result) == pytest.approx(150 * 900)
    assert result.totals.mean_active_hosts == 1.0


def test_energy_is_the_mean_of_both_ends() -> None:
    """Load that rises from 20 % to 60 % costs what 40 % would."""
    result = simulate(park([1000], [1000]), load([0.0], [0.2], [0.6]), Scripted([0]), mode=HONEST)
    assert joules(result) == pytest.approx((100 + 120) / 2 * 300 + (120 + 160) / 2 * 300 + 160 * 300)


def test_a_host_without_load_is_off_in_reference_and_idles_in_honest_mode() -> None:
    """A VM that asks for nothing costs nothing in the published model, and 100 W in ours."""
    made = park([1000], [1000])
    assert joules(simulate(made, steady([0.0]), Scripted([0]), mode=REFERENCE)) == 0
    assert joules(simulate(made, steady([0.0]), Scripted([0]), mode=HONEST)) == pytest.approx(100 * 900)


def test_a_migration_counts_on_both_hosts() -> None:
    """For 10 s the VM loses a tenth, the source stays as busy, the target spends a tenth; then all moves."""
    result = simulate(park([1000, 1000], [1000]), steady([0.5]), Scripted([0], {1: [(0, 1)]}), mode=REFERENCE)
    totals = result.totals
    assert joules(result) == pytest.approx(10 * (150 + 105) + 290 * 150)
    assert totals.pdm_ratio == pytest.approx(50 * 10 / (500 * 300))
    assert totals.unserved_ratio == totals.pdm_ratio
    assert totals.slatah_tolerant_ratio == pytest.approx(10 / (10 + 300))
    assert totals.slatah_overload_ratio == 0
    assert totals.esv_kwh == pytest.approx(totals.energy_kwh * totals.slatah_ratio * totals.pdm_ratio)
    assert totals.shutdowns == 1
    assert totals.mean_time_to_shutdown_s == pytest.approx(310.1)
    assert result.migrations == 1
    assert [tick.migrations for tick in result.ticks] == [1, 0]


def test_a_host_that_is_off_at_first_counts_as_switched_off_as_published() -> None:
    """The published count begins with all hosts on; ours with what is."""
    made = park([1000, 1000], [1000])
    assert simulate(made, steady([0.5]), Scripted([0]), mode=REFERENCE).totals.shutdowns == 1
    assert simulate(made, steady([0.5]), Scripted([0]), mode=HONEST).totals.shutdowns == 0


def test_waking_takes_time_and_power_in_honest_mode() -> None:
    """The target boots for 120 s at full power while the VM runs on undisturbed; then the migration begins."""
    result = simulate(park([1000, 1000], [1000]), steady([0.5]), Scripted([0], {1: [(0, 1)]}), mode=HONEST)
    source, target = 150 * 430, 200 * 120 + 105 * 10 + 150 * 470
    assert joules(result) == pytest.approx(source + target)
    assert (result.woken, result.migrations, result.refused) == (1, 1, 0)
    assert result.totals.pdm_ratio == pytest.approx(50 * 10 / (500 * 900))


def test_two_vms_wake_a_host_once() -> None:
    """The second move to a host that boots waits for the same boot."""
    made = park([1000, 1000, 1000], [1000, 1000])
    result = simulate(made, steady([0.5, 0.5]), Scripted([0, 1], {1: [(0, 2), (1, 2)]}), mode=HONEST)
    assert (result.woken, result.migrations) == (1, 2)


def test_memory_binds_in_honest_mode_alone() -> None:
    """A move to a host without room is refused and counted, and the VM stays; the published model lets it."""
    made = park([1000, 1000], [1000, 1000], host_ram_mb=1000)
    moves = {1: [(0, 1)]}
    honest = Scripted([0, 1], moves)
    result = simulate(made, steady([0.2, 0.2]), honest, mode=HONEST)
    assert (result.refused, result.migrations) == (1, 0)
    assert honest.views[1].host_of.tolist() == [0, 1]
    reference = Scripted([0, 1], moves)
    assert simulate(made, steady([0.2, 0.2]), reference, mode=REFERENCE).migrations == 1
    assert reference.views[1].host_of.tolist() == [1, 1]


def test_memory_is_promised_once() -> None:
    """Room for one VM is not given to two in one plan, not even while the host boots."""
    made = park([1000, 1000, 1000], [1000, 1000], host_ram_mb=1000)
    result = simulate(made, steady([0.2, 0.2]), Scripted([0, 1], {1: [(0, 2), (1, 2)]}), mode=HONEST)
    assert (result.migrations, result.refused) == (1, 1)


def test_memory_counts_on_both_hosts_until_the_migration_is_over() -> None:
    """A swap finds no room; one after the other does."""
    made = park([1000, 1000, 1000], [1000, 1000], host_ram_mb=1000)
    swap = Scripted([0, 1], {1: [(0, 1), (1, 0)]})
    assert simulate(made, steady([0.2, 0.2]), swap, mode=HONEST).refused == 2
    turn = Scripted([0, 1], {1: [(0, 2)], 2: [(1, 0)]})
    assert simulate(made, steady([0.2, 0.2]), turn, mode=HONEST).refused == 0


def test_a_start_beyond_the_memory_is_an_error_in_honest_mode() -> None:
    """Two VMs of 625 MB do not start on a host of 1000 MB."""
    made = park([1000], [1000, 1000], host_ram_mb=1000)
    with pytest.raises(CannotPlace, match="host 0"):
        simulate(made, steady([0.1, 0.1]), Scripted([0, 0]), mode=HONEST)


def test_a_vm_planned_twice_ends_on_its_last_target_as_published() -> None:
    """Both moves count and both targets spend a tenth; in honest mode the second one is refused."""
    made = park([1000, 1000, 1000], [1000])
    twice = Scripted([0], {1: [(0, 1), (0, 2)]})
    result = simulate(made, steady([0.5]), twice, mode=REFERENCE)
    assert result.migrations == 2
    assert [tick.active_hosts for tick in result.ticks] == [3, 1]
    assert twice.views[1].vms_on == ((), (), (0,))
    once = Scripted([0], {1: [(0, 1), (0, 2)]})
    honest = simulate(made, steady([0.5]), once, mode=HONEST)
    assert (honest.migrations, honest.refused) == (1, 1)
    assert once.views[1].vms_on == ((), (0,), ())


def test_a_migration_may_outlast_a_tick() -> None:
    """25 GB take 400 s: at the next tick the VM is in flight, on both hosts, and cannot be moved."""
    made = park([1000, 1000], [1000], host_ram_mb=100_000, ram_mb=25_000)
    policy = Scripted([0], {1: [(0, 1)], 2: [(0, 0), (0, 1)]})
    result = simulate(made, steady([0.5], samples=5), policy, mode=REFERENCE)
    assert dict(policy.views[1].flying) == {0: 1}
    assert policy.views[1].vms_on == ((0,), (0,))
    assert policy.views[1].allocated_mips[1] == pytest.approx(500)
    assert dict(policy.views[2].flying) == {}
    assert (result.migrations, result.refused) == (1, 2)


def test_vms_arrive_in_the_order_of_time_then_of_the_plan() -> None:
    """The smaller VM overtakes; equals keep the order of the plan; residents come first."""
    made = park([4000, 4000], [1000] * 4, ram_mb=[625, 1250, 625, 625])
    policy = Scripted([0, 0, 0, 1], {1: [(1, 1), (2, 1), (0, 1)]})
    simulate(made, steady([0.1] * 4), policy, mode=REFERENCE)
    assert policy.views[1].vms_on == ((), (3, 2, 0, 1))


def test_idle_vms_leave_only_where_asked_and_not_for_one_zero() -> None:
    """At ticks a tenth of a second late, two zeros in a row make a VM leave; one alone does not."""
    made, zeros = park([1000, 1000], [1000, 1000]), load([0.5, 0.5], [0, 0], [0, 0.5], [0, 0.5])
    kept, dropped = Scripted([0, 1]), Scripted([0, 1])
    assert simulate(made, zeros, kept, mode=REFERENCE).departed == 0
    assert simulate(made, zeros, dropped, mode=REFERENCE, drop_idle=True).departed == 1
    assert kept.views[-1].host_of.tolist() == [0, 1]
    assert dropped.views[-1].host_of.tolist() == [GONE, 1]
    assert dropped.views[-1].vms_on == ((), (1,))


def test_a_vm_that_left_asks_for_nothing_again() -> None:
    """Load after its departure is nobody's, and it cannot be moved."""
    made = park([1000, 1000], [1000])
    policy = Scripted([0], {2: [(0, 1)]})
    result = simulate(made, load([0.5], [0], [0], [0.9], [0.9]), policy, mode=REFERENCE, drop_idle=True)
    assert joules(result) == 0
    assert policy.views[-1].demand_mips.tolist() == [0]
    assert (result.migrations, result.refused) == (0, 1)


def test_a_policy_sees_the_past_alone() -> None:
    """Whatever comes later, the views of an honest run are the same until then."""

    def views(last: float) -> list[object]:
        policy = Scripted([0, 0])
        simulate(park([1000], [500, 500]), load([0.1, 0], [0.2, 0], [last, last]), policy, mode=HONEST)
        first = policy.views[0]
        return [
            first.samples.tolist(),
            first.history.tolist(),
            first.used_ratio.tolist(),
            first.demand_mips.tolist(),
            first.needed_mips.tolist(),
        ]

    assert views(0.0) == views(1.0)
    assert views(0.0)[0] == [[0.2, 0], [0.1, 0]]
    assert views(0.0)[1] == [[0.2, 0]]


def test_a_view_cannot_be_written_nor_reach_ahead() -> None:
    """Arrays refuse to be changed, and what lies behind them is empty where the future will be."""
    policy = Scripted([0])
    simulate(park([1000], [1000]), steady([0.5], samples=6), policy, mode=HONEST)
    first = policy.views[0]
    with pytest.raises(ValueError, match="read-only"):
        first.used_ratio[0] = 0.0
    with pytest.raises(ValueError, match="read-only"):
        first.park.hosts.mips[0] = 0.0

    class Peeking(Scripted):
        def decide(self, view, /):  # type: ignore[no-untyped-def]
            base = view.samples.base
            while base.base is not None:
                base = base.base
            assert not np.any(base[view.tick + 1 :])
            return ()

    simulate(park([1000], [1000]), steady([0.5], samples=6), Peeking([0]), mode=HONEST)


@pytest.mark.parametrize("move", [(1, 0), (0, 2), (-1, 0), (0, -1)])
def test_a_move_of_what_is_not_there_is_a_mistake(move: tuple[int, int]) -> None:
    """A policy that names no VM or no host is broken, and that is not counted but raised."""
    with pytest.raises(ValueError, match="no such"):
        simulate(park([1000, 1000], [1000]), steady([0.5]), Scripted([0], {1: [move]}), mode=HONEST)


@pytest.mark.parametrize(
    ("made", "policy"),
    [(park([1000], [1000, 1000]), Scripted([0, 0])), (park([1000], [1000]), Scripted([1]))],
)
def test_what_does_not_belong_together_is_refused(made: Park, policy: Policy) -> None:
    """Load of one VM for two, and a start on a host that is not there."""
    with pytest.raises(ValueError, match="VM"):
        simulate(made, steady([0.5]), policy, mode=REFERENCE)


def test_one_sample_is_no_run() -> None:
    """Without a second sample there is nothing to decide."""
    with pytest.raises(ValueError, match="2 samples"):
        simulate(park([1000], [1000]), steady([0.5], samples=1), Scripted([0]), mode=REFERENCE)


def test_progress_is_told_tick_by_tick() -> None:
    """Each tick once, of all."""
    told: list[tuple[int, int]] = []
    simulate(
        park([1000], [1000]),
        steady([0.5], samples=4),
        Scripted([0]),
        mode=HONEST,
        progress=lambda done, ticks: told.append((done, ticks)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
