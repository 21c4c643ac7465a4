"""What came of flushes, in figures."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class FlushReport:
    """One flush.

    Attributes:
        failures: VM -> why its rows are still owed.
        summaries_owed: VMs whose summary the fleet database lacks.
    """

    vms: int = 0
    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    summaries_owed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class FlushTotals:
    """What flushes have done since the start."""

    flushes: int = 0
    overruns: int = 0
    seconds: float = 0.0
    last_s: float = 0.0
    last_duration_s: float = 0.0
    rows: int = 0
    duplicates: int = 0
    conflicts: int = 0
    stores: int = 0
    store_failures: int = 0
    stores_lost: int = 0

    def add(self, report: FlushReport, *, now_s: float) -> None:
        """A flush ended."""
        self.flushes += 1
        self.seconds += report.seconds
        self.last_s = now_s
        self.last_duration_s = report.seconds
        self.rows += report.rows
        self.duplicates += report.duplicates
        self.conflicts += report.conflicts
        self.stores += report.vms
        self.store_failures += len(report.failures)
