"""Our own planner: what is over the limit, resource by resource, against the seconds that taking it away costs.

Of the VMs that cool a host alone, the one that is over soonest moves; where none does, the one that takes most off per
second. It goes where the fullest resource stays lowest, and only where that is better than where it was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from orchestrate.hotspots.host_loads import Floats, Ints
from orchestrate.hotspots.planners.rooms import Rooms
from orchestrate.hotspots.planners.situation import Move, Proposal, Situation, Unsolved, by_host
from orchestrate.hotspots.planners.words import heat_words, move_words, stuck_words

_SAME = 1e-6


@dataclass(frozen=True, slots=True)
class FallowPlanner:
    """Vector feasibility, least cost first, a least gain for each move."""

    name: str = "fallow"

    def plan(self, situation: Situation) -> Proposal:
        site, goals = situation.site, situation.goals()
        rooms = Rooms(site, goals)
        rooms.close(situation.hot_rows)
        vms_of = by_host(site)
        worst = np.max(np.ascontiguousarray(rooms.load.T) / np.maximum(goals, _SAME), axis=1)
        moves: list[Move] = []
        unsolved: list[Unsolved] = []
        for row in sorted(situation.hot_rows, key=lambda each: (-float(worst[each]), each)):
            stuck = _relieve(situation, rooms, row, vms_of[row], goals[row], moves)
            if stuck is not None:
                unsolved.append(Unsolved(row=row, words=stuck))
        return Proposal(moves=tuple(moves), unsolved=tuple(unsolved))


def _relieve(situation: Situation, rooms: Rooms, row: int, vms: Ints, goal: Floats, moves: list[Move]) -> str | None:
    """Moves VMs off one host until it is below its goal; why it stays above, else None."""
    if not rooms.excess(row, goal).any():
        return "what is expected of it is within its limit already: no move is called for"
    while (excess := rooms.excess(row, goal)).any():
        left = np.array(
            [vm for vm in vms.tolist() if vm not in rooms.moved and situation.why_fixed(vm) is None], np.intp
        )
        if situation.is_full(moves, row):
            return stuck_words(situation, rooms, row, vms, goal, was_full=True)
        for vm, alone in _in_order(situation, left, excess, row):
            target = _target(situation, rooms, vm, row)
            if target is None:
                continue
            picked = (
                "the quickest move of those that cool it alone" if alone else "it takes most off for the time it needs"
            )
            words = move_words(situation, rooms, vm, row, target, heat=heat_words(situation, row), picked=picked)
            transfer_s = situation.transfer_s(vm, row, target)
            moves.append(Move(vm=vm, source=row, target=target, transfer_s=transfer_s, words=words))
            rooms.move(vm, target)
            break
        else:
            return stuck_words(situation, rooms, row, vms, goal, was_full=False)
    return None


def _in_order(situation: Situation, vms: Ints, excess: Floats, row: int) -> list[tuple[int, bool]]:
    """VMs that take something off what is over, the best first, and whether each is enough alone."""
    site, transfer = situation.site, situation.settings.transfer
    share = site.mean[vms] / site.capacity[row]
    off = np.minimum(share, excess).sum(axis=1)
    alone = (share >= excess - _SAME).all(axis=1)
    here = site.hosts[row].host_id
    cost_s = np.array([transfer.seconds(float(size), here, here) for size in site.mem_bytes[vms]])
    per_s = off / np.maximum(cost_s, _SAME)
    order = np.lexsort((vms, np.where(alone, cost_s, -per_s), ~alone))
    return [(int(vms[place]), bool(alone[place])) for place in order if off[place] > _SAME]


def _target(situation: Situation, rooms: Rooms, vm: int, row: int) -> int | None:
    """Where the fullest resource stays lowest; the nearer of equal ones; None where no host is better by enough."""
    settings = situation.settings
    fits = rooms.fits(vm, situation.barred.get(vm, ()))
    if not fits.any():
        return None
    after = np.max((rooms.load + situation.site.need[vm][:, np.newaxis]) / rooms.capacity, axis=0)
    after = np.where(fits, after, np.inf)
    best = np.flatnonzero(after <= after.min() + _SAME)
    if settings.transfer.rtts_s and len(best) > 1:
        times = [situation.transfer_s(vm, row, each) for each in best.tolist()]
        best = best[np.argsort(times, kind="stable")]
    gain = float(rooms.ratio(row).max() - after[best[0]])
    return int(best[0]) if gain >= settings.min_gain_ratio else None
