"""Samples of VMs → loads on a grid of minutes, for VMs and for hosts. Pure numpy.

A minute of a host counts only once the samples of that minute carry most of the load that it is known to have: what
is carried over from the minute before is no sample, and k of n must not be met by one hot minute counted twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from orchestrate.outside import Outside
from orchestrate.sighting import Minute
from orchestrate.statistics import ar1_forecast

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

RESOURCES = ("cpu", "mem", "net")
CPU, MEM, NET = range(3)
SLOT_S = 60.0
# As many samples as the aggregator keeps in memory of each VM.
SLOTS = 10
# As much of a host's known load must be told by samples of a minute, for the minute to count.
_TOLD_RATIO = 0.9
_PEAK = 0.95
_FIGURES = 7  # of `_flat`


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VmSeries:
    """What n VMs used, (n, 3, SLOTS): cores, bytes, bytes per second, oldest first.

    Attributes:
        values: NaN throughout where nothing is known; else without gaps, the nearest sample standing for a gap.
        told: (n, SLOTS) not before the first nor after the last sample.
    """

    values: Floats
    told: Bools

    @property
    def known(self) -> Bools:
        """(n, 3)"""
        found: Bools = np.logical_not(np.logical_or.reduce(np.isnan(self.values), axis=-1))
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loads:
    """How full hosts were, minute by minute, as shares of what they have.

    Attributes:
        ends_s: when the newest minute ended.
        hosts: their ids.
        used_ratio: (H, 3, T), oldest first, NaN where the minute does not count. VMs of which nothing is known
            count with all that they may use.
        measured_ratio: the same without those VMs.
    """

    ends_s: float
    hosts: tuple[str, ...]
    used_ratio: Floats
    measured_ratio: Floats


def last_minute_s(now_s: float) -> float:
    """The end of the newest whole minute."""
    return now_s // SLOT_S * SLOT_S


def agents_series(minutes: Sequence[Sequence[Minute]], vcpus: Floats, now_s: float, fresh_s: float) -> VmSeries:
    """n VMs as their agents see them; nothing is known of one whose newest sample is older than `fresh_s`.

    Swap counts as memory that the VM lacks while it grows; pages that were swapped out long ago do not.

    Args: minutes: of each VM, oldest first. vcpus: (n,).
    """
    count = len(minutes)
    sizes = np.fromiter(map(len, minutes), np.intp, count)
    total = int(sizes.sum())
    flat = np.fromiter(chain.from_iterable(map(_flat, chain.from_iterable(minutes))), np.float64, total * _FIGURES)
    ts, interval_s, cpu, mem, rx, tx, swap = flat.reshape(total, _FIGURES).T
    row = np.repeat(np.arange(count), sizes)
    figures = np.stack([cpu * vcpus[row], mem, np.fmax(rx, tx), swap])
    values, told = _on_grid(row, ts, interval_s, figures, count, now_s)
    swap_series = np.nan_to_num(values[:, 3])
    grows = swap_series[:, -1] > swap_series[:, 0]
    values = values[:, :3]
    values[:, MEM] += np.where(grows[:, np.newaxis], swap_series, 0.0)
    newest = np.full(count, -np.inf)
    np.maximum.at(newest, row, ts)
    values[newest < now_s - fresh_s] = np.nan
    return VmSeries(values=values, told=told)


def outside_series(
    seen: Sequence[Outside | None], mem_bytes: Sequence[float | None], now_s: float, fresh_s: float
) -> VmSeries:
    """n VMs as their hosts see them: one reading each, which tells of no minute before it.

    Args: mem_bytes: memory in use, as the driver counts it.
    """
    count = len(seen)
    figures = np.array([_outside_figures(one, mem) for one, mem in zip(seen, mem_bytes, strict=True)], np.float64)
    at_s, span_s, *rest = figures.reshape(count, 5).T
    row = np.flatnonzero(at_s >= now_s - fresh_s)
    # A reading between two ends of minutes tells of the minute that has ended.
    ts = np.minimum(at_s[row], last_minute_s(now_s))
    values, told = _on_grid(row, ts, span_s[row], np.stack(rest)[:, row], count, now_s)
    return VmSeries(values=values, told=told)


def first_known(first: VmSeries, second: VmSeries) -> VmSeries:
    """Each VM's figures out of the first series, and what that lacks out of the second."""
    known = first.known
    return VmSeries(
        values=np.where(known[..., np.newaxis], first.values, second.values),
        told=np.where(np.logical_or.reduce(known, axis=1)[:, np.newaxis], first.told, second.told),
    )


def peaks(values: Floats) -> Floats:
    """What (..., n) values will need: the larger of their p95 and their forecast; NaN stays NaN."""
    at = _PEAK * (values.shape[-1] - 1)
    ordered = np.sort(values, axis=-1)
    low = ordered[..., int(at)]
    high = ordered[..., min(int(at) + 1, values.shape[-1] - 1)]
    found: Floats = np.maximum(low + (high - low) * (at - int(at)), np.maximum(ar1_forecast(values), 0.0))
    return found


