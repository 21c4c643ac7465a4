"""The aggregators of a fleet, its nodes: who there is, who is away, and one forgotten. Blocking: call it in a thread.

Each node keeps its own row of the table `node` up to date. Of two nodes that run under one name the one that started
last has the row; the other finds that out when it next wants to write it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import sqlalchemy as sa

from aggregator import fleet
from aggregator.fleet import vm_part, vm_summary
from aggregator.fleet_clock import ahead_s
from aggregator.fleet_db import reading
from aggregator.fleet_errors import was_for_another
from aggregator.generations import insert_into
from aggregator.kept import Kept, count_homes, count_parts
from aggregator.node_row import SURELY_RUNS_S, Node, NodeTable, is_away, node_of
from aggregator.node_state import NodeState

BEAT_S = 10.0
_TRIES = 5

_ROW = fleet.node


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a node learns when it tells of itself.

    Attributes:
        node: as it now stands in the table.
        table: all of them, this one included.
        is_new: it had no row: this is its first start, or somebody forgot it.
        claimed: so many VMs became its own.
    """

    node: Node
    table: NodeTable
    is_new: bool
    claimed: int = 0


class NodeNameTakenError(Exception):
    """Another aggregator runs under the name."""

    def __init__(self, other: Node) -> None:
        self.other = other
        super().__init__(
            f"another aggregator runs as {other.node}, at {other.admin_url or other.listen or 'no address'}: each of a "
            f"fleet needs a name of its own (node.name), and a data directory of its own"
        )


class UnknownNodeError(LookupError):
    """The fleet database knows no node of this name."""


class NodeRunsError(Exception):
    """A node that still runs cannot be forgotten."""


