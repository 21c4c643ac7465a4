"""The rows of the fleet database that tell of its aggregators and of what each holds. SQLite and PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from aggregator.fleet import node as nodes
from aggregator.fleet import vm_part as parts
from aggregator.fleet import vm_summary as summaries
from reports.nodes import Holding, Node, Part, Whereabouts

_PROBLEMS = 5


def read_nodes(connection: sa.Connection) -> tuple[Node, ...]:
    """Those that have said something of themselves, by name."""
    return tuple(map(_node, connection.execute(sa.select(nodes).order_by(nodes.c.node)).all()))


def _node(row: sa.Row[tuple[object, ...]]) -> Node:
    values = dict(row._mapping)
    values["name"], values["said"], values["heard_vms"] = values.pop("node"), values.pop("state"), values.pop("vms")
    return Node(**values)


def read_holdings(connection: sa.Connection) -> tuple[Holding, ...]:
    """What every node keeps, by name; nodes that only summaries and parts name, too. Counts every summary."""
    found = {node.name: Holding(node=node) for node in read_nodes(connection)}
    homes = sa.select(summaries.c.node, sa.func.count()).where(summaries.c.node != "").group_by(summaries.c.node)
    for name, count in connection.execute(homes).all():
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


def read_parts(connection: sa.Connection, wanted: sa.ColumnElement[bool]) -> dict[str, tuple[Part, ...]]:
    """The parts that lie elsewhere than at home, by the id of their VM, the oldest first.

    Args: wanted: of columns of `vm_part`, such as of `wanted_ids`.
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
    for row in connection.execute(query).mappings():
        holder = Node(name=row["vm_part_node"])
        if row["node_node"] is not None:
            holder = Node(
                name=row["node_node"],
                said=row["node_state"],
                admin_url=row["node_admin_url"],
                seen_s=row["node_seen_s"],
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
