"""The libvirt driver over libvirt's own test driver: the contract, and what that driver can show of ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrate.driver import NotFound, Order, Refused, Unreachable, Unsupported, Verb
from orchestrate.inventory import Shield, VmState
from tests.orchestrate.drivers.contract import DriverContract, unknown_uuid
from tests.orchestrate.drivers.libvirt_sites import TEST_URI, LibvirtTestSite, domain_xml, driver_of

DEAD_URI = "qemu:///system?socket=/nonexistent/libvirt-sock"


@pytest.fixture
def site() -> Iterator[LibvirtTestSite]:
    site = LibvirtTestSite()
    yield site
    site.close()


class TestLibvirtTestDriver(DriverContract):
    """The contract, on libvirt's test driver."""

    @pytest.fixture
    def site(self, site: LibvirtTestSite) -> LibvirtTestSite:
        return site


def test_a_host_that_is_down_is_told_and_the_other_served() -> None:
    """One dead socket costs its own VMs alone; nobody knows of a VM whether it is there."""
    driver = driver_of([{"uri": TEST_URI, "name": "up"}, {"uri": DEAD_URI, "name": "down"}])
    inventory = driver.inventory(30.0)
    assert [host.host_id for host in inventory.hosts] == ["up"]
    assert list(inventory.unreachable) == ["down"]
    assert "/nonexistent/libvirt-sock" in inventory.unreachable["down"]
    assert inventory.vms
    with pytest.raises(Unreachable, match=r"no VM .* on the hosts that answer"):
        driver.find(unknown_uuid(), 30.0)
    driver.close()


def test_capabilities_are_those_that_all_hosts_share() -> None:
    """A site with one host of the test driver can neither migrate nor count."""
    driver = driver_of([{"uri": TEST_URI, "name": "a"}, {"uri": "qemu+ssh://root@hv1/system", "name": "b"}])
    assert driver.capabilities.verbs == {Verb.SUSPEND, Verb.RESUME, Verb.STOP, Verb.START}
    assert (driver.capabilities.vm_counters, driver.capabilities.host_counters) == (False, False)
    with pytest.raises(Unsupported):
        driver.counters(1.0)
    with pytest.raises(Unsupported):
        driver.begin(Order(verb=Verb.MIGRATE_COLD, uuid=unknown_uuid(), target_host_id="b"), 1.0)


def test_real_hosts_can_move_vms_where_each_can_be_reached() -> None:
    """Migrations are declared once every host has an address for the others."""
    ssh = ["qemu+ssh://root@hv1/system", "qemu+ssh://root@hv2/system"]
    assert Verb.MIGRATE_LIVE in driver_of(ssh).capabilities.verbs
    local = {"uri": "qemu:///system", "name": "here"}
    assert Verb.MIGRATE_LIVE not in driver_of([*ssh, local]).capabilities.verbs
    told = {**local, "migrate_uri": "qemu+ssh://root@here/system"}
    assert Verb.MIGRATE_LIVE in driver_of([*ssh, told]).capabilities.verbs
    assert Verb.MIGRATE_LIVE not in driver_of(ssh[:1]).capabilities.verbs


def test_two_hosts_that_run_one_vm_are_refused(site: LibvirtTestSite) -> None:
    """A VM that runs twice is in the inventory twice, and nothing is done to either."""
    uuid = site.make_vm(VmState.RUNNING)
    # The same libvirt under two names: each VM of it runs on both.
    driver = driver_of([{"uri": TEST_URI, "name": "a"}, {"uri": TEST_URI, "name": "b"}])
    twice = [vm.host_id for vm in driver.inventory(30.0).vms if vm.ref.uuid == uuid]
    assert twice == ["a", "b"]
    with pytest.raises(Refused, match="on a and b"):
        driver.find(uuid, 30.0)
    with pytest.raises(Refused, match="on a and b"):
        driver.begin(Order(verb=Verb.SUSPEND, uuid=uuid), 30.0)
    assert site.state_of(uuid) is VmState.RUNNING


def test_a_transient_vm_is_left_alone(site: LibvirtTestSite) -> None:
    """Stopped, it would be gone for good."""
    uuid = unknown_uuid()
    domain = site._connection.createXML(domain_xml(uuid, "fleeting"))
    for verb in (Verb.STOP, Verb.SUSPEND):
        with pytest.raises(Refused, match="transient"):
            site.driver.begin(Order(verb=verb, uuid=uuid), 30.0)
    assert site.state_of(uuid) is VmState.RUNNING
    domain.destroy()


def test_shields_and_macs_are_told(site: LibvirtTestSite) -> None:
    """What libvirt keeps of a domain's XML reaches the inventory."""
    uuid = unknown_uuid()
    metadata = "<f:vm xmlns:f='urn:fallow:vm'><f:lock/><f:tag>template</f:tag></f:vm>"
    devices = "<interface type='user'><mac address='52:54:00:AB:CD:EF'/></interface>"
    domain = site._connection.defineXML(domain_xml(uuid, "shielded", metadata=metadata, devices=devices))
    vm = site.driver.find(uuid.upper(), 30.0)
    domain.undefine()
    assert vm.shields == {Shield.LOCKED, Shield.TEMPLATE}
    assert vm.macs == ("52:54:00:ab:cd:ef",)
    assert (vm.vcpus, vm.mem_bytes, vm.created_s, vm.disk_bytes) == (2, 128 << 20, None, None)


def test_a_closed_driver_answers_nothing(site: LibvirtTestSite) -> None:
    """It opens no new connections once it was let go."""
    site.driver.close()
    assert list(site.driver.inventory(30.0).unreachable.values()) == ["localhost: the driver is closed"]


def test_what_is_no_uuid_is_not_found(site: LibvirtTestSite) -> None:
    """Whatever a caller hands in, an order to it reaches no VM."""
    for text in ("", "test", "6695eb01", "'; drop"):
        with pytest.raises(NotFound):
            site.driver.find(text, 30.0)
