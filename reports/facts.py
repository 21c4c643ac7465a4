"""What the fleet database knows of many VMs, in columns: the value that policies judge. Pure numpy.

NaN is not known, never zero. One VM is `Facts` of length one: there is one way to judge, for a page as for a fleet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.evidence import Evidence
from aggregator.histogram import Floats
from reports.nodes import Part

DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """What the catalogue says of one VM.

    Attributes:
        power_state: `on`, `off` or None where no inventory tells.
        enrolled_s: None for a VM that is known from a CSV and runs no agent.
        flags: what makes its figures doubtful, such as `identity_conflict`.
        parts: of its history that lie elsewhere than at home; where there are any, the flag `history_split` is set.
    """

    vm_id: str
    name: str | None = None
    hostname: str | None = None
    owner: str | None = None
    mail: str | None = None
    tags: tuple[str, ...] = ()
    power_state: str | None = None
    enrolled_s: int | None = None
    flags: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowFacts:
    """One window of every VM; it ends with each VM's newest sample.

    Attributes:
        start_s, end_s, covered_s, users_s: (n,) columns of `vm_window`; NaN where a VM has no such window.
        columns: (n,) the statistics by their column, such as `cpu_busy_p95_ratio`.
    """

    start_s: Floats
    end_s: Floats
    covered_s: Floats
    users_s: Floats
    columns: Mapping[str, Floats]

    @property
    def coverage_ratio(self) -> Floats:
        """(n,) share of the window that samples cover; NaN without a window, 0 for one without length."""
        length_s = self.end_s - self.start_s
        return np.where(length_s > 0, self.covered_s / np.where(length_s > 0, length_s, 1.0), self.covered_s * 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Many VMs, one row each.

    Attributes:
        vms: the catalogue's part, n of them.
        oldest_s, newest_s: (n,) ts of the first and the newest sample; NaN for a VM that never reported.
        skew_s: (n,) how far the VM's clock was behind the aggregator's at the newest push.
        cpu_count, mem_total_bytes, disk_total_bytes: (n,) sizes.
        windows: by length in days; those that the aggregator keeps.
        evidence: histograms, hour-of-week profile and daily traffic.
    """

    vms: Sequence[Vm]
    oldest_s: Floats
    newest_s: Floats
    skew_s: Floats
    cpu_count: Floats
    mem_total_bytes: Floats
    disk_total_bytes: Floats
    windows: Mapping[int, WindowFacts]
    evidence: Evidence

    def __len__(self) -> int:
        return len(self.vms)

    def column(self, days: int, name: str) -> Floats:
        """(n,) a column of a window; NaN throughout where the aggregator keeps no such window or column."""
        window = self.windows.get(days)
        found = None if window is None else window.columns.get(name)
        return np.full(len(self), np.nan) if found is None else found
