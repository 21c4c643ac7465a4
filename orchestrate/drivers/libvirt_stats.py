"""libvirt's numbers → ours: states, jobs, and the counters of VMs and hosts. Pure.

Numbers of states, reasons and jobs are part of libvirt's ABI and do not change; they are named here so that this
needs no libvirt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrate.inventory import HostCounters, VmCounters, VmState

NOSTATE, RUNNING, BLOCKED, PAUSED, SHUTDOWN, SHUTOFF, CRASHED, PMSUSPENDED = range(8)
# Why a domain is paused: halted by libvirt itself for a migration, a save, a dump, its end, a snapshot, its start.
_PAUSED_BY_TASK = frozenset({2, 3, 4, 8, 9, 11, 12})
# Snapshot and backup.
_BACKUP_OPERATIONS = frozenset({6, 9})
_NS_PER_S = 1e9
_KIB = 1 << 10

Stats = Mapping[str, Any]


def state_of(state: int, reason: int, *, is_saved: bool) -> VmState:
    """Our word for libvirt's state.

    Args: is_saved: there is a managed save image, which the domain goes on from when it is started.
    """
    if state in {RUNNING, BLOCKED}:
        return VmState.RUNNING
    if state == PAUSED:
        return VmState.CHANGING if reason in _PAUSED_BY_TASK else VmState.PAUSED
    if state == SHUTDOWN:
        return VmState.CHANGING
    if state == SHUTOFF:
        return VmState.SUSPENDED if is_saved else VmState.OFF
    # A guest that sleeps (PMSUSPENDED) was put to sleep by somebody; its memory is still taken.
    return VmState.PAUSED if state == PMSUSPENDED else VmState.UNKNOWN


def is_executing(state: int) -> bool:
    """Its CPUs run: of a VM that two hosts know, this is the one."""
    return state in {RUNNING, BLOCKED}


def has_job(job: Stats) -> bool:
    """`job`: of virDomainGetJobStats; a migration, a save, a backup is under way."""
    return bool(job.get("type", 0))


def is_backup(job: Stats) -> bool:
    """The job that is under way reads the VM's disks."""
    return has_job(job) and job.get("operation") in _BACKUP_OPERATIONS


def progress_ratio(job: Stats) -> float | None:
    """How much of a job is done, 0..1; None where it does not tell."""
    total, remaining = job.get("data_total"), job.get("data_remaining")
    if not has_job(job) or not total or remaining is None:
        return None
    return float(min(1.0, max(0.0, 1 - remaining / total)))


def disk_bytes(stats: Stats) -> int | None:
    """Capacity of all disks together; None where that of any is not told."""
    return _sum(stats, "block", "capacity")


def vm_counters(stats: Stats, *, uuid: str, host_id: str, at_s: float) -> VmCounters:
    """A VM's counters out of the bulk call's.

    `net.N.rx` is what the VM received: libvirt turns round what a tap device says.
    """
    cpu_ns, rss_kib = stats.get("cpu.time"), stats.get("balloon.rss")
    return VmCounters(
        uuid=uuid,
        host_id=host_id,
        at_s=at_s,
        cpu_s=None if cpu_ns is None else cpu_ns / _NS_PER_S,
        mem_bytes=None if rss_kib is None else rss_kib * _KIB,
        mem_used_bytes=_used_bytes(stats),
        disk_read_bytes=_sum(stats, "block", "rd.bytes"),
        disk_write_bytes=_sum(stats, "block", "wr.bytes"),
        net_rx_bytes=_sum(stats, "net", "rx.bytes"),
        net_tx_bytes=_sum(stats, "net", "tx.bytes"),
    )


def host_counters(cpu: Stats | None, memory: Stats | None, *, host_id: str, at_s: float) -> HostCounters:
    """A host's counters. Args: cpu: nanoseconds by kind; memory: KiB by kind; None: could not be read."""
    return HostCounters(host_id=host_id, at_s=at_s, cpu_s=_busy_s(cpu or {}), mem_used_bytes=_taken_bytes(memory or {}))


def _busy_s(cpu: Stats) -> float | None:
    if "user" not in cpu or "kernel" not in cpu:
        return None
    return float((cpu["user"] + cpu["kernel"] + cpu.get("intr", 0)) / _NS_PER_S)


def _taken_bytes(memory: Stats) -> int | None:
    if "total" not in memory or "free" not in memory:
        return None
    # What is cached can be given away at once.
    kib = memory["total"] - memory["free"] - memory.get("buffers", 0) - memory.get("cached", 0)
    return max(0, int(kib)) * _KIB


def _used_bytes(stats: Stats) -> int | None:
    """As its balloon driver says; None until that is up, when libvirt tells of no available memory."""
    available = stats.get("balloon.available")
    left = stats.get("balloon.usable", stats.get("balloon.unused"))
    return None if available is None or left is None else max(0, int(available - left)) * _KIB


def _sum(stats: Stats, group: str, key: str) -> int | None:
    """Over all devices of a group; None where there is no telling: the group or one device's value is absent.

    A VM without such devices has 0, which libvirt tells as a count of 0.
    """
    count = stats.get(f"{group}.count")
    if count is None:
        return None
    values = list(_values(stats, group, int(count), key))
    return sum(values) if len(values) == count else None


def _values(stats: Stats, group: str, count: int, key: str) -> Iterator[int]:
    for number in range(count):
        value = stats.get(f"{group}.{number}.{key}")
        if value is not None:
            yield int(value)
