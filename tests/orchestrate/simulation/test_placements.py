"""Where VMs start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrate.simulation.machines import REFERENCE
from orchestrate.simulation.park import Park
from orchestrate.simulation.placements import first_fit, least_power, packed_by_memory
from orchestrate.simulation.policy import CannotPlace
from tests.orchestrate.simulation.parks import STRAIGHT_W, park

ALL = [first_fit, least_power, packed_by_memory]


def test_first_fit() -> None:
    """The first host that can promise all of the VM."""
    assert first_fit(park([1000, 2000], [600, 600, 400], host_ram_mb=9999)) == [0, 1, 0]


def test_least_power_spreads() -> None:
    """Every host is compared with an idle one, so that an empty host wins, the first of equals."""
    assert least_power(park([1000, 1000, 1000], [300, 300])) == [0, 1]


def test_least_power_takes_the_flattest_host() -> None:
    """A host whose power grows less wins, also when it is not the first."""
    flat_w = [100.0 + tenth for tenth in range(11)]
    made = park([1000, 1000], [300, 300, 300], power_w=[STRAIGHT_W, flat_w])
    assert least_power(made) == [1, 1, 1]


def test_packing_by_memory() -> None:
    """The host that is left with least."""
    made = park([9000, 9000], [100] * 3, host_ram_mb=1000, ram_mb=[300, 600, 400])
    assert packed_by_memory(made) == [0, 0, 1]


@pytest.mark.parametrize("place", ALL)
def test_the_network_is_promised_too(place: Callable[[Park], list[int]]) -> None:
    """Ten VMs of 100 Mbit/s fill a link of 1 Gbit/s."""
    placed = place(park([90_000, 90_000], [100] * 11, host_ram_mb=90_000))
    assert max(placed.count(host) for host in (0, 1)) <= 10
    assert len(set(placed)) == 2


@pytest.mark.parametrize("place", ALL)
def test_one_core_must_do_for_one_vcpu(place: Callable[[Park], list[int]]) -> None:
    """A VM of 1500 MIPS has no place on cores of 1000, however many; over two vCPUs it has."""
    with pytest.raises(CannotPlace, match=r"VM 0 \(1500 MIPS, 625 MB\)"):
        place(park([4000], [1500], cores=4))
    assert place(park([4000], [1500], cores=4, vcpus=2)) == [0]


@pytest.mark.parametrize("place", ALL)
@pytest.mark.parametrize(("host_ram_mb", "vm_net_bytes_per_s"), [(1000.0, 12.5e6), (10_000.0, 100e6)])
def test_each_resource_binds(place: Callable[[Park], list[int]], host_ram_mb: float, vm_net_bytes_per_s: float) -> None:
    """Two VMs where memory or network is enough for one."""
    with pytest.raises(CannotPlace, match="VM 1"):
        place(park([9000], [100, 100], host_ram_mb=host_ram_mb, vm_net_bytes_per_s=vm_net_bytes_per_s))


def test_the_published_start_of_1052_vms() -> None:
    """All 800 hosts get VMs, of each type 274 one and 126 two; the first five go to the faster hosts."""
    placed = least_power(REFERENCE.park([None] * 1052))
    assert placed[:5] == [1, 3, 5, 7, 9]
    counts = [placed.count(host) for host in range(800)]
    for kind in (0, 1):
        assert (counts[kind::2].count(1), counts[kind::2].count(2)) == (274, 126)
