"""What a flush says of each VM, and the order that asks for it: plain values without numpy or a database.

Both sides of a flush import this, the aggregator's process and its workers, and so does the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

WINDOWS_DAYS: tuple[int, ...] = (1, 3, 7, 14, 30)
STATISTICS: tuple[str, ...] = ("mean", "p50", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is summarised over windows.

    Args:
        name: first part of its columns.
        unit: last part of its columns: `ratio` or `bytes_per_s`.
        quantum: size of one step of the integers it is computed in, in its unit.
        bins_per_octave: 16 are 4.4 % wide, 8 are 9.1 %.
        statistics: which of STATISTICS a window keeps as columns; histograms keep the rest.
    """

    name: str
    unit: str
    quantum: float
    bins_per_octave: int
    statistics: tuple[str, ...]

    def column(self, statistic: str) -> str:
        """Name of the window column, such as `cpu_busy_p95_ratio`."""
        return f"{self.name}_{statistic}_{self.unit}"


METRICS: tuple[Metric, ...] = (
    Metric("cpu_busy", "ratio", 1e-5, 16, STATISTICS),
    Metric("cpu_max", "ratio", 1e-5, 16, ("mean", "p95", "max")),
    Metric("mem_used", "ratio", 1e-4, 8, ("mean", "p95", "max")),
    Metric("disk_used", "ratio", 1e-4, 8, ("mean", "max")),
    Metric("disk_read", "bytes_per_s", 1.0, 8, ("mean", "p95", "max")),
    Metric("disk_write", "bytes_per_s", 1.0, 8, ("mean", "p95", "max")),
    Metric("disk_io", "bytes_per_s", 1.0, 8, ("mean", "p95")),
    Metric("net_rx", "bytes_per_s", 1.0, 8, ("mean", "p95", "max")),
    Metric("net_tx", "bytes_per_s", 1.0, 8, ("mean", "p95", "max")),
    Metric("net_io", "bytes_per_s", 1.0, 8, ("mean", "p95")),
)

STATISTIC_COLUMNS: tuple[str, ...] = tuple(
    metric.column(statistic) for metric in METRICS for statistic in metric.statistics
)

SKEW_LIMIT_S = 120.0


def flags_of(skew_s: float, *, identity_conflict: bool, replaced: bool) -> list[str]:
    """What makes a VM's figures doubtful, in the words of the fleet database."""
    found = {
        "clock_skew": abs(skew_s) > SKEW_LIMIT_S,
        "identity_conflict": identity_conflict,
        "store_replaced": replaced,
    }
    return [name for name, is_so in found.items() if is_so]


class Taken(NamedTuple):
    """One VM's part of a flush; rows may be none when only its summary is wanted.

    Attributes:
        rows: packed rows, any order.
        conflicts: samples refused in memory because another with their ts was first.
        received_s: when the newest push came.
        skew_s: received - sent of it.
        wants_figures: figures are wanted though no hour closed.
        had_history: it had rows before: a store without any is not new but has lost them.
        verify: hold all of its store against its sums.
        life: that the rows are of; see `aggregator.lives`.
    """

    vm_id: str
    rows: bytes
    conflicts: int
    received_s: float
    skew_s: float
    identity_conflict: bool
    wants_figures: bool = False
    had_history: bool = False
    verify: bool = False
    life: int = 0


class Heard(NamedTuple):
    """When a VM was last heard of, whose rows are not in its store yet.

    Attributes:
        newest_s: ts of its newest sample.
        received_s: when its newest push came.
        skew_s: received - sent of it.
    """

    vm_id: str
    newest_s: int
    received_s: float
    skew_s: float


class LostStore(NamedTuple):
    """A store whose rows are not counted on any more; a new one was begun.

    Attributes:
        why: in words, for a log.
        aside: where the damaged file was moved; None: the store was gone.
    """

    why: str
    aside: str | None


class Figures(NamedTuple):
    """What one window of one VM says; `statistics` in the order of `STATISTIC_COLUMNS`, None where unknown."""

    window_days: int
    start_s: int
    covered_s: int
    users_s: int
    statistics: tuple[float | None, ...]


class Summary(NamedTuple):
    """One VM after a flush: what the fleet database keeps of it, while the life of the VM is this one."""

    vm_id: str
    oldest_s: int
    newest_s: int
    received_s: float
    skew_s: float
    interval_s: int
    conflicts: int
    cpu_count: int | None
    mem_total_bytes: int | None
    disk_total_bytes: int | None
    flags: list[str]
    figures: list[Figures]
    evidence_hour_s: int
    evidence: bytes | None  # None: unchanged since the hour last closed
    life: int = 0


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a worker needs to know. Lengths are seconds, windows whole days."""

    data_dir: Path
    windows_days: tuple[int, ...]
    raw_retention_s: float
    hour_retention_s: float


class ChunkResult(NamedTuple):
    """What became of a chunk.

    Attributes:
        summaries: of every VM whose store holds its rows.
        failures: VM -> why its store could not take its rows now; they are still owed.
        lost_stores: VM -> what became of a store that was damaged or gone.
        inserted, duplicates, conflicts: rows.
        newer_lives: VM -> life of its store, where that is after the one of its rows: they were let go of.
    """

    summaries: list[Summary]
    failures: dict[str, str]
    lost_stores: dict[str, LostStore]
    inserted: int
    duplicates: int
    conflicts: int
    newer_lives: dict[str, int]
