"""Histograms: narrow bins, and quantiles that are as exact as they promise."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.histogram import SLICES, TOTAL_BINS, Ints, Slice, quantile
from aggregator.summary import METRICS

LIMITS = {"ratio": 1.0, "bytes_per_s": 2e12}
parts = st.sampled_from(SLICES)


def largest(part: Slice) -> int:
    """The largest value of a metric, in its quanta."""
    return round(LIMITS[part.metric.unit] / part.metric.quantum)


def bounds(part: Slice, flat: int) -> tuple[int, int]:
    """Smallest and largest whole number in a bin."""
    index = flat - part.start
    return (0, 0) if index == 0 else (int(part.edges[index - 1]), int(part.edges[index]) - 1)


def counted(part: Slice, values: list[int], weights: list[int]) -> Ints:
    counts = np.zeros(part.stop - part.start, np.int64)
    np.add.at(counts, part.bins(np.array(values)) - part.start, weights)
    return counts


@st.composite
def weighted(draw: st.DrawFn, part: Slice) -> tuple[list[int], list[int]]:
    """Values of a metric and the seconds that each lasted."""
    values = st.one_of(st.integers(0, largest(part)), st.integers(0, min(1000, largest(part))))
    pairs = draw(st.lists(st.tuples(values, st.sampled_from([1, 60, 300, 3600])), min_size=1, max_size=60))
    return [value for value, _ in pairs], [weight for _, weight in pairs]


def test_every_metric_has_its_own_stretch_of_bins() -> None:
    """The stretches lie end to end in the order of the metrics, so a flat bin belongs to one metric."""
    assert [part.metric for part in SLICES] == list(METRICS)
    assert SLICES[0].start == 0
    assert all(before.stop == after.start for before, after in itertools.pairwise(SLICES))
    assert SLICES[-1].stop == TOTAL_BINS


@pytest.mark.parametrize("part", SLICES, ids=lambda part: part.metric.name)
def test_bins_are_narrow(part: Slice) -> None:
    """A bin is at most 10 % wide, one of CPU at most 4.5 %."""
    limit = 0.045 if part.metric.name.startswith("cpu") else 0.10
    lows, highs = part.edges[:-1], part.edges[1:] - 1
    assert ((highs - lows) / lows).max() <= limit


@given(st.data())
def test_a_value_lies_in_the_bin_that_holds_it(data: st.DataObject) -> None:
    """Every value from 0 to a metric's largest lies between the bounds of its bin, inside the metric's stretch."""
    part = data.draw(parts)
    value = data.draw(st.integers(0, largest(part)))
    flat = int(part.bins(np.array([value]))[0])
    assert part.start <= flat < part.stop - 1
    low, high = bounds(part, flat)
    assert low <= value <= high


@pytest.mark.parametrize("part", SLICES, ids=lambda part: part.metric.name)
def test_zero_has_a_bin_of_its_own(part: Slice) -> None:
    """Zero is told from the smallest value above it: 0.0 is a value."""
    assert part.bins(np.array([0, 1])).tolist() == [part.start, part.start + 1]


@given(st.data(), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_off_by_one_bin_at_most(data: st.DataObject, fraction: float) -> None:
    """The answer and numpy's exact weighted percentile lie in one bin, whatever the values and their weights."""
    part = data.draw(parts)
    values, weights = data.draw(weighted(part))
    # A hair to either side, since a rank that falls between two values may be rounded to either.
    exact = [
        int(np.quantile(values, min(max(near, 0.0), 1.0), weights=weights, method="inverted_cdf"))
        for near in (fraction - 1e-9, fraction + 1e-9)
    ]
    found = float(quantile(part, counted(part, values, weights), fraction, np.array(max(values))))
    flat = [int(number) for number in part.bins(np.array(exact))]
    lows, highs = zip(*(bounds(part, number) for number in flat), strict=True)
    quantum = part.metric.quantum
    assert min(lows) * quantum - 1e-9 <= found <= max(highs) * quantum * (1 + 1e-12)


@given(st.data())
def test_a_quantile_never_passes_the_maximum(data: st.DataObject) -> None:
    """No percentile is above the largest value that was seen."""
    part = data.draw(parts)
    values, weights = data.draw(weighted(part))
    found = quantile(part, counted(part, values, weights), 0.99, np.array(max(values)))
    assert found <= max(values) * part.metric.quantum


def test_an_empty_histogram_has_no_quantile() -> None:
    """What was never measured is unknown, not zero."""
    part = SLICES[0]
    assert np.isnan(quantile(part, np.zeros(part.stop - part.start, np.int64), 0.95, np.array(-1)))


def test_an_idle_histogram_has_the_quantile_zero() -> None:
    """A VM that did nothing has a p95 of exactly 0."""
    part = SLICES[0]
    assert quantile(part, counted(part, [0, 0, 0], [60, 60, 60]), 0.95, np.array(0)) == 0.0


@given(st.data())
def test_many_histograms_at_once_equal_one_at_a_time(data: st.DataObject) -> None:
    """A table of histograms gives in each cell what that histogram gives alone."""
    part = data.draw(parts)
    each = [data.draw(weighted(part)) for _ in range(6)]
    counts = np.array([counted(part, *pair) for pair in each]).reshape(2, 3, -1)
    maxima = np.array([max(values) for values, _ in each]).reshape(2, 3)
    together = quantile(part, counts, 0.95, maxima)
    alone = [float(quantile(part, counted(part, *pair), 0.95, np.array(max(pair[0])))) for pair in each]
    assert together.ravel().tolist() == alone


def test_bins_stay_where_stored_histograms_expect_them() -> None:
    """Stores and summaries hold bin numbers: other bins need another SCHEMA_VERSION and another layout of `Windows`.

    Whoever changes the edges on purpose raises both and puts the new sum here.
    """
    edges = b"".join(part.start.to_bytes(4, "little") + part.edges.astype("<i8").tobytes() for part in SLICES)
    assert hashlib.sha256(edges).hexdigest()[:16] == "9147774f85f6812e"
