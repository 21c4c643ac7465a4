"""What every planner must keep, and the rules of each by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.hotspots.detectors import Hot, Sandpiper, StaticShares
from orchestrate.hotspots.host_loads import CPU, MEM
from orchestrate.hotspots.planners.fallow import FallowPlanner
from orchestrate.hotspots.planners.power_aware import Consolidation, PowerAwarePlanner
from orchestrate.hotspots.planners.registry import PLANNERS
from orchestrate.hotspots.planners.rooms import Rooms
from orchestrate.hotspots.planners.situation import PlannerSettings, Proposal, Situation, Transfer
from orchestrate.hotspots.planners.static_shares import StaticSharesPlanner
from orchestrate.hotspots.relief import find_hot
from tests.orchestrate.hotspots.hot_fleets import GIB, Guest, host_of, hosts, site, situation

BFD = PowerAwarePlanner(name="bfd-mmt")


def told(made: Situation, proposal: Proposal) -> list[tuple[str, str, str]]:
    """Name, source and target of each move."""
    place = made.site
    return [(place.vms[one.vm].name, host_of(place, one.source), host_of(place, one.target)) for one in proposal.moves]


GUESTS = st.lists(
    st.builds(
        lambda host, cpu, vcpus, mem_gib, mem_ratio, net: (host, cpu, vcpus, mem_gib, mem_ratio, net),
        st.sampled_from(["hv1", "hv1", "hv2", "hv3", "hv4"]),
        st.one_of(st.none(), st.floats(0.0, 1.0)),
        st.integers(1, 12),
        st.sampled_from([1.0, 4.0, 16.0]),
        st.floats(0.0, 1.0),
        st.floats(0.0, 1e8),
    ),
    min_size=1,
    max_size=14,
)


def fleet_of(rows: list[tuple[str, float | None, int, float, float, float]]) -> list[Guest]:
    return [
        Guest(number=number, host=host, cpu=cpu, vcpus=vcpus, mem_gib=mem_gib, mem_ratio=mem_ratio, net_bytes_per_s=net)
        for number, (host, cpu, vcpus, mem_gib, mem_ratio, net) in enumerate(rows, 1)
    ]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*sorted(PLANNERS), "consolidation"]), GUESTS, st.one_of(st.none(), st.integers(0, 3)))
def test_no_plan_fills_a_host_beyond_its_limits(
    name: str, rows: list[tuple[str, float | None, int, float, float, float]], most: int | None
) -> None:
    """On no resource, promised or expected, after any of its moves; nothing goes to a hot host that was not swapped."""
    machines = hosts("hv1", "hv2", "hv3", "hv4", mem_gib=48)
    made = situation(site(fleet_of(rows), machines), PlannerSettings(max_moves=most))
    made = replace(made, why_fixed=lambda vm: None if made.site.known[vm] else "of unknown use")
    planner = Consolidation() if name == "consolidation" else PLANNERS[name]
    proposal = planner.plan(made)
    assert proposal == planner.plan(made)
    assert most is None or len(proposal.moves) <= most
    place = made.site
    at = {vm: int(row) for vm, row in enumerate(place.host_of)}
    load = place.need_ratio * place.capacity
    promised = place.promised.copy()
    finals: dict[int, int] = {}
    for move in proposal.moves:
        assert place.known[move.vm]
        assert at[move.vm] == move.source != move.target
        assert place.hosts[move.target].accepts
        at[move.vm] = move.target
        finals[move.vm] = move.target
    scratch = {move.target for move in proposal.moves if finals[move.vm] != move.target}
    for vm, target in finals.items():
        load[target] += place.need[vm]
        promised[target] += (place.vcpus[vm], place.mem_bytes[vm])
        load[place.host_of[vm]] -= place.mean[vm]
        promised[place.host_of[vm]] -= (place.vcpus[vm], place.mem_bytes[vm])
    for target in {*finals.values()} - scratch:
        assert (load[target] <= 0.75 * place.capacity[target] * (1 + 1e-9)).all()
        assert (promised[target] <= place.promisable[target] * (1 + 1e-9)).all()
    stuck = {one.row for one in proposal.unsolved}
    if name in {"sandpiper", "fallow"} and most is None:
        for row in made.hot_rows:
            assert row in stuck or (load[row] <= 0.75 * place.capacity[row] * (1 + 1e-9)).all()
    assert all(move.words for move in proposal.moves)
    assert all(one.words for one in proposal.unsolved)


def test_fallow_takes_the_quickest_that_is_enough() -> None:
    """Of VMs that cool a host alone, the one with the least to copy, to where the fullest resource stays lowest."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.8, vcpus=8, mem_gib=16),
        Guest(number=2, host="hv1", cpu=0.8, vcpus=6, mem_gib=4),
        Guest(number=3, host="hv1", cpu=0.8, vcpus=2, mem_gib=1),
        Guest(number=4, host="hv2", cpu=0.2, vcpus=8),
    ]
    made = situation(site(guests))
    proposal = FallowPlanner().plan(made)
    assert told(made, proposal) == [("vm-3", "hv1", "hv3")]
    (move,) = proposal.moves
    assert move.words.startswith("hv1 is hot on cpu: at least 3 of the last 5 samples above 75%")
    assert "the quickest move of those that cool it alone" in move.words
    assert "Transfer:" in move.words


