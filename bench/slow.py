"""What slow connections do to the pushes beside them: the same load with them and without, in turn.

The aggregator, the driver of the pushes and the slow connections are three processes; what each of them used of a CPU
is told, so that a driver that was the bottleneck shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.settings import parse_count
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench.ingest import Aggregator, aggregator
from bench.load_driver import Drive, DriveError, Driver
from bench.outcome import Bar, Outcome, Say
from bench.sink import CONNECTIONS, minute_days_ago, positive, vm_names
from bench.tree import cpu_s

_DAYS_BACK = 13
_MAX_RATIO = 2.0
_ENDS_WITHIN_S = 30.0
_SETTLES_S = 3.0


@dataclass(slots=True)
class Side:
    """All rounds with slow connections, or all without.

    Attributes:
        p99_s: one figure a round.
        ack_s: of all pushes.
        aggregator_cpu_s, driver_cpu_s, slow_cpu_s: what each process used.
        again: slow connections that were closed and opened again.
    """

    p99_s: list[float] = field(default_factory=list)
    ack_s: array[float] = field(default_factory=lambda: array("d"))
    seconds: float = 0.0
    acked: int = 0
    aggregator_cpu_s: float = 0.0
    driver_cpu_s: float = 0.0
    slow_cpu_s: float = 0.0
    slow_open: list[int] = field(default_factory=list)
    again: int = 0

    def take(self, drive: Drive) -> None:
        """Adds a round."""
        self.p99_s.append(drive.quantile_s(0.99))
        self.ack_s.extend(drive.ack_s)
        self.seconds += drive.seconds
        self.acked += drive.acked

    def figures(self) -> dict[str, object]:
        """For people and for JSON."""
        whole = Drive(ack_s=self.ack_s)
        return {
            "pushes_per_s": self.acked / self.seconds,
            "ack_p50_s": whole.quantile_s(0.5),
            "ack_p99_s": statistics.median(self.p99_s),
            "ack_p99_each_round_s": self.p99_s,
            "ack_max_s": max(self.ack_s),
            "aggregator_cpu_ratio": self.aggregator_cpu_s / self.seconds,
            "driver_cpu_ratio": self.driver_cpu_s / self.seconds,
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench slow`."""
    add = parser.add_argument
    add("--slow", metavar="N", type=parse_count, default=2_000, help="slow connections (default 2000)")
    add("--seconds", type=positive, default=35.0, help="each round, with and without (default 35: past the deadline)")
    add("--rounds", type=parse_count, default=3, help="of both, in turn (default 3)")
    add("--pushes-per-s", type=positive, default=1000.0, help="beside them (default 1000)")
    add("--connections", type=parse_count, default=CONNECTIONS, help=f"that push (default {CONNECTIONS})")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Both sides in turn. Raises: DriveError, ProgramError: a process went away."""
    without, beside = Side(), Side()
    vms = vm_names(options.connections)
    with tempfile.TemporaryDirectory(prefix="fallow-slow-") as folder, aggregator(Path(folder)) as real:
        keys = TokenKeys.load_or_create(real.data_dir / KEY_FILE_NAME)
        start_ts = minute_days_ago(_DAYS_BACK)
        driver = Driver(real.address, vms=vms, token=lambda vm: keys.make(vm, 1), start_ts=start_ts)
        try:
            driver.pace(_SETTLES_S, options.pushes_per_s)
            for turn in range(options.rounds):
                drive_once(driver, real, options, without)
                with slow_clients(real.address, options.slow, beside):
                    driver.pace(_SETTLES_S, options.pushes_per_s)  # while they are accepted
                    drive_once(driver, real, options, beside)
                say(
                    f"round {turn + 1} of {options.rounds}: p99 {without.p99_s[-1] * 1e3:.2f} ms without, "
                    f"{beside.p99_s[-1] * 1e3:.2f} ms beside {beside.slow_open[-1]} slow connections"
                )
        finally:
            driver.close()
    return outcome(without, beside)


def outcome(without: Side, beside: Side) -> Outcome:
    """Both sides, and the bar: the middle p99 of the rounds with slow connections / that of those without."""
    ratio = statistics.median(beside.p99_s) / statistics.median(without.p99_s)
    figures = {
        "without": without.figures(),
        "beside": {
            **beside.figures(),
            "slow_cpu_ratio": beside.slow_cpu_s / beside.seconds,
            "slow_connections_open": min(beside.slow_open),
            "slow_connections_cut": beside.again,
        },
        "p99_ratio": ratio,
    }
    return Outcome(figures, (Bar("slow: ack p99 beside slow connections / without", ratio, _MAX_RATIO),))


def drive_once(driver: Driver, real: Aggregator, options: argparse.Namespace, side: Side) -> None:
    """One round, into `side`."""
    before_s, own_before_s = cpu_s(real.pid), own_s()
    side.take(driver.pace(options.seconds, options.pushes_per_s))
    side.aggregator_cpu_s += cpu_s(real.pid) - before_s
    side.driver_cpu_s += own_s() - own_before_s


def own_s() -> float:
    """CPU seconds of this process alone."""
    times = os.times()
    return times.user + times.system


@contextmanager
def slow_clients(address: tuple[str, int], count: int, side: Side) -> Iterator[None]:
    """Slow connections in a process of their own; at the end `side` knows what they saw.

    Raises: DriveError: they did not start, or went away.
    """
    command = [sys.executable, "-m", "bench.slow_clients", address[0], str(address[1]), str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline().strip() != "ready":
            raise DriveError("the slow connections did not start")
        yield
        side.slow_cpu_s += cpu_s(process.pid)
        process.terminate()
        seen = json.loads(process.communicate(timeout=_ENDS_WITHIN_S)[0])
        side.slow_open.append(seen["open"])
        side.again += seen["again"]
    except (ValueError, KeyError) as error:
        raise DriveError("the slow connections went away") from error
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
