"""Where a new VM goes: by stages, or by one of four simple rules. Pure but for the lots of one, which are seeded.

Whatever the rule, a host is only chosen where the request fits what may be promised and what is expected to be used.
Nothing is known of a VM that does not exist yet: it counts with all that it asks for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from orchestrate.hotspots.host_loads import MEM, Bools, Floats
from orchestrate.hotspots.hosts import Site
from orchestrate.hotspots.planners.rooms import Rooms
from reports.words import gib, number

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a new VM asks for. Args: disk_bytes: told back as not checked: drivers do not tell of storage."""

    vcpus: float
    mem_bytes: int
    disk_bytes: int | None = None


class Stage(StrEnum):
    """What a choice rests on, the surest first."""

    PROMISED = "nothing is promised twice, even if every VM used all of its own"
    VMS = "promised more than there is, but the p95 of all VMs together leaves room"
    HOST = "promised more than there is, but the host's own p95 leaves room"
    USE = "what may be promised and what is expected to be used both leave room"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A host that was not chosen, and why."""

    driver: str
    host_id: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The answer.

    Args:
        driver, host_id, stage: None: it fits no host.
        overcommit_cpu_ratio: vCPUs promised on the host with the new VM, of its cores.
    """

    driver: str | None
    host_id: str | None
    stage: Stage | None
    words: str
    overcommit_cpu_ratio: float | None
    passed: tuple[Passed, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """All hosts of all sites as a rule sees them, in order of driver and id; N of them.

    Attributes:
        fits: (N,) by what may be promised and by use; the rules choose among these.
        strictly: (N,) without any overcommitment. by_vms: (N,) by the p95 of the VMs one by one.
        free_bytes: (N, 3) memory left: of what is promised, of the VMs' p95, of the host's p95.
        after: (N,) how full the fullest resource would be with the VM, of its limit.
        names: driver and id.
    """

    names: Sequence[tuple[str, str]]
    fits: Bools
    strictly: Bools
    by_vms: Bools
    free_bytes: Floats
    after: Floats


class Rule(Protocol):
    """One way to choose."""

    def choose(self, room: Room) -> tuple[int, Stage] | None:
        """A row that fits; None: there is none. Never a guess."""
        ...


@dataclass(frozen=True, slots=True)
class Staged:
    """Tries what was promised, then the VMs' p95, then the host's; each time the host with most memory left."""

    def choose(self, room: Room) -> tuple[int, Stage] | None:
        stages = ((Stage.PROMISED, room.strictly), (Stage.VMS, room.by_vms), (Stage.HOST, room.fits))
        for column, (stage, fits) in enumerate(stages):
            allowed = fits & room.fits
            if allowed.any():
                return int(np.where(allowed, room.free_bytes[:, column], -np.inf).argmax()), stage
        return None


@dataclass(frozen=True, slots=True)
class BestFit:
    """The host that is fullest with it."""

    def choose(self, room: Room) -> tuple[int, Stage] | None:
        if not room.fits.any():
            return None
        return int(np.where(room.fits, room.after, -np.inf).argmax()), Stage.USE


@dataclass(frozen=True, slots=True)
class FirstFit:
    """The first one in order of driver and id."""

    def choose(self, room: Room) -> tuple[int, Stage] | None:
        return (int(room.fits.argmax()), Stage.USE) if room.fits.any() else None


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """The first one after the host that was chosen last. Args: after: its driver and id; None: from the beginning."""

    after: tuple[str, str] | None = None

    def choose(self, room: Room) -> tuple[int, Stage] | None:
        later = np.array([self.after is None or name > self.after for name in room.names], np.bool_)
        for fits in (room.fits & later, room.fits):
            if fits.any():
                return int(fits.argmax()), Stage.USE
        return None


@dataclass(frozen=True, slots=True)
class WeightedRandom:
    """Any that fits, the likelier the more memory its p95 leaves."""

    seed: int

    def choose(self, room: Room) -> tuple[int, Stage] | None:
        rows = np.flatnonzero(room.fits).tolist()
        if not rows:
            return None
        weights = [max(float(room.free_bytes[row, 2]), 1.0) for row in rows]
        # Repeatable on purpose, nothing secret.
        return random.Random(self.seed).choices(rows, weights)[0], Stage.USE  # noqa: S311


def rule_named(name: str, *, seed: int, after: tuple[str, str] | None) -> Rule:
    """One of the rules. Raises: KeyError."""
    rules: Mapping[str, Rule] = {
        "staged": Staged(),
        "best-fit": BestFit(),
        "first-fit": FirstFit(),
        "round-robin": RoundRobin(after),
        "weighted-random": WeightedRandom(seed),
    }
    return rules[name]


def place(sites: Sequence[Site], request: Request, rule: Rule, *, use_ratio: float = 0.75) -> Placement:
    """Chooses a host.

    Args: sites: made with the holds that count. use_ratio: no host is filled beyond, by what is expected.
    """
    ordered = sorted(sites, key=lambda site: site.driver)
    rooms = [Rooms(site, use_ratio * site.capacity) for site in ordered]
    needs = [_needs(site, request) for site in ordered]
    parts = [_room(one, need, request) for one, need in zip(rooms, needs, strict=True)]
    room = _joined(parts)
    chosen = rule.choose(room) if room.names else None
    row = None if chosen is None else chosen[0]
    words = [
        one.why_not(host, need[host], request.vcpus, request.mem_bytes)
        for one, need in zip(rooms, needs, strict=True)
        for host in range(len(one.site.hosts))
    ]
    passed = tuple(
        Passed(driver=driver, host_id=host_id, words=words[each] or _why_other(room, each, row))
        for each, (driver, host_id) in enumerate(room.names)
        if each != row
    )
    if chosen is None or row is None:
        told = "there is no host" if not room.names else f"it fits none of {len(room.names)} hosts"
        return Placement(driver=None, host_id=None, stage=None, words=told, overcommit_cpu_ratio=None, passed=passed)
    ratios = [
        float((site.promised[host, 0] + request.vcpus) / site.capacity[host, 0])
        for site in ordered
        for host in range(len(site.hosts))
    ]
    driver, host_id = room.names[row]
    over = f"; {number(ratios[row], 'ratio')} of its cores are promised then" if ratios[row] > 1 else ""
    return Placement(
        driver=driver,
        host_id=host_id,
        stage=chosen[1],
        words=f"{chosen[1]}{over}",
        overcommit_cpu_ratio=ratios[row],
        passed=passed,
    )


def _needs(site: Site, request: Request) -> Floats:
    """(H, 3) what the VM may use on each host; of the network nobody can say, only that the host's is not full yet."""
    busy = np.minimum(request.vcpus, site.capacity[:, 0])
    return np.stack([busy, np.full(len(site.hosts), float(request.mem_bytes)), np.zeros(len(site.hosts))], axis=1)


def _room(rooms: Rooms, need: Floats, request: Request) -> Room:
    site = rooms.site
    size = np.array([request.vcpus, request.mem_bytes])
    sums = [np.bincount(site.host_of, column, len(site.hosts)).astype(np.float64) for column in site.need.T]
    of_vms: Floats = np.stack(sums, axis=1)
    capacity = site.capacity
    return Room(
        names=[(site.driver, host.host_id) for host in site.hosts],
        fits=rooms.fits_need(need.T, request.vcpus, request.mem_bytes),
        strictly=np.logical_and.reduce(site.promised + size <= capacity[:, :2], axis=1),
        by_vms=np.logical_and.reduce(of_vms + need <= rooms.limit.T, axis=1),
        free_bytes=np.stack(
            [
                capacity[:, MEM] - site.promised[:, 1],
                capacity[:, MEM] - of_vms[:, MEM],
                (1 - site.need_ratio[:, MEM]) * capacity[:, MEM],
            ],
            axis=1,
        ),
        after=((rooms.load.T + need) / np.maximum(rooms.limit.T, _ROUNDING)).max(axis=1),
    )


def _joined(parts: Sequence[Room]) -> Room:
    def all_of(name: str) -> Floats:
        found: Floats = np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0)
        return found

    return Room(
        names=[name for part in parts for name in part.names],
        fits=all_of("fits").astype(np.bool_),
        strictly=all_of("strictly").astype(np.bool_),
        by_vms=all_of("by_vms").astype(np.bool_),
        free_bytes=all_of("free_bytes"),
        after=all_of("after"),
    )


def _why_other(room: Room, each: int, row: int | None) -> str:
    """Why a host that would do was not chosen."""
    free = (
        f"{gib(float(room.free_bytes[each, 0]))} not promised, {number(float(room.after[each]), 'ratio')} of its limit"
    )
    if row is None:
        return free
    return f"would do ({free}); {room.names[row][1]} comes before it by this rule"
