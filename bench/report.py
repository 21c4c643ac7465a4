"""`python -m bench report`: judging a large fleet by every policy, and the report on it from stored verdicts.

The fleet has all windows and a histogram blob for each VM. Verdicts are stored by the job that a service runs every
hour; the report is the whole command, from the start of Python to the last line. With --nodes the fleet is that of
several aggregators on one PostgreSQL, and what a flush of all of them costs the server is measured as well.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from agent.settings import ConfigError, parse_count
from aggregator.fleet_db import open_fleet_read_only
from bench.outcome import Bar, Outcome, Say
from bench.postgres import PostgresAbsent, postgres_server
from bench.report_fleet import build_fleet
from bench.report_writes import measure_writes, table_bytes_per_vm
from reports.__main__ import main as fallow_report
from reports.fleet import read_facts, snapshot
from reports.fleet_report import ON_THE_SPOT_VMS
from reports.judging import judge_by_all, judged_columns, judged_days
from reports.policies import POLICIES
from reports.verdicts import Settings

JUDGED_VMS = 100_000
JUDGING_LIMIT_S = 5.0
COMMAND_LIMIT_S = 1.0
REPORT_LIMIT_S = 0.3
# What a VM takes in the database, indexes and all, twice: a run of verdicts goes through the write-ahead log.
_BYTES_A_VM = 2 * 14_000
_TOP = 50
# As Debian's package sets it up: durable, and with its own cleaning.
_POSTGRES = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "autovacuum": "on",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
}
_UNSTORED = "classic"
# Long runs: a fleet that was made an hour ago has not gone silent.
_LENIENT = ("--silent-after", "12h")


class _Measured(NamedTuple):
    figures: dict[str, object]
    bars: tuple[Bar, ...]


class _Run(NamedTuple):
    """One report: what it took, and what it printed."""

    wall_s: float
    cpu_s: float
    answer: bytes


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--vms", type=parse_count, default=100_000, help="VMs of the fleet (default: 100000)")
    parser.add_argument("--rounds", type=parse_count, default=7, help="reports whose median is taken (default: 7)")
    parser.add_argument("--seed", type=int, default=1, help="of the made-up fleet (default: 1)")
    parser.add_argument("--postgres", action="store_true", help="the same on a PostgreSQL server of its own")
    parser.add_argument(
        "--nodes", type=parse_count, default=1, help="aggregators of the fleet; more than one: PostgreSQL alone"
    )
    parser.add_argument(
        "--flushes", type=parse_count, default=4, help="with --nodes: flushes whose writing is measured (default: 4)"
    )
    parser.add_argument(
        "--flushed-vms", type=parse_count, default=50_000, help="with --nodes: VMs of each flush (default: 50000)"
    )
    parser.add_argument("--folder", type=Path, help="where the databases go (default: a temporary folder)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Builds a fleet on each database, judges it, stores the verdicts and reports from them.

    Raises:
        ConfigError: not enough disk, or PostgreSQL is not installed.
        OSError, subprocess.SubprocessError: the command or the database failed.
    """
    now_s = int(time.time()) // 60 * 60
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fallow-bench-", dir=options.folder)))
        _check_disk(folder, options.vms, databases=2 if options.postgres and options.nodes == 1 else 1)
        several = options.nodes > 1
        url = stack.enter_context(_postgres(options.folder)) if options.postgres or several else None
        if url is not None and several:
            return _run_nodes(folder, url, options, now_s, say)
        say(f"SQLite: a fleet of {options.vms:,} VMs ...")
        build_fleet(folder, vms=options.vms, now_s=now_s, seed=options.seed)
        judged = _judge(folder, min(options.vms, JUDGED_VMS), now_s, say)
        sides = {"sqlite": _report("SQLite", ["--data", str(folder)], options, now_s, say)}
        database_bytes = sum(path.stat().st_size for path in folder.glob("fleet.db*"))
        if url is not None:
            _build(folder, url, options, now_s, say)
            sides["postgresql"] = _report("PostgreSQL", ["--fleet", url], options, now_s, say)
    return Outcome(
        figures={
            "vms": options.vms,
            "policies": len(POLICIES),
            **judged.figures,
            "sqlite_bytes": database_bytes,
            **{name: side.figures for name, side in sides.items()},
        },
        bars=(*judged.bars, *(bar for side in sides.values() for bar in side.bars)),
    )


def _run_nodes(folder: Path, url: str, options: argparse.Namespace, now_s: int, say: Say) -> Outcome:
    """The consolidated report over several aggregators, and what writing their summaries costs."""
    _build(folder, url, options, now_s, say)
    source = ["--fleet", url]
    name = f"PostgreSQL, {options.nodes} nodes"
    side = _report(name, source, options, now_s, say)
    say(f"{name}: a policy that nobody stored verdicts of ...")
    unstored = _run_command([*source, "--policy", _UNSTORED, "--top", str(_TOP), "--json", *_LENIENT])
    sizes = table_bytes_per_vm(url, options.vms)
    written = measure_writes(url, vms=options.flushed_vms, flushes=options.flushes, say=say)
    return Outcome(
        figures={
            "vms": options.vms,
            "nodes": options.nodes,
            "bytes_per_vm": sizes,
            **side.figures,
            "unstored_policy_s": unstored.wall_s,
            "unstored_policy_cpu_s": unstored.cpu_s,
            "writes": written,
        },
        bars=side.bars,
    )


