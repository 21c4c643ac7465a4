"""Which VMs run on one host, and what they would free. Until an inventory tells, a tag `host:NAME` does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import sqlalchemy as sa

from aggregator.fleet import vm, vm_summary
from reports.judgement import Savings
from reports.judging import Chunk
from reports.report import RECLAIMABLE
from reports.tables import verdict
from reports.verdict_table import Stored
from reports.verdicts import CAUSES

TAG = "host:"
SOURCE = (
    "Hosts come from the tags of VMs for now: give each VM of a host the tag host:NAME, in the CSV of "
    "fallow-aggregator vms import or in its join token."
)
MAX_HOST_VMS = 2_000


@dataclass(slots=True, kw_only=True)
class HostSum:
    """What the VMs of one host add up to; it grows VM by VM. Unknown sizes count as nothing."""

    host: str
    vms: int = 0
    vcpus: float = 0.0
    mem_bytes: float = 0.0
    reclaimable: int = 0
    freed: list[float] = field(default_factory=lambda: [0.0] * 5)

    def add(self, vcpus: float, mem_bytes: float, freed: Sequence[float] | None) -> None:
        """One VM; `freed`: vCPUs, memory, disk, kWh and money of one that can be reclaimed."""
        self.vms += 1
        self.vcpus += vcpus
        self.mem_bytes += mem_bytes
        if freed is not None:
            self.reclaimable += 1
            self.freed = [total + part for total, part in zip(self.freed, freed, strict=True)]

    def savings(self, *, priced: bool) -> Savings:
        """What they would free together."""
        vcpus, mem_bytes, disk_bytes, kwh_per_month, money_per_month = self.freed
        return Savings(
            vcpus=vcpus,
            mem_bytes=mem_bytes,
            disk_bytes=disk_bytes,
            kwh_per_month=kwh_per_month,
            money_per_month=money_per_month if priced else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """Every host by name, and how many VMs name none."""

    hosts: tuple[HostSum, ...]
    without_host: int


def host_of(tags: Iterable[str]) -> str | None:
    """The host that a VM's tags name, the first of several; None for none."""
    return next((name for tag in tags if tag.startswith(TAG) and (name := tag.removeprefix(TAG).strip())), None)


def hosts_of(chunks: Iterable[Chunk]) -> Hosts:
    """Of verdicts made now."""
    found = _Hosts()
    reclaimable = [cause for cause in CAUSES if cause.verdict in RECLAIMABLE]
    for facts, judged, _ in chunks:
        parts = np.nan_to_num(
            np.array([*judged.freed, judged.worth.kwh_per_month, judged.worth.money_per_month], np.float64)
        ).T.tolist()
        sizes = np.nan_to_num(np.array([facts.cpu_count, facts.mem_total_bytes], np.float64)).T.tolist()
        frees = judged.of(*reclaimable).tolist()
        for row, one in enumerate(facts.vms):
            vcpus, mem_bytes = sizes[row]
            found.add(host_of(one.tags), vcpus, mem_bytes, parts[row] if frees[row] else None)
    return found.hosts()


def read_hosts(connection: sa.Connection, stored: Stored) -> Hosts:
    """Of the verdicts of a run, and of VMs that came since."""
    named = _naming_hosts(connection, f'"{TAG}')
    columns = ("vcpus", "mem_bytes", "disk_bytes", "energy_kwh_per_month", "money_per_month")
    frees = verdict.c.verdict.in_([each.value for each in RECLAIMABLE])
    joined = vm.outerjoin(vm_summary, vm_summary.c.vm_id == vm.c.vm_id).outerjoin(
        verdict, sa.and_(verdict.c.scope == stored.run.scope, verdict.c.vm_id == vm.c.vm_id)
    )
    query = (
        sa.select(
            vm.c.tags,
            vm_summary.c.cpu_count,
            vm_summary.c.mem_total_bytes,
            frees,
            *(verdict.c[name] for name in columns),
        )
        .select_from(joined)
        .where(named)
    )
    found = _Hosts()
    for tags, vcpus, mem_bytes, is_reclaimable, *freed in connection.execute(query):
        parts = [part or 0.0 for part in freed] if is_reclaimable else None
        found.add(host_of(json.loads(tags)), vcpus or 0.0, mem_bytes or 0.0, parts)
    without = connection.scalar(sa.select(sa.func.count()).select_from(vm).where(sa.not_(named))) or 0
    return found.hosts(without)


def read_host_vms(connection: sa.Connection, host: str) -> tuple[str, ...]:
    """Ids of the VMs on a host, at most MAX_HOST_VMS of them; none: there is no such host."""
    # As the catalogue writes it.
    text = json.dumps(TAG + host)
    query = sa.select(vm.c.vm_id, vm.c.tags).where(_naming_hosts(connection, text)).order_by(vm.c.vm_id)
    ids = (vm_id for vm_id, tags in connection.execute(query) if host_of(json.loads(tags)) == host)
    return tuple(vm_id for vm_id, _ in zip(ids, range(MAX_HOST_VMS), strict=False))


class _Hosts:
    def __init__(self) -> None:
        self._found: dict[str, HostSum] = {}
        self._without = 0

    def add(self, host: str | None, vcpus: float, mem_bytes: float, freed: Sequence[float] | None) -> None:
        if host is None:
            self._without += 1
            return
        self._found.setdefault(host, HostSum(host=host)).add(vcpus, mem_bytes, freed)

    def hosts(self, without: int = 0) -> Hosts:
        ordered = sorted(self._found.values(), key=lambda one: (one.host.casefold(), one.host))
        return Hosts(hosts=tuple(ordered), without_host=self._without + without)


def _naming_hosts(connection: sa.Connection, text: str) -> sa.ColumnElement[bool]:
    # Not LIKE: no character of a host's name has a meaning of its own.
    find = sa.func.instr if connection.dialect.name == "sqlite" else sa.func.strpos
    return find(vm.c.tags, text) > 0