def test_fallow_takes_most_per_second_where_none_is_enough() -> None:
    """Two moves: first the VM that takes most off for its size."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.9, vcpus=6, mem_gib=32),
        Guest(number=2, host="hv1", cpu=0.9, vcpus=6, mem_gib=2),
        Guest(number=3, host="hv1", cpu=0.9, vcpus=6, mem_gib=2),
    ]
    made = situation(site(guests, hosts("hv1", "hv2", "hv3", cores=12)))
    proposal = FallowPlanner().plan(made)
    assert [name for name, _, _ in told(made, proposal)] == ["vm-2", "vm-3"]


def test_fallow_moves_only_for_a_gain() -> None:
    """A target that would be nearly as full is no help, and that is said."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.76, vcpus=10),
        Guest(number=2, host="hv1", cpu=0.75, vcpus=6),
        Guest(number=3, host="hv2", cpu=0.7, vcpus=9),
    ]
    made = situation(site(guests, hosts("hv1", "hv2")))
    assert FallowPlanner().plan(made).moves
    strict = replace(made, settings=PlannerSettings(min_gain_ratio=0.2))
    proposal = FallowPlanner().plan(strict)
    assert proposal.moves == ()
    assert "no move helps" in proposal.unsolved[0].words


def test_the_nearer_of_equal_targets() -> None:
    """Round trips cost: of two hosts that would be as full, the VM goes to the nearer one."""
    guests = [Guest(number=1, host="hv1", cpu=0.8, vcpus=8), Guest(number=2, host="hv1", cpu=0.8, vcpus=8)]
    far = Transfer(rtts_s={("hv1", "hv2"): 0.2, ("hv1", "hv3"): 0.001})
    made = situation(site(guests), PlannerSettings(transfer=far))
    assert [target for _, _, target in told(made, FallowPlanner().plan(made))] == ["hv3"]
    plain = situation(site(guests))
    assert [target for _, _, target in told(plain, FallowPlanner().plan(plain))] == ["hv2"]


def test_transfer_time() -> None:
    """Memory copied, some of it twice, over the bandwidth, or over the window of a long round trip."""
    transfer = Transfer(bytes_per_s=100e6, again_ratio=0.5, setup_s=2.0, window_bytes=1e6, rtts_s={("a", "b"): 0.1})
    assert transfer.seconds(1e9, "a", "c") == pytest.approx(2 + 1.5e9 / 100e6)
    assert transfer.seconds(1e9, "b", "a") == pytest.approx(2 + 1.5e9 / 10e6)


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_what_may_not_move_stays(name: str) -> None:
    """VMs that are fixed stay, no VM goes back to a host that is barred to it, and the words say why."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.9, vcpus=10, mem_gib=16, mem_ratio=1.0),
        Guest(number=2, host="hv1", cpu=0.9, vcpus=6),
    ]
    made = situation(site(guests))
    fixed = replace(made, why_fixed=lambda vm: "pinned")
    proposal = PLANNERS[name].plan(fixed)
    assert proposal.moves == ()
    assert "2 VMs: pinned" in proposal.unsolved[0].words
    barred = replace(made, barred={0: frozenset({1, 2}), 1: frozenset({1, 2})})
    assert PLANNERS[name].plan(barred).moves == ()


def test_no_host_takes_vms() -> None:
    """Hosts in maintenance are no targets."""
    guests = [Guest(number=1, host="hv1", cpu=0.9, vcpus=8), Guest(number=2, host="hv1", cpu=0.9, vcpus=8)]
    closed = (*hosts("hv1"), *hosts("hv2", "hv3", accepts=False))
    proposal = FallowPlanner().plan(situation(site(guests, closed)))
    assert proposal.moves == ()
    assert "closed or hot themselves on 2 hosts" in proposal.unsolved[0].words


def test_promises_bind_where_use_does_not() -> None:
    """A quiet host whose memory is promised takes no VM: allocation is checked beside use."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.9, vcpus=8, mem_gib=8),
        Guest(number=2, host="hv1", cpu=0.9, vcpus=8, mem_gib=8),
        Guest(number=3, host="hv2", cpu=0.01, mem_gib=60, mem_ratio=0.01),
    ]
    proposal = FallowPlanner().plan(situation(site(guests, hosts("hv1", "hv2"))))
    assert proposal.moves == ()
    assert "too much memory promised on 1 host" in proposal.unsolved[0].words


