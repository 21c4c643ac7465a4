"""Which hosts are hot: seven rules behind one interface. Pure numpy.

Every detector looks at shares of what a host has, oldest first, and answers for many hosts and resources at once.
NaN is not known: only the unbroken run of known minutes up to the newest one counts, and a rule that needs more
minutes than there are finds nothing hot, or falls back as published where its docstring says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from orchestrate.hotspots.host_loads import Bools, Floats, Ints
from orchestrate.statistics import adaptive_threshold, ar1_forecast, line_ahead, median_deviation, quartile_range
from reports.words import number

# The published adaptive rules use a fixed threshold until their history is long enough.
_FALLBACK_RATIO = 0.7
_ADAPTIVE_NEEDS = 12
# A host's samples may come so many minutes late before nothing is said of it.
_NEWEST_MAY_LACK = 5
WEIGHTED = "weighted"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """H hosts. Args: resources: R names. ratio: (H, R, T) shares, oldest first, NaN is not known."""

    resources: tuple[str, ...]
    ratio: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """What a detector says of H hosts and K figures of each.

    Attributes:
        figures: K names: the resources, or one that stands for all.
        hot: (H, K).
        value, limit: (H, K) what was compared; NaN where nothing could be.
    """

    figures: tuple[str, ...]
    hot: Bools
    value: Floats
    limit: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Hot:
    """One host that is hot on one figure.

    Args:
        row: of the history.
        value_ratio, limit_ratio: what was compared.
        words: why, with its figures.
    """

    row: int
    figure: str
    detector: str
    value_ratio: float
    limit_ratio: float
    words: str


class Detector(Protocol):
    """One rule with its parameters."""

    @property
    def name(self) -> str: ...

    def judge(self, history: History) -> Judged:
        """All hosts at once."""
        ...

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        """Why a host with these figures is hot: what follows `hot on cpu:`."""
        ...


def look(detector: Detector, history: History) -> tuple[Hot, ...]:
    """All that is hot, by host and figure."""
    judged = detector.judge(history)
    return tuple(
        Hot(
            row=int(row),
            figure=judged.figures[place],
            detector=detector.name,
            value_ratio=float(judged.value[row, place]),
            limit_ratio=float(judged.limit[row, place]),
            words=detector.words(float(judged.value[row, place]), float(judged.limit[row, place])),
        )
        for row, place in np.argwhere(judged.hot)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandpiper:
    """At least `k` of the last `n` samples above the threshold, and so is the next one that AR(1) expects.

    Args: window: samples that the forecast is made from. The longer it is, the longer a rise looks like noise.
    """

    k: int = 3
    n: int = 5
    threshold_ratio: float = 0.75
    window: int = 10
    name: str = "sandpiper"

    def judge(self, history: History) -> Judged:
        return _by_length(self, history, least=max(self.n, 2))

    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        above = (ratio[:, -self.n :] > self.threshold_ratio).sum(axis=1) >= self.k
        ahead = ar1_forecast(ratio[:, -self.window :])
        return above & (ahead > self.threshold_ratio), ahead, np.full(len(ratio), self.threshold_ratio)

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        return (
            f"at least {self.k} of the last {self.n} samples above {_percent(limit_ratio)},"
            f" and {_percent(value_ratio)} is expected next"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanOfLast:
    """The mean of the last `n` samples is above the threshold."""

    n: int = 10
    threshold_ratio: float = 0.8
    name: str = "mean"

    def judge(self, history: History) -> Judged:
        return _by_length(self, history, least=self.n)

    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        mean = ratio[:, -self.n :].mean(axis=1)
        return mean > self.threshold_ratio, mean, np.full(len(ratio), self.threshold_ratio)

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        return f"a mean of {_percent(value_ratio)} over {self.n} samples, above {_percent(limit_ratio)}"


# From pairwise comparisons: cpu to net 3, to disk 2, to mem 4; net to disk 1/2, to mem 2/3; disk to mem 1.
AHP_WEIGHTS: Mapping[str, float] = {"cpu": 0.487, "net": 0.125, "disk": 0.217, "mem": 0.171}


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedScalar:
    """One number for all resources, weighted, over a moving average.

    The weights of resources that are not measured go to the others. One saturated resource may hide in the sum.
    """

    n: int = 5
    threshold_ratio: float = 0.5
    weights: Mapping[str, float] = field(default_factory=lambda: AHP_WEIGHTS)
    name: str = "weighted"

    def judge(self, history: History) -> Judged:
        places = [place for place, each in enumerate(history.resources) if each in self.weights]
        weights = np.array([self.weights[history.resources[place]] for place in places])
        scalar = (history.ratio[:, places] * weights[:, np.newaxis]).sum(axis=1, keepdims=True) / weights.sum()
        return _by_length(self, History(resources=(WEIGHTED,), ratio=scalar), least=self.n)

    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        mean = ratio[:, -self.n :].mean(axis=1)
        return mean > self.threshold_ratio, mean, np.full(len(ratio), self.threshold_ratio)

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        return f"a weighted load of {_percent(value_ratio)} over {self.n} samples, above {_percent(limit_ratio)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticShares:
    """The memory that VMs use is above a fixed share of their own host's: `migrate_ratio`, worse from `drop_ratio`."""

    migrate_ratio: float = 0.08
    drop_ratio: float = 0.12
    name: str = "static-shares"

    def judge(self, history: History) -> Judged:
        place = history.resources.index("mem") if "mem" in history.resources else 0
        only = History(resources=(history.resources[place],), ratio=history.ratio[:, place : place + 1])
        return _by_length(self, only, least=1)

    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        last = ratio[:, -1]
        limit = np.where(last > self.drop_ratio, self.drop_ratio, self.migrate_ratio)
        return last > self.migrate_ratio, last, limit

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        return f"VMs take {_percent(value_ratio)} of it, more than {_percent(limit_ratio)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRegression:
    """LR: a line through the last ten samples, read `ahead` samples later, times `safety` reaches the whole host.

    With fewer than ten samples: the newest is above 70 %.
    """

    safety: float = 1.2
    ahead: int = 1
    n: int = 10
    name: str = "lr"

    def judge(self, history: History) -> Judged:
        return _by_length(self, history, least=1)

    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        if ratio.shape[1] < self.n:
            return _above_fallback(ratio)
        ahead = self.safety * line_ahead(ratio[:, -self.n :], float(self.ahead))
        return ahead >= 1.0, ahead, np.ones(len(ratio))

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        return f"{_percent(value_ratio)} by its trend and margin, against {_percent(limit_ratio)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianDeviation:
    """MAD: the newest sample is above a threshold that sinks with the median absolute deviation.

    With fewer than twelve samples, that threshold is 70 %.
    """

    safety: float = 2.5
    window: int = 30
    name: str = "mad"

    def judge(self, history: History) -> Judged:
        return _by_length(self, history, least=1)

    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        if ratio.shape[1] < _ADAPTIVE_NEEDS:
            return _above_fallback(ratio)
        limit = adaptive_threshold(median_deviation(ratio[:, -self.window :]), self.safety)
        return ratio[:, -1] > limit, ratio[:, -1], limit

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        return f"{_percent(value_ratio)}, above the {_percent(limit_ratio)} that its own variation leaves"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuartileRange:
    """IQR: the same with the range between the quartiles."""

    safety: float = 1.5
    window: int = 30
    name: str = "iqr"

    def judge(self, history: History) -> Judged:
        return _by_length(self, history, least=1)

    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        if ratio.shape[1] < _ADAPTIVE_NEEDS:
            return _above_fallback(ratio)
        limit = adaptive_threshold(quartile_range(ratio[:, -self.window :]), self.safety)
        return ratio[:, -1] > limit, ratio[:, -1], limit

    def words(self, value_ratio: float, limit_ratio: float) -> str:
        return f"{_percent(value_ratio)}, above the {_percent(limit_ratio)} that its own variation leaves"


