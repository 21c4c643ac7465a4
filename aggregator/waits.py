"""Enrolments that wait for an admin. Functions over a connection; the caller commits.

A request is known by what the VM says of itself, host name, MACs and boot: an admin decides on what they were shown,
and another machine that asks for the same id is another request. Host name and MACs are seen by a whole network; the id
of a boot is known to nobody but the machine itself, so that no other one can use up its approval.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from aggregator.admission import clean_macs
from aggregator.enrolment import Enrolment
from aggregator.fleet import enrolment_wait
from aggregator.problems import Problem, Refused

WAIT_KEPT_S = 30 * 86_400.0
# An approval is for the machine that asks now, not for one that turns up in a year.
APPROVAL_LASTS_S = 7 * 86_400.0
# Whoever holds a join token may ask for any id, as often as they like.
MAX_REQUESTS = 8
MAX_WAITS = 10_000
# An agent that waits asks every few minutes: whoever was not heard of for so long gives way where there is no room.
STALE_S = 3600.0
_RETRY_AFTER_S = 300


class State(StrEnum):
    """What became of a request so far."""

    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A request to enrol that needs or had a person's word. Times are Unix seconds.

    Attributes:
        request: names it among those for the same VM.
        asked_s, again_s: first and last time.
        evidence: hostname, ips, macs, machine and boot as the VM said, `peer` the address it came from.
    """

    vm: str
    request: str
    asked_s: float
    again_s: float
    why: str
    evidence: dict[str, Any]
    state: State
    decided_by: str | None
    decided_s: float | None


class UnknownWaitError(LookupError):
    """No request that could be decided on; the text says so for a person."""


def request_of(enrolment: Enrolment) -> str:
    """The name of a request: 8 digits that hang on host name, MACs and boot alone."""
    said = [enrolment.boot or "", *_looks(enrolment.hostname, enrolment.macs)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]


def decided(connection: sa.Connection, enrolment: Enrolment, now_s: float) -> State | None:
    """What an admin said to this request; None: it is not known here, or its approval is too old to count.

    A refusal is of a machine, whatever its boot: it must not come back as another request by starting again.
    """
    request, looks = request_of(enrolment), _looks(enrolment.hostname, enrolment.macs)
    found = None
    for row in connection.execute(sa.select(enrolment_wait).where(enrolment_wait.c.vm_id == enrolment.vm)):
        if row.request == request:
            found = row
        elif row.state == State.REFUSED:
            said = json.loads(row.evidence)
            if _looks(said["hostname"], said["macs"]) == looks:
                return State.REFUSED
    if found is None or (found.state == State.APPROVED and now_s - found.decided_s >= APPROVAL_LASTS_S):
        return None
    return State(found.state)


def note(connection: sa.Connection, enrolment: Enrolment, *, peer: str | None, why: str, now_s: float) -> None:
    """Keeps a request until an admin looks. Raises: Refused: 503, too many wait already."""
    request = request_of(enrolment)
    evidence = {
        "hostname": enrolment.hostname,
        "ips": enrolment.ips,
        "macs": enrolment.macs,
        "machine": enrolment.machine,
        "boot": enrolment.boot,
        "peer": peer,
    }
    said = {"again_s": now_s, "why": why, "evidence": json.dumps(evidence)}
    waiting = {"state": State.WAITING, "decided_by": None, "decided_s": None}
    found = connection.execute(
        sa.update(enrolment_wait).where(_is(enrolment.vm, request)).values(**said, **waiting)
    ).rowcount
    if found:
        return
    _make_room(connection, enrolment.vm, now_s)
    connection.execute(
        sa.insert(enrolment_wait).values(vm_id=enrolment.vm, request=request, asked_s=now_s, **said, **waiting)
    )


