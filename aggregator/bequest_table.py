"""The fleet database as a node that leaves for good changes it: others become the homes of what it keeps. Blocking.

Every method raises sqlalchemy.exc.SQLAlchemyError when the database does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import sqlalchemy as sa

from aggregator.fleet import vm_part, vm_summary
from aggregator.fleet_db import reading
from aggregator.heirs import find_heirs, why_kept
from aggregator.homes import Part
from aggregator.nodes import Nodes

_SILENT_S = 300.0  # and two intervals: a VM that still pushes finds a home by itself
_BATCH_VMS = 200  # of one transaction, which holds up the summaries of these
# While a part is under way its VM has no verdict: a whole node at once would take hours to be joined.
_UNDER_WAY = 2_000

_MOVED = sa.update(vm_summary).where(vm_summary.c.vm_id == sa.bindparam("moved_vm")).values(node=sa.bindparam("heir"))
# What its home holds of a VM is no part.
_AT_HOME = sa.delete(vm_part).where(vm_part.c.vm_id == sa.bindparam("moved_vm"), vm_part.c.node == sa.bindparam("heir"))


class Transactions(Protocol):
    """The part of `SummaryWriter` that is used."""

    def transaction(self, work: Callable[[sa.Connection], None]) -> None: ...
    def note_part(self, connection: sa.Connection, part: Part, now_s: float) -> None: ...


class Estate(NamedTuple):
    """What there is to give away now.

    Attributes:
        vm_ids: at home here and silent, by id; none where as many as can be taken in soon are under way.
        heirs: who may be their home, at least one if there is no obstacle.
        obstacle: why nothing can be given away; None: it can.
    """

    vm_ids: list[str]
    heirs: list[str]
    obstacle: str | None


class BequestTable:
    """Homes of VMs, as the node `name` gives them away.

    Args:
        engine: of `fleet_db.open_fleet`.
        writes: on the same.
    """

    def __init__(self, engine: sa.Engine, name: str, writes: Transactions) -> None:
        self._engine = engine
        self._nodes = Nodes(engine)
        self._name = name
        self._writes = writes

    def look(self, *, now_s: float, after: str = "") -> Estate:
        """The next VMs to be given away.

        Args:
            now_s: of this node's clock, as the times at which its VMs were heard of.
            after: ids above it alone.
        """
        table = self._nodes.table(now_s)
        obstacle = why_kept(table, self._name)
        if obstacle is not None:
            return Estate([], [], obstacle)
        heirs = find_heirs(table, self._name)
        # Those that cannot be taken in, and those of a node that is away, hold up nobody else.
        under_way = (
            sa.select(sa.func.count())
            .select_from(vm_part.join(vm_summary, vm_summary.c.vm_id == vm_part.c.vm_id))
            .where(vm_part.c.node == self._name, vm_part.c.problem.is_(None), vm_summary.c.node.in_(heirs))
        )
        silent = sa.select(vm_summary.c.vm_id).where(self._is_silent(now_s), vm_summary.c.vm_id > after)
        with reading(self._engine) as connection:
            room = _UNDER_WAY - (connection.scalar(under_way) or 0)
            batch = silent.order_by(vm_summary.c.vm_id).limit(max(0, min(_BATCH_VMS, room)))
            return Estate(list(connection.scalars(batch)), heirs, None)

    def bequeath(self, heir_of: Mapping[str, str], *, now_s: float) -> int:
        """Makes others the homes of VMs, unless these were heard of meanwhile; of how many it did.

        What this node holds of them is a part from then on: their new homes take it in.

        Args: heir_of: VM -> node.
        """
        moved: list[dict[str, str]] = []

        def work(connection: sa.Connection) -> None:
            row = vm_summary.c
            mine = sa.select(row.vm_id, row.oldest_s, row.newest_s).where(
                row.vm_id.in_(list(heir_of)), self._is_silent(now_s)
            )
            # In the order in which writers of summaries lock them. SQLite leaves the words out: it has one writer.
            found = connection.execute(mine.order_by(row.vm_id).with_for_update(key_share=True)).all()
            moved[:] = [{"moved_vm": vm_id, "heir": heir_of[vm_id]} for vm_id, *_ in found]
            for vm_id, oldest_s, newest_s in found:
                self._writes.note_part(connection, Part(vm_id, self._name, oldest_s, newest_s), now_s)
            if moved:
                connection.execute(_AT_HOME, moved)
                connection.execute(_MOVED, moved)

        self._writes.transaction(work)
        return len(moved)

    def _is_silent(self, now_s: float) -> sa.ColumnElement[bool]:
        row = vm_summary.c
        return sa.and_(row.node == self._name, row.received_s + 2 * row.interval_s < now_s - _SILENT_S)
