"""Where stores lie, and reading samples out of one: what the aggregator's own process does with stores."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from aggregator.rows import SAMPLE_COLUMNS, dequantise

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NEEDS_RECOVERY = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)
SELECT_SAMPLES = f"SELECT {', '.join(SAMPLE_COLUMNS)} FROM sample WHERE ts >= ? AND ts <= ? ORDER BY ts"


class StoreError(Exception):
    """A store that cannot be read or written. `corrupt`: it will not get better by waiting."""

    def __init__(self, detail: str, *, corrupt: bool) -> None:
        self.corrupt = corrupt
        super().__init__(detail)


def store_path(data_dir: Path, vm_id: str) -> Path:
    """Where a VM's store lies: spread over 65,536 folders by a hash, so that no folder grows large."""
    digest = hashlib.sha256(vm_id.encode()).hexdigest()
    return Path(f"{data_dir}/stores/{digest[:2]}/{digest[2:4]}/{vm_id}.db")


def as_store_error(error: sqlite3.Error | OSError | ValueError) -> StoreError:
    """Tells what waiting may cure (a full disk, a lock) from what it will not (a damaged file)."""
    corrupt = isinstance(error, ValueError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED
    return StoreError(f"{type(error).__name__}: {error}", corrupt=corrupt)


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection to a store, or any SQLite file, that changes nothing that is committed; no transaction is open.

    What a crash left of a transaction is rolled back first, as every writer would do; that takes the right to write.

    Raises: sqlite3.Error: absent, locked or no database.
    """
    connection = _connect(path, "ro")
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        connection.close()
        if error.sqlite_errorcode not in _NEEDS_RECOVERY:
            raise
        connection = _connect(path, "rw")
        connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, timeout=10.0)


def read_samples(path: Path, from_s: int, to_s: int) -> list[dict[str, float | int | None]]:
    """Raw rows of a store with from_s <= ts <= to_s as wire fields, by rising ts; none where there is no store.

    Raises StoreError.
    """
    if not path.exists():
        return []
    try:
        connection = connect_read_only(path)
        try:
            return [dequantise(row) for row in connection.execute(SELECT_SAMPLES, (from_s, to_s))]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise as_store_error(error) from error
