"""The fleet database, read into `Facts`: all of it in chunks, or the VMs that are asked for. SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import sqlalchemy as sa

from aggregator.evidence import Evidence
from aggregator.fleet import vm as vms
from aggregator.fleet import vm_evidence as evidence
from aggregator.fleet import vm_part as parts
from aggregator.fleet import vm_summary as summaries
from aggregator.fleet import vm_window as windows
from aggregator.fleet_db import reading
from aggregator.histogram import Floats, Ints
from aggregator.summary import STATISTIC_COLUMNS, WINDOWS_DAYS
from reports.facts import Facts, Vm, WindowFacts
from reports.node_rows import read_parts
from reports.nodes import HISTORY_SPLIT_FLAG
from reports.policy import Bools

# VMs at a time: few enough for memory, enough for numpy.
CHUNK_VMS = 2_000
# The default of 2 MB reads the inner pages of the tables again and again: half the time of a report.
_SQLITE_CACHE_KIB = 64 * 1024
_VM = (
    vms.c.vm_id,
    vms.c.name,
    vms.c.hostname,
    vms.c.owner,
    vms.c.mail,
    vms.c.tags,
    vms.c.power_state,
    vms.c.enrolled_s,
)
_SUMMARY = ("oldest_s", "newest_s", "skew_s", "cpu_count", "mem_total_bytes", "disk_total_bytes")
_WINDOW = ("start_s", "end_s", "covered_s", "users_s")


class FleetDamaged(Exception):
    """A row of the fleet database that no aggregator wrote; the text names the VM and the column."""


Wanted = Callable[[sa.Column[str]], sa.ColumnElement[bool]]


@contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection on which every query sees the fleet at one moment, so that totals and list agree."""
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql(f"PRAGMA cache_size = -{_SQLITE_CACHE_KIB}")
            yield connection
        else:
            yield connection.execution_options(isolation_level="REPEATABLE READ")


def read_window_days(connection: sa.Connection) -> tuple[int, ...]:
    """Windows that the summaries hold, in days, rising; the usual ones while there are no summaries."""
    return tuple(connection.scalars(_WINDOWS_HELD)) or WINDOWS_DAYS


def _windows_held() -> sa.Select[int]:
    """DISTINCT would read every wide row; here each next larger one is a step in the index."""
    step = sa.select(sa.func.min(windows.c.window_days).label("days")).cte("step", recursive=True)
    larger = sa.select(sa.func.min(windows.c.window_days)).where(windows.c.window_days > step.c.days)
    step = step.union_all(sa.select(larger.scalar_subquery()).where(step.c.days.is_not(None)))
    return sa.select(step.c.days).where(step.c.days.is_not(None)).order_by(step.c.days)


_WINDOWS_HELD = _windows_held()


def read_facts(
    connection: sa.Connection,
    days: Iterable[int],
    *,
    columns: Mapping[int, Collection[str]] | None = None,
    vm_ids: Sequence[str] | None = None,
    with_evidence: bool = True,
) -> Iterator[Facts]:
    """Facts of the catalogue's VMs, by id, in chunks.

    Args:
        connection: of `snapshot`.
        days: the windows to read; one that the aggregator does not keep is left out.
        columns: window -> the statistics to read of it, which spares time; of a window that is not in it, all.
        vm_ids: only these; None is the whole fleet. An unknown id is left out.
        with_evidence: without it no histogram, profile or daily traffic is known.

    Raises: FleetDamaged.  sqlalchemy.exc.DBAPIError.
    """
    known = read_window_days(connection)
    wanted = columns or {}
    kept = {
        each: tuple(name for name in STATISTIC_COLUMNS if name in wanted.get(each, STATISTIC_COLUMNS))
        for each in sorted(set(days))
        if each in known
    }
    if vm_ids is not None:
        for start in range(0, len(vm_ids), CHUNK_VMS):
            found = _read_chunk(connection, _one_of(vm_ids[start : start + CHUNK_VMS]), kept, with_evidence)
            if len(found):
                yield found
        return
    after = ""
    while last := _last_of_chunk(connection, after):
        yield _read_chunk(connection, _between(after, last), kept, with_evidence)
        after = last


def _one_of(vm_ids: Sequence[str]) -> Wanted:
    return lambda column: column.in_(sorted(set(vm_ids)))


def _between(after: str, last: str) -> Wanted:
    return lambda column: sa.and_(column > after, column <= last)


