"""What a simulated site consists of: hosts and VMs as a TOML file describes them, or as a simulated fleet needs them.

```toml
[[hosts]]
id = "h1"
cores = 32
mem = "128GiB"

[[vms]]
uuid = "6f9c2b1e-0d3a-4a53-9d6e-0c5d1f2a7b11"
name = "build-7"
host = "h1"
vcpus = 4
mem = "8GiB"
owner = "ada"            # likewise mail, tags, macs, addresses, disk, shields, created_s
state = "running"        # or suspended, paused, off
cpu_ratio = 0.01         # of its vCPUs, as seen from outside; likewise net_bytes_per_s, disk_bytes_per_s
deaf = false             # true: it does not hear the power button
```
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

from agent.settings import ConfigError, SettingsReader, load_toml, parse_count, parse_flag, parse_size_bytes, parse_text
from agent.shapes import SimulatedVm
from agent.simulate import identity
from orchestrate.inventory import Shield, VmState

Row = TypeVar("Row")
_NO_TEXTS: tuple[str, ...] = ()
_GIB = 1 << 30
_STATES = {state.value: state for state in (VmState.RUNNING, VmState.SUSPENDED, VmState.PAUSED, VmState.OFF)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkHost:
    """A machine. `accepts`: VMs may be moved to it."""

    host_id: str
    cores: int
    mem_bytes: int
    accepts: bool = True
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkVm:
    """A VM as it is at the beginning.

    Args:
        cpu_ratio: of its vCPUs while it runs. net_bytes_per_s: received, and as much sent.
        deaf: it does not hear the power button, so that a stop fails.
    """

    uuid: str
    name: str
    host_id: str
    vcpus: int
    mem_bytes: int
    disk_bytes: int | None = None
    owner: str | None = None
    mail: str | None = None
    tags: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    created_s: float | None = None
    shields: frozenset[Shield] = frozenset()
    state: VmState = VmState.RUNNING
    cpu_ratio: float = 0.0
    net_bytes_per_s: float = 0.0
    disk_bytes_per_s: float = 0.0
    deaf: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Hosts and the VMs on them."""

    hosts: tuple[ParkHost, ...]
    vms: tuple[ParkVm, ...] = ()


def read_park(path: Path) -> Park:
    """The park that a TOML file describes. Raises: ConfigError: every mistake in it, with its place."""
    document = load_toml(path)
    problems = [f"{path}: {key}: unknown setting" for key in sorted(document.keys() - {"hosts", "vms"})]
    hosts = _rows(document, "hosts", _host, path, problems)
    vms = _rows(document, "vms", _vm, path, problems)
    problems += [f"{path}: {problem}" for problem in _contradictions(hosts, vms)]
    if problems:
        raise ConfigError(problems)
    return Park(hosts=tuple(hosts), vms=tuple(vms))


def encode_park(park: Park) -> str:
    """TOML that `read_park` reads back."""
    lines: list[str] = []
    for host in park.hosts:
        lines += ["[[hosts]]", *_pairs({"id": host.host_id, "cores": host.cores, "mem": host.mem_bytes})]
        lines += _pairs({"accepts": host.accepts, "tags": list(host.tags)}, without={"accepts": True, "tags": []})
        lines.append("")
    plain = ParkVm(uuid="", name="", host_id="", vcpus=1, mem_bytes=1)
    for vm in park.vms:
        lines += ["[[vms]]", *_pairs({"uuid": vm.uuid, "name": vm.name, "host": vm.host_id})]
        lines += [
            *_pairs({"vcpus": vm.vcpus, "mem": vm.mem_bytes}),
            *_pairs(_optional(vm), without=_optional(plain)),
            "",
        ]
    return "\n".join(lines)


def park_for(
    fleet: Sequence[SimulatedVm],
    *,
    owners: Sequence[str] = (),
    host_cores: int = 32,
    host_mem_bytes: int = 128 * _GIB,
    spare_ratio: float = 0.25,
) -> Park:
    """Enough hosts for a fleet of `fallow-agent simulate`, and its VMs spread over them.

    A VM's UUID is its agent's id, and its use from outside is that of its quiet hours, so that agent and hypervisor
    agree on those that are idle.

    Args:
        owners: given out in turn; none leaves the VMs without one.
        spare_ratio: of the hosts' memory, left free for moves.

    Raises: ValueError: a VM is larger than a host.
    """
    wanted = sum(vm.mem_total_bytes for vm in fleet)
    count = max(2, ceil(wanted / (host_mem_bytes * (1.0 - spare_ratio))))
    hosts = [ParkHost(host_id=f"host-{n:02d}", cores=host_cores, mem_bytes=host_mem_bytes) for n in range(1, count + 1)]
    free = {host.host_id: host.mem_bytes for host in hosts}
    placed: dict[str, str] = {}
    # The largest first, each where most is free: with memory to spare every one finds room.
    for vm in sorted(fleet, key=lambda vm: (-vm.mem_total_bytes, vm.vm)):
        host_id = max(free, key=lambda host_id: (free[host_id], host_id))
        if free[host_id] < vm.mem_total_bytes:
            raise ValueError(f"{vm.vm}: {vm.mem_total_bytes} bytes of memory fit on no host")
        free[host_id] -= vm.mem_total_bytes
        placed[vm.vm] = host_id
    rows = (_of_agent(vm, placed[vm.vm], owners[n % len(owners)] if owners else None) for n, vm in enumerate(fleet))
    return Park(hosts=tuple(hosts), vms=tuple(rows))


