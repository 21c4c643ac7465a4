"""Hosts, VMs and what a host draws, in columns. Pure; docs/consolidation.md has the formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

POWER_POINTS = 11  # at 0, 10, .. 100 % of a host's CPU


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hosts:
    """n hosts in columns.

    Attributes:
        mips: of all its cores together.
        core_mips: of one core, the most that one vCPU can get.
        ram_bytes: all of it may be promised to VMs.
        net_bytes_per_s: its link. Half of it carries a migration, whatever else migrates.
        power_w: (n, 11), at 0, 10, .. 100 % of CPU, linear between.
    """

    mips: Floats
    core_mips: Floats
    ram_bytes: Floats
    net_bytes_per_s: Floats
    power_w: Floats

    def __post_init__(self) -> None:
        for column in (self.mips, self.core_mips, self.ram_bytes, self.net_bytes_per_s, self.power_w):
            column.setflags(write=False)
        if self.power_w.shape != (len(self), POWER_POINTS):
            raise ValueError(f"power_w: {self.power_w.shape}, not ({len(self)}, {POWER_POINTS})")

    def __len__(self) -> int:
        return len(self.mips)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vms:
    """n VMs in columns.

    Attributes:
        mips: what it may use at most, all its vCPUs together.
        vcpus: over which that is spread evenly.
        ram_bytes: also what a migration copies.
        net_bytes_per_s: promised at the first placement, nowhere else.
    """

    mips: Floats
    vcpus: Floats
    ram_bytes: Floats
    net_bytes_per_s: Floats

    def __post_init__(self) -> None:
        for column in (self.mips, self.vcpus, self.ram_bytes, self.net_bytes_per_s):
            column.setflags(write=False)

    def __len__(self) -> int:
        return len(self.mips)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Park:
    """The hosts and VMs of one run."""

    hosts: Hosts
    vms: Vms


def added_up(places: Ints, values: Floats, count: int) -> Floats:
    """The sum of the values of each place 0..count-1, one by one in their order: `sum` adds in another one."""
    found: Floats = np.bincount(places, values, count).astype(np.float64, copy=False)
    return found


def power_w(tables_w: Floats, used_ratio: Floats) -> Floats:
    """What hosts draw while they are on.

    Args:
        tables_w: (n, 11) watts at 0, 10, .. 100 % of CPU.
        used_ratio: (n,), 0..1; above 1 counts as 1.
    """
    used = np.minimum(used_ratio, 1.0)
    tenths = used * 10.0
    low = np.floor(tenths)
    rows = np.arange(len(used))
    low_w = tables_w[rows, low.astype(np.intp)]
    # Exactly on a point the slope is that of the point itself, 0: so the published figures come out to the last bit.
    high_w = tables_w[rows, np.ceil(tenths).astype(np.intp)]
    power: Floats = low_w + ((high_w - low_w) / 10.0) * (used - low / 10.0) * 100.0
    return power


def migration_s(park: Park, vm: int, host: int) -> float:
    """How long the VM takes to the host: its memory over half of the host's link."""
    return float(park.vms.ram_bytes[vm] / (park.hosts.net_bytes_per_s[host] / 2.0))
