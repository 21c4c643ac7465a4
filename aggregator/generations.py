"""Generations of a VM's token, and which of them are refused. Functions over a connection; the caller commits."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.fleet import revocation, vm, vm_evidence, vm_part, vm_summary, vm_window
from aggregator.fleet_db import FLEET
from aggregator.lives import TOKENS_A_LIFE, first_of, is_spent, life_of
from aggregator.problems import Problem, Refused
from aggregator.schema_steps import nodes_below, raise_floor

# Programs for an older schema note what they take of a later life as of the first: it would be deleted.
_LIVES_SINCE = "0004"
_NO_SUMMARY = dict.fromkeys(("oldest_s", "newest_s", "received_s", "skew_s", "interval_s", "conflicts", "updated_s"), 0)


def insert_into(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT of the connection's dialect, which knows what to do on a conflict."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def newest(connection: sa.Connection, vm_id: str) -> int:
    """The newest generation given out, 0 for none; locks the VM's row where the database can."""
    return connection.scalar(sa.select(vm.c.generation).where(vm.c.vm_id == vm_id).with_for_update()) or 0


def below(connection: sa.Connection, vm_id: str) -> int:
    """The first generation that is not refused; 0 where none was ever refused."""
    return connection.scalar(sa.select(revocation.c.below_generation).where(revocation.c.vm_id == vm_id)) or 0


def check_unspent(vm_id: str, generation: int) -> None:
    """Raises Refused: no token of this generation may be given out."""
    if is_spent(generation):
        detail = f"{vm_id} has had all of its {TOKENS_A_LIFE} tokens: an admin must forget it"
        raise Refused(Problem(403, "tokens-spent", detail))


def begin_lives(connection: sa.Connection) -> None:
    """Keeps aggregators that know no lives away from VMs that are forgotten from now on.

    Raises: Refused: there is one. Those that are away count as well: they may come back as they were.
    """
    older = ", ".join(nodes_below(connection, _LIVES_SINCE, None))
    if older:
        detail = (
            f"aggregators of an older version would lose what a forgotten VM pushes to them later: {older}. Upgrade"
            f" and start them first; `nodes forget` those that are gone for good"
        )
        raise Refused(Problem(409, "older-nodes", detail))
    raise_floor(connection, FLEET.part, _LIVES_SINCE)


def hold_summary(connection: sa.Connection, vm_id: str) -> bool:
    """Locks the summary of a VM, of one without any by making it; whether it was made. The caller deletes it.

    Whoever writes a first summary of the VM right now ends before this goes on, and its row is seen then.
    """
    made = insert_into(connection, vm_summary).values(_NO_SUMMARY | {"vm_id": vm_id}).on_conflict_do_nothing()
    # Not by the count of rows, which psycopg does not tell of an INSERT.
    was_made = connection.scalar(made.returning(vm_summary.c.vm_id)) is not None
    connection.execute(sa.select(vm_summary.c.vm_id).where(vm_summary.c.vm_id == vm_id).with_for_update())
    return was_made


def drop_figures(connection: sa.Connection, vm_id: str) -> int:
    """Deletes what aggregators told of a VM; returns how many rows there were."""
    tables = (vm_summary, vm_window, vm_evidence, vm_part)
    return sum(connection.execute(sa.delete(table).where(table.c.vm_id == vm_id)).rowcount for table in tables)


def lives_by_vm(connection: sa.Connection, vm_ids: Sequence[str]) -> dict[str, int]:
    """Of those of the VMs that were ever forgotten: the life that counts."""
    refused = revocation.c
    forgotten = sa.select(refused.vm_id, refused.below_generation).where(
        refused.vm_id.in_(vm_ids), refused.below_generation >= first_of(1)
    )
    return {vm_id: life_of(generation) for vm_id, generation in connection.execute(forgotten)}


def refuse_below(connection: sa.Connection, vm_id: str, generation: int, reason: str, now_s: float) -> None:
    """Refuses all generations before this one: never fewer than before, and the first reason stays that of each."""
    if generation <= max(below(connection, vm_id), 1):
        return
    values = {"below_generation": generation, "reason": reason, "created_s": now_s}
    statement = insert_into(connection, revocation).values(vm_id=vm_id, **values)
    # Of two at once the one that comes last may be the lower.
    is_lower = revocation.c.below_generation < generation
    connection.execute(
        statement.on_conflict_do_update(index_elements=[revocation.c.vm_id], set_=values, where=is_lower)
    )
