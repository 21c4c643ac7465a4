"""What a run gave back or took, told to the report: the table that its pages and its changes are made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import sqlalchemy as sa

from orchestrate.driver import Verb
from orchestrate.plan import PlanKind
from orchestrate.records import Action, Outcome
from reports.events import Event, EventKind, record_event

_KINDS = {
    Verb.SUSPEND: EventKind.RECLAIMED,
    Verb.STOP: EventKind.RECLAIMED,
    Verb.RESUME: EventKind.RETURNED,
    Verb.START: EventKind.RETURNED,
}


def events_of(actions: Iterable[Action], *, kind: str, by: str) -> Iterator[Event]:
    """What was done to VMs with an agent.

    A plan that reclaims wakes a VM only to stop it, so that its resumes give nothing back.

    Args: kind: of the plan.
    """
    for action in actions:
        step = action.step
        event = _KINDS.get(step.verb) if isinstance(step.verb, Verb) else None
        if event is None or action.outcome is not Outcome.DONE or step.vm_id is None:
            continue
        if kind == PlanKind.RECLAIM and event is EventKind.RETURNED:
            continue
        yield Event(
            at_s=action.begun_s if action.settled_s is None else action.settled_s,
            vm_id=step.vm_id,
            kind=event,
            by=by,
            reason=step.reason,
            vcpus=step.freed_vcpus,
            mem_bytes=step.freed_mem_bytes,
            money_per_month=step.money_per_month,
        )


def tell_report(engine: sa.Engine, actions: Iterable[Action], *, kind: str, by: str) -> None:
    """Notes them. Args: engine: of `reports.schema.open_report_db`. Raises: sqlalchemy.exc.DBAPIError."""
    events = tuple(events_of(actions, kind=kind, by=by))
    if events:
        with engine.begin() as connection:
            for event in events:
                record_event(connection, event)
