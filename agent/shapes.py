"""What simulated VMs do: their profiles, their weeks, their noise, as samples ready for the wire. Pure.

A figure depends on the seed, the VM and the minute alone, so that a run repeated with the same seed
sends the same samples for the same minutes. Hours and weekdays are UTC. docs/simulation.md describes
the profiles and for which windows their verdicts are known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.wire import FULL_SAMPLE_FORMAT

INTERVAL_S = 60
DAY_S = 86_400
DEFAULT_PROFILES = "low=0.35,office=0.2,batch=0.1,busy=0.2,spiky=0.05,silent=0.05,new=0.05"

_HOUR_S = 3_600
_GIB = 1 << 30
_NOISE_STEPS = 8_191  # prime, so that the steps below walk through the whole table
_HOUR_STEP = 1_009
_STREAM_STEP = 3_571
_UPDATE_MINUTES = 4  # 4 of 144 minutes stay below the 5 % of a p95, even in the shortest demo
_OFFICE_CURVE = {8: 0.5, 9: 0.9, 10: 1.0, 11: 1.0, 12: 0.6, 13: 0.8, 14: 1.0, 15: 1.0, 16: 0.9, 17: 0.6}
# A window of one day holds at least 23 hours; an hour of the job may be cut off at its edges. Two of
# 23 hours are still more than the 5 % that a p95 leaves out, at weekends too.
_OFFICE_JOB_HOURS = 3


class Noise:
    """Figures in 0..1 looked up in a table: drawing each one would cost more than all the rest of a sample."""

    def __init__(self, seed: int) -> None:
        source = random.Random(f"noise/{seed}")  # noqa: S311 - repeatable on purpose, nothing secret
        table = [source.random() for _ in range(_NOISE_STEPS)]
        self._table = table + table[:60]

    def hour(self, stream: int, hour: int) -> list[float]:
        """The 60 figures of `stream` for the minutes of one hour since the epoch."""
        start = (hour * _HOUR_STEP + stream * _STREAM_STEP) % _NOISE_STEPS
        return self._table[start : start + 60]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Character:
    """Ranges that a VM's traits are drawn from, all ratios 0..1."""

    floor: tuple[float, float]
    peak: tuple[float, float]
    mem: tuple[float, float]
    disk: tuple[float, float]


