"""A load through HAProxy onto one aggregator and onto three, in turn: CPU per VM-minute, whole path.

Three get it twice: as much for each as one has, which is what growing costs, and as much for all together, which is
what spreading costs: a node with a third of the pushes gathers a third as many at a time.

Each round pushes a flush interval's worth of minutes at an even rate and then has all of it stored and summed up. The
CPU is that of the aggregators with their workers; HAProxy's is told apart, in plain text and with TLS before it.
"""

from __future__ import annotations

import argparse
import random
import ssl
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agent.settings import parse_count
from bench import haproxy
from bench.agent import make_certificate
from bench.nodes_cluster import Cluster
from bench.nodes_driver import NodesDriver, PacedLedger
from bench.nodes_trial import NAMES, ledgers_of
from bench.outcome import Bar, Outcome, Say
from bench.postgres import postgres_server
from bench.programs import Program, Programs
from bench.sink import positive
from bench.tree import cpu_s

_SETTLE_WITHIN_S = 60.0
_MAX_RATIO = 1.2
_TLS_CONNECTIONS = 500  # what a push costs does not depend on it, and handshakes take their time
_OPTIONS = ("--flush-interval", "1d", "--retention-raw", "60d")
# Name, nodes, and how many times the load of one they get.
_SIDES = (("one", NAMES[:1], 1), ("three_spread", NAMES, 1), ("three_grown", NAMES, len(NAMES)))


@dataclass(slots=True)
class Side:
    """One cluster under load.

    Attributes:
        us_per_vm_minute: CPU of the aggregators, one figure a round.
        proxy_us_per_push: CPU of HAProxy, one figure a round.
    """

    name: str
    vms: int
    pushes_per_s: float
    cluster: Cluster
    proxy: Program
    driver: NodesDriver
    us_per_vm_minute: list[float] = field(default_factory=list)
    ingest_us_per_vm_minute: list[float] = field(default_factory=list)
    proxy_us_per_push: list[float] = field(default_factory=list)


