"""CPU among the VMs of a host: enough for all, too little, and VMs on their way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.simulation.park import added_up, migration_s, power_w
from orchestrate.simulation.sharing import entries_of, share, used_ratio
from tests.orchestrate.simulation.parks import STRAIGHT_W, park

PLACES = np.array([0, 0], np.intp)


def test_enough_for_all() -> None:
    """Everyone gets what it asks for, and the rest is free."""
    made = park([1000], [500, 500])
    found = share(made, entries_of([[0, 1]], PLACES, ()), np.array([100.0, 300.0]))
    assert found.vm_mips.tolist() == [100, 300]
    assert (found.used_mips[0], found.asked_mips[0], found.needed_mips[0]) == (400, 400, 400)
    assert used_ratio(made, found)[0] == 0.4


def test_no_vm_gets_more_than_its_cores() -> None:
    """One vCPU gets one core; two get two."""
    one, two = park([2000], [1500], cores=2), park([2000], [1500], cores=2, vcpus=2)
    asked, entries = np.array([1500.0]), entries_of([[0]], PLACES[:1], ())
    assert share(one, entries, asked).vm_mips.tolist() == [1000]
    assert share(one, entries, asked).asked_mips.tolist() == [1500]
    assert share(two, entries, asked).vm_mips.tolist() == [1500]


def test_too_little_is_shared_in_proportion_and_rounded_down() -> None:
    """1000 MIPS for 1500 asked: two thirds each, whole MIPS."""
    made = park([1000], [1000, 1000])
    found = share(made, entries_of([[0, 1]], PLACES, ()), np.array([1000.0, 500.0]))
    assert found.vm_mips.tolist() == [666, 333]
    assert found.needed_mips[0] == 1500


def test_a_vm_on_its_way() -> None:
    """Leaving it gets nine tenths and the host spends all; arriving it spends a tenth and asks for all."""
    made = park([1000, 1000], [1000])
    entries = entries_of([[0], [0]], PLACES[:1], {0})
    assert entries.leaving.tolist() == [True, False]
    assert entries.arriving.tolist() == [False, True]
    found = share(made, entries, np.array([500.0]))
    assert found.vm_mips.tolist() == [450]
    assert found.used_mips.tolist() == [500, 50]
    assert found.asked_mips.tolist() == [500, 500]
    assert found.asked_here_mips.tolist() == [500, 50]
    assert found.allocated_mips.tolist() == [450, 500]
    assert found.needed_mips.tolist() == [500, 50]


def test_a_vm_on_its_way_from_a_host_that_is_short() -> None:
    """The tenth comes off what the shortage leaves."""
    made = park([1000, 1000], [1000, 1000])
    found = share(made, entries_of([[0, 1], [0]], PLACES, {0}), np.array([1000.0, 1000.0]))
    assert found.vm_mips.tolist() == [450, 500]


def test_rounding_above_all_is_all() -> None:
    """Just above 1 counts as 1."""
    made = park([1000], [2000])
    found = share(made, entries_of([[0]], PLACES[:1], ()), np.array([1000.0]))
    above = type(found)(**{name: getattr(found, name) * 1.005 for name in found.__slots__})
    assert used_ratio(made, above).tolist() == [1.0]


def test_sums_are_taken_one_by_one() -> None:
    """1 + 1e16 - 1e16 depends on the order, and the order is that of the host's VMs."""
    values = np.array([1.0, 1e16, -1e16, 1.0])
    assert added_up(np.array([0, 0, 0, 1]), values, 3).tolist() == [0.0, 1.0, 0.0]
    assert added_up(np.array([0, 0, 0, 1]), values[[1, 2, 0, 3]], 3).tolist() == [1.0, 1.0, 0.0]


@given(
    st.lists(st.floats(0, 2000), min_size=1, max_size=8),
    st.floats(100, 5000),
    st.data(),
)
def test_a_host_never_gives_what_it_has_not(asked: list[float], mips: float, data: st.DataObject) -> None:
    """No VM gets more than it asks for, all together no more than there is, and nobody less than nothing."""
    made = park([mips, mips], [2000.0] * len(asked))
    flying = data.draw(st.sets(st.integers(0, len(asked) - 1)))
    entries = entries_of([list(range(len(asked))), sorted(flying)], np.zeros(len(asked), np.intp), flying)
    found = share(made, entries, np.array(asked))
    assert (found.vm_mips >= 0).all()
    assert (found.vm_mips <= np.array(asked)).all()
    assert (found.used_mips <= mips * (1 + 1e-9)).all()
    assert (found.used_mips <= found.asked_mips * (1 + 1e-9)).all()


def test_power_is_straight_between_its_points() -> None:
    """Points exactly, halves between them, and never beyond the last."""
    table = np.array([STRAIGHT_W] * 5)
    found = power_w(table, np.array([0.0, 0.3, 0.35, 1.0, 1.2]))
    assert found.tolist() == pytest.approx([100, 130, 135, 200, 200])


def test_a_migration_takes_memory_over_half_the_link() -> None:
    """625 MB at 62.5 MB/s."""
    assert migration_s(park([1000], [1000]), 0, 0) == 10.0
