"""The published controller, rule by rule, on parks where each decision can be worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrate.simulation.overload import LocalLine, OverloadTest, Threshold
from orchestrate.simulation.park import Park
from orchestrate.simulation.policy import Mode, View
from orchestrate.simulation.reference import Dvfs, PowerAware
from orchestrate.simulation.selection import MinimumMigrationTime
from tests.orchestrate.simulation.parks import STRAIGHT_W, park, view_of


def decide(view: View, test: OverloadTest | None = None) -> list[tuple[int, int]]:
    policy = PowerAware(test or Threshold(), MinimumMigrationTime())
    return [(move.vm, move.host) for move in policy.decide(view)]


def moves(made: Park, vms_on: Sequence[Sequence[int]], now: Sequence[float]) -> list[tuple[int, int]]:
    return decide(view_of(made, vms_on, [now]))


def test_dvfs_never_moves() -> None:
    """Whatever the load."""
    assert Dvfs().decide(view_of(park([1000], [1000]), [[0]], [[1.0]])) == ()


def test_an_overloaded_host_is_relieved_until_it_is_not() -> None:
    """90 % with three VMs: the one with the least memory goes, and 60 % is enough."""
    made = park([1000, 1000], [1000] * 4, ram_mb=[700, 600, 800, 500])
    assert moves(made, [[0, 1, 2], [3]], [0.3, 0.3, 0.3, 0.4]) == [(1, 1)]


def test_a_vm_without_a_host_stays() -> None:
    """Nobody has room below the threshold: nothing moves."""
    made = park([1000, 1000], [1000] * 3)
    assert moves(made, [[0, 1], [2]], [0.45, 0.45, 0.6]) == []


def test_an_overloaded_host_is_no_target() -> None:
    """It is not offered what another one gives up, however much would fit; a host that is off is."""
    made = park([1000, 10_000, 1000], [1000, 1000, 9000])
    assert moves(made, [[0, 1], [2], []], [0.45, 0.45, 0.9]) == [(0, 2)]


def test_those_that_ask_for_most_are_placed_first() -> None:
    """Two leave; the larger is placed first although it was chosen later, and the first of equal hosts takes it."""
    made = park([1000, 1000, 1000], [1000] * 3, ram_mb=[600, 700, 800])
    assert moves(made, [[0, 1, 2], [], []], [0.3, 0.5, 0.5]) == [(1, 1), (0, 2)]


def test_waking_looks_free() -> None:
    """A host that is off and draws 500 W idle is taken, since its power grows less than the other's."""
    thirsty = [500.0 + tenth for tenth in range(11)]
    made = park([1000, 1000, 1000], [1000] * 3, power_w=[STRAIGHT_W, thirsty, STRAIGHT_W])
    assert moves(made, [[0, 1], [], [2]], [0.45, 0.45, 0.2]) == [(0, 1)]


def test_growth_is_counted_from_what_was_measured() -> None:
    """The second VM is charged for the first one's power too, as published: it goes to another host."""
    made = park([1000] * 4, [1000] * 4, ram_mb=[600, 600, 700, 700])
    assert moves(made, [[0, 1, 2, 3], [], [], []], [0.25, 0.25, 0.3, 0.3]) == [(0, 1), (1, 2)]


def test_a_core_must_do_for_what_is_asked() -> None:
    """A VM that asks for 600 MIPS does not go to cores of 500; one that asks for 300 does."""
    asked = [0.6, 0.3]
    assert moves(park([1000, 1000], [1000, 1000], cores=2), [[0, 1], []], asked) == []
    smaller = park([1000, 1000], [1000, 1000], cores=2, ram_mb=[700, 600])
    assert moves(smaller, [[0, 1], []], asked) == [(1, 1)]


def test_the_least_used_host_is_emptied() -> None:
    """Its VMs go to the other one, those that ask for most first; what received them is not emptied in turn."""
    made = park([1000, 1000], [1000] * 3)
    assert moves(made, [[0, 1], [2]], [0.1, 0.2, 0.4]) == [(1, 1), (0, 1)]


def test_emptying_wakes_nobody() -> None:
    """A single host that is hardly used keeps its VM."""
    assert moves(park([1000, 1000], [1000]), [[0], []], [0.1]) == []


def test_a_host_is_emptied_whole_or_not() -> None:
    """Room for one of two is not enough, and what was placed is taken back."""
    made = park([1000, 1000], [1000] * 3)
    assert moves(made, [[0, 1], [2]], [0.2, 0.15, 0.5]) == []


