"""One enrolment against the database: may it, and what is noted when it does. The caller commits, whatever comes of it.

`aggregator.admission` has the rules; here is where their facts come from.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from aggregator import inventory, join_tokens, waits
from aggregator.admission import Asking, Check, Known, clean_macs, doubt, fits
from aggregator.enrolment import Enrolment
from aggregator.fleet import vm, vm_summary
from aggregator.generations import below, check_unspent, insert_into, newest, refuse_below
from aggregator.join_tokens import JoinToken
from aggregator.problems import Problem
from aggregator.waits import State


def admit(
    connection: sa.Connection,
    request: Enrolment,
    *,
    check: Check,
    peer: str | None,
    heard_s: float | None,
    now_s: float,
) -> int | Problem:
    """The generation of the VM's new token; or why there is none, which may leave a request for an admin.

    Args: peer, heard_s: as `Catalogue.enroll`.

    Raises: Refused: 401, a join token that lets nobody in; 503, too many wait. Nothing is to be committed then.
    """
    token = join_tokens.usable(connection, request.join_token, now_s)
    # Before anything is looked up: of two that ask for one new id at once, the second waits for the first.
    make = insert_into(connection, vm).values(vm_id=request.vm).on_conflict_do_nothing().returning(vm.c.vm_id)
    is_new = connection.execute(make).first() is not None
    generation = max(newest(connection, request.vm) + 1, below(connection, request.vm))
    check_unspent(request.vm, generation)
    asking = Asking(vm=request.vm, peer=peer, macs=clean_macs(request.macs))
    known = _known(connection, request.vm, heard_s)
    problem = _objection(connection, token, request, asking, known, check, now_s)
    if problem is None:
        join_tokens.spend(connection, request.join_token)
        waits.forget(connection, request)
        _record(connection, request, token.labels, generation, now_s)
        return generation
    if is_new:
        connection.execute(sa.delete(vm).where(vm.c.vm_id == request.vm))
    return problem


def _objection(
    connection: sa.Connection,
    token: JoinToken,
    request: Enrolment,
    asking: Asking,
    known: Known,
    check: Check,
    now_s: float,
) -> Problem | None:
    bound = token.bound
    if bound is not None and not fits(bound, asking, known.pools):
        # The kind alone: a value would tell a stranger which one to claim.
        return Problem(403, "join-token-bound", f"join_token: is bound to a {bound.kind}, and not to this VM's")
    said = waits.decided(connection, request, now_s)
    if said is State.REFUSED:
        return Problem(403, "enrolment-refused", f"an admin refused to let this machine in as {request.vm}")
    why = None if said is State.APPROVED else doubt(asking, known, bound=bound, check=check, now_s=now_s)
    if why is None:
        return None
    waits.note(connection, request, peer=asking.peer, why=why, now_s=now_s)
    return Problem(403, "enrolment-waits", f"an admin must approve that this machine enrols as {request.vm}")


def _known(connection: sa.Connection, vm_id: str, heard_s: float | None) -> Known:
    row = connection.execute(sa.select(vm.c.enrolled_s, vm.c.macs, vm.c.tags).where(vm.c.vm_id == vm_id)).one()
    stored_s = connection.scalar(sa.select(vm_summary.c.received_s).where(vm_summary.c.vm_id == vm_id))
    seen = inventory.seen(connection, vm_id)
    return Known(
        enrolled=row.enrolled_s is not None,
        macs=clean_macs(json.loads(row.macs)),
        heard_s=max((time_s for time_s in (heard_s, stored_s) if time_s is not None), default=None),
        inventory_macs=None if seen is None else seen.macs,
        pools=frozenset(json.loads(row.tags)) | (frozenset() if seen is None else seen.pools),
        has_inventory=seen is not None or inventory.has_any(connection),
    )


def _record(
    connection: sa.Connection, request: Enrolment, labels: dict[str, Any], generation: int, now_s: float
) -> None:
    given = {name: json.dumps(value) if name == "tags" else value for name, value in labels.items()}
    connection.execute(
        sa.update(vm)
        .where(vm.c.vm_id == request.vm)
        .values(
            hostname=request.hostname,
            ips=json.dumps(request.ips),
            macs=json.dumps(request.macs),
            machine=json.dumps(request.machine),
            boot=request.boot,
            enrolled_s=int(now_s),
            generation=generation,
            **given,
        )
    )
    refuse_below(connection, request.vm, generation, "re-enrolled", now_s)
