"""The published policies: overload test x selection rule, placed by power-aware best fit decreasing; DVFS.

What they do is kept as published, with what is weak about it: a host that is off looks free to wake, an emptied
host is not checked against its cost, a VM may move twice in a tick. Where memory binds (honest mode) a host
must have room for it, and a VM that would move twice goes to its last target at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrate.simulation.overload import HISTORY, OverloadTest, Standing
from orchestrate.simulation.park import Bools, Floats, Ints, Park, added_up, power_w
from orchestrate.simulation.placements import first_fit, least_power
from orchestrate.simulation.policy import TICK_S, Move, View
from orchestrate.simulation.selection import Selection


class Dvfs:
    """Never migrates; the first host that fits at the start."""

    def place(self, park: Park) -> Sequence[int]:
        return first_fit(park)

    def decide(self, _view: View, /) -> Sequence[Move]:
        return ()


@dataclass(frozen=True, slots=True)
class PowerAware:
    """One combination of the published rules."""

    test: OverloadTest
    selection: Selection

    def place(self, park: Park) -> Sequence[int]:
        return least_power(park)

    def decide(self, view: View) -> Sequence[Move]:
        draft = _Draft(view, self.test)
        overloaded = draft.overloaded_hosts()
        leaving = [vm for host in overloaded for vm in draft.relieve(host, self.selection)]
        closed = np.zeros(len(view.park.hosts), np.bool_)
        closed[overloaded] = True
        plan = draft.place_all(leaving, ~closed, whole=False)
        plan += draft.evacuate(closed | ~view.awake)
        if view.rules.ram_binds:
            plan = _last_of_each(plan)
        return [Move(vm=vm, host=host) for vm, host in plan]


class _Draft:
    """A copy of the placement in which a plan takes shape: what each host would have. Sums as in `sharing`."""

    def __init__(self, view: View, test: OverloadTest) -> None:
        park = view.park
        self._view, self._test = view, test
        self._vms_on = [list(vms) for vms in view.vms_on]
        self._moving = frozenset(view.flying)
        self._allocated = view.allocated_mips.copy()
        self._needed = view.needed_mips.copy()
        self._ram = view.ram_used_bytes.copy()
        self._now_w = power_w(park.hosts.power_w, view.used_ratio)
        counts = [len(vms) for vms in view.vms_on]
        hosts = np.repeat(np.arange(len(counts)), counts)
        vms = np.fromiter((vm for on_host in view.vms_on for vm in on_host), np.intp, sum(counts))
        self._asked = added_up(hosts, view.demand_mips[vms], len(counts))
        self._biggest = np.zeros(len(counts))
        np.maximum.at(self._biggest, hosts, park.vms.ram_bytes[vms])
        self._used_mips = np.zeros((len(park.vms), HISTORY))
        self._history = np.zeros((len(counts), HISTORY))
        if test.needs_history:
            recent = view.history[:HISTORY]
            self._used_mips[:, : len(recent)] = (recent * park.vms.mips).T
            np.add.at(self._history, hosts, self._used_mips[vms] / park.hosts.mips[hosts, np.newaxis])

    def overloaded_hosts(self) -> list[int]:
        busy = np.flatnonzero([bool(vms) for vms in self._vms_on])
        return [int(host) for host in busy[self._overloaded(busy, None)]]

    def relieve(self, host: int, selection: Selection) -> list[int]:
        """Takes VMs off the host until it is not overloaded any more."""
        taken: list[int] = []
        while True:
            movable = [vm for vm in self._vms_on[host] if vm not in self._moving]
            if not movable:
                return taken
            vm = selection.choose(self._view, movable)
            taken.append(vm)
            self._vms_on[host].remove(vm)
            self._sum_again(host)
            if not self._vms_on[host] or not self._overloaded(np.array([host]), None)[0]:
                return taken

    def place_all(self, vms: Sequence[int], allowed: Bools, *, whole: bool) -> list[tuple[int, int]]:
        """Places VMs, those that ask for most first.

        Args: whole: all of them or none; else one without a host stays where it is.
        """
        demand = self._view.demand_mips
        among = np.flatnonzero(allowed)
        placed: list[tuple[int, int]] = []
        undo: list[Callable[[], None]] = []
        for vm in sorted(vms, key=lambda vm: -float(demand[vm])):
            host = self._best(vm, among)
            if host is not None:
                undo.append(self._put(vm, host))
                placed.append((vm, host))
            elif whole:
                for put_back in reversed(undo):
                    put_back()
                return []
        return placed

    def evacuate(self, closed: Bools) -> list[tuple[int, int]]:
        """Empties hosts, the least used first, as long as all VMs of one find room on others."""
        used = self._view.used_ratio
        no_source, no_target = closed.copy(), closed.copy()
        plan: list[tuple[int, int]] = []
        movable = [bool(vms) and self._moving.isdisjoint(vms) for vms in self._vms_on]
        no_source |= ~np.array(movable) | (used >= 1)
        for host in map(int, np.argsort(used, kind="stable")):
            if no_source[host]:
                continue
            no_source[host] = no_target[host] = True
            placed = self.place_all(self._vms_on[host], ~no_target, whole=True)
            plan += placed
            no_source[[target for _, target in placed]] = True
        return plan

    def _best(self, vm: int, among: Ints) -> int | None:
        """The host among these whose power grows least, the first of several; None where none can take the VM."""
        park = self._view.park
        asked = self._view.demand_mips[vm]
        free = np.maximum(park.hosts.mips[among] - self._needed[among], 0.0)
        room = (park.hosts.core_mips[among] * park.vms.vcpus[vm] >= asked) & (free >= asked)
        if self._view.rules.ram_binds:
            room &= self._ram[among] + park.vms.ram_bytes[vm] <= park.hosts.ram_bytes[among]
        hosts = among[room]
        if not len(hosts):
            return None
        allocated = self._allocated[hosts]
        ratio = (allocated + asked) / park.hosts.mips[hosts]
        more_w = power_w(park.hosts.power_w[hosts], ratio) - self._now_w[hosts]
        # Hosts are tried in their order of preference, in growing numbers: most often one of the first will do.
        order = np.argsort(more_w, kind="stable")
        begin, size = 0, 8
        while begin < len(order):
            some = order[begin : begin + size]
            fits = (allocated[some] == 0) | ~self._overloaded(hosts[some], vm)
            if fits.any():
                return int(hosts[some[int(fits.argmax())]])
            begin, size = begin + size, size * 4
        return None

    def _overloaded(self, hosts: Ints, more: int | None) -> Bools:
        """Args: more: a VM that is added to each of them."""
        park = self._view.park
        asked, history, biggest = self._asked[hosts], self._history[hosts], self._biggest[hosts]
        mips = park.hosts.mips[hosts]
        if more is not None:
            asked = asked + self._view.demand_mips[more]
            history = history + self._used_mips[more] / mips[:, np.newaxis]
            biggest = np.maximum(biggest, park.vms.ram_bytes[more])
        return self._test.overloaded(
            Standing(
                asked_ratio=asked / mips,
                history=history,
                lengths=_lengths(history),
                ahead_ticks=np.ceil(biggest / (park.hosts.net_bytes_per_s[hosts] / 2.0) / TICK_S),
            )
        )

    def _put(self, vm: int, host: int) -> Callable[[], None]:
        """Adds a VM at the end of the host's; the answer takes it back."""
        before = [
            (column, column[host].copy())
            for column in (self._allocated, self._needed, self._ram, self._asked, self._biggest, self._history)
        ]
        park = self._view.park
        asked = self._view.demand_mips[vm]
        self._vms_on[host].append(vm)
        self._allocated[host] += asked
        self._needed[host] += asked
        self._ram[host] += park.vms.ram_bytes[vm]
        self._asked[host] += asked
        self._biggest[host] = max(self._biggest[host], park.vms.ram_bytes[vm])
        self._history[host] += self._used_mips[vm] / park.hosts.mips[host]

        def take_back() -> None:
            self._vms_on[host].pop()
            for column, value in before:
                column[host] = value

        return take_back

    def _sum_again(self, host: int) -> None:
        """After a VM was taken off an overloaded host: only what its own test asks for, since it is no target."""
        park, vms = self._view.park, self._vms_on[host]
        self._asked[host] = sum(map(float, self._view.demand_mips[vms]))
        self._biggest[host] = max(map(float, park.vms.ram_bytes[vms]), default=0.0)
        self._history[host] = 0.0
        for vm in vms:
            self._history[host] += self._used_mips[vm] / park.hosts.mips[host]


def _last_of_each(plan: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """A VM that stands twice in the plan goes where it would end."""
    targets: dict[int, int] = {}
    for vm, host in plan:
        targets.pop(vm, None)
        targets[vm] = host
    return list(targets.items())


def _lengths(history: Floats) -> Floats:
    """Up to the last value of each row that is not 0, at least 1."""
    filled = history[:, ::-1] != 0
    lengths = np.where(filled.any(axis=1), history.shape[1] - filled.argmax(axis=1), 1)
    return lengths.astype(np.float64)
