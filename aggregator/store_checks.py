"""Sums that show when what a store holds was changed behind its writer's back. Pure.

SQLite checks the shape of its trees and not what is in them: most flipped bits pass its `integrity_check`. So

- an hour keeps the sum of the hashes of its raw rows. Sums need no order, so a row is added without reading the others;
- an hour, its histogram and the one row of `store` each keep a CRC-32 of their cells, their key included;
- `store` keeps the sums of the CRCs of all closed hours and of all histograms, which show a row that vanished.

One changed cell, however much of it, always changes the sum of its hour: all steps of the hash of one cell can be
undone. Other damage passes once in 2^32 times or less. All of this is part of the format of a store.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from zlib import crc32

import numpy as np
import numpy.typing as npt

from aggregator.histogram import Ints
from aggregator.rows import SAMPLE_COLUMNS

_U64 = npt.NDArray[np.uint64]
_STEP, _FIRST, _SECOND = (np.uint64(one) for one in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFTS = tuple(np.uint64(one) for one in (30, 27, 31))
_COUNT = 1 << 32  # what a row adds to a sum of CRCs besides its own: one that vanishes always shows
_CRC_BIAS = 1 << 31  # signed, so that SQLite needs four bytes


class DamagedError(ValueError):
    """What a store holds is not what was written; says which table and hour."""


def hour_name(hour: int) -> str:
    """The start of hour `hour` as people and programs read it."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%dT%H:%MZ")


def _mixed(numbers: _U64) -> _U64:
    """The last steps of splitmix64 (Steele, Lea and Flood 2014): each number to another, no two to the same."""
    numbers = (numbers ^ (numbers >> _SHIFTS[0])) * _FIRST
    numbers = (numbers ^ (numbers >> _SHIFTS[1])) * _SECOND
    return numbers ^ (numbers >> _SHIFTS[2])


# Odd, so that no change of a cell is multiplied to nothing.
_KEYS = _mixed(np.arange(1, len(SAMPLE_COLUMNS) + 1, dtype=np.uint64) * _STEP) | np.uint64(1)


def hash_rows(table: Ints) -> Ints:
    """A hash of each raw row, (n,), of (n, len(SAMPLE_COLUMNS)) cells with ABSENT for what was not measured."""
    cells = np.ascontiguousarray(table).view(np.uint64)
    return _mixed(cells @ _KEYS + _STEP).view(np.int64)


def sums_by_hour(owner: Ints, table: Ints) -> Iterator[tuple[int, int, int]]:
    """(owner, hour, sum of the hashes of its rows) of rows that lie together by owner and, within it, by hour."""
    if not len(table):
        return
    hours = (table[:, 0] - 1) // 3600
    first = np.flatnonzero(np.concatenate(([True], (owner[1:] != owner[:-1]) | (hours[1:] != hours[:-1]))))
    sums = np.add.reduceat(hash_rows(table), first)
    yield from zip(owner[first].tolist(), hours[first].tolist(), sums.tolist(), strict=True)


def row_sums(table: Ints) -> dict[int, int]:
    """Hour → sum of the hashes of its rows, of one VM's rows by rising ts."""
    return {hour: total for _, hour, total in sums_by_hour(np.zeros(len(table), np.int64), table)}


def added(first: int, second: int) -> int:
    """The sum of two such sums: 64 bits, signed."""
    return (first + second + (1 << 63)) % (1 << 64) - (1 << 63)


def packed(table: str, rows: Sequence[Sequence[int]]) -> bytes:
    """Rows of whole numbers, all of one length, one after the other.

    Raises: DamagedError: a cell is no number of 64 bits; names `table`.
    """
    try:
        # Half the time of np.array, and it takes neither 1.5 nor "7" for a whole number.
        return struct.pack(f"<{sum(map(len, rows))}q", *chain.from_iterable(rows))
    except struct.error as error:
        raise DamagedError(f"{table}: a cell is no whole number: {error}") from error


def crc_of_hour(numbers: bytes | memoryview, text: str | None) -> int:
    """CRC-32 of an hour's cells: its numbers, packed, and its gaps."""
    return crc32((text or "").encode(), crc32(numbers)) - _CRC_BIAS


def crc_of_body(key: int, body: bytes) -> int:
    """CRC-32 of bytes that belong to a key."""
    return crc32(body, crc32(struct.pack("<q", key))) - _CRC_BIAS


def crc_of_cells(cells: Sequence[object]) -> int:
    """CRC-32 of cells of any kind, their kinds included."""
    return crc32(repr(tuple(cells)).encode()) - _CRC_BIAS


def sum_of_crcs(crcs: Sequence[int]) -> int:
    """What rows with these CRCs add to the sum that `store` keeps."""
    return sum(crcs) + len(crcs) * (_COUNT + _CRC_BIAS)
