"""The published overload tests, at their limits and with too short a history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from orchestrate.simulation.overload import (
    HISTORY,
    LocalLine,
    MedianDeviation,
    OverloadTest,
    QuartileRange,
    Standing,
    Threshold,
)


def standing(asked: float, newest_first: Sequence[float], ahead: float = 1.0) -> Standing:
    history = np.zeros((1, HISTORY))
    history[0, : len(newest_first)] = newest_first
    filled = np.flatnonzero(history[0])
    return Standing(
        asked_ratio=np.array([asked]),
        history=history,
        lengths=np.array([float(filled[-1] + 1) if len(filled) else 1.0]),
        ahead_ticks=np.array([ahead]),
    )


def says(test: OverloadTest, hosts: Standing) -> bool:
    return bool(test.overloaded(hosts)[0])


def test_threshold() -> None:
    """More than the threshold, not as much."""
    assert not says(Threshold(), standing(0.8, [0.8]))
    assert says(Threshold(), standing(0.80001, [0.8]))
    assert says(Threshold(0.5), standing(0.6, [0.6]))


@pytest.mark.parametrize("test", [QuartileRange(), MedianDeviation(), LocalLine()])
def test_short_histories_compare_with_seven_tenths(test: OverloadTest) -> None:
    """Before there are enough values, and when the older ones are zeros."""
    assert not says(test, standing(0.7, [0.7] * 9))
    assert says(test, standing(0.71, [0.7] * 9))
    assert says(test, standing(0.71, [0.1] * 5 + [0.0] * 20))


def test_quartile_range() -> None:
    """Steady load may fill the host; load whose quartiles lie 0.2 apart may fill 1 - 1.5 x 0.2."""
    assert not says(QuartileRange(), standing(0.999, [0.5] * 12))
    uneven = [0.4] * 6 + [0.6] * 6
    assert not says(QuartileRange(), standing(0.69, uneven))
    assert says(QuartileRange(), standing(0.71, uneven))


def test_median_deviation() -> None:
    """Half of the values 0.1 from the median leaves 1 - 2.5 x 0.1."""
    uneven = [0.4] * 6 + [0.6] * 6
    assert not says(MedianDeviation(), standing(0.74, uneven))
    assert says(MedianDeviation(), standing(0.76, uneven))


def test_the_history_ends_with_its_last_value_that_is_not_zero() -> None:
    """Zeros before a VM had any load do not widen the spread: only 12 values count here."""
    assert not says(MedianDeviation(), standing(0.99, [0.5] * 12 + [0.0] * 18))


def test_local_line() -> None:
    """A line of the last ten that reaches 1 / 1.2 at the next tick; older values and the load now do not matter."""
    rising = [0.72, 0.71, 0.70, 0.69, 0.68, 0.67, 0.66, 0.65, 0.64, 0.63]
    assert not says(LocalLine(), standing(1.5, rising))
    assert says(LocalLine(), standing(0.1, [each + 0.11 for each in rising]))
    assert says(LocalLine(1.4), standing(0.1, rising))
    assert not says(LocalLine(), standing(0.1, rising + [1.0] * 20))


def test_local_line_looks_as_far_as_the_migration_takes() -> None:
    """Ten ticks ahead the same load is too much."""
    rising = [0.72, 0.71, 0.70, 0.69, 0.68, 0.67, 0.66, 0.65, 0.64, 0.63]
    assert says(LocalLine(), standing(0.1, rising, ahead=13.0))


def test_local_line_on_the_limit() -> None:
    """Exactly 1 is overloaded: an even half times 2."""
    assert says(LocalLine(2.0), standing(0.1, [0.5] * 10))
    assert not says(LocalLine(2.0), standing(0.1, [0.5 - 1e-8] * 10))