DETECTORS: Mapping[str, Detector] = {
    one.name: one
    for one in (
        Sandpiper(),
        MeanOfLast(),
        WeightedScalar(),
        StaticShares(),
        LocalRegression(),
        MedianDeviation(),
        QuartileRange(),
    )
}


class _OfRun(Protocol):
    def of_run(self, ratio: Floats) -> tuple[Bools, Floats, Floats]:
        """Hot, value and limit of (m, t) samples without a gap."""
        ...


def _by_length(detector: _OfRun, history: History, *, least: int) -> Judged:
    """Asks the rule once for each length of unbroken run that there is, and not for those below `least`."""
    hosts, figures, minutes = history.ratio.shape
    # Where no host answers, numpy could not find out the length by itself.
    rows = history.ratio.reshape(hosts * figures, minutes)
    ends, lengths = _runs(rows)
    hot = np.zeros(len(rows), np.bool_)
    value, limit = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    for end, length in sorted({*zip(ends.tolist(), lengths.tolist(), strict=True)}):
        if length >= least:
            chosen = np.flatnonzero((ends == end) & (lengths == length))
            hot[chosen], value[chosen], limit[chosen] = detector.of_run(rows[chosen, end - length : end])
    shape = (hosts, figures)
    return Judged(
        figures=history.resources, hot=hot.reshape(shape), value=value.reshape(shape), limit=limit.reshape(shape)
    )


def _runs(rows: Floats) -> tuple[Ints, Ints]:
    """Where the last unbroken run of each row ends, and how long it is: 0 where its newest minutes are not known."""
    width = rows.shape[1]
    known = ~np.isnan(rows[:, ::-1])
    lacking = np.where(known.any(axis=1), known.argmax(axis=1), width)
    numbers = np.arange(width)
    gap = ~known & (numbers >= lacking[:, np.newaxis])
    stop = np.where(gap.any(axis=1), gap.argmax(axis=1), width)
    lengths = np.where(lacking <= _NEWEST_MAY_LACK, stop - lacking, 0)
    return width - lacking, np.maximum(lengths, 0)


def _above_fallback(ratio: Floats) -> tuple[Bools, Floats, Floats]:
    return ratio[:, -1] > _FALLBACK_RATIO, ratio[:, -1], np.full(len(ratio), _FALLBACK_RATIO)


def _percent(ratio: float) -> str:
    return number(ratio, "ratio")
