"""`python -m bench peers`: the same work through fallow and through what people use instead, in one run.

Paced pushes as in real life, pushes as fast as they go, batches after an outage, kill -9, disk of 14 days, and the
question which VMs did least; each system in turn, several rounds. Our agent beside two others. CPU is that of a
server and its children, from the first push until it is at rest again. What is not installed is left out, and told.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from agent.settings import ConfigError, parse_count
from agent.traces import TraceError
from bench import peers_agents, peers_influx, peers_question, peers_victoria
from bench.flush import write_templates
from bench.load_driver import DriveError
from bench.outcome import Bar, Outcome, Say
from bench.peers_carbon import Carbon, CarbonHome
from bench.peers_disk import DAY_S, disk_bytes_per_point, recorded, simulated
from bench.peers_fallow import Fallow
from bench.peers_figures import kinds
from bench.peers_influx import InfluxDb
from bench.peers_rounds import FLUSH_MINUTES, Cost, Lane, batch_rounds, paced_rounds, saturated_rounds
from bench.peers_system import System
from bench.peers_victoria import VictoriaMetrics
from bench.programs import ProgramError
from bench.sink import positive

PARTS = ("paced", "saturated", "batches", "kill", "disk", "question", "agents")
_PEERS = ("victoria", "influx", "carbon")
_HOURS_BACK = 26  # histories end so long ago: the minutes of all rounds fit between then and now
_MOST_MINUTES = (_HOURS_BACK + 20) * 60  # an aggregator takes samples of up to a day ahead
_KINDS = 64
_LOADING_S = 3_600
_RAW_DAYS, _ROLLUP_DAYS = 14, 30
# How much better than a peer: at least so many times.
_PACED_BARS = {VictoriaMetrics.name: 1.5, InfluxDb.name: 2.0, Carbon.name: 3.0}
_SATURATED_BARS = {InfluxDb.name: 1.0, VictoriaMetrics.name: 0.5}
_DISK_BAR = 3.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench peers`."""
    add = parser.add_argument
    add("--parts", type=_chosen(PARTS), default=PARTS, help=f"some of {','.join(PARTS)} (default all)")
    add("--peers", type=_chosen(_PEERS), default=_PEERS, help=f"some of {','.join(_PEERS)} (default: what is there)")
    add("--vms", type=parse_count, default=1_000, help="VMs that push (default 1000)")
    add("--minutes", type=parse_count, default=60, help="of each VM in a round, a multiple of 15 x turns (default 60)")
    add("--turns", type=parse_count, default=4, help="flushes in which fallow stores each VM once (default 4)")
    add("--rounds", type=parse_count, default=3, help="of each kind of work (default 3)")
    add("--connections", type=parse_count, default=200, help="kept open (default 200)")
    add("--pushes-per-s", type=positive, default=1_000.0, help="paced (default 1000)")
    add("--batch-vms", type=parse_count, default=50, help="VMs whose spools come in, each round (default 50)")
    add("--batches", type=parse_count, default=4, help="of 500 minutes, of each of them (default 4)")
    add("--kill-seconds", type=positive, default=20.0, help="paced pushes before kill -9 (default 20)")
    add("--days", type=parse_count, default=14, help="of history on disk and in the question (default 14)")
    add("--disk-vms", type=parse_count, default=50, help="simulated VMs on disk (default 50)")
    add("--trace", type=Path, help="recorded VMs for the disk as well, as `fallow-agent replay` reads them")
    add("--trace-vms", type=parse_count, default=50, help="of them (default 50)")
    add("--question-vms", type=parse_count, default=1_000, help="VMs of the question (default 1000)")
    add("--agent-minutes", type=parse_count, default=5, help="agents side by side (default 5)")
    add(
        "--carbon",
        type=Path,
        default=_default_carbon(),
        help="environment of carbon, made if absent (default %(default)s)",
    )
    add("--folder", type=Path, help="where the data go (default: a temporary folder; about 7 GB)")


