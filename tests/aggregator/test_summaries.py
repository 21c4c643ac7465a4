"""Summaries in the fleet database: written twice they change nothing, and what is newer stays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.fleet import vm_evidence, vm_summary, vm_window
from aggregator.fleet_db import migrate, open_fleet
from aggregator.summaries import SummaryWriter
from aggregator.summary import STATISTIC_COLUMNS
from tests.aggregator.flush_fakes import NOW_S, TS, summary


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    fleet = open_fleet(None, tmp_path)
    migrate(fleet)
    yield fleet
    fleet.dispose()


def rows(engine: sa.Engine, table: sa.Table) -> list[Mapping[str, Any]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
        return [dict(row._mapping) for row in found]


def everything(engine: sa.Engine) -> list[list[Mapping[str, Any]]]:
    return [rows(engine, table) for table in (vm_summary, vm_window, vm_evidence)]


def test_every_figure_arrives_in_its_column(engine: sa.Engine) -> None:
    """One row a VM, one row a VM and window, and the evidence as it is."""
    statistics = tuple(float(number) for number in range(len(STATISTIC_COLUMNS)))
    one = summary("a", flags=["clock_skew"])
    one = one._replace(figures=[figures._replace(statistics=statistics) for figures in one.figures])
    SummaryWriter(engine).write([one, summary("b")], now_s=NOW_S + 1)
    first, second = rows(engine, vm_summary)
    assert second["vm_id"] == "b"
    assert json.loads(first.pop("flags")) == ["clock_skew"]  # type: ignore[attr-defined]
    assert first == {
        "vm_id": "a",
        "oldest_s": TS - 3600,
        "newest_s": TS,
        "received_s": NOW_S,
        "skew_s": 1.5,
        "interval_s": 60,
        "conflicts": 0,
        "cpu_count": 2,
        "mem_total_bytes": 8 << 30,
        "disk_total_bytes": None,
        "updated_s": NOW_S + 1,
        "node": "",
    }
    windows = [row for row in rows(engine, vm_window) if row["vm_id"] == "a"]
    assert [(row["window_days"], row["end_s"], row["covered_s"]) for row in windows] == [(1, TS, 60), (7, TS, 60)]
    assert tuple(windows[0][name] for name in STATISTIC_COLUMNS) == statistics
    assert rows(engine, vm_evidence)[0] == {"vm_id": "a", "hour_s": 3600, "body": b"evidence"}


def test_writing_again_changes_nothing(engine: sa.Engine) -> None:
    """Fault 36: a commit whose answer was lost is simply repeated."""
    writer = SummaryWriter(engine)
    batch = [summary("a"), summary("b", flags=["store_replaced"])]
    writer.write(batch, now_s=NOW_S)
    before = everything(engine)
    writer.write(batch, now_s=NOW_S)
    assert everything(engine) == before


def test_a_newer_summary_takes_the_place_of_the_old(engine: sa.Engine) -> None:
    """Figures follow; evidence that did not change is not sent and stays."""
    writer = SummaryWriter(engine)
    writer.write([summary("a", flags=["clock_skew"])], now_s=NOW_S)
    newer = summary("a", received_s=NOW_S + 900, newest_s=TS + 900)._replace(evidence=None, skew_s=0.1, conflicts=3)
    writer.write([newer], now_s=NOW_S + 900)
    (row,) = rows(engine, vm_summary)
    assert (row["received_s"], row["skew_s"], row["newest_s"], row["conflicts"]) == (NOW_S + 900, 0.1, TS + 900, 3)
    assert row["flags"] == "[]"
    assert rows(engine, vm_evidence)[0]["body"] == b"evidence"


def test_a_summary_owed_from_before_a_restart_keeps_what_it_does_not_know(engine: sa.Engine) -> None:
    """It has no time of receipt: the known one, its skew and the doubts of then stay; its figures are taken over."""
    writer = SummaryWriter(engine)
    writer.write([summary("a", flags=["clock_skew", "identity_conflict"])], now_s=NOW_S)
    owed = summary("a", received_s=0.0, newest_s=TS + 60)._replace(skew_s=0.0, conflicts=5)
    writer.write([owed], now_s=NOW_S + 60)
    (row,) = rows(engine, vm_summary)
    assert (row["received_s"], row["skew_s"], row["newest_s"], row["conflicts"]) == (NOW_S, 1.5, TS + 60, 5)
    assert json.loads(row["flags"]) == ["clock_skew", "identity_conflict"]


def test_an_owed_summary_of_a_vm_unknown_so_far_was_seen_at_its_newest_sample(engine: sa.Engine) -> None:
    """The best guess that cannot be too late."""
    SummaryWriter(engine).write([summary("a", received_s=0.0)], now_s=NOW_S)
    assert rows(engine, vm_summary)[0]["received_s"] == TS


def test_row_22_a_time_of_receipt_from_a_wrong_clock_does_not_stay(engine: sa.Engine) -> None:
    """Fault 22: after a year ahead by mistake, the VM is not 'seen just now' for a year."""
    writer = SummaryWriter(engine)
    year_s = 365 * 86_400.0
    writer.write([summary("a", received_s=NOW_S + year_s, flags=["clock_skew"])], now_s=NOW_S + year_s)
    writer.write([summary("a", received_s=NOW_S + 60)], now_s=NOW_S + 61)
    (row,) = rows(engine, vm_summary)
    assert (row["received_s"], row["flags"]) == (NOW_S + 60, "[]")


def test_a_batch_is_written_whole_or_not_at_all(engine: sa.Engine) -> None:
    """One bad row leaves nothing of the others behind, so that the whole batch stays owed."""
    bad = summary("b")._replace(oldest_s=None)  # type: ignore[arg-type]
    with pytest.raises(sa.exc.IntegrityError):
        SummaryWriter(engine).write([summary("a"), bad], now_s=NOW_S)
    assert everything(engine) == [[], [], []]


def test_nothing_to_write_does_not_need_the_database(tmp_path: Path) -> None:
    """Flushes without rows go on while it is away."""
    engine = open_fleet(f"sqlite:///{tmp_path}/never.db", tmp_path)
    SummaryWriter(engine).write([], now_s=NOW_S)
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


def test_windows_no_longer_configured_go(engine: sa.Engine) -> None:
    """No report reads figures that nobody updates."""
    writer = SummaryWriter(engine)
    writer.write([summary("a")], now_s=NOW_S)
    writer.keep_windows((7, 30))
    assert [row["window_days"] for row in rows(engine, vm_window)] == [7]
