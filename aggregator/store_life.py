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
from aggregator.store_files import as_store_error, connect_read_only, delete_store, move_aside, read_through
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


def drop_life(path: Path, life: int, *, keep_doubtful_s: float | None = None) -> Dropped:
    """Deletes the store at `path`, durably, if it is of a life before this one. Only where nobody writes it meanwhile.

    Args:
        keep_doubtful_s: Unix time: one that is too damaged to say its life may be of this one, and is moved aside.
            None: it cannot be, and is deleted.

    Returns: `is_gone` False and no problem: it is of this life.
    """
    aside = None
    try:
        if not path.exists():
            return Dropped(is_gone=True)
        found = _life_of_file(path)
        if found is not None and found >= life:
            return Dropped(is_gone=False)
        if found is None and keep_doubtful_s is not None:
            aside = str(move_aside(path, keep_doubtful_s))
        else:
            delete_store(path)
        sync_directory(path.parent)
    except (sqlite3.Error, OSError, ValueError) as error:
        return Dropped(is_gone=False, problem=str(as_store_error(error)))
    return Dropped(is_gone=True, aside=aside)


def _life_of_file(path: Path) -> int | None:
    """None: it is damaged for good. Raises sqlite3.Error, OSError: it cannot be read now."""
    try:
        with closing(connect_read_only(path)) as connection:
            return read_life(connection)
    except (sqlite3.Error, ValueError) as error:
        # What SQLite says of a header that is none depends on which of its bytes are wrong.
        other = isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR
        if not (other or as_store_error(error).corrupt):
            raise
    # SQLite calls some failed reads of a bad disk damage, which it is not.
    read_through(path)
    return None


def _number_of(life: int) -> int:
    return life << _HALF | life
