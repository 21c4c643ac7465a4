"""Which VM leaves an overloaded host first, as the published policies choose. Pure but for the lots of RS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from orchestrate.simulation.overload import HISTORY
from orchestrate.simulation.policy import View
from orchestrate.statistics import multiple_r_squared


class Selection(Protocol):
    """One rule."""

    def choose(self, view: View, vms: Sequence[int], /) -> int:
        """One of the VMs of a host, given in order of arrival, at least one."""
        ...


class MinimumMigrationTime:
    """MMT: the one with the least memory, the first of several."""

    def choose(self, view: View, vms: Sequence[int]) -> int:
        ram_bytes = view.park.vms.ram_bytes
        return min(vms, key=lambda vm: float(ram_bytes[vm]))


class MinimumUtilisation:
    """MU: the one that uses the least of its own CPU, the first of several."""

    def choose(self, view: View, vms: Sequence[int]) -> int:
        # Not `history`: whether two are equal hangs on the rounding of this division.
        used = view.demand_mips / view.park.vms.mips
        return min(vms, key=lambda vm: float(used[vm]))


class MaximumCorrelation:
    """MC: the one whose history is told best from the others'; by memory where that cannot be computed."""

    def __init__(self) -> None:
        self._fallback = MinimumMigrationTime()

    def choose(self, view: View, vms: Sequence[int]) -> int:
        known = multiple_r_squared(view.history[:HISTORY, list(vms)].T)
        if known is None:
            return self._fallback.choose(view, vms)
        positive = np.where(known > 0, known, 0.0)
        return vms[int(positive.argmax())]


class RandomSelection:
    """RS: any of them."""

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(seed)

    def choose(self, _view: View, vms: Sequence[int], /) -> int:
        return vms[int(self._draw.integers(len(vms)))]
