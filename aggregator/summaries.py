"""Writes what flush workers return into the fleet database. Blocking: called in a thread of its own.

Several nodes may write at once. Each locks the rows of its VMs first, in the order of their ids, and then decides
(`aggregator.homes`) by what they say; so there is one row a VM, and whoever holds its newest sample is its home.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from aggregator.fleet import node as nodes
from aggregator.fleet import vm_evidence, vm_part, vm_summary, vm_window
from aggregator.fleet_errors import was_for_another
from aggregator.generations import lives_by_vm
from aggregator.homes import Home, Part, Placing, Whole, place, with_push_of
from aggregator.lives import first_of, life_of
from aggregator.parts import may_be_elsewhere
from aggregator.summary import Heard, Summary
from aggregator.summary_tables import OF_A_PUSH, Row, row_writer

STATEMENT_S = 30.0  # a statement that takes longer, or waits so long for a lock, fails
_MARK_BITS = 62
_NAMED_AT_ONCE = 1_000  # VMs in one statement
_TRIES = 5

# The usual way to compress evidence costs the server more than all else of a summary, lz4 a fraction of that; not every
# server was built with it.
_OF_A_TRANSACTION = (
    "SELECT set_config('statement_timeout', %(ms)s, true), set_config('lock_timeout', %(ms)s, true),"
    " (SELECT set_config(name, 'lz4', true) FROM pg_settings"
    " WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals))"
)


_FORGOTTEN = (
    "SELECT below_generation FROM revocation"  # noqa: S608
    f" WHERE revocation.vm_id = vm_summary.vm_id AND below_generation >= {first_of(1)}"
)
_HEARD_OF_ONE = (
    "UPDATE vm_summary SET newest_s = ?, received_s = ?, skew_s = ?, updated_s = ?"
    " WHERE vm_id = ? AND node = ? AND newest_s <= ?"
)
_HEARD_OF_MANY = (
    "UPDATE vm_summary SET newest_s = heard.newest_s, received_s = heard.received_s, skew_s = heard.skew_s,"
    " updated_s = %s"
    " FROM unnest(%s::text[], %s::int8[], %s::float8[], %s::float8[]) AS heard (vm_id, newest_s, received_s, skew_s)"
    " WHERE vm_summary.vm_id = heard.vm_id AND node = %s AND vm_summary.newest_s <= heard.newest_s"
)
_GONE = sa.delete(vm_part).where(
    vm_part.c.vm_id == sa.bindparam("gone_vm"),
    vm_part.c.node == sa.bindparam("gone_node"),
    vm_part.c.mark == sa.bindparam("gone_mark"),
)


class _Raced(sa.exc.SQLAlchemyError):
    """Another node inserted a VM between our look and our insert."""


class SummaryWriter:
    """Writes of summaries, one transaction a call.

    Args:
        node: the name of this aggregator in the fleet.
        statement_s: on PostgreSQL, how long a statement may take.
        make_mark: for a note of a part; never the same twice.
    """

    def __init__(
        self,
        engine: sa.Engine,
        node: str = "",
        *,
        statement_s: float = STATEMENT_S,
        make_mark: Callable[[], int] = lambda: secrets.randbits(_MARK_BITS),
    ) -> None:
        self._engine = engine
        self._make_mark = make_mark
        self._node = node
        self._limit_ms = str(round(statement_s * 1000))
        self._is_postgres = engine.dialect.name == "postgresql"
        self._summary = row_writer(vm_summary, engine.dialect)
        self._owed_summary = row_writer(vm_summary, engine.dialect, keep=OF_A_PUSH)
        self._window = row_writer(vm_window, engine.dialect)
        self._evidence = row_writer(vm_evidence, engine.dialect)
        ids = "= ANY(%s::text[])" if self._is_postgres else "IN (SELECT value FROM json_each(?))"
        lock = " ORDER BY vm_id FOR NO KEY UPDATE" if self._is_postgres else ""  # SQLite's transaction is alone anyway
        columns = f"vm_id, ({_FORGOTTEN}), node, oldest_s, newest_s, received_s"
        self._read_homes = f"SELECT {columns} FROM vm_summary WHERE vm_id {ids}{lock}"  # noqa: S608
        mark = "%s" if self._is_postgres else "?"
        self._read_here = f"SELECT vm_id FROM vm_summary WHERE vm_id {ids} AND node = {mark}"  # noqa: S608
        self._read_parts = f"SELECT vm_id, node FROM vm_part WHERE vm_id {ids}"  # noqa: S608

    def write(self, summaries: Sequence[Summary], *, now_s: float) -> None:
        """Writes what this node knows of its VMs; of several summaries of one VM, the later are the newer.

        Raises: sqlalchemy.exc.SQLAlchemyError: the database is away; nothing of this call was written.
        """
        if summaries:
            self.transaction(lambda connection: self._write(connection, summaries, now_s))

    def joined(self, wholes: Sequence[Whole], *, now_s: float) -> None:
        """Writes summaries whose stores took in parts, and deletes the notes of those parts.

        Figures and evidence are written, unless a node still holds a part or another has become the home. A note that
        is not the one that was looked at stays: its node stored more of the VM after it had given its part.

        Raises: sqlalchemy.exc.SQLAlchemyError: the database is away; nothing of this call was written.
        """
        notes = [
            {"gone_vm": whole.summary.vm_id, "gone_node": node, "gone_mark": mark}
            for whole in wholes
            for node, mark in whole.of.items()
        ]

        def work(connection: sa.Connection) -> None:
            # Locked before the parts go, as by a write: else each of two could wait for the other.
            self._homes(connection, sorted({whole.summary.vm_id for whole in wholes}))
            if notes:
                connection.execute(_GONE, notes)
            self._write(connection, [whole.summary for whole in wholes], now_s)

        self.transaction(work)

    def heard(self, vms: Sequence[Heard], *, now_s: float) -> list[str]:
        """Notes when VMs at home here were last heard of, whose rows are on their way to their stores.

        Returns: those that are not at home here: nothing tells of them before their rows are stored.

        Raises: sqlalchemy.exc.SQLAlchemyError: the database is away; nothing of this call was written.
        """
        elsewhere: list[str] = []

        def work(connection: sa.Connection) -> None:
            elsewhere[:] = self._note_heard(connection, vms, now_s)

        if vms:
            self.transaction(work)
        return elsewhere

    def known_vms(self, among: Sequence[str] | None = None) -> list[str]:
        """VMs of which this node must have a history, since it is their home.

        Not those of which it has a part: their note stands for a while after the part has gone to their home. Nor those
        of which another's part ends no earlier than what the row tells of: this node may have been made their home
        (`aggregator.bequest`) and have nothing yet. Those without a home it has as long as there is no node: it is
        about to be the first. Later they are those of a node that was given up.

        Args: among: only those of these; None: all.
        """
        with self._engine.connect() as connection:
            is_first = connection.scalar(sa.select(nodes.c.node).limit(1)) is None
            homes = ("", self._node) if is_first else (self._node,)
            mine = sa.select(vm_summary.c.vm_id).where(vm_summary.c.node.in_(homes), ~may_be_elsewhere())
            if among is None:
                return list(connection.execute(mine).scalars())
            return [
                vm_id
                for at in range(0, len(among), _NAMED_AT_ONCE)
                for vm_id in connection.scalars(mine.where(vm_summary.c.vm_id.in_(among[at : at + _NAMED_AT_ONCE])))
            ]

    def note_part(self, connection: sa.Connection, part: Part, now_s: float) -> None:
        """Notes what a node that is not the home holds of a VM, whose row the transaction has locked."""
        key = (vm_part.c.vm_id == part.vm_id, vm_part.c.node == part.node)
        # Whoever takes the part in right now may not have seen all of it: with another mark the note outlives that.
        told = {"oldest_s": part.oldest_s, "newest_s": part.newest_s, "mark": self._make_mark()}
        # The row of the VM is locked: nobody else notes a part of it meanwhile. Since when there are two stays.
        if not connection.execute(sa.update(vm_part).where(*key).values(told)).rowcount:
            named = {"vm_id": part.vm_id, "node": part.node, "noted_s": now_s}
            connection.execute(sa.insert(vm_part).values(named | told))

    def keep_windows(self, windows_days: Sequence[int]) -> None:
        """Deletes figures of windows that are no longer configured, so that no report reads stale ones."""
        days: int | None = -1
        with self._engine.begin() as connection:
            # From one to the next by the key: millions of rows need not be read to find none that has to go.
            while days is not None:
                if days not in windows_days:
                    connection.execute(sa.delete(vm_window).where(vm_window.c.window_days == days))
                days = connection.scalar(
                    sa.select(sa.func.min(vm_window.c.window_days)).where(vm_window.c.window_days > days)
                )

    def transaction(self, work: Callable[[sa.Connection], None]) -> None:
        """One transaction; tried again where it failed for another at the same time, or for an old connection."""
        for left in reversed(range(_TRIES)):
            try:
                with self._engine.begin() as connection:
                    if self._is_postgres:
                        connection.exec_driver_sql(_OF_A_TRANSACTION, {"ms": self._limit_ms})
                    work(connection)
                return
            except _Raced:
                if not left:
                    raise
            except sa.exc.DBAPIError as error:
                if not (left and was_for_another(error)):
                    raise

    def _note_heard(self, connection: sa.Connection, vms: Sequence[Heard], now_s: float) -> list[str]:
        if self._is_postgres:
            columns = [list(column) for column in zip(*sorted(vms), strict=True)]
            noted = connection.exec_driver_sql(_HEARD_OF_MANY, (now_s, *columns, self._node))
        else:
            rows = [(one.newest_s, one.received_s, one.skew_s, now_s, one.vm_id, self._node) for one in vms]
            noted = connection.exec_driver_sql(_HEARD_OF_ONE, [(*row, row[0]) for row in rows])
        if noted.rowcount == len(vms):
            return []
        ids = [one.vm_id for one in vms]
        here = set(connection.exec_driver_sql(self._read_here, (self._ids(ids), self._node)).scalars())
        return [vm_id for vm_id in ids if vm_id not in here]

    def _write(self, connection: sa.Connection, summaries: Sequence[Summary], now_s: float) -> None:
        homes, lives = self._homes(connection, sorted({summary.vm_id for summary in summaries}))
        summaries = _without_forgotten(connection, summaries, homes, lives)
        newest: dict[str, Summary] = {}
        for summary in summaries:
            before = newest.get(summary.vm_id)
            newest[summary.vm_id] = summary if summary.received_s or not before else with_push_of(before, summary)
        ids = sorted(newest)
        holders: dict[str, set[str]] = {}
        for vm_id, node in connection.exec_driver_sql(self._read_parts, (self._ids(ids),)):
            holders.setdefault(vm_id, set()).add(node)
        placing = place((newest[vm_id] for vm_id in ids), self._node, homes, holders, now_s=now_s)
        self._write_rows(connection, placing.rows, homes, now_s)
        self._write_parts(connection, placing, now_s)
        whole = [summary for summary in summaries if summary.vm_id in placing.whole]
        figured = {summary.vm_id: summary for summary in whole if summary.figures}
        self._window.upsert(
            connection,
            [
                (days, summary.vm_id, start_s, summary.newest_s, covered_s, users_s, *statistics)
                for summary in figured.values()
                for days, start_s, covered_s, users_s, statistics in summary.figures
            ],
        )
        evidence = {summary.vm_id: summary for summary in whole if summary.evidence is not None}
        self._evidence.upsert(
            connection, [(vm_id, summary.evidence_hour_s, summary.evidence) for vm_id, summary in evidence.items()]
        )

    def _write_rows(
        self, connection: sa.Connection, summaries: Sequence[Summary], homes: Mapping[str, Home], now_s: float
    ) -> None:
        fresh: list[Row] = []
        pushed: list[Row] = []
        owed: list[Row] = []
        for summary in summaries:
            rows = fresh if summary.vm_id not in homes else pushed if summary.received_s else owed
            rows.append(_summary_row(summary, now_s, self._node))
        if self._summary.insert(connection, fresh) != len(fresh):
            raise _Raced("other nodes inserted the same VMs at the same time, again and again")
        if fresh and _forgotten(connection, [one for one in summaries if one.vm_id not in homes]):
            raise _Raced("VMs were forgotten at the same time, again and again")
        self._summary.upsert(connection, pushed)
        self._owed_summary.upsert(connection, owed)

    def _write_parts(self, connection: sa.Connection, placing: Placing, now_s: float) -> None:
        for part in placing.parts:
            self.note_part(connection, part, now_s)
        if placing.returned:
            own = sa.delete(vm_part).where(vm_part.c.node == self._node, vm_part.c.vm_id.in_(placing.returned))
            connection.execute(own)

    def _homes(self, connection: sa.Connection, ids: list[str]) -> tuple[dict[str, Home], dict[str, int]]:
        """Homes of those of the VMs that have a row, which is locked until the end of the transaction.

        And the lives of those of them that were ever forgotten. A row that is still there when it is locked was not
        deleted since the statement began, and forgetting deletes it: so these lives are those of now.
        """
        found = connection.exec_driver_sql(self._read_homes, (self._ids(ids),)).all()
        homes = {vm_id: Home(*rest) for vm_id, _, *rest in found}
        return homes, {vm_id: life_of(generation) for vm_id, generation, *_ in found if generation is not None}

    def _ids(self, ids: list[str]) -> list[str] | str:
        return ids if self._is_postgres else json.dumps(ids)


def _without_forgotten(
    connection: sa.Connection, summaries: Sequence[Summary], homes: Mapping[str, Home], lives: Mapping[str, int]
) -> Sequence[Summary]:
    """Summaries of the lives that count; what was made before its VM was forgotten is let go of.

    A row says nothing of that, whosever it is: the VM may have come back elsewhere, and this node have become its home.

    Args: homes, lives: of the VMs that have a row.
    """
    over = _forgotten(connection, [one for one in summaries if one.vm_id not in homes])
    over |= {(one.vm_id, one.life) for one in summaries if one.life < lives.get(one.vm_id, 0)}
    return [one for one in summaries if (one.vm_id, one.life) not in over] if over else summaries


def _forgotten(connection: sa.Connection, summaries: Sequence[Summary]) -> set[tuple[str, int]]:
    """(VM, life) of those whose VM was forgotten since."""
    if not summaries:
        return set()
    lives = lives_by_vm(connection, [summary.vm_id for summary in summaries])
    return {(one.vm_id, one.life) for one in summaries if one.life < lives.get(one.vm_id, 0)}


def _summary_row(summary: Summary, now_s: float, node: str) -> Row:
    return (
        summary.vm_id,
        summary.oldest_s,
        summary.newest_s,
        # A sample may be from the future; no push is.
        summary.received_s or min(summary.newest_s, now_s),
        summary.skew_s,
        summary.interval_s,
        summary.conflicts,
        summary.cpu_count,
        summary.mem_total_bytes,
        summary.disk_total_bytes,
        json.dumps(summary.flags) if summary.flags else "[]",
        now_s,
        node,
    )
