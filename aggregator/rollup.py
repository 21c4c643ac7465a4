"""Rows of many VMs to hours of many VMs. Pure numpy: a chunk of VMs costs little more than one.

An hour is numbered by its start / 3600 and holds the samples with start < ts <= start + 3600: `ts` ends an
interval, and intervals divide an hour, so none straddles two. All sums are exact integers, so that a window can
subtract what it added.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import NamedTuple

import numpy as np

from agent.sample import FIELDS
from aggregator import rows
from aggregator.histogram import SLICES, TOTAL_BINS, Ints
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.summary import METRICS

ABSENT = -1  # every figure is >= 0
_TS, _INTERVAL = 0, 1
_COLUMN = {name: index for index, name in enumerate(SAMPLE_COLUMNS)}
_QUANTA = np.array([1.0, 1.0, *(field.unit.quantum for field in FIELDS)])
_DTYPE = np.dtype(rows.DTYPE_FIELDS)
_PLAIN_METRICS = ("cpu_busy", "cpu_max", "disk_read", "disk_write", "net_rx", "net_tx")
_NONE: Ints = np.zeros(0, np.int64)
# Dense counting is faster than sorting, but 2,700 bins an hour: so many hours at a time.
_HOURS_AT_A_TIME = 256


def quantise(packed: bytes) -> Ints:
    """Packed rows as the integers a store keeps: (n, len(SAMPLE_COLUMNS)), ABSENT where not measured."""
    records = np.frombuffer(packed, dtype=_DTYPE)
    table = np.empty((len(records), len(SAMPLE_COLUMNS)))
    for index, name in enumerate(SAMPLE_COLUMNS):
        table[:, index] = records[name]
    table /= _QUANTA
    return np.where(np.isnan(table), ABSENT, np.rint(table)).astype(np.int64)


def hours_of(table: Ints) -> Ints:
    """The hour of each sample."""
    return (table[:, _TS] - 1) // 3600


def _ratio(part: Ints, whole: Ints, steps: int) -> Ints:
    known = (part >= 0) & (whole > 0)
    return np.where(known, np.minimum((part * steps + whole // 2) // np.maximum(whole, 1), steps), ABSENT)


def _sum(first: Ints, second: Ints) -> Ints:
    return np.where((first >= 0) & (second >= 0), first + second, ABSENT)


def metric_values(table: Ints) -> Ints:
    """(n, len(METRICS)) in each metric's quanta, ABSENT where it cannot be known."""
    columns = {name: table[:, _COLUMN[name]] for name in _PLAIN_METRICS}
    columns["mem_used"] = _ratio(table[:, _COLUMN["mem_used"]], table[:, _COLUMN["mem_total"]], 10_000)
    columns["disk_used"] = _ratio(table[:, _COLUMN["disk_used"]], table[:, _COLUMN["disk_total"]], 10_000)
    columns["disk_io"] = _sum(columns["disk_read"], columns["disk_write"])
    columns["net_io"] = _sum(columns["net_rx"], columns["net_tx"])
    return np.column_stack([columns[metric.name] for metric in METRICS])


class Hour(NamedTuple):
    """One hour of one VM.

    Attributes:
        number: start / 3600.
        samples: rows in it.
        totals: covered seconds, logged-in seconds, then per metric the sum of value x seconds.
        seconds: per metric, seconds in which it was measured.
        maxima: per metric, ABSENT if never measured.
        bins, weights: the occupied flat bins in rising order and the seconds in each.
    """

    number: int
    samples: int
    totals: Ints
    seconds: Ints
    maxima: Ints
    bins: Ints
    weights: Ints


def roll_up(owner: Ints, table: Ints, *, count_bins: bool = True) -> Iterator[tuple[int, Hour]]:
    """Hours of many VMs.

    Args:
        owner: (n,) number of the VM each row belongs to; rows lie together by VM and, within it, by hour.
        table: (n, len(SAMPLE_COLUMNS)) integers.
        count_bins: False leaves the histograms empty, for hours that only need their rollup.

    Yields: (owner, hour) in the order of the rows.
    """
    if not len(table):
        return
    hours = hours_of(table)
    first = np.flatnonzero(np.concatenate(([True], (owner[1:] != owner[:-1]) | (hours[1:] != hours[:-1]))))
    counts = np.diff(np.append(first, len(table)))
    interval = table[:, _INTERVAL]
    values = metric_values(table)
    known = values >= 0
    seconds = np.where(known, interval[:, None], 0)
    logged_in = np.where(table[:, _COLUMN["users"]] > 0, interval, 0)
    totals = np.add.reduceat(
        np.column_stack([interval, logged_in, np.where(known, values, 0) * interval[:, None]]), first
    )
    group_seconds = np.add.reduceat(seconds, first)
    maxima = np.maximum.reduceat(values, first)
    histograms = _histograms(values, seconds, first, counts) if count_bins else repeat((_NONE, _NONE), len(first))
    for index, (bins, weights) in enumerate(histograms):
        yield (
            int(owner[first[index]]),
            Hour(
                number=int(hours[first[index]]),
                samples=int(counts[index]),
                totals=totals[index],
                seconds=group_seconds[index],
                maxima=maxima[index],
                bins=bins,
                weights=weights,
            ),
        )


def _histograms(values: Ints, seconds: Ints, first: Ints, counts: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Occupied bins and their seconds of each group of rows that begins at `first` and has so many."""
    known = values >= 0
    flat = np.column_stack([part.bins(values[:, index]) for index, part in enumerate(SLICES)])
    group = np.repeat(np.arange(len(first)), counts)
    for block in range(0, len(first), _HOURS_AT_A_TIME):
        until = min(block + _HOURS_AT_A_TIME, len(first))
        here = slice(first[block], first[until] if until < len(first) else len(values))
        keys = (group[here] - block)[:, None] * TOTAL_BINS + flat[here]
        picked = known[here]
        dense = np.bincount(keys[picked], weights=seconds[here][picked], minlength=(until - block) * TOTAL_BINS)
        occupied = np.flatnonzero(dense)
        weights = dense[occupied].astype(np.int64)
        cuts = np.searchsorted(occupied, np.arange(until - block + 1) * TOTAL_BINS)
        for index in range(until - block):
            a, b = cuts[index], cuts[index + 1]
            yield occupied[a:b] - index * TOTAL_BINS, weights[a:b]
