"""Our policy: hosts are filled by what their VMs are likely to ask for, and a VM moves when that pays. Pure numpy.

Each VM's load is expected to go on around its own mean with its own spread, both with newer samples weighing more,
and both drawn towards the fleet's while the VM is young. A host takes a VM only if the sum of means and `sure_sd`
standard deviations of the sum stay within it: many uneven VMs share one reserve, which is what a percentile a VM
cannot say. Memory binds wherever the run says so.

Three things keep VMs where they are: a host is relieved only when more is asked of it than `hot_ratio`; hosts are
emptied only every few ticks, whole, onto hosts that are on already and no less thrifty; a VM that has moved rests.
Waking a host is the last resort of relief and never part of emptying another.

Constants were chosen on two days of one recorded fleet; docs/consolidation.md has the figures and other parks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrate.simulation.park import Bools, Floats, Ints, Park, power_w
from orchestrate.simulation.placements import least_power
from orchestrate.simulation.policy import GONE, Move, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """How sure the policy wants to be.

    Args:
        sure_sd: reserve on each host, in standard deviations of its VMs' joint load.
        relief_sd: the same when a hot host looks for room elsewhere: what is certain there outweighs it.
        hot_ratio: a host of which more than this share of its CPU is asked is relieved.
        half_life_ticks: a sample weighs half after so long.
        prior_samples: the fleet's mean and spread count as so many samples of each VM.
        empty_every_ticks: how often hosts may be emptied; at the first tick too.
        rest_ticks: a VM that moved does not move again to save power for so long.
        least_share: VMs that ask for less than this share of a hot host are not worth moving off it.
    """

    sure_sd: float = 4.0
    relief_sd: float = 2.5
    hot_ratio: float = 0.92
    half_life_ticks: float = 96.0
    prior_samples: float = 8.0
    empty_every_ticks: int = 3
    rest_ticks: int = 6
    least_share: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """(V,) what each VM is likely to ask for: mean and variance of its MIPS."""

    mips: Floats
    variance: Floats


def expect(samples: Floats, vm_mips: Floats, caution: Caution) -> Expected:
    """What the samples so far say of each VM's load.

    Args: samples: (n, V), newest first, 0..1 of the VM's own MIPS.
    """
    weights = 0.5 ** (np.arange(len(samples)) / caution.half_life_ticks)
    total = weights.sum()
    mean = weights @ samples / total
    variance = weights @ (samples - mean) ** 2 / total
    # The number of samples that would weigh as much if all weighed the same.
    count = total**2 / (weights**2).sum()
    prior = caution.prior_samples / (caution.prior_samples + count)
    # Half of the fleet's variance: the other half is that of its means.
    mean = (1 - prior) * mean + prior * samples.mean()
    variance = (1 - prior) * variance + prior * samples.var() / 2
    return Expected(mips=mean * vm_mips, variance=variance * vm_mips**2)


class Fallow:
    """One run of the policy; it remembers which VMs moved when."""

    def __init__(self, caution: Caution | None = None) -> None:
        self._caution = caution or Caution()
        self._moved: Ints | None = None

    def place(self, park: Park) -> Sequence[int]:
        """Spread, as the published policies do: of a VM's load nothing is known yet."""
        return least_power(park)

    def decide(self, view: View) -> Sequence[Move]:
        """Relief of hot hosts, then hosts that can be emptied."""
        if self._moved is None:
            self._moved = np.full(len(view.park.vms), -self._caution.rest_ticks - 1)
        draft = _Draft(view, self._caution, self._moved)
        draft.relieve()
        if view.tick == 1 or view.tick % self._caution.empty_every_ticks == 0:
            draft.empty_hosts()
        moves = draft.moves()
        for move in moves:
            self._moved[move.vm] = view.tick
        return moves


