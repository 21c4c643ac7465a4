"""How hosts share their CPU among VMs at one moment. Pure.

Every sum runs one by one in the order of a host's VMs: the published tables depend on it, since ties
between hosts are broken by rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrate.simulation.park import Bools, Floats, Ints, Park, added_up

# A migration takes a tenth of the VM's CPU, and the host it goes to already spends that tenth.
RUNNING_SHARE = 0.9
ARRIVING_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entries:
    """The pairs of host and VM: by host, and within one in order of arrival.

    Attributes:
        hosts, vms: (n,) each pair's.
        arriving: (n,) the VM still migrates in.
        leaving: (n,) the VM runs here and migrates out.
    """

    hosts: Ints
    vms: Ints
    arriving: Bools
    leaving: Bools


def entries_of(vms_on: Sequence[Sequence[int]], host_of: Ints, flying: Collection[int]) -> Entries:
    """The pairs of a placement. A VM in flight stands on several hosts and runs on one."""
    counts = [len(vms) for vms in vms_on]
    hosts = np.repeat(np.arange(len(vms_on)), counts)
    vms = np.fromiter((vm for vms in vms_on for vm in vms), np.intp, sum(counts))
    in_flight = np.zeros(len(host_of), np.bool_)
    in_flight[list(flying)] = True
    here = host_of[vms] == hosts
    return Entries(hosts=hosts, vms=vms, arriving=~here, leaving=here & in_flight[vms])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shares:
    """What everyone gets. H hosts, V VMs.

    Attributes:
        vm_mips: (V,) what each VM gets where it runs; 0 for one that has left.
        used_mips: (H,) what is spent: what VMs get, and the tenth that migrating out costs them.
        asked_mips: (H,) what VMs ask for, those migrating in already with all of it.
        asked_here_mips: (H,) the same with a tenth of those, which is all that they can use here yet.
        allocated_mips: (H,) what VMs get, those migrating in as if they were here.
        needed_mips: (H,) what would do for what VMs can use here, those migrating in with a tenth.
    """

    vm_mips: Floats
    used_mips: Floats
    asked_mips: Floats
    asked_here_mips: Floats
    allocated_mips: Floats
    needed_mips: Floats


def share(park: Park, entries: Entries, demand_mips: Floats) -> Shares:
    """Gives each VM what it asks for, up to its cores; on a host that is short, in proportion and rounded down."""
    hosts, vms = park.hosts, park.vms
    count = len(hosts)
    asked = demand_mips[entries.vms]
    capped = np.minimum(asked, hosts.core_mips[entries.hosts] * vms.vcpus[entries.vms])
    needed = np.where(entries.arriving, capped * ARRIVING_SHARE, capped)
    total = added_up(entries.hosts, needed, count)
    got = np.where(entries.leaving, capped * RUNNING_SHARE, needed)
    short = total > hosts.mips
    if short.any():
        scale = np.divide(hosts.mips, total, out=np.ones(count), where=short)
        scaled = needed * scale[entries.hosts]
        floored = np.floor(np.where(entries.leaving, scaled * RUNNING_SHARE, scaled))
        got = np.where(short[entries.hosts], floored, got)
    spent = np.where(entries.leaving, got / RUNNING_SHARE, got)
    come = np.where(entries.arriving, got * RUNNING_SHARE / ARRIVING_SHARE + got, got)
    vm_mips = np.zeros(len(vms))
    here = ~entries.arriving
    vm_mips[entries.vms[here]] = got[here]
    return Shares(
        vm_mips=vm_mips,
        used_mips=added_up(entries.hosts, spent, count),
        asked_mips=added_up(entries.hosts, asked, count),
        asked_here_mips=added_up(entries.hosts, np.where(entries.arriving, asked * ARRIVING_SHARE, asked), count),
        allocated_mips=added_up(entries.hosts, come, count),
        needed_mips=total,
    )


def used_ratio(park: Park, shares: Shares) -> Floats:
    """Of each host's CPU. What rounding puts above 1 is 1."""
    ratio = shares.used_mips / park.hosts.mips
    found: Floats = np.where((ratio > 1) & (ratio < 1.01), 1.0, ratio)
    return found
