"""Distributions and the week of a VM, as bars and cells that need no script. Pure numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo

import numpy as np

from aggregator.histogram import SLICES, Floats, Ints
from aggregator.summary import METRICS
from aggregator.window_layout import Layout
from reports.judgement import Timetable
from reports.measures import NAMES
from reports.timetable import WEEK_HOURS, weeks_seen
from reports.web.times import DAYS, hour_words, range_words, shift_of
from reports.web.views import Bar, Distribution, HeatCell, HeatMap, HeatRow
from reports.words import number

HISTOGRAM_METRICS: tuple[str, ...] = tuple(metric.name for metric in METRICS)
# Where the bars of a figure begin. A VM's fate is decided below 10 %, so that most bars are there.
BANDS: Mapping[str, tuple[float, ...]] = {
    "ratio": (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8),
    "bytes_per_s": (0.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8),
}
_LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
_SLICES = {part.metric.name: part for part in SLICES}
_DAY_HOURS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How long a VM's figure lay where, over one window.

    Attributes:
        lows, highs: (bins,) in the metric's unit: a bin holds values from `low` to below `high`.
        seconds: (bins,) only bins that hold something.
    """

    metric: str
    unit: str
    lows: Floats
    highs: Floats
    seconds: Ints


def histogram_of(layout: Layout | None, metric: str, days: int) -> Histogram | None:
    """The histogram in a VM's evidence; None where it has none of that window.

    Args: metric: one of HISTOGRAM_METRICS.
    """
    window = None if layout is None else layout.window(days)
    if layout is None or window is None:
        return None
    part = _SLICES[metric]
    bins = np.frombuffer(layout.bins(), "<u2").astype(np.int64)
    seconds = layout.weights(window)
    mine = (bins >= part.start) & (bins < part.stop) & (seconds > 0)
    edges = np.concatenate(([0], part.edges, [part.edges[-1] * 2])) * part.metric.quantum
    places = bins[mine] - part.start
    return Histogram(
        metric=metric, unit=part.metric.unit, lows=edges[places], highs=edges[places + 1], seconds=seconds[mine]
    )


def hours_distribution(histogram: Histogram) -> Distribution:
    """A VM's hours in the bands of the metric's unit."""
    bands = BANDS[histogram.unit]
    places = np.searchsorted(np.array(bands), histogram.lows, side="right") - 1
    seconds = np.bincount(places, weights=histogram.seconds, minlength=len(bands))
    words = NAMES[histogram.metric][1]
    return distribution(f"{words[0].upper()}{words[1:]}", histogram.unit, (seconds / 3600.0).tolist(), amounts="hours")


def distribution(
    title: str, unit: str, amounts_of_bands: Sequence[float], *, amounts: str, unknown: int = 0
) -> Distribution:
    """Bars over the bands of a unit.

    Args: amounts_of_bands: one for each of BANDS[unit].
    """
    lows = BANDS[unit]
    highs = (*lows[1:], 1.0 if unit == "ratio" else float("inf"))
    total, most = sum(amounts_of_bands), max(amounts_of_bands, default=0.0)
    bars = tuple(
        Bar(
            words=_band_words(low, high, unit),
            low=low,
            high=high,
            amount=amount,
            share_ratio=amount / total if total else 0.0,
            length_ratio=amount / most if most else 0.0,
        )
        for low, high, amount in zip(lows, highs, amounts_of_bands, strict=True)
    )
    return Distribution(title=title, amounts=amounts, unit=unit, bars=bars, unknown=unknown)


def _band_words(low: float, high: float, unit: str) -> str:
    if low == 0:
        return f"below {number(high, unit)}"
    if high == float("inf"):
        return f"{number(low, unit)} and more"
    return f"{number(low, unit)} – {number(high, unit)}"


def heat_map(seconds: Floats, cpu_ratio: Floats, timetable: Timetable | None, zone: tzinfo, now_s: float) -> HeatMap:
    """The hours of the week on the reader's clock, by the zone's offset at `now_s`.

    Args:
        seconds, cpu_ratio: (168) of `Evidence.profile`, Monday 00:00 UTC first.
        timetable: what is proposed, if anything.
    """
    shift = shift_of(zone, now_s)
    rows = []
    for day in range(len(DAYS)):
        cells = []
        for hour in range(_DAY_HOURS):
            local = day * _DAY_HOURS + hour
            place = (local - shift.hours) % WEEK_HOURS
            ratio = None if np.isnan(cpu_ratio[place]) else float(cpu_ratio[place])
            off = timetable is not None and timetable.off[place]
            seen = "no samples" if ratio is None else f"{number(ratio, 'ratio')} CPU"
            cells.append(
                HeatCell(
                    hour=hour,
                    words=f"{hour_words(local, shift.minutes)}: {seen}{', could be off' if off else ''}",
                    ratio=ratio,
                    level=None if ratio is None else int(np.searchsorted(_LEVELS, ratio)),
                    off=off,
                )
            )
        rows.append(HeatRow(day=DAYS[day], cells=tuple(cells)))
    ranges = () if timetable is None else timetable.ranges(shift.hours)
    return HeatMap(
        heads=tuple(
            f"{hour:02}" if not shift.minutes else f"{hour:02}:{shift.minutes:02}" for hour in range(_DAY_HOURS)
        ),
        rows=tuple(rows),
        # As a timetable counts them: nine cells of ten, and an hour that was cut short still counts as seen.
        covered_weeks=int(weeks_seen(seconds)),
        is_empty=not np.any(seconds > 0),
        off_ranges=tuple(range_words(start, until, shift.minutes) for start, until in ranges),
    )