def _build(folder: Path, url: str, options: argparse.Namespace, now_s: int, say: Say) -> None:
    say(f"PostgreSQL: a fleet of {options.vms:,} VMs ...")
    build_fleet(folder, vms=options.vms, now_s=now_s, seed=options.seed, url=url, nodes=options.nodes)
    _vacuum(url)


def _check_disk(folder: Path, vms: int, *, databases: int) -> None:
    needed, free = databases * vms * _BYTES_A_VM, shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(f"--vms: {vms:,} VMs take {needed:,} bytes of disk, {folder} has {free:,}: choose --folder")


@contextmanager
def _postgres(parent: Path | None) -> Iterator[str]:
    try:
        with postgres_server(_POSTGRES, parent=parent) as server, server.database() as url:
            yield url
    except PostgresAbsent as absent:
        raise ConfigError(f"--postgres: {absent}") from absent


def _vacuum(url: str) -> None:
    # As the server's own cleaning would have done by the time that a fleet is so large.
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
    engine.dispose()


def _judge(folder: Path, vms: int, now_s: int, say: Say) -> _Measured:
    """Verdicts by every policy: the fleet is read once, with its histograms."""
    say(f"judging {vms:,} VMs by {len(POLICIES)} policies ...")
    policies, settings = tuple(POLICIES.values()), Settings()
    engine = open_fleet_read_only(None, folder)
    try:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        judged = 0
        with snapshot(engine) as connection:
            for facts in read_facts(
                connection, judged_days(policies, settings), columns=judged_columns(policies, settings)
            ):
                judge_by_all(facts, policies, settings, now_s=now_s)
                judged += len(facts)
                if judged >= vms:
                    break
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    finally:
        engine.dispose()
    figures: dict[str, object] = {"judged_vms": judged, "judge_all_s": wall_s, "judge_all_cpu_s": cpu_s}
    name = f"verdicts on {judged:,} VMs by all {len(policies)} policies, read from the database, s"
    return _Measured(figures, (Bar(name, wall_s, JUDGING_LIMIT_S),))


def _report(name: str, source: list[str], options: argparse.Namespace, now_s: int, say: Say) -> _Measured:
    """The job that stores verdicts, then reports from them: whole commands, and in this process."""
    source = [*source, *_LENIENT]
    say(f"{name}: storing verdicts on {options.vms:,} VMs ...")
    stored = _run_command(["judge", "--store", *source])
    say(f"{name}: {options.rounds} reports ...")
    commands = [_run_command([*source, "--top", str(_TOP), "--json"]) for _ in range(options.rounds)]
    if options.vms > ON_THE_SPOT_VMS:
        for command in commands:
            _check_stored(json.loads(command.answer))
    # The first one imports what the others have at hand; the command's time shows what that costs.
    here = [_run_here([*source, "--top", "20"], now_s) for _ in range(options.rounds + 1)][1:]
    figures: dict[str, object] = {
        "store_s": stored.wall_s,
        "store_cpu_s": stored.cpu_s,
        "command_s": statistics.median(command.wall_s for command in commands),
        "command_max_s": max(command.wall_s for command in commands),
        "command_cpu_s": statistics.median(command.cpu_s for command in commands),
        "report_s": statistics.median(report.wall_s for report in here),
        "report_cpu_s": statistics.median(report.cpu_s for report in here),
    }
    command_s, report_s = (statistics.median(run.wall_s for run in runs) for runs in (commands, here))
    return _Measured(
        figures,
        (
            Bar(
                f"{name}: fallow-report, top {_TOP} of {options.vms:,} VMs, whole command, s",
                command_s,
                COMMAND_LIMIT_S,
            ),
            Bar(f"{name}: top 20 of {options.vms:,} VMs, in the process, s", report_s, REPORT_LIMIT_S),
        ),
    )


def _run_command(argv: list[str]) -> _Run:
    """A command of `fallow-report`, from the start of Python on."""
    began_s, began_cpu_s = time.perf_counter(), _children_cpu_s()
    answer = subprocess.run([sys.executable, "-m", "reports", *argv], check=True, stdout=subprocess.PIPE, timeout=7200)
    return _Run(time.perf_counter() - began_s, _children_cpu_s() - began_cpu_s, answer.stdout)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _check_stored(report: dict[str, object]) -> None:
    """Raises OSError: the report was not made from the verdicts that were stored for it."""
    if report["judged_at_s"] == report["generated_at_s"]:
        raise OSError("the report judged the fleet itself: nothing that was stored fits it")


def _run_here(argv: list[str], now_s: int) -> _Run:
    out = io.StringIO()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    code = fallow_report(argv, clock=lambda: now_s, environ={}, out=out)
    if code != 0:
        raise OSError(f"the report ended with exit code {code}")
    return _Run(time.perf_counter() - began_s, time.process_time() - began_cpu_s, out.getvalue().encode())
