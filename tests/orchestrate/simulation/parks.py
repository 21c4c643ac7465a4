"""Small parks made by hand, policies that do as they are told, and views without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrate.simulation.engine import rules_of
from orchestrate.simulation.load import Load
from orchestrate.simulation.park import Hosts, Park, Vms, added_up
from orchestrate.simulation.policy import Mode, Move, View
from orchestrate.simulation.sharing import entries_of, share, used_ratio

MB = 1e6
# 100 W idle, 200 W full, straight between.
STRAIGHT_W = tuple(100.0 + 10.0 * tenth for tenth in range(11))


def park(
    hosts: Sequence[float],
    vms: Sequence[float],
    *,
    host_ram_mb: float = 10_000.0,
    ram_mb: float | Sequence[float] = 625.0,
    cores: int = 1,
    vcpus: float = 1.0,
    power_w: Sequence[Sequence[float]] | None = None,
    vm_net_bytes_per_s: float = 12.5e6,
) -> Park:
    """Hosts of so many MIPS over all their cores; VMs of so many. 625 MB migrate in 10 s."""
    count = len(hosts)
    total = np.array(hosts, float)
    ram = np.broadcast_to(np.array(ram_mb, float), (len(vms),)) * MB
    return Park(
        hosts=Hosts(
            mips=total,
            core_mips=total / cores,
            ram_bytes=np.full(count, host_ram_mb * MB),
            net_bytes_per_s=np.full(count, 125e6),
            power_w=np.array(power_w or [STRAIGHT_W] * count, float),
        ),
        vms=Vms(
            mips=np.array(vms, float),
            vcpus=np.full(len(vms), vcpus),
            ram_bytes=ram,
            net_bytes_per_s=np.full(len(vms), vm_net_bytes_per_s),
        ),
    )


def load(*samples: Sequence[float]) -> Load:
    """One row a sample, one figure a VM."""
    return Load(name="made", ratio=np.array(samples, float))


def steady(ratios: Sequence[float], samples: int = 3) -> Load:
    """The same at every sample."""
    return load(*[ratios] * samples)


class Scripted:
    """Moves by tick, and every view it was handed."""

    def __init__(self, placed: Sequence[int], moves: Mapping[int, Sequence[tuple[int, int]]] | None = None) -> None:
        self._placed = list(placed)
        self._moves = dict(moves or {})
        self.views: list[View] = []

    def place(self, _park: Park) -> Sequence[int]:
        return self._placed

    def decide(self, view: View, /) -> Sequence[Move]:
        self.views.append(view)
        return [Move(vm=vm, host=host) for vm, host in self._moves.get(view.tick, ())]


def view_of(
    of_park: Park,
    vms_on: Sequence[Sequence[int]],
    history: Sequence[Sequence[float]],
    *,
    mode: Mode = Mode.REFERENCE,
) -> View:
    """The park as a policy sees it, VMs where they are told to be.

    Args: history: (ticks, V), newest first.
    """
    past = np.array(history, float)
    demand = past[0] * of_park.vms.mips
    host_of = np.full(len(of_park.vms), -1, np.intp)
    for host, vms in enumerate(vms_on):
        host_of[list(vms)] = host
    shares = share(of_park, entries_of(vms_on, host_of, ()), demand)
    honest = mode is Mode.HONEST
    return View(
        tick=len(past),
        now_s=300.0 * len(past),
        rules=rules_of(mode),
        park=of_park,
        vms_on=tuple(map(tuple, vms_on)),
        host_of=host_of,
        flying={},
        demand_mips=demand,
        history=past,
        samples=np.concatenate([past, past[-1:]]),
        used_ratio=used_ratio(of_park, shares),
        allocated_mips=shares.allocated_mips,
        needed_mips=shares.needed_mips,
        ram_used_bytes=added_up(host_of, of_park.vms.ram_bytes, len(of_park.hosts)),
        awake=np.array([bool(vms) for vms in vms_on]) if honest else shares.used_mips > 0,
    )
