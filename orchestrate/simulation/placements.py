"""Where VMs start, before anything of their load is known. Pure.

The first two are the published ones: a VM asks for all of its CPU, memory and network. `packed_by_memory` is the
plain start of honest mode, the same for every policy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrate.simulation.park import Bools, Floats, Park, power_w
from orchestrate.simulation.policy import CannotPlace


def first_fit(park: Park) -> list[int]:
    """The first host that can take the VM. Raises CannotPlace."""
    return _one_by_one(park, lambda _vm, room, _ledger: int(room.argmax()))


def least_power(park: Park) -> list[int]:
    """The host whose power grows least above that of an idle one: empty hosts win. Raises CannotPlace."""
    idle_w = park.hosts.power_w[:, 0]

    def choose(vm: int, room: Bools, ledger: _Ledger) -> int:
        promised = ledger.mips + park.vms.mips[vm]
        more_w = power_w(park.hosts.power_w, promised / park.hosts.mips) - idle_w
        return int(np.where(room, more_w, np.inf).argmin())

    return _one_by_one(park, choose)


def packed_by_memory(park: Park) -> list[int]:
    """The host that is left with the least free memory, the first of several. Raises CannotPlace."""

    def choose(_vm: int, room: Bools, ledger: _Ledger) -> int:
        left = park.hosts.ram_bytes - ledger.ram_bytes
        return int(np.where(room, left, np.inf).argmin())

    return _one_by_one(park, choose)


class _Ledger:
    """What is promised on each host so far."""

    def __init__(self, hosts: int) -> None:
        self.mips: Floats = np.zeros(hosts)
        self.ram_bytes: Floats = np.zeros(hosts)
        self.net_bytes_per_s: Floats = np.zeros(hosts)


def _one_by_one(park: Park, choose: Callable[[int, Bools, _Ledger], int]) -> list[int]:
    hosts, vms = park.hosts, park.vms
    ledger = _Ledger(len(hosts))
    placed = []
    for vm in range(len(vms)):
        room = (
            (hosts.core_mips * vms.vcpus[vm] >= vms.mips[vm])
            & (hosts.mips - ledger.mips >= vms.mips[vm])
            & (hosts.ram_bytes - ledger.ram_bytes >= vms.ram_bytes[vm])
            & (hosts.net_bytes_per_s - ledger.net_bytes_per_s >= vms.net_bytes_per_s[vm])
        )
        if not room.any():
            raise CannotPlace(
                f"VM {vm} ({vms.mips[vm]:g} MIPS, {vms.ram_bytes[vm] / 1e6:g} MB) finds no host with room left"
            )
        host = choose(vm, room, ledger)
        ledger.mips[host] += vms.mips[vm]
        ledger.ram_bytes[host] += vms.ram_bytes[vm]
        ledger.net_bytes_per_s[host] += vms.net_bytes_per_s[vm]
        placed.append(host)
    return placed
