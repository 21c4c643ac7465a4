"""What must hold of every run, whatever the park, the load and the policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrate.simulation.engine import Result, simulate
from orchestrate.simulation.load import Load
from orchestrate.simulation.names import DVFS, NAMES, NPA, PolicyName
from orchestrate.simulation.park import Park
from orchestrate.simulation.placements import packed_by_memory
from orchestrate.simulation.policies import make_policy
from orchestrate.simulation.policy import GONE, Mode, Move, Policy, View
from tests.orchestrate.simulation.parks import park

POLICIES = [name for name in NAMES if name != NPA]


class Watched:
    """Another policy, each of whose views is checked first."""

    def __init__(self, inner: Policy) -> None:
        self._inner = inner

    def place(self, made: Park) -> Sequence[int]:
        return self._inner.place(made)

    def decide(self, view: View, /) -> Sequence[Move]:
        check(view)
        return self._inner.decide(view)


class Wild:
    """Moves anything anywhere."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def place(self, made: Park) -> Sequence[int]:
        return packed_by_memory(made)

    def decide(self, view: View, /) -> Sequence[Move]:
        count = int(self._draw.integers(6))
        return [
            Move(vm=int(self._draw.integers(len(view.park.vms))), host=int(self._draw.integers(len(view.park.hosts))))
            for _ in range(count)
        ]


def check(view: View) -> None:
    """Each VM runs on one host or on none; sums agree; honest memory holds."""
    on = [[host for host, vms in enumerate(view.vms_on) if vm in vms] for vm in range(len(view.park.vms))]
    for vm, hosts in enumerate(on):
        home = int(view.host_of[vm])
        flying = {view.flying[vm]} if vm in view.flying else set()
        if home == GONE:
            assert hosts == []
        elif view.rules.mode is Mode.HONEST:
            assert home in hosts
            assert set(hosts) <= {home} | flying
        assert all(vms.count(vm) <= 1 for vms in view.vms_on)
    assert (view.used_ratio >= 0).all()
    assert (view.used_ratio <= 1).all()
    assert np.allclose(view.ram_used_bytes, [sum(view.park.vms.ram_bytes[list(vms)]) for vms in view.vms_on])
    if view.rules.ram_binds:
        assert (view.ram_used_bytes <= view.park.hosts.ram_bytes * (1 + 1e-9)).all()
    assert len(view.history) == view.tick == len(view.samples) - 1


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Park, Load]:
    """A few hosts and VMs that surely fit at the start, and some ticks of load."""
    vms = draw(st.lists(st.sampled_from([500.0, 1000.0, 2000.0]), min_size=1, max_size=8))
    hosts = draw(st.integers(len(vms), len(vms) + 3))
    ram_mb = draw(st.lists(st.sampled_from([600.0, 900.0, 20_000.0]), min_size=len(vms), max_size=len(vms)))
    samples = draw(st.integers(2, 20))
    percent = draw(
        st.lists(
            st.lists(st.sampled_from([0, 0, 5, 30, 70, 100]), min_size=len(vms), max_size=len(vms)),
            min_size=samples,
            max_size=samples,
        )
    )
    made = park([2000.0] * hosts, vms, ram_mb=ram_mb, host_ram_mb=25_000)
    return made, Load(name="made", ratio=np.array(percent) / 100.0)


def run(world: tuple[Park, Load], policy: Policy, mode: Mode, *, drop_idle: bool) -> Result:
    start = packed_by_memory if mode is Mode.HONEST else None
    return simulate(*world, Watched(policy), mode=mode, drop_idle=drop_idle, start=start)


def check_result(result: Result, world: tuple[Park, Load]) -> None:
    totals = result.totals
    assert totals.energy_kwh >= 0
    ratios = (totals.slatah_ratio, totals.pdm_ratio, totals.unserved_ratio, totals.slatah_overload_ratio)
    assert all(0 <= ratio <= 1 for ratio in ratios)
    assert totals.slatah_overload_ratio <= totals.slatah_tolerant_ratio <= totals.slatah_ratio
    assert totals.pdm_ratio + totals.unserved_overload_ratio <= totals.unserved_ratio + 1e-12
    assert 0 <= totals.mean_active_hosts <= len(world[0].hosts) * 1.5
    most_w = float(world[0].hosts.power_w[:, -1].sum())
    assert totals.energy_kwh * 3.6e6 <= most_w * (world[1].ticks + 1) * 300 * (1 + 1e-9)
    assert sum(tick.migrations for tick in result.ticks) == result.migrations


@settings(max_examples=60)
@given(worlds(), st.sampled_from(POLICIES), st.sampled_from(list(Mode)), st.booleans())
def test_every_policy_keeps_the_rules(world: tuple[Park, Load], name: str, mode: Mode, drop_idle: bool) -> None:
    """Views are sound, figures possible, and a published policy asks for nothing that honest mode refuses."""
    result = run(world, make_policy(PolicyName(name=name), 1), mode, drop_idle=drop_idle)
    check_result(result, world)
    if name == DVFS:
        assert result.migrations == 0
    if mode is Mode.HONEST:
        assert result.refused == 0


@settings(max_examples=60)
@given(worlds(), st.integers(0, 1000), st.sampled_from(list(Mode)), st.booleans())
def test_no_policy_breaks_the_engine(world: tuple[Park, Load], seed: int, mode: Mode, drop_idle: bool) -> None:
    """Moves at random are done or refused, and the park stays sound."""
    check_result(run(world, Wild(seed), mode, drop_idle=drop_idle), world)


@settings(max_examples=20)
@given(worlds(), st.sampled_from(["THR-RS", "LR-MC", "fallow"]), st.sampled_from(list(Mode)))
def test_the_same_seed_gives_the_same_run(world: tuple[Park, Load], name: str, mode: Mode) -> None:
    """To the last bit."""
    first, second = (run(world, make_policy(PolicyName(name=name), 7), mode, drop_idle=False) for _ in range(2))
    assert first == second


@settings(max_examples=30)
@given(worlds(), st.sampled_from(POLICIES), st.integers(1, 19))
def test_the_future_changes_nothing_before_it(world: tuple[Park, Load], name: str, cut: int) -> None:
    """Two days that agree until a sample have the same migrations until the tick at it, in honest mode."""
    made, load = world
    kept = min(cut, load.ticks)
    other = load.ratio.copy()
    other[kept + 1 :] = 1.0 - other[kept + 1 :]
    both = [
        run((made, Load(name="made", ratio=ratio)), make_policy(PolicyName(name=name), 1), Mode.HONEST, drop_idle=False)
        for ratio in (load.ratio.copy(), other)
    ]
    assert both[0].ticks[:kept] == both[1].ticks[:kept]