class Nodes:
    """The table `node`.

    Every method raises sqlalchemy.exc.SQLAlchemyError when the database does not answer. Times that are given to it are
    of this machine's clock, and are held against the database's.

    Args:
        engine: of `fleet_db.open_fleet`, migrated; one that only reads will do for what changes nothing.
        machine: the clock of this machine, Unix seconds.
    """

    def __init__(self, engine: sa.Engine, machine: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._machine = machine

    def all(self) -> list[Node]:
        """Every node, by name."""
        with reading(self._engine) as connection:
            return list(_all(connection))

    def table(self, now_s: float) -> NodeTable:
        """Every node, and the time by which to judge when it was seen."""
        with reading(self._engine) as connection:
            return NodeTable(nodes=_all(connection), now_s=self._there(connection, now_s))

    def kept(self) -> dict[str, Kept]:
        """What each node keeps, by name, those included that never told of themselves. Counts every summary."""
        with reading(self._engine) as connection:
            homes, parts = count_homes(connection), count_parts(connection)
        return {name: Kept(vms=homes.get(name, 0), parts=parts.get(name, 0)) for name in homes | parts}

    def kept_by(self, name: str) -> Kept:
        """What one node keeps."""
        homes = sa.select(sa.func.count()).where(vm_summary.c.node == name)
        parts = sa.select(sa.func.count()).where(vm_part.c.node == name)
        with reading(self._engine) as connection:
            return Kept(vms=connection.scalar(homes) or 0, parts=connection.scalar(parts) or 0)

    def one(self, name: str) -> Node | None:
        """The node of that name."""
        with reading(self._engine) as connection:
            return _find(connection, name)

    def check_name(self, name: str, starts: frozenset[float] | None, now_s: float) -> None:
        """Whether an aggregator may start under a name.

        Args: starts: when this one and earlier ones of its data directory started; None: nobody else can run on it.

        Raises: NodeNameTakenError: another runs under it.
        """
        with reading(self._engine) as connection:
            _refuse_taken(_find(connection, name), starts, self._there(connection, now_s))

    def register(self, node: Node, starts: frozenset[float] | None) -> Told:
        """Writes the row of a node that has started.

        When it is the first of the fleet, all VMs that no node has become its own: they were pushed to it before there
        were names.

        Args: starts: as for `check_name`.

        Raises: NodeNameTakenError.
        """
        with self._engine.begin() as connection:
            written = self._timed(connection, node)
            found = _find(connection, node.node, lock=True)
            _refuse_taken(found, starts, written.seen_s)
            is_first = connection.scalar(sa.select(_ROW.c.node).limit(1)) is None
            _write(connection, written)
            claimed = _claim_unowned(connection, node.node) if is_first else 0
            return _told(connection, written, is_new=found is None, claimed=claimed)

    def beat(self, node: Node) -> Told:
        """Brings the row of a node up to date, and makes it again where somebody forgot it.

        Raises: NodeNameTakenError: one that started later runs under its name; the row stays that one's.
        """
        with self._engine.begin() as connection:
            written = self._timed(connection, node)
            found = _find(connection, node.node, lock=True)
            if found is not None and found.started_s > node.started_s and not is_away(found, written.seen_s):
                raise NodeNameTakenError(found)
            _write(connection, written)
            return _told(connection, written, is_new=found is None)

    def forget(self, name: str, now_s: float) -> int:
        """Deletes what the database has of a node whose disk is lost; returns how many VMs it was the home of.

        The home of such a VM is then the node that holds the newest other part of its history; where there is none,
        whichever writes its next summary.

        Raises: UnknownNodeError: neither a node nor the home of a VM has this name; NodeRunsError: it is not away.
        """
        for _ in range(_TRIES - 1):
            try:
                return self._forget(name, now_s)
            except sa.exc.DBAPIError as error:
                # Writers of summaries lock parts in an order of their own.
                if not was_for_another(error):
                    raise
        return self._forget(name, now_s)

    def _forget(self, name: str, now_s: float) -> int:
        home, holder = vm_summary.c.node, vm_part.c.node
        with self._engine.begin() as connection:
            there_s = self._there(connection, now_s)
            found = _find(connection, name, lock=True)
            if found is not None and not is_away(found, there_s):
                raise NodeRunsError(f"{name}: still runs: it was seen {max(0.0, there_s - found.seen_s):.0f} s ago")
            mine = sa.select(vm_summary.c.vm_id).where(home == name).order_by(vm_summary.c.vm_id)
            # In the order in which writers of summaries lock them. SQLite leaves the words out: it has one writer.
            vms = len(connection.scalars(mine.with_for_update()).all())
            parts = connection.execute(sa.delete(vm_part).where(holder == name)).rowcount
            if found is None and not vms and not parts:
                raise UnknownNodeError(f"{name}: no such node")
            newest = (
                sa.select(holder)
                .where(vm_part.c.vm_id == vm_summary.c.vm_id)
                .order_by(vm_part.c.newest_s.desc(), holder)
                .limit(1)
                .scalar_subquery()
            )
            connection.execute(sa.update(vm_summary).where(home == name).values(node=sa.func.coalesce(newest, "")))
            # What its home holds of a VM is no part.
            at_home = sa.exists().where(vm_summary.c.vm_id == vm_part.c.vm_id, home == holder)
            connection.execute(sa.delete(vm_part).where(at_home))
            connection.execute(sa.delete(_ROW).where(_ROW.c.node == name))
            return vms

    def _there(self, connection: sa.Connection, time_s: float) -> float:
        return time_s - ahead_s(connection, self._machine)

    def _timed(self, connection: sa.Connection, node: Node) -> Node:
        """As it is written: seen by the database's clock."""
        ahead = ahead_s(connection, self._machine)
        return replace(node, seen_s=node.seen_s - ahead, ahead_s=ahead)


def _all(connection: sa.Connection) -> tuple[Node, ...]:
    return tuple(node_of(row) for row in connection.execute(sa.select(_ROW).order_by(_ROW.c.node)))


def _told(connection: sa.Connection, node: Node, *, is_new: bool, claimed: int = 0) -> Told:
    table = NodeTable(nodes=_all(connection), now_s=node.seen_s)
    return Told(node=node, table=table, is_new=is_new, claimed=claimed)


def _find(connection: sa.Connection, name: str, *, lock: bool = False) -> Node | None:
    statement = sa.select(_ROW).where(_ROW.c.node == name)
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    return None if row is None else node_of(row)


def _refuse_taken(found: Node | None, starts: frozenset[float] | None, now_s: float) -> None:
    if found is None or starts is None or found.state is NodeState.STOPPED or found.started_s in starts:
        return
    # One from ahead of our clock was seen just now as well as not.
    if now_s - found.seen_s <= SURELY_RUNS_S:
        raise NodeNameTakenError(found)


def _write(connection: sa.Connection, node: Node) -> None:
    insert = insert_into(connection, _ROW)
    rest = {column.name: insert.excluded[column.name] for column in _ROW.c if not column.primary_key}
    connection.execute(insert.on_conflict_do_update(index_elements=[_ROW.c.node], set_=rest), _values(node))


def _claim_unowned(connection: sa.Connection, name: str) -> int:
    return connection.execute(sa.update(vm_summary).where(vm_summary.c.node == "").values(node=name)).rowcount


def _values(node: Node) -> dict[str, Any]:
    return {item.name: getattr(node, item.name) for item in fields(Node)} | {"state": node.state.value}