def _chosen(names: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        wanted = tuple(part.strip() for part in text.split(","))
        for name in wanted:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return wanted

    return parse


def _default_carbon() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "fallow-bench" / "carbon"


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Measures; see the module's docstring. Raises: ConfigError, ProgramError: a system cannot be started or fails."""
    killed = options.kill_seconds * options.pushes_per_s / options.vms
    around = options.turns * FLUSH_MINUTES
    if options.minutes % around or around + options.minutes * options.rounds * 2 + killed > _MOST_MINUTES:
        wanted = f"a multiple of {around}, and not that many"
        raise ConfigError(f"--minutes: {options.minutes} in {options.rounds} rounds: {wanted}")
    found = Found()
    folder = Path(tempfile.mkdtemp(prefix="fallow-peers-", dir=options.folder))
    try:
        run_parts(options, folder, found, say)
    except (DriveError, TraceError) as error:
        raise ProgramError(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome(found)


@dataclass(slots=True)
class Found:
    """What was measured, each by system; empty where a part was left out.

    Attributes:
        versions, settings: of each.
        disk: bytes a data point, of simulated VMs and of recorded ones.
        answers, agents: tables.
    """

    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    paced: dict[str, Cost] = field(default_factory=dict)
    saturated: dict[str, Cost] = field(default_factory=dict)
    batches: dict[str, Cost] = field(default_factory=dict)
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    killed_of: dict[str, int] = field(default_factory=dict)
    disk: dict[str, float] = field(default_factory=dict)
    disk_recorded: dict[str, float] = field(default_factory=dict)
    answers: list[dict[str, object]] = field(default_factory=list)
    agents: list[dict[str, object]] = field(default_factory=list)


def run_parts(options: argparse.Namespace, folder: Path, found: Found, say: Say) -> None:
    """Each chosen part, on systems with fresh data where the part needs that."""
    make = makers(options, say)
    if {"paced", "saturated", "batches", "kill"} & set(options.parts):
        _pushes(options, folder, make, (int(time.time()) // 3600 - _HOURS_BACK) * 3600, found, say)
    end_s = int(time.time()) // 60 * 60
    # Nobody keeps or takes older rows: an hour is left for the loading.
    after_s = end_s - options.days * DAY_S + _LOADING_S
    if "disk" in options.parts:
        settling = compacting(make)
        histories = simulated(options.disk_vms, after_s=after_s, end_s=end_s)
        with running(settling, folder / "disk") as systems:
            found.disk = disk_bytes_per_point(systems, histories, after_s, say)
        if options.trace is not None:
            # A row of whisper takes the same room whatever is in it, and four minutes of five would be empty.
            kept = {name: each for name, each in settling.items() if name != "carbon"}
            histories = recorded(options.trace, options.trace_vms, after_s=after_s, end_s=end_s)
            with running(kept, folder / "recorded") as systems:
                found.disk_recorded = disk_bytes_per_point(systems, histories, after_s, say)
    if "question" in options.parts:
        with running(make, folder / "question") as systems:
            answers = peers_question.ask_all(
                systems,
                options.question_vms,
                days=options.days,
                after_s=after_s,
                end_s=end_s,
                folder=folder,
                say=say,
            )
        found.answers = [answer.row(answers[0].vms) for answer in answers]
    if "agents" in options.parts:
        (folder / "agents").mkdir()
        found.agents = peers_agents.measure(folder / "agents", options.agent_minutes, say)


Make = Callable[[Path], System]


def makers(options: argparse.Namespace, say: Say) -> Mapping[str, Make]:
    """How each system is made that is asked for and there; fallow is the first."""
    found: dict[str, Make] = {"fallow": partial(Fallow, turns=options.turns)}
    for name, program, make in (
        ("victoria", peers_victoria.PROGRAM, VictoriaMetrics),
        ("influx", peers_influx.PROGRAM, InfluxDb),
    ):
        if name not in options.peers:
            continue
        if program.exists():
            found[name] = make
        else:
            say(f"{name}: {program} is not installed: left out")
    if "carbon" in options.peers:
        home = CarbonHome(options.carbon)
        try:
            home.make(say)
        except ProgramError as error:
            say(f"carbon: {error}: left out")
        else:
            found["carbon"] = lambda folder: Carbon(folder, home)
    return found


def compacting(make: Mapping[str, Make]) -> Mapping[str, Make]:
    """The same, none of which puts off for hours what makes its data small."""
    return {name: partial(InfluxDb, compacts_now=True) if name == "influx" else one for name, one in make.items()}


@contextmanager
def running(make: Mapping[str, Make], folder: Path) -> Iterator[list[System]]:
    """All of them, started on fresh folders; at the end they and their data are gone. Raises: ProgramError."""
    systems: list[System] = []
    try:
        for name, one in make.items():
            systems.append(one(folder / name))
            systems[-1].start()
        yield systems
    finally:
        for system in reversed(systems):
            system.close()
        shutil.rmtree(folder, ignore_errors=True)


def _pushes(
    options: argparse.Namespace, folder: Path, make: Mapping[str, Make], end_s: int, found: Found, say: Say
) -> None:
    write_templates(folder / "templates", end_s, _RAW_DAYS, _ROLLUP_DAYS)
    templates = sorted((folder / "templates").glob("*.db"))
    vms = [f"bench-{index:06d}" for index in range(options.vms)]
    texts = kinds(_KINDS, end_s=end_s)
    with running(make, folder / "pushes") as systems:
        lanes = [Lane(system, vms, texts, end_s) for system in systems]
        for lane in lanes:
            system = lane.system
            found.versions[system.name] = system.version
            found.settings[system.name] = system.settings
            system.prefill(vms, templates)
            lane.warm_up(options.turns * FLUSH_MINUTES, options.connections)
            say(f"{system.version} is warm")
        if "paced" in options.parts:
            paced_rounds(
                lanes,
                rounds=options.rounds,
                minutes=options.minutes,
                connections=options.connections,
                pushes_per_s=options.pushes_per_s,
                say=say,
            )
            found.peak_rss_bytes = {lane.system.name: lane.peak_rss_bytes for lane in lanes}
            found.paced = {lane.system.name: lane.paced for lane in lanes}
        if "saturated" in options.parts:
            saturated_rounds(
                lanes, rounds=options.rounds, minutes=options.minutes, connections=options.connections, say=say
            )
            found.saturated = {lane.system.name: lane.saturated for lane in lanes}
        for lane in lanes:
            lane.check()
        if "batches" in options.parts:
            batch_rounds(lanes, rounds=options.rounds, vms=options.batch_vms, batches=options.batches, say=say)
            found.batches = {lane.system.name: lane.batches for lane in lanes}
        if "kill" in options.parts:
            for lane in lanes:
                lane.kill(options.kill_seconds, options.connections, options.pushes_per_s)
                found.lost[lane.system.name], found.killed_of[lane.system.name] = lane.lost, lane.killed_of
                say(f"kill -9, {lane.system.name}: {lane.lost} of {lane.killed_of} lost")


def outcome(found: Found) -> Outcome:
    """A table with a row a system, the figures behind it, and the bars."""
    figures: dict[str, object] = {
        "python": platform.python_version(),
        "versions": found.versions,
        "settings": found.settings,
        "table": _table(found),
        "paced": {name: cost.figures() for name, cost in found.paced.items()},
        "saturated": {name: cost.figures() for name, cost in found.saturated.items()},
        "batches": {name: cost.figures() for name, cost in found.batches.items()},
        "lowest": found.answers,
        "agents": found.agents,
    }
    return Outcome({name: value for name, value in figures.items() if value}, tuple(_bars(found)))


def _table(found: Found) -> list[dict[str, object]]:
    """A row a system; None where something was not measured."""
    names = [*dict.fromkeys((*found.paced, *found.saturated, *found.batches, *found.disk))]
    answers = {str(row["system"]): row["seconds"] for row in found.answers}
    rows: list[dict[str, object]] = []
    for name in names:
        paced, saturated, batches = found.paced.get(name), found.saturated.get(name), found.batches.get(name)
        rows.append(
            {
                "system": name,
                "paced_vm_minutes_per_cpu_s": paced and round(paced.minutes_per_cpu_s),
                "saturated_vm_minutes_per_cpu_s": saturated and round(saturated.minutes_per_cpu_s),
                "saturated_vm_minutes_per_s": saturated and round(saturated.minutes_per_s),
                "batches_cpu_s_per_million_points": batches and round(batches.cpu_s_per_million_points, 2),
                "ack_p99_s": paced.drive.quantile_s(0.99) if paced and paced.drive.ack_s else None,
                "peak_rss_bytes": found.peak_rss_bytes.get(name),
                "disk_bytes_per_point": found.disk.get(name),
                "recorded_bytes_per_point": found.disk_recorded.get(name),
                "lost_vm_minutes": found.lost.get(name),
                "of_acknowledged": found.killed_of.get(name),
                "lowest_20_s": answers.get(name),
            }
        )
    return rows


def _bars(found: Found) -> Iterator[Bar]:
    """Those whose both sides were measured."""
    ours = Fallow.name
    for costs, limits, what in (
        (found.paced, _PACED_BARS, "paced, VM-minutes per CPU-second"),
        (found.saturated, _SATURATED_BARS, "as fast as it goes, VM-minutes per CPU-second"),
    ):
        for name, limit in limits.items():
            if name in costs:
                ratio = costs[ours].minutes_per_cpu_s / costs[name].minutes_per_cpu_s
                yield Bar(f"{what}: {ours} / {name}", round(ratio, 3), limit, at_least=True)
    if ours in found.lost:
        yield Bar("acknowledged VM-minutes lost at kill -9", found.lost[ours], 0)
    for disk, what in ((found.disk, "disk, bytes a data point"), (found.disk_recorded, "disk, recorded VMs")):
        if VictoriaMetrics.name in disk:
            ratio = disk[ours] / disk[VictoriaMetrics.name]
            yield Bar(f"{what}: {ours} / {VictoriaMetrics.name}", round(ratio, 3), _DISK_BAR)
    seconds = {str(row["system"]): float(str(row["seconds"])) for row in found.answers}
    for name, peer_s in seconds.items():
        if name != ours:
            yield Bar(f"lowest 20, seconds: {ours} / {name}", round(seconds[ours] / peer_s, 4), 1.0)
