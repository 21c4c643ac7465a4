"""One site's hosts and VMs in columns: what they have, what was promised of it, what they use and will need. Pure.

Detectors, planners and placement look at this. Missing is busy: a VM of which nothing is known counts with all that it
may use, and is marked, so that nothing is moved on its account.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrate.hotspots.host_loads import (
    CPU,
    NET,
    Bools,
    Floats,
    Ints,
    Loads,
    VmSeries,
    agents_series,
    first_known,
    host_sums,
    joined,
    last_minute_s,
    outside_series,
    peaks,
)
from orchestrate.inventory import Counters, Host, HostCounters, Inventory, Vm, VmRef, VmState
from orchestrate.outside import Outside
from orchestrate.records import Hold
from orchestrate.sighting import Minute

# These take no memory and no CPU of their host.
_AWAY = frozenset({VmState.OFF, VmState.SUSPENDED})
# On a host that is so full, a VM would use more than it gets: nobody can see how much.
_SATURATED_RATIO = 0.95
_HIDDEN_RATIO = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What drivers cannot tell of hosts.

    Args:
        link_bytes_per_s: of each host's network, one way.
        cpu_overcommit_ratio, mem_overcommit_ratio: as much may be promised to VMs of what a host has.
        fresh_s: samples that are older tell nothing of now.
    """

    link_bytes_per_s: float = 125e6
    cpu_overcommit_ratio: float = 4.0
    mem_overcommit_ratio: float = 1.0
    fresh_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What is known of a site's VMs and hosts beside its inventory.

    Args:
        minutes: the agents' newest samples of VMs that are matched without a doubt, oldest first.
        outside: VMs between the last two readings of their counters.
        counters: the later of these readings.
        host_cores: cores that each host kept busy between the two, by host id.
    """

    minutes: Mapping[VmRef, Sequence[Minute]] = field(default_factory=dict)
    outside: Mapping[VmRef, Outside] = field(default_factory=dict)
    counters: Counters | None = None
    host_cores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """H hosts and the V VMs that take something of them, each by id. Resources are cpu, mem, net in this order.

    Attributes:
        capacity: (H, 3) cores, bytes, bytes per second.
        promised_to_vms, promised: (H, 2) vCPUs and bytes of memory: of VMs; of VMs and holds.
        promisable: (H, 2) the most there may be of that.
        need_ratio: (H, 3) what the host will need, of its capacity: p95 or forecast of its minutes.
        host_of: (V,) rows of hosts.
        vcpus, mem_bytes: (V,) as promised to the VM.
        need: (V, 3) what the VM will need; all that it may use where nothing is known.
        mean: (V, 3) what its host will surely be rid of.
        known: (V,) every figure of it was measured.
        series: (V, T) cores that it kept busy, minute by minute, oldest first; NaN where nothing is known.
        unknown: (H,) VMs of which something is not known.
    """

    driver: str
    read_s: float
    hosts: tuple[Host, ...]
    vms: tuple[Vm, ...]
    capacity: Floats
    promised_to_vms: Floats
    promised: Floats
    promisable: Floats
    need_ratio: Floats
    host_of: Ints
    vcpus: Floats
    mem_bytes: Floats
    need: Floats
    mean: Floats
    known: Bools
    series: Floats
    unknown: Ints
    loads: Loads


def site_of(
    inventory: Inventory,
    readings: Readings,
    settings: HostSettings,
    *,
    now_s: float,
    holds: Iterable[Hold] = (),
    past: Loads | None = None,
) -> Site:
    """One driver's site as it is now; hosts that did not answer are not in it.

    Args: holds: of any driver, as `Ledger.counting` gives them. past: `Site.loads` of the look before.
    """
    hosts = tuple(
        sorted(
            (one for one in inventory.hosts if one.host_id not in inventory.unreachable), key=lambda one: one.host_id
        )
    )
    rows = {host.host_id: row for row, host in enumerate(hosts)}
    vms = tuple(
        sorted((vm for vm in inventory.vms if vm.state not in _AWAY and vm.host_id in rows), key=lambda vm: vm.ref)
    )
    host_of = np.fromiter((rows[vm.host_id] for vm in vms), np.intp, len(vms))
    vcpus = np.fromiter((vm.vcpus for vm in vms), np.float64, len(vms))
    mem_bytes = np.fromiter((vm.mem_bytes for vm in vms), np.float64, len(vms))
    capacity = np.array(
        [(host.cores, host.mem_bytes, settings.link_bytes_per_s) for host in hosts], np.float64
    ).reshape(len(hosts), 3)
    most = _most(host_of, vcpus, mem_bytes, capacity)
    series = _series(vms, vcpus, readings, now_s, settings.fresh_s)
    known = series.known
    whole = np.logical_and.reduce(known, axis=1)
    sums, told = host_sums(series, host_of, len(hosts))
    assumed = _summed(np.where(known, 0.0, most), host_of, len(hosts))
    measured = _with_host_counters(sums, told, hosts, readings.host_cores)
    used_ratio = np.maximum(measured, sums + assumed[..., np.newaxis]) / capacity[..., np.newaxis]
    loads = Loads(
        ends_s=last_minute_s(now_s),
        hosts=tuple(host.host_id for host in hosts),
        used_ratio=np.where(told, used_ratio, np.nan),
        measured_ratio=np.where(told, measured / capacity[..., np.newaxis], np.nan),
    )
    need = np.where(known, np.minimum(peaks(series.values), most), most)
    saturated = used_ratio[:, CPU, -1] >= _SATURATED_RATIO
    hidden = np.where(saturated[host_of], _HIDDEN_RATIO * vcpus, 0.0)
    need[:, CPU] = np.minimum(need[:, CPU] + hidden, most[:, CPU])
    to_vms = _summed(np.stack([vcpus, mem_bytes], axis=1), host_of, len(hosts))
    return Site(
        driver=inventory.driver,
        read_s=inventory.read_s,
        hosts=hosts,
        vms=vms,
        capacity=capacity,
        promised_to_vms=to_vms,
        promised=to_vms + _held(holds, inventory.driver, rows),
        promisable=capacity[:, :2] * (settings.cpu_overcommit_ratio, settings.mem_overcommit_ratio),
        need_ratio=peaks(used_ratio),
        host_of=host_of,
        vcpus=vcpus,
        mem_bytes=mem_bytes,
        need=need,
        mean=np.where(known, series.values.mean(axis=2), 0.0),
        known=whole,
        series=series.values[:, CPU],
        unknown=np.bincount(host_of, ~whole, len(hosts)).astype(np.intp),
        loads=joined(past, loads),
    )


def busy_cores(before: HostCounters, after: HostCounters) -> float | None:
    """Cores that a host kept busy between two readings; None where that cannot be told."""
    span_s = after.at_s - before.at_s
    if before.cpu_s is None or after.cpu_s is None or span_s <= 0 or after.cpu_s < before.cpu_s:
        return None
    return (after.cpu_s - before.cpu_s) / span_s


def _most(host_of: Ints, vcpus: Floats, mem_bytes: Floats, capacity: Floats) -> Floats:
    """(V, 3) all that each VM may use: of the network its host's link by its share of the cores."""
    cores, links = capacity[host_of, CPU], capacity[host_of, NET]
    busy = np.minimum(vcpus, cores)
    return np.stack([busy, mem_bytes, links * busy / np.maximum(cores, 1.0)], axis=1)


def _series(vms: Sequence[Vm], vcpus: Floats, readings: Readings, now_s: float, fresh_s: float) -> VmSeries:
    inside = agents_series([readings.minutes.get(vm.ref, ()) for vm in vms], vcpus, now_s, fresh_s)
    if inside.known.all() or not (readings.outside or readings.counters):
        return inside
    seen = [readings.outside.get(vm.ref) for vm in vms]
    memory = [_memory(vm, readings.counters) for vm in vms]
    return first_known(inside, outside_series(seen, memory, now_s, fresh_s))


def _memory(vm: Vm, counters: Counters | None) -> float | None:
    found = None if counters is None else counters.vms.get(vm.ref.uuid)
    if found is None:
        return None
    return found.mem_bytes if found.mem_used_bytes is None else found.mem_used_bytes


def _with_host_counters(sums: Floats, told: Bools, hosts: Sequence[Host], cores: Mapping[str, float]) -> Floats:
    """The same with the host's own CPU counter in the newest minute that counts, where that is larger."""
    found = sums.copy()
    for row, host in enumerate(hosts):
        busy = cores.get(host.host_id)
        counts = np.flatnonzero(told[row, CPU])
        if busy is not None and len(counts):
            found[row, CPU, counts[-1]] = max(found[row, CPU, counts[-1]], busy)
    return found


def _summed(values: Floats, host_of: Ints, hosts: int) -> Floats:
    found: Floats = np.stack([np.bincount(host_of, column, hosts) for column in values.T], axis=1).astype(np.float64)
    return found.reshape(hosts, values.shape[1])


def _held(holds: Iterable[Hold], driver: str, rows: Mapping[str, int]) -> Floats:
    found = np.zeros((len(rows), 2))
    for hold in holds:
        if hold.driver == driver and hold.host_id in rows:
            found[rows[hold.host_id]] += (hold.vcpus, hold.mem_bytes)
    return found
