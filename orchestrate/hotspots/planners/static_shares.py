"""Fixed shares of memory, each host by its own: the fullest first, to the emptiest that stays below its own.

The rule that this is made after stopped VMs above a second share, and looked at one host's share for both. Here a VM is
only ever moved, the second share is for the detector to warn by, and age decides between equals alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrate.hotspots.host_loads import MEM, Floats, Ints
from orchestrate.hotspots.planners.rooms import Rooms
from orchestrate.hotspots.planners.situation import Move, Proposal, Situation, Unsolved, by_host
from orchestrate.hotspots.planners.words import heat_words, move_words, stuck_words


@dataclass(frozen=True, slots=True)
class StaticSharesPlanner:
    """Args: migrate_ratio: of a host's memory, above which VMs leave it and below which they may come."""

    migrate_ratio: float = 0.08
    name: str = "static-shares"

    def plan(self, situation: Situation) -> Proposal:
        site = situation.site
        goals = situation.goals()
        goals[:, MEM] = np.minimum(goals[:, MEM], self.migrate_ratio * site.capacity[:, MEM])
        rooms = Rooms(site, goals)
        rooms.close(situation.hot_rows)
        vms_of = by_host(site)
        moves: list[Move] = []
        unsolved: list[Unsolved] = []
        for row in sorted(situation.hot_rows, key=lambda each: (-float(site.need_ratio[each, MEM]), each)):
            _relieve(situation, rooms, row, vms_of[row], goals[row], moves)
            if rooms.excess(row, goals[row]).any():
                was_full = situation.is_full(moves, row)
                words = stuck_words(situation, rooms, row, vms_of[row], goals[row], was_full=was_full)
                unsolved.append(Unsolved(row=row, words=words))
        return Proposal(moves=tuple(moves), unsolved=tuple(unsolved))


def _relieve(situation: Situation, rooms: Rooms, row: int, vms: Ints, goal: Floats, moves: list[Move]) -> None:
    while (excess := rooms.excess(row, goal)).any() and not situation.is_full(moves, row):
        for vm in _in_order(situation, rooms, vms, excess):
            fits = rooms.fits(vm, situation.barred.get(vm, ()))
            if fits.any():
                share = np.where(fits, rooms.load[MEM] / rooms.capacity[MEM], np.inf)
                target = int(share.argmin())
                break
        else:
            return
        picked = "the smallest that brings it below its share, or else the largest"
        words = move_words(situation, rooms, vm, row, target, heat=heat_words(situation, row), picked=picked)
        transfer_s = situation.transfer_s(vm, row, target)
        moves.append(Move(vm=vm, source=row, target=target, transfer_s=transfer_s, words=words))
        rooms.move(vm, target)


def _in_order(situation: Situation, rooms: Rooms, vms: Ints, excess: Floats) -> list[int]:
    """Those that are enough alone, the smallest first; then the others, the largest first; the oldest of equals."""
    site = situation.site

    def key(vm: int) -> tuple[bool, float, float, int]:
        share = site.mean[vm] / site.capacity[site.host_of[vm]]
        alone = bool((share >= excess).all())
        size = float(share[MEM])
        created_s = site.vms[vm].created_s
        return not alone, size if alone else -size, np.inf if created_s is None else created_s, vm

    left = (vm for vm in vms.tolist() if vm not in rooms.moved and situation.why_fixed(vm) is None)
    return sorted(left, key=key)
