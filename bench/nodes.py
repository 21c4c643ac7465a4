"""Three aggregators behind HAProxy on PostgreSQL: what is lost or counted twice while parts of it fail.

With `--compare` nothing fails: the same load goes onto one aggregator and onto three in turn, and CPU is counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from http.client import HTTPException
from pathlib import Path

import sqlalchemy as sa

from agent.settings import ConfigError, parse_count
from bench.haproxy import ProxyAbsent
from bench.kill_lives import Impatient
from bench.load_driver import DriveError
from bench.nodes_compare import Verdict
from bench.nodes_costs import add_cost_options, compare_costs
from bench.nodes_driver import Sent
from bench.nodes_trial import Passed, Plan, trial
from bench.outcome import Bar, Outcome, Say
from bench.postgres import PostgresAbsent
from bench.programs import ProgramError, Programs
from bench.sink import positive

_SHOWN = 12
# Parts of a few hours are joined at once; the rest would wait for an hour.
JOINED_SOON = ("--join-interval", "1s", "--join-after", "1s", "--retention-raw", "60d")


class NodesError(subprocess.SubprocessError):
    """The run could not be finished; the text says why and shows the end of a log."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench nodes`."""
    add = parser.add_argument
    add("--vms", type=parse_count, default=30_000, help="simulated VMs (default 30000)")
    add("--connections", type=parse_count, default=5_000, help="reused by all VMs (default 5000)")
    add("--pushes-per-s", type=positive, default=1_500.0, help="of all VMs together (default 1500)")
    add("--calm-seconds", type=positive, default=30.0, help="of load between two faults (default 30)")
    add("--away-seconds", type=positive, default=45.0, help="how long an aggregator is away (default 45)")
    add("--database-away-seconds", type=positive, default=60.0, help="how long PostgreSQL is (default 60)")
    add("--flush-interval", default="60s", help="of each aggregator (default 60s)")
    add("--verify-every", type=parse_count, default=10, help="rollups of each Nth VM are computed anew (default 10)")
    add("--seed", type=int, default=1, help="of what the VMs send (default 1)")
    add("--folder", type=Path, help="where the data go (default: a temporary folder)")
    add_cost_options(parser)


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Measures; see the module's docstring.

    Raises:
        ConfigError: HAProxy or PostgreSQL is not installed.
        NodesError: a part did not come back, or a push was refused for good.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="fallow-nodes-", dir=options.folder) as name:
            folder = Path(name)
            programs = Programs(Path(sys.executable).parent, folder / "logs", Impatient())
            try:
                measure = compare_costs if options.compare else _faults
                return measure(options, folder, programs, say)
            finally:
                programs.stop_all()
    except (PostgresAbsent, ProxyAbsent) as absent:
        raise ConfigError(str(absent)) from absent
    except (ProgramError, DriveError, HTTPException, sa.exc.SQLAlchemyError) as error:
        raise NodesError(f"{type(error).__name__}: {error}") from error


def plan_of(options: argparse.Namespace) -> Plan:
    """What the options ask for."""
    return Plan(
        vms=options.vms,
        connections=options.connections,
        pushes_per_s=options.pushes_per_s,
        calm_s=options.calm_seconds,
        away_s=options.away_seconds,
        database_away_s=options.database_away_seconds,
        seed=options.seed,
        options=("--flush-interval", options.flush_interval, *JOINED_SOON),
    )


def _faults(options: argparse.Namespace, folder: Path, programs: Programs, say: Say) -> Outcome:
    with trial(plan_of(options), folder, programs, say) as running:
        passed = running.run()
        verdict = running.judge(folder / "expected", verify_every=options.verify_every)
    for line in verdict.problems()[:_SHOWN]:
        say(f"WRONG {line}")
    return _outcome(options, passed, running.driver.sent, verdict)


def _outcome(options: argparse.Namespace, passed: Passed, sent: Sent, verdict: Verdict) -> Outcome:
    findings = verdict.findings
    figures: dict[str, object] = {
        "vms": options.vms,
        "connections": options.connections,
        "seconds": round(passed.seconds, 1),
        "acknowledged_pushes": sent.acknowledged,
        "pushes_per_s": round(sent.acknowledged / passed.seconds),
        "pushes_refused_for_now": {str(status): count for status, count in sorted(sent.later.items())},
        "connections_lost": sent.broken,
        "ack_p50_s": round(sent.quantile_s(0.5), 4),
        "ack_p99_s": round(sent.quantile_s(0.99), 4),
        "ack_max_s": round(sent.quantile_s(1.0), 2),
        "killed_node_out_s": round(passed.out_s, 2),
        "drained_node_out_s": round(passed.drained_s, 2),
        "pushes_without_database": passed.database_away_pushes,
        "histories_in_parts_at_most": passed.largest_parts,
        "last_flush_s": round(passed.flush_s, 1),
        "last_joins_s": round(passed.join_s, 1),
        "acknowledged_samples": findings.acknowledged,
        "stored_samples": findings.stored,
        "lost_samples": findings.lost,
        "doubled_samples": findings.doubled,
        "never_sent_samples": findings.never_sent,
        "rollup_mismatches": len(findings.rollup_mismatches),
        "summary_mismatches": len(findings.summary_mismatches),
        "differing_rows": {table: len(rows) for table, rows in verdict.differing.items()},
        "top_50_differing": verdict.tops_differ,
        "cpu_us_per_vm_minute": round(1e6 * passed.cpu_s / max(1, findings.stored), 1),
        "haproxy_cpu_us_per_push": round(1e6 * passed.proxy_cpu_s / max(1, sent.acknowledged), 1),
    }
    return Outcome(
        figures,
        (
            Bar("nodes: lost samples", float(findings.lost), 0.0),
            Bar("nodes: samples counted twice", float(findings.doubled), 0.0),
            Bar("nodes: samples that nobody sent", float(findings.never_sent), 0.0),
            Bar("nodes: rollups unlike their raw rows", float(len(findings.rollup_mismatches)), 0.0),
            Bar("nodes: consolidated rows unlike those from all samples", float(verdict.rows_differ), 0.0),
            Bar("nodes: places of the top 50 that differ", float(verdict.tops_differ), 0.0),
        ),
    )
