"""The rows of the fleet database that tell of its aggregators and of what each holds. SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from aggregator.fleet import node as nodes
from aggregator.fleet import vm_part as parts
from aggregator.fleet import vm_summary as summaries
from aggregator.fleet_clock import ahead_s
from aggregator.kept import count_homes
from aggregator.node_problems import node_problems
from aggregator.node_row import NodeTable, node_of
from reports.nodes import Holding, Node, Part, Whereabouts

_PROBLEMS = 5


def read_nodes(connection: sa.Connection, machine: Callable[[], float] = time.time) -> tuple[Node, ...]:
    """Those that have said something of themselves, by name.

    They told by the clock of the database, and are given here by that of this machine, so that both may differ.

    Args: machine: its clock, Unix seconds.
    """
    ahead = ahead_s(connection, machine)
    return tuple(_node(row, ahead) for row in _node_rows(connection))


def _node_rows(connection: sa.Connection) -> Sequence[sa.Row[Any]]:
    return connection.execute(sa.select(nodes).order_by(nodes.c.node)).all()


def _node(row: sa.Row[Any], ahead: float) -> Node:
    told = node_of(row)
    return Node(
        name=told.node,
        # As it stands there: a newer program may have more words.
        said=row._mapping["state"],
        admin_url=told.admin_url,
        listen=told.listen,
        version=told.version,
        revision=told.revision,
        not_ready=told.not_ready,
        started_s=told.started_s,
        seen_s=told.seen_s + ahead,
        heard_vms=told.vms,
        owed=told.owed,
        free_bytes=told.free_bytes,
        ahead_s=told.ahead_s,
        is_leaving=told.is_leaving,
    )


def read_holdings(
    connection: sa.Connection, now_s: float, machine: Callable[[], float] = time.time
) -> tuple[Holding, ...]:
    """What every node keeps, by name; nodes that only summaries and parts name, too. Counts every summary.

    Args: now_s, machine: Unix seconds of this machine's clock: as of when, and how it is read.
    """
    ahead, rows = ahead_s(connection, machine), _node_rows(connection)
    home_vms = count_homes(connection)
    troubles = node_problems(NodeTable(nodes=tuple(map(node_of, rows)), now_s=now_s - ahead), home_vms)
    found = {
        node.name: Holding(node=node, troubles=troubles.get(node.name, ()))
        for node in (_node(row, ahead) for row in rows)
    }
    for name, count in home_vms.items():
        found[name] = replace(found.get(name) or Holding(node=Node(name=name)), home_vms=count)
    waiting = sa.select(parts.c.node, parts.c.problem, sa.func.count()).group_by(parts.c.node, parts.c.problem)
    problems: dict[str, list[tuple[str, int]]] = {}
    for name, problem, count in connection.execute(waiting).all():
        held = found.get(name) or Holding(node=Node(name=name))
        found[name] = replace(held, parts=held.parts + count)
        if problem is not None:
            problems.setdefault(name, []).append((problem, count))
    for name, told in problems.items():
        told.sort(key=lambda one: (-one[1], one[0]))
        found[name] = replace(found[name], problems=tuple(told[:_PROBLEMS]))
    return tuple(found[name] for name in sorted(found))


def read_parts(
    connection: sa.Connection, wanted: sa.ColumnElement[bool], machine: Callable[[], float] = time.time
) -> dict[str, tuple[Part, ...]]:
    """The parts that lie elsewhere than at home, by the id of their VM, the oldest first.

    Args:
        wanted: of columns of `vm_part`, such as of `wanted_ids`.
        machine: as `read_nodes` takes it.
    """
    query = (
        sa.select(parts, nodes)
        .select_from(
            parts.outerjoin(summaries, summaries.c.vm_id == parts.c.vm_id).outerjoin(
                nodes, nodes.c.node == parts.c.node
            )
        )
        .where(wanted, sa.or_(summaries.c.node.is_(None), summaries.c.node != parts.c.node))
        .order_by(parts.c.vm_id, parts.c.oldest_s, parts.c.node)
        .set_label_style(sa.LABEL_STYLE_TABLENAME_PLUS_COL)
    )
    found: dict[str, list[Part]] = {}
    rows = connection.execute(query).mappings().all()
    ahead = ahead_s(connection, machine) if rows else 0.0
    for row in rows:
        holder = Node(name=row["vm_part_node"])
        if row["node_node"] is not None:
            holder = Node(
                name=row["node_node"],
                said=row["node_state"],
                admin_url=row["node_admin_url"],
                seen_s=row["node_seen_s"] + ahead,
            )
        found.setdefault(row["vm_part_vm_id"], []).append(
            Part(
                holder=holder,
                oldest_s=row["vm_part_oldest_s"],
                newest_s=row["vm_part_newest_s"],
                noted_s=row["vm_part_noted_s"],
                problem=row["vm_part_problem"],
            )
        )
    return {vm_id: tuple(told) for vm_id, told in found.items()}


def read_whereabouts(connection: sa.Connection, vm_id: str) -> Whereabouts:
    """Where the history of a VM lies; all of it unknown for one that nothing was ever stored of."""
    columns = (summaries.c.node, summaries.c.oldest_s, summaries.c.newest_s)
    row = connection.execute(sa.select(*columns).where(summaries.c.vm_id == vm_id)).first()
    found = read_parts(connection, parts.c.vm_id == vm_id).get(vm_id, ())
    if row is None:
        return Whereabouts(parts=found)
    return Whereabouts(home=row.node, oldest_s=row.oldest_s, newest_s=row.newest_s, parts=found)


def split_ids() -> sa.Select[tuple[str]]:
    """Of the VMs that have some of their history elsewhere than at home."""
    return (
        sa.select(parts.c.vm_id)
        .select_from(parts.outerjoin(summaries, summaries.c.vm_id == parts.c.vm_id))
        .where(sa.or_(summaries.c.node.is_(None), summaries.c.node != parts.c.node))
    )
