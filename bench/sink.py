"""The agents' door alone: the same Protocol, parser and decoder, without token, journal and buffer.

The yardstick of `bench ingest`: what a push costs before anything is kept. `python -m bench.sink` serves it.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agent.settings import parse_count
from aggregator.agents_door import AgentsDoor
from aggregator.answers import STORED
from aggregator.decode import Push
from aggregator.http import Request
from bench.load_driver import DriveError, Driver
from bench.outcome import Outcome, Say
from bench.sink_server import serve
from bench.tree import cpu_s, peak_rss_bytes

CONNECTIONS = 200


class SinkDoor(AgentsDoor):
    """Decodes a push and forgets it."""

    def authorise(self, request: Request) -> str:
        """Whatever VM the push says it is of."""
        return request.fallow_vm.decode("latin-1")

    def keep(self, push: Push, received_s: float) -> None:  # noqa: ARG002
        """Answers as if the push were stored."""
        self.new_slot().settle(STORED)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench sink`."""
    parser.add_argument("--seconds", type=positive, default=10.0, help="length of the run (default 10)")
    parser.add_argument(
        "--connections", type=parse_count, default=CONNECTIONS, help=f"keep-alive (default {CONNECTIONS})"
    )


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Saturates a sink in a process of its own."""
    with serve_sink() as (process, address):
        vms = vm_names(options.connections)
        driver = Driver(address, vms=vms, token=lambda _: "none", start_ts=minute_days_ago(6))
        try:
            driver.saturate(min(1.0, options.seconds))
            say(f"saturating the sink for {options.seconds:g} s")
            before_s = cpu_s(process.pid)
            drive = driver.saturate(options.seconds)
            used_s = cpu_s(process.pid) - before_s
        finally:
            driver.close()
        return Outcome(
            {
                "connections": options.connections,
                "pushes": drive.acked,
                "pushes_per_s": drive.acked / drive.seconds,
                "sink_pushes_per_cpu_s": drive.acked / used_s,
                "ack_p50_s": drive.quantile_s(0.5),
                "ack_p99_s": drive.quantile_s(0.99),
                "peak_rss_bytes": peak_rss_bytes(process.pid),
            }
        )


def positive(text: str) -> float:
    """A number above zero. Raises: ValueError."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError(f"{text} is not more than zero")
    return value


def vm_names(count: int) -> list[str]:
    """Ids as long as real ones."""
    return [f"{index:08x}-6f9c-4b1e-8d2a-3c4d5e6f7a8b" for index in range(count)]


def minute_days_ago(days: float) -> int:
    """A minute that leaves room for many more before now, and lies within the retention of raw rows."""
    return int(time.time() - days * 86400) // 60 * 60


@contextmanager
def serve_sink() -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """A sink in a process of its own, and its address. Raises DriveError: it did not start."""
    process = subprocess.Popen([sys.executable, "-m", "bench.sink"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if len(line) != 2:
            raise DriveError("the sink did not start")
        yield process, (line[0], int(line[1]))
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def main() -> None:
    """Serves a sink on a free port, prints it, and ends with SIGTERM."""
    from twisted.internet import epollreactor  # noqa: PLC0415

    epollreactor.install()  # type: ignore[no-untyped-call]
    from twisted.internet import reactor  # noqa: PLC0415

    serve(reactor, SinkDoor)


if __name__ == "__main__":
    main()
