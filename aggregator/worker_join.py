"""What a worker does to bring a VM's history together: another node's part of it goes into this node's store.

Raw rows are joined by their time: equal ones are one, of two that differ ours stays. An hour of which both have raw
rows is computed anew from all of them. Where one has none any more, hours cannot be added up, since both may hold the
same samples: the one that covers more stands. All of it is one transaction, and to join a part again changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from aggregator import rollup, store_schema
from aggregator.chunk import by_time
from aggregator.part_file import Joined
from aggregator.rollup import Hour
from aggregator.store_checks import DamagedError, added, row_sums
from aggregator.store_files import as_store_error, store_path
from aggregator.store_join import JoiningStore, change_of, open_part
from aggregator.store_rows import packed_hours
from aggregator.store_verify import row_problems
from aggregator.summary import Summary, Taken, WorkerSettings
from aggregator.windows import Windows, reach_hours, read_figures, rebuild
from aggregator.worker import make_summary

_HOURS_AT_A_TIME = 168  # of minutes: 10,000 rows of each side; bounds memory where raw rows are kept for a year
_FEW_HOURS = 48  # to take so many into the sums costs less than to build those anew
_NEVER = -(1 << 62)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What becomes of the part's hours, by number; of those that are not named ours stands.

    Attributes:
        merged: computed from the raw rows of both, which are kept.
        rolled: computed from raw rows of the part that are too old to be kept.
        taken: taken over as they are, in the place of what we have of them.
    """

    merged: set[int] = field(default_factory=set)
    rolled: set[int] = field(default_factory=set)
    taken: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Tally:
    """What a join did so far. `open_hour`: with its histogram, which the store does not keep."""

    inserted: int = 0
    duplicates: int = 0
    differing: int = 0
    is_changed: bool = False
    open_hour: Hour | None = None


