"""Which life of its VM a store holds (see `aggregator.lives`), and deleting those of a life that is over.

It stands in SQLite's `application_id`, a number of the file's header that changes with the transaction, twice: so one
flipped bit is damage and not another life. A store that was never given one is of life 0.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from aggregator.part_file import Dropped
from aggregator.store_checks import DamagedError
from aggregator.store_files import as_store_error, connect_read_only, delete_store
from aggregator.tokens import sync_directory

_HALF = 16


def read_life(connection: sqlite3.Connection) -> int:
    """Raises DamagedError: it is not what was written."""
    (number,) = connection.execute("PRAGMA application_id").fetchone()
    life: int = number >> _HALF
    if number != _number_of(life):
        raise DamagedError("store: its life is not what was written")
    return life


def write_life(connection: sqlite3.Connection, life: int) -> None:
    """Within the transaction that is open."""
    connection.execute(f"PRAGMA application_id = {_number_of(life)}")


def drop_life(path: Path, life: int) -> Dropped:
    """Deletes the store at `path`, durably, if it is of a life before this one. Only where nobody writes it meanwhile.

    Returns: `is_gone` False and no problem: it is of this life.
    """
    try:
        if not path.exists():
            return Dropped(is_gone=True)
        with closing(connect_read_only(path)) as connection:
            if read_life(connection) >= life:
                return Dropped(is_gone=False)
        delete_store(path)
        sync_directory(path.parent)
    except (sqlite3.Error, OSError, ValueError) as error:
        return Dropped(is_gone=False, problem=str(as_store_error(error)))
    return Dropped(is_gone=True)


def _number_of(life: int) -> int:
    return life << _HALF | life
