"""What each detector would have said of recorded load, sample by sample, and how that compares with what came. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrate.hotspots.detectors import Detector, History
from orchestrate.hotspots.host_loads import Bools, Floats

# A detector remembers no longer than the live one does.
WINDOW = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One detector on one trace.

    Args:
        hot_minutes: in which a series was called hot, of all series.
        overloads: times that a series went above the limit of overload, whatever was said.
        warned: of them called hot before; lead_s: how long before, the mean; None without any.
        late: called hot only once it had begun. missed: never called hot.
        alarms: times that a series became hot; false_alarms: of them without an overload then or soon after.
    """

    detector: str
    trace: str
    series: int
    hot_minutes: float
    overloads: int
    warned: int
    lead_s: float | None
    late: int
    missed: int
    alarms: int
    false_alarms: int


def replay(
    name: str,
    ratio: Floats,
    interval_s: float,
    detectors: Iterable[Detector],
    *,
    overload_ratio: float,
    horizon_s: float,
) -> tuple[Tally, ...]:
    """Each detector sees the samples so far, never one to come.

    Args:
        ratio: (n, T) n series of CPU shares, oldest first, NaN is not recorded.
        horizon_s: a warning counts for an overload that comes within this.
    """
    overloaded = ratio >= overload_ratio
    horizon = max(round(horizon_s / interval_s), 1)
    return tuple(
        _tally(detector.name, name, said(detector, ratio), overloaded, interval_s, horizon) for detector in detectors
    )


def said(detector: Detector, ratio: Floats) -> Bools:
    """(n, T) whether each series was hot at each sample, by what was known then."""
    found = np.zeros(ratio.shape, np.bool_)
    for end in range(1, ratio.shape[1] + 1):
        seen = ratio[:, np.newaxis, max(end - WINDOW, 0) : end]
        judged = detector.judge(History(resources=("cpu",), ratio=seen))
        found[:, end - 1] = judged.hot[:, 0] & ~np.isnan(ratio[:, end - 1])
    return found


def grouped(ratio: Floats, size: int, overcommit_ratio: float) -> Floats:
    """(n / size, T) hosts of `size` series each, in their order; what is left over makes no host.

    Args: overcommit_ratio: capacity of the series together, of the host's.
    """
    hosts = len(ratio) // size
    together: Floats = ratio[: hosts * size].reshape(hosts, size, ratio.shape[1]).sum(axis=1)
    return together * (overcommit_ratio / size)


def _tally(detector: str, trace: str, hot: Bools, overloaded: Bools, interval_s: float, horizon: int) -> Tally:
    leads: list[int] = []
    overloads = late = missed = alarms = false_alarms = 0
    # Most series have neither.
    for row in np.flatnonzero(hot.any(axis=1) | overloaded.any(axis=1)):
        for start, end in _runs(overloaded[row]):
            overloads += 1
            before = hot[row, max(start - horizon, 0) : start]
            if before.any():
                leads.append(len(before) - int(before.argmax()))
            elif hot[row, start:end].any():
                late += 1
            else:
                missed += 1
        for start, end in _runs(hot[row]):
            alarms += 1
            false_alarms += not overloaded[row, start : end + horizon].any()
    return Tally(
        detector=detector,
        trace=trace,
        series=len(hot),
        hot_minutes=float(hot.sum() * interval_s / 60.0),
        overloads=overloads,
        warned=len(leads),
        lead_s=float(np.mean(leads)) * interval_s if leads else None,
        late=late,
        missed=missed,
        alarms=alarms,
        false_alarms=false_alarms,
    )


def _runs(flags: Bools) -> Iterator[tuple[int, int]]:
    """Where each run of true values begins, and where it has ended."""
    edges: Sequence[int] = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8))).tolist()
    return zip(edges[::2], edges[1::2], strict=True)