def _of_agent(vm: SimulatedVm, host_id: str, owner: str | None) -> ParkVm:
    known = identity(vm)
    return ParkVm(
        uuid=vm.vm,
        name=known.hostname,
        host_id=host_id,
        vcpus=vm.cpu_count,
        mem_bytes=vm.mem_total_bytes,
        disk_bytes=vm.disk_total_bytes,
        owner=owner,
        mail=None if owner is None else f"{owner}@example.org",
        tags=(f"profile:{vm.profile}",),
        macs=tuple(known.macs),
        addresses=tuple(known.ips),
        cpu_ratio=vm.floor_ratio,
        # As much each way as its agent tells of a quiet hour, on the average of its noise.
        net_bytes_per_s=0.8 * vm.traffic_bytes_per_s * (0.01 + vm.floor_ratio),
    )


def _rows(
    document: Mapping[str, Any], key: str, read: Callable[[SettingsReader], Row], path: Path, problems: list[str]
) -> list[Row]:
    """Reads `[[key]]`; adds what is wrong to `problems`."""
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        problems.append(f"{path}: {key}: is not a list of tables ([[{key}]])")
        return []
    rows: list[Row] = []
    for number, table in enumerate(tables, 1):
        reader = SettingsReader(table, source=f"{path}: {key} {number}")
        rows.append(read(reader))
        try:
            reader.finish()
        except ConfigError as error:
            problems += error.problems
    return rows


def _host(reader: SettingsReader) -> ParkHost:
    return ParkHost(
        host_id=_needed(reader, "id", parse_text, ""),
        cores=_needed(reader, "cores", parse_count, 1),
        mem_bytes=_needed(reader, "mem", parse_size_bytes, 1),
        accepts=reader.take("accepts", parse_flag, True),
        tags=reader.take("tags", _texts, _NO_TEXTS),
    )


def _vm(reader: SettingsReader) -> ParkVm:
    uuid = _needed(reader, "uuid", parse_text, "").lower()
    return ParkVm(
        uuid=uuid,
        name=reader.take("name", parse_text, uuid),
        host_id=_needed(reader, "host", parse_text, ""),
        vcpus=_needed(reader, "vcpus", parse_count, 1),
        mem_bytes=_needed(reader, "mem", parse_size_bytes, 1),
        disk_bytes=_or_none(reader, "disk", parse_size_bytes),
        owner=_or_none(reader, "owner", parse_text),
        mail=_or_none(reader, "mail", parse_text),
        tags=reader.take("tags", _texts, _NO_TEXTS),
        macs=tuple(mac.lower() for mac in reader.take("macs", _texts, _NO_TEXTS)),
        addresses=reader.take("addresses", _texts, _NO_TEXTS),
        created_s=_or_none(reader, "created_s", _number),
        shields=reader.take("shields", _shields, frozenset()),
        state=reader.take("state", _state, VmState.RUNNING),
        cpu_ratio=reader.take("cpu_ratio", _number, 0.0),
        net_bytes_per_s=reader.take("net_bytes_per_s", _number, 0.0),
        disk_bytes_per_s=reader.take("disk_bytes_per_s", _number, 0.0),
        deaf=reader.take("deaf", parse_flag, False),
    )


def _needed(reader: SettingsReader, key: str, parse: Any, stand_in: Any) -> Any:
    found = _or_none(reader, key, parse)
    if found is None:
        reader.reject(key, "is missing or wrong")
        return stand_in
    return found


def _or_none(reader: SettingsReader, key: str, parse: Any) -> Any:
    return reader.take(key, parse, None)


def _contradictions(hosts: Iterable[ParkHost], vms: Iterable[ParkVm]) -> list[str]:
    """What each table by itself does not show."""
    known = Counter(host.host_id for host in hosts)
    found = [f"two hosts are called {host_id}" for host_id, count in known.items() if count > 1]
    uuids = Counter(vm.uuid for vm in vms)
    found += [f"two VMs have the UUID {uuid}" for uuid, count in uuids.items() if count > 1]
    found += [f"vm {vm.uuid}: there is no host {vm.host_id}" for vm in vms if vm.host_id and vm.host_id not in known]
    return found


def _optional(vm: ParkVm) -> dict[str, object]:
    return {
        "disk": vm.disk_bytes,
        "owner": vm.owner,
        "mail": vm.mail,
        "tags": list(vm.tags),
        "macs": list(vm.macs),
        "addresses": list(vm.addresses),
        "created_s": vm.created_s,
        "shields": sorted(shield.value for shield in vm.shields),
        "state": vm.state.value,
        "cpu_ratio": vm.cpu_ratio,
        "net_bytes_per_s": vm.net_bytes_per_s,
        "disk_bytes_per_s": vm.disk_bytes_per_s,
        "deaf": vm.deaf,
    }


def _pairs(values: Mapping[str, object], without: Mapping[str, object] | None = None) -> list[str]:
    """TOML lines. Strings, numbers, truths and lists of strings are written in TOML as in JSON, DEL apart."""
    without = without or {}
    told = {key: value for key, value in values.items() if key not in without or value != without[key]}
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in told.items()}
    return [f"{key} = " + text.replace("\x7f", "\\u007f") for key, text in texts.items()]


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(value)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a number from 0 on")
    return float(value)


def _state(value: object) -> VmState:
    if not isinstance(value, str) or value not in _STATES:
        raise ValueError(f"{value!r} is none of {', '.join(_STATES)}")
    return _STATES[value]


def _shields(value: object) -> frozenset[Shield]:
    known = {shield.value: shield for shield in Shield}
    texts = _texts(value)
    for text in texts:
        if text not in known:
            raise ValueError(f"{text!r} is none of {', '.join(known)}")
    return frozenset(known[text] for text in texts)
