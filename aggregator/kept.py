"""What each node keeps for the fleet, counted."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from aggregator.fleet import vm_part, vm_summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a node keeps for the fleet.

    Attributes:
        vms: whose history it keeps.
        parts: VMs of which it holds some history that their home has not taken in yet.
    """

    vms: int = 0
    parts: int = 0


def count_homes(connection: sa.Connection) -> dict[str, int]:
    """VMs whose history each node keeps. Reads every summary."""
    node = vm_summary.c.node
    rows = connection.execute(sa.select(node, sa.func.count()).where(node != "").group_by(node))
    return {row[0]: row[1] for row in rows}


def count_parts(connection: sa.Connection) -> dict[str, int]:
    """VMs of which each node holds some history that their home has not taken in yet."""
    rows = connection.execute(sa.select(vm_part.c.node, sa.func.count()).group_by(vm_part.c.node))
    return {row[0]: row[1] for row in rows}
