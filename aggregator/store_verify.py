"""Holds what a store holds against the sums that were written with it; reads, and in one case writes, those sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from aggregator.histogram import Ints
from aggregator.store_checks import (
    DamagedError,
    crc_of_body,
    crc_of_hour,
    hour_name,
    packed,
    row_sums,
    sum_of_crcs,
)
from aggregator.store_hours import SELECT_CELLS, numbers_of, verify_cells, verify_histogram
from aggregator.store_row import StoreRow, read_row, write_row
from aggregator.store_rows import LAST_HOUR, read_rows, read_samples_table
from aggregator.windows import Windows

_LAST_S = 1 << 62
_SELECT_HASHES = "SELECT hour_s / 3600, rows_hash FROM hour WHERE hour_s >= ? AND hour_s < ?"


def row_problems(
    sums: Mapping[int, int], hashes: Mapping[int, int | None], raw_from_s: int | None
) -> Iterator[tuple[int, str]]:
    """(hour, what is wrong) of hours whose raw rows are not those that were written.

    Args:
        sums: of the hashes of the rows that there are, by hour.
        hashes: what hours say that sum is; None of an hour that does not know.
        raw_from_s: as `StoreRow` has it.
    """
    for hour in sorted(sums.keys() | hashes.keys()):
        if hour not in hashes:
            yield hour, f"rows: hour {hour_name(hour)}: rows of an hour that is not there"
        elif hour in sums:
            if sums[hour] != hashes[hour]:
                yield hour, f"rows: hour {hour_name(hour)}: its rows are not those that were written"
        elif hour * 3600 >= (raw_from_s or 0) and hashes[hour] is not None:
            yield hour, f"rows: hour {hour_name(hour)}: its rows are gone"


def verified_rows(connection: sqlite3.Connection, from_s: int, to_s: int) -> Iterator[Ints]:
    """Raw rows with from_s < ts <= to_s by rising ts, in pieces. All hours that the span touches are held against their
    sums on the way: exhaust it before anything is made of what it gives.

    Rows of a store that is older than these sums are given as they are.

    Raises: DamagedError: names the first hour that differs.
    """
    first = max(from_s, -_LAST_S) // 3600
    end = -(-min(to_s, _LAST_S) // 3600)
    hashes: dict[int, int | None] | None = None
    if has_checks(connection):
        hashes = dict(connection.execute(_SELECT_HASHES, (first * 3600, end * 3600)))
    sums: dict[int, int] = {}
    for table in read_rows(connection, first, end - 1):
        if hashes is not None:
            sums.update(row_sums(table))
        begin, stop = np.searchsorted(table[:, 0], (from_s, to_s), side="right")
        yield table[begin:stop]
    if hashes is not None:
        for _, problem in row_problems(sums, hashes, read_row(connection)[0].raw_from_s):
            raise DamagedError(problem)


def verify_hours(connection: sqlite3.Connection, from_s: int, to_s: int) -> None:
    """Holds the hours that begin from `from_s` to `to_s` against their CRCs. Raises DamagedError."""
    if has_checks(connection):
        for cells in connection.execute(SELECT_CELLS, (from_s, to_s)):
            verify_cells(cells)


def has_checks(connection: sqlite3.Connection) -> bool:
    """Whether a store keeps sums at all: one of schema 1 does not."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version != 1


def verify(connection: sqlite3.Connection) -> None:
    """Holds all of a store against its sums. Raises DamagedError: the first thing that differs."""
    for problem in problems_of(connection):
        raise DamagedError(problem)


def problems_of(connection: sqlite3.Connection) -> Iterator[str]:
    """What differs in a store from what was written, by table and hour. Raises DamagedError: it cannot be read on."""
    row, _ = read_row(connection)
    crcs: dict[int, int] = {}
    hashes: dict[int, int | None] = {}
    for cells in connection.execute(SELECT_CELLS, (-_LAST_S, _LAST_S)):
        try:
            verify_cells(cells)
            hashes[cells[0] // 3600] = cells[-2]
            crcs[cells[0] // 3600] = cells[-1]
        except DamagedError as error:
            yield str(error)
    open_hour = max(crcs, default=None)
    if sum_of_crcs([crc for hour, crc in crcs.items() if hour != open_hour]) != row.hours_sum:
        yield "hour: the hours are not those that were written"
    yield from _histogram_problems(connection, row)
    yield from _window_problems(connection, open_hour)
    for _, problem in row_problems(_sums(read_rows(connection)), hashes, row.raw_from_s):
        yield problem


def _histogram_problems(connection: sqlite3.Connection, row: StoreRow) -> Iterator[str]:
    crcs: list[int] = []
    for hour_s, body, crc in connection.execute("SELECT hour_s, body, crc FROM hour_histogram ORDER BY hour_s"):
        try:
            verify_histogram(hour_s, body, crc)
            crcs.append(crc)
        except DamagedError as error:
            yield str(error)
    if sum_of_crcs(crcs) != row.histograms_sum:
        yield "hour_histogram: the histograms are not those that were written"


def _window_problems(connection: sqlite3.Connection, open_hour: int | None) -> Iterator[str]:
    found = connection.execute("SELECT body FROM windows WHERE id = 1").fetchone()
    try:
        windows = Windows.decode(found[0]) if found else None
    except ValueError as error:
        yield f"windows: {error}"
        return
    if (windows.open_hour if windows else None) != open_hour:
        yield "windows: the sums are not of the newest hour"


def _sums(tables: Iterable[Ints]) -> dict[int, int]:
    """Hour → sum of the hashes of its raw rows."""
    sums: dict[int, int] = {}
    for table in tables:
        sums.update(row_sums(table))
    return sums


def write_checks(connection: sqlite3.Connection) -> None:
    """Gives a store that has no sums yet those of what it holds; part of a migration, so it may never change."""
    sums = _sums(read_samples_table(connection, -LAST_HOUR, LAST_HOUR))
    hours = connection.execute(SELECT_CELLS, (-_LAST_S, _LAST_S)).fetchall()
    open_hour = max((cells[0] // 3600 for cells in hours), default=None)
    crcs = []
    for cells in hours:
        rows_hash = sums.get(cells[0] // 3600)
        crc = crc_of_hour(packed("hour", [numbers_of(cells, rows_hash)]), cells[-3])
        connection.execute("UPDATE hour SET rows_hash = ?, crc = ? WHERE hour_s = ?", (rows_hash, crc, cells[0]))
        if cells[0] // 3600 != open_hour:
            crcs.append(crc)
    histograms = [
        (crc_of_body(hour_s, body), hour_s)
        for hour_s, body in connection.execute("SELECT hour_s, body FROM hour_histogram").fetchall()
    ]
    connection.executemany("UPDATE hour_histogram SET crc = ? WHERE hour_s = ?", histograms)
    conflicts, replaced_s, vm_id = connection.execute(
        "SELECT conflicts, replaced_s, vm_id FROM store WHERE id = 1"
    ).fetchone()
    raw_from_s = min(sums) * 3600 if sums else None
    hours_sum, histograms_sum = sum_of_crcs(crcs), sum_of_crcs([crc for crc, _ in histograms])
    write_row(connection, StoreRow(conflicts, replaced_s, vm_id, raw_from_s, hours_sum, histograms_sum))