def shares_situation(guests: list[Guest], **changes: object) -> Situation:
    made = site(guests, hosts("hv1", "hv2", mem_gib=100))
    return Situation(site=made, hot=find_hot(made, StaticShares())[0], settings=PlannerSettings())


def test_static_shares_by_each_hosts_own() -> None:
    """8 % of a small host is hot where 8 GiB on a large one is not; nothing is ever stopped."""
    guests = [
        Guest(number=1, host="hv1", mem_gib=6, mem_ratio=1.0),
        Guest(number=2, host="hv1", mem_gib=4, mem_ratio=1.0),
        Guest(number=3, host="hv2", mem_gib=10, mem_ratio=1.0),
    ]
    machines = (*hosts("hv1", mem_gib=100), *hosts("hv2", mem_gib=400))
    made = site(guests, machines)
    made_hot = Situation(site=made, hot=find_hot(made, StaticShares())[0], settings=PlannerSettings())
    assert made_hot.hot_rows == [0]
    assert told(made_hot, StaticSharesPlanner().plan(made_hot)) == [("vm-2", "hv1", "hv2")]


def test_static_shares_never_put_the_target_over_its_own() -> None:
    """Where both hosts are over, or the other one would be, there is no move and that is said."""
    both = [Guest(number=each, host=f"hv{each}", mem_gib=9, mem_ratio=1.0) for each in (1, 2)]
    proposal = StaticSharesPlanner().plan(shares_situation(both))
    assert (proposal.moves, len(proposal.unsolved)) == ((), 2)
    pushed = [
        Guest(number=1, host="hv1", mem_gib=9, mem_ratio=1.0),
        Guest(number=2, host="hv2", mem_gib=1, mem_ratio=1.0),
    ]
    assert StaticSharesPlanner().plan(shares_situation(pushed)).moves == ()


def test_age_is_only_a_tie() -> None:
    """Of VMs alike the oldest moves; a smaller one that is enough moves before an older one."""
    alike = [
        Guest(number=1, host="hv1", mem_gib=5, mem_ratio=1.0, vm={"created_s": 200.0}),
        Guest(number=2, host="hv1", mem_gib=5, mem_ratio=1.0, vm={"created_s": 100.0}),
    ]
    made = shares_situation(alike)
    assert [name for name, _, _ in told(made, StaticSharesPlanner().plan(made))] == ["vm-2"]
    smaller = [*alike, Guest(number=3, host="hv1", mem_gib=4, mem_ratio=0.7, vm={"created_s": 300.0})]
    made = shares_situation(smaller)
    names = [name for name, _, _ in told(made, StaticSharesPlanner().plan(made))]
    assert names[0] == "vm-2"


