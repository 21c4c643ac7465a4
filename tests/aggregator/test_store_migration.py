"""Stores of schema 1: read as they are, and given their sums by the next flush without losing anything."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from aggregator import store_schema
from aggregator.check import read_facts, verify_store
from aggregator.series import Span
from aggregator.store_files import read_samples
from aggregator.store_series import read_series
from aggregator.worker import FlushWorker
from tests.aggregator.store_fakes import (
    DAY_S,
    HOUR_S,
    START_S,
    change,
    contents_of,
    fill,
    flush,
    minutes,
    packed_row,
    settings,
    share,
)

VM = "vm-1"
OURS = ("sample", "hour", "hour_histogram", "windows", "store")
MINUTES = 30 * 60 + 30
LATE = packed_row(START_S + 90, interval_s=30)
NEWS = packed_row(START_S + (MINUTES + 1) * 60)


def as_schema_1(path: Path) -> Path:
    """Makes a store one that the first release wrote."""
    newer = path.rename(path.with_suffix(".newer"))
    with closing(sqlite3.connect(path)) as connection:
        store_schema.migrations.apply(Database(connection), stop_before="0002_checks")
        connection.execute("DELETE FROM store")
        connection.execute("ATTACH ? AS newer", (str(newer),))
        for table in OURS:
            names = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
            columns = ", ".join(names)
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    newer.unlink()
    return path


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return contents_of(path, OURS)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store of schema 1 with a day and a half of minutes."""
    return as_schema_1(fill(tmp_path, VM, minutes(START_S + 60, MINUTES, net_rx_bytes_per_s=5.0, users=1)))


def test_an_old_store_can_be_read(tmp_path: Path, old: Path) -> None:
    """Samples, charts, facts and the check need no migration, and change nothing."""
    before = old.read_bytes()
    assert read_facts(old, VM).schema_version == 1
    assert len(read_samples(old, 0, 2 * START_S)) == MINUTES
    assert read_series(old, VM, Span(from_s=START_S, to_s=START_S + 20 * HOUR_S)).ends_s
    assert verify_store(old, VM) == []
    assert old.read_bytes() == before


@pytest.mark.parametrize("rows", [b"", NEWS, LATE, LATE + NEWS])
def test_the_next_flush_brings_an_old_store_to_this_schema(tmp_path: Path, old: Path, rows: bytes) -> None:
    """It ends byte for byte in the rows and sums of a store that never was of schema 1."""
    twin = fill(tmp_path / "twin", VM, minutes(START_S + 60, MINUTES, net_rx_bytes_per_s=5.0, users=1))
    for data_dir in (tmp_path, tmp_path / "twin"):
        result = flush(FlushWorker(settings(data_dir)), share(VM, rows, verify=True))
        assert (result.failures, result.lost_stores) == ({}, {})
    assert read_facts(old, VM).schema_version == 2
    assert verify_store(old, VM) == []
    found, expected = contents(old), contents(twin)
    # But for raw_from_s, from when on raw rows are known to be all there, and the CRC over it.
    rows_of_store = [[row[:4] + row[5:7] for row in one.pop("store")] for one in (found, expected)]
    assert rows_of_store[0] == rows_of_store[1]
    assert found == expected


def test_an_old_store_whose_old_rows_had_gone_is_sound(tmp_path: Path) -> None:
    """Hours without raw rows have no sum to be held against, and a row of such an hour is not taken twice."""
    path = fill(tmp_path, VM, minutes(START_S + 1800, 5 * 48, interval_s=1800))
    change(path, f"DELETE FROM sample WHERE ts <= {START_S + 2 * DAY_S}", reseal=True)
    as_schema_1(path)
    again = packed_row(START_S + 1800, interval_s=1800)
    news = packed_row(START_S + 5 * DAY_S + 1800, interval_s=1800)
    result = flush(FlushWorker(settings(tmp_path)), share(VM, again + news, verify=True))
    assert (result.failures, result.lost_stores, result.inserted) == ({}, {}, 1)
    assert verify_store(path, VM) == []


def test_row_17_a_row_that_changes_after_the_migration_is_found(tmp_path: Path, old: Path) -> None:
    """From the migration on an old store is verified as any other."""
    machine = FlushWorker(settings(tmp_path))
    flush(machine, share(VM, b""))
    change(old, f"UPDATE sample SET cpu_busy = cpu_busy + 1 WHERE ts = {START_S + 600}")
    result = flush(machine, share(VM, NEWS, verify=True))
    assert "hour 2023-11-13T00:00Z" in result.lost_stores[VM].why


def test_a_migration_that_is_cut_off_begins_again(old: Path) -> None:
    """Sums are computed in one transaction: a crash leaves the store as it was."""
    before = contents(old)
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("ALTER TABLE hour ADD COLUMN rows_hash INTEGER")
    assert contents(old) == before
    flush(FlushWorker(settings(old.parents[3])), share(VM, NEWS))
    assert verify_store(old, VM) == []
