"""The window sums of many VMs read at once: what one verdict asks of 100,000 blobs. Pure numpy.

`Windows.decode` makes one VM's sums ready to go on; here only what was asked for is taken out of each blob,
so that a fleet costs a few microseconds a VM. Closed hours only: the open hour is in a VM's next blob.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from aggregator.histogram import SLICES, TOTAL_BINS, Floats, Ints, Slice, quantile
from aggregator.rollup import ABSENT
from aggregator.window_layout import PROFILE_HOURS, Layout, read_layout

_Answer = TypeVar("_Answer")
_SLICES = {part.metric.name: part for part in SLICES}
_NUMBER = {part.metric.name: number for number, part in enumerate(SLICES)}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Blobs of `vm_evidence` in the order of the VMs, None where a VM has none or its blob is damaged.

    Every array that a method returns has one row a VM, NaN where nothing is known. Many policies ask the same, so each
    answer is worked out once and must be left as it is.
    """

    layouts: tuple[Layout | None, ...]
    _answers: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def decode(cls, bodies: Sequence[bytes | None]) -> Evidence:
        """Checks each blob's checksum and finds its parts; a damaged one counts as none."""
        return cls(tuple(None if body is None else _layout(body) for body in bodies))

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

    def _counts(self, metric: str, days: int) -> tuple[Ints, Ints]:
        """(n, bins of the metric) seconds and (n,) maxima of one window."""
        return self._once(
            ("counts", metric, days), lambda: _dense(self.layouts, _SLICES[metric], _NUMBER[metric], days)
        )

    def _known(self) -> tuple[list[int], list[Layout]]:
        known = [(row, layout) for row, layout in enumerate(self.layouts) if layout is not None]
        return [row for row, _ in known], [layout for _, layout in known]

    def _profile(self) -> tuple[Floats, Floats]:
        rows, layouts = self._known()
        both = np.zeros((len(self.layouts), 2 * PROFILE_HOURS))
        if rows:
            both[rows] = np.concatenate([layout.profile() for layout in layouts]).reshape(len(rows), -1)
        seconds, sums = both[:, :PROFILE_HOURS], both[:, PROFILE_HOURS:]
        quantum = _SLICES["cpu_busy"].metric.quantum
        return seconds, np.divide(sums * quantum, seconds, out=np.full(sums.shape, np.nan), where=seconds > 0)

    def _daily_bytes(self, days: int) -> Floats:
        found = np.full((len(self.layouts), days), np.nan)
        rows, layouts = self._known()
        if not rows:
            return found
        daily = np.concatenate([layout.daily() for layout in layouts])
        lengths = [layout.daily_days for layout in layouts]
        owners = np.repeat(rows, lengths)
        today = np.repeat([layout.open_hour // 24 for layout in layouts], lengths)
        places = days - 1 - (today - daily[:, 0])
        kept = places >= 0
        found[owners[kept], places[kept]] = daily[kept, 1] + daily[kept, 2]
        return found


def _layout(body: bytes) -> Layout | None:
    try:
        return read_layout(body)
    except ValueError:
        return None


def _dense(layouts: Sequence[Layout | None], part: Slice, number: int, days: int) -> tuple[Ints, Ints]:
    maxima = np.full(len(layouts), ABSENT, np.int64)
    owners: list[int] = []
    lengths: list[int] = []
    bins: list[bytes] = []
    weights: list[Ints] = []
    for row, layout in enumerate(layouts):
        window = None if layout is None else layout.window(days)
        if layout is None or window is None:
            continue
        maxima[row] = layout.maximum(window, number)
        # Bins rise, each at most once: a metric's own can only stand in this stretch.
        first, last = max(0, layout.occupied - (TOTAL_BINS - part.start)), min(layout.occupied, part.stop)
        owners.append(row)
        lengths.append(last - first)
        bins.append(layout.bins()[2 * first : 2 * last])
        weights.append(layout.weights(window)[first:last])
    width = part.stop - part.start
    if not owners:
        return np.zeros((len(layouts), width), np.int64), maxima
    flat = np.frombuffer(b"".join(bins), "<u2").astype(np.int64)
    seconds = np.concatenate(weights)
    rows = np.repeat(np.array(owners), lengths)
    mine = (flat >= part.start) & (flat < part.stop)
    keys = rows[mine] * width + flat[mine] - part.start
    # A bin stands once in a blob, so that plain assignment serves.
    dense = np.zeros(len(layouts) * width, np.int64)
    dense[keys] = seconds[mine]
    return dense.reshape(len(layouts), width), maxima
