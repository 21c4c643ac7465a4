"""Parts of histories that other nodes hold, as the fleet database has them. Blocking: call it in a thread.

Every method raises sqlalchemy.exc.SQLAlchemyError when the database does not answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from aggregator.fleet import node, vm_part, vm_summary
from aggregator.fleet_clock import ahead_s
from aggregator.fleet_db import reading
from aggregator.node_state import AWAY_AFTER_S, NodeState

_SMALL_S = 6 * 3600
_MAX_PROBLEM_CHARS = 500


class DuePart(NamedTuple):
    """A part to be taken in now.

    Attributes:
        url: where its node is asked.
        mark: of the note that was looked at.
    """

    vm_id: str
    node: str
    url: str
    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What there is to do.

    Attributes:
        due: parts to be taken in now, those of one VM together.
        waiting: how many parts there are of VMs whose home this node is, due or not.
        away: the nodes among their holders that cannot be asked, with the reason.
    """

    due: list[DuePart]
    waiting: int
    away: dict[str, str]


class Parts:
    """The table `vm_part` as the home of VMs and as a holder reads it.

    Args:
        engine: of `fleet_db.open_fleet`.
        name: of this node.
        machine: the clock of this machine, Unix seconds.
    """

    def __init__(self, engine: sa.Engine, name: str, machine: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._name = name
        self._machine = machine

    def look(self, *, now_s: float, after_s: float, limit: int, but: Collection[str] = ()) -> Round:
        """What other nodes hold of the VMs whose home this node is; notes of which of these nodes none can be asked.

        Args:
            after_s: a part is due so long after it was noted and its node started: one that comes back gets most of
                its VMs back. At once where it spans up to six hours, begins later than what its home has, or its node
                leaves for good.
            limit: of the parts that are due; the oldest notes first.
            but: nodes that are not asked in this round.
        """
        mine = sa.and_(vm_summary.c.node == self._name, vm_part.c.node != self._name)
        parts = vm_part.join(vm_summary, vm_summary.c.vm_id == vm_part.c.vm_id)
        holders = (
            sa.select(vm_part.c.node, sa.func.count(), node.c.admin_url, node.c.state, node.c.seen_s)
            .select_from(parts.outerjoin(node, node.c.node == vm_part.c.node))
            .where(mine)
            .group_by(vm_part.c.node, node.c.admin_url, node.c.state, node.c.seen_s)
        )
        with reading(self._engine) as connection:
            found = connection.execute(holders).all()
            there_s = now_s - ahead_s(connection, self._machine) if found else now_s
            away = {row.node: trouble for row in found if (trouble := _trouble(row, there_s)) is not None}
            urls = {row.node: row.admin_url for row in found if row.node not in away and row.node not in but}
            noted = vm_part.c.noted_s
            is_small = vm_part.c.newest_s - vm_part.c.oldest_s <= _SMALL_S
            is_late = vm_part.c.oldest_s > vm_summary.c.oldest_s
            long_ago = sa.and_(_is_past(noted, now_s, after_s), _is_past(node.c.started_s, now_s, after_s))
            leaves = sa.and_(node.c.state == NodeState.DRAINING.value, node.c.is_leaving.is_(True))
            due = (
                sa.select(vm_part.c.vm_id, vm_part.c.node, vm_part.c.mark)
                .select_from(parts.join(node, node.c.node == vm_part.c.node))
                .where(mine, sa.or_(is_small, is_late, long_ago, leaves), vm_part.c.node.in_(urls))
                .order_by(noted, vm_part.c.vm_id, vm_part.c.node)
                .limit(limit)
            )
            rows = connection.execute(due).all() if urls else []
        for row in found:
            self._note_away(row.node, away.get(row.node))
        waiting = sum(count for _, count, *_ in found)
        due_now = [DuePart(vm_id, name, urls[name], mark) for vm_id, name, mark in rows]
        return Round(due=due_now, waiting=waiting, away=away)

    def note(self, vm_id: str, holder: str, problem: str | None) -> None:
        """Says why a part could not be taken in; None: it can."""
        this = sa.and_(vm_part.c.vm_id == vm_id, vm_part.c.node == holder)
        with self._engine.begin() as connection:
            connection.execute(sa.update(vm_part).where(this).values(problem=problem and problem[:_MAX_PROBLEM_CHARS]))

    def home_of(self, vm_id: str) -> str | None:
        """The node that keeps a VM's history; None where none has said so."""
        home = sa.select(vm_summary.c.node).where(vm_summary.c.vm_id == vm_id)
        with reading(self._engine) as connection:
            return connection.scalar(home) or None

    def _note_away(self, holder: str, trouble: str | None) -> None:
        """Says of all parts that a node holds for this one why it cannot be asked, or takes back that it said so."""
        mine = vm_part.c.vm_id.in_(sa.select(vm_summary.c.vm_id).where(vm_summary.c.node == self._name))
        said = vm_part.c.problem
        is_stale = said.startswith(_prefix(holder), autoescape=True)
        if trouble is not None:
            is_stale = sa.or_(said.is_(None), said != trouble)
        stale = sa.and_(mine, vm_part.c.node == holder, is_stale)
        with reading(self._engine) as connection:
            if connection.scalar(sa.select(vm_part.c.vm_id).where(stale).limit(1)) is None:
                return
        with self._engine.begin() as connection:
            connection.execute(sa.update(vm_part).where(stale).values(problem=trouble))


def may_be_elsewhere() -> sa.ColumnElement[bool]:
    """Of a VM of `vm_summary`: whether another node's part ends no earlier than its row, so that its home may lack all.

    A node that leaves for good makes such homes (`aggregator.bequest`). Others hold what came last.
    """
    return sa.exists().where(
        vm_part.c.vm_id == vm_summary.c.vm_id,
        vm_part.c.node != vm_summary.c.node,
        vm_part.c.newest_s >= vm_summary.c.newest_s,
    )


def _is_past(time_s: sa.ColumnElement[float], now_s: float, after_s: float) -> sa.ColumnElement[bool]:
    # One of the future was noted while a clock was wrong.
    return sa.or_(time_s <= now_s - after_s, time_s > now_s)


def _trouble(row: Any, now_s: float) -> str | None:
    """Why nobody can be asked for the parts of a node. Args: now_s: by the clock of the fleet database."""
    prefix = _prefix(row.node)
    if row.seen_s is None:
        return f"{prefix}is not known: if its disk is lost, forget it (nodes forget)"
    if row.state == NodeState.STOPPED or now_s - row.seen_s > AWAY_AFTER_S:
        return f"{prefix}is away"
    if row.admin_url is None:
        return f"{prefix}has no address to be asked at (node.url)"
    return None


def _prefix(holder: str) -> str:
    return f"node {holder} "