_LOW = _Character(floor=(0.004, 0.012), peak=(0.15, 0.3), mem=(0.03, 0.065), disk=(0.02, 0.06))
_CHARACTERS = {
    "low": _LOW,
    "office": _Character(floor=(0.01, 0.02), peak=(0.3, 0.5), mem=(0.25, 0.6), disk=(0.15, 0.6)),
    "batch": _Character(floor=(0.005, 0.015), peak=(0.6, 0.8), mem=(0.18, 0.45), disk=(0.2, 0.6)),
    "busy": _Character(floor=(0.02, 0.05), peak=(0.5, 0.75), mem=(0.4, 0.8), disk=(0.2, 0.7)),
    "spiky": _Character(floor=(0.005, 0.015), peak=(0.3, 0.8), mem=(0.2, 0.5), disk=(0.15, 0.5)),
    "silent": _LOW,
    "new": _LOW,
    # Its memory and disk are drawn anew each minute, as the original demo did.
    "classic": _LOW,
}
PROFILES: tuple[str, ...] = tuple(_CHARACTERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedVm:
    """One VM of a simulated fleet.

    Attributes:
        vm: its id, `sim-<profile>-<number>`; also its hostname.
        number: from 1 within its profile.
        started_s: its first interval begins here, a whole minute.
        stops_s: `ts` of its last sample; None where it goes on as long as it is asked.
        idle_expected: whether a report over the whole span must call it idle.
        stream: first of its streams of noise.
        floor_ratio, peak_ratio: CPU when it rests and when it works hardest, before noise.
        mem_ratio, disk_ratio: used of total, before noise and growth.
        job_minute, job_minutes: minute of the day and length of its daily job.
        leak_days: its memory grows for so long, then a restart frees it.
    """

    vm: str
    profile: str
    number: int
    started_s: int
    stops_s: int | None
    idle_expected: bool
    stream: int
    cpu_count: int
    mem_total_bytes: int
    disk_total_bytes: int
    floor_ratio: float
    peak_ratio: float
    mem_ratio: float
    disk_ratio: float
    job_minute: int
    job_minutes: int
    leak_days: int
    traffic_bytes_per_s: float

    def samples(self, noise: Noise, after_s: int, until_s: int) -> list[str]:
        """Its samples with after_s < ts <= until_s as the JSON objects of the wire, oldest first."""
        first_s = max(after_s, self.started_s) // INTERVAL_S * INTERVAL_S
        last_s = until_s if self.stops_s is None else min(until_s, self.stops_s)
        texts: list[str] = []
        while first_s + INTERVAL_S <= last_s:
            hour = first_s // _HOUR_S
            next_s = min(last_s // INTERVAL_S * INTERVAL_S, (hour + 1) * _HOUR_S)
            self._append(texts, noise, hour, first_s % _HOUR_S // 60, (next_s - hour * _HOUR_S) // 60)
            first_s = next_s
        return texts

    def _append(self, texts: list[str], noise: Noise, hour: int, begin: int, end: int) -> None:
        """Adds the samples of the minutes begin..end-1 of one hour; `ts` is the end of each minute."""
        cpus = _CPU[self.profile](self, noise, hour)[begin:end]
        mems, disk = self._space(noise, hour)
        office = _is_workday(hour) and hour % 24 in _OFFICE_CURVE
        users = 1 + (hour + self.stream) % 4 if self.profile == "office" and office else 0
        disk_total, mem_total, cpu_count = self.disk_total_bytes, self.mem_total_bytes, self.cpu_count
        traffic, append = self.traffic_bytes_per_s, texts.append
        procs = 80 + self.stream % 40 + 8 * users
        ts = hour * _HOUR_S + begin * 60
        for cpu, mem, space, u, w in zip(
            cpus,
            mems[begin:end],
            disk[begin:end],
            noise.hour(self.stream + 2, hour)[begin:end],
            noise.hour(self.stream + 3, hour)[begin:end],
            strict=True,
        ):
            ts += 60
            rest = 1.0 - cpu
            work = traffic * (0.01 + cpu) * (0.5 + u)
            append(
                FULL_SAMPLE_FORMAT
                % (
                    ts,
                    cpu,
                    cpu + rest * 0.25 * u * w,
                    rest * 0.002 * w,
                    rest * 0.02 * u * cpu,
                    cpu_count,
                    cpu * cpu_count * (0.8 + 0.5 * w),
                    mem_total,
                    mem_total * mem,
                    0,
                    disk_total,
                    disk_total * space,
                    work * 0.3 * w,
                    2_000.0 * w + work * 0.5,
                    300.0 * u + work,
                    150.0 * w + work * 0.6,
                    users,
                    procs + int(9.0 * u),
                    0.003 + 0.002 * w,
                )
            )

    def _space(self, noise: Noise, hour: int) -> tuple[list[float], list[float]]:
        """Ratios of memory and of disk used in each minute of an hour; neither follows the CPU."""
        if self.profile == "classic":
            return self._classic(noise, self.stream + 1, hour), self._classic(noise, self.stream + 4, hour)
        leak = (hour + self.stream) / 24 % self.leak_days / self.leak_days
        mem = self.mem_ratio * (1.0 + 0.15 * leak)
        # The disk fills for two months until somebody tidies up.
        disk = self.disk_ratio * (1.0 + 0.1 * ((hour + self.stream) / 24 % 60 / 60))
        return [mem * (1.0 + 0.03 * u) for u in noise.hour(self.stream + 1, hour)], [disk] * 60

    def _classic(self, noise: Noise, stream: int, hour: int) -> list[float]:
        span = 0.09 if self.idle_expected else 0.99
        return [0.01 + span * u for u in noise.hour(stream, hour)]


def _is_workday(hour: int) -> bool:
    return (hour // 24 + 3) % 7 < 5  # the epoch was a Thursday


def _noisy(vm: SimulatedVm, noise: Noise, hour: int, levels: list[float]) -> list[float]:
    return [level * (0.75 + 0.5 * u) for level, u in zip(levels, noise.hour(vm.stream, hour), strict=True)]


def _low(vm: SimulatedVm, noise: Noise, hour: int) -> list[float]:
    """A noise floor, a monitoring check every five minutes, and the packages' update once a day."""
    levels = [vm.floor_ratio] * 60
    levels[vm.stream % 5 :: 5] = [vm.floor_ratio + 0.008] * 12
    if hour % 24 == vm.job_minute // 60:
        minute = min(vm.job_minute % 60, 60 - _UPDATE_MINUTES)
        levels[minute : minute + _UPDATE_MINUTES] = [vm.peak_ratio] * _UPDATE_MINUTES
    return _noisy(vm, noise, hour, levels)


def _office(vm: SimulatedVm, noise: Noise, hour: int) -> list[float]:
    """Monday to Friday 8 to 18, and every night a scan and a backup."""
    hour_of_day = hour % 24
    level = vm.floor_ratio
    if _is_workday(hour) and hour_of_day in _OFFICE_CURVE:
        level = vm.peak_ratio * _OFFICE_CURVE[hour_of_day]
    elif 0 <= hour_of_day - vm.job_minute // 60 < _OFFICE_JOB_HOURS:
        level = vm.peak_ratio * 0.5
    return _noisy(vm, noise, hour, [level] * 60)


def _batch(vm: SimulatedVm, noise: Noise, hour: int) -> list[float]:
    """At rest but for one long job every night, which begins within half an hour of its usual time."""
    day_start = hour // 24 * 24
    begin = vm.job_minute + int(30 * noise.hour(vm.stream + 5, day_start)[0]) - hour % 24 * 60
    end = begin + vm.job_minutes
    levels = [vm.peak_ratio if begin <= minute < end else vm.floor_ratio for minute in range(60)]
    return _noisy(vm, noise, hour, levels)


def _busy(vm: SimulatedVm, noise: Noise, hour: int) -> list[float]:
    level = vm.peak_ratio * (1.0 if 8 <= hour % 24 < 20 else 0.85) * (1.0 if _is_workday(hour) else 0.85)
    return _noisy(vm, noise, hour, [level] * 60)


def _spiky(vm: SimulatedVm, noise: Noise, hour: int) -> list[float]:
    """Low but for peaks of one to four minutes, four to twelve minutes apart: a quarter of the time."""
    dice = noise.hour(vm.stream + 5, hour)
    levels = [vm.floor_ratio] * 60
    minute = int(8 * dice[0])
    while minute < 60:
        length = 1 + int(4 * dice[minute])
        levels[minute : minute + length] = [vm.peak_ratio] * min(length, 60 - minute)
        minute += length + 4 + int(9 * dice[59 - minute])
    return _noisy(vm, noise, hour, levels)


def _classic(vm: SimulatedVm, noise: Noise, hour: int) -> list[float]:
    return vm._classic(noise, vm.stream, hour)


# Each gives the busy ratios of the 60 minutes of one hour since the epoch.
_CPU: Mapping[str, Callable[[SimulatedVm, Noise, int], list[float]]] = {
    "low": _low,
    "office": _office,
    "batch": _batch,
    "busy": _busy,
    "spiky": _spiky,
    "silent": _low,
    "new": _low,
    "classic": _classic,
}


def parse_profiles(text: str) -> dict[str, float]:
    """Shares of `low=0.35,office=0.2`; they need not add up to 1, only their proportions count.

    Raises: ValueError: an unknown or repeated profile, or a share that is no number of at least 0.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        if name not in PROFILES:
            raise ValueError(f"{name!r} is not a profile (such as {', '.join(PROFILES)})")
        if name in shares:
            raise ValueError(f"{name} stands twice")
        try:
            share = float(number) if equals else 1.0
        except ValueError as error:
            raise ValueError(f"{name}: {number!r} is not a number") from error
        if not (math.isfinite(share) and share >= 0):
            raise ValueError(f"{name}: {number} is not a share of at least 0")
        shares[name] = share
    if sum(shares.values()) <= 0:
        raise ValueError("all shares are 0")
    return shares


def share_out(shares: Mapping[str, float], vms: int) -> dict[str, int]:
    """How many of `vms` each profile gets, by largest remainder; they add up to `vms`."""
    total = sum(shares.values())
    exact = {name: vms * share / total for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: vms - sum(counts.values())]:
        counts[name] += 1
    return counts


def make_fleet(shares: Mapping[str, float], *, vms: int, days: float, end_s: int, seed: int) -> tuple[SimulatedVm, ...]:
    """The VMs of one run, by profile and number.

    Args: days: length of the history, 0 for none.  end_s: `ts` of its last samples, a whole minute.
    """
    return tuple(
        _make_vm(profile, number, days=days, end_s=end_s, seed=seed)
        for profile, count in share_out(shares, vms).items()
        for number in range(1, count + 1)
    )


def manifest(fleet: tuple[SimulatedVm, ...], end_s: int) -> list[dict[str, object]]:
    """The ground truth of a run: what each VM is, when it lives, and whether it must be called idle."""
    return [
        {
            "vm": vm.vm,
            "profile": vm.profile,
            "idle_expected": vm.idle_expected,
            "started_s": vm.started_s,
            "ended_s": end_s if vm.stops_s is None else vm.stops_s,
        }
        for vm in fleet
    ]


def _make_vm(profile: str, number: int, *, days: float, end_s: int, seed: int) -> SimulatedVm:
    # A source of its own for each VM, so that a larger fleet repeats the smaller one.
    source = random.Random(f"{seed}/{profile}/{number}")  # noqa: S311 - repeatable on purpose, nothing secret
    between = source.uniform
    character = _CHARACTERS[profile]
    start_s = end_s - _whole_minutes_s(days)
    life_share = between(0.0, 1.0)
    new_days = min(2.0, days / 3) * (0.5 + 0.5 * life_share)
    shortest_days = min(0.5, days / 2)
    silent_days = shortest_days + (max(shortest_days, min(3.0, 0.6 * days)) - shortest_days) * life_share
    return SimulatedVm(
        vm=f"sim-{profile}-{number:04d}",
        profile=profile,
        number=number,
        started_s=end_s - _whole_minutes_s(new_days) if profile == "new" else start_s,
        stops_s=end_s - _whole_minutes_s(silent_days) if profile == "silent" else None,
        idle_expected=profile == "low" or (profile == "classic" and number % 2 == 0),
        stream=source.randrange(1_000_000),
        cpu_count=source.choice((1, 2, 2, 4, 4, 8)),
        mem_total_bytes=source.choice((2, 4, 4, 8, 16, 32)) * _GIB,
        disk_total_bytes=source.choice((20, 40, 40, 80, 160, 500)) * _GIB,
        floor_ratio=between(*character.floor),
        peak_ratio=between(*character.peak),
        mem_ratio=between(*character.mem),
        disk_ratio=between(*character.disk),
        job_minute=source.randrange(5 * 60),
        job_minutes=source.randrange(180, 300),
        leak_days=source.randrange(5, 13),
        traffic_bytes_per_s=10.0 ** between(4.3, 6.0),
    )


def _whole_minutes_s(days: float) -> int:
    return round(days * DAY_S / INTERVAL_S) * INTERVAL_S
