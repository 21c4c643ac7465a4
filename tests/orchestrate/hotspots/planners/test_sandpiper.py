"""Sandpiper's planner: the published check figures, its order, its exchange, and doing nothing where nothing helps."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrate.hotspots.planners.sandpiper import SandpiperPlanner
from orchestrate.hotspots.planners.situation import PlannerSettings, volume, volume_to_size
from tests.orchestrate.hotspots.hot_fleets import GIB, Guest, host_of, hosts, site, situation

MIB = 2**20


def test_check_figures_exactly() -> None:
    """Volumes and volume-to-size ratios of the published example; B moves first."""
    assert volume(np.array([0.9, 0.2, 0.5])) == pytest.approx(25.0, rel=1e-12)
    assert volume(np.array([0.3, 0.1, 0.4])) == pytest.approx(2.646, abs=5e-4)
    a, b = np.array([0.5, 0.1, 0.3]), np.array([0.3, 0.1, 0.3])
    assert volume(a) == pytest.approx(3.175, abs=5e-4)
    assert volume(b) == pytest.approx(2.268, abs=5e-4)
    ratio_a, ratio_b = volume_to_size(a, np.array(512.0 * MIB)), volume_to_size(b, np.array(256.0 * MIB))
    assert ratio_a == pytest.approx(0.00620, abs=5e-6)
    assert ratio_b == pytest.approx(0.00886, abs=5e-6)
    assert ratio_b > ratio_a


def test_one_saturated_resource_hides_in_a_volume() -> None:
    """The known flaw is there, so that volume must never decide what fits; a full host's volume is finite."""
    assert volume(np.array([0.98, 0.2, 0.2])) == pytest.approx(78.125)
    assert volume(np.array([0.8, 0.8, 0.8])) == pytest.approx(125.0)
    assert volume(np.array([0.75, 0.75, 0.75])) == pytest.approx(64.0)
    assert np.isfinite(volume(np.array([1.0, 1.2, 1.0])))


def test_the_example_moves_b() -> None:
    """On a hot host of these two VMs, the smaller one with the larger ratio leaves, for the least loaded host."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.5, vcpus=10, mem_gib=0.5, mem_ratio=0.6),
        Guest(number=2, host="hv1", cpu=0.3, vcpus=10, mem_gib=0.25, mem_ratio=0.6),
        Guest(number=3, host="hv2", cpu=0.3, vcpus=10, mem_gib=0.25),
    ]
    made = site(guests, hosts("hv1", "hv2", "hv3", cores=10, mem_gib=0.75))
    (move,) = SandpiperPlanner().plan(situation(made)).moves
    assert made.vms[move.vm].name == "vm-2"
    assert host_of(made, move.target) == "hv3"
    assert "most volume for its size" in move.words


def test_hottest_host_first() -> None:
    """The host with the largest volume is relieved first, and takes the least loaded host."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.80, vcpus=8),
        Guest(number=2, host="hv1", cpu=0.80, vcpus=8),
        Guest(number=3, host="hv2", cpu=0.95, vcpus=8),
        Guest(number=4, host="hv2", cpu=0.95, vcpus=8),
    ]
    proposal = SandpiperPlanner().plan(situation(site(guests, hosts("hv1", "hv2", "hv3", "hv4"))))
    assert [move.source for move in proposal.moves] == [1, 0]
    assert [move.target for move in proposal.moves] == [2, 3]


def swap_fleet() -> list[Guest]:
    """hv1 is hot; its small VM fits nowhere else, unless the one of hv2 that is smaller still comes in exchange."""
    return [
        Guest(number=1, host="hv1", cpu=0.9, vcpus=10),
        Guest(number=2, host="hv1", cpu=0.8, vcpus=5),
        Guest(number=3, host="hv2", cpu=0.9, vcpus=8),
        Guest(number=4, host="hv2", cpu=0.9, vcpus=3),
        Guest(number=5, host="hv3", cpu=0.9, vcpus=12),
    ]


def test_exchange_where_no_move_helps() -> None:
    """One VM against a smaller one, by way of a third host that can hold it for a while; both ends are cool after."""
    made = site(swap_fleet())
    proposal = SandpiperPlanner().plan(situation(made))
    moves = [(made.vms[one.vm].name, host_of(made, one.source), host_of(made, one.target)) for one in proposal.moves]
    assert moves == [("vm-4", "hv2", "hv3"), ("vm-2", "hv1", "hv2"), ("vm-4", "hv3", "hv1")]
    assert not proposal.unsolved
    assert "change places by way of hv3" in proposal.moves[1].words


def test_exchanges_are_bounded() -> None:
    """Where settings allow none, the host stays hot and that is said."""
    proposal = SandpiperPlanner().plan(situation(site(swap_fleet()), PlannerSettings(max_swaps=0)))
    assert proposal.moves == ()
    assert "no move helps" in proposal.unsolved[0].words


def test_nothing_is_moved_where_nothing_helps() -> None:
    """Under overload everywhere there is no plan: a move that does not cool its host is not made either."""
    guests = [
        Guest(number=4 * place + number, host=host, cpu=0.9, vcpus=5)
        for place, host in enumerate(("hv1", "hv2", "hv3"))
        for number in range(1, 4)
    ]
    proposal = SandpiperPlanner().plan(situation(site(guests)))
    assert proposal.moves == ()
    assert len(proposal.unsolved) == 3
    # One VM would fit on hv2; the host would stay hot.
    guests = [Guest(number=each, host="hv1", cpu=1.0, vcpus=8, mem_gib=20) for each in (1, 2, 3)]
    guests.append(Guest(number=9, host="hv2", cpu=0.1, vcpus=4, mem_gib=40))
    proposal = SandpiperPlanner().plan(situation(site(guests, hosts("hv1", "hv2"), settings=None)))
    assert proposal.moves == ()


def test_vms_that_take_nothing_of_what_is_short_stay() -> None:
    """A small VM with a large ratio is not moved for a shortage that it has no part in."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.0, vcpus=1, mem_gib=0.01),
        Guest(number=2, host="hv1", cpu=0.9, vcpus=8),
        Guest(number=3, host="hv1", cpu=0.9, vcpus=8),
    ]
    made = site(guests)
    (move,) = SandpiperPlanner().plan(situation(made)).moves
    assert made.vms[move.vm].name in {"vm-2", "vm-3"}
    assert made.mem_bytes[move.vm] == 4 * GIB
