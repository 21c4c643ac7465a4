"""When a host counts as overloaded, as the published policies see it. Pure.

Each test answers for many hosts at once: for how they stand, and for how they would stand with one VM more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from orchestrate.simulation.park import Bools, Floats
from orchestrate.statistics import adaptive_threshold, line_ahead, median_deviation, quartile_range, running_line_ahead

HISTORY = 30
# With less of a history than they need, the adaptive tests compare with this.
_FALLBACK = 0.7
_ADAPTIVE_NEEDS = 12
_LINE_NEEDS = 10
# So close to the limit rounding decides: there the line is taken in the order of the published code.
_NEAR = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """n hosts as a test sees them.

    Attributes:
        asked_ratio: (n,) what their VMs ask for now, of the host's CPU.
        history: (n, 30) the same of the VMs they have now, at the last ticks, newest first; 0 before the first.
        lengths: (n,) up to the last value that is not 0, at least 1.
        ahead_ticks: (n,) how long their longest migration takes, rounded up.
    """

    asked_ratio: Floats
    history: Floats
    lengths: Floats
    ahead_ticks: Floats


class OverloadTest(Protocol):
    """One test with its parameter."""

    @property
    def parameter(self) -> float: ...

    @property
    def needs_history(self) -> bool: ...

    def overloaded(self, hosts: Standing) -> Bools:
        """(n,) which of them are."""
        ...


@dataclass(frozen=True, slots=True)
class Threshold:
    """THR: what is asked for exceeds a fixed share of the host."""

    parameter: float = 0.8
    needs_history: bool = False

    def overloaded(self, hosts: Standing) -> Bools:
        return hosts.asked_ratio > self.parameter


@dataclass(frozen=True, slots=True)
class QuartileRange:
    """IQR: the threshold sinks with the spread between the quartiles."""

    parameter: float = 1.5
    needs_history: bool = True

    def overloaded(self, hosts: Standing) -> Bools:
        return hosts.asked_ratio > _thresholds(hosts, quartile_range, self.parameter)


@dataclass(frozen=True, slots=True)
class MedianDeviation:
    """MAD: the threshold sinks with the median absolute deviation."""

    parameter: float = 2.5
    needs_history: bool = True

    def overloaded(self, hosts: Standing) -> Bools:
        return hosts.asked_ratio > _thresholds(hosts, median_deviation, self.parameter)


@dataclass(frozen=True, slots=True)
class LocalLine:
    """LR, LRR: a line through the last ten values, read when a migration would be over, times a safety factor.

    The robust version, LRR, computes weights in the published code and never applies them: it is the same test.
    """

    parameter: float = 1.2
    needs_history: bool = True

    def overloaded(self, hosts: Standing) -> Bools:
        oldest_first = hosts.history[:, _LINE_NEEDS - 1 :: -1]
        long_enough = hosts.lengths >= _LINE_NEEDS
        told = self.parameter * line_ahead(oldest_first, hosts.ahead_ticks)
        near = np.abs(told - 1.0) < _NEAR
        if near.any():
            told[near] = self.parameter * running_line_ahead(oldest_first[near], hosts.ahead_ticks[near])
        return np.where(long_enough, told >= 1, hosts.asked_ratio > _FALLBACK)


def _thresholds(hosts: Standing, spread_of: Callable[[Floats], Floats], safety: float) -> Floats:
    thresholds = np.full(len(hosts.lengths), _FALLBACK)
    for length in set(hosts.lengths.tolist()):
        if length >= _ADAPTIVE_NEEDS:
            rows = hosts.lengths == length
            thresholds[rows] = adaptive_threshold(spread_of(hosts.history[rows, : int(length)]), safety)
    return thresholds
