"""`python -m bench report`: the top 20 of a large fleet, from the summaries."""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import sqlalchemy as sa

from agent.settings import parse_count
from aggregator.fleet import vm, vm_summary, vm_window
from aggregator.fleet_db import open_fleet
from aggregator.summary import METRICS, WINDOWS_DAYS
from bench.outcome import Bar, Outcome, Say
from reports.__main__ import main as fallow_report

REPORT_LIMIT_S = 0.3
_CHUNK = 5_000
_DAY_S = 86_400
# How busy a profile's CPU is on average, how far its peaks rise above that, and how common it is.
_PROFILES = ((0.005, 0.02, 35), (0.08, 0.4, 20), (0.04, 0.9, 10), (0.45, 0.4, 30), (0.02, 0.9, 5))
_CPU_COUNTS, _CPU_WEIGHTS = (1, 2, 4, 8, 16, 32), (10, 30, 30, 20, 8, 2)
_GIB_PER_CPU = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class FleetVm:
    """One made-up VM: its row of each table but for the window, and the figures of all its windows."""

    vm: dict[str, object]
    summary: dict[str, object] | None
    figures: dict[str, float]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--vms", type=parse_count, default=100_000, help="VMs of the fleet (default: 100000)")
    parser.add_argument("--rounds", type=parse_count, default=7, help="reports whose median is taken (default: 7)")
    parser.add_argument("--seed", type=int, default=1, help="of the made-up fleet (default: 1)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Builds a fleet database and reports on it, in this process and as a command.

    Raises: OSError, subprocess.SubprocessError: the command or the database failed.
    """
    now_s = int(time.time()) // 60 * 60
    with tempfile.TemporaryDirectory(prefix="fallow-bench-") as folder:
        data = Path(folder)
        say(f"a fleet of {options.vms} VMs, {len(WINDOWS_DAYS)} windows each ...")
        build_fleet(data, vms=options.vms, now_s=now_s, seed=options.seed)
        argv = ["--data", folder, "--window", "14d", "--top", "20", "--policy", "classic"]
        say(f"{options.rounds} reports in this process ...")
        wall_s, cpu_s = _time_reports(argv, options.rounds, now_s)
        say("the whole command ...")
        began_s = time.perf_counter()
        command = [sys.executable, "-m", "reports", *argv, "--json", "--silent-after", "12h"]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600).stdout
        command_s = time.perf_counter() - began_s
        database_bytes = sum(path.stat().st_size for path in data.glob("fleet.db*"))
    median_s = statistics.median(wall_s)
    return Outcome(
        figures={
            "vms": options.vms,
            "idle_vms": json.loads(answer)["totals"]["idle"],
            "report_s": median_s,
            "report_max_s": max(wall_s),
            "cpu_s": statistics.median(cpu_s),
            "command_s": command_s,
            "database_bytes": database_bytes,
        },
        bars=(Bar(f"top 20 of {options.vms} VMs over 14 days, in the process, s", median_s, REPORT_LIMIT_S),),
    )


def _time_reports(argv: list[str], rounds: int, now_s: int) -> tuple[list[float], list[float]]:
    wall_s, cpu_s = [], []
    # The first one imports what the others have at hand; the command's time shows what that costs.
    for _ in range(rounds + 1):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        code = fallow_report(argv, clock=lambda: now_s, environ={}, out=io.StringIO())
        wall_s.append(time.perf_counter() - began_s)
        cpu_s.append(time.process_time() - began_cpu_s)
        if code != 0:
            raise OSError(f"the report ended with exit code {code}")
    return wall_s[1:], cpu_s[1:]


def build_fleet(data: Path, *, vms: int, now_s: int, seed: int) -> None:
    """A fleet database in the directory `data`: repeatable, rows in no order, some of every verdict."""
    # Alembic is what an aggregator starts with; reports and the other benchmarks do without.
    from aggregator.fleet_db import migrate  # noqa: PLC0415

    engine = open_fleet(None, data)
    try:
        migrate(engine)
        fleet = _fleet(random.Random(seed), now_s, vms)
        while chunk := list(islice(fleet, _CHUNK)):
            with engine.begin() as connection:
                connection.execute(sa.insert(vm), [one.vm for one in chunk])
                connection.execute(sa.insert(vm_summary), [one.summary for one in chunk if one.summary])
                connection.execute(sa.insert(vm_window), [row for one in chunk for row in _windows(one)])
    finally:
        engine.dispose()


def _fleet(draw: random.Random, now_s: int, vms: int) -> Iterator[FleetVm]:
    for place in range(vms):
        vm_id = str(uuid.UUID(int=draw.getrandbits(128), version=4))
        luck = draw.random()
        tags = ["production", "fallow:keep"] if luck < 0.02 else ["production"] if luck < 0.3 else []
        row: dict[str, object] = {
            "vm_id": vm_id,
            "name": f"vm-{place}",
            "hostname": f"host-{place}.example",
            "owner": f"team-{place % 97}",
            "tags": json.dumps(tags),
            "power_state": draw.choices((None, "on", "off"), (60, 39, 1))[0],
            "enrolled_s": now_s - 60 * _DAY_S if luck < 0.98 else None,
        }
        yield FleetVm(row, _summary(draw, vm_id, now_s) if luck < 0.98 else None, _figures(draw))


def _summary(draw: random.Random, vm_id: str, now_s: int) -> dict[str, object]:
    cpu_count = draw.choices(_CPU_COUNTS, _CPU_WEIGHTS)[0]
    silent, new = draw.random() < 0.03, draw.random() < 0.03
    newest_s = now_s - (draw.randrange(1, 20) * _DAY_S if silent else 60 * draw.randrange(1, 16))
    return {
        "vm_id": vm_id,
        "oldest_s": newest_s - (draw.randrange(1, 12) if new else 60) * _DAY_S,
        "newest_s": newest_s,
        "received_s": newest_s + 1.5,
        "skew_s": draw.gauss(0, 1) if draw.random() < 0.995 else 7200.0,
        "interval_s": 60,
        "conflicts": 0,
        "cpu_count": cpu_count,
        # The kernel keeps some of it, differently on each machine.
        "mem_total_bytes": cpu_count * draw.choice(_GIB_PER_CPU) * 2**30 - draw.randrange(2**16, 2**18) * 1024,
        "disk_total_bytes": draw.choice((20, 40, 80, 160)) * 2**30,
        "flags": '["identity_conflict"]' if draw.random() < 0.001 else "[]",
        "updated_s": now_s - 300.0,
    }


def _figures(draw: random.Random) -> dict[str, float]:
    cpu_mean, peak, _ = draw.choices(_PROFILES, [weight for *_, weight in _PROFILES])[0]
    mean_ratio = {
        "cpu_busy": min(1.0, cpu_mean * draw.lognormvariate(0, 0.5)),
        "cpu_max": min(1.0, cpu_mean * 2 * draw.lognormvariate(0, 0.5)),
        "mem_used": draw.betavariate(1.2, 4),
        "disk_used": draw.betavariate(1.2, 5),
    }
    above = {"mean": 0.0, "p50": 0.0, "p95": 0.5, "p99": 0.8, "max": 1.0}
    bytes_per_s = 200_000 * cpu_mean * draw.lognormvariate(0, 1)
    figures: dict[str, float] = {}
    for metric in METRICS:
        for statistic in metric.statistics:
            if metric.unit == "ratio":
                value = min(1.0, mean_ratio[metric.name] + above[statistic] * peak * draw.random())
            else:
                value = bytes_per_s * (1 + 20 * above[statistic]) * draw.random()
            figures[metric.column(statistic)] = value
    return figures


def _windows(one: FleetVm) -> Iterator[Mapping[str, object]]:
    if one.summary is None:
        return
    newest_s, oldest_s = one.summary["newest_s"], one.summary["oldest_s"]
    assert isinstance(newest_s, int)
    assert isinstance(oldest_s, int)
    for days in WINDOWS_DAYS:
        start_s = -(-newest_s // 3600) * 3600 - days * _DAY_S
        yield {
            "window_days": days,
            "vm_id": one.vm["vm_id"],
            "start_s": start_s,
            "end_s": newest_s,
            "covered_s": newest_s - max(start_s, oldest_s),
            "users_s": 0,
            **one.figures,
        }
