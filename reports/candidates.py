"""What the fleet database knows of one VM: the value that policies judge. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a VM's agent has sent so far.

    Attributes:
        oldest_s, newest_s: ts of its first and of its newest sample, Unix seconds on the VM's clock.
        skew_s: how far the VM's clock was behind the aggregator's at the newest push; negative when ahead.
        flags: what makes its figures doubtful, such as `identity_conflict`.
        cpu_count, mem_total_bytes: its size; None when not measured.
    """

    oldest_s: int
    newest_s: int
    skew_s: float
    flags: tuple[str, ...]
    cpu_count: int | None
    mem_total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A VM's figures over the `days` that end with its newest sample.

    Attributes:
        start_s, end_s: Unix seconds; a VM younger than the window was born after `start_s`.
        covered_s: seconds that samples cover.
        statistics: the other columns of `vm_window` by name; None is not measured, never zero.
    """

    days: int
    start_s: int
    end_s: int
    covered_s: int
    statistics: Mapping[str, float | None]

    @property
    def coverage_ratio(self) -> float:
        """Share of the window that samples cover; 0 for a window without length."""
        length_s = self.end_s - self.start_s
        return self.covered_s / length_s if length_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One VM of the catalogue.

    Attributes:
        power_state: `on`, `off` or None where no inventory tells.
        enrolled_s: None for a VM that is known from a CSV and runs no agent.
        summary: None until its first samples are flushed.
        window: None when there are no figures for the window asked for.
    """

    vm_id: str
    name: str | None = None
    hostname: str | None = None
    owner: str | None = None
    tags: tuple[str, ...] = ()
    power_state: str | None = None
    enrolled_s: int | None = None
    summary: Summary | None = None
    window: Window | None = None
