"""The window sums of many VMs read at once: what one verdict asks of 100,000 blobs. Pure numpy.

`Windows.decode` makes one VM's sums ready to go on; here only what was asked for is taken out of each blob, by slices
that are joined and read as one array, so that a fleet costs a few microseconds a VM. Closed hours only: the open hour
is in a VM's next blob.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

from aggregator.histogram import SLICES, TOTAL_BINS, Floats, Ints, Slice, quantile
from aggregator.rollup import ABSENT
from aggregator.summary import METRICS
from aggregator.window_layout import CRC, HEADER, PROFILE_HOURS, TOTALS, VERSION, Layout, read_layout

_Answer = TypeVar("_Answer")
_SLICES = {part.metric.name: part for part in SLICES}
_NUMBER = {part.metric.name: number for number, part in enumerate(SLICES)}
# HEADER, for numpy.
_FIELDS = ("version", "windows", "daily_days", "occupied", "open_hour", "unit", "width")
_HEAD = np.dtype(list(zip(_FIELDS, ("u1", "u1", "<u2", "<u2", "<u8", "<u4", "u1"), strict=True)))
# What the checksum of anything is that ends with its own checksum.
_WHOLE = 0x2144DF1C
_PROFILE_BYTES = 8 * 2 * PROFILE_HOURS
_DAY_BYTES = 8 * 3


@dataclass(frozen=True, slots=True)
class _Blobs:
    """Sound blobs; (k,) each. The order of their parts is that of `Windows.encode`.

    Attributes:
        rows: the VM of each.
        days: lengths of the windows.
        bins_at: where the bins begin; before them end the daily totals, and before those the profile.
    """

    bodies: Sequence[bytes]
    rows: Ints
    days: Sequence[tuple[int, ...]]
    daily_days: Ints
    occupied: Ints
    open_hour: Ints
    unit: Ints
    width: Ints
    bins_at: Ints

    def cut(self, begins: Ints, lengths: Ints) -> bytes:
        """A piece of each, one after the other."""
        ends = (begins + lengths).tolist()
        return b"".join([body[a:b] for body, a, b in zip(self.bodies, begins.tolist(), ends, strict=True)])

    def only(self, chosen: Iterable[int]) -> _Blobs:
        """Those at some places."""
        places = list(chosen)
        return _Blobs(
            [self.bodies[place] for place in places],
            self.rows[places],
            [self.days[place] for place in places],
            self.daily_days[places],
            self.occupied[places],
            self.open_hour[places],
            self.unit[places],
            self.width[places],
            self.bins_at[places],
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """Blobs of `vm_evidence` in the order of the VMs, of which some may have none, or a damaged one.

    Every array that a method returns has one row a VM, NaN where nothing is known. Many policies ask the same, so each
    answer is worked out once and must be left as it is.
    """

    _vms: int
    _blobs: _Blobs
    _answers: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def decode(cls, bodies: Sequence[bytes | None]) -> Evidence:
        """Checks each blob's checksum and finds its parts; a damaged one counts as none."""
        return cls(len(bodies), _find(bodies))

    @property
    def layouts(self) -> tuple[Layout | None, ...]:
        """Each VM's blob; None where it has none or a damaged one."""
        return self._once(("layouts",), self._layouts)

    def quantile(self, metric: str, days: int, fraction: float) -> Floats:
        """(n,) the value below which `fraction` of a window's time lies, in the metric's unit."""

        def answer() -> Floats:
            counts, maxima = self._counts(metric, days)
            return quantile(_SLICES[metric], counts, fraction, maxima)

        return self._once(("quantile", metric, days, fraction), answer)

    def seconds_above(self, metric: str, days: int, limit: float) -> Floats:
        """(n,) seconds of a window in which the metric was above `limit`, to the width of one bin."""
        part = _SLICES[metric]
        counts, _ = self._counts(metric, days)
        known = counts.sum(axis=1)
        # A bin counts as above when it begins above the limit.
        first = int(np.searchsorted(part.edges, limit / part.metric.quantum, side="right")) + 1
        return np.where(known > 0, counts[:, first:].sum(axis=1), np.nan)

    def profile(self) -> tuple[Floats, Floats]:
        """(n, 168) covered seconds and mean CPU ratio of each hour of the week, Monday 00:00 UTC first; 28 days."""
        return self._once(("profile",), self._profile)

    def daily_bytes(self, days: int) -> Floats:
        """(n, days) bytes received and sent of each VM's last UTC days, newest last; NaN for a day without samples."""
        return self._once(("daily", days), lambda: self._daily_bytes(days))

    def _once(self, key: tuple[object, ...], answer: Callable[[], _Answer]) -> _Answer:
        if key not in self._answers:
            self._answers[key] = answer()
        found: _Answer = self._answers[key]
        return found

    def _layouts(self) -> tuple[Layout | None, ...]:
        found: list[Layout | None] = [None] * self._vms
        for row, body in zip(self._blobs.rows.tolist(), self._blobs.bodies, strict=True):
            found[row] = read_layout(body)
        return tuple(found)

    def _counts(self, metric: str, days: int) -> tuple[Ints, Ints]:
        """(n, bins of the metric) seconds and (n,) maxima of one window."""
        return self._once(
            ("counts", metric, days), lambda: _dense(self._blobs, self._vms, _SLICES[metric], _NUMBER[metric], days)
        )

    def _profile(self) -> tuple[Floats, Floats]:
        blobs = self._blobs
        both = np.zeros((self._vms, 2 * PROFILE_HOURS))
        lengths = np.full(len(blobs.rows), _PROFILE_BYTES)
        cut = blobs.cut(blobs.bins_at - _DAY_BYTES * blobs.daily_days - _PROFILE_BYTES, lengths)
        both[blobs.rows] = np.frombuffer(cut, "<i8").reshape(-1, 2 * PROFILE_HOURS)
        seconds, sums = both[:, :PROFILE_HOURS], both[:, PROFILE_HOURS:]
        quantum = _SLICES["cpu_busy"].metric.quantum
        return seconds, np.divide(sums * quantum, seconds, out=np.full(sums.shape, np.nan), where=seconds > 0)

    def _daily_bytes(self, days: int) -> Floats:
        blobs = self._blobs
        found = np.full((self._vms, days), np.nan)
        lengths = _DAY_BYTES * blobs.daily_days
        day, received, sent = np.frombuffer(blobs.cut(blobs.bins_at - lengths, lengths), "<i8").reshape(-1, 3).T
        place = days - 1 - (np.repeat(blobs.open_hour // 24, blobs.daily_days) - day)
        kept = place >= 0
        found[np.repeat(blobs.rows, blobs.daily_days)[kept], place[kept]] = (received + sent)[kept]
        return found


def _find(bodies: Sequence[bytes | None]) -> _Blobs:
    """The sound ones and where their parts are, by the same rules as `read_layout`."""
    least = HEADER.size + CRC.size
    whole = [
        (row, body)
        for row, body in enumerate(bodies)
        if body is not None and len(body) >= least and crc32(body) == _WHOLE
    ]
    found = [body for _, body in whole]
    heads = np.frombuffer(b"".join([body[: HEADER.size] for body in found]), _HEAD)
    version, windows, daily_days, occupied, open_hour, unit, width = (heads[name].astype(np.int64) for name in _FIELDS)
    numbers = windows * (1 + TOTALS + 2 * len(METRICS)) + 2 * PROFILE_HOURS + 3 * daily_days
    bins_at = HEADER.size + 8 * numbers
    sizes = bins_at + occupied * (2 + windows * width) + CRC.size
    sound = (
        (version == VERSION) & np.isin(width, (2, 4)) & (sizes == np.fromiter(map(len, found), np.int64, len(found)))
    )
    blobs = _Blobs(
        found,
        np.array([row for row, _ in whole], np.int64),
        _days(found, windows),
        daily_days,
        occupied,
        open_hour,
        unit,
        width,
        bins_at,
    )
    if not sound.all():
        blobs = blobs.only(np.flatnonzero(sound).tolist())
    ends = blobs.bins_at + 2 * blobs.occupied
    some = blobs.occupied > 0
    last_bins = np.frombuffer(blobs.cut(ends - 2 * some, 2 * some), "<u2")
    if (last_bins >= TOTAL_BINS).any():
        known = iter(last_bins.tolist())
        blobs = blobs.only([place for place, has in enumerate(some) if not has or next(known) < TOTAL_BINS])
    return blobs


def _days(bodies: Sequence[bytes], windows: Ints) -> list[tuple[int, ...]]:
    """The lengths of each blob's windows, which are nearly always those of all others."""
    known: dict[bytes, tuple[int, ...]] = {}
    found = []
    for body, count in zip(bodies, windows.tolist(), strict=True):
        text = body[HEADER.size : HEADER.size + 8 * count]
        days = known.get(text)
        if days is None:
            days = known[text] = tuple(np.frombuffer(text, "<i8", len(text) // 8).tolist())
        found.append(days)
    return found


def _dense(blobs: _Blobs, vms: int, part: Slice, number: int, days: int) -> tuple[Ints, Ints]:
    bins = part.stop - part.start
    maxima = np.full(vms, ABSENT, np.int64)
    dense = np.zeros(vms * bins, np.int64)
    for width in np.unique(blobs.width).tolist():
        some = blobs.only(
            place
            for place, (own, kept) in enumerate(zip(blobs.width.tolist(), blobs.days, strict=True))
            if own == width and days in kept
        )
        window = np.fromiter((kept.index(days) for kept in some.days), np.int64, len(some.days))
        windows = np.fromiter(map(len, some.days), np.int64, len(some.days))
        places = windows * (1 + TOTALS) + window * len(METRICS) + number
        maxima[some.rows] = np.frombuffer(some.cut(HEADER.size + 8 * places, np.full(len(places), 8)), "<i8")
        # Bins rise, each at most once: a metric's own can only stand in this stretch.
        first = np.maximum(some.occupied - (TOTAL_BINS - part.start), 0)
        lengths = np.minimum(some.occupied, part.stop) - first
        flat = np.frombuffer(some.cut(some.bins_at + 2 * first, 2 * lengths), "<u2")
        begins = some.bins_at + 2 * some.occupied + width * (window * some.occupied + first)
        weights = np.frombuffer(some.cut(begins, width * lengths), f"<u{width}")
        mine = np.flatnonzero((flat >= part.start) & (flat < part.stop))
        keys = np.repeat(some.rows * bins - part.start, lengths)[mine] + flat[mine]
        # A bin stands once in a blob, so that plain assignment serves.
        dense[keys] = weights[mine] * np.repeat(some.unit, lengths)[mine]
    return dense.reshape(vms, bins), maxima
