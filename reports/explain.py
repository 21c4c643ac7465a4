"""From columns of verdicts to one VM's verdict with its evidence. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from aggregator.histogram import Floats
from reports.facts import Facts
from reports.judgement import SPARK_CELLS, Figure, Judgement, Savings, Size, Timetable, WindowLine
from reports.policy import All, Comparison, Either, Expression, Policy, Rule
from reports.reasons import ASKED, Grounds, reason
from reports.timetable import WEEK_HOURS
from reports.verdicts import Judged, Settings

# CPU above this means that a VM is awake; below it, it lives and no more.
AWAKE_RATIO = 0.02
SHOWN_DAYS = (1, 7, 14, 30)


def explain(
    facts: Facts,
    judged: Judged,
    policy: Policy,
    settings: Settings,
    *,
    now_s: float,
    kept: Mapping[str, str] | None = None,
) -> tuple[Judgement, ...]:
    """Every VM of the facts with its evidence, in their order.

    Args:
        judged: of `judge` with the same policy, settings and time.
        kept: exempt VMs by id, with who keeps them until when and why.
    """
    rules = policy.rules()
    values = {rule: rule.measure.values(facts, settings.window_days) for rule in rules}
    windows = _windows(facts)
    statistics = _statistics(facts, settings.window_days)
    _, profile = facts.evidence.profile()
    sparks = _sparks(profile)
    found = []
    for row, vm in enumerate(facts.vms):
        cause = judged.cause(row)
        measured = {rule: _known(values[rule][row]) for rule in rules}
        deciding = set(_deciding(policy.idle_when, measured)) if cause in ASKED else set()
        figures = (
            *(_figure(rule, measured[rule], settings, decides=rule in deciding) for rule in rules),
            *_data_figures(facts, row, settings, now_s),
        )
        size = _size(facts.cpu_count[row], facts.mem_total_bytes[row])
        proposal = _size(judged.sizes.vcpus[row], judged.sizes.mem_bytes[row]) if judged.sizes.oversized[row] else None
        timetable = None
        if judged.timetables.scheduled[row]:
            timetable = Timetable(
                off=tuple(judged.timetables.off[row].tolist()), provisional=bool(judged.timetables.provisional[row])
            )
        savings = _savings(judged, row, priced=settings.prices.currency is not None)
        newest_s, oldest_s = _known(facts.newest_s[row]), _known(facts.oldest_s[row])
        grounds = Grounds(
            vm=vm,
            cause=cause,
            figures=figures,
            size=size,
            proposal=proposal,
            timetable=timetable,
            newest_s=newest_s,
            oldest_s=oldest_s,
            kept=(kept or {}).get(vm.vm_id),
            now_s=now_s,
        )
        found.append(
            Judgement(
                vm=vm,
                cause=cause,
                reason=reason(grounds, settings),
                figures=figures,
                windows=windows[row],
                statistics=statistics[row],
                oldest_s=oldest_s,
                newest_s=newest_s,
                vcpus=_known(facts.cpu_count[row]),
                mem_total_bytes=_known(facts.mem_total_bytes[row]),
                disk_total_bytes=_known(facts.disk_total_bytes[row]),
                proposal=proposal,
                timetable=timetable,
                savings=savings,
                confidence_ratio=float(judged.confidence_ratio[row]),
                score=float(judged.score[row]),
                spark=sparks[row],
            )
        )
    return tuple(found)


def _deciding(expression: Expression, measured: Mapping[Rule, float | None]) -> Iterable[Rule]:
    """The rules that a verdict rests on: those of the first way that is kept, else those broken in the last way."""
    match expression:
        case Rule():
            # What was not measured and need not be has decided nothing.
            return () if expression.optional and measured[expression] is None else (expression,)
        case All(parts):
            broken = [part for part in parts if not _holds(part, measured)]
            return [rule for part in broken or parts for rule in _deciding(part, measured)]
        case Either(parts):
            kept = [part for part in parts if _holds(part, measured)]
            return _deciding(kept[0] if kept else parts[-1], measured)


def _holds(expression: Expression, measured: Mapping[Rule, float | None]) -> bool:
    match expression:
        case Rule():
            value = measured[expression]
            return expression.optional if value is None else expression.comparison.holds(value, expression.limit)
        case All(parts):
            return all(_holds(part, measured) for part in parts)
        case Either(parts):
            return any(_holds(part, measured) for part in parts)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _size(vcpus: float, mem_bytes: float) -> Size | None:
    if math.isnan(vcpus) or math.isnan(mem_bytes):
        return None
    return Size(vcpus=float(vcpus), mem_bytes=float(mem_bytes))


def _savings(judged: Judged, row: int, *, priced: bool) -> Savings:
    return Savings(
        vcpus=_known(judged.freed.vcpus[row]) or 0.0,
        mem_bytes=_known(judged.freed.mem_bytes[row]) or 0.0,
        disk_bytes=_known(judged.freed.disk_bytes[row]) or 0.0,
        kwh_per_month=float(judged.worth.kwh_per_month[row]),
        money_per_month=float(judged.worth.money_per_month[row]) if priced else None,
    )


def _sparks(profile: Floats) -> list[tuple[float | None, ...]]:
    """Args: profile: (n, 168). Returns: of each VM."""
    cells = profile.reshape(len(profile), SPARK_CELLS, WEEK_HOURS // SPARK_CELLS)
    known = ~np.isnan(cells)
    counts = known.sum(axis=2)
    means = np.where(known, cells, 0.0).sum(axis=2) / np.maximum(counts, 1)
    rows = np.where(counts > 0, means, np.nan).tolist()
    return [tuple(None if math.isnan(mean) else mean for mean in row) for row in rows]


def _windows(facts: Facts) -> list[tuple[WindowLine, ...]]:
    lines: list[list[WindowLine]] = [[] for _ in facts.vms]
    for days in SHOWN_DAYS:
        window = facts.windows.get(days)
        if window is None:
            continue
        columns = window.columns
        table = {
            "coverage_ratio": window.coverage_ratio,
            "cpu_mean_ratio": columns["cpu_busy_mean_ratio"],
            "cpu_p95_ratio": columns["cpu_busy_p95_ratio"],
            "cpu_max_ratio": columns["cpu_busy_max_ratio"],
            "mem_mean_ratio": columns["mem_used_mean_ratio"],
            "mem_max_ratio": columns["mem_used_max_ratio"],
            "disk_io_mean_bytes_per_s": columns["disk_io_mean_bytes_per_s"],
            "net_io_mean_bytes_per_s": columns["net_io_mean_bytes_per_s"],
            "awake_s": facts.evidence.seconds_above("cpu_busy", days, AWAKE_RATIO),
            "users_s": window.users_s,
        }
        for row in np.flatnonzero(~np.isnan(window.covered_s)):
            lines[row].append(WindowLine(days=days, **{name: _known(column[row]) for name, column in table.items()}))
    return [tuple(each) for each in lines]


def _statistics(facts: Facts, days: int) -> list[dict[str, float]]:
    """Of each VM, what is known."""
    window = facts.windows.get(days)
    if window is None:
        return [{} for _ in facts.vms]
    own = {name: getattr(window, name) for name in ("start_s", "end_s", "covered_s", "users_s")}
    columns: dict[str, Floats] = {**own, **window.columns}
    rows = np.stack([column.astype(np.float64) for column in columns.values()], axis=1).tolist()
    return [{name: value for name, value in zip(columns, row, strict=True) if not math.isnan(value)} for row in rows]


def _figure(rule: Rule, value: float | None, settings: Settings, *, decides: bool) -> Figure:
    return Figure(
        name=rule.measure.name,
        words=rule.measure.words,
        value=value,
        limit=rule.limit,
        unit=rule.measure.unit,
        comparison=rule.comparison,
        days=rule.measure.days or settings.window_days,
        optional=rule.optional,
        decides=decides,
    )


def _data_figures(facts: Facts, row: int, settings: Settings, now_s: float) -> tuple[Figure, ...]:
    limits = settings.limits
    window = facts.windows.get(settings.window_days)
    coverage = None if window is None else _known(window.coverage_ratio[row])
    newest_s, skew_s = _known(facts.newest_s[row]), _known(facts.skew_s[row])
    return (
        Figure(
            name="coverage",
            words="coverage",
            value=coverage,
            limit=limits.min_coverage_ratio,
            unit="ratio",
            comparison=Comparison.AT_LEAST,
            days=settings.window_days,
        ),
        Figure(
            name="newest_age_s",
            words="newest sample",
            value=None if newest_s is None else now_s - newest_s,
            limit=limits.silent_after_s,
            unit="s",
            comparison=Comparison.AT_MOST,
        ),
        Figure(
            name="clock_skew_s",
            words="clock off by",
            value=None if skew_s is None else abs(skew_s),
            limit=limits.max_skew_s,
            unit="s",
            comparison=Comparison.AT_MOST,
        ),
    )
