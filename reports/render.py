"""A report as JSON and as CSV. Pure; docs/report.md describes both."""

from __future__ import annotations

import csv
import io
import json

from reports.candidates import Window
from reports.query import WINDOW_COLUMNS, Listed, Report
from reports.verdicts import Cause, Figure, Verdict
from reports.words import iso_time

# Spreadsheets run a cell that begins with one of these.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def to_json(report: Report) -> str:
    """One JSON object, a VM a line."""
    question, totals = report.question, report.totals
    limits = question.limits
    head = {
        "generated_at_s": question.now_s,
        "generated_at": iso_time(question.now_s),
        "policy": question.policy.name,
        "window_days": question.window_days,
        "limits": {
            "min_coverage_ratio": limits.min_coverage_ratio,
            "silent_after_s": limits.silent_after_s,
            "max_skew_s": limits.max_skew_s,
            "exclude_tags": list(limits.exclude_tags),
            "rules": [
                {"name": rule.column, "comparison": rule.comparison.value, "limit": rule.limit, "unit": rule.unit}
                for rule in question.policy.rules
            ],
        },
        "totals": {
            "vms": totals.vms,
            **{verdict.value: totals.of(verdict) for verdict in Verdict},
            "reclaimable_vcpus": totals.reclaimable_vcpus,
            "reclaimable_mem_bytes": totals.reclaimable_mem_bytes,
            "idle_of_unknown_size": totals.idle_of_unknown_size,
            "causes": {_cause_key(cause): count for cause, count in totals.by_cause.items() if count},
        },
        "listed": len(report.listed),
        "matching": report.matching,
    }
    lines = ",\n".join(json.dumps(_vm(listed)) for listed in report.listed)
    return f'{json.dumps(head)[:-1]}, "vms": [\n{lines}\n]}}\n'


def _cause_key(cause: Cause) -> str:
    return cause.name.lower()


def _vm(listed: Listed) -> dict[str, object]:
    candidate, judgement = listed.candidate, listed.judgement
    summary, window = candidate.summary, candidate.window
    return {
        "rank": listed.rank,
        "vm": candidate.vm_id,
        "name": candidate.name,
        "hostname": candidate.hostname,
        "owner": candidate.owner,
        "verdict": judgement.verdict.value,
        "cause": _cause_key(judgement.cause),
        "reason": judgement.reason,
        "figures": [_figure(figure) for figure in judgement.figures],
        "coverage_ratio": window.coverage_ratio if window else None,
        "newest_s": summary.newest_s if summary else None,
        "cpu_count": summary.cpu_count if summary else None,
        "mem_total_bytes": summary.mem_total_bytes if summary else None,
        "statistics": {name: value for name, value in _window_values(window).items() if value is not None},
    }


def _window_values(window: Window | None) -> dict[str, float | None]:
    if window is None:
        return {}
    return {"start_s": window.start_s, "end_s": window.end_s, "covered_s": window.covered_s, **window.statistics}


def _figure(figure: Figure) -> dict[str, object]:
    return {
        "name": figure.name,
        "value": figure.value,
        "limit": figure.limit,
        "unit": figure.unit,
        "comparison": figure.comparison.value,
        "ok": figure.ok,
    }


def to_csv(report: Report) -> str:
    """One row a VM under a header row that depends on the policy alone; absent figures are empty cells (RFC 4180)."""
    figure_names = [
        *(rule.column for rule in report.question.policy.rules),
        "coverage_ratio",
        "newest_age_s",
        "clock_skew_s",
    ]
    others = [name for name in ("start_s", "end_s", "covered_s", *WINDOW_COLUMNS) if name not in figure_names]
    buffer = io.StringIO()
    # The writer quotes a carriage return inside a cell only where lines end with one.
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(
        [
            *("rank", "vm", "name", "hostname", "owner", "verdict", "cause", "reason"),
            *(column for name in figure_names for column in (name, f"{name}_limit")),
            *("newest", "cpu_count", "mem_total_bytes"),
            *others,
        ]
    )
    for listed in report.listed:
        vm = _vm(listed)
        values = _window_values(listed.candidate.window)
        summary = listed.candidate.summary
        cells = [vm[name] for name in ("rank", "vm", "name", "hostname", "owner", "verdict", "cause", "reason")]
        for figure in listed.judgement.figures:
            cells += [figure.value, f"{figure.comparison.value} {figure.limit:g}"]
        cells += [iso_time(summary.newest_s) if summary else None, vm["cpu_count"], vm["mem_total_bytes"]]
        cells += [values.get(name) for name in others]
        writer.writerow([_safe_cell(cell) for cell in cells])
    return buffer.getvalue()


def _safe_cell(cell: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front; numbers are no formulas."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell
