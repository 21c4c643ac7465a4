"""`fallow-report schedule`: the service, the list of what it delivers, and one delivery at once."""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, TextIO

from agent.settings import ConfigError
from reports.words import iso_time, printable

if TYPE_CHECKING:
    import sqlalchemy as sa

    from reports.deliver.document import MakeDocument
    from reports.deliver.runner import Runner
    from reports.deliver.runs import Deliveries, Run
    from reports.deliver.targets import Plan

DONE, FAILED = 0, 1

EXAMPLES = """\
examples:
  fallow-report schedule --config report.toml                 deliver at the configured times, until stopped
  fallow-report schedule --config report.toml --list          what is delivered when, and what became of it
  fallow-report schedule --config report.toml --once weekly   deliver now, whatever the time
"""
_RECENT = 20
# Where nothing bounds a line, such as in a file: wider than any table.
_UNBOUNDED_COLUMNS = 100_000


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `schedule` takes beside `--config FILE`, and its examples."""
    parser.epilog = EXAMPLES
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print the deliveries, when each is due, and its last result")
    what.add_argument("--once", metavar="NAME", help="deliver this one now, and do not try again")
    parser.add_argument("--json", action="store_true", help="with --list: print one JSON object")


def run(
    options: argparse.Namespace,
    plans: Sequence[Plan],
    *,
    zone: tzinfo,
    open_engine: Callable[[], sa.Engine],
    make_document: MakeDocument,
    serve: Callable[[Sequence[Plan], Runner, tzinfo], bool],
    clock: Callable[[], float] = time.time,
    out: TextIO | None = None,
    err: TextIO | None = None,
    width: int | None = None,
) -> int:
    """Does what `schedule` was asked for; 0 when that is done, 1 when `--once` did not arrive.

    Args:
        options: parsed by a parser with `--config` that went through `add_options`.
        plans: of the file `--config`.
        zone: in which cron lines are read and times shown.
        open_engine: a writable engine over a database that has the tables of `reports.tables`.
        serve: runs until stopped, and tells whether no try was cut off: `reports.deliver.service.serve`.
        clock: Unix seconds.
        out, err: stdout and stderr unless told.
        width: columns of the terminal; None where lines may have any length.

    Raises:
        ConfigError: no `--config`, a delivery that is not configured, options that do not go together, a secret of
            what is to be delivered that cannot be used, or what `open_engine` raises.
        sqlalchemy.exc.DBAPIError: the database is away; the service itself outlives that.
    """
    out, err = out or sys.stdout, err or sys.stderr
    _check(options, plans)
    if not options.list:
        _check_targets(options, plans, err)
    engine = open_engine()
    try:
        if options.list:
            return _list(engine, options, plans, zone=zone, clock=clock, out=out, width=width)
        return _deliver(
            engine, options, plans, zone=zone, make_document=make_document, serve=serve, clock=clock, err=err
        )
    finally:
        engine.dispose()


def _check(options: argparse.Namespace, plans: Sequence[Plan]) -> None:
    """Raises: ConfigError."""
    if options.config is None:
        raise ConfigError("schedule: --config FILE is missing: deliveries are configured in a file")
    if options.json and not options.list:
        raise ConfigError("schedule: --json goes with --list")
    names = [plan.name for plan in plans]
    if options.once is not None and options.once not in names:
        known = ", ".join(names) or "none is configured"
        raise ConfigError(f"schedule: --once: {printable(options.once)!r} is not a delivery ({known})")
    if not plans and not options.list:
        raise ConfigError(f"{options.config}: report.deliveries: is missing: there is nothing to deliver")


def _check_targets(options: argparse.Namespace, plans: Sequence[Plan], err: TextIO) -> None:
    """Raises: ConfigError."""
    from reports.deliver.config import absent_directories, check_secrets  # noqa: PLC0415

    check_secrets([plan for plan in plans if options.once in {None, plan.name}], source=options.config)
    if options.once is None:  # which itself fails and says so
        for warning in absent_directories(plans):
            print(f"fallow-report: {printable(warning)}", file=err, flush=True)


def _deliver(
    engine: sa.Engine,
    options: argparse.Namespace,
    plans: Sequence[Plan],
    *,
    zone: tzinfo,
    make_document: MakeDocument,
    serve: Callable[[Sequence[Plan], Runner, tzinfo], bool],
    clock: Callable[[], float],
    err: TextIO,
) -> int:
    from reports.deliver.cron import next_due_s  # noqa: PLC0415
    from reports.deliver.runner import Runner, send  # noqa: PLC0415
    from reports.deliver.runs import Deliveries, State  # noqa: PLC0415

    runner = Runner(
        Deliveries(engine),
        make_document=make_document,
        send=send,
        zone=zone,
        clock=clock,
        log=lambda line: print(f"fallow-report: {line}", file=err, flush=True),
    )
    for plan in plans:
        if plan.name == options.once:
            try:
                return DONE if runner.once(plan).state is State.SENT else FAILED
            except KeyboardInterrupt:
                return FAILED  # the runner has said so
    first_s, first = min((next_due_s(plan.cron, zone, clock()) or math.inf, plan.name) for plan in plans)
    count = f"{len(plans)} {'delivery' if len(plans) == 1 else 'deliveries'}"
    print(f"fallow-report: {count}, the next is {first}, {_time(first_s, zone)}", file=err, flush=True)
    if not serve(plans, runner, zone):
        print("fallow-report: a delivery was cut off; it is tried again after the next start", file=err)
    return DONE


def _list(
    engine: sa.Engine,
    options: argparse.Namespace,
    plans: Sequence[Plan],
    *,
    zone: tzinfo,
    clock: Callable[[], float],
    out: TextIO,
    width: int | None,
) -> int:
    from reports.deliver.runs import Deliveries  # noqa: PLC0415

    deliveries = Deliveries(engine)
    now_s = clock()
    if options.json:
        out.write(_to_json(deliveries, plans, zone, now_s))
    elif plans:
        out.write(_to_text(deliveries, plans, zone, now_s, width=width))
    else:
        out.write("No deliveries are configured.\n")
    return DONE


def _to_json(deliveries: Deliveries, plans: Sequence[Plan], zone: tzinfo, now_s: float) -> str:
    from reports.deliver.cron import next_due_s  # noqa: PLC0415

    listed: list[dict[str, object]] = []
    for plan in plans:
        next_s = next_due_s(plan.cron, zone, now_s)
        last = deliveries.last(plan.name)
        listed.append(
            {
                "name": plan.name,
                "kind": plan.target.kind,
                "target": plan.target.words,
                "cron": plan.cron.text,
                "next_s": next_s,
                "next": None if next_s is None else datetime.fromtimestamp(next_s, zone).isoformat(),
                "last": None if last is None else _run_values(last),
            }
        )
    recent = [_run_values(run) for run in deliveries.recent(_RECENT)]
    return json.dumps({"timezone": str(zone), "deliveries": listed, "recent": recent}, indent=2) + "\n"


def _run_values(run: Run) -> dict[str, object]:
    return {
        "name": run.name,
        "report_key": run.report_key,
        "kind": run.kind,
        "target": run.target,
        "due_s": run.due_s,
        "due": iso_time(run.due_s),
        "state": run.state.value,
        "attempt": run.attempt,
        "next_attempt_s": run.next_attempt_s,
        "problem": run.problem,
        "finished_s": run.finished_s,
        "subject": run.subject,
    }


def _to_text(deliveries: Deliveries, plans: Sequence[Plan], zone: tzinfo, now_s: float, *, width: int | None) -> str:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from reports.deliver.cron import next_due_s  # noqa: PLC0415

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for header in ("name", "kind", "target", "cron", "next", "last result"):
        table.add_column(header, overflow="fold")
    for plan in plans:
        next_s = next_due_s(plan.cron, zone, now_s)
        cells = (
            plan.name,
            plan.target.kind,
            plan.target.words,
            plan.cron.text,
            "-" if next_s is None else _time(next_s, zone),
            _result(deliveries.last(plan.name), zone),
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    buffer = io.StringIO()
    Console(file=buffer, width=width or _UNBOUNDED_COLUMNS, color_system=None, legacy_windows=False).print(table)
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def _result(run: Run | None, zone: tzinfo) -> str:
    if run is None:
        return "-"
    if run.finished_s is not None:
        words = f"{run.state.value} {_time(run.finished_s, zone)}"
    else:
        words = f"{run.state.value} (try {run.attempt})"
        if run.next_attempt_s is not None and run.problem is not None:
            words += f", next try {_time(run.next_attempt_s, zone)}"
    return words if run.problem is None else f"{words}: {run.problem}"


def _time(unix_s: float, zone: tzinfo) -> str:
    return f"{datetime.fromtimestamp(unix_s, zone):%Y-%m-%d %H:%M %Z}"
