"""Why a VM moves, why there, and why no move helps: sentences with their figures. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from orchestrate.hotspots.host_loads import RESOURCES, Floats
from orchestrate.hotspots.planners.rooms import Rooms
from orchestrate.hotspots.planners.situation import Situation
from reports.words import count_words, gib, listed_words, number

_NAMES = {"mem": "memory"}


def heat_words(situation: Situation, row: int) -> str:
    """`hv1 is hot on cpu: …`"""
    found = [f"{_NAMES.get(one.figure, one.figure)}: {one.words}" for one in situation.hot if one.row == row]
    return f"{situation.site.hosts[row].host_id} is hot on {'; on '.join(found)}"


def move_words(situation: Situation, rooms: Rooms, vm: int, source: int, target: int, *, heat: str, picked: str) -> str:
    """Everything about one move, before it is made in `rooms`."""
    site = situation.site
    name, to = site.vms[vm].name, site.hosts[target].host_id
    transfer_s = situation.transfer_s(vm, source, target)
    takes = _shares(site.mean[vm] / site.capacity[source])
    after = _shares((rooms.load[:, target] + site.need[vm]) / rooms.capacity[:, target])
    return (
        f"{heat}. {name} takes {takes} of it: {picked}. {to} will be at {after} then."
        f" Transfer: {gib(float(site.mem_bytes[vm]))}, about {transfer_s:.0f} s"
    )


def stuck_words(
    situation: Situation, rooms: Rooms, row: int, vms: Iterable[int], goal: Floats, *, was_full: bool
) -> str:
    """Why a host stays hot."""
    if was_full:
        return "stays hot in this plan, which may hold no more moves (of all, or from this host)"
    site = situation.site
    reasons: Counter[str] = Counter()
    for vm in vms:
        if vm in rooms.moved:
            continue
        if (fixed := situation.why_fixed(int(vm))) is not None:
            reasons[fixed] += 1
        elif not rooms.fits(int(vm), situation.barred.get(int(vm), ())).any():
            reasons[f"fit no host ({_tightest(rooms, int(vm))})"] += 1
        else:
            reasons["could go, and would not cool it"] += 1
    over = [name for name, excess in zip(RESOURCES, rooms.excess(row, goal), strict=True) if excess > 0]
    if not reasons:
        return f"no move helps: no VM runs on {site.hosts[row].host_id} that could be moved"
    told = listed_words([f"{count_words(count, 'VM')}: {why}" for why, count in sorted(reasons.items())])
    return f"no move helps, {_listed(over)} stays above its limit. Of its VMs, {told}"


def _tightest(rooms: Rooms, vm: int) -> str:
    """What most of the other hosts lack for a VM."""
    site = rooms.site
    need, lacks = site.need[vm], Counter[str]()
    here = int(site.host_of[vm])
    others = np.ones(len(site.hosts), np.bool_)
    others[here] = False
    shut = others & ~rooms.open
    lacks["closed or hot themselves"] = int(shut.sum())
    others &= rooms.open
    for place, name in enumerate(RESOURCES):
        lacks[f"not enough {_NAMES.get(name, name)} left"] = int(
            (others & (rooms.load[place] + need[place] > rooms.limit[place])).sum()
        )
    for place, (name, size) in enumerate((("vCPUs", site.vcpus[vm]), ("memory", site.mem_bytes[vm]))):
        lacks[f"too many {name} promised" if place == 0 else f"too much {name} promised"] = int(
            (others & (rooms.promised[place] + size > rooms.promisable[place])).sum()
        )
    most = max(lacks.items(), key=lambda item: (item[1], item[0]))
    return f"{most[0]} on {count_words(most[1], 'host')}" if most[1] else "there is no other"


def _shares(ratio: Floats) -> str:
    names = [_NAMES.get(name, name) for name in RESOURCES]
    parts = [f"{number(float(each), 'ratio')} {name}" for name, each in zip(names, ratio, strict=True)]
    return listed_words(parts)


def _listed(names: list[str]) -> str:
    return listed_words([_NAMES.get(name, name) for name in names]) or "it"