def all_of_them(connection: sa.Connection) -> list[Wait]:
    """Every request, the one that has waited longest first."""
    rows = connection.execute(sa.select(enrolment_wait).order_by(enrolment_wait.c.asked_s, enrolment_wait.c.vm_id))
    return [
        Wait(
            vm=row.vm_id,
            request=row.request,
            asked_s=row.asked_s,
            again_s=row.again_s,
            why=row.why,
            evidence=json.loads(row.evidence),
            state=State(row.state),
            decided_by=row.decided_by,
            decided_s=row.decided_s,
        )
        for row in rows
    ]


def forget_vm(connection: sa.Connection, vm_id: str) -> None:
    """Deletes every request for this id, and what was said to it."""
    connection.execute(sa.delete(enrolment_wait).where(enrolment_wait.c.vm_id == vm_id))


def count_waiting(connection: sa.Connection) -> int:
    """How many requests an admin has not decided on."""
    statement = sa.select(sa.func.count()).select_from(enrolment_wait)
    return connection.scalar(statement.where(enrolment_wait.c.state == State.WAITING)) or 0


def decide(
    connection: sa.Connection, vm_id: str, state: State, *, by: str, now_s: float, request: str | None = None
) -> str:
    """Notes what an admin said; returns the name of the request it was said of.

    Args:
        state: WAITING takes an earlier word back.
        request: which one; None: the only one that could change.

    Raises: UnknownWaitError: there is none, or there are several.
    """
    statement = sa.select(enrolment_wait.c.request).where(
        enrolment_wait.c.vm_id == vm_id, enrolment_wait.c.state != state
    )
    if request is not None:
        statement = statement.where(enrolment_wait.c.request == request)
    found: list[str] = list(connection.scalars(statement.order_by(enrolment_wait.c.asked_s)))
    if not found:
        raise UnknownWaitError(f"{vm_id}: no request to enrol that could be {state}")
    if len(found) > 1:
        raise UnknownWaitError(
            f"{vm_id}: {len(found)} different machines ask for this id: name one ({', '.join(found)})"
        )
    decision = {"state": state, "decided_by": by, "decided_s": now_s}
    connection.execute(sa.update(enrolment_wait).where(_is(vm_id, found[0])).values(**decision))
    return found[0]


def forget(connection: sa.Connection, enrolment: Enrolment) -> None:
    """The request was granted: the word of the admin is used up."""
    connection.execute(sa.delete(enrolment_wait).where(_is(enrolment.vm, request_of(enrolment))))


def _looks(hostname: str | None, macs: Iterable[str]) -> list[str]:
    return [hostname or "", *sorted(clean_macs(macs))]


def _is(vm_id: str, request: str) -> sa.ColumnElement[bool]:
    return sa.and_(enrolment_wait.c.vm_id == vm_id, enrolment_wait.c.request == request)


def _make_room(connection: sa.Connection, vm_id: str, now_s: float) -> None:
    connection.execute(sa.delete(enrolment_wait).where(enrolment_wait.c.again_s < now_s - WAIT_KEPT_S))
    if _has_room(connection, vm_id):
        return
    # What was refused too, of this id: eight refusals must not keep out the machine that it belongs to.
    may_go = sa.or_(
        enrolment_wait.c.state == State.WAITING,
        sa.and_(enrolment_wait.c.state == State.REFUSED, enrolment_wait.c.vm_id == vm_id),
    )
    connection.execute(sa.delete(enrolment_wait).where(enrolment_wait.c.again_s < now_s - STALE_S, may_go))
    if not _has_room(connection, vm_id):
        problem = Problem(503, "too-many-wait", "too many requests to enrol wait for an admin", _RETRY_AFTER_S)
        raise Refused(problem)


def _has_room(connection: sa.Connection, vm_id: str) -> bool:
    of_vm = sa.select(sa.func.count()).select_from(enrolment_wait).where(enrolment_wait.c.vm_id == vm_id)
    return (connection.scalar(of_vm) or 0) < MAX_REQUESTS and count_waiting(connection) < MAX_WAITS