def test_a_host_that_could_not_be_emptied_is_no_target() -> None:
    """Host 0 is tried first and finds no room; then host 1 may not go there, though it would fit. Else it does."""
    made = park([1000, 500], [1000, 500])
    assert moves(made, [[0], [1]], [0.35, 0.4]) == []
    assert moves(made, [[0], [1]], [0.35, 0.3]) == [(1, 0)]


def test_undone_placements_leave_no_trace() -> None:
    """Host 0 puts 250 MIPS on host 2 and takes them back; then host 1 finds its room there."""
    made = park([1000, 500, 1000], [1000] * 4)
    assert moves(made, [[0, 1], [2], [3]], [0.25, 0.20, 0.24, 0.50]) == [(2, 2)]


def test_a_vm_may_move_twice_in_a_tick_as_published() -> None:
    """Host 1 gets VM 0 in relief and is emptied in the same plan; where memory binds the VM goes on at once."""
    flat = [100.0 + tenth for tenth in range(11)]
    made = park([1000, 1000, 1000], [1000] * 4, power_w=[STRAIGHT_W, flat, STRAIGHT_W])
    vms_on, now = [[0, 1], [2], [3]], [0.3, 0.6, 0.05, 0.4]
    assert decide(view_of(made, vms_on, [now])) == [(0, 1), (0, 2), (2, 2)]
    assert decide(view_of(made, vms_on, [now], mode=Mode.HONEST)) == [(0, 2), (2, 2)]


def test_history_decides_where_the_test_asks_for_it() -> None:
    """By the local line a host at 82 % that rises is relieved, and one at 81 % that stands is not."""
    made = park([1000, 1000, 1000], [1000] * 3)
    rising = [[0.40 - 0.03 * tick, 0.42 - 0.03 * tick, 0.5] for tick in range(12)]
    steady = [[0.40, 0.41, 0.5]] * 12
    assert decide(view_of(made, [[0, 1], [2], []], rising), LocalLine()) == [(0, 2)]
    assert decide(view_of(made, [[0, 1], [2], []], steady), LocalLine()) == []


def test_the_history_of_a_target_is_that_of_its_vms_to_be() -> None:
    """Two halves that stand fit together by the local line; two that rise do not."""
    made = park([1000, 1000], [1000] * 2)
    stands = [[0.30, 0.35]] * 12
    rises = [[0.30 - 0.02 * tick, 0.35 - 0.02 * tick] for tick in range(12)]
    assert decide(view_of(made, [[0], [1]], stands), LocalLine()) == [(0, 1)]
    assert decide(view_of(made, [[0], [1]], rises), LocalLine(1.5)) == []


def test_memory_binds_where_the_run_says_so() -> None:
    """The same load with a full target: as published it moves, honestly it stays."""
    made = park([1000, 1000], [1000] * 2, host_ram_mb=1000)
    published = view_of(made, [[0], [1]], [[0.1, 0.3]])
    honest = view_of(made, [[0], [1]], [[0.1, 0.3]], mode=Mode.HONEST)
    assert decide(published) == [(0, 1)]
    assert decide(honest) == []


def test_a_host_with_idle_vms_alone_is_on_in_honest_mode() -> None:
    """It costs power there, so that it can be emptied; as published it is off and left alone."""
    made = park([1000, 1000], [1000] * 2)
    assert decide(view_of(made, [[0], [1]], [[0.0, 0.3]], mode=Mode.HONEST)) == [(0, 1)]
    assert decide(view_of(made, [[0], [1]], [[0.0, 0.3]])) == []


@pytest.mark.parametrize(("flying", "expected"), [({0: 1}, [(2, 0)]), ({2: 0}, [(1, 1), (0, 1)])])
def test_a_host_with_a_vm_in_flight_is_not_emptied(flying: dict[int, int], expected: list[tuple[int, int]]) -> None:
    """Its VM cannot move again yet; the other host may be emptied."""
    made = park([1000, 1000], [1000] * 3)
    view = replace(view_of(made, [[0, 1], [2]], [[0.1, 0.11, 0.15]]), flying=flying)
    assert decide(view) == expected


def test_relief_takes_what_can_move() -> None:
    """The VM with the least memory is in flight: the next one goes."""
    made = park([1000, 1000], [1000] * 3, ram_mb=[600, 700, 800])
    view = replace(view_of(made, [[0, 1, 2], []], [[0.3, 0.3, 0.3]]), flying={0: 1})
    assert decide(view) == [(1, 1)]
