"""Types of hosts and VMs, as a TOML file describes them → a `Park`. Pure but for reading the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from agent.settings import ConfigError, SettingsReader, load_toml, parse_count, parse_size_bytes, parse_text
from orchestrate.simulation.park import POWER_POINTS, Hosts, Park, Vms

T = TypeVar("T")

_MB = 1e6
_GIGABIT_BYTES_PER_S = 125e6
_VM_LINK_BYTES_PER_S = 12.5e6


@dataclass(frozen=True, slots=True, kw_only=True)
class HostType:
    """So many equal hosts. `power_w`: at 0, 10, .. 100 % of CPU."""

    name: str
    count: int
    cores: int
    core_mips: float
    ram_bytes: float
    power_w: tuple[float, ...]
    net_bytes_per_s: float = _GIGABIT_BYTES_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class VmType:
    """What VMs are taken for whose trace does not say how large they are."""

    name: str
    mips: float
    ram_bytes: float
    vcpus: int = 1
    net_bytes_per_s: float = _VM_LINK_BYTES_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a recorded VM is."""

    vcpus: float
    ram_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """What a park is built of.

    Attributes:
        hosts: dealt out in turn, one of each type, until all are there.
        vms: VMs without a size are cut into as many runs of equal length, in the order of the trace.
        vcpu_mips: of one vCPU of a VM with a size.
    """

    hosts: tuple[HostType, ...]
    vms: tuple[VmType, ...]
    vcpu_mips: float

    def park(self, sizes: Sequence[Size | None]) -> Park:
        """The park for VMs of these sizes, None where the trace does not say."""
        return Park(hosts=self._hosts(), vms=self._vms(sizes))

    def _hosts(self) -> Hosts:
        turns = max(kind.count for kind in self.hosts)
        dealt = [kind for turn in range(turns) for kind in self.hosts if turn < kind.count]
        return Hosts(
            mips=np.array([kind.cores * kind.core_mips for kind in dealt], float),
            core_mips=np.array([kind.core_mips for kind in dealt], float),
            ram_bytes=np.array([kind.ram_bytes for kind in dealt], float),
            net_bytes_per_s=np.array([kind.net_bytes_per_s for kind in dealt], float),
            power_w=np.array([kind.power_w for kind in dealt], float),
        )

    def _vms(self, sizes: Sequence[Size | None]) -> Vms:
        unsized = sum(size is None for size in sizes)
        run = math.ceil(unsized / len(self.vms)) or 1
        typed = iter(self.vms[number // run] for number in range(unsized))
        kinds = [
            next(typed)
            if size is None
            else VmType(
                name="recorded",
                mips=size.vcpus * self.vcpu_mips,
                vcpus=max(1, math.ceil(size.vcpus)),
                ram_bytes=size.ram_bytes,
            )
            for size in sizes
        ]
        return Vms(
            mips=np.array([kind.mips for kind in kinds], float),
            vcpus=np.array([kind.vcpus for kind in kinds], float),
            ram_bytes=np.array([kind.ram_bytes for kind in kinds], float),
            net_bytes_per_s=np.array([kind.net_bytes_per_s for kind in kinds], float),
        )


# 800 hosts of the published experiments; watts of the SPECpower_ssj2008 results of the two servers.
REFERENCE = Machines(
    hosts=(
        HostType(
            name="HP ProLiant ML110 G4",
            count=400,
            cores=2,
            core_mips=1860,
            ram_bytes=4096 * _MB,
            power_w=(86, 89.4, 92.6, 96, 99.5, 102, 106, 108, 112, 114, 117),
        ),
        HostType(
            name="HP ProLiant ML110 G5",
            count=400,
            cores=2,
            core_mips=2660,
            ram_bytes=4096 * _MB,
            power_w=(93.7, 97, 101, 105, 110, 116, 121, 125, 129, 133, 135),
        ),
    ),
    vms=(
        VmType(name="high-CPU medium", mips=2500, ram_bytes=870 * _MB),
        VmType(name="extra large", mips=2000, ram_bytes=1740 * _MB),
        VmType(name="small", mips=1000, ram_bytes=1740 * _MB),
        VmType(name="micro", mips=500, ram_bytes=613 * _MB),
    ),
    # Of the slower of the two servers, so that any host has a core for it.
    vcpu_mips=1860,
)


# No server in particular: what two sockets commonly have, and draw between idle and full in a straight line.
_COMMON = HostType(
    name="two sockets",
    count=1,
    cores=64,
    core_mips=2500,
    ram_bytes=512e9,
    net_bytes_per_s=10 * _GIGABIT_BYTES_PER_S,
    power_w=tuple(150.0 + 35.0 * tenth for tenth in range(POWER_POINTS)),
)
_ROOM = 2.0


def machines_for(sizes: Sequence[Size | None]) -> Machines:
    """What a trace is replayed on unless told: the published park, or for recorded sizes common hosts.

    They are doubled until the largest VM fits, and there are as many as hold twice what all VMs were promised.
    """
    known = [size for size in sizes if size is not None]
    if not known:
        return REFERENCE
    host = _COMMON
    while any(size.vcpus > host.cores or size.ram_bytes > host.ram_bytes for size in known):
        host = replace(
            host,
            cores=2 * host.cores,
            ram_bytes=2 * host.ram_bytes,
            power_w=tuple(2 * watts for watts in host.power_w),
        )
    by_cpu = sum(size.vcpus for size in known) / host.cores
    by_ram = sum(size.ram_bytes for size in known) / host.ram_bytes
    count = max(2, math.ceil(_ROOM * max(by_cpu, by_ram)))
    return Machines(hosts=(replace(host, count=count),), vms=REFERENCE.vms, vcpu_mips=host.core_mips)


def read_machines(path: Path) -> Machines:
    """What a file describes; what it leaves out is as in `REFERENCE`. Raises ConfigError: each mistake by its place."""
    table = load_toml(path)
    problems: list[str] = []
    reader = SettingsReader(
        {key: value for key, value in table.items() if key not in {"hosts", "vms"}}, source=str(path)
    )
    vcpu_mips = reader.take("vcpu_mips", _positive, REFERENCE.vcpu_mips)
    _note(problems, reader.finish)
    hosts = _tables(table, "hosts", path, problems, _host_type)
    vms = _tables(table, "vms", path, problems, _vm_type)
    if problems:
        raise ConfigError(problems)
    return Machines(hosts=hosts or REFERENCE.hosts, vms=vms or REFERENCE.vms, vcpu_mips=vcpu_mips)


def _tables(
    table: dict[str, Any], key: str, path: Path, problems: list[str], read: Callable[[_Taker], T]
) -> tuple[T, ...]:
    if key not in table:
        return ()
    entries = table[key]
    if not (isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries)):
        problems.append(f"{path}: {key}: give each type as a table [[{key}]]")
        return ()
    found = []
    for place, entry in enumerate(entries, 1):
        reader = SettingsReader(entry, source=f"{path}: {key} {place}")
        taker = _Taker(reader, entry)
        found.append(read(taker))
        _note(problems, reader.finish)
    return tuple(found)


def _note(problems: list[str], finish: Callable[[], None]) -> None:
    try:
        finish()
    except ConfigError as error:
        problems.extend(error.problems)


class _Taker:
    """Takes settings that must be there."""

    def __init__(self, reader: SettingsReader, table: dict[str, Any]) -> None:
        self._reader, self._table = reader, table

    def need(self, key: str, parse: Callable[[object], T]) -> T:
        # Never used where it is missing: the reader's `finish` raises first.
        found = self._reader.take(key, parse, cast(T, None))
        if key not in self._table:
            self._reader.reject(key, "missing")
        return found

    def may(self, key: str, parse: Callable[[object], T], default: T) -> T:
        return self._reader.take(key, parse, default)


def _host_type(taker: _Taker) -> HostType:
    return HostType(
        name=taker.need("name", parse_text),
        count=taker.need("count", parse_count),
        cores=taker.need("cores", parse_count),
        core_mips=taker.need("core_mips", _positive),
        ram_bytes=taker.need("ram", parse_size_bytes),
        power_w=taker.need("power_w", _power_table),
        net_bytes_per_s=taker.may("net_per_s", parse_size_bytes, _GIGABIT_BYTES_PER_S),
    )


def _vm_type(taker: _Taker) -> VmType:
    return VmType(
        name=taker.need("name", parse_text),
        mips=taker.need("mips", _positive),
        ram_bytes=taker.need("ram", parse_size_bytes),
        vcpus=taker.may("vcpus", parse_count, 1),
        net_bytes_per_s=taker.may("net_per_s", parse_size_bytes, _VM_LINK_BYTES_PER_S),
    )


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{value!r} is not a number above zero")
    return float(value)


def _power_table(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != POWER_POINTS:
        raise ValueError(f"{value!r} is not a list of {POWER_POINTS} figures, of 0, 10, .. 100 % of CPU")
    return tuple(_positive(each) for each in value)
