"""Hosts and VMs as their hypervisors tell of them: plain values, whatever the driver. Pure.

The agents' view of the same VMs is `orchestrate.sighting`; `orchestrate.matching` puts the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class VmState(StrEnum):
    """What a VM does, in words that every hypervisor can be translated into."""

    RUNNING = "running"
    # Its memory is kept on disk: it takes neither CPU nor memory, and goes on where it was.
    SUSPENDED = "suspended"
    # Somebody else halted it in memory. No order of ours leads here.
    PAUSED = "paused"
    OFF = "off"
    # A task of the hypervisor is under way.
    CHANGING = "changing"
    UNKNOWN = "unknown"


class Shield(StrEnum):
    """Why a hypervisor's VM is not to be touched, whatever its use."""

    HIGH_AVAILABILITY = "under high availability"
    PASSTHROUGH = "has a passthrough device"
    BACKUP = "in a backup"
    LOCKED = "locked by its hypervisor"
    TEMPLATE = "a template"


@dataclass(frozen=True, slots=True, order=True)
class VmRef:
    """One VM of one driver. Names repeat and are given anew; this is what a VM is known by.

    Args: uuid: lower case, as the hypervisor gave it.
    """

    driver: str
    uuid: str

    def __str__(self) -> str:
        return f"{self.driver}/{self.uuid}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that VMs run on.

    Args:
        host_id: as its driver knows it; unique within the driver.
        cores: logical CPUs.
        accepts: it is up and may be given VMs.
    """

    driver: str
    host_id: str
    cores: int
    mem_bytes: int
    accepts: bool = True
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM as its hypervisor tells of it.

    Args:
        host_id: where it is, or was when it last ran.
        disk_bytes: of all its disks; None is not known.
        owner, mail: None is not known.
        macs: lower case, with colons. addresses: as far as the hypervisor knows.
        created_s: None where the hypervisor does not tell; the VM's age is then that of its samples.
    """

    ref: VmRef
    name: str
    host_id: str
    state: VmState
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Everything that one driver knows, read at one moment.

    Args: unreachable: hosts that did not answer, by id, and why; their VMs are not in `vms`.
    """

    driver: str
    read_s: float
    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    unreachable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VmCounters:
    """A VM seen from outside. All but memory only grow while it runs; None is not known.

    Args:
        at_s: when they were read, Unix seconds of the reader.
        cpu_s: CPU time of its process. net_rx_bytes: received by the VM, whatever its tap device calls that.
        mem_bytes: resident memory of its process. mem_used_bytes: used inside, by its balloon driver.
    """

    uuid: str
    host_id: str
    at_s: float
    cpu_s: float | None = None
    mem_bytes: int | None = None
    mem_used_bytes: int | None = None
    disk_read_bytes: int | None = None
    disk_write_bytes: int | None = None
    net_rx_bytes: int | None = None
    net_tx_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCounters:
    """A host's own counters. Args: cpu_s: busy time of all its cores together, which only grows."""

    host_id: str
    at_s: float
    cpu_s: float | None = None
    mem_used_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counters of all hosts and VMs of a driver that could be read, by host id and by UUID."""

    hosts: Mapping[str, HostCounters]
    vms: Mapping[str, VmCounters]
