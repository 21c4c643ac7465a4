"""Generations of a VM's token, and which of them are refused. Functions over a connection; the caller commits."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.fleet import revocation, vm
from aggregator.lives import TOKENS_A_LIFE, first_of, is_spent, life_of
from aggregator.problems import Problem, Refused


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
    connection.execute(statement.on_conflict_do_update(index_elements=[revocation.c.vm_id], set_=values))
