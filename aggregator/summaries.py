"""Writes what flush workers return into the fleet database. Blocking: called in a thread of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.fleet import vm_evidence, vm_summary, vm_window
from aggregator.summary import Summary

# What a summary owed from before a restart does not know: when its VM was last heard of, and what made it doubtful.
_OF_A_PUSH = ("received_s", "skew_s", "flags")


def _upsert(table: sa.Table, dialect: str, keep: Sequence[str]) -> sa.Insert:
    """Insert, or overwrite all but `keep` in the row of the same key: writing a summary twice changes nothing."""
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    keys = [column.name for column in table.primary_key]
    rest: dict[str, Any] = {
        column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys
    }
    if table is vm_summary:
        # A time that lies ahead of now was written while our clock was wrong.
        newer = sa.or_(insert.excluded.received_s >= table.c.received_s, table.c.received_s > insert.excluded.updated_s)
        for name in _OF_A_PUSH:
            rest[name] = sa.case((newer, insert.excluded[name]), else_=table.c[name])
    for name in keep:
        del rest[name]
    return insert.on_conflict_do_update(index_elements=keys, set_=rest)


class _Upsert:
    """An upsert compiled once: SQLAlchemy's handling of each row costs more than writing it does.

    Rows are tuples in the order of the table's columns.
    """

    def __init__(self, table: sa.Table, dialect: sa.Dialect, keep: Sequence[str] = ()) -> None:
        self._names = [column.name for column in table.columns]
        compiled = _upsert(table, dialect.name, keep).compile(dialect=dialect, column_keys=self._names)
        self._sql = str(compiled)
        self._is_positional = bool(dialect.positional)

    def run(self, connection: sa.Connection, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            named = rows if self._is_positional else [dict(zip(self._names, row, strict=True)) for row in rows]
            connection.exec_driver_sql(self._sql, named)


class SummaryWriter:
    """Upserts of summaries, one transaction a call."""

    def __init__(self, engine: sa.Engine, node: str = "") -> None:
        self._engine = engine
        self._node = node
        self._summary = _Upsert(vm_summary, engine.dialect)
        self._owed_summary = _Upsert(vm_summary, engine.dialect, keep=_OF_A_PUSH)
        self._window = _Upsert(vm_window, engine.dialect)
        self._evidence = _Upsert(vm_evidence, engine.dialect)

    def write(self, summaries: Sequence[Summary], *, now_s: float) -> None:
        """Raises sqlalchemy.exc.SQLAlchemyError: the database is away; nothing of this call was written."""
        if not summaries:
            return
        with self._engine.begin() as connection:
            self._summary.run(connection, [_summary_row(one, now_s, self._node) for one in summaries if one.received_s])
            self._owed_summary.run(
                connection, [_summary_row(one, now_s, self._node) for one in summaries if not one.received_s]
            )
            self._window.run(
                connection,
                [
                    (days, summary.vm_id, start_s, summary.newest_s, covered_s, users_s, *statistics)
                    for summary in summaries
                    for days, start_s, covered_s, users_s, statistics in summary.figures
                ],
            )
            self._evidence.run(
                connection,
                [
                    (summary.vm_id, summary.evidence_hour_s, summary.evidence)
                    for summary in summaries
                    if summary.evidence is not None
                ],
            )

    def known_vms(self) -> list[str]:
        """VMs that have a summary: those that ever had a row."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.select(vm_summary.c.vm_id)).scalars())

    def keep_windows(self, windows_days: Sequence[int]) -> None:
        """Deletes figures of windows that are no longer configured, so that no report reads stale ones."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(vm_window).where(vm_window.c.window_days.not_in(list(windows_days))))


def _summary_row(summary: Summary, now_s: float, node: str) -> tuple[Any, ...]:
    return (
        summary.vm_id,
        summary.oldest_s,
        summary.newest_s,
        summary.received_s or summary.newest_s,
        summary.skew_s,
        summary.interval_s,
        summary.conflicts,
        summary.cpu_count,
        summary.mem_total_bytes,
        summary.disk_total_bytes,
        json.dumps(summary.flags),
        now_s,
        node,
    )
