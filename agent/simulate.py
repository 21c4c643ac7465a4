"""`fallow-agent simulate`: a fleet of VMs in one process, their history first and then, if asked, their present.

`agent.shapes` says what the VMs do; here is when they send it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import heapq
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from agent import shapes
from agent.delivery import add_delivery_options, deliver, guarded, option, parse_factor, parse_time_s, write_manifest
from agent.load import Identity, Load
from agent.settings import ConfigError, parse_count
from agent.shapes import INTERVAL_S, Noise, SimulatedVm

_MAX_DAYS = 400.0
_EXAMPLES = """examples:
  # two weeks of 200 VMs that end now, as fast as the aggregator takes them
  FALLOW_JOIN_TOKEN=$(fallow-aggregator join-token --data DIR --uses 200) \\
    fallow-agent simulate --aggregator http://127.0.0.1:8899 --vms 200 --days 14

  # one day of history, then one sample a minute of each VM until it is stopped
  fallow-agent simulate --aggregator https://fallow.example:8899 --join-token-file token --days 1 --clock-factor 1

  # the original demo: every other VM under 10 %
  fallow-agent simulate --aggregator http://127.0.0.1:8899 --join-token-file token --profiles classic --vms 10
"""


class Sink(Protocol):
    """Where a fleet sends: a `Load`, or a list in tests."""

    async def enrol(self, identity: Identity) -> None: ...

    async def push(self, vm: str, samples: Sequence[str], interval_s: int) -> None: ...


def parse_days(text: str) -> float:
    """Length of the history in days, 0 for none. Raises: ValueError: not between 0 and 400."""
    try:
        days = float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a number of days") from error
    if not 0 <= days <= _MAX_DAYS:
        raise ValueError(f"{text} is not between 0 and {_MAX_DAYS:g} days")
    return days


def parse_seed(text: str) -> int:
    """Any whole number. Raises: ValueError."""
    try:
        return int(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a whole number") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `fallow-agent simulate`."""
    parser.description = "Simulates a fleet of VMs in one process. docs/simulation.md describes the profiles."
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--vms", metavar="N", type=option(parse_count), default=200, help="how many (default 200)")
    add(
        "--profiles",
        metavar="NAME=SHARE,...",
        type=option(shapes.parse_profiles),
        default=shapes.DEFAULT_PROFILES,
        help=f"their mix, of {', '.join(shapes.PROFILES)} (default {shapes.DEFAULT_PROFILES})",
    )
    add("--days", metavar="D", type=option(parse_days), default=14.0, help="length of the history (default 14)")
    add("--seed", metavar="S", type=option(parse_seed), default=1, help="same seed, same samples (default 1)")
    add(
        "--clock-factor",
        metavar="F",
        type=option(parse_factor),
        default="max",
        help="how much faster than the wall the VMs' clock runs; max or 0: as fast as the aggregator takes it "
        "(default); 1: the history as with max, then live, a sample a minute, until stopped",
    )
    add(
        "--end",
        metavar="TIME",
        type=option(_parse_end_s),
        default="now",
        help="when the history ends: now (default) or an ISO 8601 time",
    )
    add_delivery_options(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command. Returns: an exit code."""
    return guarded(lambda: _run(options, now=time.time))


def _parse_end_s(text: str) -> int | None:
    return None if text == "now" else parse_time_s(text)


def _run(options: argparse.Namespace, *, now: Callable[[], float]) -> int:
    factor: float | None = options.clock_factor
    live = factor == 1.0
    if live and options.end is not None:
        raise ConfigError("--end: a live fleet (--clock-factor 1) has no end")
    end_s = math.floor(now() if options.end is None else options.end) // INTERVAL_S * INTERVAL_S
    fleet = shapes.make_fleet(options.profiles, vms=options.vms, days=options.days, end_s=end_s, seed=options.seed)
    noise = Noise(options.seed)
    start_s = min(vm.started_s for vm in fleet)
    write_manifest(options.manifest, shapes.manifest(fleet, end_s))

    async def produce(load: Load) -> None:
        for vm in fleet:
            await load.enrol(identity(vm))
        await send_history(
            fleet,
            noise,
            load,
            span_s=(start_s, end_s),
            factor=None if live else factor,
            batch=options.batch,
            clock=time.monotonic,
            sleep=asyncio.sleep,
        )
        if live:
            await send_live(fleet, noise, load, from_s=end_s, batch=options.batch, now=now, sleep=asyncio.sleep)

    total = sum(max(0, (vm.stops_s or end_s) - vm.started_s) for vm in fleet) // INTERVAL_S
    return deliver(options, produce, total=None if live else total, endless=live)


def identity(vm: SimulatedVm) -> Identity:
    """What a simulated VM says when it enrols: addresses that follow from its id, of private ranges."""
    octets = hashlib.sha256(vm.vm.encode()).digest()
    return Identity(
        vm=vm.vm,
        hostname=vm.vm,
        ips=(f"10.{octets[0]}.{octets[1]}.{octets[2]}",),
        macs=("02:" + octets[:5].hex(":"),),
        machine={"system": "Linux", "kernel": "simulated", "architecture": "x86_64"},
    )


def spread_s(vm: str) -> float:
    """When within the minute a VM sends, 0 <= s < 60, by a hash of its id."""
    return int.from_bytes(hashlib.sha256(vm.encode()).digest()[:4], "big") / 2**32 * INTERVAL_S


async def send_history(
    fleet: Sequence[SimulatedVm],
    noise: Noise,
    load: Sink,
    *,
    span_s: tuple[int, int],
    factor: float | None,
    batch: int,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Sends all samples with span_s[0] < ts <= span_s[1], VM by VM and batch by batch so that all advance together.

    Args: factor: simulated seconds per second of `clock`, None for no waiting.
    """
    done_s, end_s = span_s
    began_s = clock()
    while done_s < end_s:
        until_s = min(end_s, done_s + batch * INTERVAL_S)
        if factor is not None:
            elapsed_s = clock() - began_s
            due_s = span_s[0] + int(elapsed_s * factor) // INTERVAL_S * INTERVAL_S
            if due_s <= done_s:
                # No more than one round a second, however fast their minutes pass.
                await sleep(max(1.0, (done_s + INTERVAL_S - span_s[0]) / factor - elapsed_s))
                continue
            until_s = min(until_s, due_s)
        for vm in fleet:
            texts = vm.samples(noise, done_s, until_s)
            if texts:
                await load.push(vm.vm, texts, INTERVAL_S)
        done_s = until_s


async def send_live(
    fleet: Sequence[SimulatedVm],
    noise: Noise,
    load: Sink,
    *,
    from_s: int,
    batch: int,
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Sends a sample a minute of each VM, spread over the minute; ends only by being cancelled.

    What falls due while the aggregator keeps it waiting goes later in batches, as from a spool.
    """
    due = [(from_s + INTERVAL_S + spread_s(vm.vm), index) for index, vm in enumerate(fleet)]
    heapq.heapify(due)
    sent_s = [from_s] * len(fleet)
    while due:
        due_s, index = due[0]
        wait_s = due_s - now()
        if wait_s > 0:
            await sleep(wait_s)
            continue
        vm = fleet[index]
        passed = max(1, min(batch, int((-wait_s) // INTERVAL_S) + 1))
        until_s = sent_s[index] + passed * INTERVAL_S
        texts = vm.samples(noise, sent_s[index], until_s)
        if texts:
            await load.push(vm.vm, texts, INTERVAL_S)
        sent_s[index] = until_s
        if vm.stops_s is not None and until_s >= vm.stops_s:
            heapq.heappop(due)
        else:
            heapq.heapreplace(due, (due_s + passed * INTERVAL_S, index))
