"""Writes what flush workers return into the fleet database. Blocking: called in a thread of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.fleet import vm_evidence, vm_summary, vm_window
from aggregator.summary import STATISTIC_COLUMNS, Summary

_WINDOW_COLUMNS = ("window_days", "vm_id", "start_s", "end_s", "covered_s", "users_s", *STATISTIC_COLUMNS)


def _upsert(table: sa.Table, dialect: str) -> sa.Insert:
    """Insert, or overwrite the row of the same key: writing a summary twice changes nothing."""
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    keys = [column.name for column in table.primary_key]
    rest: dict[str, Any] = {
        column.name: insert.excluded[column.name] for column in table.columns if column.name not in keys
    }
    if table is vm_summary:
        # A summary owed from before a restart does not know when its VM was last heard of.
        newer = insert.excluded.received_s >= table.c.received_s
        for name in ("received_s", "skew_s"):
            rest[name] = sa.case((newer, insert.excluded[name]), else_=table.c[name])
    return insert.on_conflict_do_update(index_elements=keys, set_=rest)


class SummaryWriter:
    """Upserts of summaries, one transaction a call."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._upserts = {table: _upsert(table, engine.dialect.name) for table in (vm_summary, vm_window, vm_evidence)}

    def write(self, summaries: Sequence[Summary], *, now_s: float) -> None:
        """Raises sqlalchemy.exc.SQLAlchemyError: the database is away; nothing of this call was written."""
        if not summaries:
            return
        with self._engine.begin() as connection:
            connection.execute(
                self._upserts[vm_summary],
                [
                    {
                        "vm_id": summary.vm_id,
                        "oldest_s": summary.oldest_s,
                        "newest_s": summary.newest_s,
                        "received_s": summary.received_s or summary.newest_s,
                        "skew_s": summary.skew_s,
                        "interval_s": summary.interval_s,
                        "conflicts": summary.conflicts,
                        "cpu_count": summary.cpu_count,
                        "mem_total_bytes": summary.mem_total_bytes,
                        "disk_total_bytes": summary.disk_total_bytes,
                        "flags": json.dumps(summary.flags),
                        "updated_s": now_s,
                    }
                    for summary in summaries
                ],
            )
            connection.execute(
                self._upserts[vm_window],
                [
                    dict(
                        zip(
                            _WINDOW_COLUMNS,
                            (
                                figures.window_days,
                                summary.vm_id,
                                figures.start_s,
                                summary.newest_s,
                                figures.covered_s,
                                figures.users_s,
                                *figures.statistics,
                            ),
                            strict=True,
                        )
                    )
                    for summary in summaries
                    for figures in summary.figures
                ],
            )
            evidence = [
                {"vm_id": summary.vm_id, "hour_s": summary.evidence_hour_s, "body": summary.evidence}
                for summary in summaries
                if summary.evidence is not None
            ]
            if evidence:
                connection.execute(self._upserts[vm_evidence], evidence)

    def keep_windows(self, windows_days: Sequence[int]) -> None:
        """Deletes figures of windows that are no longer configured, so that no report reads stale ones."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(vm_window).where(vm_window.c.window_days.not_in(list(windows_days))))
