"""What became of reclaimable VMs: the table `reclaim_event`, and the changes that a report tells from it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
import sqlalchemy as sa

from reports.judgement import Savings
from reports.report import Changes
from reports.savings import Freed, worth
from reports.schema import has_report_tables
from reports.tables import reclaim_event
from reports.verdicts import Settings


class EventKind(StrEnum):
    """What happened to a VM. RETURNED: it was reclaimed, and its owner has it back."""

    RECLAIMED = "reclaimed"
    KEPT = "kept"
    OBJECTED = "objected"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of `reclaim_event`.

    Attributes:
        by: who did it: a person, or a program's name.
        vcpus, mem_bytes, money_per_month: what it gave back, or took; None is not known.
    """

    at_s: float
    vm_id: str
    kind: EventKind
    by: str
    reason: str | None = None
    vcpus: float | None = None
    mem_bytes: float | None = None
    money_per_month: float | None = None


_COLUMNS = tuple(reclaim_event.c[field.name] for field in fields(Event))


def record_event(connection: sa.Connection, event: Event) -> None:
    """Notes it. Args: connection: of an engine of `reports.schema.open_report_db`, in a transaction."""
    values = {column.name: getattr(event, column.name) for column in _COLUMNS} | {"kind": event.kind.value}
    connection.execute(sa.insert(reclaim_event).values(**values))


def read_events(connection: sa.Connection, vm_id: str, *, limit: int = 50) -> tuple[Event, ...]:
    """What happened to one VM, the newest first. Raises: ConfigError: the report's tables are of another version."""
    return _read(connection, sa.select(*_COLUMNS).where(reclaim_event.c.vm_id == vm_id), limit)


def read_changes(connection: sa.Connection, since_s: float, *, settings: Settings | None = None) -> Changes | None:
    """What happened to VMs from `since_s` on; None while nothing was ever recorded.

    A VM counts once for each kind. What is realised is of VMs that were reclaimed and are not back.

    Args: settings: for the energy that freed capacity takes.

    Raises: ConfigError: the report's tables are those of another version.
    """
    if not has_report_tables(connection) or connection.scalar(sa.select(reclaim_event.c.id).limit(1)) is None:
        return None
    events = _read(connection, sa.select(*_COLUMNS).where(reclaim_event.c.at_s >= since_s), None)
    vm_ids = {kind: {event.vm_id for event in events if event.kind is kind} for kind in EventKind}
    newest: dict[str, Event] = {}
    for event in reversed(events):
        if event.kind in {EventKind.RECLAIMED, EventKind.RETURNED}:
            newest[event.vm_id] = event
    gone = [event for event in newest.values() if event.kind is EventKind.RECLAIMED]
    return Changes(
        since_s=since_s,
        reclaimed=len(vm_ids[EventKind.RECLAIMED]),
        kept=len(vm_ids[EventKind.KEPT]),
        objected=len(vm_ids[EventKind.OBJECTED]),
        returned=len(vm_ids[EventKind.RETURNED]),
        realised=_realised(gone, settings or Settings()),
    )


def _read(connection: sa.Connection, query: sa.Select[tuple[object, ...]], limit: int | None) -> tuple[Event, ...]:
    if not has_report_tables(connection):
        return ()
    newest_first = query.order_by(reclaim_event.c.at_s.desc(), reclaim_event.c.id.desc()).limit(limit)
    rows = connection.execute(newest_first).mappings()
    return tuple(Event(**{**row, "kind": EventKind(row["kind"])}) for row in rows)


def _realised(events: list[Event], settings: Settings) -> Savings:
    vcpus = sum(event.vcpus or 0.0 for event in events)
    mem_bytes = sum(event.mem_bytes or 0.0 for event in events)
    money = [event.money_per_month for event in events if event.money_per_month is not None]
    energy = worth(Freed(np.array([vcpus]), np.array([mem_bytes]), np.zeros(1)), settings.prices).kwh_per_month
    return Savings(
        vcpus=vcpus,
        mem_bytes=mem_bytes,
        disk_bytes=0.0,
        kwh_per_month=float(energy[0]),
        money_per_month=sum(money) if money else None,
    )
