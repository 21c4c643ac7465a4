"""One VM on its way through a flush, and the arithmetic over a whole chunk of them at once. Does no I/O of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from aggregator import rollup
from aggregator.histogram import Ints
from aggregator.rollup import Hour
from aggregator.rows import ROW_BYTES
from aggregator.store import Facts, Store
from aggregator.store_checks import added, sums_by_hour
from aggregator.store_hours import Cells, HourChecks, decoded
from aggregator.store_verify import row_problems
from aggregator.summary import Taken
from aggregator.windows import Windows


@dataclass(slots=True)
class Work:
    """One VM on its way through a chunk."""

    share: Taken
    store: Store
    facts: Facts  # as they were before this flush
    windows: Windows | None  # None: not needed, or there are none yet
    checks: dict[int, HourChecks]  # of the hours it touches, as they were
    grows: Cells | None  # the open hour as it was, where all that came is newer: its rows need not be read
    stored: Ints  # raw rows of those hours, as they were; none where the open hour grows
    fresh: Ints  # raw rows that came
    merged: Ints  # both
    oldest_ts: int  # of the rows that came
    newest: Ints | None  # the newest row of all, if it came with this flush
    inserted: int
    duplicates: int
    conflicts: int
    hours: dict[int, Hour] = field(default_factory=dict)
    hashes: dict[int, int] = field(default_factory=dict)  # hour -> sum of the hashes of its merged rows

    @property
    def is_bare(self) -> bool:
        """Whether only the open hour grows, and no figures are read."""
        return self.windows is None and self.facts.newest_hour is not None


def split(table: Ints, shares: Sequence[Taken]) -> list[Ints]:
    """One table for all shares, cut into theirs: quantising costs the same for sixty VMs as for one."""
    ends = list(accumulate(len(share.rows) // ROW_BYTES for share in shares))
    return [table[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def by_time(table: Ints) -> tuple[Ints, Ints]:
    """Rows by rising ts, and those that repeat the ts of an earlier row."""
    ts = table[:, 0]
    if (ts[1:] > ts[:-1]).all():
        return table, table[:0]
    table = table[np.argsort(ts, kind="stable")]
    first = np.ones(len(table), bool)
    first[1:] = table[1:, 0] != table[:-1, 0]
    return table[first], table[~first]


def take_hashes(works: Sequence[Work]) -> dict[int, str]:
    """Gives each VM the sums of its rows' hashes, hour by hour; returns index -> what is wrong with those stored.

    Over the whole chunk at once: hashing the rows of sixty VMs costs little more than those of one.
    """
    sums: list[tuple[dict[int, int], dict[int, int]]] = [({}, {}) for _ in works]
    for which, tables in enumerate(([work.stored for work in works], [work.fresh for work in works])):
        if tables:
            owner = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
            for index, hour, total in sums_by_hour(owner, np.concatenate(tables)):
                sums[index][which][hour] = total
    wrong: dict[int, str] = {}
    for index, (work, (stored, fresh)) in enumerate(zip(works, sums, strict=True)):
        known = {hour: checks.rows_hash for hour, checks in work.checks.items()}
        if work.grows is None and stored != known:
            for _, problem in row_problems(stored, known, work.facts.raw_from_s):
                wrong.setdefault(index, problem)
        before = stored if work.grows is None else {hour: total or 0 for hour, total in known.items()}
        work.hashes = {hour: added(before.get(hour, 0), fresh.get(hour, 0)) for hour in before.keys() | fresh.keys()}
    return wrong


def roll_up(works: Sequence[Work]) -> None:
    """Computes the hours that each VM touches, over the whole chunk at once."""
    for with_figures in (True, False):
        # Only sums and figures ask for histograms; an open hour that merely grows has no use for its own.
        group = [work for work in works if work.is_bare != with_figures]
        if group:
            owner = np.repeat(np.arange(len(group)), [len(work.merged) for work in group])
            rows = np.concatenate([work.merged for work in group])
            for index, hour in rollup.roll_up(owner, rows, count_bins=with_figures):
                group[index].hours[hour.number] = hour
    growing = [(work, work.grows) for work in works if work.grows is not None]
    for (work, _), before in zip(growing, decoded([cells for _, cells in growing]), strict=True):
        work.hours[before.number] = _joined(before, work.hours[before.number])


def _joined(first: Hour, second: Hour) -> Hour:
    """An hour of two parts, without its histogram."""
    return first._replace(
        samples=first.samples + second.samples,
        totals=first.totals + second.totals,
        seconds=first.seconds + second.seconds,
        maxima=np.maximum(first.maxima, second.maxima),
    )
