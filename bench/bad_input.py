"""Bad input at the agents' door, in bulk: every kind of it, each with the class of answer that the rules promise.

Most inputs meet the real door without a socket, as many as the CPU takes; some meet a real aggregator over TCP.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from pathlib import Path
from typing import Protocol

from twisted.logger import LogLevel, globalLogPublisher

from agent.settings import parse_count
from aggregator.door_parts import DoorCounters
from bench.bad_input_doors import Doors
from bench.bad_input_findings import DAYS_BACK, KINDS, VMS, Findings, Made, inputs, rss_bytes
from bench.bad_input_maker import Surroundings
from bench.bad_input_tcp import over_tcp
from bench.outcome import Bar, Outcome, Say
from bench.sink import minute_days_ago, vm_names

_MAX_GROWTH_RATIO = 1.05


class Door(Protocol):
    """What inputs are put to."""

    @property
    def counters(self) -> DoorCounters: ...

    def ask(self, pieces: list[bytes]) -> bytes: ...


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench bad-input`."""
    add = parser.add_argument
    add("--inputs", metavar="N", type=parse_count, default=1_000_000, help="without a socket (default 1000000)")
    add("--real-inputs", metavar="N", type=parse_count, default=25_000, help="over TCP (default 25000)")
    add("--seed", metavar="S", type=int, default=1, help="of everything (default 1)")
    add("--first", metavar="I", type=int, default=0, help="number of the first input, to have one again (default 0)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Both runs. Raises: DriveError, ProgramError: the aggregator went away."""
    inside = without_socket(options.seed, options.first, options.inputs, say)
    with tempfile.TemporaryDirectory(prefix="fallow-bad-input-") as folder:
        outside = over_tcp(Path(folder), options.seed, options.first, options.real_inputs, say)
    for line in (*inside.wrong, *outside.wrong):
        say(line)
    return outcome(inside, outside)


def outcome(inside: Findings, outside: Findings) -> Outcome:
    """Figures of both runs, and the bars."""
    figures: dict[str, object] = {"kinds": len(KINDS)}
    bars = []
    for name, found in (("in_process", inside), ("tcp", outside)):
        figures |= {
            f"{name}_inputs": found.inputs,
            f"{name}_inputs_per_s": found.inputs / found.seconds,
            f"{name}_acknowledged_samples": found.stored,
            f"{name}_rss_half_bytes": found.rss_half_bytes,
            f"{name}_rss_end_bytes": found.rss_end_bytes,
            f"{name}_answers": {str(status): count for status, count in sorted(found.by_status.items())},
        }
        words = name.replace("_", " ")
        bars += [
            Bar(f"{words}: unhandled exceptions", float(found.failures), 0.0),
            Bar(f"{words}: wrong classes of answer", float(found.wrong_count), 0.0),
            Bar(f"{words}: memory at the end / half-way", found.growth_ratio, _MAX_GROWTH_RATIO),
        ]
    return Outcome(figures, tuple(bars))


def without_socket(seed: int, first: int, count: int, say: Say) -> Findings:
    """Asks the door of this process."""
    now_s = time.time()
    doors = Doors(now_s)
    shared = Surroundings(
        token=lambda vm: doors.keys.make(vm, 1), vms=vm_names(VMS), start_ts=minute_days_ago(DAYS_BACK), now_s=now_s
    )
    found = Findings()
    critical: list[object] = []

    def watch(event: object) -> None:
        if isinstance(event, dict) and event.get("log_level") in (LogLevel.critical, LogLevel.error):
            critical.append(event)

    globalLogPublisher.addObserver(watch)  # type: ignore[arg-type]
    began_s = time.monotonic()
    try:
        for made in inputs(shared, seed, range(first, first + count)):
            ask(doors, made, found)
            if found.inputs == count // 2:
                found.rss_half_bytes = own_rss_bytes()
            if found.inputs % 100_000 == 0:
                say(f"{found.inputs} of {count} inputs, {found.wrong_count} wrong")
    finally:
        globalLogPublisher.removeObserver(watch)  # type: ignore[arg-type]
    found.rss_end_bytes = own_rss_bytes()
    found.seconds = time.monotonic() - began_s
    found.failures += doors.counters.errors + len(critical)
    return found


def ask(doors: Door, made: Made, found: Findings) -> None:
    """Asks one input. What the door raises is counted as it would be met by the reactor: as a failure."""
    before = doors.counters.samples
    try:
        answers = doors.ask(made.pieces)
    except Exception as error:
        found.failures += 1
        found.note(made, f"raised {error!r}")
        return
    found.take(made, answers)
    kept = doors.counters.samples - before
    if made.kind.answers and kept != made.kind.stored:
        found.note(made, f"{kept} samples were stored instead of {made.kind.stored}")


def own_rss_bytes() -> int:
    """Resident memory of this process, after a collection."""
    gc.collect()
    return rss_bytes("self")
