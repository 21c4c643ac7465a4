"""Our policy on parks small enough to see through; whole recorded days are in test_tables.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orchestrate.simulation.engine import rules_of, simulate
from orchestrate.simulation.fallow_policy import Caution, Fallow, expect
from orchestrate.simulation.load import Load
from orchestrate.simulation.park import Floats, Hosts, Park, Vms
from orchestrate.simulation.policy import Mode, Move, View

GIB = float(1 << 30)
IDLE_W, FULL_W = 100.0, 200.0


def park(hosts: int, vms: int, *, vm_ram_bytes: float = GIB, host_mips: Sequence[float] | None = None) -> Park:
    """Hosts of two cores, 4000 MIPS and 8 GiB; VMs of one vCPU of 1000 MIPS."""
    mips = np.array(host_mips or [4000.0] * hosts)
    return Park(
        hosts=Hosts(
            mips=mips,
            core_mips=mips / 2,
            ram_bytes=np.full(hosts, 8 * GIB),
            net_bytes_per_s=np.full(hosts, 125e6),
            power_w=np.tile(np.linspace(IDLE_W, FULL_W, 11), (hosts, 1)),
        ),
        vms=Vms(
            mips=np.full(vms, 1000.0),
            vcpus=np.ones(vms),
            ram_bytes=np.full(vms, vm_ram_bytes),
            net_bytes_per_s=np.full(vms, 1e6),
        ),
    )


def view(
    of: Park, host_of: Sequence[int], samples: Floats, *, tick: int | None = None, mode: Mode = Mode.HONEST
) -> View:
    """What a policy sees at a tick when VMs are so placed and asked for `samples`, newest first."""
    where = np.array(host_of, np.intp)
    on = [np.flatnonzero(where == host).tolist() for host in range(len(of.hosts))]
    demand = samples[0] * of.vms.mips
    asked = np.bincount(where, demand, len(of.hosts)).astype(np.float64)
    return View(
        tick=tick or len(samples) - 1,
        now_s=300.0 * (tick or len(samples) - 1),
        rules=rules_of(mode),
        park=of,
        vms_on=on,
        host_of=where,
        flying={},
        demand_mips=demand,
        history=samples[:-1],
        samples=samples,
        used_ratio=np.minimum(asked / of.hosts.mips, 1.0),
        needed_mips=asked,
        allocated_mips=np.minimum(asked, of.hosts.mips),
        ram_used_bytes=np.bincount(where, of.vms.ram_bytes, len(of.hosts)).astype(np.float64),
        awake=np.array([bool(vms) for vms in on]),
    )


def steady(ratio: float, vms: int, samples: int = 200) -> Floats:
    """VMs that always ask for the same."""
    return np.full((samples, vms), ratio)


def test_a_steady_vm_is_expected_to_stay_as_it_is() -> None:
    """Once a VM is old its own mean counts, and what never varied has next to no spread."""
    samples = steady(0.5, 4, 2000)
    samples[:, 0] = 0.1
    found = expect(samples, np.array([1000.0, 1000.0, 1000.0, 2000.0]), Caution())
    assert found.mips == pytest.approx([108.4, 497.2, 497.2, 994.4], rel=0.001)
    assert (np.sqrt(found.variance) < 0.03 * np.array([1000.0, 1000.0, 1000.0, 2000.0])).all()


def test_a_young_vm_is_taken_for_one_of_the_fleet() -> None:
    """Two samples say little: mean and spread lean to those of all VMs."""
    samples = np.vstack([np.linspace(0, 1, 21)] * 2)
    found = expect(samples, np.full(21, 1000.0), Caution(prior_samples=8))
    assert found.mips[0] == pytest.approx(0.8 * 500, rel=0.02)
    assert found.mips[-1] == pytest.approx(0.2 * 1000 + 0.8 * 500, rel=0.02)
    assert (found.variance > 0).all()


def test_newer_samples_count_more() -> None:
    """A VM that fell silent half a life ago is expected at a third of what it did before, not at a half."""
    samples = np.vstack([steady(0.0, 1, 96), steady(0.9, 1, 96)])
    found = expect(samples, np.array([1000.0]), Caution(half_life_ticks=96, prior_samples=0.0))
    assert found.mips[0] == pytest.approx(300, rel=0.02)


def test_quiet_vms_are_gathered_and_hosts_emptied() -> None:
    """Four quiet VMs on four hosts end on one."""
    seen = view(park(4, 4), [0, 1, 2, 3], steady(0.1, 4), tick=6)
    moves = Fallow().decide(seen)
    assert len(moves) == 3
    assert len({move.host for move in moves}) == 1


def test_memory_binds_where_the_run_says_so() -> None:
    """Two VMs of 5 GiB fit no host of 8 GiB together, however little they do."""
    big = park(2, 2, vm_ram_bytes=5 * GIB)
    assert Fallow().decide(view(big, [0, 1], steady(0.1, 2), tick=6)) == []
    assert len(Fallow().decide(view(big, [0, 1], steady(0.1, 2), tick=6, mode=Mode.REFERENCE))) == 1


def test_a_host_is_emptied_whole_or_not_at_all() -> None:
    """Where one of its VMs finds no room, none of them moves."""
    loads = steady(0.05, 6)
    loads[:, :3] = 0.95  # host 0 is nearly full; hosts 1 has two that would fit and one that would not
    loads[:, 5] = 0.9
    assert Fallow().decide(view(park(2, 6), [0, 0, 0, 1, 1, 1], loads, tick=6)) == []


def test_a_hot_host_is_relieved_to_one_that_is_on() -> None:
    """One move that makes it cool, to a host that is on although another, off, has more room."""
    loads = steady(0.2, 6)
    loads[0, :4] = 0.95
    moves = Fallow().decide(view(park(3, 6), [0, 0, 0, 0, 1, 1], loads, tick=7))
    assert [move.host for move in moves] == [1]
    assert moves[0].vm < 4


def test_a_host_is_woken_only_when_no_other_has_room() -> None:
    """Relief may wake a host, the thriftiest; where none is left nothing moves, and that is an answer."""
    loads = steady(0.9, 8)
    loads[0] = 1.0
    full = [0, 0, 0, 0, 1, 1, 1, 1]
    moves = Fallow().decide(view(park(3, 8), full, loads, tick=7))
    assert {move.host for move in moves} == {2}
    assert Fallow().decide(view(park(2, 8), full, loads, tick=7)) == []


def test_a_vm_that_moved_rests() -> None:
    """It does not move again to save power before `rest_ticks`, and then it may."""
    policy = Fallow(Caution(rest_ticks=6, empty_every_ticks=1))
    together = park(2, 2)
    (first,) = policy.decide(view(together, [0, 1], steady(0.1, 2, 50), tick=3))
    again = [0, 1] if first.host == 0 else [1, 0]
    # Put back where it was, as if it had been moved on: it stays there for now.
    assert first.vm in {0, 1}
    resting = policy.decide(view(together, again, steady(0.1, 2, 52), tick=5))
    assert first.vm not in {move.vm for move in resting}
    assert policy.decide(view(together, again, steady(0.1, 2, 70), tick=9 + 6))


def test_hosts_are_not_emptied_between_times() -> None:
    """Only every few ticks."""
    policy = Fallow(Caution(empty_every_ticks=3))
    assert policy.decide(view(park(2, 2), [0, 1], steady(0.1, 2), tick=7)) == []


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, (7, 12), elements=st.floats(0, 1)),
    st.lists(st.integers(0, 4), min_size=12, max_size=12),
    st.sampled_from([1, 3, 4, 6]),
)
def test_no_plan_promises_more_than_there_is(samples: Floats, host_of: list[int], tick: int) -> None:
    """Memory never overflows, no VM moves twice or to where it is, and no host that takes one becomes hot."""
    if np.bincount(host_of, minlength=5).max() > 4:
        return
    of = park(5, 12, vm_ram_bytes=2 * GIB)
    seen = view(of, host_of, samples, tick=tick)
    moves = Fallow().decide(seen)
    assert len({move.vm for move in moves}) == len(moves)
    after = np.array(host_of)
    for move in moves:
        assert host_of[move.vm] != move.host
        after[move.vm] = move.host
    assert (np.bincount(after, of.vms.ram_bytes, 5) <= of.hosts.ram_bytes).all()
    asked = np.bincount(after, seen.demand_mips, 5)
    for host in {move.host for move in moves}:
        assert asked[host] <= 0.92 * of.hosts.mips[host] + 1e-6


def test_the_same_view_gives_the_same_plan() -> None:
    """Ties are broken by number, and nothing is drawn by lot."""
    rng = np.random.default_rng(7)
    samples, host_of = rng.random((30, 20)) * 0.4, [vm % 6 for vm in range(20)]
    plans: list[Sequence[Move]] = [Fallow().decide(view(park(6, 20), host_of, samples, tick=6)) for _ in range(2)]
    assert plans[0]
    assert plans[0] == plans[1]


def test_a_day_of_quiet_vms_ends_on_few_hosts() -> None:
    """Through the whole engine: no move is refused, and hosts go off."""
    rng = np.random.default_rng(3)
    load = Load(name="quiet", ratio=rng.random((49, 30)) * 0.2)
    result = simulate(park(30, 30), load, Fallow(), mode=Mode.HONEST, start=lambda of: list(range(len(of.vms))))
    assert result.refused == 0
    assert result.ticks[-1].active_hosts <= 6
