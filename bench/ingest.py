"""The real aggregator under load, and the sink in the same run: what durability costs.

Both are driven in turn, several rounds each, by the same driver with the same pushes: one VM-minute a request,
200 keep-alive connections, saturated. Then the aggregator alone at 1,000 pushes a second, for the times of answers.
No flush falls into the run; `bench flush` measures those.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.sample import FIELDS
from agent.settings import parse_count, parse_host_port
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench.load_driver import Drive, DriveError, Driver
from bench.outcome import Bar, Outcome, Say
from bench.programs import Programs
from bench.sink import CONNECTIONS, minute_days_ago, positive, serve_sink, vm_names
from bench.tree import cpu_s, peak_rss_bytes

_FLUSH_S = 600.0
_DAYS_BACK = 13  # minutes for many pushes of each VM, all younger than raw retention
_MIN_RATIO = 0.5
_MAX_ACK_P99_S = 0.050


@dataclass(frozen=True, slots=True)
class Round:
    """One saturated run: pushes that were acknowledged, what they cost, how long they took."""

    pushes: int
    cpu_s: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Aggregator:
    """The real program, running."""

    pid: int
    address: tuple[str, int]
    admin: tuple[str, int]
    data_dir: Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench ingest`."""
    parser.add_argument("--seconds", type=positive, default=5.0, help="length of each saturated run (default 5)")
    parser.add_argument(
        "--rounds", type=parse_count, default=4, help="runs of the sink and of the aggregator (default 4)"
    )
    parser.add_argument("--paced-seconds", type=positive, default=20.0, help="length of the paced run (default 20)")
    parser.add_argument("--pushes-per-s", type=positive, default=1000.0, help="rate of the paced run (default 1000)")
    parser.add_argument(
        "--connections", type=parse_count, default=CONNECTIONS, help=f"keep-alive (default {CONNECTIONS})"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Starts both programs, drives them in turn, stops them. Raises: DriveError, ProgramError: one of them fails."""
    vms = vm_names(options.connections)
    with tempfile.TemporaryDirectory(prefix="fallow-ingest-") as folder, aggregator(Path(folder)) as real:
        keys = TokenKeys.load_or_create(real.data_dir / KEY_FILE_NAME)
        start_ts = minute_days_ago(_DAYS_BACK)
        with serve_sink() as (sink_process, sink_address):
            drivers = [
                (Driver(address, vms=vms, token=lambda vm: keys.make(vm, 1), start_ts=start_ts), pid)
                for address, pid in ((sink_address, sink_process.pid), (real.address, real.pid))
            ]
            try:
                sink_rounds, real_rounds = saturate(drivers, options, say)
                say(f"{options.pushes_per_s:g} pushes/s for {options.paced_seconds:g} s")
                paced = drivers[1][0].pace(options.paced_seconds, options.pushes_per_s)
            finally:
                for driver, _ in drivers:
                    driver.close()
        figures = cost_figures(sink_rounds, real_rounds) | ack_figures(paced)
        figures["peak_rss_bytes"] = peak_rss_bytes(real.pid)
        figures |= disk_figures(real, say)
    return Outcome(
        {"connections": options.connections, **figures},
        (
            Bar("pushes per CPU-second / sink's", figures["ratio"], _MIN_RATIO, at_least=True),
            Bar("ack p99 at 1,000 pushes/s, s", figures["ack_p99_s"], _MAX_ACK_P99_S),
        ),
    )


def saturate(
    drivers: list[tuple[Driver, int]], options: argparse.Namespace, say: Say
) -> tuple[list[Round], list[Round]]:
    """Rounds of the sink and of the aggregator, in turn, so that a change of the machine's pace hits both."""
    found: tuple[list[Round], list[Round]] = ([], [])
    for driver, _ in drivers:
        driver.saturate(min(1.0, options.seconds))
    for turn in range(options.rounds):
        for name, rounds, (driver, pid) in zip(("sink", "aggregator"), found, drivers, strict=True):
            before_s = cpu_s(pid)
            drive = driver.saturate(options.seconds)
            rounds.append(Round(drive.acked, cpu_s(pid) - before_s, drive.seconds))
            say(f"round {turn + 1} of {options.rounds}, {name}: {drive.acked / rounds[-1].cpu_s:,.0f} pushes/CPU-s")
    return found


def cost_figures(sink_rounds: list[Round], real_rounds: list[Round]) -> dict[str, float]:
    """Pushes per CPU-second of both over all rounds, and their ratio."""
    sink, real = (
        sum(one.pushes for one in rounds) / sum(one.cpu_s for one in rounds) for rounds in (sink_rounds, real_rounds)
    )
    return {
        "pushes": sum(one.pushes for one in real_rounds),
        "pushes_per_s": sum(one.pushes for one in real_rounds) / sum(one.seconds for one in real_rounds),
        "pushes_per_cpu_s": real,
        "sink_pushes_per_cpu_s": sink,
        "ratio": real / sink,
    }


def ack_figures(paced: Drive) -> dict[str, float]:
    """Times from when a push was due to its answer."""
    return {
        "paced_pushes_per_s": paced.acked / paced.seconds,
        "ack_p50_s": paced.quantile_s(0.5),
        "ack_p99_s": paced.quantile_s(0.99),
        "ack_max_s": max(paced.ack_s),
    }


def disk_figures(real: Aggregator, say: Say) -> dict[str, float]:
    """Bytes on disk per data point: in the journal before a flush, in the stores after it."""
    journal_bytes = _bytes_under(real.data_dir / "journal")
    say("flushing")
    samples = _flush(real)
    if not samples:
        raise DriveError("the flush stored nothing")
    points = samples * len(FIELDS)
    return {
        "samples": samples,
        "journal_bytes_per_point": journal_bytes / points,
        "store_bytes_per_point": _bytes_under(real.data_dir / "stores") / points,
    }


@contextmanager
def aggregator(folder: Path, more: Sequence[str] = ()) -> Iterator[Aggregator]:
    """`fallow-aggregator run` on free ports, as a user would start it; stopped at the end.

    Args: more: options.
    """
    data_dir = folder / "data"
    programs = Programs(Path(sys.executable).parent, folder / "logs", time)
    try:
        program = programs.start(
            ["fallow-aggregator", "run", "--data", str(data_dir), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
            + [*more]
        )
        agents, admin = (
            parse_host_port(programs.wait_for_line(data_dir / name, running=[program]))
            for name in ("agents.address", "admin.address")
        )
        yield Aggregator(program.process.pid, agents, admin, data_dir)
    finally:
        programs.stop_all()


def _flush(real: Aggregator) -> int:
    """Has everything stored; returns how many samples that were."""
    token = (real.data_dir / "admin.token").read_text().strip()
    connection = http.client.HTTPConnection(*real.admin, timeout=_FLUSH_S)
    try:
        connection.request("POST", "/v1/flush", headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise DriveError(f"the flush was answered {answer.status}: {body[:200]!r}")
    samples: int = json.loads(body)["samples"]
    return samples


def _bytes_under(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