class PartJoiner:
    """Joins parts into the stores below one data directory; nothing else may write these stores meanwhile."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._template = store_schema.template()
        self._reach = reach_hours(settings.windows_days)

    def join(self, vm_id: str, node: str, body: bytes, *, had_history: bool, life: int = 0) -> Joined:
        """Takes a part into a VM's store.

        Args:
            node: that holds the part.
            had_history: this node had rows of the VM before: a store without any has lost them.
            life: the newest of the VM that this node knows of. Nothing is taken of a part from before.
        """

        def work(store: JoiningStore) -> Joined:
            tally = _Tally()
            if part.life < store.life:
                return Joined()
            store.carry(part)
            plan = _plan(store, part)
            found = self._finish(store, vm_id, part, plan, tally)
            # Rows that differ and hours of which ours stands are both ours; only the former are known to be refused.
            store.count_conflicts_of(node, change=change_of(body), conflicts=part.conflicts + tally.differing)
            if found is not None:
                found = found._replace(conflicts=store.conflicts)
            return Joined(found, tally.inserted, tally.duplicates, tally.differing)

        try:
            with open_part(body, vm_id) as part:
                if part.life < life:
                    return Joined()
                return self._with_store(vm_id, work, had_history=had_history, life=part.life)
        except (sqlite3.Error, ValueError) as error:
            return Joined(problem=f"it is not sound: {as_store_error(error)}")

    def settle(self, vm_id: str, node: str, *, had_history: bool, life: int = 0) -> Joined:
        """A node holds no part any more: forgets that, and says what our store says as a whole."""

        def work(store: JoiningStore) -> Joined:
            if store.life < life:
                return Joined(problem="this VM was forgotten")
            store.settle(node)
            return Joined(self._finish(store, vm_id, None, _Plan(), _Tally()))

        if not had_history and not store_path(self._settings.data_dir, vm_id).exists():
            return Joined()
        return self._with_store(vm_id, work, had_history=had_history)

    def _with_store(
        self, vm_id: str, work: Callable[[JoiningStore], Joined], *, had_history: bool, life: int = 0
    ) -> Joined:
        """One transaction of our store; nothing of it stays where there is a problem."""
        try:
            path = store_path(self._settings.data_dir, vm_id)
            store, was_forgotten = JoiningStore.of_life(path, vm_id, self._template, life)
            try:
                if had_history and not was_forgotten and store.facts().newest_hour is None:
                    # A flush marks the new store and tells of it; a part must not hide that.
                    return Joined(problem="the store of this VM is gone here: its next flush begins a new one")
                found = work(store)
                store.commit()
            finally:
                store.close()
        except (sqlite3.Error, OSError, ValueError) as error:
            return Joined(problem=f"the store here: {as_store_error(error)}")
        return found

    def _finish(
        self, store: JoiningStore, vm_id: str, part: JoiningStore | None, plan: _Plan, tally: _Tally
    ) -> Summary | None:
        """Writes what the plan says; the summary of all, None without a row."""
        was_open = store.facts().newest_hour
        ends = None if part is None else part.ends()
        open_hour = max(_NEVER if was_open is None else was_open, _NEVER if ends is None else ends[1])
        if open_hour == _NEVER:
            return None
        closing = set() if was_open is None else {was_open} - plan.taken
        numbers = sorted({*plan.merged, *plan.rolled, *closing, open_hour})
        windows = self._windows(store, open_hour)
        if plan.taken or len(numbers) > _FEW_HOURS:
            windows = None
        self._take_over(store, part, plan, was_open, open_hour)
        tally.is_changed = bool(plan.taken)
        for start in range(0, len(numbers), _HOURS_AT_A_TIME):
            hours = numbers[start : start + _HOURS_AT_A_TIME]
            _merge(store, part, plan, hours, open_hour=open_hour, windows=windows, tally=tally)
        if windows is None:
            hours_in_reach = store.stored_hours(open_hour - self._reach, open_hour - 1)
            windows = rebuild(self._settings.windows_days, open_hour, hours_in_reach)
        store.renew_maxima(windows)
        evidence = windows.encode()
        if tally.is_changed:
            store.save_windows(evidence)
        newest, now = store.newest_row(), store.ends()
        if newest is None or now is None:
            return None
        summary = make_summary(
            Taken(vm_id, b"", 0, 0.0, 0.0, identity_conflict=False, life=store.life),
            newest,
            oldest_hour=now[0],
            open_hour=open_hour,
            conflicts=store.conflicts,
            replaced=store.replaced_s is not None,
        )
        (figures,) = read_figures([windows], [tally.open_hour])
        return summary._replace(figures=figures, evidence=evidence)

    def _windows(self, store: JoiningStore, open_hour: int) -> Windows | None:
        """Sums that can be gone on with; None: they must be built anew. Raises DamagedError."""
        newest_hour = store.facts().newest_hour
        if newest_hour is None:
            return Windows.empty(self._settings.windows_days, open_hour)
        windows = store.windows()
        if windows is None or windows.open_hour != newest_hour:
            raise DamagedError("windows: the sums are not of the newest hour")
        return windows if windows.days == self._settings.windows_days else None

    def _take_over(
        self, store: JoiningStore, part: JoiningStore | None, plan: _Plan, was_open: int | None, open_hour: int
    ) -> None:
        if part is not None and plan.taken:
            hours = sorted(plan.taken)
            store.delete_rows(hours)
            store.take_over(part, hours, was_open=was_open, needs_bins_from=open_hour - self._reach)
        store.without_rows(plan.taken | plan.rolled)


def _plan(store: JoiningStore, part: JoiningStore) -> _Plan:
    plan = _Plan()
    ends = part.ends()
    if ends is None:
        return plan
    ours, theirs = store.outline(*ends), part.outline(*ends)
    raw_from_hour = (store.facts().raw_from_s or 0) // 3600
    for hour, covered_s in theirs.covered.items():
        has_rows = hour in theirs.raw
        if has_rows and (hour in ours.raw or (hour not in ours.covered and hour >= raw_from_hour)):
            plan.merged.add(hour)
        elif covered_s > ours.covered.get(hour, -1):
            (plan.rolled if has_rows else plan.taken).add(hour)
    return plan


def _merge(
    store: JoiningStore,
    part: JoiningStore | None,
    plan: _Plan,
    hours: Sequence[int],
    *,
    open_hour: int,
    windows: Windows | None,
    tally: _Tally,
) -> None:
    """Joins the raw rows of some hours, and computes anew those hours that changed.

    Args:
        windows: takes in what closed or changed, if all hours come at once; None: it is built anew later.
        tally: is added to.
    """
    facts = store.facts()
    was_open, checks = facts.newest_hour, store.checks(hours)
    mine = store.rows_of_hours(hours)
    sums = row_sums(mine)
    for _, problem in row_problems(
        sums, {hour: checks[hour].rows_hash for hour in hours if hour in checks}, facts.raw_from_s
    ):
        raise DamagedError(problem)
    theirs = mine[:0]
    if part is not None:
        theirs = part.rows_of_hours([hour for hour in hours if hour in plan.merged or hour in plan.rolled])
    is_known = np.isin(theirs[:, 0], mine[:, 0], assume_unique=True)
    fresh, met = theirs[~is_known], theirs[is_known]
    differing = int((mine[np.searchsorted(mine[:, 0], met[:, 0])] != met).any(axis=1).sum())
    tally.inserted += len(fresh)
    tally.duplicates += len(met) - differing
    tally.differing += differing
    changed = set(rollup.hours_of(fresh).tolist())
    if was_open is not None and was_open < open_hour and was_open in hours:
        changed.add(was_open)
    table = by_time(np.concatenate((mine, fresh)))[0]
    with_news = set(rollup.hours_of(fresh).tolist()) - plan.rolled
    if with_news:
        store.save_rows(packed_hours(table[np.isin(rollup.hours_of(table), list(with_news))]))
    table = table[np.isin(rollup.hours_of(table), [*changed, open_hour])]
    rolled_up = {hour.number: hour for _, hour in rollup.roll_up(np.zeros(len(table), np.int64), table)}
    tally.open_hour = rolled_up.get(open_hour, tally.open_hour)
    if not changed:
        return
    tally.is_changed = True
    written = [rolled_up[number] for number in sorted(changed)]
    if windows is not None:
        store.advance(windows, [hour for hour in written if hour.number < open_hour], open_hour)
    came = row_sums(fresh)
    hashes = {number: added(sums.get(number, 0), came.get(number, 0)) for number in changed}
    store.save_hours(written, hashes, checks, was_open=was_open, open_hour=open_hour)