def test_best_fit_decreasing_fills_awake_hosts_first() -> None:
    """The least memory leaves, for the fullest host that is awake and has room; an empty one is the last resort."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.9, vcpus=8, mem_gib=8),
        Guest(number=2, host="hv1", cpu=0.9, vcpus=5, mem_gib=2),
        Guest(number=3, host="hv2", cpu=0.3, vcpus=8),
        Guest(number=4, host="hv3", cpu=0.5, vcpus=8),
    ]
    made = situation(site(guests, hosts("hv1", "hv2", "hv3", "hv4", cores=14)))
    assert told(made, BFD.plan(made)) == [("vm-2", "hv1", "hv3")]
    crowded = [*guests[:2], *(Guest(number=each, host=f"hv{each - 1}", cpu=0.7, vcpus=14) for each in (3, 4))]
    made = situation(site(crowded, hosts("hv1", "hv2", "hv3", "hv4", cores=14)))
    assert told(made, BFD.plan(made)) == [("vm-2", "hv1", "hv4")]


def test_maximum_correlation_picks_what_follows_the_others() -> None:
    """Of VMs on a hot host, the one whose history the others tell best; by memory where nothing can be told."""
    up = [0.5 + 0.04 * step for step in range(10)]
    zigzag = [0.9 if step % 2 else 0.7 for step in range(10)]
    guests = [
        Guest(number=1, host="hv1", cpu=zigzag, vcpus=6, mem_gib=1),
        Guest(number=2, host="hv1", cpu=up, vcpus=6, mem_gib=8),
        Guest(number=3, host="hv1", cpu=[each - 0.02 * (step % 3) for step, each in enumerate(up)], vcpus=6, mem_gib=8),
    ]
    made = situation(site(guests))
    by_correlation = PLANNERS["bfd-mc"].plan(made)
    assert told(made, by_correlation)[0][0] in {"vm-2", "vm-3"}
    assert told(made, BFD.plan(made))[0][0] == "vm-1"
    steady = situation(site([Guest(number=each, host="hv1", cpu=0.9, vcpus=6, mem_gib=9 - each) for each in (1, 2, 3)]))
    assert told(steady, PLANNERS["bfd-mc"].plan(steady))[0][0] == "vm-3"


def test_consolidation_empties_whole_hosts() -> None:
    """The quietest host is emptied onto others that are awake; one with a VM that may not move is not touched."""
    guests = [
        Guest(number=1, host="hv1", cpu=0.3, vcpus=8),
        Guest(number=2, host="hv2", cpu=0.1, vcpus=4),
        Guest(number=3, host="hv2", cpu=0.1, vcpus=4),
    ]
    made = situation(site(guests))
    assert {(name, target) for name, _, target in told(made, Consolidation().plan(made))} == {
        ("vm-2", "hv1"),
        ("vm-3", "hv1"),
    }
    pinned = replace(made, why_fixed=lambda vm: "pinned" if vm == 2 else None)
    assert told(pinned, Consolidation().plan(pinned)) == [("vm-1", "hv1", "hv2")]
    stuck = replace(made, why_fixed=lambda vm: "pinned")
    proposal = Consolidation().plan(stuck)
    assert (proposal.moves, proposal.unsolved[0].words) == (
        (),
        "no host can be emptied onto the others that are awake",
    )


def test_a_host_is_taken_down_to_its_detectors_own_limit() -> None:
    """Where a detector's threshold is lower than the limit of use, a host is relieved down to that."""
    guests = [Guest(number=each, host="hv1", cpu=0.5, vcpus=4) for each in (1, 2, 3, 4)]
    made = site(guests)
    hot = Hot(row=0, figure="cpu", detector="mad", value_ratio=0.5, limit_ratio=0.4, words="")
    given_hot = Situation(site=made, hot=(hot,), settings=PlannerSettings())
    assert given_hot.goals()[0, CPU] == pytest.approx(0.4 * 16)
    assert given_hot.goals()[0, MEM] == pytest.approx(0.75 * 64 * GIB)
    assert len(FallowPlanner().plan(given_hot).moves) == 1
    weighted = replace(hot, figure="weighted", value_ratio=0.6, limit_ratio=0.3)
    goals = replace(given_hot, hot=(weighted,)).goals()
    assert goals[0, CPU] == pytest.approx(0.25 * 16)


def test_limits_of_a_plan() -> None:
    """No more moves than allowed, in all and from one host; what is left out is told."""
    guests = [
        Guest(number=10 * host + each, host=f"hv{host}", cpu=0.9, vcpus=4) for host in (1, 2) for each in range(4)
    ]
    machines = hosts(*(f"hv{each}" for each in range(1, 9)), cores=8)
    made = situation(site(guests, machines))
    assert len(FallowPlanner().plan(made).moves) > 3
    few = replace(made, settings=PlannerSettings(max_moves=1))
    assert len(FallowPlanner().plan(few).moves) == 1
    each = Counter(
        move.source for move in FallowPlanner().plan(replace(made, settings=PlannerSettings(max_per_host=1))).moves
    )
    assert set(each.values()) == {1}
    assert "no more moves" in FallowPlanner().plan(few).unsolved[-1].words


def test_rooms_go_back_exactly() -> None:
    """What was tried and taken back leaves no trace, to the last bit."""
    guests = [Guest(number=each, host="hv1", cpu=0.1 * each) for each in range(1, 6)]
    made = site(guests)
    rooms = Rooms(made, 0.75 * made.capacity)
    before = (rooms.load.copy(), rooms.promised.copy())
    mark = rooms.mark()
    for vm in range(5):
        rooms.move(vm, 1 + vm % 2)
    rooms.back_to(mark)
    assert np.array_equal(rooms.load, before[0])
    assert np.array_equal(rooms.promised, before[1])
    assert rooms.moved == {}


def test_every_planner_is_quiet_without_hot_hosts() -> None:
    """Nothing hot, nothing to say."""
    made = situation(site([Guest(number=1, host="hv1")]))
    assert find_hot(made.site, Sandpiper()) == ((), ())
    for planner in PLANNERS.values():
        assert planner.plan(made) == Proposal(moves=())
