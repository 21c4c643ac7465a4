"""One VM on its way through a flush, and the arithmetic over a whole chunk of them at once. Does no I/O of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from aggregator import rollup
from aggregator.histogram import Ints
from aggregator.packed_rows import pack, unpack
from aggregator.rollup import Hour
from aggregator.rows import ROW_BYTES, SAMPLE_COLUMNS
from aggregator.store import Facts, Store
from aggregator.store_checks import added, sums_by_hour
from aggregator.store_hours import HourChecks
from aggregator.store_rows import Packed, problem_of
from aggregator.store_verify import row_problems
from aggregator.summary import Taken
from aggregator.windows import Windows


def _no_rows() -> Ints:
    return np.zeros((0, len(SAMPLE_COLUMNS)), np.int64)


@dataclass(slots=True)
class Work:
    """One VM on its way through a chunk: what was read of its store first, what follows from it below."""

    share: Taken
    store: Store
    facts: Facts  # as they were before this flush
    windows: Windows | None  # None: not needed, or there are none yet
    checks: dict[int, HourChecks]  # of the hours it touches, as they were
    packed: list[Packed]  # raw rows of those hours, as they were
    came: Ints  # raw rows of this flush by rising ts
    repeated: Ints  # those of them that repeat the ts of an earlier one
    fresh: Ints = field(default_factory=_no_rows)  # those that are new
    merged: Ints = field(default_factory=_no_rows)  # with those that there were
    newest: Ints | None = None  # the newest row of all, if it came with this flush
    duplicates: int = 0
    conflicts: int = 0
    hours: dict[int, Hour] = field(default_factory=dict)
    hashes: dict[int, int] = field(default_factory=dict)  # hour -> sum of the hashes of its merged rows
    bodies: dict[int, bytes] = field(default_factory=dict)  # hour -> its merged rows, where new ones came

    @property
    def is_bare(self) -> bool:
        """Whether only the open hour grows, and no figures are read."""
        return self.windows is None and self.facts.newest_hour is not None

    @property
    def inserted(self) -> int:
        """How many rows are new."""
        return len(self.fresh)


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


def compute(works: Sequence[Work]) -> dict[int, str]:
    """Unpacks, verifies and merges rows, and computes and packs the hours that each VM touches.

    Over the whole chunk at once: sixty VMs cost little more than one. Returns: index -> what is wrong with its stored
    rows; nothing is computed of that VM.
    """
    wrong = _merge(works)
    sound = [work for index, work in enumerate(works) if index not in wrong]
    _roll_up(sound)
    _pack(sound)
    return wrong


def _merge(works: Sequence[Work]) -> dict[int, str]:
    stored, wrong = _unpacked(works)
    for work, table in zip(works, stored, strict=True):
        work.fresh, met_again = work.came, work.repeated
        work.merged = np.concatenate((table, work.fresh)) if len(table) else work.fresh
        if len(table) and len(work.came) and work.came[0, 0] <= table[-1, 0]:
            is_known = np.isin(work.came[:, 0], table[:, 0], assume_unique=True)
            work.fresh, met_again = work.came[~is_known], np.concatenate((work.came[is_known], work.repeated))
            work.merged = by_time(np.concatenate((table, work.fresh)))[0]
        differing = 0
        if len(met_again):
            first = work.merged[np.searchsorted(work.merged[:, 0], met_again[:, 0])]
            differing = int((first != met_again).any(axis=1).sum())
        work.duplicates = len(met_again) - differing
        work.conflicts = differing + work.share.conflicts
        # The newest stored row is among those read: the open hour is always touched.
        is_newest = len(work.fresh) > 0 and (not len(table) or work.fresh[-1, 0] > table[-1, 0])
        work.newest = work.fresh[-1] if is_newest else None
    return _hash(works, stored, wrong)


def _unpacked(works: Sequence[Work]) -> tuple[list[Ints], dict[int, str]]:
    """The stored rows of each VM; index -> what is wrong with them where they cannot be read."""
    wrong: dict[int, str] = {}
    try:
        table, counts = unpack([hour for work in works for hour in work.packed])
    except ValueError:
        for index, work in enumerate(works):
            problems = (problem_of(*hour) for hour in work.packed)
            problem = next((one for one in problems if one is not None), None)
            if problem is not None:
                wrong[index] = problem
        table, counts = unpack([hour for index, work in enumerate(works) if index not in wrong for hour in work.packed])
    ends = [0, *counts.cumsum().tolist()]
    tables, at = [], 0
    for index, work in enumerate(works):
        upto = at if index in wrong else at + len(work.packed)
        tables.append(table[ends[at] : ends[upto]])
        at = upto
    return tables, wrong


def _hash(works: Sequence[Work], stored: Sequence[Ints], wrong: dict[int, str]) -> dict[int, str]:
    """Gives each VM the sums of its rows' hashes, hour by hour; adds to `wrong` where those stored are not right."""
    sums: list[tuple[dict[int, int], dict[int, int]]] = [({}, {}) for _ in works]
    for which, tables in enumerate((stored, [work.fresh for work in works])):
        if tables:
            owner = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
            for index, hour, total in sums_by_hour(owner, np.concatenate(tables)):
                sums[index][which][hour] = total
    for index, (work, (before, fresh)) in enumerate(zip(works, sums, strict=True)):
        known = {hour: checks.rows_hash for hour, checks in work.checks.items()}
        if before != known:
            for _, problem in row_problems(before, known, work.facts.raw_from_s):
                wrong.setdefault(index, problem)
        work.hashes = {hour: added(before.get(hour, 0), fresh.get(hour, 0)) for hour in before.keys() | fresh.keys()}
    return wrong


def _roll_up(works: Sequence[Work]) -> None:
    for with_figures in (True, False):
        # Only sums and figures ask for histograms; an open hour that merely grows has no use for its own.
        group = [work for work in works if work.is_bare != with_figures]
        if group:
            owner = np.repeat(np.arange(len(group)), [len(work.merged) for work in group])
            rows = np.concatenate([work.merged for work in group])
            for index, hour in rollup.roll_up(owner, rows, count_bins=with_figures):
                group[index].hours[hour.number] = hour


def _pack(works: Sequence[Work]) -> None:
    changed = [work for work in works if len(work.fresh)]
    if not changed:
        return
    table = np.concatenate([work.merged for work in changed])
    hours = rollup.hours_of(table)
    owner = np.repeat(np.arange(len(changed)), [len(work.merged) for work in changed])
    first = np.flatnonzero(np.concatenate(([True], (owner[1:] != owner[:-1]) | (hours[1:] != hours[:-1]))))
    touched = [set(rollup.hours_of(work.fresh).tolist()) for work in changed]
    numbers = list(zip(owner[first].tolist(), hours[first].tolist(), strict=True))
    is_changed = np.array([hour in touched[index] for index, hour in numbers])
    if not is_changed.all():
        counts = np.diff(np.append(first, len(table)))
        table = table[np.repeat(is_changed, counts)]
        counts = counts[is_changed]
        first = counts.cumsum() - counts
    bodies = iter(pack(table, first))
    for (index, hour), is_new in zip(numbers, is_changed.tolist(), strict=True):
        if is_new:
            changed[index].bodies[hour] = next(bodies)
