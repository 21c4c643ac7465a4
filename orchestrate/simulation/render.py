"""What policies did, as a table for people and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from orchestrate.simulation.outcomes import Outcome, Question
from orchestrate.simulation.policy import Mode
from reports.terminal import open_console
from reports.words import count_words, printable

_WIDER_THAN_ANY = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """`rank`: columns of a higher rank go first where there is no room."""

    header: str
    cell: Callable[[Outcome], str]
    rank: int


_COLUMNS = (
    _Column(header="energy\nkWh", cell=lambda one: f"{one.result.totals.energy_kwh:,.1f}", rank=0),
    _Column(header="unserved\n%", cell=lambda one: f"{100 * one.result.totals.unserved_ratio:.4f}", rank=1),
    _Column(header="migra-\ntions", cell=lambda one: f"{one.result.migrations:,}", rank=2),
    _Column(header="mean\nhosts", cell=lambda one: f"{one.result.totals.mean_active_hosts:,.1f}", rank=3),
    _Column(header="over-\nload %", cell=lambda one: f"{100 * one.result.totals.slatah_overload_ratio:.3f}", rank=5),
    _Column(header="SLATAH\n%", cell=lambda one: f"{100 * one.result.totals.slatah_ratio:.3f}", rank=6),
    _Column(header="PDM\n%", cell=lambda one: f"{100 * one.result.totals.pdm_ratio:.5f}", rank=7),
    _Column(header="ESV\n1e-3", cell=lambda one: f"{1e3 * one.result.totals.esv_kwh:.4f}", rank=4),
    _Column(header="shut-\ndowns", cell=lambda one: f"{one.result.totals.shutdowns:,}", rank=8),
    _Column(header="run\ns", cell=lambda one: f"{one.run_s:.1f}", rank=9),
)
_MOST = max(column.rank for column in _COLUMNS)


def to_json(outcomes: Iterable[Outcome]) -> str:
    """A list of one object a policy and trace, each on a line."""
    return "[\n" + ",\n".join(json.dumps(one.as_object(), allow_nan=False) for one in outcomes) + "\n]\n"


def to_text(outcomes: Sequence[Outcome], *, width: int | None, colour: bool) -> str:
    """A table a trace.

    Args: width, colour: as `reports.terminal.to_text` takes them.
    """
    buffer, console = open_console(width=width, colour=colour)
    for trace, group in groupby(outcomes, key=lambda one: one.trace):
        of_trace = list(group)
        first = of_trace[0]
        console.print(
            f"{printable(trace)}: {count_words(first.vms, 'VM')} on {count_words(first.hosts, 'host')}, "
            f"{_question_words(first.question)}"
        )
        _print_table(of_trace, console, width)
        _print_notes(of_trace, console)
        console.print()
    console.print("Unserved is demand that VMs did not get; overload is the time in which active hosts were too small.")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _question_words(question: Question) -> str:
    mode = "honest mode" if question.mode is Mode.HONEST else "reference mode"
    return f"{mode}, {'idle VMs dropped' if question.drop_idle else 'idle VMs kept'}"


def _print_table(outcomes: Sequence[Outcome], console: Console, width: int | None) -> None:
    for most in range(_MOST, -1, -1):
        table = _table(outcomes, most)
        wanted = Measurement.get(console, console.options.update(width=_WIDER_THAN_ANY), table).minimum
        if width is None or wanted <= width or not most:
            console.print(table)
            if most < _MOST:
                console.print("A wider window shows more columns; --json has them all.")
            return


def _table(outcomes: Sequence[Outcome], most: int) -> Table:
    columns = [column for column in _COLUMNS if column.rank <= most]
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for column in columns:
        table.add_column(column.header, justify="right", no_wrap=True)
    for one in outcomes:
        parameter = "" if one.policy.parameter is None else f"-{one.policy.parameter:g}"
        table.add_row(Text(f"{one.policy.name}{parameter}"), *(Text(column.cell(one)) for column in columns))
    return table


def _print_notes(outcomes: Sequence[Outcome], console: Console) -> None:
    for one in outcomes:
        if one.result.refused:
            console.print(f"{one.policy.name}: {count_words(one.result.refused, 'move')} refused")
    departed = max(one.result.departed for one in outcomes)
    if departed:
        console.print(
            f"{count_words(departed, 'VM')} dropped because they were idle: their energy is missing, not saved."
        )
