"""The figures a policy may set limits to: what they are called, their unit, and where they come from. Pure.

A measure is written `metric.statistic`, as in `cpu_busy.p95`. Usual statistics are columns of the fleet database;
any other percentile is read from the histograms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from aggregator.histogram import Floats
from aggregator.summary import METRICS
from reports.facts import Facts
from reports.words import count_words

_PERCENTILE = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,2})?)\Z")
_METRICS = {metric.name: metric for metric in METRICS}

# name -> unit, words. The last four are made from others.
NAMES: Mapping[str, tuple[str, str]] = {
    "cpu_busy": ("ratio", "CPU"),
    "cpu_max": ("ratio", "burst CPU"),
    "mem_used": ("ratio", "memory"),
    "disk_used": ("ratio", "disk space"),
    "disk_read": ("bytes_per_s", "disk read"),
    "disk_write": ("bytes_per_s", "disk write"),
    "disk_io": ("bytes_per_s", "disk traffic"),
    "net_rx": ("bytes_per_s", "network traffic received"),
    "net_tx": ("bytes_per_s", "network traffic sent"),
    "net_io": ("bytes_per_s", "network traffic"),
    "cpu_peak": ("ratio", "peak CPU"),
    "cpu_vcpus": ("vcpus", "vCPUs in use"),
    "net_daily": ("bytes_per_day", "network traffic on the busiest day"),
    "users": ("ratio", "time with somebody logged in"),
}
_ONLY: Mapping[str, tuple[str, ...]] = {"net_daily": ("max",), "users": ("share",)}


@dataclass(frozen=True, slots=True, order=True)
class Measure:
    """One figure of one window.

    Args:
        metric: one of NAMES.
        statistic: `mean`, `max`, `p95` or any other percentile; `share` of `users`.
        days: length of the window; None is the window that a report asks for.
    """

    metric: str
    statistic: str
    days: int | None = None

    @classmethod
    def parse(cls, text: object, days: int | None = None) -> Measure:
        """Of `cpu_busy.p95`. Raises: ValueError: no such figure; it names those that exist."""
        metric, dot, statistic = text.partition(".") if isinstance(text, str) else ("", "", "")
        if not dot or metric not in NAMES:
            raise ValueError(f"{text!r} is not a figure such as cpu_busy.p95 (of {', '.join(NAMES)})")
        allowed = _ONLY.get(metric)
        if allowed is not None and statistic not in allowed:
            raise ValueError(f"{text!r}: {metric} has {', '.join(allowed)} alone")
        if allowed is None and statistic not in {"mean", "max"} and _fraction(statistic) is None:
            raise ValueError(f"{text!r}: {statistic!r} is not mean, max or a percentile such as p95")
        return cls(metric, statistic, days)

    @property
    def name(self) -> str:
        """`cpu_busy.p95`, with the window behind it where it is fixed: `cpu_busy.p95/7d`."""
        window = "" if self.days is None else f"/{self.days}d"
        return f"{self.metric}.{self.statistic}{window}"

    @property
    def unit(self) -> str:
        return NAMES[self.metric][0]

    @property
    def words(self) -> str:
        """What people call it, such as `mean CPU` or `CPU in 95% of the time`; a fixed window is named."""
        subject = NAMES[self.metric][1]
        length = None if self.days is None else f"last {count_words(self.days, 'day').removeprefix('1 ')}"
        if self.metric == "net_daily":
            return subject if length is None else f"{subject} of the {length}"
        if self.statistic in {"mean", "max", "share"}:
            # A peak is the highest already.
            lead = {"mean": "mean ", "max": "" if self.metric == "cpu_peak" else "highest "}.get(self.statistic, "")
            return lead + subject + ("" if length is None else f" over the {length}")
        return f"{subject} in {self.statistic.removeprefix('p')}% of the {length or 'time'}"

    def resolved(self, asked_days: int) -> Measure:
        """The same with its window fixed."""
        return self if self.days is not None else Measure(self.metric, self.statistic, asked_days)

    def columns(self) -> frozenset[str]:
        """The statistics of a window that `values` may read."""
        sources = {"cpu_vcpus": ("cpu_busy",), "cpu_peak": ("cpu_max", "cpu_busy"), "net_daily": (), "users": ()}
        if self.metric == "net_daily":
            return frozenset({_METRICS["net_io"].column("mean")})
        return frozenset(
            _METRICS[name].column(self.statistic)
            for name in sources.get(self.metric, (self.metric,))
            if self.statistic in _METRICS[name].statistics
        )

    def values(self, facts: Facts, asked_days: int) -> Floats:
        """(n,) in the measure's unit, NaN where it was not measured."""
        days = self.days or asked_days
        match self.metric:
            case "cpu_vcpus":
                return _statistic(facts, "cpu_busy", self.statistic, days) * facts.cpu_count
            case "cpu_peak":
                # The highest moment within a minute where the agent measures it, else the busiest minute.
                bursts = _statistic(facts, "cpu_max", self.statistic, days)
                return np.where(np.isnan(bursts), _statistic(facts, "cpu_busy", self.statistic, days), bursts)
            case "net_daily":
                # A window that does not begin at midnight touches one day more than it is long.
                daily = facts.evidence.daily_bytes(days + 1)
                # The days hold sums of what was measured: without both directions they say nothing, and not zero.
                measured = ~np.isnan(facts.column(days, _METRICS["net_io"].column("mean")))
                known = ~np.isnan(daily) & measured[:, np.newaxis]
                return np.where(known.any(axis=1), np.where(known, daily, 0.0).max(axis=1, initial=0.0), np.nan)
            case "users":
                window = facts.windows.get(days)
                if window is None:
                    return np.full(len(facts), np.nan)
                return np.where(window.covered_s > 0, window.users_s / np.maximum(window.covered_s, 1.0), np.nan)
        return _statistic(facts, self.metric, self.statistic, days)


def _statistic(facts: Facts, metric: str, statistic: str, days: int) -> Floats:
    known = _METRICS[metric]
    if statistic in known.statistics:
        return facts.column(days, known.column(statistic))
    fraction = 1.0 if statistic == "max" else _fraction(statistic)
    if fraction is None or days not in facts.windows:
        return np.full(len(facts), np.nan)
    return facts.evidence.quantile(metric, days, fraction)


def _fraction(statistic: str) -> float | None:
    match = _PERCENTILE.match(statistic)
    return None if match is None else float(match[1]) / 100