def host_sums(series: VmSeries, host_of: Ints, hosts: int) -> tuple[Floats, Bools]:
    """(H, 3, T) the sums over each host's VMs with figures, and which of them samples of that minute tell."""
    filled = np.nan_to_num(series.values)
    sums = _by_host(filled, host_of, hosts)
    told = _by_host(filled * series.told[:, np.newaxis, :], host_of, hosts)
    # A host without load counts once any of its VMs tells so, and one without VMs at all times.
    counted = _by_host(series.known[..., np.newaxis].astype(np.float64), host_of, hosts)
    heard = _by_host((series.known[..., np.newaxis] & series.told[:, np.newaxis, :]).astype(np.float64), host_of, hosts)
    return sums, np.where(sums > 0, told >= _TOLD_RATIO * sums, (heard > 0) | (counted == 0))


def joined(past: Loads | None, new: Loads, slots: int = SLOTS * 6) -> Loads:
    """A longer history: minutes as they were seen at the time, and the new ones.

    What is past stays as it was: VMs that came to a host since did not load it then.
    """
    if past is None or past.ends_s > new.ends_s:
        return new
    places = {host: place for place, host in enumerate(past.hosts)}
    rows = np.array([places.get(host, -1) for host in new.hosts], np.intp)
    known = np.flatnonzero(rows >= 0)
    later = round((new.ends_s - past.ends_s) / SLOT_S)
    merged = []
    for old, fresh in ((past.used_ratio, new.used_ratio), (past.measured_ratio, new.measured_ratio)):
        whole = np.full((*fresh.shape[:2], slots), np.nan)
        whole[:, :, slots - fresh.shape[2] :] = fresh
        kept = min(old.shape[2], slots - later)
        if kept > 0:
            view = whole[known, :, slots - later - kept : slots - later]
            before = old[rows[known], :, old.shape[2] - kept :]
            whole[known, :, slots - later - kept : slots - later] = np.where(np.isnan(before), view, before)
        merged.append(whole)
    return Loads(ends_s=new.ends_s, hosts=new.hosts, used_ratio=merged[0], measured_ratio=merged[1])


def _flat(minute: Minute) -> tuple[float, ...]:
    return (
        minute.ts_s,
        minute.interval_s,
        minute.cpu_busy_ratio,
        minute.mem_used_bytes,
        _number(minute.net_rx_bytes_per_s),
        _number(minute.net_tx_bytes_per_s),
        _number(minute.swap_used_bytes),
    )


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def _outside_figures(seen: Outside | None, mem_bytes: float | None) -> tuple[float, ...]:
    if seen is None:
        return (-np.inf, SLOT_S, np.nan, np.nan, np.nan)
    return (seen.at_s, seen.span_s, _number(seen.cpu_cores), _number(mem_bytes), _number(seen.net_bytes_per_s))


def _on_grid(
    row: Ints, ts: Floats, interval_s: Floats, figures: Floats, count: int, now_s: float
) -> tuple[Floats, Bools]:
    """(count, figures, SLOTS) means of the samples in each minute, gaps filled; and (count, SLOTS) what is told."""
    slot = SLOTS - 1 - np.floor((last_minute_s(now_s) - ts) / SLOT_S).astype(np.intp)
    # A sample tells of its whole interval, which may be several minutes.
    spread = np.clip(np.ceil(interval_s / SLOT_S), 1, SLOTS).astype(np.intp)
    cells = count * SLOTS
    counts, sums = np.zeros(cells), np.zeros((len(figures), cells))
    for back in range(int(spread.max(initial=0))):
        chosen = (spread > back) & (slot - back >= 0) & (slot < SLOTS)
        at = row[chosen] * SLOTS + slot[chosen] - back
        counts += np.bincount(at, minlength=cells)
        for place, figure in enumerate(figures):
            sums[place] += np.bincount(at, figure[chosen], cells)
    has = (counts > 0).reshape(count, SLOTS)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (sums / counts).reshape(len(figures), count, SLOTS).transpose(1, 0, 2)
    numbers = np.arange(SLOTS)
    before = np.maximum.accumulate(np.where(has, numbers, -1), axis=1)
    first = np.where(has.any(axis=1), has.argmax(axis=1), 0)
    source = np.where(before < 0, first[:, np.newaxis], before)
    told = (numbers >= first[:, np.newaxis]) & (numbers <= before[:, -1:])
    return np.take_along_axis(values, np.broadcast_to(source[:, np.newaxis, :], values.shape), axis=2), told


def _by_host(values: Floats, host_of: Ints, hosts: int) -> Floats:
    rows = values.reshape(len(values), values.shape[1] * values.shape[2])
    found: Floats = np.stack([np.bincount(host_of, column, hosts) for column in rows.T], axis=1).astype(np.float64)
    return found.reshape(hosts, *values.shape[1:])
