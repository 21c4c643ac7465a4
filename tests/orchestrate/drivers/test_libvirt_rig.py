"""The libvirt driver on real hypervisors: the contract, and what only they can show."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrate.driver import Busy, DriverError, Order, OutcomeUnknown, Refused, Verb
from orchestrate.inventory import VmState
from tests.orchestrate.drivers.contract import DriverContract, carry_out
from tests.orchestrate.drivers.libvirt_rig import DISK_BYTES, MEMORY_MIB, QemuSite
from tests.rig.session import session_rig

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not pytest's own: the path of a unix socket has to be short."""
    made = Path(tempfile.mkdtemp(prefix="fallow-vms-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def site(pytestconfig: pytest.Config, folder: Path) -> Iterator[QemuSite]:
    site = QemuSite(session_rig(pytestconfig), folder)
    yield site
    site.close()


class TestLibvirtQemu(DriverContract):
    """The contract, on two libvirt daemons with real QEMU guests."""

    @pytest.fixture
    def site(self, site: QemuSite) -> QemuSite:
        return site


def test_a_vm_is_seen_from_outside(site: QemuSite) -> None:
    """Size, disk, card and counters: what it takes at its host, whatever its guest says."""
    uuid = site.make_vm(VmState.RUNNING)
    vm = site.driver.find(uuid, site.timeout_s)
    assert (vm.mem_bytes, vm.disk_bytes, vm.vcpus, len(vm.macs)) == (MEMORY_MIB << 20, DISK_BYTES, 1, 1)
    counted = site.driver.counters(site.timeout_s)
    vm_counters, host = counted.vms[uuid], counted.hosts[vm.host_id]
    # Its process has run since it was started, and holds its memory and that of the emulation.
    assert vm_counters.cpu_s is not None
    assert vm_counters.cpu_s > 0
    assert vm_counters.mem_bytes is not None
    assert vm_counters.mem_bytes > 16 << 20
    assert vm_counters.disk_read_bytes is not None
    assert host.mem_used_bytes is not None


def test_what_a_guest_sends_is_counted_as_sent(site: QemuSite) -> None:
    """A ping flood from the LAN: the guest receives it, and sends nothing back that it was not asked for."""
    uuid = site.make_vm(VmState.RUNNING)
    first = site.driver.counters(site.timeout_s).vms[uuid]
    # Broadcasts: the guest has no address of its own, and answers none of them.
    site.shout(100)
    second = site.driver.counters(site.timeout_s).vms[uuid]
    assert None not in (first.net_rx_bytes, first.net_tx_bytes, second.net_rx_bytes, second.net_tx_bytes)
    assert (second.net_rx_bytes or 0) - (first.net_rx_bytes or 0) > 100 * 500
    assert (second.net_tx_bytes or 0) - (first.net_tx_bytes or 0) < 100 * 50


def test_a_paused_vm_is_told_and_not_touched(site: QemuSite) -> None:
    """Whoever paused it has a reason: no verb changes it, not even one that would move it."""
    uuid = site.make_vm(VmState.PAUSED)
    target = site.rig.hosts[1].name
    for order in (
        Order(verb=Verb.SUSPEND, uuid=uuid),
        Order(verb=Verb.STOP, uuid=uuid),
        Order(verb=Verb.RESUME, uuid=uuid),
        Order(verb=Verb.MIGRATE_LIVE, uuid=uuid, target_host_id=target),
    ):
        with pytest.raises(Refused, match="paused"):
            site.driver.begin(order, site.timeout_s)
    assert site.state_of(uuid) is VmState.PAUSED


def test_a_suspended_guest_goes_on_where_it_was(site: QemuSite) -> None:
    """Its boot is the same and its uptime goes on, without the time that it slept: its clocks stood still."""
    uuid = site.make_vm(VmState.RUNNING)
    began_s = time.monotonic()
    boot, up_s = site.tick(uuid)
    carry_out(site, Order(verb=Verb.SUSPEND, uuid=uuid))
    slept_s = 3.0
    time.sleep(slept_s)
    carry_out(site, Order(verb=Verb.RESUME, uuid=uuid))
    later_boot, later_up_s = site.tick(uuid)
    assert later_boot == boot
    assert up_s < later_up_s < up_s + time.monotonic() - began_s - slept_s


def test_a_guest_that_ignores_the_power_button_stays_up(site: QemuSite) -> None:
    """It is never forced: the order is refused in the end and the guest runs on."""
    uuid = site.make_vm(VmState.RUNNING, options="deaf")
    driver = site.reopen(stop_within="3s")
    with pytest.raises(Refused, match="still runs"):
        assert driver.begin(Order(verb=Verb.STOP, uuid=uuid), site.timeout_s).wait(site.timeout_s)
    assert site.state_of(uuid) is VmState.RUNNING
    site.tick(uuid)


def test_a_cut_link_leaves_the_guest_at_its_source(site: QemuSite) -> None:
    """The cable is pulled in the middle of a migration: it fails, says so, and the guest goes on where it was."""
    uuid = site.make_vm(VmState.RUNNING)
    source, target = site.rig.hosts
    boot, up_s = site.tick(uuid)
    order = site.slow_order(uuid)
    assert order is not None
    task = site.driver.begin(order, site.timeout_s)
    assert task.wait(2.0) is False
    site.rig.cut(target)
    try:
        with pytest.raises(DriverError) as raised:
            assert task.wait(site.timeout_s)
        later_boot, later_up_s = site.tick(uuid)
        assert (later_boot, later_up_s > up_s) == (boot, True)
        # Both daemons can be asked, so that it is known and not only believed that nothing changed.
        assert (type(raised.value), raised.value.acted) != (OutcomeUnknown, None)
        vm = site.driver.find(uuid, site.timeout_s)
        assert (vm.host_id, vm.state) == (source.name, VmState.RUNNING)
    finally:
        site.rig.mend(target)
    site.domain(uuid).migrateSetMaxSpeed(8796093022207)
    carry_out(site, order)
    assert site.tick(uuid)[0] == boot


def test_a_target_that_cannot_be_asked_makes_the_outcome_unknown(site: QemuSite) -> None:
    """The migration breaks and its target is silent: nobody may say that the guest is not there."""
    uuid = site.make_vm(VmState.RUNNING)
    target = site.rig.hosts[1].name
    order = site.slow_order(uuid)
    assert order is not None
    task = site.driver.begin(order, site.timeout_s)
    assert task.wait(1.0) is False
    site.cut(target)
    task.cancel()
    try:
        with pytest.raises(OutcomeUnknown):
            assert task.wait(site.timeout_s)
    finally:
        site.mend(target)
    assert site.driver.find(uuid, site.timeout_s).host_id == site.rig.hosts[0].name


def test_a_connection_that_breaks_during_an_order_makes_its_outcome_unknown(site: QemuSite) -> None:
    """The order may still be carried out, so that nobody may say that it was not; here it is."""
    uuid = site.make_vm(VmState.RUNNING)
    order = site.slow_order(uuid)
    assert order is not None
    task = site.driver.begin(order, site.timeout_s)
    assert task.wait(1.0) is False
    source = site.rig.hosts[0].name
    site.cut(source)
    try:
        with pytest.raises(OutcomeUnknown):
            assert task.wait(site.timeout_s)
    finally:
        site.mend(source)
    with pytest.raises(Busy):
        site.driver.begin(order, site.timeout_s)
    site.domain(uuid).migrateSetMaxSpeed(1000)


def test_progress_is_told_and_grows(site: QemuSite) -> None:
    """While a migration is under way its share that is done is between 0 and 1; at its end it is 1."""
    uuid = site.make_vm(VmState.RUNNING)
    order = site.slow_order(uuid)
    assert order is not None
    task = site.driver.begin(order, site.timeout_s)
    told: list[float] = []
    while not task.wait(0.3):
        ratio = task.progress_ratio
        told += [] if ratio is None else [ratio]
    assert len(told) > 1
    assert 0.0 <= told[0] <= told[-1] <= 1.0
    assert task.progress_ratio == 1.0
