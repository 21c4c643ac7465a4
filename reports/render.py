"""A report as JSON and as CSV. Pure; docs/report.md describes both, reports/report.schema.json the first."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, fields

from aggregator.summary import STATISTIC_COLUMNS
from reports.judgement import Figure, Judgement, Savings, Size, Timetable, WindowLine
from reports.policy import Policy
from reports.report import RECLAIMABLE, Changes, Listed, Report
from reports.savings_words import KnownSavings, known_savings
from reports.verdicts import Cause, Verdict
from reports.words import iso_time

# Spreadsheets run a cell that begins with one of these.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
_SECONDS = ("start_s", "end_s", "covered_s", "users_s")
_STATISTICS = (*_SECONDS, *STATISTIC_COLUMNS)
# Not by `asdict`, which copies each figure deeply and takes as long as all else of a list.
_WINDOW_LINE = tuple(field.name for field in fields(WindowLine))


def to_json(report: Report) -> str:
    """One JSON object, a VM a line."""
    lines = ",\n".join(json.dumps(vm_object(listed)) for listed in report.listed)
    return f'{json.dumps(head_object(report))[:-1]}, "vms": [\n{lines}\n]}}\n'


def head_object(report: Report) -> dict[str, object]:
    """Everything of a report but its VMs."""
    question, totals = report.question, report.totals
    limits = question.settings.limits
    return {
        "generated_at_s": question.now_s,
        "generated_at": iso_time(question.now_s),
        "judged_at_s": report.judged_s,
        "policy": question.policy.name,
        "window_days": question.settings.window_days,
        "list": {
            "verdict": None if question.verdict is None else question.verdict.value,
            "reclaimable": question.reclaimable and question.verdict is None,
            "search": question.search,
            "owner": question.owner,
            "sort": question.sort.value,
            "ascending": question.ascending,
            "offset": question.offset,
            "top": question.top,
        },
        "currency": question.settings.prices.currency,
        "limits": {
            "min_coverage_ratio": limits.min_coverage_ratio,
            "silent_after_s": limits.silent_after_s,
            "max_skew_s": limits.max_skew_s,
            "exclude_tags": list(limits.exclude_tags),
            "sizing": asdict(question.settings.sizing),
            "timetable": asdict(question.settings.timetable),
            "rules": rule_objects(question.policy, question.settings.window_days),
        },
        "totals": {
            "vms": totals.vms,
            **{verdict.value: totals.of(verdict) for verdict in Verdict},
            "reclaimable": savings_object(totals.freed_together),
            "freed": {verdict.value: savings_object(totals.freed[verdict]) for verdict in RECLAIMABLE},
            "unknown_size": totals.unknown_size,
            "causes": {cause_key(cause): count for cause, count in totals.by_cause.items() if count},
        },
        "changes": None if report.changes is None else changes_object(report.changes),
        "listed": len(report.listed),
        "matching": report.matching,
    }


def rule_objects(policy: Policy, asked_days: int) -> list[dict[str, object]]:
    """The rules of a policy, in their order; how they are joined stands in its summary alone."""
    return [
        {
            "name": rule.measure.name,
            "comparison": rule.comparison.value,
            "limit": rule.limit,
            "unit": rule.measure.unit,
            "days": rule.measure.days or asked_days,
            "optional": rule.optional,
        }
        for rule in policy.rules()
    ]


def cause_key(cause: Cause) -> str:
    """The cause as programs read it, such as `too_new`."""
    return cause.name.lower()


def savings_object(savings: Savings | KnownSavings) -> dict[str, object]:
    """What is given back."""
    return {
        "vcpus": _whole(savings.vcpus),
        "mem_bytes": _whole(savings.mem_bytes),
        "disk_bytes": _whole(savings.disk_bytes),
        "kwh_per_month": savings.kwh_per_month,
        "money_per_month": savings.money_per_month,
    }


def changes_object(changes: Changes) -> dict[str, object]:
    """What happened since an earlier report."""
    return {
        "since_s": changes.since_s,
        "reclaimed": changes.reclaimed,
        "kept": changes.kept,
        "objected": changes.objected,
        "returned": changes.returned,
        "realised": savings_object(changes.realised),
    }


def vm_object(listed: Listed) -> dict[str, object]:
    """One VM of a list."""
    return {"rank": listed.rank, **judgement_object(listed.judgement)}


def judgement_object(judgement: Judgement) -> dict[str, object]:
    """A verdict with its evidence."""
    vm = judgement.vm
    return {
        "vm": vm.vm_id,
        "name": vm.name,
        "hostname": vm.hostname,
        "owner": vm.owner,
        "tags": list(vm.tags),
        "verdict": judgement.verdict.value,
        "cause": cause_key(judgement.cause),
        "reason": judgement.reason,
        "confidence_ratio": judgement.confidence_ratio,
        "score": judgement.score,
        "savings": savings_object(known_savings(judgement)),
        "proposal": size_object(judgement.proposal),
        "timetable": timetable_object(judgement.timetable),
        "figures": [figure_object(figure) for figure in judgement.figures],
        "coverage_ratio": judgement.figure("coverage").value,
        "oldest_s": _whole(judgement.oldest_s),
        "newest_s": _whole(judgement.newest_s),
        "cpu_count": _whole(judgement.vcpus),
        "mem_total_bytes": _whole(judgement.mem_total_bytes),
        "disk_total_bytes": _whole(judgement.disk_total_bytes),
        "windows": [{name: getattr(line, name) for name in _WINDOW_LINE} for line in judgement.windows],
        "week_cpu_ratio": list(judgement.spark),
        "statistics": {name: _statistic(judgement, name) for name in judgement.statistics},
    }


def _statistic(judgement: Judgement, name: str) -> float | None:
    value = judgement.statistics.get(name)
    return _whole(value) if name in _SECONDS else value


def _whole(value: float | None) -> float | None:
    """Seconds, bytes and vCPUs without a point behind them."""
    return int(value) if value is not None and float(value).is_integer() else value


def size_object(size: Size | None) -> dict[str, object] | None:
    """vCPUs and memory."""
    return None if size is None else {"vcpus": _whole(size.vcpus), "mem_bytes": _whole(size.mem_bytes)}


def timetable_object(timetable: Timetable | None) -> dict[str, object] | None:
    """Hours of the week, Monday 00:00 UTC first, in which the VM could be off."""
    if timetable is None:
        return None
    return {
        "off_h_per_week": timetable.off_h_per_week,
        "provisional": timetable.provisional,
        "off": [{"from_h": start, "until_h": end} for start, end in timetable.ranges()],
    }


def figure_object(figure: Figure) -> dict[str, object]:
    """A number beside its limit."""
    return {
        "name": figure.name,
        "words": figure.words,
        "value": figure.value,
        "limit": figure.limit,
        "unit": figure.unit,
        "comparison": figure.comparison.value,
        "days": figure.days,
        "optional": figure.optional,
        "decides": figure.decides,
        "ok": figure.ok,
    }


def to_csv(report: Report) -> str:
    """One row a VM under a header row that depends on the policy alone; absent figures are empty cells (RFC 4180)."""
    names = [rule.measure.name for rule in report.question.policy.rules()]
    names += ["coverage", "newest_age_s", "clock_skew_s"]
    # One figure may have several limits, as in `or`: they are told apart by a number.
    names = [
        name if name not in names[:at] else f"{name}#{names[: at + 1].count(name)}" for at, name in enumerate(names)
    ]
    header = [
        *("rank", "vm", "name", "hostname", "owner", "tags", "verdict", "cause", "reason", "confidence_ratio", "score"),
        *("freed_vcpus", "freed_mem_bytes", "freed_disk_bytes", "kwh_per_month", "money_per_month"),
        *("proposed_vcpus", "proposed_mem_bytes", "off_h_per_week"),
        *(column for name in names for column in (name, f"{name}_limit")),
        *("newest", "cpu_count", "mem_total_bytes", "disk_total_bytes", *_STATISTICS),
    ]
    return csv_text(header, (_cells(listed) for listed in report.listed))


def _cells(listed: Listed) -> list[object]:
    judgement = listed.judgement
    vm, proposal = judgement.vm, judgement.proposal
    return [
        *(listed.rank, vm.vm_id, vm.name, vm.hostname, vm.owner, ";".join(vm.tags)),
        *(judgement.verdict.value, cause_key(judgement.cause), judgement.reason),
        *(judgement.confidence_ratio, judgement.score),
        *savings_object(known_savings(judgement)).values(),
        *((_whole(proposal.vcpus), _whole(proposal.mem_bytes)) if proposal else (None, None)),
        judgement.timetable.off_h_per_week if judgement.timetable else None,
        *(
            cell
            for figure in judgement.figures
            for cell in (figure.value, f"{figure.comparison.value} {_whole(figure.limit)!r}")
        ),
        iso_time(judgement.newest_s) if judgement.newest_s is not None else None,
        *(_whole(judgement.vcpus), _whole(judgement.mem_total_bytes)),
        _whole(judgement.disk_total_bytes),
        *(_statistic(judgement, name) for name in _STATISTICS),
    ]


def csv_text(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table as RFC 4180 has it, safe to open in a spreadsheet; None is an empty cell."""
    buffer = io.StringIO()
    # The writer quotes a carriage return inside a cell only where lines end with one.
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(list(header))
    for row in rows:
        writer.writerow([_safe_cell(cell) for cell in row])
    return buffer.getvalue()


def _safe_cell(cell: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front; numbers are no formulas."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
