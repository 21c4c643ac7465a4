"""What a journal that is replayed late does to stores that have moved on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from aggregator.store_files import store_path
from aggregator.store_rows import ends_of_rows
from aggregator.summary import WorkerSettings
from aggregator.worker import FlushWorker
from tests.aggregator.store_fakes import DAY_S, START_S, WINDOWS, flush, minutes, packed_row, share

VM = "vm-1"


def test_rows_of_an_hour_that_retention_took_leave_its_rollup_whole(tmp_path: Path) -> None:
    """A replayed sample whose hour has a rollup but no raw rows any more is one that was stored before."""
    machine = FlushWorker(WorkerSettings(tmp_path, WINDOWS, 2.0 * DAY_S, 400.0 * DAY_S))
    end_s = START_S + 4 * DAY_S
    flush(machine, share(VM, minutes(START_S + 60, 4 * 1440)), now_s=float(end_s))
    connection = sqlite3.connect(store_path(tmp_path, VM))
    before = connection.execute("SELECT * FROM hour ORDER BY hour_s").fetchall()
    oldest, _ = ends_of_rows(connection) or (0, 0)
    assert oldest > START_S + DAY_S, "retention took the first day"
    result = flush(machine, share(VM, packed_row(START_S + 120)), now_s=float(end_s))
    assert (result.failures, result.inserted) == ({}, 0)
    assert connection.execute("SELECT * FROM hour ORDER BY hour_s").fetchall() == before
    assert (ends_of_rows(connection) or (0, 0))[0] == oldest
    connection.close()


def test_an_owed_summary_brings_its_evidence(tmp_path: Path) -> None:
    """A summary that the fleet database lacks is given whole although no hour closed."""
    machine = FlushWorker(WorkerSettings(tmp_path, WINDOWS, 2.0 * DAY_S, 400.0 * DAY_S))
    first = flush(machine, share(VM, minutes(START_S + 60, 90)), now_s=START_S + 5400.0)
    owed = flush(machine, share(VM, b""), now_s=START_S + 5400.0)
    assert owed.summaries[0].evidence == first.summaries[0].evidence
    assert owed.summaries[0].figures == first.summaries[0].figures