class _Draft:
    """A copy of the placement in which a plan takes shape."""

    def __init__(self, view: View, caution: Caution, moved: Ints) -> None:
        self._view, self._caution = view, caution
        self._hosts, self._vms = view.park.hosts, view.park.vms
        self._expected = expect(view.samples, self._vms.mips, caution)
        self._resting = view.tick - moved < caution.rest_ticks
        self._host_of = view.host_of.copy()
        for vm, target in view.flying.items():
            self._host_of[vm] = target
        self._on: list[list[int]] = [[] for _ in range(len(self._hosts))]
        for vm in np.flatnonzero(self._host_of != GONE).tolist():
            self._on[self._host_of[vm]].append(vm)
        self._asked = self._per_host(view.demand_mips)
        self._mean = self._per_host(self._expected.mips)
        self._variance = self._per_host(self._expected.variance)
        self._ram = view.ram_used_bytes.copy()
        self._awake = view.awake.copy()
        self._watts_per_vm = self._thrift()

    def _per_host(self, of_vms: Floats) -> Floats:
        here = self._host_of != GONE
        return np.bincount(self._host_of[here], of_vms[here], len(self._hosts)).astype(np.float64)

    def _thrift(self) -> Floats:
        """(H,) watts a VM on each host once it is as full of average VMs as it may be: less is better."""
        here = self._host_of != GONE
        if not here.any():
            return np.zeros(len(self._hosts))
        mips = max(float(self._expected.mips[here].mean()), 1e-9)
        # A reserve shrinks with the number that share it; a quarter of a host is about that of twenty uneven VMs.
        count = 0.75 * self._hosts.mips / mips
        if self._view.rules.ram_binds:
            count = np.minimum(count, self._hosts.ram_bytes / float(self._vms.ram_bytes[here].mean()))
        full_w: Floats = power_w(self._hosts.power_w, np.minimum(count * mips / self._hosts.mips, 1.0))
        return full_w / np.maximum(count, 1e-9)

    def _takes(self, vm: int, sd: float) -> Bools:
        """(H,) hosts that could take the VM and still be sure of what they promised."""
        expected, caution = self._expected, self._caution
        mean = self._mean + expected.mips[vm]
        spread = np.sqrt(np.maximum(self._variance, 0.0) + expected.variance[vm])
        asked = self._asked + self._view.demand_mips[vm]
        peak = min(
            float(self._vms.mips[vm]),
            max(float(self._view.demand_mips[vm]), float(expected.mips[vm] + 2 * np.sqrt(expected.variance[vm]))),
        )
        room: Bools = (
            (mean + sd * spread <= self._hosts.mips)
            & (asked <= caution.hot_ratio * self._hosts.mips)
            & (self._hosts.core_mips * self._vms.vcpus[vm] >= peak)
        )
        if self._view.rules.ram_binds:
            room &= self._ram + self._vms.ram_bytes[vm] <= self._hosts.ram_bytes
        room[self._host_of[vm]] = False
        return room

    def _fullest(self, vm: int, room: Bools, sd: float) -> int:
        """The host of `room` that the VM fills the most, by its scarcest resource; the first of several."""
        spread = np.sqrt(np.maximum(self._variance, 0.0) + self._expected.variance[vm])
        filled = (self._mean + self._expected.mips[vm] + sd * spread) / self._hosts.mips
        if self._view.rules.ram_binds:
            filled = np.maximum(filled, (self._ram + self._vms.ram_bytes[vm]) / self._hosts.ram_bytes)
        return int(np.where(room, filled, -1.0).argmax())

    def _put(self, vm: int, host: int) -> None:
        source = int(self._host_of[vm])
        self._on[source].remove(vm)
        self._on[host].append(vm)
        self._host_of[vm] = host
        for of_hosts, of_vms in (
            (self._mean, self._expected.mips),
            (self._variance, self._expected.variance),
            (self._asked, self._view.demand_mips),
            (self._ram, self._vms.ram_bytes),
        ):
            of_hosts[source] -= of_vms[vm]
            of_hosts[host] += of_vms[vm]

    def relieve(self) -> None:
        """Moves VMs off hosts that are asked for more than `hot_ratio`, the hottest first."""
        limit = self._caution.hot_ratio * self._hosts.mips
        hot = np.flatnonzero(self._asked > limit)
        for host in hot[np.argsort(-(self._asked / self._hosts.mips)[hot], kind="stable")].tolist():
            for vm in self._candidates(host, float(self._asked[host] - limit[host])):
                if self._asked[host] <= limit[host]:
                    break
                if (target := self._refuge(vm)) is not None:
                    self._put(vm, target)
                    self._awake[target] = True

    def _candidates(self, host: int, excess: float) -> list[int]:
        """Those that make the host cool at one move first, then by how little is copied."""
        asked = self._view.demand_mips
        worth = [
            vm
            for vm in self._on[host]
            if vm not in self._view.flying and asked[vm] >= self._caution.least_share * self._hosts.mips[host]
        ]
        return sorted(worth, key=lambda vm: (asked[vm] < excess, self._vms.ram_bytes[vm], -asked[vm], vm))

    def _refuge(self, vm: int) -> int | None:
        """A host that is on and stays the coolest with the VM; else the thriftiest that is off."""
        room = self._takes(vm, self._caution.relief_sd)
        on = room & self._awake
        if on.any():
            sd = np.sqrt(np.maximum(self._variance, 0.0))
            return int(np.where(on, self._hosts.mips - self._mean - sd, -np.inf).argmax())
        return int(np.where(room, self._watts_per_vm, np.inf).argmin()) if room.any() else None

    def empty_hosts(self) -> None:
        """Empties hosts, whole or not at all: the least thrifty first, of those alike the least loaded."""
        waiting = [host for host, vms in enumerate(self._on) if vms]
        waiting.sort(key=lambda host: (-self._watts_per_vm[host], self._mean[host] / self._hosts.mips[host], host))
        came: set[int] = set()
        for host in waiting:
            vms = self._on[host]
            if host in came or any(vm in self._view.flying or self._resting[vm] for vm in vms):
                continue
            came |= self._empty(host)

    def _empty(self, host: int) -> set[int]:
        """The hosts that took its VMs; none where one of them found no room."""
        put: list[int] = []
        # What others need not less of first: a large VM finds few holes.
        weight = self._vms.ram_bytes if self._view.rules.ram_binds else self._expected.mips
        for vm in sorted(self._on[host], key=lambda vm: (-weight[vm], vm)):
            room = self._takes(vm, self._caution.sure_sd) & self._awake
            room &= self._watts_per_vm <= self._watts_per_vm[host]
            if not room.any():
                for back in put:
                    self._put(back, host)
                return set()
            self._put(vm, self._fullest(vm, room, self._caution.sure_sd))
            put.append(vm)
        self._awake[host] = False
        return {int(self._host_of[vm]) for vm in put}

    def moves(self) -> list[Move]:
        """What the draft changes, by VM."""
        here = self._view.host_of
        return [
            Move(vm=vm, host=int(self._host_of[vm]))
            for vm in np.flatnonzero(self._host_of != here).tolist()
            if vm not in self._view.flying
        ]
