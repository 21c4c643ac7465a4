"""Windows over closed hours, kept as running sums, and the figures read off them. Pure numpy.

The newest hour of a VM is *open*; a window of W days holds the W x 24 - 1 closed hours before it and, when its
figures are read, the open hour too. A closed hour is added once and subtracted once; all sums are whole
numbers, so nothing drifts, and `rebuild` from the stored hours gives the same bytes (a test holds that).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

from agent.wire import DEFAULT_INTERVAL_S
from aggregator.histogram import SLICES, TOTAL_BINS, Floats, Ints, quantile
from aggregator.rollup import ABSENT, Hour
from aggregator.summary import METRICS, Figures
from aggregator.window_layout import CRC, HEADER, PROFILE_HOURS, TOTALS, VERSION, read_layout

PROFILE_DAYS = 28
DAILY_DAYS = 31
_CPU_TOTAL = 2
_RX_TOTAL = 2 + [metric.name for metric in METRICS].index("net_rx")
_TX_TOTAL = 2 + [metric.name for metric in METRICS].index("net_tx")
_MONDAY = 72  # 1 January 1970 was a Thursday: hour 0 is cell 72 of a week that begins on Monday

_U16_MAX = 65_535


def profile_cell(hour: int) -> int:
    """Hour of the week, 0 = Monday 00:00 UTC."""
    return (hour + _MONDAY) % PROFILE_HOURS


@dataclass(slots=True)
class Windows:
    """Running sums of one VM's closed hours.

    Attributes:
        days: length of each window, rising.
        open_hour: number of the newest hour, which is not in the sums.
        totals: (windows, TOTALS).
        maxima: (windows, metrics), ABSENT where nothing was measured.
        holders: (windows, metrics) closed hours that reach the maximum; 0 once they have all left, which makes it
            stale: read it from the store again.
        profile_s, profile_cpu: (168,) covered seconds and CPU x seconds of the last 28 days.
        daily: day number -> [received, sent] bytes.
    """

    days: tuple[int, ...]
    open_hour: int
    totals: Ints
    maxima: Ints
    holders: Ints
    profile_s: Ints
    profile_cpu: Ints
    daily: dict[int, list[int]]
    # Occupied bins with their seconds a window, as read; dense only once an hour closes: most flushes only read.
    _sparse: tuple[Ints, Ints] | None = None
    _dense: Ints | None = None

    @classmethod
    def empty(cls, days: tuple[int, ...], open_hour: int) -> Windows:
        """Windows that hold nothing yet."""
        return cls(
            days,
            open_hour,
            np.zeros((len(days), TOTALS), np.int64),
            np.full((len(days), len(METRICS)), ABSENT, np.int64),
            np.zeros((len(days), len(METRICS)), np.int64),
            np.zeros(PROFILE_HOURS, np.int64),
            np.zeros(PROFILE_HOURS, np.int64),
            {},
        )

    @property
    def counts(self) -> Ints:
        """(windows, TOTAL_BINS) seconds."""
        if self._dense is None:
            self._dense = np.zeros((len(self.days), TOTAL_BINS), np.int64)
            self.add_counts_to(self._dense)
            self._sparse = None
        return self._dense

    def add_counts_to(self, counts: npt.NDArray[np.integer]) -> None:
        """Puts the seconds of all windows into an empty (windows, TOTAL_BINS) array."""
        if self._sparse is not None:
            bins, weights = self._sparse
            counts[:, bins] = weights
        elif self._dense is not None and self._dense is not counts:
            counts[:] = self._dense

    def stale(self) -> list[int]:
        """Indexes of windows of which some maximum has left."""
        return np.flatnonzero(((self.holders == 0) & (self.maxima != ABSENT)).any(axis=1)).tolist()

    def renew_maxima(self, window: int, hours: Ints) -> None:
        """Takes a window's maxima from those of its closed hours, (hours, metrics)."""
        self.maxima[window] = hours.max(axis=0, initial=ABSENT)
        self.holders[window] = ((hours == self.maxima[window]) & (hours != ABSENT)).sum(axis=0)

    def first_hour(self, window: int) -> int:
        """Number of the oldest hour in a window."""
        return self.open_hour - 24 * self.days[window] + 1

    def expiring(self, new_open_hour: int) -> list[tuple[int, int]]:
        """Ranges [first, last] of closed hours that leave a window or the profile when the open hour moves on."""
        moved = new_open_hour - self.open_hour
        if moved <= 0:
            return []
        lengths = {24 * days for days in (*self.days, PROFILE_DAYS)}
        return [
            (self.open_hour - hours + 1, self.open_hour - hours + moved) for hours in sorted(lengths) if moved < hours
        ]

    def advance(self, new_open_hour: int, old: dict[int, Hour], replaced: Iterable[int], added: Sequence[Hour]) -> None:
        """Moves on to a new open hour and takes in hours that closed or changed.

        Args:
            new_open_hour: not before the present one.
            old: stored hours by number: all that expire, and all that are replaced.
            replaced: numbers of closed hours that `added` gives anew.
            added: hours that are closed from now on.
        """
        again = set(replaced)
        kept = self._windows_of(new_open_hour - self.open_hour - 1)  # the others are emptied as a whole
        for number, hour in old.items():
            if number >= self.open_hour:
                continue
            holding = max(kept, self._windows_of(self.open_hour - 1 - number))
            keeping = holding if number in again else self._windows_of(new_open_hour - 1 - number)
            if number in again:
                self._apply(hour, slice(holding, None), -1)
                self._apply_daily(hour, -1)
            else:
                self._apply(hour, slice(holding, max(holding, keeping)), -1)
            in_profile = self.open_hour - number < 24 * PROFILE_DAYS
            leaves = number in again or new_open_hour - number >= 24 * PROFILE_DAYS
            if in_profile and leaves and new_open_hour - self.open_hour < 24 * PROFILE_DAYS:
                self._apply_profile(hour, -1)
        self._forget(new_open_hour)
        self.open_hour = new_open_hour
        for hour in added:
            self._apply(hour, slice(self._windows_of(new_open_hour - 1 - hour.number), None), 1)
            if new_open_hour - hour.number < 24 * PROFILE_DAYS:
                self._apply_profile(hour, 1)
            self._apply_daily(hour, 1)
        oldest_day = new_open_hour // 24 - DAILY_DAYS
        self.daily = {day: both for day, both in self.daily.items() if day > oldest_day}

    def _windows_of(self, age_hours: int) -> int:
        """Index of the shortest window that holds an hour which ended so many hours before the open one."""
        return bisect_left(self.days, (age_hours + 2) / 24)

    def _forget(self, new_open_hour: int) -> None:
        """Empties what the move leaves behind as a whole, rather than subtracting it hour by hour."""
        moved = new_open_hour - self.open_hour
        for window, days in enumerate(self.days):
            if moved >= 24 * days:
                self.totals[window] = 0
                self.maxima[window] = ABSENT
                self.counts[window] = 0
                self.holders[window] = 0
        if moved >= 24 * PROFILE_DAYS:
            self.profile_s[:] = 0
            self.profile_cpu[:] = 0

    def _apply(self, hour: Hour, windows: slice, sign: int) -> None:
        if windows.stop is not None and windows.start >= windows.stop:
            return
        self.totals[windows] += sign * hour.totals
        # Adding whole rows is quicker than picking a few hundred bins out of each of several windows.
        spread = np.zeros(TOTAL_BINS, np.int64)
        spread[hour.bins] = sign * hour.weights
        self.counts[windows] += spread
        maxima, holders = self.maxima[windows], self.holders[windows]
        if sign > 0:
            holders[hour.maxima > maxima] = 0
            np.maximum(maxima, hour.maxima, out=maxima)
        holders[(hour.maxima == maxima) & (maxima != ABSENT)] += sign

    def _apply_profile(self, hour: Hour, sign: int) -> None:
        cell = profile_cell(hour.number)
        self.profile_s[cell] += sign * hour.totals[0]
        self.profile_cpu[cell] += sign * hour.totals[_CPU_TOTAL]

    def _apply_daily(self, hour: Hour, sign: int) -> None:
        both = self.daily.setdefault(hour.number // 24, [0, 0])
        both[0] += sign * int(hour.totals[_RX_TOTAL])
        both[1] += sign * int(hour.totals[_TX_TOTAL])

    def encode(self) -> bytes:
        """The sums as bytes: kept in the store, and in the fleet database as evidence."""
        occupied = np.flatnonzero(self.counts.any(axis=0))
        weights = self.counts[:, occupied]
        # Seconds are multiples of the usual interval: in that unit they nearly always fit two bytes.
        unit = DEFAULT_INTERVAL_S
        scaled = weights // unit
        if (scaled * unit != weights).any():
            unit, scaled = 1, weights
        width = 2 if not len(occupied) or scaled.max() <= _U16_MAX else 4
        daily = np.array([(day, *both) for day, both in sorted(self.daily.items())], "<i8")
        numbers = (self.days, self.totals, self.maxima, self.holders, self.profile_s, self.profile_cpu, daily)
        body = b"".join(
            (
                HEADER.pack(VERSION, len(self.days), len(self.daily), len(occupied), self.open_hour, unit, width),
                np.concatenate([np.ravel(part) for part in numbers]).astype("<i8").tobytes(),
                occupied.astype("<u2").tobytes(),
                scaled.astype(f"<u{width}").tobytes(),
            )
        )
        return body + CRC.pack(crc32(body))

    @classmethod
    def decode(cls, body: bytes) -> Windows:
        """Raises ValueError: not bytes that `encode` of this version made."""
        layout = read_layout(body)
        count = len(layout.days)
        shapes = (TOTALS, len(METRICS), len(METRICS))
        sizes = [*(count * width for width in shapes), PROFILE_HOURS, PROFILE_HOURS]
        block = layout.numbers(count, sum(sizes)).astype(np.int64)
        totals, maxima, holders, profile_s, profile_cpu = np.split(block, np.cumsum(sizes)[:-1])
        bins = np.frombuffer(layout.bins(), "<u2").astype(np.int64)
        windows = cls(
            days=layout.days,
            open_hour=layout.open_hour,
            totals=totals.reshape(count, TOTALS),
            maxima=maxima.reshape(count, len(METRICS)),
            holders=holders.reshape(count, len(METRICS)),
            profile_s=profile_s,
            profile_cpu=profile_cpu,
            daily={day: [received, sent] for day, received, sent in layout.daily().tolist()},
        )
        windows._sparse = bins, layout.all_weights()
        return windows


def reach_hours(days: Sequence[int]) -> int:
    """How many hours before the open one sums of windows of so many days, the profile and daily totals hold at most."""
    return 24 * max(*days, DAILY_DAYS, PROFILE_DAYS)


def rebuild(days: tuple[int, ...], open_hour: int, closed: Iterable[Hour]) -> Windows:
    """The same sums from the stored hours alone: the reference that `advance` must agree with."""
    windows = Windows.empty(days, open_hour)
    windows.advance(open_hour, {}, (), [hour for hour in closed if hour.number < open_hour])
    return windows


_FRACTIONS = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def read_figures(fleet: Sequence[Windows], open_hours: Sequence[Hour | None]) -> list[list[Figures]]:
    """Figures of many VMs (all with the same windows), the open hour of each included.

    Args:
        fleet: the running sums, maxima fresh.
        open_hours: the open hour of each, None where it holds no row.

    Returns: per VM one `Figures` a window.
    """
    if not fleet:
        return []
    totals = np.stack([windows.totals for windows in fleet])
    maxima = np.stack([windows.maxima for windows in fleet])
    counts = np.zeros((len(fleet), len(fleet[0].days), TOTAL_BINS), np.int32)
    for index, (windows, hour) in enumerate(zip(fleet, open_hours, strict=True)):
        windows.add_counts_to(counts[index])
        if hour is not None:
            totals[index] += hour.totals
            np.maximum(maxima[index], hour.maxima, out=maxima[index])
            counts[index][:, hour.bins] += hour.weights.astype(np.int32)
    columns: list[Floats] = []
    for number, part in enumerate(SLICES):
        mine = counts[:, :, part.start : part.stop]
        occupied = np.flatnonzero(mine.any(axis=(0, 1)))
        # Only the occupied stretch is worth scanning; a metric's bins are mostly empty.
        until = int(occupied[-1]) + 1 if len(occupied) else 1
        mine = mine[:, :, :until]
        seconds = mine.sum(axis=-1)
        known = seconds > 0
        for statistic in part.metric.statistics:
            if statistic == "mean":
                sums = totals[:, :, 2 + number] * part.metric.quantum
                columns.append(np.divide(sums, seconds, out=np.full(sums.shape, np.nan), where=known))
            elif statistic == "max":
                columns.append(np.where(known, maxima[:, :, number] * part.metric.quantum, np.nan))
            else:
                columns.append(quantile(part, mine, _FRACTIONS[statistic], maxima[:, :, number]))
    table = np.stack(columns, axis=-1)
    unknown = np.isnan(table)
    # Nine digits are far more than the quanta hold and hide the noise of binary fractions.
    cells = np.round(table, 9).astype(object)
    cells[unknown] = None
    covered = totals[:, :, :2].tolist()
    return [
        [
            Figures(days, windows.first_hour(window) * 3600, seconds[0], seconds[1], tuple(statistics))
            for window, (days, seconds, statistics) in enumerate(zip(windows.days, both, rows, strict=True))
        ]
        for windows, both, rows in zip(fleet, covered, cells.tolist(), strict=True)
    ]
