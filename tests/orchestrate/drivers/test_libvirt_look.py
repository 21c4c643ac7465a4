"""What is told of one VM at one host, and of VMs on which something is under way or stuck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrate.driver import Refused
from orchestrate.drivers.libvirt_look import Found, Look
from orchestrate.drivers.libvirt_settings import HostSettings
from orchestrate.drivers.libvirt_uri import HypervisorUri
from orchestrate.inventory import Shield, VmState
from tests.orchestrate.drivers.libvirt_sites import FakeLibrary, FakeLibvirtError, domain_xml

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
XML = domain_xml(UUID, "web")
GONE = FakeLibvirtError("gone", code=42)
NO_SUPPORT = FakeLibvirtError("not here", code=3)
NOT_NOW = FakeLibvirtError("domain is not running", code=55)
TIMED_OUT = FakeLibvirtError("cannot acquire state change lock", code=68)
ARRIVING = FakeLibvirtError("migration statistics are available only on the source host", code=84)
BROKEN = FakeLibvirtError("end of file", code=38, domain=7)


class Library(FakeLibrary):
    """With the names that a look needs."""

    VIR_DOMAIN_STATS_STATE, VIR_DOMAIN_STATS_BLOCK = 1, 32
    VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT = 1 << 29
    VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE, VIR_CONNECT_LIST_DOMAINS_PERSISTENT = 1, 2


class FakeDomain:
    """Answers as it is told, or raises what it is told."""

    def __init__(
        self,
        *,
        state: int = 1,
        control: Any = (0, 0, 0),
        job: Any = NO_SUPPORT,
        saved: bool = False,
        xml: Any = XML,
    ) -> None:
        self.stats = {"state.state": state, "state.reason": 1}
        self.saved = saved
        self._control, self._job, self._xml = control, job, xml
        self.asked: list[str] = []

    def _answer(self, name: str, value: Any) -> Any:
        self.asked.append(name)
        if isinstance(value, Exception):
            raise value
        return value

    def UUIDString(self) -> str:
        return UUID

    def name(self) -> str:
        return "web"

    def isPersistent(self) -> int:
        return 1

    def hasManagedSaveImage(self, flags: int) -> int:
        return int(self.saved)

    def XMLDesc(self, flags: int) -> str:
        text: str = self._answer("XMLDesc", self._xml)
        return text

    def controlInfo(self, flags: int) -> Sequence[int]:
        control: Sequence[int] = self._answer("controlInfo", self._control)
        return control

    def jobStats(self, flags: int) -> dict[str, int]:
        job: dict[str, int] = self._answer("jobStats", self._job)
        return job


class FakeConnection:
    """One domain."""

    def __init__(self, domain: FakeDomain) -> None:
        self._domain = domain

    def listAllDomains(self, flags: int) -> list[FakeDomain]:
        return [self._domain] if flags == 2 or self._domain.saved else []

    def getAllDomainStats(self, groups: int, flags: int) -> list[tuple[FakeDomain, dict[str, int]]]:
        assert flags & Library.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        return [(self._domain, self._domain.stats)]

    def domainListGetStats(
        self, domains: list[FakeDomain], groups: int, flags: int
    ) -> list[tuple[FakeDomain, dict[str, int]]]:
        return self.getAllDomainStats(groups, flags)

    def lookupByUUIDString(self, uuid: str) -> FakeDomain:
        if uuid != UUID:
            raise GONE
        return self._domain


def look() -> Look:
    uri = HypervisorUri(text="qemu:///system", host=None, is_test=False)
    return Look(driver="lab", settings=HostSettings(host_id="hv1", uri=uri), library=Library({}))


def looked(domain: FakeDomain) -> Found:
    """What both ways of looking say, which has to be the same."""
    connection = FakeConnection(domain)
    (listed,) = look().all(connection)
    assert look().one(connection, UUID) == listed
    return listed


@pytest.mark.parametrize(
    ("domain", "state"),
    [
        (FakeDomain(), VmState.RUNNING),
        (FakeDomain(job={"type": 0}), VmState.RUNNING),
        (FakeDomain(job=NOT_NOW), VmState.RUNNING),
        (FakeDomain(control=NO_SUPPORT), VmState.RUNNING),
        (FakeDomain(control=(2, 0, 50)), VmState.RUNNING),
        (FakeDomain(job={"type": 2, "operation": 5}), VmState.CHANGING),
        (FakeDomain(job={"type": 2}), VmState.CHANGING),
        (FakeDomain(job=TIMED_OUT), VmState.CHANGING),
        (FakeDomain(state=3, job=ARRIVING), VmState.CHANGING),
        (FakeDomain(control=(2, 0, 60_000)), VmState.UNKNOWN),
        (FakeDomain(control=(3, 1, 0)), VmState.UNKNOWN),
        (FakeDomain(state=5), VmState.OFF),
        (FakeDomain(state=5, saved=True), VmState.SUSPENDED),
    ],
)
def test_what_is_under_way_shows(domain: FakeDomain, state: VmState) -> None:
    """A job makes it changing, a stuck hypervisor unknown; what is not supported makes nothing of it."""
    found = looked(domain)
    assert (found.vm.state, found.vm.shields, found.is_kept) == (state, frozenset(), True)
    assert found.executes is (domain.stats["state.state"] == 1)


def test_a_backup_is_a_shield_and_the_vm_still_runs() -> None:
    """It is not ours to wait for: the VM is left alone."""
    vm = looked(FakeDomain(job={"type": 2, "operation": 9})).vm
    assert (vm.state, vm.shields) == (VmState.RUNNING, frozenset({Shield.BACKUP}))


def test_a_stuck_vm_is_not_asked_what_would_hold_up_all() -> None:
    """One hung monitor must not cost the host its answer."""
    domain = FakeDomain(control=(2, 0, 60_000))
    looked(domain)
    assert "jobStats" not in domain.asked


def test_a_vm_that_is_off_has_no_job_to_ask_for() -> None:
    """One question for each VM that is off."""
    domain = FakeDomain(state=5)
    looked(domain)
    assert set(domain.asked) == {"XMLDesc"}


def test_a_vm_that_goes_while_it_is_looked_at_is_not_there() -> None:
    """Neither an error for its host nor half a VM."""
    connection = FakeConnection(FakeDomain(xml=GONE))
    assert look().all(connection) == []
    assert look().one(connection, UUID) is None
    assert look().one(connection, UUID.replace("6", "7")) is None


@pytest.mark.parametrize("domain", [FakeDomain(xml=BROKEN), FakeDomain(control=BROKEN), FakeDomain(job=BROKEN)])
def test_a_broken_connection_is_no_answer(domain: FakeDomain) -> None:
    """It is not taken for "nothing is under way"."""
    with pytest.raises(FakeLibvirtError, match="end of file"):
        look().all(FakeConnection(domain))
    with pytest.raises(FakeLibvirtError, match="end of file"):
        look().one(FakeConnection(domain), UUID)


def test_xml_that_cannot_be_read_names_the_vm() -> None:
    """And its host."""
    with pytest.raises(Refused, match="hv1: web: not the XML of a domain"):
        look().all(FakeConnection(FakeDomain(xml="<domain/>")))


class FakeCounts:
    """A host that tells its memory, and of its CPU what it is told."""

    def __init__(self, cpu: Any) -> None:
        self._cpu = cpu

    def getCPUStats(self, cpu: int) -> dict[str, int]:
        if isinstance(self._cpu, Exception):
            raise self._cpu
        found: dict[str, int] = self._cpu
        return found

    def getMemoryStats(self, cell: int) -> dict[str, int]:
        return {"total": 1000, "free": 400}


def test_what_a_host_cannot_tell_of_itself_is_absent_and_the_rest_is_told() -> None:
    """A host without readable CPU counters still counts its memory, and its VMs; a broken connection is an error."""
    told = look().host_counters(FakeCounts({"user": 2 * 10**9, "kernel": 10**9}), lambda: 1.0)
    assert (told.cpu_s, told.mem_used_bytes) == (3.0, 600 * 1024)
    for error in (NO_SUPPORT, FakeLibvirtError("Invalid cpuNum", code=8), FakeLibvirtError("no such file", code=38)):
        told = look().host_counters(FakeCounts(error), lambda: 1.0)
        assert (told.cpu_s, told.mem_used_bytes) == (None, 600 * 1024)
    with pytest.raises(FakeLibvirtError, match="end of file"):
        look().host_counters(FakeCounts(BROKEN), lambda: 1.0)