def _last_of_chunk(connection: sa.Connection, after: str) -> str | None:
    chunk = sa.select(vms.c.vm_id).where(vms.c.vm_id > after).order_by(vms.c.vm_id).limit(CHUNK_VMS).subquery()
    last: str | None = connection.scalar(sa.select(sa.func.max(chunk.c.vm_id)))
    return last


def _read_chunk(
    connection: sa.Connection,
    wanted: Wanted,
    columns: Mapping[int, Sequence[str]],
    with_evidence: bool,
) -> Facts:
    rows = connection.execute(sa.select(*_VM).where(wanted(vms.c.vm_id)).order_by(vms.c.vm_id)).all()
    place = {row[0]: number for number, row in enumerate(rows)}
    size = len(rows)
    flags: list[tuple[str, ...]] = [()] * size
    summary = np.full((size, len(_SUMMARY)), np.nan)
    query = sa.select(summaries.c.vm_id, summaries.c.flags, *(summaries.c[name] for name in _SUMMARY))
    vm_ids, texts, *values = _in_columns(connection.execute(query.where(wanted(summaries.c.vm_id))), 2 + len(_SUMMARY))
    known, places = _places(vm_ids, place)
    for index, column in enumerate(values):
        summary[places, index] = np.array(column, np.float64)[known]
    for vm_id, text in zip(vm_ids, texts, strict=True):
        if text != "[]" and vm_id in place:
            flags[place[vm_id]] = _texts(text, f"flags of {vm_id}")
    elsewhere = read_parts(connection, wanted(parts.c.vm_id))
    for vm_id in elsewhere.keys() & place.keys():
        flags[place[vm_id]] += (HISTORY_SPLIT_FLAG,)
    bodies: list[bytes | None] = [None] * size
    if with_evidence:
        bodies_query = sa.select(evidence.c.vm_id, evidence.c.body).where(wanted(evidence.c.vm_id))
        for vm_id, body in connection.execute(bodies_query).all():
            if (at := place.get(vm_id)) is not None:
                bodies[at] = body
    return Facts(
        vms=[
            Vm(
                vm_id=row[0],
                name=row[1],
                hostname=row[2],
                owner=row[3],
                mail=row[4],
                tags=() if row[5] == "[]" else _texts(row[5], f"tags of {row[0]}"),
                power_state=row[6],
                enrolled_s=row[7],
                flags=flags[number],
                parts=elsewhere.get(row[0], ()),
            )
            for number, row in enumerate(rows)
        ],
        **{name: summary[:, index] for index, name in enumerate(_SUMMARY)},
        windows={each: _read_window(connection, wanted, place, each, names) for each, names in columns.items()},
        evidence=Evidence.decode(bodies),
    )


def _texts(text: str, where: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise FleetDamaged(f"{where}: {text!r} is not a JSON list of texts")
    return tuple(found)


def _in_columns(rows: sa.Result[Any], width: int) -> list[tuple[Any, ...]]:
    """The columns of an answer: a whole column becomes an array at once, and row by row costs twice as much."""
    return list(zip(*rows.all(), strict=True)) or [()] * width


def _places(vm_ids: Sequence[str], place: Mapping[str, int]) -> tuple[Bools, Ints]:
    """Which of these VMs the chunk has, and where those are: a row may have come since the chunk's VMs were read."""
    found = np.array([place.get(vm_id, -1) for vm_id in vm_ids], np.int64)
    return found >= 0, found[found >= 0]


def _read_window(
    connection: sa.Connection, wanted: Wanted, place: dict[str, int], days: int, names: Sequence[str]
) -> WindowFacts:
    read = (*_WINDOW, *names)
    table = np.full((len(place), len(read)), np.nan)
    query = sa.select(windows.c.vm_id, *(windows.c[name] for name in read))
    rows = connection.execute(query.where(windows.c.window_days == days, wanted(windows.c.vm_id)))
    vm_ids, *values = _in_columns(rows, 1 + len(read))
    known, places = _places(vm_ids, place)
    for index, column in enumerate(values):
        table[places, index] = np.array(column, np.float64)[known]
    columns: dict[str, Floats] = {name: table[:, index] for index, name in enumerate(read)}
    return WindowFacts(
        start_s=columns["start_s"],
        end_s=columns["end_s"],
        covered_s=columns["covered_s"],
        users_s=columns["users_s"],
        columns={name: columns[name] for name in names},
    )
