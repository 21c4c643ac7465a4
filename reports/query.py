"""The fleet database, read: which windows it holds, and one report out of one snapshot.

The rules of `reports.verdicts.judge` stand here a second time, as one SQL expression: the database counts,
filters and orders the whole fleet by it, and only the rows that are shown become values that Python judges
and explains. Works on SQLite and PostgreSQL.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from aggregator.fleet import vm as vms
from aggregator.fleet import vm_summary as summaries
from aggregator.fleet import vm_window as windows
from aggregator.fleet_db import reading
from aggregator.summary import WINDOWS_DAYS
from reports.candidates import DAY_S, Candidate, Summary, Window
from reports.policies import Comparison, Policy, Rule
from reports.verdicts import CLOCK_SKEW_FLAG, LATE_START_RATIO, Cause, Judgement, Limits, Verdict, judge

_WINDOW_KEYS = {"window_days", "vm_id", "start_s", "end_s", "covered_s"}
WINDOW_COLUMNS: tuple[str, ...] = tuple(c.name for c in windows.c if c.name not in _WINDOW_KEYS)

_TABLES = {"vm": vms, "summary": summaries, "window": windows}
_CAUSES = tuple(Cause)
_CODES: Mapping[Cause, int] = {cause: code for code, cause in enumerate(_CAUSES)}
_COLUMNS = tuple(c.label(f"{prefix}_{c.name}") for prefix, table in _TABLES.items() for c in table.c)
# The default of 2 MB reads the inner pages of the tables again and again: half the time of a report.
_SQLITE_CACHE_KIB = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the fleet.

    Args:
        window_days: one of `read_window_days`.
        now_s: time of the report, Unix seconds.
        verdict: list only VMs with this one; None lists all.
        top: list at most so many; None lists every one. Totals always count the whole fleet.
    """

    policy: Policy
    limits: Limits
    window_days: int
    now_s: float
    verdict: Verdict | None = Verdict.IDLE
    top: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The whole fleet in numbers, whatever is listed.

    Attributes:
        by_cause: VMs by cause; all causes are there, with 0 too.
        reclaimable_vcpus, reclaimable_mem_bytes: sizes of the idle VMs, as far as they are known.
        idle_of_unknown_size: idle VMs that lack one of the two.
    """

    by_cause: Mapping[Cause, int]
    reclaimable_vcpus: int
    reclaimable_mem_bytes: int
    idle_of_unknown_size: int

    @property
    def vms(self) -> int:
        return sum(self.by_cause.values())

    def of(self, verdict: Verdict) -> int:
        return sum(count for cause, count in self.by_cause.items() if cause.verdict is verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One VM of the report. `rank` counts the reclaimable ones from 1; other VMs have none."""

    rank: int | None
    candidate: Candidate
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answer. `listed`: by verdict, then reclaimable capacity (vCPU, memory) falling, use rising, id."""

    question: Question
    totals: Totals
    listed: tuple[Listed, ...]

    @property
    def matching(self) -> int:
        """VMs that would be listed without `top`."""
        verdict = self.question.verdict
        return self.totals.vms if verdict is None else self.totals.of(verdict)


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
    found: list[int] = []
    # DISTINCT would read every wide row; the next larger one is a step in the index.
    while (days := connection.scalar(_next_window(found[-1] if found else 0))) is not None:
        found.append(days)
    return tuple(found) or WINDOWS_DAYS


def _next_window(after_days: int) -> sa.Select[int]:
    return sa.select(sa.func.min(windows.c.window_days)).where(windows.c.window_days > after_days)


def read_report(connection: sa.Connection, question: Question) -> Report:
    """Counts, filters, orders and judges the VMs of the catalogue.

    Args: connection: of `snapshot`.
    """
    cause = cause_code(question, dialect_name=connection.dialect.name)
    totals = _read_totals(connection, question, cause)
    rows = connection.execute(_listing(question, cause))
    listed: list[Listed] = []
    rank = 0
    for row in rows.mappings():
        candidate = _candidate(row, question.window_days)
        judgement = judge(candidate, question.policy, question.limits, now_s=question.now_s)
        idle = judgement.verdict is Verdict.IDLE
        rank += idle
        listed.append(Listed(rank=rank if idle else None, candidate=candidate, judgement=judgement))
    return Report(question=question, totals=totals, listed=tuple(listed))


def cause_code(question: Question, *, dialect_name: str) -> sa.ColumnElement[int]:
    """The place in `Cause` that `judge` would give to a row of `joined`."""
    limits, policy = question.limits, question.policy
    length_s = windows.c.end_s - windows.c.start_s
    coverage_ratio = sa.case((length_s > 0, sa.cast(windows.c.covered_s, sa.Double) / length_s), else_=0.0)
    late_s = LATE_START_RATIO * question.window_days * DAY_S
    too_new = summaries.c.oldest_s - windows.c.start_s > late_s
    tests: tuple[tuple[sa.ColumnElement[bool], int | sa.ColumnElement[int]], ...] = (
        (_has_tag(limits.exclude_tags, dialect_name), _CODES[Cause.TAGGED]),
        (vms.c.power_state == "off", _CODES[Cause.POWERED_OFF]),
        (
            summaries.c.vm_id.is_(None),
            sa.case((vms.c.enrolled_s.is_(None), _CODES[Cause.NO_AGENT]), else_=_CODES[Cause.NEVER_REPORTED]),
        ),
        (summaries.c.newest_s < question.now_s - limits.silent_after_s, _CODES[Cause.SILENT]),
        (sa.func.abs(summaries.c.skew_s) > limits.max_skew_s, _CODES[Cause.CLOCK_SKEW]),
        (
            summaries.c.flags != "[]",
            sa.case(
                (summaries.c.flags.contains(f'"{CLOCK_SKEW_FLAG}"', autoescape=True), _CODES[Cause.CLOCK_SKEW]),
                else_=_CODES[Cause.FLAGGED],
            ),
        ),
        (windows.c.vm_id.is_(None), _CODES[Cause.NO_WINDOW]),
        (
            coverage_ratio < limits.min_coverage_ratio,
            sa.case((too_new, _CODES[Cause.TOO_NEW]), else_=_CODES[Cause.GAPS]),
        ),
        # Before the missing ones, unlike in Python: a rule on NULL does not hold, so the answer is the same.
        (_keeps_all(policy), _CODES[Cause.IDLE]),
        (sa.or_(*(windows.c[rule.column].is_(None) for rule in policy.rules)), _CODES[Cause.MISSING_FIGURE]),
    )
    return sa.case(*tests, else_=_CODES[Cause.ACTIVE])


def joined(window_days: int) -> sa.FromClause:
    """Every VM of the catalogue, beside its summary and its window where it has them."""
    in_window = sa.and_(windows.c.vm_id == vms.c.vm_id, windows.c.window_days == window_days)
    return vms.outerjoin(summaries, summaries.c.vm_id == vms.c.vm_id).outerjoin(windows, in_window)


def _has_tag(tags: Sequence[str], dialect_name: str) -> sa.ColumnElement[bool]:
    if not tags:
        return sa.false()
    if dialect_name == "sqlite":
        each = sa.func.json_each(vms.c.tags).table_valued("value")
    else:
        each = sa.func.jsonb_array_elements_text(sa.cast(vms.c.tags, JSONB)).table_valued("value")
    found = sa.exists(sa.select(sa.literal(1)).select_from(each).where(each.c.value.in_(tags)))
    # Most VMs have no tags, and a comparison of texts is quicker than opening a list.
    return sa.and_(vms.c.tags != "[]", found)


def _keeps_all(policy: Policy) -> sa.ColumnElement[bool]:
    return sa.and_(*(_keeps(rule) for rule in policy.rules))


def _keeps(rule: Rule) -> sa.ColumnElement[bool]:
    column = windows.c[rule.column]
    match rule.comparison:
        case Comparison.AT_MOST:
            return column <= rule.limit
        case Comparison.BELOW:
            return column < rule.limit
        case Comparison.AT_LEAST:
            return column >= rule.limit


def _read_totals(connection: sa.Connection, question: Question, cause: sa.ColumnElement[int]) -> Totals:
    judged = (
        sa.select(cause.label("cause"), summaries.c.cpu_count, summaries.c.mem_total_bytes)
        .select_from(joined(question.window_days))
        # Keeps both databases from merging the two levels, which would work out the cause once a count.
        .offset(0)
        .subquery()
    )
    idle = judged.c.cause == _CODES[Cause.IDLE]
    unknown = sa.or_(judged.c.cpu_count.is_(None), judged.c.mem_total_bytes.is_(None))
    row = connection.execute(
        sa.select(
            sa.func.sum(judged.c.cpu_count).filter(idle),
            sa.func.sum(judged.c.mem_total_bytes).filter(idle),
            sa.func.count().filter(idle, unknown),
            *(sa.func.count().filter(judged.c.cause == code) for code in _CODES.values()),
        )
    ).one()
    vcpus, mem_bytes, unknown_size, *counts = row
    return Totals(
        by_cause=dict(zip(_CAUSES, counts, strict=True)),
        reclaimable_vcpus=int(vcpus or 0),
        reclaimable_mem_bytes=int(mem_bytes or 0),
        idle_of_unknown_size=unknown_size,
    )


def _listing(question: Question, cause: sa.ColumnElement[int]) -> sa.Select[Any]:
    source = joined(question.window_days)
    verdict_place = sa.case(
        *(
            (cause.in_([_CODES[c] for c in _CAUSES if c.verdict is verdict]), place)
            for place, verdict in enumerate(Verdict)
        )
    )
    order: tuple[sa.ColumnElement[Any], ...] = (
        summaries.c.cpu_count.desc().nulls_last(),
        summaries.c.mem_total_bytes.desc().nulls_last(),
        windows.c[question.policy.rules[0].column].asc().nulls_last(),
        vms.c.vm_id,
    )
    wanted: list[sa.ColumnElement[bool]] = []
    if question.verdict is None:
        order = (verdict_place, *order)
    else:
        wanted.append(cause.in_([_CODES[c] for c in _CAUSES if c.verdict is question.verdict]))
    if question.verdict is Verdict.IDLE:
        # Part of the cause already; said apart, it spares the joins for every row that is in use.
        wanted.append(_keeps_all(question.policy))
    if question.top is not None:
        # Narrow rows are ordered and cut first: the wide ones are read for those alone that are shown.
        chosen = sa.select(vms.c.vm_id).select_from(source).where(*wanted).order_by(*order).limit(question.top)
        wanted = [vms.c.vm_id.in_(chosen)]
    return sa.select(*_COLUMNS).select_from(source).where(*wanted).order_by(*order)


def _candidate(row: sa.RowMapping, window_days: int) -> Candidate:
    summary = window = None
    if row["summary_vm_id"] is not None:
        summary = Summary(
            oldest_s=row["summary_oldest_s"],
            newest_s=row["summary_newest_s"],
            skew_s=row["summary_skew_s"],
            flags=tuple(json.loads(row["summary_flags"])),
            cpu_count=row["summary_cpu_count"],
            mem_total_bytes=row["summary_mem_total_bytes"],
        )
    if row["window_vm_id"] is not None:
        window = Window(
            days=window_days,
            start_s=row["window_start_s"],
            end_s=row["window_end_s"],
            covered_s=row["window_covered_s"],
            statistics={name: row[f"window_{name}"] for name in WINDOW_COLUMNS},
        )
    return Candidate(
        vm_id=row["vm_vm_id"],
        name=row["vm_name"],
        hostname=row["vm_hostname"],
        owner=row["vm_owner"],
        tags=tuple(json.loads(row["vm_tags"])),
        power_state=row["vm_power_state"],
        enrolled_s=row["vm_enrolled_s"],
        summary=summary,
        window=window,
    )
