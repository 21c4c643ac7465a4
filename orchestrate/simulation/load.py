"""What VMs did, on a grid of 300 s. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrate.simulation.park import Floats
from orchestrate.simulation.policy import TICK_S


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Load:
    """What VMs did.

    Attributes:
        name: of the trace.
        ratio: (samples, V) of each VM's own CPU, 0..1, one every 300 s. Between two it goes in a straight line,
            after the last it stays.
    """

    name: str
    ratio: Floats

    def __post_init__(self) -> None:
        self.ratio.setflags(write=False)

    @property
    def ticks(self) -> int:
        """When policies decide: at every sample but the first."""
        return len(self.ratio) - 1

    def at(self, now_s: float) -> Floats:
        """(V,) ratios at a time since the first sample."""
        row = int(now_s // TICK_S)
        since_s = now_s - row * TICK_S
        here: Floats = self.ratio[min(row, self.ticks)]
        if since_s == 0:
            return here
        ahead = self.ratio[min(row + 1, self.ticks)]
        found: Floats = here + ((ahead - here) / TICK_S) * since_s
        return found
