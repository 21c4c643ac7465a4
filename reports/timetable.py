"""VMs that are busy only at regular hours, and when they could be off. Pure numpy.

The profile holds, for each hour of the week, the mean CPU of four weeks. Work at irregular times raises the mean of
many cells a little, regular work that of a few cells a lot: only the latter leaves long rests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aggregator.histogram import Floats
from reports.facts import Facts
from reports.policy import Bools

WEEK_HOURS = 168
_WEEKS = 4
_SEEN_CELL = WEEK_HOURS // 10
# More than this is work, whatever the CPU says: a hundredth of 1 Gbit/s, a twentieth of an old disk.
_REST_BYTES_PER_S: Mapping[str, float] = {"net_io": 1.25e6, "disk_io": 5e6}
# A nightly backup of an hour and a quarter keeps no VM from its timetable.
_SLACK_RATIO = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class TimetableLimits:
    """When a VM is worth a timetable.

    Args:
        rest_ratio: a cell with at most this mean CPU is at rest.
        work_ratio: the working cells have at least this mean CPU together.
        min_rest_h: shorter rests are not worth a stop and a start.
        early_h: hours it is on before work begins.
        min_off_h_per_week: fewer hours off are not worth a timetable.
        min_weeks: fewer weeks of samples give no timetable; fewer than four give a provisional one.
    """

    rest_ratio: float = 0.02
    work_ratio: float = 0.05
    min_rest_h: int = 5
    early_h: int = 1
    min_off_h_per_week: int = 40
    min_weeks: int = 2


class Timetables(NamedTuple):
    """Proposed timetables.

    Attributes:
        scheduled: (n,) busy at regular hours only.
        off: (n, 168) hours of the week, Monday 00:00 UTC first, in which the VM could be off.
        off_h_per_week: (n,) hours.
        provisional: (n,) fewer than four weeks were seen.
        cpu_ratio: (n, 168) the profile, NaN where a cell was never covered.
    """

    scheduled: Bools
    off: Bools
    off_h_per_week: Floats
    provisional: Bools
    cpu_ratio: Floats


def propose(facts: Facts, limits: TimetableLimits, days: int) -> Timetables:
    """A timetable for every VM whose profile has long rests and real work between them.

    The profile knows CPU alone. So the rest of what a VM does must fit into the hours in which it would be on: over a
    window of `days`, traffic and logins may not fill more of the time than those hours do.
    """
    seconds, cpu_ratio = facts.evidence.profile()
    weeks = weeks_seen(seconds)
    rest = (cpu_ratio <= limits.rest_ratio) & ~np.isnan(cpu_ratio)
    rests = _long_rests(rest, limits.min_rest_h + limits.early_h)
    # On again before work begins: the last hours of each rest are not off.
    off = np.logical_and.reduce([np.roll(rests, -hours, axis=1) for hours in range(limits.early_h + 1)])
    off_h = off.sum(axis=1)
    working = ~rest
    work_cells = working.sum(axis=1)
    work = np.where(working, np.nan_to_num(cpu_ratio), 0.0).sum(axis=1) / np.maximum(work_cells, 1)
    regular = (
        (weeks >= limits.min_weeks)
        & (work_cells > 0)
        & (work >= limits.work_ratio)
        & (off_h >= limits.min_off_h_per_week)
    )
    scheduled = regular & _fits_on_hours(facts, days, 1 - off_h / WEEK_HOURS, regular)
    return Timetables(scheduled, off, off_h.astype(np.float64), weeks < _WEEKS, cpu_ratio)


def weeks_seen(seconds: Floats) -> Floats:
    """How often nine hours of ten of the week were seen: the open hour, or a restart, costs no VM its weeks.

    Args: seconds: (..., 168) covered in each; what was never seen is not at rest all the same.
    """
    return np.asarray(np.floor(np.partition(seconds, _SEEN_CELL, axis=-1)[..., _SEEN_CELL] / 3600 + 0.1))


def _fits_on_hours(facts: Facts, days: int, on_ratio: Floats, asked: Bools) -> Bools:
    """VMs whose logins and traffic fit into a share of the time; what was not measured speaks against none."""
    window = facts.windows.get(days)
    if window is None:
        return np.zeros(len(facts), bool)
    at_most_s = np.minimum(on_ratio + _SLACK_RATIO, 1.0) * window.covered_s
    fits = ~(window.users_s > at_most_s)
    for metric, limit in _REST_BYTES_PER_S.items():
        # Most are quiet by their column already, and spare the histograms.
        busy = asked & fits & (facts.column(days, f"{metric}_p95_bytes_per_s") > limit)
        if busy.any():
            fits &= ~(busy & (facts.evidence.seconds_above(metric, days, limit) > at_most_s))
    return fits


def _long_rests(rest: Bools, hours: int) -> Bools:
    """Runs of rest of at least so many hours, round the end of the week."""
    begins = rest.copy()
    for shift in range(1, hours):
        begins &= np.roll(rest, -shift, axis=1)
    long = begins.copy()
    for shift in range(1, hours):
        long |= np.roll(begins, shift, axis=1)
    return long
