"""What is left on each host while a plan grows: feasibility on every resource, promised and expected. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from orchestrate.hotspots.host_loads import MEM, RESOURCES, Bools, Floats
from orchestrate.hotspots.hosts import Site
from reports.words import gib, number

# What sums of shares differ by from the sum of their parts is no violation.
_ROUNDING = 1e-9


class Rooms:
    """Loads and promises of a site, changed move by move.

    A VM that comes brings its peak, one that leaves takes its mean along: so neither end is thought emptier than it
    will be. What a VM leaves behind is not given to others in the same plan: its move may fail.

    Args:
        limit: (H, 3) no host is filled beyond; in cores, bytes and bytes per second.
    """

    def __init__(self, site: Site, limit: Floats) -> None:
        self.site = site
        self.limit = np.ascontiguousarray(limit.T)
        self.capacity = np.ascontiguousarray(site.capacity.T)
        self.load = np.ascontiguousarray((site.need_ratio * site.capacity).T)
        # What was promised and is not there yet will use all of it, as far as anybody knows.
        self.load[:2] += (site.promised - site.promised_to_vms).T
        self.promised = np.ascontiguousarray(site.promised.T)
        self.promisable = np.ascontiguousarray(site.promisable.T)
        self.open = np.fromiter((host.accepts for host in site.hosts), np.bool_, len(site.hosts))
        self.moved: dict[int, int] = {}
        self._undo: list[tuple[int, int, int, Floats, Floats, float, float]] = []

    def close(self, rows: Iterable[int]) -> None:
        """No VM goes there any more."""
        self.open[list(rows)] = False

    def fits(self, vm: int, barred: Iterable[int] = ()) -> Bools:
        """(H,) where the VM may go."""
        need, site = self.site.need[vm], self.site
        found = self.fits_need(need, float(site.vcpus[vm]), float(site.mem_bytes[vm]))
        found[site.host_of[vm]] = False
        found[list(barred)] = False
        return found

    def fits_need(self, need: Floats, vcpus: float, mem_bytes: float) -> Bools:
        """(H,) where something that needs, and is promised, so much may go; `need` is (3,), or (3, H)."""
        found: Bools = (
            self.open
            & (self.load[0] + need[0] <= self.limit[0])
            & (self.load[1] + need[1] <= self.limit[1])
            & (self.load[2] + need[2] <= self.limit[2])
            & (self.promised[0] + vcpus <= self.promisable[0])
            & (self.promised[1] + mem_bytes <= self.promisable[1])
        )
        return found

    def fill_after(self, vm: int) -> Floats:
        """(H,) how full each host would be with the VM, of its limit, on its fullest resource."""
        need = self.site.need[vm][:, np.newaxis]
        found: Floats = np.max((self.load + need) / np.maximum(self.limit, _ROUNDING), axis=0)
        return found

    def ratio(self, row: int) -> Floats:
        """(3,) the host's load, of its capacity."""
        found: Floats = self.load[:, row] / self.capacity[:, row]
        return found

    def excess(self, row: int, goal: Floats) -> Floats:
        """(3,) what the host has to be rid of, of its capacity. Args: goal: (3,)."""
        over = self.load[:, row] - goal
        return np.where(over > _ROUNDING * self.capacity[:, row], over / self.capacity[:, row], 0.0)

    def move(self, vm: int, target: int) -> None:
        """The VM goes there, once in a plan."""
        source = int(self.site.host_of[vm])
        size = np.array([self.site.vcpus[vm], self.site.mem_bytes[vm]])
        before = (self.load[:, source].copy(), self.load[:, target].copy())
        self._undo.append((vm, source, target, *before, *self.promised[:, target]))
        self.load[:, source] = np.maximum(self.load[:, source] - self.site.mean[vm], 0.0)
        self.load[:, target] += self.site.need[vm]
        self.promised[:, target] += size
        self.moved[vm] = target

    def mark(self) -> int:
        """To come back to."""
        return len(self._undo)

    def back_to(self, mark: int) -> None:
        """Everything is as it was then."""
        while len(self._undo) > mark:
            vm, source, target, source_load, target_load, vcpus, mem_bytes = self._undo.pop()
            self.load[:, source], self.load[:, target] = source_load, target_load
            self.promised[:, target] = (vcpus, mem_bytes)
            del self.moved[vm]

    def why_not(self, row: int, need: Floats, vcpus: float, mem_bytes: float) -> str | None:
        """What keeps something of that size off a host, in words; None where it fits."""
        host = self.site.hosts[row]
        if not host.accepts:
            return "takes no VMs now"
        if self.promised[1, row] + mem_bytes > self.promisable[1, row]:
            left = max(float(self.promisable[1, row] - self.promised[1, row]), 0.0)
            return f"{gib(left)} of {gib(host.mem_bytes)} memory not promised yet, {gib(mem_bytes)} asked"
        if self.promised[0, row] + vcpus > self.promisable[0, row]:
            left = max(float(self.promisable[0, row] - self.promised[0, row]), 0.0)
            return f"{left:g} of {float(self.promisable[0, row]):g} vCPUs not promised yet, {vcpus:g} asked"
        for place, resource in enumerate(RESOURCES):
            after = self.load[place, row] + need[place]
            if after > self.limit[place, row]:
                ratio, limit = after / self.capacity[place, row], self.limit[place, row] / self.capacity[place, row]
                name = "memory" if place == MEM else resource
                return f"{name} would be {number(float(ratio), 'ratio', beside=float(limit))} full" + (
                    f", more than {number(float(limit), 'ratio')}"
                )
        return None if self.open[row] else "hot itself"
