"""What there is at one host: reads of a connection, which block, turned into plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrate.driver import NotFound, Refused
from orchestrate.drivers import libvirt_stats as stats_of
from orchestrate.drivers.libvirt_errors import is_arriving, is_busy, is_gone, is_of_connection, says_no
from orchestrate.drivers.libvirt_settings import HostSettings
from orchestrate.drivers.libvirt_xml import Described, parse_domain
from orchestrate.inventory import Host, HostCounters, Shield, Vm, VmCounters, VmRef, VmState

_MIB = 1 << 20
_ALL_CPUS = _ALL_CELLS = -1
# virDomainControlState: a command has the domain's monitor; the monitor is broken.
_OCCUPIED, _BROKEN = 2, 3
# No command of libvirt's takes as long while the guest's hypervisor is well.
_STUCK_AFTER_S = 2.0
# What is told of a VM that another job has for so long that libvirt gave up asking.
_SOME_JOB: Mapping[str, Any] = {"type": 1}
# Of a VM that several hosts know, the one in the first of these states is it.
_BY_LIFE = (VmState.RUNNING, VmState.CHANGING, VmState.PAUSED, VmState.SUSPENDED, VmState.OFF, VmState.UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A VM at one host. Args: executes: its CPUs run there. is_kept: its definition stays when it is off."""

    vm: Vm
    executes: bool
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Reads of one host.

    Args: driver: its name. library: the module libvirt.
    """

    driver: str
    settings: HostSettings
    library: Any

    def host(self, connection: Any) -> Host:
        """Its size."""
        # [model, memory in MiB, CPUs, …]
        info = connection.getInfo()
        return Host(
            driver=self.driver,
            host_id=self.settings.host_id,
            cores=info[2],
            mem_bytes=info[1] * _MIB,
            accepts=self.settings.accepts,
            tags=self.settings.tags,
        )

    def all(self, connection: Any) -> list[Found]:
        """Its VMs, in no order."""
        library = self.library
        saved = _uuids(connection.listAllDomains(library.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE))
        kept = _uuids(connection.listAllDomains(library.VIR_CONNECT_LIST_DOMAINS_PERSISTENT))
        found = (
            self._found(domain, stats, is_saved=domain.UUIDString() in saved, is_kept=domain.UUIDString() in kept)
            for domain, stats in connection.getAllDomainStats(self._groups, self._nowait)
        )
        return [each for each in found if each is not None]

    def one(self, connection: Any, uuid: str) -> Found | None:
        """One VM; None where this host does not know it."""
        try:
            domain = connection.lookupByUUIDString(uuid)
            is_saved, is_kept = bool(domain.hasManagedSaveImage(0)), bool(domain.isPersistent())
            ((_, stats),) = connection.domainListGetStats([domain], self._groups, self._nowait)
        except self.library.libvirtError as error:
            if is_gone(error):
                return None
            raise
        return self._found(domain, stats, is_saved=is_saved, is_kept=is_kept)

    def domain(self, connection: Any, uuid: str) -> Any:
        """libvirt's own. Raises: NotFound."""
        try:
            return connection.lookupByUUIDString(uuid)
        except self.library.libvirtError as error:
            if is_gone(error):
                host_id = self.settings.host_id
                raise NotFound(f"{host_id}: no VM {uuid}", host_id=host_id, uuid=uuid) from error
            raise

    def vm_counters(self, connection: Any, at_s: Callable[[], float]) -> list[tuple[VmCounters, bool]]:
        """Of VMs that are on, and whether their CPUs run here."""
        library = self.library
        groups = (
            library.VIR_DOMAIN_STATS_STATE
            | library.VIR_DOMAIN_STATS_CPU_TOTAL
            | library.VIR_DOMAIN_STATS_BALLOON
            | library.VIR_DOMAIN_STATS_INTERFACE
            | library.VIR_DOMAIN_STATS_BLOCK
        )
        rows = connection.getAllDomainStats(groups, self._nowait | library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE)
        read_s = at_s()
        return [
            (
                stats_of.vm_counters(
                    stats, uuid=domain.UUIDString().lower(), host_id=self.settings.host_id, at_s=read_s
                ),
                stats_of.is_executing(stats.get("state.state", 0)),
            )
            for domain, stats in rows
        ]

    def host_counters(self, connection: Any, at_s: Callable[[], float]) -> HostCounters:
        """Its own; what it does not count is None."""
        cpu = self._of_host(lambda: connection.getCPUStats(_ALL_CPUS))
        memory = self._of_host(lambda: connection.getMemoryStats(_ALL_CELLS))
        return stats_of.host_counters(cpu, memory, host_id=self.settings.host_id, at_s=at_s())

    def job(self, domain: Any) -> Mapping[str, Any]:
        """What runs on a VM just now, as virDomainGetJobStats tells; empty where nothing does."""
        try:
            job: Mapping[str, Any] = domain.jobStats(0)
        except self.library.libvirtError as error:
            if is_busy(error) or is_arriving(error):
                return _SOME_JOB
            if says_no(error):
                return {}
            raise
        return job if stats_of.has_job(job) else {}

    @property
    def _groups(self) -> int:
        return int(self.library.VIR_DOMAIN_STATS_STATE | self.library.VIR_DOMAIN_STATS_BLOCK)

    @property
    def _nowait(self) -> int:
        # A VM whose monitor hangs is told of without what only that knows; else all would wait for it.
        return int(self.library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)

    def _found(self, domain: Any, stats: Mapping[str, Any], *, is_saved: bool, is_kept: bool) -> Found | None:
        number, reason = stats.get("state.state", 0), stats.get("state.reason", 0)
        state = stats_of.state_of(number, reason, is_saved=is_saved)
        try:
            described = parse_domain(domain.XMLDesc(0))
            vm = self._vm(described, stats, state)
            return Found(
                vm=vm if number in {stats_of.NOSTATE, stats_of.SHUTOFF} else self._with_job(vm, domain),
                executes=stats_of.is_executing(number),
                is_kept=is_kept,
            )
        except self.library.libvirtError as error:
            if is_gone(error):
                # It went between two questions.
                return None
            raise
        except ValueError as error:
            raise Refused(
                f"{self.settings.host_id}: {domain.name()}: {error}", host_id=self.settings.host_id
            ) from error

    def _vm(self, described: Described, stats: Mapping[str, Any], state: VmState) -> Vm:
        return Vm(
            ref=VmRef(self.driver, described.uuid),
            name=described.name,
            host_id=self.settings.host_id,
            state=state,
            vcpus=described.vcpus,
            mem_bytes=described.mem_bytes,
            disk_bytes=stats_of.disk_bytes(stats),
            owner=described.owner,
            mail=described.mail,
            tags=described.tags,
            macs=described.macs,
            shields=described.shields,
        )

    def _with_job(self, vm: Vm, domain: Any) -> Vm:
        """The same VM, with what is being done to it."""
        control = self._asked(lambda: domain.controlInfo(0), default=[0, 0, 0])
        if control[0] == _BROKEN or (control[0] == _OCCUPIED and control[2] >= _STUCK_AFTER_S * 1000):
            return replace(vm, state=VmState.UNKNOWN)
        job = self.job(domain)
        if stats_of.is_backup(job):
            return replace(vm, shields=vm.shields | {Shield.BACKUP})
        return replace(vm, state=VmState.CHANGING) if job else vm

    def _of_host(self, ask: Callable[[], Any]) -> Any:
        """The answer; None where the host cannot give it, which is no reason to know nothing of its VMs."""
        try:
            return ask()
        except self.library.libvirtError as error:
            if is_of_connection(error):
                raise
            return None

    def _asked(self, ask: Callable[[], Any], *, default: Any) -> Any:
        """The answer; `default` where this hypervisor has none."""
        try:
            return ask()
        except self.library.libvirtError as error:
            if says_no(error):
                return default
            raise


def _uuids(domains: Iterable[Any]) -> set[str]:
    return {domain.UUIDString() for domain in domains}


def settled(found: Iterable[Found]) -> list[Found]:
    """Of one VM that several hosts know, the one that counts: all of them where that cannot be told."""
    there = list(found)
    running = [each for each in there if each.executes]
    candidates = running or there
    best = min((_BY_LIFE.index(each.vm.state) for each in candidates), default=0)
    # Two whose CPUs run are two, whatever else is under way on them.
    return running or [each for each in candidates if _BY_LIFE.index(each.vm.state) == best]


def merged(found: Sequence[Found]) -> tuple[Vm, ...]:
    """The VMs of all hosts, each once where it can be told which it is; by UUID, then by host."""
    by_uuid: dict[str, list[Found]] = {}
    for each in found:
        by_uuid.setdefault(each.vm.ref.uuid, []).append(each)
    vms = (each.vm for same in by_uuid.values() for each in settled(same))
    return tuple(sorted(vms, key=lambda vm: (vm.ref.uuid, vm.host_id)))
