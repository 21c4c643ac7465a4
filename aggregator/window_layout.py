"""The bytes of `aggregator.windows.Windows`: where each part of a blob lies, found without copying any."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from aggregator.histogram import TOTAL_BINS, Ints
from aggregator.summary import METRICS

VERSION = 1
TOTALS = 2 + len(METRICS)  # covered seconds, logged-in seconds, value x seconds of each metric
PROFILE_HOURS = 168
# Layout version, windows, days, occupied bins, open hour, unit of the weights in seconds, bytes a weight.
HEADER = struct.Struct("<BBHHQIB")
CRC = struct.Struct("<I")  # after all else: SQLite's own checks let most flipped bits pass


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of an encoded blob lie; nothing is copied until it is asked for.

    Args:
        days: length of each window, rising.
        daily_days: days of daily totals.
        occupied: bins that any window occupies.
        unit: of the weights, in seconds.
        width: bytes of a weight.
    """

    body: bytes
    days: tuple[int, ...]
    daily_days: int
    occupied: int
    open_hour: int
    unit: int
    width: int

    def window(self, days: int) -> int | None:
        """Index of the window of so many days."""
        return self.days.index(days) if days in self.days else None

    def numbers(self, first: int, count: int) -> Ints:
        """(count,) of the 8-byte numbers behind the header."""
        return np.frombuffer(self.body, "<i8", count, HEADER.size + 8 * first)

    def maximum(self, window: int, metric: int) -> int:
        """Exact largest value of a metric, in its quanta."""
        place = len(self.days) * (1 + TOTALS) + window * len(METRICS) + metric
        return int(self.numbers(place, 1)[0])

    def profile(self) -> Ints:
        """(336,) covered seconds of the hours of the week, then CPU x seconds."""
        return self.numbers(self._before_profile(), 2 * PROFILE_HOURS)

    def daily(self) -> Ints:
        """(days, 3) day number, received and sent bytes."""
        first = self._before_profile() + 2 * PROFILE_HOURS
        return self.numbers(first, 3 * self.daily_days).reshape(self.daily_days, 3)

    def bins(self) -> bytes:
        """Numbers of the occupied bins, two bytes each, rising."""
        start = self._after_numbers()
        return self.body[start : start + 2 * self.occupied]

    def weights(self, window: int) -> Ints:
        """(occupied,) seconds that a window has in each of them."""
        start = self._after_numbers() + 2 * self.occupied + window * self.occupied * self.width
        return np.frombuffer(self.body, f"<u{self.width}", self.occupied, start).astype(np.int64) * self.unit

    def all_weights(self) -> Ints:
        """(windows, occupied) the same of all windows at once."""
        count = len(self.days)
        start = self._after_numbers() + 2 * self.occupied
        weights = np.frombuffer(self.body, f"<u{self.width}", count * self.occupied, start)
        return weights.astype(np.int64).reshape(count, self.occupied) * self.unit

    def _before_profile(self) -> int:
        return len(self.days) * (1 + TOTALS + 2 * len(METRICS))

    def _after_numbers(self) -> int:
        return HEADER.size + 8 * (self._before_profile() + 2 * PROFILE_HOURS + 3 * self.daily_days)


def read_layout(body: bytes) -> Layout:
    """Raises ValueError: not bytes that `Windows.encode` of this version made."""
    if len(body) < HEADER.size + CRC.size:
        raise ValueError("window sums are damaged: too short")
    if CRC.pack(crc32(memoryview(body)[: -CRC.size])) != body[-CRC.size :]:
        raise ValueError("window sums are damaged: their checksum differs")
    version, count, daily_days, occupied, open_hour, unit, width = HEADER.unpack_from(body)
    if version != VERSION:
        raise ValueError(f"window sums of layout {version}; this version reads {VERSION}")
    numbers = count * (1 + TOTALS + 2 * len(METRICS)) + 2 * PROFILE_HOURS + 3 * daily_days
    if len(body) != HEADER.size + 8 * numbers + occupied * (2 + count * width) + CRC.size:
        raise ValueError("window sums are damaged: their length is not that of their parts")
    days = tuple(np.frombuffer(body, "<i8", count, HEADER.size).tolist())
    layout = Layout(body, days, daily_days, occupied, open_hour, unit, width)
    if occupied and int.from_bytes(layout.bins()[-2:], "little") >= TOTAL_BINS:
        raise ValueError("window sums are damaged: there is no such bin")
    return layout
