"""Power-aware consolidation: best-fit decreasing of VMs picked by memory (MMT) or by correlation (MC).

What live hosts draw is not known, so that the least added power is the least free host that is awake: an idle one
draws most of its power for nothing, and waking one is the last resort.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrate.hotspots.host_loads import CPU, Bools, Floats, Ints
from orchestrate.hotspots.planners.rooms import Rooms
from orchestrate.hotspots.planners.situation import Move, Proposal, Situation, Unsolved, by_host
from orchestrate.hotspots.planners.words import heat_words, move_words, stuck_words
from orchestrate.statistics import multiple_r_squared
from reports.words import count_words, number


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerAwarePlanner:
    """Takes VMs off hot hosts until these are below their goals, then places all of them, the largest first.

    Args: by_correlation: MC instead of MMT.
    """

    name: str
    by_correlation: bool = False

    def plan(self, situation: Situation) -> Proposal:
        goals = situation.goals()
        rooms = Rooms(situation.site, goals)
        rooms.close(situation.hot_rows)
        vms_of = by_host(situation.site)
        picked = [
            vm for row in situation.hot_rows for vm in self._pick(situation, vms_of[row], rooms.excess(row, goals[row]))
        ]
        picked.sort(key=lambda vm: (-float(situation.site.need[vm, CPU]), vm))
        awake = np.array([len(vms) > 0 for vms in vms_of])
        rule = "its history follows the others' most" if self.by_correlation else "the least memory to copy"
        moves: list[Move] = []
        for vm in picked:
            source = int(situation.site.host_of[vm])
            if situation.is_full(moves, source):
                continue
            target = _best_fit(situation, rooms, vm, awake)
            if target is not None:
                heat = heat_words(situation, source)
                words = move_words(situation, rooms, vm, source, target, heat=heat, picked=rule)
                moves.append(_made(situation, rooms, vm, target, words))
                awake[target] = True
        unsolved = [
            Unsolved(
                row=row,
                words=stuck_words(
                    situation, rooms, row, vms_of[row], goals[row], was_full=situation.is_full(moves, row)
                ),
            )
            for row in situation.hot_rows
            if rooms.excess(row, goals[row]).any()
        ]
        return Proposal(moves=tuple(moves), unsolved=tuple(unsolved))

    def _pick(self, situation: Situation, vms: Ints, excess: Floats) -> list[int]:
        """VMs of one hot host until what is left is below its goal."""
        site = situation.site
        left = [vm for vm in vms.tolist() if situation.why_fixed(vm) is None]
        found: list[int] = []
        over = excess.copy()
        while left and (over > 0).any():
            vm = self._choose(situation, left)
            left.remove(vm)
            found.append(vm)
            over = over - site.mean[vm] / site.capacity[site.host_of[vm]]
        return found

    def _choose(self, situation: Situation, vms: list[int]) -> int:
        if self.by_correlation:
            told = multiple_r_squared(situation.site.series[vms])
            if told is not None and (np.nan_to_num(told) > 0).any():
                return vms[int(np.nan_to_num(told).argmax())]
        return min(vms, key=lambda vm: (float(situation.site.mem_bytes[vm]), vm))


@dataclass(frozen=True, slots=True)
class Consolidation:
    """Empties the hosts that do least, one by one, where all of their VMs fit on others that are awake.

    For a site without hot hosts; a host that is emptied half is not touched at all.
    """

    # One that could not be emptied says little of the next; so many in a row say that the rest is full.
    give_up_after: int = 20
    name: str = "consolidation"

    def plan(self, situation: Situation) -> Proposal:
        site, goals = situation.site, situation.goals()
        rooms = Rooms(site, goals)
        rooms.close(situation.hot_rows)
        vms_of = by_host(site)
        awake = np.array([len(vms) > 0 for vms in vms_of])
        moves: list[Move] = []
        received: set[int] = set()
        failed = 0
        for row in sorted(np.flatnonzero(awake).tolist(), key=lambda each: (float(site.need_ratio[each].max()), each)):
            if row in received or row in situation.hot_rows:
                continue
            made = _emptied(situation, rooms, row, vms_of[row], awake, len(moves))
            if made is None:
                failed += 1
                if failed >= self.give_up_after:
                    break
                continue
            failed = 0
            moves += made
            received.update(move.target for move in made)
            rooms.close([row])
            awake[row] = False
        why = () if moves else (Unsolved(row=None, words="no host can be emptied onto the others that are awake"),)
        return Proposal(moves=tuple(moves), unsolved=why)


def _emptied(situation: Situation, rooms: Rooms, row: int, vms: Ints, awake: Bools, made: int) -> list[Move] | None:
    """The moves that take everything off a host; None where that cannot be."""
    site = situation.site
    most, of_host = situation.settings.max_moves, situation.settings.max_per_host
    if (most is not None and made + len(vms) > most) or (of_host is not None and len(vms) > of_host):
        return None
    if any(situation.why_fixed(vm) is not None for vm in vms.tolist()):
        return None
    mark, moves = rooms.mark(), []
    share = number(float(site.need_ratio[row].max()), "ratio")
    for vm in sorted(vms.tolist(), key=lambda each: (-float(site.need[each, CPU]), each)):
        target = _best_fit(situation, rooms, vm, awake, wake=False)
        if target is None:
            rooms.back_to(mark)
            return None
        why = f"{site.hosts[row].host_id} is {share} full at most: its {count_words(len(vms), 'VM')} fit elsewhere"
        words = move_words(situation, rooms, vm, row, target, heat=why, picked="the host becomes free")
        moves.append(_made(situation, rooms, vm, target, words))
    return moves


def _best_fit(
    situation: Situation,
    rooms: Rooms,
    vm: int,
    awake: Bools,
    *,
    wake: bool = True,
) -> int | None:
    """The host that is awake and fullest with the VM, else with `wake` one that is empty."""
    fits = rooms.fits(vm, situation.barred.get(vm, ()))
    after = rooms.fill_after(vm)
    for those in (fits & awake, fits & ~awake) if wake else (fits & awake,):
        if those.any():
            return int(np.where(those, after, -np.inf).argmax())
    return None


def _made(situation: Situation, rooms: Rooms, vm: int, target: int, words: str) -> Move:
    source = int(situation.site.host_of[vm])
    rooms.move(vm, target)
    transfer_s = situation.transfer_s(vm, source, target)
    return Move(vm=vm, source=source, target=target, transfer_s=transfer_s, words=words)
