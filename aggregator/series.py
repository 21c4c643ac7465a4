"""One VM's figures over a span as a chart shows them: least, mean and largest value of each bucket. Pure numpy.

Means alone would hide what a chart is looked at for: a VM that works one minute a day. So the largest and the least
value of a bucket stay beside its mean, and a bucket without samples is absent, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agent.sample import FIELDS, Field
from agent.wire import DEFAULT_INTERVAL_S
from aggregator.histogram import Floats
from aggregator.summary import METRICS, Metric

MIN_POINTS = 2  # a span shorter than a bucket may still touch two of them
MAX_POINTS = 2_000
DEFAULT_POINTS = 1_000
HOUR_S = 3600
SERIES: tuple[str, ...] = (
    *("cpu_busy_ratio", "cpu_max_ratio", "cpu_steal_ratio", "cpu_iowait_ratio", "mem_used_ratio", "disk_used_ratio"),
    *("disk_read_bytes_per_s", "disk_write_bytes_per_s", "net_rx_bytes_per_s", "net_tx_bytes_per_s", "users"),
)
_RATIOS = {
    "mem_used_ratio": ("mem_used_bytes", "mem_total_bytes"),
    "disk_used_ratio": ("disk_used_bytes", "disk_total_bytes"),
}
_READ = {part for name in SERIES for part in _RATIOS.get(name, (name,))}
# What a row must bring, in this order, after its `ts` and `interval_s`.
READ_FIELDS: tuple[Field, ...] = tuple(field for field in FIELDS if field.name in _READ)
_COLUMN = {field.name: 2 + index for index, field in enumerate(READ_FIELDS)}
ROW_CELLS = 2 + len(READ_FIELDS)
_TS, _INTERVAL = 0, 1
# The metric that hours keep of a series; of the others (steal, iowait, users) they keep nothing.
METRIC_OF: Mapping[str, Metric] = {
    name: metric for metric in METRICS if (name := f"{metric.name}_{metric.unit}") in SERIES
}

Number = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is asked for: samples with from_s < ts <= to_s in at most `points` buckets.

    Raises: ValueError: an end that is not after the start, or `points` outside MIN_POINTS..MAX_POINTS.
    """

    from_s: int
    to_s: int
    points: int = DEFAULT_POINTS

    def __post_init__(self) -> None:
        if not 0 <= self.from_s < self.to_s:
            raise ValueError(f"from_s: {self.from_s} is not before to_s, {self.to_s}")
        if not MIN_POINTS <= self.points <= MAX_POINTS:
            raise ValueError(f"points: {self.points} is not between {MIN_POINTS} and {MAX_POINTS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One figure; a value for each bucket, None where it was not measured.

    Attributes:
        min: None too where the bucket holds an hour whose samples are gone: hours keep no minimum.
        mean: over the seconds in which it was measured.
    """

    min: list[Number | None]
    mean: list[Number | None]
    max: list[Number | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The answer, in plain values.

    Attributes:
        step_s: length of each bucket. Two ends that lie further apart than this have a gap between them.
        ends_s: ends of the buckets that hold something, rising; the last may lie after `to_s`.
        series: by the names of SERIES, in units of the wire, six significant digits.
    """

    vm: str
    from_s: int
    to_s: int
    step_s: int
    ends_s: list[int]
    series: Mapping[str, Curve]

    def document(self) -> dict[str, object]:
        """What `/v1/vms/{vm}/series` answers, for any JSON encoder; the lists are shared, not copied."""
        curves = {name: {"min": curve.min, "mean": curve.mean, "max": curve.max} for name, curve in self.series.items()}
        span = {"vm": self.vm, "from_s": self.from_s, "to_s": self.to_s, "step_s": self.step_s}
        return {**span, "ends_s": self.ends_s, "series": curves}


class Hours(NamedTuple):
    """Hours whose samples are gone. Columns as in SERIES; what hours do not keep has no seconds.

    Attributes:
        end_s: (n,).
        totals: (n, series) sum of value x seconds.
        seconds: (n, series) seconds in which it was measured.
        largest: (n, series).
    """

    end_s: Floats
    totals: Floats
    seconds: Floats
    largest: Floats

    @classmethod
    def none(cls) -> Hours:
        """No hours."""
        empty = np.zeros((0, len(SERIES)))
        return cls(np.zeros(0), empty, empty, empty)


def rows_of_samples(samples: Iterable[Mapping[str, float | int | None]]) -> Floats:
    """Samples of the wire with their `interval_s` as rows: (n, ROW_CELLS), NaN where not measured."""
    names = ("ts", "interval_s", *(field.name for field in READ_FIELDS))
    cells = [[sample.get(name) for name in names] for sample in samples]
    return np.array(cells, np.float64).reshape(-1, ROW_CELLS)


def make_series(vm_id: str, span: Span, rows: Floats, hours: Hours) -> Series:
    """Buckets of equal length, each ending at a multiple of it; a sample belongs to the bucket in which it ends.

    Where there are no more samples than points, each is a bucket of its own.

    Args:
        rows: (n, ROW_CELLS) in any order, in units of the wire. Of several with one ts the first counts, those
            outside of the span do not.
        hours: those that the span touches and that `rows` holds nothing of. A bucket then lasts whole hours.
    """
    rows = rows[np.unique(rows[:, _TS], return_index=True)[1]]
    rows = rows[(rows[:, _TS] > span.from_s) & (rows[:, _TS] <= span.to_s)]
    has_hours = len(hours.end_s) > 0
    interval_s = int(rows[:, _INTERVAL].max()) if len(rows) else DEFAULT_INTERVAL_S
    pieces = _joined(_pieces_of_hours(hours), _pieces_of_rows(rows)) if has_hours else _pieces_of_rows(rows)
    if has_hours or len(rows) > span.points:
        # Intervals divide an hour: whole hours are whole intervals.
        step_s = step_of(span, HOUR_S if has_hours else interval_s)
        pieces = pieces._replace(end_s=np.ceil(pieces.end_s / step_s) * step_s)
    else:
        step_s = interval_s
    buckets = _reduced(pieces)
    return Series(
        vm=vm_id,
        from_s=span.from_s,
        to_s=span.to_s,
        step_s=step_s,
        ends_s=buckets.end_s.astype(np.int64).tolist(),
        series={name: _curve(buckets, index) for index, name in enumerate(SERIES)},
    )


def step_of(span: Span, unit_s: int) -> int:
    """Length of a bucket: whole units, so long that the span touches at most `points` buckets."""
    # Buckets end at multiples of their length, so that a chart does not flicker as its span moves on; the span
    # touches one more of them than fit into it.
    return -(-(span.to_s - span.from_s) // ((span.points - 1) * unit_s)) * unit_s


class _Pieces(NamedTuple):
    """Parts of buckets: (n,) and, for the others, (n, series).

    Nothing measured: `least` inf, `largest` -inf, no seconds. `least` unknown: -inf, which stays whatever joins it.
    """

    end_s: Floats
    least: Floats
    largest: Floats
    totals: Floats
    seconds: Floats


def _pieces_of_rows(rows: Floats) -> _Pieces:
    values = np.column_stack([_values(rows, name) for name in SERIES])
    known = ~np.isnan(values)
    interval_s = rows[:, _INTERVAL, None]
    return _Pieces(
        rows[:, _TS],
        np.where(known, values, np.inf),
        np.where(known, values, -np.inf),
        np.where(known, values, 0.0) * interval_s,
        known * interval_s,
    )


def _values(rows: Floats, name: str) -> Floats:
    if name not in _RATIOS:
        return rows[:, _COLUMN[name]]
    part, whole = (rows[:, _COLUMN[column]] for column in _RATIOS[name])
    return np.where(whole > 0, np.minimum(part / np.maximum(whole, 1.0), 1.0), np.nan)


def _pieces_of_hours(hours: Hours) -> _Pieces:
    known = hours.seconds > 0
    return _Pieces(
        hours.end_s,
        np.where(known, -np.inf, np.inf),
        np.where(known, hours.largest, -np.inf),
        np.where(known, hours.totals, 0.0),
        np.where(known, hours.seconds, 0.0),
    )


def _joined(first: _Pieces, second: _Pieces) -> _Pieces:
    return _Pieces(*map(np.concatenate, zip(first, second, strict=True)))


def _reduced(pieces: _Pieces) -> _Pieces:
    """One piece an end, by rising end."""
    order = np.argsort(pieces.end_s, kind="stable")
    end_s, least, largest, totals, seconds = (part[order] for part in pieces)
    ends, starts = np.unique(end_s, return_index=True)
    if not len(ends):
        return pieces
    return _Pieces(
        ends,
        np.minimum.reduceat(least, starts),
        np.maximum.reduceat(largest, starts),
        np.add.reduceat(totals, starts),
        np.add.reduceat(seconds, starts),
    )


def _curve(buckets: _Pieces, index: int) -> Curve:
    _, least, largest, totals, seconds = (part[..., index] if part.ndim == 2 else part for part in buckets)
    known = seconds > 0
    # A mean of equal values may come out a hair beside them.
    mean = np.clip(totals / np.maximum(seconds, 1.0), least, largest, out=np.full(len(known), np.nan), where=known)
    return Curve(
        min=_plain(np.where(np.isfinite(least), least, np.nan)),
        mean=_plain(mean),
        max=_plain(np.where(known, largest, np.nan)),
    )


def _plain(values: Floats) -> list[Number | None]:
    # A number that is not equal to itself is NaN.
    return [_rounded(value) if value == value else None for value in values.tolist()]  # noqa: PLR0124


def _rounded(value: float) -> Number:
    """Six significant digits: a chart shows three, and each more is one more byte to send."""
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() else rounded
