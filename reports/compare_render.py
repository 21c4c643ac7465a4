"""A comparison of policies as text, JSON and CSV. Pure; docs/policies.md describes them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from reports.compare import Comparison, Disputed, PolicyLine
from reports.render import cause_key, csv_text, savings_object
from reports.report import RECLAIMABLE
from reports.terminal import STYLES, open_console
from reports.verdicts import Verdict
from reports.words import count_words, gib, iso_time, money_words, printable, time_words

# Columns of the table of policies, as many as fit.
_PARTS = (("counts", "idle", "all"), ("counts", "idle"), ("idle",), ())
_WIDER_THAN_ANY = 100_000
_MARKS = {
    Verdict.IDLE: "I",
    Verdict.SCHEDULED: "s",
    Verdict.OVERSIZED: "o",
    Verdict.ACTIVE: "a",
    Verdict.INSUFFICIENT: "?",
    Verdict.EXCLUDED: "x",
}


def to_text(comparison: Comparison, *, width: int | None, colour: bool) -> str:
    """Policies, the VMs they call idle together, and the VMs on which they differ most.

    Args: width, colour: as `terminal.to_text` takes them.
    """
    buffer, console = open_console(width=width, colour=colour)
    console.print(
        f"fallow, {time_words(comparison.now_s)}: {count_words(comparison.vms, 'VM')}, "
        f"window {comparison.settings.window_days} d, judged by {_policies(len(comparison.lines))}"
    )
    _print_lines(comparison, console, width)
    if len(comparison.lines) > 1 and comparison.vms:
        _print_agreement(comparison, console, width)
        _print_disputed(comparison, console, width)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def _policies(count: int) -> str:
    return "1 policy" if count == 1 else f"{count} policies"


def _table() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)


def _fits(table: Table, console: Console, width: int | None) -> bool:
    """Whether a terminal shows the table without cutting numbers off."""
    wanted = Measurement.get(console, console.options.update(width=_WIDER_THAN_ANY), table).minimum
    return width is None or wanted <= width


def _lines(comparison: Comparison, *, parts: Sequence[str]) -> Table:
    """Args: parts: of `counts`, `idle` and `all`, in the order of importance."""
    currency = comparison.settings.prices.currency
    headers = ["idle"]
    if "counts" in parts:
        headers += ["insuf-\nficient", "ex-\ncluded"]
    if "idle" in parts:
        headers += ["idle\nfrees\nvCPU", "idle\nfrees\nmemory"]
    if "all" in parts:
        headers += ["all\nfree\nvCPU", "all\nfree\nmemory"]
        headers += [] if currency is None else [f"all:\n{printable(currency)}\na month"]
    table = _table()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("policy", overflow="fold")
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for place, line in enumerate(comparison.lines, 1):
        totals, idle, freed = line.totals, line.freed_idle, line.totals.freed_together
        cells = [f"{totals.of(Verdict.IDLE):,}"]
        if "counts" in parts:
            cells += [f"{totals.of(verdict):,}" for verdict in (Verdict.INSUFFICIENT, Verdict.EXCLUDED)]
        if "idle" in parts:
            cells += [f"{idle.vcpus:,.4g}", gib(idle.mem_bytes)]
        if "all" in parts:
            cells += [f"{freed.vcpus:,.4g}", gib(freed.mem_bytes)]
            cells += [] if currency is None else [money_words(freed.money_per_month, None)]
        table.add_row(str(place), *map(Text, (printable(line.policy.name), *cells)))
    return table


def _print_lines(comparison: Comparison, console: Console, width: int | None) -> None:
    console.print()
    for parts in _PARTS:
        table = _lines(comparison, parts=parts)
        if _fits(table, console, width) or parts == _PARTS[-1]:
            console.print(table)
            break
    console.print()
    if "all" in parts:
        console.print(
            "Idle frees is what the idle VMs alone give back; all frees counts scheduled and oversized VMs too."
        )
    else:
        console.print("A wider window shows more columns; --json and --csv have them all.")
    for line in comparison.lines:
        if line.missing_days:
            days = ", ".join(f"{each} d" for each in line.missing_days)
            console.print(f"{line.policy.name} can judge no VM: the aggregator keeps no window of {days}.")


def _print_agreement(comparison: Comparison, console: Console, width: int | None) -> None:
    table = _table()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("policy", no_wrap=True)
    for place in range(1, len(comparison.lines) + 1):
        table.add_column(str(place), justify="right", no_wrap=True)
    for place, (line, row) in enumerate(zip(comparison.lines, comparison.idle_by_both, strict=True), 1):
        table.add_row(str(place), Text(printable(line.policy.name)), *(f"{count:,}" for count in row))
    console.print()
    if not _fits(table, console, width):
        console.print("How many VMs each two policies both call idle needs a wider window; --json and --csv have it.")
        return
    console.print("VMs that both policies call idle:")
    console.print(table)


def _print_disputed(comparison: Comparison, console: Console, width: int | None) -> None:
    console.print()
    head = f"{count_words(comparison.disputed_vms, 'VM')} on which the policies differ"
    if not comparison.disputed:
        console.print(f"{head}.")
        return
    more = comparison.disputed_vms > len(comparison.disputed)
    console.print(f"{head}; the {len(comparison.disputed)} on which most of them do:" if more else f"{head}:")
    table = _disputed(comparison, marked=True)
    if _fits(table, console, width):
        console.print(table)
        console.print(", ".join(f"{mark} {verdict.value}" for verdict, mark in _MARKS.items()))
    else:
        console.print(_disputed(comparison, marked=False))


def _disputed(comparison: Comparison, *, marked: bool) -> Table:
    """Args: marked: with a column a policy."""
    table = _table()
    table.add_column("VM", overflow="fold")
    table.add_column("owner", overflow="fold")
    table.add_column("idle by", justify="right", no_wrap=True)
    for place in range(1, len(comparison.lines) + 1) if marked else ():
        table.add_column(str(place), justify="right", no_wrap=True)
    for disputed in comparison.disputed:
        marks = [Text(_MARKS[cause.verdict], style=STYLES[cause.verdict]) for cause in disputed.causes]
        table.add_row(
            Text(printable(disputed.vm.vm_id)),
            Text(printable(disputed.vm.owner or "")),
            f"{disputed.idle_by} of {len(disputed.causes)}",
            *(marks if marked else ()),
        )
    return table


def to_json(comparison: Comparison) -> str:
    """One JSON object, a policy and a disputed VM a line."""
    names = [line.policy.name for line in comparison.lines]
    head = {
        "generated_at_s": comparison.now_s,
        "generated_at": iso_time(comparison.now_s),
        "window_days": comparison.settings.window_days,
        "currency": comparison.settings.prices.currency,
        "vms": comparison.vms,
        "disputed_vms": comparison.disputed_vms,
    }
    policies = ",\n".join(
        json.dumps(_line_object(line, dict(zip(names, row, strict=True))))
        for line, row in zip(comparison.lines, comparison.idle_by_both, strict=True)
    )
    disputed = ",\n".join(json.dumps(_disputed_object(one, names)) for one in comparison.disputed)
    return f'{json.dumps(head)[:-1]}, "policies": [\n{policies}\n], "disputed": [\n{disputed}\n]}}\n'


def _line_object(line: PolicyLine, idle_by_both: dict[str, int]) -> dict[str, object]:
    totals = line.totals
    return {
        "name": line.policy.name,
        "summary": line.policy.summary,
        **{verdict.value: totals.of(verdict) for verdict in Verdict},
        "freed": {verdict.value: savings_object(totals.freed[verdict]) for verdict in RECLAIMABLE},
        "reclaimable": savings_object(totals.freed_together),
        "unknown_size": totals.unknown_size,
        "causes": {cause_key(cause): count for cause, count in totals.by_cause.items() if count},
        "missing_windows_days": list(line.missing_days),
        "idle_by_both": idle_by_both,
    }


def _disputed_object(disputed: Disputed, names: Sequence[str]) -> dict[str, object]:
    vm = disputed.vm
    return {
        "vm": vm.vm_id,
        "name": vm.name,
        "hostname": vm.hostname,
        "owner": vm.owner,
        "idle_by": disputed.idle_by,
        "differing_pairs": disputed.differing_pairs,
        "at_stake_vcpu_equivalents": disputed.at_stake,
        "verdicts": {
            name: {"verdict": cause.verdict.value, "cause": cause_key(cause)}
            for name, cause in zip(names, disputed.causes, strict=True)
        },
    }


def to_csv(comparison: Comparison) -> str:
    """One row a policy; the last columns are the VMs that it and another policy both call idle."""
    names = [line.policy.name for line in comparison.lines]
    savings = ("vcpus", "mem_bytes", "disk_bytes", "kwh_per_month", "money_per_month")
    header = [
        *("policy", "summary", "vms", *(verdict.value for verdict in Verdict)),
        *(f"idle_{name}" for name in savings),
        *(f"all_{name}" for name in savings),
        *("unknown_size", "missing_windows"),
        *(f"idle_by_both_{name}" for name in names),
    ]
    rows = [
        [
            *(line.policy.name, line.policy.summary, line.totals.vms),
            *(line.totals.of(verdict) for verdict in Verdict),
            *(getattr(line.freed_idle, name) for name in savings),
            *(getattr(line.totals.freed_together, name) for name in savings),
            *(line.totals.unknown_size, " ".join(f"{days}d" for days in line.missing_days)),
            *row,
        ]
        for line, row in zip(comparison.lines, comparison.idle_by_both, strict=True)
    ]
    return csv_text(header, rows)
