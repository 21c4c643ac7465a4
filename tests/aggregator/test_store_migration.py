"""Stores of schemas 1 and 2: read as they are, and brought to this one by the next flush without losing anything."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from aggregator import store_schema
from aggregator.check import read_facts, verify_store
from aggregator.rows import SAMPLE_COLUMNS
from aggregator.series import Span
from aggregator.store_files import StoreError, connect_read_only, read_samples
from aggregator.store_series import read_series
from aggregator.worker import FlushWorker
from aggregator.worker_join import PartJoiner
from bench.raw_rows import raw_rows
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
STEPS = {1: "0002_checks", 2: "0003_packed_rows"}  # version -> the step after it
OURS = ("sample", "hour", "hour_histogram", "windows", "store")
MINUTES = 30 * 60 + 30
ROWS = minutes(START_S + 60, MINUTES, net_rx_bytes_per_s=5.0, users=1)
LATE = packed_row(START_S + 90, interval_s=30)
NEWS = packed_row(START_S + (MINUTES + 1) * 60)


def as_schema(path: Path, version: int) -> Path:
    """Makes a store one that a release before wrote."""
    newer = path.rename(path.with_suffix(".newer"))
    with closing(sqlite3.connect(path)) as connection:
        store_schema.migrations.apply(Database(connection), stop_before=STEPS[version])
        connection.execute("DELETE FROM store")
        connection.execute("ATTACH ? AS newer", (str(newer),))
        for table in OURS[1:]:
            names = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
            columns = ", ".join(names)
            connection.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
        with closing(connect_read_only(newer)) as source:
            rows = raw_rows(source)
        connection.executemany(f"INSERT INTO sample VALUES ({', '.join('?' * len(SAMPLE_COLUMNS))})", rows)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    newer.unlink()
    return path


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    return contents_of(path, OURS)


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest) -> int:
    """Of the old store."""
    return int(request.param)


@pytest.fixture
def old(tmp_path: Path, version: int) -> Path:
    """A store of an old schema with a day and a half of minutes."""
    return as_schema(fill(tmp_path, VM, ROWS), version)


def test_an_old_store_can_be_read(tmp_path: Path, old: Path, version: int) -> None:
    """Samples, charts, facts and the check need no migration, and change nothing."""
    before = old.read_bytes()
    twin = fill(tmp_path / "twin", VM, ROWS)
    facts, expected = read_facts(old, VM), read_facts(twin, VM)
    assert facts.schema_version == version
    assert (facts.rows, facts.first_s, facts.newest_s) == (expected.rows, expected.first_s, expected.newest_s)
    span = Span(from_s=START_S, to_s=START_S + 20 * HOUR_S)
    assert read_samples(old, START_S + 90, START_S + DAY_S) == read_samples(twin, START_S + 90, START_S + DAY_S)
    assert len(read_samples(old, 0, 2 * START_S)) == MINUTES
    assert read_series(old, VM, span) == read_series(twin, VM, span)
    assert verify_store(old, VM) == []
    assert old.read_bytes() == before


@pytest.mark.parametrize("rows", [b"", NEWS, LATE, LATE + NEWS])
def test_the_next_flush_brings_an_old_store_to_this_schema(tmp_path: Path, old: Path, rows: bytes) -> None:
    """It ends byte for byte in the rows and sums of a store that never was of an old schema."""
    twin = fill(tmp_path / "twin", VM, ROWS)
    for data_dir in (tmp_path, tmp_path / "twin"):
        result = flush(FlushWorker(settings(data_dir)), share(VM, rows, verify=True))
        assert (result.failures, result.lost_stores) == ({}, {})
    assert read_facts(old, VM).schema_version == 3
    assert verify_store(old, VM) == []
    found, expected = contents(old), contents(twin)
    # But for raw_from_s, from when on raw rows are known to be all there, and the CRC over it: schema 1 lacked it.
    rows_of_store = [[row[:4] + row[5:7] for row in one.pop("store")] for one in (found, expected)]
    assert rows_of_store[0] == rows_of_store[1]
    assert found == expected


def test_an_old_store_whose_old_rows_had_gone_is_sound(tmp_path: Path, version: int) -> None:
    """Hours without raw rows have no sum to be held against, and a row of such an hour is not taken twice."""
    path = fill(tmp_path, VM, minutes(START_S + 1800, 5 * 48, interval_s=1800))
    change(path, f"DELETE FROM sample WHERE ts <= {START_S + 2 * DAY_S}", reseal=True)
    as_schema(path, version)
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


@pytest.mark.parametrize("sets", ["cpu_busy = cpu_busy + 1", "ts = ts + 1", "users = NULL"])
def test_row_17_a_store_of_schema_2_is_checked_as_it_is(tmp_path: Path, sets: str) -> None:
    """A VM that has fallen silent is never migrated: its store is held against its sums all the same."""
    path = as_schema(fill(tmp_path, VM, ROWS), 2)
    assert verify_store(path, VM) == []
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE sample SET {sets} WHERE ts = ?", (START_S + 600,))
    assert "rows: hour 2023-11-13T00:00Z: its rows are not those that were written" in verify_store(path, VM)
    with pytest.raises(StoreError, match="2023-11-13T00:00Z"):
        read_samples(path, START_S, START_S + 60)


def test_row_17_what_was_changed_before_the_migration_is_found(tmp_path: Path) -> None:
    """Packing rows takes none of them for right: the sums of schema 2 go on, and the hour is named."""
    path = as_schema(fill(tmp_path, VM, ROWS), 2)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE sample SET cpu_busy = cpu_busy + 1 WHERE ts = ?", (START_S + 600,))
    damaged = path.read_bytes()
    result = flush(FlushWorker(settings(tmp_path)), share(VM, NEWS, verify=True))
    assert "rows: hour 2023-11-13T00:00Z" in result.lost_stores[VM].why
    assert damaged != path.read_bytes()


def test_a_part_of_an_old_schema_is_joined(tmp_path: Path, version: int) -> None:
    """Nodes are upgraded one after the other: what an older one holds of a VM is taken in as it is."""
    part = as_schema(fill(tmp_path / "other", VM, ROWS), version)
    home = fill(tmp_path / "home", VM, NEWS)
    joined = PartJoiner(settings(tmp_path / "home")).join(VM, "other", part.read_bytes(), had_history=True)
    assert (joined.problem, joined.inserted, joined.conflicts) == (None, MINUTES, 0)
    assert verify_store(home, VM) == []
    twin = fill(tmp_path / "twin", VM, ROWS + NEWS)
    assert contents(home)["sample"] == contents(twin)["sample"]


def test_rows_that_no_writer_made_are_packed_as_they_are(tmp_path: Path) -> None:
    """Damage to an old store keeps none of its rows from being packed and found out."""
    path = as_schema(fill(tmp_path, VM, ROWS), 2)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE sample SET net_rx = ?, users = -7 WHERE ts = ?", (-(1 << 63), START_S + 600))
        connection.execute("INSERT INTO sample (ts, interval_s, cpu_busy, mem_total, mem_used) VALUES (-5, 9, 1, 1, 1)")
    result = flush(FlushWorker(settings(tmp_path)), share(VM, b""))
    assert (result.failures, result.lost_stores) == ({}, {})
    problems = verify_store(path, VM)
    assert any("1969-12-31T23:00Z: rows of an hour that is not there" in problem for problem in problems)
    assert any("2023-11-13T00:00Z: its rows are not those" in problem for problem in problems)


def test_a_migrated_store_is_smaller(tmp_path: Path) -> None:
    """What old rows took is given back to the disk."""
    path = as_schema(fill(tmp_path, VM, ROWS), 2)
    before = path.stat().st_size
    flush(FlushWorker(settings(tmp_path)), share(VM, b""))
    with closing(connect_read_only(path)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone()[0] == 0
    assert path.stat().st_size < before


@pytest.mark.parametrize("step", ["CREATE TABLE rows", "INSERT OR REPLACE INTO rows", "DROP TABLE", "PRAGMA user_v"])
def test_a_migration_that_fails_midway_leaves_the_store_as_it_was(tmp_path: Path, step: str) -> None:
    """Whatever breaks between its first and its last statement, the store is of the old schema and whole."""
    path = as_schema(fill(tmp_path, VM, ROWS), 2)
    before = path.read_bytes()

    class Breaks(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            self._break(sql)
            return super().execute(sql, *values)

        def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
            self._break(sql)
            return super().executemany(sql, *values)

        def _break(self, sql: str) -> None:
            if sql.replace('"', "").startswith(step):
                raise sqlite3.OperationalError("disk I/O error")

    with (
        closing(sqlite3.connect(path, isolation_level=None, factory=Breaks)) as connection,
        pytest.raises(sqlite3.OperationalError),
    ):
        store_schema.migrate(connection)
    assert path.read_bytes() == before
    flush(FlushWorker(settings(tmp_path)), share(VM, NEWS))
    assert verify_store(path, VM) == []


def test_a_migration_that_is_cut_off_begins_again(old: Path) -> None:
    """Sums are computed in one transaction: a crash leaves the store as it was."""
    before = old.read_bytes()
    with closing(sqlite3.connect(old, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE rows (hour_s INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT")
    assert old.read_bytes() == before
    flush(FlushWorker(settings(old.parents[3])), share(VM, NEWS))
    assert verify_store(old, VM) == []
