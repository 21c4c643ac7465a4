"""A part of a VM's history on its way from the node that holds it to the VM's home: the bytes of a store, and its mark.

The mark is a hash of the bytes, so that a store which was deleted and begun anew meanwhile never passes for the one
that was read.
"""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from aggregator.store_files import StoreError, as_store_error, connect_read_only, delete_store
from aggregator.summary import Summary
from aggregator.tokens import sync_directory

MAX_PART_BYTES = 64 << 20  # a year of raw rows has 40 MiB before schema 3, then 15
_MARK_CHARS = 32


class StorePart(NamedTuple):
    """A store as it was committed last.

    Attributes:
        body: its file.
        mark: of exactly these bytes.
    """

    body: bytes
    mark: str


class Joined(NamedTuple):
    """What became of a part, or of a store as a whole.

    Attributes:
        summary: of the VM from now on, with all figures and evidence; None: its store holds no row.
        inserted, duplicates, conflicts: rows of the part.
        problem: why nothing was done; None: it was.
    """

    summary: Summary | None = None
    inserted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    problem: str | None = None


class Dropped(NamedTuple):
    """What became of a store that was to go.

    Attributes:
        is_gone: there is none any more.
        problem: why it is still there; None of one that is gone or was changed meanwhile.
        aside: where it was moved instead, damaged as it is: a person may look at it.
    """

    is_gone: bool
    problem: str | None = None
    aside: str | None = None


def mark_of(body: bytes) -> str:
    """The mark of a store of these bytes."""
    return hashlib.sha256(body).hexdigest()[:_MARK_CHARS]


def read_part(path: Path) -> StorePart | None:
    """The store at `path`, all of one commit; None where there is none. Holds up writers while it reads.

    Raises: StoreError: it cannot be read, or has more than MAX_PART_BYTES.
    """
    if not path.exists():
        return None
    try:
        with closing(connect_read_only(path)) as connection:
            connection.execute("BEGIN")
            (size,) = connection.execute(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
            ).fetchone()
            if size > MAX_PART_BYTES:
                raise StoreError(f"{size} bytes are more than {MAX_PART_BYTES >> 20} MiB", corrupt=False)
            # Not by reading the file: to close it would take away the locks that SQLite holds in this process.
            body = connection.serialize()
    except (sqlite3.Error, ValueError) as error:
        raise as_store_error(error) from error
    return StorePart(body, mark_of(body))


def drop_store(path: Path, mark: str) -> Dropped:
    """Deletes the store at `path` if it still has this mark, durably. Only where no flush can write it meanwhile."""
    try:
        found = read_part(path)
        if found is not None:
            if found.mark != mark:
                return Dropped(is_gone=False)
            delete_store(path)
            sync_directory(path.parent)
    except (StoreError, OSError) as error:
        return Dropped(is_gone=False, problem=str(error))
    return Dropped(is_gone=True)
