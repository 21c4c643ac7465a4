"""What a planner is asked, and what it answers. Pure values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from orchestrate.hotspots.detectors import WEIGHTED, Hot
from orchestrate.hotspots.host_loads import RESOURCES, Floats, Ints
from orchestrate.hotspots.hosts import Site

# What a share is subtracted from 1 by before it divides: a full host has a finite volume.
_LEAST_FREE_RATIO = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How long a live migration takes.

    Args:
        bytes_per_s: that one migration gets of the network.
        again_ratio: memory copied again since the VM wrote to it meanwhile.
        setup_s: whatever the size.
        window_bytes: in flight at most; over a long round trip it bounds the speed.
        rtt_s: between any two hosts; rtts_s: between those two, by their ids in order.
    """

    bytes_per_s: float = 62.5e6
    again_ratio: float = 0.3
    setup_s: float = 1.0
    window_bytes: float = 4.0 * 2**20
    rtt_s: float = 0.0005
    rtts_s: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def seconds(self, mem_bytes: float, source: str, target: str) -> float:
        """Of a VM with so much memory, between two hosts."""
        rtt_s = self.rtts_s.get((min(source, target), max(source, target)), self.rtt_s)
        speed = min(self.bytes_per_s, self.window_bytes / rtt_s) if rtt_s > 0 else self.bytes_per_s
        return self.setup_s + mem_bytes * (1 + self.again_ratio) / speed


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """Bounds of every plan.

    Args:
        use_ratio: no move may fill a host beyond this, on any resource, by what is expected.
        min_gain_ratio: a move must lead to a host that stays as much below what the source was at.
        max_moves, max_per_host: in one plan, and away from one host; None: as many as it takes.
        max_swaps, swap_vms: exchanges of one VM for several, and for how many.
    """

    use_ratio: float = 0.75
    min_gain_ratio: float = 0.05
    max_moves: int | None = None
    max_per_host: int | None = None
    max_swaps: int = 1
    swap_vms: int = 2
    transfer: Transfer = field(default_factory=Transfer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One migration. Args: vm, source, target: rows of the site. words: why this one and why there."""

    vm: int
    source: int
    target: int
    transfer_s: float
    words: str


def _nothing(vm: int) -> str | None:  # noqa: ARG001
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Situation:
    """One site and what is wrong with it.

    Attributes:
        hot: hosts to relieve, `row` in `site.hosts`.
        why_fixed: why a VM, by its row, may not be moved; None: it may. Asked for few of them.
        barred: hosts that a VM may not go (back) to, by rows.
    """

    site: Site
    hot: tuple[Hot, ...]
    settings: PlannerSettings
    why_fixed: Callable[[int], str | None] = _nothing
    barred: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @property
    def hot_rows(self) -> list[int]:
        return sorted({one.row for one in self.hot})

    def transfer_s(self, vm: int, source: int, target: int) -> float:
        """How long the VM takes from host to host."""
        hosts, size = self.site.hosts, float(self.site.mem_bytes[vm])
        return self.settings.transfer.seconds(size, hosts[source].host_id, hosts[target].host_id)

    def is_full(self, moves: Sequence[Move], row: int | None = None) -> bool:
        """A plan with these moves takes no more, or none from this host."""
        most, of_host = self.settings.max_moves, self.settings.max_per_host
        if most is not None and len(moves) >= most:
            return True
        return row is not None and of_host is not None and sum(move.source == row for move in moves) >= of_host

    def goals(self) -> Floats:
        """(H, 3) what each host's load should be below: its own detector's limit where that is the lower one."""
        ratio = np.full(self.site.capacity.shape, self.settings.use_ratio)
        for one in self.hot:
            if one.figure == WEIGHTED:
                part = one.limit_ratio / one.value_ratio if one.value_ratio > 0 else 1.0
                ratio[one.row] = np.minimum(ratio[one.row], self.site.need_ratio[one.row] * part)
            elif one.figure in RESOURCES:
                place = RESOURCES.index(one.figure)
                ratio[one.row, place] = min(ratio[one.row, place], one.limit_ratio)
        return ratio * self.site.capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsolved:
    """A host that stays hot. Args: row: of the host; None: it concerns all. words: why no move helps."""

    row: int | None
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Moves in the order of doing, and hosts that they do not cool. Neither: there was nothing to do."""

    moves: tuple[Move, ...]
    unsolved: tuple[Unsolved, ...] = ()


class Planner(Protocol):
    """One rule."""

    @property
    def name(self) -> str: ...

    def plan(self, situation: Situation) -> Proposal:
        """The same proposal for the same situation: ties go by the ids of hosts and VMs."""
        ...


def volume(share: Floats) -> Floats:
    """How loaded (..., n) shares are, taken together: 1 / (1 - u) of each, multiplied.

    It orders, and never decides what fits: one saturated resource hides in it behind free others.
    """
    found: Floats = np.prod(1.0 / np.maximum(1.0 - share, _LEAST_FREE_RATIO), axis=-1)
    return found


def volume_to_size(share: Floats, mem_bytes: Floats) -> Floats:
    """Volume per MiB that has to be copied: the larger, the more load a migration moves for its bytes."""
    return volume(share) / (mem_bytes / 2**20)


def by_host(site: Site) -> list[Ints]:
    """Each host's VMs, as rows in their order."""
    order = np.argsort(site.host_of, kind="stable")
    return np.split(order, np.searchsorted(site.host_of[order], np.arange(1, len(site.hosts))))
