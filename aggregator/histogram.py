"""Log-binned histograms of all metrics in one flat numbering of bins. Pure numpy.

Bin 0 of a metric holds the value 0; bin i holds the integers from `edges[i-1]` to `edges[i] - 1`. Edges
are the whole numbers nearest above 2^(k / bins_per_octave), so small values have a bin each and a wider
bin is at most 9.1 % wide (4.4 % for CPU). Counts are seconds, not samples: intervals may differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.summary import METRICS, Metric

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_RATIO_LIMIT = 1.0
_RATE_LIMIT = 2e13  # the sum of two rates at the wire's maximum


def _edges(metric: Metric) -> Ints:
    limit = (_RATIO_LIMIT if metric.unit == "ratio" else _RATE_LIMIT) / metric.quantum
    octaves = math.ceil(math.log2(limit)) + 1
    steps = np.arange(octaves * metric.bins_per_octave)
    return np.unique(np.ceil(2.0 ** (steps / metric.bins_per_octave)).astype(np.int64))


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a metric's bins lie in the flat numbering."""

    metric: Metric
    start: int
    edges: Ints

    @property
    def stop(self) -> int:
        return self.start + len(self.edges) + 1

    def bins(self, values: Ints) -> Ints:
        """Flat bin of each value >= 0."""
        return np.searchsorted(self.edges, values, side="right").astype(np.int64) + self.start


def _slices() -> tuple[Slice, ...]:
    slices: list[Slice] = []
    start = 0
    for metric in METRICS:
        slices.append(Slice(metric, start, _edges(metric)))
        start = slices[-1].stop
    return tuple(slices)


SLICES: Sequence[Slice] = _slices()
TOTAL_BINS = SLICES[-1].stop


def quantile(part: Slice, counts: npt.NDArray[np.integer], fraction: float, maxima: Ints) -> Floats:
    """The value below which `fraction` of the time lies, for many histograms of one metric at once.

    Args:
        part: the metric.
        counts: (..., bins) seconds a bin.
        fraction: 0..1.
        maxima: (...) exact largest value, which caps the answer.

    Returns: (...) in the metric's unit; NaN for an empty histogram. Inside a bin the integers are taken as evenly
    spread, so the error is at most one bin's width.
    """
    cumulative = counts.cumsum(axis=-1, dtype=counts.dtype)
    total = cumulative[..., -1]
    rank = fraction * total
    index = np.minimum((cumulative < rank[..., None]).sum(axis=-1), counts.shape[-1] - 1)
    upper = np.take_along_axis(cumulative, index[..., None], axis=-1)[..., 0]
    inside = np.take_along_axis(counts, index[..., None], axis=-1)[..., 0].astype(np.float64)
    share = np.divide(rank - (upper - inside), inside, out=np.zeros(inside.shape), where=inside > 0)
    lows = np.concatenate(([0], part.edges)).astype(np.float64)
    highs = np.concatenate(([0], part.edges[1:] - 1, part.edges[-1:])).astype(np.float64)
    value = np.minimum(lows[index] + np.clip(share, 0.0, 1.0) * (highs[index] - lows[index]), maxima)
    return np.where(total > 0, value * part.metric.quantum, np.nan)
