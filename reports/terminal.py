"""A report as text for people: a table and its totals, through rich."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.policies import Comparison, Policy
from reports.query import Listed, Report
from reports.verdicts import Cause, Figure, Verdict
from reports.words import NOT_MEASURED, gib, number, printable, time_words

_WIDE_FROM_COLUMNS = 120
# Where nothing bounds a line, such as in a file: wider than any table.
_UNBOUNDED_COLUMNS = 100_000
_SIGNS = {Comparison.AT_MOST: "≤", Comparison.BELOW: "<", Comparison.AT_LEAST: "≥"}
_STYLES: Mapping[Verdict, str] = {
    Verdict.IDLE: "green",
    Verdict.ACTIVE: "cyan",
    Verdict.INSUFFICIENT: "yellow",
    Verdict.EXCLUDED: "dim",
}


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    words: tuple[str, str]


# Always shown, so that two reports by different policies can be laid side by side.
_COLUMNS = (
    _Column("cpu_busy_mean_ratio", ("CPU", "mean")),
    _Column("cpu_busy_p95_ratio", ("CPU", "p95")),
    _Column("mem_used_mean_ratio", ("mem", "mean")),
    _Column("disk_used_mean_ratio", ("disk", "mean")),
)


def to_text(report: Report, *, width: int | None, colour: bool) -> str:
    """The table and, below it, the totals.

    Args:
        width: columns of the terminal; None where lines may have any length.
        colour: whether escape sequences may be used.
    """
    buffer = io.StringIO()
    console = Console(
        file=buffer,
        width=width or _UNBOUNDED_COLUMNS,
        force_terminal=colour,
        color_system="auto" if colour else None,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if report.totals.vms == 0:
        console.print(
            "The fleet is empty: no VM has been enrolled or imported yet. "
            "Make a join token with `fallow-aggregator join-token` and give it to the agents."
        )
        return buffer.getvalue()
    question = report.question
    console.print(
        f"fallow, {time_words(question.now_s)}: window {question.window_days} d, "
        f"policy {question.policy.name}: {question.policy.summary}"
    )
    if report.listed:
        console.print()
        console.print(_table(report, wide=width is None or width >= _WIDE_FROM_COLUMNS, width=width))
    console.print()
    for line in _totals(report):
        console.print(line)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _table(report: Report, *, wide: bool, width: int | None) -> Table:
    policy = report.question.policy
    columns = (*_COLUMNS, *_more_columns(policy))
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    longest = max(len(listed.candidate.vm_id) for listed in report.listed)
    table.add_column("VM", overflow="fold", min_width=longest if width is None else min(longest, width // 2))
    if wide:
        table.add_column("name", overflow="fold")
        table.add_column("owner", overflow="fold")
        table.add_column("vCPU", justify="right", no_wrap=True)
        table.add_column("memory", justify="right", no_wrap=True)
    limits = {rule.column: f"{_SIGNS[rule.comparison]} {number(rule.limit, rule.unit)}" for rule in policy.rules}
    for column in columns:
        # The space keeps the third line where there is no limit, so that the words of all columns are level.
        header = "\n".join((*column.words, limits.get(column.name, " ")))
        table.add_column(header, justify="right", no_wrap=True)
    coverage = number(report.question.limits.min_coverage_ratio, "ratio")
    table.add_column(f"cover-\nage\n≥ {coverage}", justify="right", no_wrap=True)
    if wide:
        table.add_column("verdict", overflow="fold", min_width=20)
    for listed in report.listed:
        cells: list[Text] = [Text(str(listed.rank or "")), _vm_cell(report, listed, wide=wide)]
        if wide:
            cells += [_named(listed.candidate.name or listed.candidate.hostname), _named(listed.candidate.owner)]
            cells += _sizes(listed)
        figures = {figure.name: figure for figure in listed.judgement.figures}
        statistics = listed.candidate.window.statistics if listed.candidate.window else {}
        for column in columns:
            cells.append(_number_cell(figures.get(column.name), statistics.get(column.name), column.name))
        cells.append(_number_cell(figures["coverage_ratio"], None, "coverage_ratio"))
        if wide:
            cells.append(_verdict(listed))
        table.add_row(*cells)
    return table


def _more_columns(policy: Policy) -> tuple[_Column, ...]:
    shown = {column.name for column in _COLUMNS}
    extra = (rule for rule in policy.rules if rule.column not in shown)
    return tuple(_Column(rule.column, (rule.words, "")) for rule in extra)


def _vm_cell(report: Report, listed: Listed, *, wide: bool) -> Text:
    cell = Text(printable(listed.candidate.vm_id))
    if wide:
        return cell
    candidate = listed.candidate
    names = [_named(candidate.name or candidate.hostname).plain, _named(candidate.owner).plain]
    sizes = [size.plain for size in _sizes(listed)]
    details = [f"{sizes[0]} vCPU", sizes[1]]
    cell.append("\n" + ", ".join(text for text in (*names, *details) if text), style="dim")
    if report.question.verdict is not Verdict.IDLE:
        cell.append("\n").append(_verdict(listed))
    return cell


def _named(text: str | None) -> Text:
    return Text(printable(text or ""))


def _sizes(listed: Listed) -> tuple[Text, Text]:
    summary = listed.candidate.summary
    cpu_count = summary.cpu_count if summary else None
    mem_bytes = summary.mem_total_bytes if summary else None
    return (
        Text(NOT_MEASURED if cpu_count is None else f"{cpu_count:,}"),
        Text(NOT_MEASURED if mem_bytes is None else gib(mem_bytes)),
    )


def _number_cell(figure: Figure | None, value: float | None, name: str) -> Text:
    if figure is None:
        return Text(number(value, "bytes_per_s" if name.endswith("_bytes_per_s") else "ratio"))
    text = number(figure.value, figure.unit, beside=figure.limit)
    return Text(text, style="" if figure.ok else "bold red")


def _verdict(listed: Listed) -> Text:
    judgement = listed.judgement
    words = judgement.verdict.value
    # The columns say why a VM is idle or active; what kept another from being judged stands only here.
    if judgement.verdict is Verdict.INSUFFICIENT:
        words = f"{words}: {judgement.reason}"
    elif judgement.verdict is Verdict.EXCLUDED:
        words = judgement.reason
    return Text(printable(words), style=_STYLES[judgement.verdict])


def _totals(report: Report) -> list[str]:
    totals, verdict = report.totals, report.question.verdict
    kind = "VMs" if verdict is None else f"VMs that are {verdict.value}"
    if verdict is Verdict.INSUFFICIENT:
        kind = "VMs with insufficient data"
    listed = f"Listed {len(report.listed):,} of {report.matching:,} {kind}."
    if len(report.listed) < report.matching:
        listed += " --top N lists more, --all every VM."
    idle = totals.of(Verdict.IDLE)
    memory = gib(totals.reclaimable_mem_bytes)
    reclaimable = f"Reclaimable: {totals.reclaimable_vcpus:,} vCPU and {memory} of memory in {idle:,} idle VMs"
    if totals.idle_of_unknown_size:
        reclaimable += f" (the size of {totals.idle_of_unknown_size:,} is not fully known)"
    counts = ", ".join(_count(report, verdict) for verdict in Verdict)
    return [listed, f"{reclaimable}.", f"Fleet: {totals.vms:,} VMs: {counts}."]


def _count(report: Report, verdict: Verdict) -> str:
    causes = [cause for cause in Cause if cause.verdict is verdict]
    parts = [f"{report.totals.by_cause[c]:,} {c.words}" for c in causes if report.totals.by_cause[c]]
    detail = f" ({', '.join(parts)})" if len(causes) > 1 and parts else ""
    return f"{report.totals.of(verdict):,} {verdict.value}{detail}"
