"""Where stores lie, and reading samples out of one: what the aggregator's own process does with stores."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from aggregator.rollup import ABSENT
from aggregator.rows import dequantise
from aggregator.store_verify import verified_rows

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PIECE_BYTES = 1 << 20
_NEEDS_RECOVERY = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)


class StoreError(Exception):
    """A store that cannot be read or written. `corrupt`: it will not get better by waiting."""

    def __init__(self, detail: str, *, corrupt: bool) -> None:
        self.corrupt = corrupt
        super().__init__(detail)


def store_path(data_dir: Path, vm_id: str) -> Path:
    """Where a VM's store lies: spread over 65,536 folders by a hash, so that no folder grows large."""
    return Path(store_file(data_dir, vm_id))


def store_file(data_dir: Path, vm_id: str) -> str:
    """The same as text: a `Path` costs ten times as much, which a flush of a million stores feels."""
    digest = hashlib.sha256(vm_id.encode()).hexdigest()
    return f"{data_dir}/stores/{digest[:2]}/{digest[2:4]}/{vm_id}.db"


def list_stores(data_dir: Path) -> dict[str, Path]:
    """The path of each VM's store, by id. Raises OSError: the folders cannot be read."""
    found = {path.name.removesuffix(".db"): path for path in (data_dir / "stores").glob("*/*/*.db")}
    return dict(sorted(found.items()))


def as_store_error(error: sqlite3.Error | OSError | ValueError) -> StoreError:
    """Tells what waiting may cure (a full disk, a lock) from what it will not (a damaged file)."""
    if isinstance(error, sqlite3.Error):
        # Without a code it is Python's own: what it was given cannot be read, such as text that is no UTF-8.
        code = getattr(error, "sqlite_errorcode", None)
        corrupt = code is None or code & 0xFF in _DAMAGED
    else:
        corrupt = isinstance(error, ValueError)
    return StoreError(f"{type(error).__name__}: {error}", corrupt=corrupt)


def read_through(path: Path) -> None:
    """Reads a file from end to end. Raises OSError: the disk does not give all of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        at = 0
        while piece := os.pread(descriptor, _PIECE_BYTES, at):
            at += len(piece)
    finally:
        os.close(descriptor)


def delete_store(path: Path) -> bool:
    """Deletes a VM's store and the files SQLite keeps beside it; whether there was one. Raises OSError."""
    existed = path.exists()
    for suffix in ("-journal", "-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return existed


def move_aside(path: Path, now_s: float) -> Path:
    """Keeps a damaged store for a person, under the name that it returns. Raises OSError."""
    aside = path.with_suffix(f".damaged-{int(now_s)}")
    path.rename(aside)
    # Left behind, it would be rolled back into the next store.
    journal = Path(f"{path}-journal")
    if journal.exists():
        journal.rename(f"{aside}-journal")
    return aside


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

    Raises StoreError: also where the rows of an hour of the span are not those that were written.
    """
    if not path.exists():
        return []
    try:
        connection = connect_read_only(path)
        try:
            # One snapshot: a flush that adds rows changes their sums too.
            connection.execute("BEGIN")
            rows = [row for table in verified_rows(connection, from_s - 1, to_s) for row in table.tolist()]
        finally:
            connection.close()
    except (sqlite3.Error, ValueError) as error:
        raise as_store_error(error) from error
    return [dequantise([None if cell == ABSENT else cell for cell in row]) for row in rows]
