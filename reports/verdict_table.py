"""The stored verdicts: how a run writes them, and a page of them for a report. SQLite and PostgreSQL.

Every page is read from one scope, which lies together on disk; the ranked list is a stretch of an index. Texts stand in
the order of the database: by code points in SQLite, by its own locale in PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from aggregator.histogram import Floats
from reports.facts import Facts
from reports.ranking import Page, cpu_mean, groups, is_falling, name_of, search_text, wanted_verdicts
from reports.report import Question, Sort, Totals
from reports.schema import has_report_tables
from reports.tables import judging, verdict
from reports.tally import decode_totals, encode_totals
from reports.verdicts import Judged, Settings

_NEVER_S = 0.0
_SORTS = {
    Sort.SCORE: verdict.c.score,
    Sort.VCPUS: verdict.c.vcpus,
    Sort.MEMORY: verdict.c.mem_bytes,
    Sort.DISK: verdict.c.disk_bytes,
    Sort.MONEY: verdict.c.money_per_month,
    Sort.ENERGY: verdict.c.energy_kwh_per_month,
    Sort.CONFIDENCE: verdict.c.confidence_ratio,
    Sort.CPU: verdict.c.cpu_mean_ratio,
    Sort.NAME: verdict.c.name,
    Sort.OWNER: verdict.c.owner,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One judging of a whole fleet.

    Attributes:
        scope: policy and window; the verdicts of one run are kept for each.
        settings_sha256: of all that verdicts depend on but the data.
        judged_s: time against which silence was measured, Unix seconds.
    """

    scope: str
    settings_sha256: str
    judged_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A run that ended. While a newer one is under way, single verdicts are already of that one."""

    run: Run
    totals: Totals


class RunClash(Exception):
    """Another run wrote to the same scope, with other settings or newer: this one has to end."""


def begin_run(connection: sa.Connection, run: Run) -> None:
    """Claims the scope: verdicts that were stored with other settings are of no use from now on.

    Nor are those of a later time than this run's: the clock was set back since.
    """
    _lock(connection)
    current = _current(connection, run.scope)
    if current is not None and current.settings_sha256 == run.settings_sha256 and current.judged_s <= run.judged_s:
        return
    connection.execute(sa.delete(judging).where(judging.c.scope == run.scope))
    never = {"judged_s": _NEVER_S, "began_s": run.judged_s, "vms": 0, "totals": "{}"}
    connection.execute(sa.insert(judging).values(scope=run.scope, settings_sha256=run.settings_sha256, **never))


def replace_verdicts(
    connection: sa.Connection, run: Run, facts: Facts, judged: Judged, settings: Settings, *, after: str, last: str
) -> None:
    """Stores the verdicts on all VMs whose ids lie behind `after`, up to `last`; those of VMs that are gone, go.

    Raises: RunClash: nothing was written.
    """
    _lock(connection)
    _check(connection, run)
    inside = sa.and_(verdict.c.scope == run.scope, verdict.c.vm_id > after, verdict.c.vm_id <= last)
    connection.execute(sa.delete(verdict).where(inside))
    connection.execute(sa.insert(verdict), _rows(run, facts, judged, settings))


def end_run(connection: sa.Connection, run: Run, totals: Totals, *, after: str) -> None:
    """Makes the run the one that reports read; verdicts on VMs whose ids lie behind `after` go.

    Raises: RunClash: nothing was written.
    """
    _lock(connection)
    _check(connection, run)
    connection.execute(sa.delete(verdict).where(verdict.c.scope == run.scope, verdict.c.vm_id > after))
    connection.execute(
        sa.update(judging)
        .where(judging.c.scope == run.scope)
        .values(judged_s=run.judged_s, began_s=run.judged_s, vms=totals.vms, totals=encode_totals(totals))
    )


def _lock(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        # SQLite has its write lock by now; here two runs would both store the same VM and fail.
        connection.exec_driver_sql("LOCK TABLE verdict IN SHARE ROW EXCLUSIVE MODE")


def _check(connection: sa.Connection, run: Run) -> None:
    current = _current(connection, run.scope)
    if current is None or current.settings_sha256 != run.settings_sha256:
        raise RunClash(f"{run.scope}: is being judged with other settings at the same time")
    if current.judged_s > run.judged_s:
        raise RunClash(f"{run.scope}: was judged by a newer run meanwhile")


def _current(connection: sa.Connection, scope: str) -> Run | None:
    """The run that has the scope; `judged_s` of the last that ended."""
    columns = (judging.c.scope, judging.c.settings_sha256, judging.c.judged_s)
    row = connection.execute(sa.select(*columns).where(judging.c.scope == scope)).first()
    return None if row is None else Run(**row._mapping)


def _rows(run: Run, facts: Facts, judged: Judged, settings: Settings) -> list[dict[str, object]]:
    days = settings.window_days
    priced = settings.prices.currency is not None
    nothing = np.full(len(facts), np.nan)
    columns: dict[str, Floats] = {
        "score": judged.score,
        "confidence_ratio": judged.confidence_ratio,
        "vcpus": judged.freed.vcpus,
        "mem_bytes": judged.freed.mem_bytes,
        "disk_bytes": judged.freed.disk_bytes,
        "energy_kwh_per_month": judged.worth.kwh_per_month,
        "money_per_month": judged.worth.money_per_month if priced else nothing,
        "hours_per_week": np.where(judged.timetables.scheduled, judged.timetables.off_h_per_week, np.nan),
        "cpu_mean_ratio": cpu_mean(facts, days),
        "cpu_p95_ratio": facts.column(days, "cpu_busy_p95_ratio"),
        "mem_mean_ratio": facts.column(days, "mem_used_mean_ratio"),
        "net_mean_bytes_per_s": facts.column(days, "net_io_mean_bytes_per_s"),
    }
    table = np.column_stack(list(columns.values()))
    cells = table.astype(object)
    cells[np.isnan(table)] = None
    names = tuple(columns)
    found = []
    for row, (vm, values) in enumerate(zip(facts.vms, cells.tolist(), strict=True)):
        cause = judged.cause(row)
        found.append(
            {
                "scope": run.scope,
                "vm_id": vm.vm_id,
                "cause": cause.name,
                "verdict": cause.verdict.value,
                "judged_s": run.judged_s,
                "name": name_of(vm),
                "owner": vm.owner,
                "search": search_text(vm),
                **dict(zip(names, values, strict=True)),
            }
        )
    return found


def read_stored(connection: sa.Connection, scope: str, settings_sha256: str) -> Stored | None:
    """The last run of these very settings that ended; None where there is none.

    Raises: ConfigError: the report's tables are those of another version.
    """
    if not has_report_tables(connection):
        return None
    row = connection.execute(sa.select(judging.c.judged_s, judging.c.totals).where(_of(scope, settings_sha256))).first()
    if row is None or row.judged_s <= _NEVER_S:
        return None
    try:
        totals = decode_totals(row.totals)
    except ValueError:
        return None
    return Stored(run=Run(scope=scope, settings_sha256=settings_sha256, judged_s=row.judged_s), totals=totals)


def _of(scope: str, settings_sha256: str) -> sa.ColumnElement[bool]:
    return sa.and_(judging.c.scope == scope, judging.c.settings_sha256 == settings_sha256)


def read_page(connection: sa.Connection, stored: Stored, question: Question) -> Page:
    """The VMs that a question lists, in its order: the same as `reports.ranking.rank` of the same verdicts."""
    scope = stored.run.scope
    filters = _filters(connection, question)
    if filters is None:
        return Page((), 0)
    wanted = wanted_verdicts(question)
    if filters:
        among = [verdict.c.scope == scope, verdict.c.verdict.in_([each.value for each in wanted]), *filters]
        matching = connection.scalar(sa.select(sa.func.count()).select_from(verdict).where(*among)) or 0
    else:
        matching = sum(stored.totals.of(each) for each in wanted)
    rows = connection.execute(_listing(scope, question, filters))
    return Page(tuple(row[0] for row in rows), matching)


def _filters(connection: sa.Connection, question: Question) -> list[sa.ColumnElement[bool]] | None:
    """What narrows the list beside the verdict; None where no VM can fit."""
    found: list[sa.ColumnElement[bool]] = []
    for text in (question.owner, question.search):
        if text and not _is_storable(text):
            return None
    if question.owner is not None:
        found.append(verdict.c.owner == question.owner)
    if question.search:
        # Not LIKE: no character has a meaning of its own, and SQLite finds a text faster than a pattern.
        find = sa.func.instr if connection.dialect.name == "sqlite" else sa.func.strpos
        found.append(find(verdict.c.search, question.search.casefold()) > 0)
    return found


def _is_storable(text: str) -> bool:
    """Whether a database may hold it at all: drivers refuse to be asked for anything else."""
    return "\0" not in text and not any(0xD800 <= ord(character) <= 0xDFFF for character in text)


def _listing(scope: str, question: Question, filters: list[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    verdicts = wanted_verdicts(question)
    falls = is_falling(question)
    column = _SORTS[question.sort]
    picked = sa.select(verdict.c.vm_id, verdict.c.verdict, column.label("value"))
    picked = picked.where(verdict.c.scope == scope, *filters)
    if question.sort is Sort.SCORE and falls and question.top is not None and not filters:
        # The first of each verdict are a stretch of the index: merging a few stretches beats ordering the fleet.
        first = picked.order_by(verdict.c.score.desc(), verdict.c.vm_id).limit(question.offset + question.top)
        stretches = (first.where(verdict.c.verdict == each.value).subquery() for each in verdicts)
        found = sa.union_all(*(sa.select(stretch) for stretch in stretches)).subquery()
    else:
        found = picked.where(verdict.c.verdict.in_([each.value for each in verdicts])).subquery()
    order: list[sa.ColumnElement[Any]] = [found.c.value.desc() if falls else found.c.value.asc(), found.c.vm_id]
    if column.nullable:
        order[0] = order[0].nulls_last()
    places = groups(question)
    if len({places[each] for each in verdicts}) > 1:
        order.insert(0, sa.case({each.value: places[each] for each in verdicts}, value=found.c.verdict))
    return sa.select(found.c.vm_id).order_by(*order).limit(question.top).offset(question.offset or None)
