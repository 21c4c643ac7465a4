"""The estimators against worked examples, and against numpy's own slower ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.statistics import (
    adaptive_threshold,
    ar1_forecast,
    line_ahead,
    median_deviation,
    multiple_r_squared,
    quartile_range,
    running_line_ahead,
)

LOADS = st.lists(st.floats(0, 1), min_size=3, max_size=30)


def test_a_line_goes_on() -> None:
    """0, 1, 2 goes on to 3 and 4; of noise it takes the best fit."""
    rising = np.array([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    assert line_ahead(rising, 1).tolist() == pytest.approx([3, 5])
    assert line_ahead(rising, np.array([0.0, 2.0])).tolist() == pytest.approx([2, 5])
    assert line_ahead(np.array([0.0, 2.0, 1.0]), 0) == pytest.approx(1.5)


@given(LOADS, st.floats(0, 5))
def test_lines_agree_with_numpy(values: list[float], steps: float) -> None:
    """Both ways of taking the line are ordinary least squares."""
    line = np.polynomial.Polynomial.fit(np.arange(len(values)), values, 1)
    expected = line(len(values) - 1 + steps)
    assert line_ahead(np.array(values), steps) == pytest.approx(expected, abs=1e-9)
    assert running_line_ahead(np.array([values]), steps)[0] == pytest.approx(expected, abs=1e-9)


def test_quartiles_are_values_not_means() -> None:
    """Of 12 values the 3rd (3.25) and the 10th (9.75), counted from 1; of 30 the 8th (7.75) and the 23rd (23.25)."""
    assert quartile_range(np.arange(12.0)) == 9 - 2
    assert quartile_range(np.arange(30.0)[::-1]) == 22 - 7


def test_half_rounds_up() -> None:
    """Of 13 values the first quartile is at 3.5: the 4th, and the third at 10.5: the 11th."""
    assert quartile_range(np.arange(13.0) ** 2) == 10**2 - 3**2


@pytest.mark.parametrize(("values", "expected"), [([1, 1, 2, 2, 4, 6, 9], 1), ([1, 2, 3, 4], 1), ([3], 0)])
def test_median_deviation_by_hand(values: list[float], expected: float) -> None:
    """The textbook series has 1; an even number takes the mean of the middle two."""
    assert median_deviation(np.array(values, float)) == expected


@given(LOADS)
def test_median_deviation_agrees_with_numpy(values: list[float]) -> None:
    """Medians are ordinary ones."""
    expected = np.median(np.abs(np.array(values) - np.median(values)))
    assert median_deviation(np.array([values, values])).tolist() == pytest.approx([expected] * 2)


def test_thresholds_sink_with_spread() -> None:
    """One less the spread, so many times."""
    assert adaptive_threshold(np.array([0.0, 0.1]), 2.5).tolist() == [1.0, 0.75]


def test_an_autoregression_returns_to_its_mean() -> None:
    """What swings swings back; what stands stays; what drifts does not explode."""
    swinging = np.array([0.0, 1.0] * 10)
    assert ar1_forecast(swinging) == pytest.approx(0.0)
    assert ar1_forecast(swinging, 2) == pytest.approx(1.0)
    assert ar1_forecast(np.full(5, 0.3)) == 0.3
    assert ar1_forecast(np.array([0.0, 0.0, 0.0, 1.0, 8.0])) <= 8.0


@given(LOADS, st.integers(1, 20))
def test_a_forecast_stays_near_what_was_seen(values: list[float], steps: int) -> None:
    """Never further from the mean than the last value is."""
    mean = float(np.mean(values))
    assert abs(ar1_forecast(np.array(values), steps) - mean) <= abs(values[-1] - mean) + 1e-9


def test_r_squared_of_what_is_told_and_what_is_not() -> None:
    """One made from the other is told fully, an unrelated one hardly, and a constant one cannot be."""
    draw = np.random.default_rng(1)
    first, other = draw.random(30), draw.random(30)
    told = multiple_r_squared(np.array([first, 1 + 2 * first]))
    assert told is not None
    assert told.tolist() == pytest.approx([1, 1])
    apart = multiple_r_squared(np.array([first, other]))
    assert apart is not None
    assert 0 <= apart[0] < 0.2
    constant = multiple_r_squared(np.array([np.full(30, 0.1), first]))
    assert constant is not None
    assert np.isnan(constant[0])


@given(st.integers(2, 6), st.integers(8, 30), st.integers(0, 2**32 - 1))
def test_r_squared_agrees_with_numpy(count: int, length: int, seed: int) -> None:
    """Each series on all the others, with an intercept."""
    series = np.random.default_rng(seed).random((count, length))
    told = multiple_r_squared(series)
    assert told is not None
    for one in range(count):
        design = np.column_stack([np.ones(length), np.delete(series, one, axis=0).T])
        fitted = design @ np.linalg.lstsq(design, series[one], rcond=None)[0]
        left = ((series[one] - fitted) ** 2).sum() / ((series[one] - series[one].mean()) ** 2).sum()
        assert told[one] == pytest.approx(1 - left, abs=1e-9)


@pytest.mark.parametrize(
    "series",
    [np.ones((1, 9)), np.random.default_rng(2).random((5, 4)), np.array([[0.0] * 9, [1.0, 2, 3, 4, 5, 6, 7, 8, 9]])],
)
def test_r_squared_says_when_it_cannot(series: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    """One series, more series than values, and a series of zeros, which makes the matrix singular."""
    assert multiple_r_squared(series) is None


def test_too_little_is_a_mistake() -> None:
    """An estimator without enough values says so."""
    one = np.array([1.0])
    with pytest.raises(ValueError, match="needs 2 values"):
        line_ahead(one, 1)
    with pytest.raises(ValueError, match="needs 2 values"):
        running_line_ahead(one, 1)
    with pytest.raises(ValueError, match="needs 2 values"):
        ar1_forecast(one)
    with pytest.raises(ValueError, match="3 values"):
        quartile_range(np.array([1.0, 2.0]))
