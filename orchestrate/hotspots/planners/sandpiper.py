"""Sandpiper's planner: the hottest host first, the VM with most volume per byte, the least loaded host that it fits.

Where no migration cools a host, VMs are exchanged for others. Where that does not either, nothing is done about it:
moving VMs about under overload everywhere helps nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import numpy as np

from orchestrate.hotspots.host_loads import Bools, Floats, Ints
from orchestrate.hotspots.planners.rooms import Rooms
from orchestrate.hotspots.planners.situation import Move, Proposal, Situation, Unsolved, by_host, volume, volume_to_size
from orchestrate.hotspots.planners.words import heat_words, move_words, stuck_words
from reports.words import listed_words

# An exchange is looked for among so many VMs of the hot host and so many of the least loaded others.
_SWAP_VMS = 3
_SWAP_HOSTS = 20
# A VM that takes less of what is short is not worth a migration.
_LEAST_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class SandpiperPlanner:
    """Volume orders; feasibility is on every resource apart."""

    name: str = "sandpiper"

    def plan(self, situation: Situation) -> Proposal:
        return _Planning(situation).done()


class _Planning:
    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._site = site = situation.site
        self._goals = situation.goals()
        self._rooms = Rooms(site, self._goals)
        self._rooms.close(situation.hot_rows)
        self._vms_of = by_host(site)
        self._volumes = volume(site.need_ratio)
        # Of the host that it is on; its own volume does not change in a plan.
        self._vsr = volume_to_size(site.need / site.capacity[site.host_of], site.mem_bytes)
        self._moves: list[Move] = []
        self._unsolved: list[Unsolved] = []
        self._swaps = 0

    def done(self) -> Proposal:
        hot = self._situation.hot_rows
        for row in sorted(hot, key=lambda each: (-float(self._volumes[each]), each)):
            self._relieve(row)
        return Proposal(moves=tuple(self._moves), unsolved=tuple(self._unsolved))

    def _relieve(self, row: int) -> None:
        rooms, kept, mark = self._rooms, len(self._moves), self._rooms.mark()
        if not self._over(row).any():
            words = "what is expected of it is within its limit already: no move is called for"
            self._unsolved.append(Unsolved(row=row, words=words))
            return
        for vm in self._by_vsr(self._vms_of[row]):
            over = self._over(row)
            if not over.any() or self._situation.is_full(self._moves, row):
                break
            share = self._site.mean[vm] / self._site.capacity[row]
            if not (share[over] > _LEAST_SHARE).any():
                continue
            fits = rooms.fits(vm, self._situation.barred.get(vm, ()))
            if fits.any():
                self._move(vm, row, int(np.where(fits, self._volumes, np.inf).argmin()))
        if not self._over(row).any():
            return
        was_full = self._situation.is_full(self._moves, row)
        rooms.back_to(mark)
        for move in self._moves[kept:]:
            self._volumes[move.target] = volume(rooms.ratio(move.target))
        del self._moves[kept:]
        self._volumes[row] = volume(rooms.ratio(row))
        if not was_full and self._swap(row):
            return
        words = stuck_words(self._situation, rooms, row, self._vms_of[row], self._goals[row], was_full=was_full)
        self._unsolved.append(Unsolved(row=row, words=words))

    def _over(self, row: int) -> Bools:
        """(3,)"""
        found: Bools = self._rooms.excess(row, self._goals[row]) > 0
        return found

    def _by_vsr(self, vms: Ints) -> list[int]:
        left = [vm for vm in vms.tolist() if vm not in self._rooms.moved and self._situation.why_fixed(vm) is None]
        return sorted(left, key=lambda vm: (-float(self._vsr[vm]), vm))

    def _move(self, vm: int, source: int, target: int) -> None:
        heat = heat_words(self._situation, source)
        picked = f"it has the most volume for its size ({self._vsr[vm]:.5f} per MiB) of those that fit elsewhere"
        words = move_words(self._situation, self._rooms, vm, source, target, heat=heat, picked=picked)
        self._rooms.move(vm, target)
        self._note(vm, source, target, words)
        for row in (source, target):
            self._volumes[row] = volume(self._rooms.ratio(row))

    def _note(self, vm: int, source: int, target: int, words: str) -> None:
        transfer_s = self._situation.transfer_s(vm, source, target)
        self._moves.append(Move(vm=vm, source=source, target=target, transfer_s=transfer_s, words=words))

    def _swap(self, row: int) -> bool:
        """Exchanges one VM of the host for several of a cooler one, by way of a third."""
        settings = self._situation.settings
        if self._swaps >= settings.max_swaps:
            return False
        cool = np.flatnonzero(self._rooms.open)
        cool = cool[np.argsort(self._volumes[cool], kind="stable")]
        for vm in islice(self._by_vsr(self._vms_of[row]), _SWAP_VMS):
            for other in cool[:_SWAP_HOSTS].tolist():
                others = self._others(vm, row, other)
                scratch = self._scratch(others, row, other) if others else None
                if others and scratch is not None:
                    count = 2 * len(others) + 1
                    if settings.max_moves is not None and len(self._moves) + count > settings.max_moves:
                        continue
                    self._exchange(vm, row, other, others, scratch)
                    return True
        return False

    def _others(self, vm: int, row: int, other: int) -> list[int] | None:
        """The fewest VMs of the other host with the least volume per byte, in whose place the VM fits, or None."""
        if other in self._situation.barred.get(vm, ()):
            return None
        chosen: list[int] = []
        for each in reversed(self._by_vsr(self._vms_of[other])):
            if row in self._situation.barred.get(each, ()):
                continue
            chosen.append(each)
            if len(chosen) > self._situation.settings.swap_vms:
                return None
            if self._ends_well(vm, row, other, chosen):
                return chosen
        return None

    def _ends_well(self, vm: int, row: int, other: int, others: list[int]) -> bool:
        site, rooms = self._site, self._rooms
        gone = site.mean[others].sum(axis=0)
        there = rooms.load[:, other] - gone + site.need[vm]
        here = rooms.load[:, row] - site.mean[vm] + site.need[others].sum(axis=0)
        size = np.array([site.vcpus[vm], site.mem_bytes[vm]])
        sizes = np.array([site.vcpus[others].sum(), site.mem_bytes[others].sum()])
        return bool(
            (there <= rooms.limit[:, other]).all()
            and (here <= self._goals[row]).all()
            and (rooms.promised[:, other] - sizes + size <= rooms.promisable[:, other]).all()
            and (rooms.promised[:, row] - size + sizes <= rooms.promisable[:, row]).all()
        )

    def _scratch(self, others: list[int], row: int, other: int) -> int | None:
        """The least loaded third host that can hold them for a while, in full though not below its threshold."""
        site, rooms = self._site, self._rooms
        need: Floats = site.need[others].sum(axis=0)
        free = (rooms.load + need[:, np.newaxis] <= rooms.capacity).all(axis=0) & rooms.open
        free &= rooms.promised[0] + site.vcpus[others].sum() <= rooms.promisable[0]
        free &= rooms.promised[1] + site.mem_bytes[others].sum() <= rooms.promisable[1]
        free[[row, other]] = False
        for each in others:
            free[list(self._situation.barred.get(each, ()))] = False
        return int(np.where(free, self._volumes, np.inf).argmin()) if free.any() else None

    def _exchange(self, vm: int, row: int, other: int, others: list[int], scratch: int) -> None:
        site, rooms = self._site, self._rooms
        names = listed_words([site.vms[each].name for each in others])
        there = site.hosts[scratch].host_id
        why = (
            f"{heat_words(self._situation, row)}. No migration alone cools it: {site.vms[vm].name} and {names} of"
            f" {site.hosts[other].host_id} change places by way of {there}"
        )
        for each in others:
            self._note(each, other, scratch, f"{why}; here {site.vms[each].name} makes room")
        self._note(vm, row, other, why)
        rooms.move(vm, other)
        for each in others:
            self._note(each, scratch, row, f"{why}; here {site.vms[each].name} takes the place")
            rooms.move(each, row)
        rooms.close([other])
        for each in (row, other):
            self._volumes[each] = volume(rooms.ratio(each))
        self._swaps += 1
