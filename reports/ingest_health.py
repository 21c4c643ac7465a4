"""Whether figures come in: agents that are late or silent, clocks that are off, samples that were refused.

Read from the fleet database, which each flush of the aggregator brings up to date; `reports.live` asks the aggregator.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from aggregator.fleet import vm as vms
from aggregator.fleet import vm_summary as summaries
from reports.node_rows import split_ids
from reports.verdicts import Limits

WORST = 50
# A push may fail and come again with the next one.
_LATE_INTERVALS = 3


class Trouble(StrEnum):
    """What may be wrong with a VM's ingest. The first five exclude each other; of the others a VM may have each."""

    POWERED_OFF = "powered_off"
    NO_AGENT = "no_agent"
    NEVER = "never"
    SILENT = "silent"
    LATE = "late"
    SKEWED = "skewed"
    CONFLICTS = "conflicts"
    FLAGGED = "flagged"
    SPLIT = "split"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentState:
    """One VM's ingest. None: no sample of it was ever stored.

    Attributes:
        age_s: of its newest sample.
        conflicts: samples refused because another with their time was first.
    """

    vm_id: str
    name: str | None
    owner: str | None
    newest_s: float | None
    age_s: float | None
    interval_s: int | None
    skew_s: float | None
    conflicts: int | None
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affected:
    """The VMs with one trouble: how many, and at most WORST of them, the worst first."""

    vms: int
    worst: tuple[AgentState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestHealth:
    """The whole fleet's.

    Attributes:
        vms: in the catalogue.
        reporting: those that are neither powered off nor late, silent or without samples.
        flushed_s: when the aggregator last wrote summaries; None: never. Agents are late by this time, not by now.
    """

    vms: int
    reporting: int
    flushed_s: float | None
    troubles: dict[Trouble, Affected]


def read_ingest_health(connection: sa.Connection, now_s: float, limits: Limits) -> IngestHealth:
    """Counts and names the VMs whose figures do not come in as they should.

    Args:
        connection: of `reports.fleet.snapshot`.
        limits: from when on a VM is silent, and how far its clock may be off.
    """
    flushed_s: float | None = connection.scalar(sa.select(sa.func.max(summaries.c.updated_s)))
    tests = _tests(now_s, now_s if flushed_s is None else min(flushed_s, now_s), limits)
    counts = connection.execute(
        sa.select(sa.func.count(), *(sa.func.count().filter(test) for test, _ in tests.values())).select_from(_JOINED)
    ).one()
    vms_count, *affected = counts
    found = {
        trouble: Affected(vms=count, worst=_worst(connection, *tests[trouble], now_s) if count else ())
        for trouble, count in zip(tests, affected, strict=True)
    }
    apart = (Trouble.POWERED_OFF, Trouble.NO_AGENT, Trouble.NEVER, Trouble.SILENT, Trouble.LATE)
    return IngestHealth(
        vms=vms_count,
        reporting=vms_count - sum(found[trouble].vms for trouble in apart),
        flushed_s=flushed_s,
        troubles=found,
    )


_JOINED = vms.outerjoin(summaries, summaries.c.vm_id == vms.c.vm_id)
_Test = tuple[sa.ColumnElement[bool], sa.ColumnElement[Any]]


def _tests(now_s: float, flushed_s: float, limits: Limits) -> dict[Trouble, _Test]:
    """For each trouble which VMs have it, and what the worst of them come first by."""
    unseen = summaries.c.vm_id.is_(None)
    is_silent = summaries.c.newest_s < now_s - limits.silent_after_s
    # An inventory may be older than the newest sample, and a VM that sends is on.
    sends = sa.and_(sa.not_(unseen), sa.not_(sa.func.coalesce(is_silent, sa.true())))
    is_on = sa.or_(vms.c.power_state.is_(None), vms.c.power_state != "off", sends)
    is_late = summaries.c.newest_s < flushed_s - _LATE_INTERVALS * summaries.c.interval_s
    skew_s = sa.func.abs(summaries.c.skew_s)
    return {
        Trouble.POWERED_OFF: (sa.not_(is_on), vms.c.vm_id),
        Trouble.NO_AGENT: (sa.and_(is_on, unseen, vms.c.enrolled_s.is_(None)), vms.c.vm_id),
        Trouble.NEVER: (sa.and_(is_on, unseen, vms.c.enrolled_s.is_not(None)), vms.c.enrolled_s),
        Trouble.SILENT: (sa.and_(is_on, is_silent), summaries.c.newest_s),
        Trouble.LATE: (sa.and_(is_on, sa.not_(is_silent), is_late), summaries.c.newest_s),
        Trouble.SKEWED: (skew_s > limits.max_skew_s, skew_s.desc()),
        Trouble.CONFLICTS: (summaries.c.conflicts > 0, summaries.c.conflicts.desc()),
        Trouble.FLAGGED: (summaries.c.flags != "[]", vms.c.vm_id),
        Trouble.SPLIT: (vms.c.vm_id.in_(split_ids()), vms.c.vm_id),
    }


def _worst(
    connection: sa.Connection, test: sa.ColumnElement[bool], order: sa.ColumnElement[Any], now_s: float
) -> tuple[AgentState, ...]:
    columns = ("newest_s", "interval_s", "skew_s", "conflicts", "flags")
    query = (
        sa.select(vms.c.vm_id, vms.c.name, vms.c.hostname, vms.c.owner, *(summaries.c[name] for name in columns))
        .select_from(_JOINED)
        .where(test)
        .order_by(order, vms.c.vm_id)
        .limit(WORST)
    )
    return tuple(
        AgentState(
            vm_id=row.vm_id,
            name=row.name or row.hostname,
            owner=row.owner,
            newest_s=row.newest_s,
            age_s=None if row.newest_s is None else now_s - row.newest_s,
            interval_s=row.interval_s,
            skew_s=row.skew_s,
            conflicts=row.conflicts,
            flags=tuple(json.loads(row.flags or "[]")),
        )
        for row in connection.execute(query)
    )