def add_cost_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench nodes --compare`."""
    add = parser.add_argument
    add("--compare", action="store_true", help="no faults: CPU of three aggregators against that of one")
    add("--rounds", type=parse_count, default=4, help="of --compare, on each side (default 4)")
    add("--round-seconds", type=positive, default=40.0, help="of load in each round of --compare (default 40)")
    add("--minutes", type=parse_count, default=15, help="of each VM in a round of --compare (default 15)")


def compare_costs(options: argparse.Namespace, folder: Path, programs: Programs, say: Say) -> Outcome:
    """Measures; see the module's docstring. Raises: PostgresAbsent, ProxyAbsent, ProgramError, DriveError, OSError."""
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server({"shared_buffers": "128MB", "max_wal_size": "1GB"}))
        stack.callback(programs.stop_all)
        sides = []
        for name, names, times in (
            ("one", NAMES[:1], 1),
            ("three_spread", NAMES, 1),
            ("three_grown", NAMES, len(NAMES)),
        ):
            url = stack.enter_context(server.database())
            below = folder / name
            below.mkdir()
            cluster = Cluster(programs, below / "nodes", names=names, url=url, options=_OPTIONS)
            cluster.start()
            rate = options.pushes_per_s * times
            sides.append(stack.enter_context(_side(name, cluster, programs, below, options, rate, None)))
        for turn in range(options.rounds + 1):
            # In one order and then in the other: what changes on the machine meanwhile hits all alike.
            for side in sides if turn % 2 else reversed(sides):
                _round(side, options, keep=turn > 0)
                if turn:
                    cost_us = side.us_per_vm_minute[-1]
                    say(f"round {turn} of {options.rounds}, {side.name}: {cost_us:.1f} us a VM-minute")
        tls_us = _with_tls(sides[0].cluster, programs, folder, options)
    return _outcome(options, sides, tls_us)


@contextmanager
def _side(
    name: str,
    cluster: Cluster,
    programs: Programs,
    folder: Path,
    options: argparse.Namespace,
    pushes_per_s: float,
    tls: Path | None,
) -> Iterator[Side]:
    """HAProxy before a cluster, and connections to it. Args: tls: folder for a certificate; None: plain text."""
    vms = int(pushes_per_s * options.round_seconds / options.minutes)
    connections = min(vms, options.connections if tls is None else _TLS_CONNECTIONS)
    pem, context = None, None
    if tls is not None:
        ca, _ = make_certificate(tls)
        pem = tls / "both.pem"
        pem.write_bytes(ca.read_bytes() + (tls / "key.pem").read_bytes())
        context = ssl.create_default_context(cafile=str(ca))
    place, proxy = haproxy.start_somewhere(programs, folder, cluster.addresses, pem=pem)
    ledgers: list[PacedLedger] = ledgers_of(vms, cluster)
    driver = NodesDriver(
        place.address, ledgers=ledgers, connections=connections, draw=random.Random(len(cluster.nodes)), tls=context
    )
    try:
        yield Side(name, vms, pushes_per_s, cluster, proxy, driver)
    finally:
        driver.close()


def _round(side: Side, options: argparse.Namespace, *, keep: bool) -> None:
    """One round. Args: keep: its figures count; those of the first, in which workers start, do not."""
    sent, began_s, proxy_began_s = side.driver.sent, side.cluster.cpu_s(), cpu_s(side.proxy.process.pid)
    pushes, samples = sent.acknowledged, sent.samples
    side.driver.run(options.round_seconds, pushes_per_s=side.pushes_per_s)
    side.driver.settle(_SETTLE_WITHIN_S)
    ingest_s, proxy_s = side.cluster.cpu_s() - began_s, cpu_s(side.proxy.process.pid) - proxy_began_s
    side.cluster.flush_all(figures="due")
    if keep:
        samples, pushes = sent.samples - samples, sent.acknowledged - pushes
        side.us_per_vm_minute.append(1e6 * (side.cluster.cpu_s() - began_s) / samples)
        side.ingest_us_per_vm_minute.append(1e6 * ingest_s / samples)
        side.proxy_us_per_push.append(1e6 * proxy_s / pushes)


def _with_tls(cluster: Cluster, programs: Programs, folder: Path, options: argparse.Namespace) -> float:
    """HAProxy's CPU per push over TLS, handshakes not counted."""
    below = folder / "tls"
    below.mkdir()
    with _side("tls", cluster, programs, below, options, options.pushes_per_s, below) as side:
        began_s, pushes = cpu_s(side.proxy.process.pid), side.driver.sent.acknowledged
        side.driver.run(options.round_seconds / 2, pushes_per_s=options.pushes_per_s)
        side.driver.settle(_SETTLE_WITHIN_S)
        return 1e6 * (cpu_s(side.proxy.process.pid) - began_s) / (side.driver.sent.acknowledged - pushes)


def _outcome(options: argparse.Namespace, sides: Sequence[Side], tls_us: float) -> Outcome:
    one, *others = sides
    figures: dict[str, object] = {"rounds": options.rounds, "minutes_a_flush": options.minutes}
    for side in sides:
        figures[side.name] = {
            "vms": side.vms,
            "pushes_per_s": side.pushes_per_s,
            "cpu_us_per_vm_minute": _mean(side.us_per_vm_minute),
            "ingest_us_per_vm_minute": _mean(side.ingest_us_per_vm_minute),
            "haproxy_us_per_push": _mean(side.proxy_us_per_push),
        }
    figures["haproxy_us_per_push_tls"] = round(tls_us, 1)
    bars = []
    for side in others:
        ratios = [b / a for a, b in zip(one.us_per_vm_minute, side.us_per_vm_minute, strict=True)]
        figures[f"ratios_{side.name}"] = [round(ratio, 3) for ratio in ratios]
        load = "on each" if side.pushes_per_s > one.pushes_per_s else "in all"
        bars.append(
            Bar(f"CPU per VM-minute, three nodes / one, the same load {load}", statistics.median(ratios), _MAX_RATIO)
        )
    return Outcome(figures, tuple(bars))


def _mean(values: list[float]) -> float:
    return round(statistics.fmean(values), 1)
