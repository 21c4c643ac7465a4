"""Facts for tests of the pure core: one VM's columns and evidence, without samples or a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aggregator.evidence import Evidence
from aggregator.histogram import SLICES
from aggregator.summary import STATISTIC_COLUMNS
from aggregator.windows import Windows
from reports.facts import DAY_S, Facts, Vm, WindowFacts

NOW_S = 1_795_000_000
OPEN_HOUR = NOW_S // 3600
DAYS = (1, 3, 7, 14, 30)
GIB = 2**30
QUIET: Mapping[str, float] = dict.fromkeys(STATISTIC_COLUMNS, 0.0)


def evidence(
    *,
    cpu_s: Mapping[float, int] | None = None,
    profile: Sequence[float] | None = None,
    weeks: int = 4,
    daily_bytes: Sequence[int] = (),
    traffic_s: Mapping[str, Mapping[float, int]] | None = None,
) -> bytes:
    """A blob whose windows all spent `cpu_s` seconds at each CPU ratio.

    Args:
        profile: mean CPU of each of the 168 hours of the week, Monday 00:00 UTC first, seen `weeks` times.
        daily_bytes: received on each of the last days, newest last.
        traffic_s: metric -> seconds at each rate, in every window.
    """
    windows = Windows.empty(DAYS, OPEN_HOUR)
    for ratio, seconds in (cpu_s or {}).items():
        value = np.array([round(ratio / SLICES[0].metric.quantum)])
        windows.counts[:, SLICES[0].bins(value)] += seconds
        windows.maxima[:, 0] = np.maximum(windows.maxima[:, 0], value)
    for part in SLICES:
        for rate, seconds in (traffic_s or {}).get(part.metric.name, {}).items():
            windows.counts[:, part.bins(np.array([round(rate)]))] += seconds
    if profile is not None:
        windows.profile_s[:] = weeks * 3600
        windows.profile_cpu[:] = np.rint(np.array(profile) / SLICES[0].metric.quantum) * weeks * 3600
    today = OPEN_HOUR // 24
    for back, received in enumerate(reversed(daily_bytes)):
        windows.daily[today - back] = [received, 0]
    return windows.encode()


def facts(
    columns: Mapping[str, float] = QUIET,
    *,
    vm: Vm | None = None,
    body: bytes | None = None,
    history_days: float = 60,
    coverage_ratio: float = 1.0,
    users_ratio: float = 0.0,
    cpu_count: float = 4,
    mem_bytes: float = 8 * GIB,
    newest_s: float = NOW_S - 300,
    skew_s: float = 0.2,
    days: Sequence[int] = DAYS,
) -> Facts:
    """One VM that reported for so long; every window has the same columns, and those not named are not measured."""

    def one(value: float) -> np.ndarray:
        return np.array([value], dtype=float)

    windows = {}
    for length in days:
        covered_s = coverage_ratio * min(length, history_days) * DAY_S
        windows[length] = WindowFacts(
            start_s=one(newest_s - length * DAY_S),
            end_s=one(newest_s),
            covered_s=one(covered_s),
            users_s=one(users_ratio * covered_s),
            columns={name: one(columns.get(name, np.nan)) for name in STATISTIC_COLUMNS},
        )
    return Facts(
        vms=[vm or Vm(vm_id="vm-a", enrolled_s=NOW_S - 90 * DAY_S)],
        oldest_s=one(newest_s - history_days * DAY_S),
        newest_s=one(newest_s),
        skew_s=one(skew_s),
        cpu_count=one(cpu_count),
        mem_total_bytes=one(mem_bytes),
        disk_total_bytes=one(40 * GIB),
        windows=windows,
        evidence=Evidence.decode([body]),
    )
