"""The schema of a store, as numbered steps of sqlite-utils. docs/stores.md shows how to read one.

Steps that were released never change: what they compute must be what they computed then.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import suppress
from pathlib import Path

from sqlite_utils import Database, Migrations

from aggregator.rows import SAMPLE_COLUMNS
from aggregator.store_hours import HOUR_COLUMNS
from aggregator.store_rows import pack_samples
from aggregator.store_verify import write_checks

SCHEMA_VERSION = 3
READABLE = (1, 2, SCHEMA_VERSION)  # without being migrated, by those who only read

migrations = Migrations("fallow.store")


@migrations(name="0001_first")
def _first(db: Database) -> None:
    """Raw rows, hourly rollups with their histograms, and the running sums of the windows."""
    db.table("sample").create(
        dict.fromkeys(SAMPLE_COLUMNS, int),
        pk="ts",
        not_null={"interval_s", "cpu_busy", "mem_total", "mem_used"},
        strict=True,
    )
    db.table("hour").create(
        dict.fromkeys(HOUR_COLUMNS, int) | {"gaps": str},
        pk="hour_s",
        not_null={"samples", "covered_s", "users_s"},
        strict=True,
    )
    db.table("hour_histogram").create({"hour_s": int, "body": bytes}, pk="hour_s", not_null={"body"}, strict=True)
    db.table("windows").create({"id": int, "body": bytes}, pk="id", not_null={"body"}, strict=True)
    db.table("store").create(
        {"id": int, "vm_id": str, "conflicts": int, "replaced_s": int}, pk="id", not_null={"conflicts"}, strict=True
    )
    db.table("store").insert({"id": 1, "vm_id": None, "conflicts": 0, "replaced_s": None})


@migrations(name="0002_checks")
def _checks(db: Database) -> None:
    """Sums by which rows, hours and histograms are verified, computed from what is there."""
    hour, store = db.table("hour"), db.table("store")
    hour.add_column("rows_hash", int)
    hour.add_column("crc", int)
    db.table("hour_histogram").add_column("crc", int)
    for name in ("raw_from_s", "hours_sum", "histograms_sum", "crc"):
        store.add_column(name, int)
    write_checks(db.conn)


@migrations(name="0003_packed_rows")
def _packed_rows(db: Database) -> None:
    """Raw rows, an hour of them packed in each row of a table."""
    db.table("rows").create({"hour_s": int, "body": bytes}, pk="hour_s", not_null={"body"}, strict=True)
    pack_samples(db.conn)
    db.table("sample").drop()
    # Readers choose their tables by it.
    db.conn.execute("PRAGMA user_version = 3")


def migrate(connection: sqlite3.Connection) -> None:
    """Brings a store to SCHEMA_VERSION. Raises ValueError: the store is newer than this program."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise ValueError(f"the store has schema {version}, newer than this program's {SCHEMA_VERSION}")
    migrations.apply(Database(connection))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    if version:
        _shrink(connection)


def _shrink(connection: sqlite3.Connection) -> None:
    """Gives back what a migration left free: packed rows take a quarter of what they took."""
    connection.execute("PRAGMA temp_store = MEMORY")
    # A full disk: the store is whole and only larger than it might be.
    with suppress(sqlite3.OperationalError):
        connection.execute("VACUUM")


def columns(connection: sqlite3.Connection) -> frozenset[tuple[str, ...]]:
    """(table, column, type) of all tables. Raises sqlite3.Error: even that cannot be read."""
    found = connection.execute(
        "SELECT m.name, c.name, c.type FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
    )
    return frozenset(found.fetchall())


def template() -> bytes:
    """An empty store as bytes: copying it costs a tenth of running the migrations."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "template.db")
        connection = sqlite3.connect(path)
        try:
            migrate(connection)
            connection.execute("VACUUM")
        finally:
            connection.close()
        return path.read_bytes()
