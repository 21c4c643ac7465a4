"""Estimators over short histories, along the last axis. Pure.

The simulator's reference policies and the live detectors judge by the same ones. What the published
policies do is kept to the letter where a result depends on it: quartiles without interpolation, and a
regression that counts as impossible only where its matrix is exactly singular.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def line_ahead(values: Floats, steps: float | Floats) -> Floats:
    """The ordinary least-squares line through equally spaced values, read some steps after the last one.

    Args:
        values: (..., n), oldest first, n >= 2.
        steps: how far ahead, in distances of two values; 0 reads the line at the last one.
    """
    count = values.shape[-1]
    if count < 2:
        raise ValueError(f"a line needs 2 values, not {count}")
    middle = (count - 1) / 2
    weights = (np.arange(count) - middle) / (count * (count * count - 1) / 12)
    slope: Floats = values @ weights
    found: Floats = values.mean(axis=-1) + slope * (middle + steps)
    return found


def running_line_ahead(values: Floats, steps: float | Floats) -> Floats:
    """As `line_ahead`, one value after the other with running means: slower, and its rounding is the published one."""
    count = values.shape[-1]
    if count < 2:
        raise ValueError(f"a line needs 2 values, not {count}")
    mean_x, mean_y = 1.0, values[..., 0].copy()
    sum_xx, sum_xy, sum_y = 0.0, np.zeros(values.shape[:-1]), values[..., 0].copy()
    for place in range(1, count):
        apart_x, apart_y = place + 1.0 - mean_x, values[..., place] - mean_y
        share = place / (1.0 + place)
        sum_xx += apart_x * apart_x * share
        sum_xy += apart_x * apart_y * share
        mean_x += apart_x / (1.0 + place)
        mean_y += apart_y / (1.0 + place)
        sum_y += values[..., place]
    slope = sum_xy / sum_xx
    found: Floats = (sum_y - slope * (count * (count + 1) / 2)) / count + slope * (count + steps)
    return found


def quartile_range(values: Floats) -> Floats:
    """The third less the first quartile of (..., n) values: each the value at round(q (n + 1)), counted from 1.

    Raises: ValueError: fewer than 3 values.
    """
    count = values.shape[-1]
    if count < 3:
        raise ValueError(f"quartiles need 3 values, not {count}")
    ordered = np.sort(values, axis=-1)
    first, third = (min(_half_up(share * (count + 1)), count) - 1 for share in (0.25, 0.75))
    found: Floats = ordered[..., third] - ordered[..., first]
    return found


def median_deviation(values: Floats) -> Floats:
    """The median distance of (..., n) values from their median."""
    middle = _median(values)
    return _median(np.abs(values - middle[..., np.newaxis]))


def adaptive_threshold(spread: Floats, safety: float) -> Floats:
    """The load above which a host counts as overloaded: the more it varies, the lower."""
    found: Floats = 1.0 - safety * spread
    return found


def ar1_forecast(values: Floats, steps: int = 1) -> Floats:
    """What a first-order autoregression of (..., n) values, oldest first, expects some steps later.

    The coefficient is that of least squares of each value on the one before, both less the mean, and never
    beyond -1..1: a short series can look as if it exploded. A constant series stays as it is.

    Raises: ValueError: fewer than 2 values, or less than 1 step.
    """
    if values.shape[-1] < 2 or steps < 1:
        raise ValueError(f"a forecast needs 2 values and 1 step, not {values.shape[-1]} and {steps}")
    mean = values.mean(axis=-1, keepdims=True)
    apart = values - mean
    before, after = apart[..., :-1], apart[..., 1:]
    power = (before * before).sum(axis=-1)
    # What is left of equal values after taking off their mean is rounding.
    still = power <= 1e-24 * (values * values).sum(axis=-1)
    coefficient = np.where(still, 0.0, (before * after).sum(axis=-1) / np.where(still, 1.0, power))
    found: Floats = mean[..., 0] + np.clip(coefficient, -1.0, 1.0) ** steps * apart[..., -1]
    return np.where(still, values[..., -1], found)


def multiple_r_squared(series: Floats) -> Floats | None:
    """How well each of n series is told from all the others together: R² of its regression on them.

    With an intercept, by Householder reflections, for all n at once.

    Args:
        series: (n, m).

    Returns: (n,), NaN for a constant one; None where it cannot be computed: fewer than 2 series, more series
        than values, or a matrix that is exactly singular. One that is nearly so gives noise, as in the published code.
    """
    count, length = series.shape
    if count < 2 or length < count:
        return None
    others = np.array([[other for other in range(count) if other != one] for one in range(count)])
    # (n, columns, m): a column of ones, then the other series.
    design = np.concatenate([np.ones((count, 1, length)), series[others]], axis=1)
    weights = _solve(design.copy(), series.copy())
    if weights is None:
        return None
    left = series - _in_order(weights[:, :, np.newaxis] * design, axis=1)
    apart = series - series.mean(axis=-1, keepdims=True)
    total = (apart * apart).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(np.ptp(series, axis=-1) > 0, 1.0 - _in_order(left * left, axis=-1) / total, np.nan)
    return found


def _solve(columns: Floats, rights: Floats) -> Floats | None:
    """Least squares of n systems by Householder reflections; works in its arguments.

    Args:
        columns: (n, k, m) the k columns of each; rights: (n, m).

    Returns: (n, k); None where one of them is exactly singular.
    """
    count = columns.shape[1]
    diagonals = np.empty(columns.shape[:2])
    for step in range(count):
        head = columns[:, step, step:]
        norm = np.sqrt(_in_order(head * head, axis=-1))
        if not norm.all():
            return None
        diagonal = np.where(head[:, 0] > 0, -norm, norm)
        diagonals[:, step] = diagonal
        head[:, 0] -= diagonal
        # A reflection takes (v.x / (v.v / 2)) v off x, and v.v / 2 is -scale.
        scale = diagonal * head[:, 0]
        tail = columns[:, step + 1 :, step:]
        along = _in_order(tail * head[:, np.newaxis], axis=-1) / scale[:, np.newaxis]
        tail += along[..., np.newaxis] * head[:, np.newaxis]
        right = rights[:, step:]
        right += (_in_order(right * head, axis=-1) / scale)[:, np.newaxis] * head
    for step in reversed(range(count)):
        rights[:, step] /= diagonals[:, step]
        rights[:, :step] -= rights[:, step, np.newaxis] * columns[:, step, :step]
    return rights[:, :count]


def _in_order(values: Floats, axis: int) -> Floats:
    """The sum taken one by one: whether two series are told equally well hangs on rounding."""
    found: Floats = np.add.accumulate(values, axis=axis).take(-1, axis=axis)
    return found


def _half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _median(values: Floats) -> Floats:
    """As `numpy.median`, which takes several times as long for short rows."""
    ordered = np.sort(values, axis=-1)
    count = values.shape[-1]
    found: Floats = (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2.0
    return found
