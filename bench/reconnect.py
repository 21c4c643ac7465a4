"""All agents at once after an outage: how long until what each has kept for an hour is stored, and at what price."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.settings import parse_count
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench.bad_input_tcp import doors_of
from bench.ingest import Aggregator, aggregator
from bench.load_driver import DriveError
from bench.outcome import Bar, Outcome, Say
from bench.reconnect_agents import SAMPLES
from bench.tree import cpu_s, peak_rss_bytes

_MAX_STORED_S = 120.0
_MAX_RSS_BYTES = 1 << 30
_READY_WITHIN_S = 300.0
_DONE_WITHIN_S = 400.0
_FLUSH_WITHIN_S = 600.0
_EXPECTED = {"200", "204", "429", "503"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench reconnect`."""
    add = parser.add_argument
    add("--agents", metavar="N", type=parse_count, default=10_000, help="that come back (default 10000)")
    add("--processes", metavar="N", type=parse_count, default=4, help="they are spread over (default 4)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Makes the agents, lets them loose, flushes. Raises: DriveError, ProgramError: a process went away."""
    with tempfile.TemporaryDirectory(prefix="fallow-reconnect-") as folder, aggregator(Path(folder)) as real:
        key_file = real.data_dir / KEY_FILE_NAME
        TokenKeys.load_or_create(key_file)
        say(f"{options.agents} agents pack an hour of {SAMPLES} samples each")
        with agents(real, key_file, options.agents, options.processes) as processes:
            began_s, before_s = time.monotonic(), cpu_s(real.pid)
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            seen = collect(processes)
            took_s = time.monotonic() - began_s
            used_s = cpu_s(real.pid) - before_s
            say(f"all back after {took_s:.1f} s; flushing")
            peak_bytes = peak_rss_bytes(real.pid)
            doors = doors_of(real)
            report = json.loads(doors.ask("/v1/flush", method="POST", within_s=_FLUSH_WITHIN_S))
            metrics = doors.ask("/metrics", method="GET", within_s=_FLUSH_WITHIN_S)
        flushed_s = time.monotonic() - began_s
    stored = sum(
        int(float(line.split()[1])) for line in metrics.splitlines() if line.startswith("fallow_flushed_samples_total ")
    )
    figures: dict[str, object] = {
        "agents": options.agents,
        "samples": options.agents * SAMPLES,
        "stored_samples": stored,
        "flush_failures": report["failures"],
        "flushed_after_s": flushed_s,
        "aggregator_cpu_s": used_s,
        "agents_cpu_s": sum(float(str(part["cpu_s"])) for part in seen),
        "peak_rss_bytes": peak_bytes,
    }
    return outcome(figures, seen)


def outcome(figures: Mapping[str, object], seen: Sequence[Mapping[str, object]]) -> Outcome:
    """Figures and bars from what the processes of agents saw."""
    done_s = sorted(float(one) for part in seen for one in _numbers(part["done_s"]))
    statuses: Counter[str] = Counter()
    for part in seen:
        found = part["statuses"]
        assert isinstance(found, dict)
        statuses.update(found)
    agents_count = int(str(figures["agents"]))
    samples = int(str(figures["samples"]))
    wrong = sum(count for status, count in statuses.items() if status not in _EXPECTED)
    figures = {
        **figures,
        "acknowledged_agents": len(done_s),
        "half_acknowledged_after_s": done_s[len(done_s) // 2] if done_s else None,
        "all_acknowledged_after_s": done_s[-1] if len(done_s) == agents_count else None,
        "broken_connections": sum(int(str(part["broken"])) for part in seen),
        "answers": dict(sorted(statuses.items())),
    }
    return Outcome(
        figures,
        (
            Bar("reconnect: agents not served", float(agents_count - len(done_s)), 0.0),
            Bar("reconnect: samples not stored", float(samples - int(str(figures["stored_samples"]))), 0.0),
            Bar("reconnect: all stored after, s", float(str(figures["flushed_after_s"])), _MAX_STORED_S),
            Bar("reconnect: answers other than 2xx, 429, 503", float(wrong), 0.0),
            Bar("reconnect: peak memory, bytes", float(str(figures["peak_rss_bytes"])), float(_MAX_RSS_BYTES)),
        ),
    )


def _numbers(value: object) -> list[float]:
    assert isinstance(value, list)
    return value


@contextmanager
def agents(real: Aggregator, key_file: Path, count: int, processes: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of agents that have made their pushes and wait. Raises: DriveError: one did not get ready."""
    started: list[subprocess.Popen[str]] = []
    host, port = real.address
    try:
        for turn in range(processes):
            first, end = count * turn // processes, count * (turn + 1) // processes
            place = [str(key_file), host, str(port), str(first), str(end - first)]
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.reconnect_agents", *place],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for process in started:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise DriveError("agents did not start")
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def collect(processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, object]]:
    """What each process saw, once all are through. Raises: DriveError: one went away or is too slow."""
    overdue = threading.Timer(_DONE_WITHIN_S, _kill, [processes])
    overdue.start()
    try:
        seen = []
        for process in processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise DriveError("agents went away, or were not through in time")
            seen.append(json.loads(line))
        return seen
    finally:
        overdue.cancel()


def _kill(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
