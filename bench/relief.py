"""`python -m bench relief`: CPU time of a plan that relieves hot hosts, by every planner, from world to steps."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agent.settings import parse_count
from bench.outcome import Bar, Outcome, Say
from orchestrate.driver import Capabilities, Verb
from orchestrate.groups import MoveSettings, ReclaimSettings
from orchestrate.hotspots.planners.registry import PLANNERS
from orchestrate.hotspots.relief import ReliefSettings, plan_relief
from orchestrate.inventory import Host, Inventory, Vm, VmRef, VmState
from orchestrate.limits import Limits
from orchestrate.plan import encode_plan
from orchestrate.sighting import Fleet, Minute, Sighting
from orchestrate.world import World, make_world
from reports.verdicts import Verdict

NOW_S = 1_700_000_000.0 // 60 * 60 + 5
GIB = 2**30
DRIVER = "bench"
# VMs, hosts and the CPU seconds that one plan may take.
SIZES: Sequence[tuple[int, int, float]] = ((500, 50, 0.1), (100_000, 10_000, 10.0))
_NO_LIMITS = Limits(run=10**9, hour=10**9, host=10**9, owner=10**9)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be chosen on the command line."""
    parser.add_argument("--vms", type=parse_count, metavar="N", help="one fleet of so many VMs on N/10 hosts, no bars")
    parser.add_argument("--hot", type=float, default=0.1, metavar="RATIO", help="share of hosts that are hot (0.1)")
    parser.add_argument("--seed", type=int, default=1, help="of the fleet (1)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Plans for each fleet by each planner, without the controller's own limits; the best of three small ones."""
    sizes = SIZES if options.vms is None else ((options.vms, max(options.vms // 10, 2), np.inf),)
    rules = ReclaimSettings(limits=_NO_LIMITS, relief=MoveSettings(allowed=True))
    rows: list[dict[str, object]] = []
    bars: list[Bar] = []
    for vms, hosts, limit_s in sizes:
        world = make_fleet(vms, hosts, hot_ratio=options.hot, seed=options.seed)
        say(f"{vms:,} VMs on {hosts:,} hosts")
        for name, planner in PLANNERS.items():
            settings = replace(ReliefSettings(), planner=planner)
            times = []
            for _ in range(3 if vms < 10_000 else 1):
                began_s = time.process_time()
                found = plan_relief(world, settings, rules, made_by="bench", settings_sha256="")
                times.append(time.process_time() - began_s)
            cpu_s = min(times)
            rows.append(
                {
                    "vms": vms,
                    "planner": name,
                    "cpu_s": cpu_s,
                    "hot_hosts": len({one.host_id for one in found.hot}),
                    "moves": len(found.plan.steps),
                    "stuck_hosts": len(found.plan.notes),
                    "plan_bytes": len(encode_plan(found.plan)),
                }
            )
            say(f"  {name}: {cpu_s:.3f} s, {len(found.plan.steps)} moves")
            if limit_s < np.inf:
                bars.append(Bar(f"{name.replace('-', '_')}_{vms}_vms_cpu_s", cpu_s, limit_s))
    return Outcome(figures={"seed": options.seed, "hot_ratio": options.hot, "plans": rows}, bars=tuple(bars))


def make_fleet(vms: int, hosts: int, *, hot_ratio: float, seed: int) -> World:
    """A world of VMs spread evenly over equal hosts, a share of which has run hot for the last four minutes."""
    draw = np.random.default_rng(seed)
    host_of = np.sort(np.arange(vms) % hosts)
    hot = draw.random(hosts) < hot_ratio
    hot[0] = True
    busy = draw.uniform(0.05, 0.35, vms)
    hot_busy = draw.uniform(0.75, 1.0, vms)
    vcpus = draw.choice([2, 4], vms)
    memory = draw.choice([2, 4, 8], vms) * GIB
    cores = int(np.ceil(vcpus.sum() / hosts / 8) * 8)
    mem_bytes = int(max(128, 2 ** np.ceil(np.log2(8 * vms / hosts + 1))) * GIB)
    made = []
    sightings = {}
    for number in range(vms):
        uuid = f"{number:08x}-0000-4000-8000-000000000000"
        made.append(
            Vm(
                ref=VmRef(DRIVER, uuid),
                name=f"vm-{number}",
                host_id=f"h{host_of[number]:05d}",
                state=VmState.RUNNING,
                vcpus=int(vcpus[number]),
                mem_bytes=int(memory[number]),
            )
        )
        is_hot = bool(hot[host_of[number]])
        minutes = tuple(
            _minute(slot, float(hot_busy[number] if is_hot and slot >= 6 else busy[number]), int(memory[number]))
            for slot in range(10)
        )
        sightings[uuid] = _sighting(uuid, number, minutes)
    inventory = Inventory(
        driver=DRIVER,
        read_s=NOW_S,
        hosts=tuple(
            Host(driver=DRIVER, host_id=f"h{number:05d}", cores=cores, mem_bytes=mem_bytes) for number in range(hosts)
        ),
        vms=tuple(made),
    )
    return make_world(
        now_s=NOW_S,
        fleet=Fleet(read_s=NOW_S, sightings=sightings, live=True),
        inventories=[inventory],
        capabilities={DRIVER: Capabilities(verbs=frozenset(Verb))},
    )


def _minute(slot: int, busy: float, mem_bytes: int) -> Minute:
    return Minute(
        ts_s=NOW_S // 60 * 60 - (9 - slot) * 60.0,
        interval_s=60.0,
        cpu_busy_ratio=busy,
        mem_used_bytes=mem_bytes * 0.15,
        users=0,
        net_rx_bytes_per_s=2e4,
        net_tx_bytes_per_s=1e4,
        swap_used_bytes=0.0,
    )


def _sighting(uuid: str, number: int, minutes: tuple[Minute, ...]) -> Sighting:
    return Sighting(
        vm_id=uuid,
        name=f"vm-{number}",
        owner=f"team-{number % 20}",
        mail=None,
        tags=(),
        macs=(),
        addresses=(),
        policy="p95",
        verdict=Verdict.ACTIVE,
        cause="above a limit",
        sentence="",
        score=0.0,
        confidence_ratio=0.0,
        days=30.0,
        coverage_ratio=1.0,
        newest_s=minutes[-1].ts_s,
        skew_s=0.0,
        minutes=minutes,
    )
