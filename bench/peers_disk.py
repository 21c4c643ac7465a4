"""What a history takes on disk: simulated VMs with every figure, and recorded ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.shapes import INTERVAL_S, Noise
from agent.traces import read_trace
from bench.load_driver import Drive
from bench.outcome import Say
from bench.peers_driver import Pusher
from bench.peers_figures import Minute, lively_fleet, minute_of, minutes_of
from bench.peers_rounds import BATCH_MINUTES
from bench.peers_system import System
from bench.programs import ProgramError

DAY_S = 86_400
_STORE_EVERY_BATCHES = 2_000


@dataclass(frozen=True, slots=True)
class History:
    """One VM's minutes, oldest first."""

    vm: str
    interval_s: int
    minutes: Sequence[Minute]


@dataclass(slots=True)
class Loaded:
    """What a system was given. `vms`: their ids."""

    vms: list[str] = field(default_factory=list)
    minutes: int = 0
    points: int = 0


def simulated(vms: int, *, after_s: int, end_s: int) -> Iterator[History]:
    """Simulated VMs with every figure, in after_s < ts <= end_s."""
    noise = Noise(3)
    for vm in lively_fleet(vms, days=(end_s - after_s) / DAY_S, end_s=end_s, seed=3):
        yield History(vm.vm, INTERVAL_S, minutes_of(vm, noise, after_s, end_s))


def recorded(trace: Path, vms: int, *, after_s: int, end_s: int) -> Iterator[History]:
    """Recorded VMs, their last days moved to end at `end_s`. Raises: TraceError."""
    for recording in read_trace(trace, vms=vms):
        if not recording.rows:
            continue
        interval_s = recording.interval_s
        shift_s = end_s // interval_s * interval_s - recording.rows[-1][0]
        minutes = [minute_of(sample) for sample in recording.samples(shift_s)]
        yield History(recording.vm, interval_s, [one for one in minutes if one.ts > after_s])


def load(systems: Sequence[System], histories: Iterable[History]) -> Loaded:
    """Gives every system the same, in batches."""
    loaded = Loaded()
    pushers = [Pusher(one.address, connections=1, answer=one.answer if one.acknowledges else None) for one in systems]
    try:
        batches = 0
        for history in histories:
            minutes = history.minutes
            slices = [minutes[start : start + BATCH_MINUTES] for start in range(0, len(minutes), BATCH_MINUTES)]
            for system, pusher in zip(systems, pushers, strict=True):
                for part in slices:
                    pusher.push([system.batch(history.vm, part, history.interval_s)], Drive())
            loaded.vms.append(history.vm)
            loaded.minutes += len(minutes)
            loaded.points += sum(minute.points for minute in minutes)
            batches += len(slices)
            if batches >= _STORE_EVERY_BATCHES:
                batches = 0
                for system in systems:
                    system.store()
        for system in systems:
            system.store_all()
            system.rest()
    finally:
        for pusher in pushers:
            pusher.close()
    return loaded


def disk_bytes_per_point(
    systems: Sequence[System], histories: Iterable[History], after_s: int, say: Say
) -> dict[str, float]:
    """By system, once merges and compactions are over. Raises: ProgramError: a system has not all of it."""
    loaded = load(systems, histories)
    found = {}
    for system in systems:
        system.settle()
        stored = system.stored(loaded.vms, after_s)
        if stored != loaded.minutes:
            raise ProgramError(f"{system.name}: {loaded.minutes} minutes pushed, {stored} stored")
        found[system.name] = system.disk_bytes() / loaded.points
        say(f"disk, {system.name}: {found[system.name]:.3f} bytes a data point")
    return found
