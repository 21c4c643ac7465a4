"""What holds for every driver: one suite, run over each of them with hypervisors of its own.

A driver's tests subclass `DriverContract` and bring a fixture `site`: the driver, and a way past it to what it
drives, so that the tests can make VMs, look at them and change them behind the driver's back::

    class TestMine(DriverContract):
        @pytest.fixture
        def site(self) -> Iterator[Site]:
            ...

What a site cannot do, it says (`states`, `slow_order`, `cut`, `marker`); then the suite holds it to the rest. What a
driver does not declare has to be Unsupported.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterator
from typing import Protocol

import pytest

from orchestrate.driver import (
    AFTER,
    BEFORE,
    Busy,
    Driver,
    DriverError,
    NotFound,
    Order,
    Refused,
    Unreachable,
    Unsupported,
    Verb,
)
from orchestrate.inventory import Vm, VmState
from orchestrate.outside import between

# Looks at a task that goes on without anybody waiting, before it counts as stuck.
_LOOKS = 600


class Site(Protocol):
    """Hypervisors with a driver on one side and the tests on the other.

    Attributes:
        driver: the one under test.
        timeout_s: long enough for every order that is not slow.
        glance_s: shorter than what `slow_order` takes.
        states: those that `set_state` can bring about.
    """

    driver: Driver
    timeout_s: float
    glance_s: float
    states: frozenset[VmState]

    def make_vm(
        self,
        state: VmState,
        *,
        name: str | None = None,
        owner: str | None = None,
        mail: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> str:
        """A new VM in `state`, one of `states`; its UUID."""

    def set_state(self, uuid: str, state: VmState) -> None:
        """Brings a VM into another of `states`, past the driver."""

    def state_of(self, uuid: str) -> VmState:
        """As the hypervisor itself says, past the driver."""

    def remove_vm(self, uuid: str) -> None:
        """Deletes it, past the driver."""

    def marker(self, uuid: str) -> str | None:
        """Of a running VM: what lives in its memory alone, such as its boot id; None where that cannot be seen."""

    def slow_order(self, uuid: str) -> Order | None:
        """An order to a running VM that takes clearly longer than `glance_s`; None where there is none."""

    def let_pass(self, span_s: float) -> None:
        """Waits, or turns a clock that the tests own."""

    def cut(self, host_id: str) -> bool:
        """Takes a host off the network; False where that cannot be done."""

    def mend(self, host_id: str) -> None:
        """The opposite of `cut`."""

    def reopen(self) -> Driver:
        """Another driver for the same hypervisors, as a new process would open it."""


def unknown_uuid() -> str:
    """Of no VM."""
    return str(uuids.uuid4())


def another_host(site: Site, vm: Vm) -> str:
    """A host that `vm` can move to. Raises: StopIteration: there is none."""
    hosts = site.driver.inventory(site.timeout_s).hosts
    return next(host.host_id for host in hosts if host.host_id != vm.host_id and host.accepts)


def order_for(site: Site, verb: Verb, uuid: str) -> Order:
    """The order, with a host to move to where it is a migration."""
    if not verb.is_migration:
        return Order(verb=verb, uuid=uuid)
    target = another_host(site, site.driver.find(uuid, site.timeout_s))
    return Order(verb=verb, uuid=uuid, target_host_id=target)


def carry_out(site: Site, order: Order) -> None:
    """Gives an order that has to end well."""
    assert site.driver.begin(order, site.timeout_s).wait(site.timeout_s) is True


def declared(site: Site) -> Iterator[Verb]:
    """The verbs of the driver, in the order of Verb."""
    return (verb for verb in Verb if verb in site.driver.capabilities.verbs)


def refusal(site: Site, order: Order) -> DriverError:
    """What the driver raises for an order that it must not carry out."""
    with pytest.raises(DriverError) as raised:
        site.driver.begin(order, site.timeout_s).wait(site.timeout_s)
    return raised.value


class DriverContract:
    """Subclass it, with a fixture `site`."""

    def test_the_inventory_tells_of_hosts_and_vms(self, site: Site) -> None:
        """Each host with its size, each VM once, with its size, its host and the driver's name."""
        made = {site.make_vm(VmState.RUNNING), site.make_vm(VmState.OFF)}
        inventory = site.driver.inventory(site.timeout_s)
        hosts = {host.host_id: host for host in inventory.hosts}
        assert inventory.driver == site.driver.name
        assert len(hosts) == len(inventory.hosts) > 0
        assert all(host.driver == site.driver.name and host.cores > 0 < host.mem_bytes for host in hosts.values())
        uuids_told = [vm.ref.uuid for vm in inventory.vms]
        assert made <= set(uuids_told)
        assert len(set(uuids_told)) == len(uuids_told)
        for vm in inventory.vms:
            assert (vm.ref.driver, vm.ref.uuid) == (site.driver.name, vm.ref.uuid.lower())
            assert vm.host_id in hosts
            assert vm.name
            assert vm.vcpus > 0 < vm.mem_bytes
            assert all(mac == mac.lower() for mac in vm.macs)
        assert dict(inventory.unreachable) == {}

    def test_owner_mail_and_tags_are_told(self, site: Site) -> None:
        """What the hypervisor knows of a VM's owner reaches the inventory; what it does not know is None."""
        known = site.make_vm(VmState.OFF, owner="ada", mail="ada@example.org", tags=("env:dev", "team:a"))
        unknown = site.make_vm(VmState.OFF)
        vm = site.driver.find(known, site.timeout_s)
        assert (vm.owner, vm.mail, set(vm.tags)) == ("ada", "ada@example.org", {"env:dev", "team:a"})
        bare = site.driver.find(unknown, site.timeout_s)
        assert (bare.owner, bare.mail, bare.tags) == (None, None, ())

    def test_states_are_translated(self, site: Site) -> None:
        """Inventory and find tell each state that the site can bring about, and agree."""
        made = {site.make_vm(state): state for state in sorted(site.states)}
        told = {vm.ref.uuid: vm for vm in site.driver.inventory(site.timeout_s).vms}
        for uuid, state in made.items():
            assert told[uuid].state is state
            assert site.driver.find(uuid, site.timeout_s) == told[uuid]

    def test_find_is_fresh(self, site: Site) -> None:
        """What happens behind the driver's back is seen at the next look."""
        uuid = site.make_vm(VmState.RUNNING)
        site.driver.inventory(site.timeout_s)
        for state in (VmState.OFF, VmState.RUNNING):
            site.set_state(uuid, state)
            assert site.driver.find(uuid, site.timeout_s).state is state
        site.remove_vm(uuid)
        with pytest.raises(NotFound):
            site.driver.find(uuid, site.timeout_s)

    def test_a_vm_that_is_not_there_is_not_found(self, site: Site) -> None:
        """Neither by find nor for any order; the error names it and says that nothing changed."""
        uuid = unknown_uuid()
        host_id = site.driver.inventory(site.timeout_s).hosts[0].host_id
        with pytest.raises(NotFound) as raised:
            site.driver.find(uuid, site.timeout_s)
        errors: list[DriverError] = [raised.value]
        for verb in declared(site):
            errors.append(
                refusal(site, Order(verb=verb, uuid=uuid, target_host_id=host_id if verb.is_migration else None))
            )
        assert {(type(error), error.uuid, error.acted, error.retryable) for error in errors} == {
            (NotFound, uuid, False, False)
        }

    def test_a_name_is_not_an_identity(self, site: Site) -> None:
        """A VM that was deleted and made anew under its name is another: orders to the first do not reach it."""
        first = site.make_vm(VmState.RUNNING, name="again")
        site.driver.inventory(site.timeout_s)
        site.remove_vm(first)
        second = site.make_vm(VmState.RUNNING, name="again")
        assert isinstance(refusal(site, Order(verb=Verb.SUSPEND, uuid=first)), NotFound)
        assert site.driver.find(second, site.timeout_s).name == "again"
        assert site.state_of(second) is VmState.RUNNING

    def test_each_verb_does_what_it_says(self, site: Site) -> None:
        """From the state of BEFORE to that of AFTER, as the driver and the hypervisor itself tell."""
        for verb in declared(site):
            uuid = site.make_vm(BEFORE[verb])
            before = site.driver.find(uuid, site.timeout_s)
            order = order_for(site, verb, uuid)
            carry_out(site, order)
            after = site.driver.find(uuid, site.timeout_s)
            assert (verb, after.state, site.state_of(uuid)) == (verb, AFTER[verb], AFTER[verb])
            assert after.host_id == (order.target_host_id or before.host_id)
            assert (after.ref, after.name, after.vcpus, after.mem_bytes) == (
                before.ref,
                before.name,
                before.vcpus,
                before.mem_bytes,
            )
            assert [vm.ref.uuid for vm in site.driver.inventory(site.timeout_s).vms].count(uuid) == 1
            site.remove_vm(uuid)

    def test_each_verb_is_undone_by_its_inverse(self, site: Site) -> None:
        """Suspend and resume, stop and start, there and back again: the VM is where and what it was."""
        verbs = site.driver.capabilities.verbs
        for there, back in ((Verb.SUSPEND, Verb.RESUME), (Verb.STOP, Verb.START)):
            assert (there in verbs) is (back in verbs), "a verb without its inverse is not to be declared"
        pairs = [(Verb.SUSPEND, Verb.RESUME), (Verb.STOP, Verb.START)]
        pairs += [(verb, verb) for verb in (Verb.MIGRATE_LIVE, Verb.MIGRATE_COLD)]
        for there, back in pairs:
            if there in verbs:
                uuid = site.make_vm(BEFORE[there])
                before = site.driver.find(uuid, site.timeout_s)
                carry_out(site, order_for(site, there, uuid))
                target = before.host_id if back.is_migration else None
                carry_out(site, Order(verb=back, uuid=uuid, target_host_id=target))
                after = site.driver.find(uuid, site.timeout_s)
                assert (there, after.state, after.host_id) == (there, before.state, before.host_id)
                site.remove_vm(uuid)

    def test_each_verb_is_refused_in_every_other_state(self, site: Site) -> None:
        """A VM in a state other than that of BEFORE, paused by somebody too, stays as it is."""
        for verb in declared(site):
            for state in sorted(site.states - {BEFORE[verb]}):
                uuid = site.make_vm(state)
                error = refusal(site, order_for(site, verb, uuid))
                assert (verb, state, type(error)) in {(verb, state, Refused), (verb, state, Busy)}
                assert (error.uuid, error.acted) == (uuid, False)
                assert (verb, site.state_of(uuid)) == (verb, state)
                site.remove_vm(uuid)

    def test_what_is_not_declared_is_unsupported(self, site: Site) -> None:
        """A verb that is not among the capabilities changes nothing."""
        host_id = site.driver.inventory(site.timeout_s).hosts[0].host_id
        for verb in Verb:
            if verb not in site.driver.capabilities.verbs:
                uuid = site.make_vm(BEFORE[verb])
                error = refusal(
                    site, Order(verb=verb, uuid=uuid, target_host_id=host_id if verb.is_migration else None)
                )
                assert (verb, type(error), error.acted) == (verb, Unsupported, False)
                assert site.state_of(uuid) is BEFORE[verb]
                site.remove_vm(uuid)

    def test_a_migration_leads_to_another_host_that_is_there(self, site: Site) -> None:
        """To a host nobody knows: NotFound; to where the VM is: Refused; it stays as it is."""
        for verb in declared(site):
            if verb.is_migration:
                uuid = site.make_vm(BEFORE[verb])
                before = site.driver.find(uuid, site.timeout_s)
                nowhere = refusal(site, Order(verb=verb, uuid=uuid, target_host_id="no-such-host"))
                here = refusal(site, Order(verb=verb, uuid=uuid, target_host_id=before.host_id))
                assert (type(nowhere), nowhere.acted, type(here), here.acted) == (NotFound, False, Refused, False)
                assert site.driver.find(uuid, site.timeout_s) == before
                site.remove_vm(uuid)

    def test_a_suspend_keeps_the_memory(self, site: Site) -> None:
        """After suspend and resume the VM goes on where it was; it did not boot. A live migration keeps it too."""
        verbs = site.driver.capabilities.verbs
        ways = [[Verb.SUSPEND, Verb.RESUME], [Verb.MIGRATE_LIVE]]
        for way in (way for way in ways if verbs.issuperset(way)):
            uuid = site.make_vm(VmState.RUNNING)
            marker = site.marker(uuid)
            for verb in way:
                carry_out(site, order_for(site, verb, uuid))
            assert (way, site.marker(uuid)) == (way, marker)
            site.remove_vm(uuid)

    def test_a_stop_ends_the_boot(self, site: Site) -> None:
        """The marker of the guest's memory can tell: after stop and start it is another."""
        if site.driver.capabilities.verbs.issuperset({Verb.STOP, Verb.START}):
            uuid = site.make_vm(VmState.RUNNING)
            marker = site.marker(uuid)
            carry_out(site, Order(verb=Verb.STOP, uuid=uuid))
            carry_out(site, Order(verb=Verb.START, uuid=uuid))
            assert marker is None or site.marker(uuid) != marker

    def test_waiting_is_false_while_the_order_is_under_way(self, site: Site) -> None:
        """`wait` neither raises nor says it is done before it is; afterwards it says so as often as it is asked."""
        uuid = site.make_vm(VmState.RUNNING)
        order = site.slow_order(uuid)
        if order is not None:
            task = site.driver.begin(order, site.timeout_s)
            assert task.wait(site.glance_s) is False
            assert task.progress_ratio is None or 0.0 <= task.progress_ratio <= 1.0
            looks = 0
            while not task.wait(site.timeout_s):
                looks += 1
                assert looks < _LOOKS
            assert task.wait(site.glance_s) is True
            assert task.wait(0.0) is True
            assert task.progress_ratio in {None, 1.0}
            assert site.driver.find(uuid, site.timeout_s).state is AFTER[order.verb]

    def test_a_vm_has_one_task_at_a_time(self, site: Site) -> None:
        """While an order is under way a second one is Busy or Refused, and the first still ends well."""
        uuid = site.make_vm(VmState.RUNNING)
        order = site.slow_order(uuid)
        if order is not None:
            task = site.driver.begin(order, site.timeout_s)
            assert task.wait(site.glance_s) is False
            for verb in (Verb.SUSPEND, Verb.STOP):
                if verb in site.driver.capabilities.verbs:
                    error = refusal(site, Order(verb=verb, uuid=uuid))
                    assert isinstance(error, Busy | Refused)
                    assert error.acted is False
            looks = 0
            while not task.wait(site.timeout_s):
                looks += 1
                assert looks < _LOOKS
            assert site.state_of(uuid) is AFTER[order.verb]

    def test_a_cancelled_order_is_done_or_was_not(self, site: Site) -> None:
        """After `cancel`, `wait` says what came of it, and the VM is as that says."""
        uuid = site.make_vm(VmState.RUNNING)
        before = site.driver.find(uuid, site.timeout_s)
        order = site.slow_order(uuid)
        if order is not None:
            task = site.driver.begin(order, site.timeout_s)
            task.wait(site.glance_s)
            task.cancel()
            try:
                looks = 0
                while not task.wait(site.timeout_s):
                    looks += 1
                    assert looks < _LOOKS
            except DriverError:
                after = site.driver.find(uuid, site.timeout_s)
                assert (after.state, after.host_id) == (before.state, before.host_id)
            else:
                assert site.driver.find(uuid, site.timeout_s).state is AFTER[order.verb]

    def test_closing_leaves_tasks_alone(self, site: Site) -> None:
        """An order goes on at the hypervisor when the driver that gave it is closed."""
        uuid = site.make_vm(VmState.RUNNING)
        order = site.slow_order(uuid)
        if order is not None:
            task = site.driver.begin(order, site.timeout_s)
            assert task.wait(site.glance_s) is False
            site.driver.close()
            other = site.reopen()
            for _ in range(_LOOKS):
                vm = other.find(uuid, site.timeout_s)
                done = vm.state is AFTER[order.verb]
                if done and vm.host_id == (order.target_host_id or vm.host_id):
                    break
                site.let_pass(site.glance_s)
            else:
                pytest.fail("the order was not carried out once its driver was closed")

    def test_a_closed_driver_may_be_closed_again(self, site: Site) -> None:
        """Whoever closes need not know whether somebody did."""
        site.driver.close()
        site.driver.close()

    def test_counters_are_those_declared(self, site: Site) -> None:
        """A driver without counters raises Unsupported; one with them has every running VM, and none that is off."""
        running, off = site.make_vm(VmState.RUNNING), site.make_vm(VmState.OFF)
        capabilities = site.driver.capabilities
        if not capabilities.vm_counters and not capabilities.host_counters:
            with pytest.raises(Unsupported):
                site.driver.counters(site.timeout_s)
            return
        counters = site.driver.counters(site.timeout_s)
        inventory = site.driver.inventory(site.timeout_s)
        assert set(counters.hosts) <= {host.host_id for host in inventory.hosts}
        assert bool(counters.hosts) is capabilities.host_counters
        assert (running in counters.vms) is capabilities.vm_counters
        assert off not in counters.vms
        for uuid, vm in counters.vms.items():
            assert (vm.uuid, vm.host_id) == (uuid, site.driver.find(uuid, site.timeout_s).host_id)
        for host_id, host in counters.hosts.items():
            assert host.host_id == host_id

    def test_counters_only_grow_while_the_vm_runs(self, site: Site) -> None:
        """Two readings of a VM that stays where it is give what happened in between."""
        if site.driver.capabilities.vm_counters:
            uuid = site.make_vm(VmState.RUNNING)
            first = site.driver.counters(site.timeout_s)
            site.let_pass(max(1.0, site.glance_s))
            second = site.driver.counters(site.timeout_s)
            outside = between(first.vms[uuid], second.vms[uuid])
            assert outside is not None
            assert outside.span_s > 0
            assert outside.cpu_cores is None or outside.cpu_cores >= 0
            for host_id, host in first.hosts.items():
                earlier, later = host.cpu_s, second.hosts[host_id].cpu_s
                assert earlier is None or later is None or later >= earlier

    def test_counters_after_a_migration_are_of_the_new_host(self, site: Site) -> None:
        """They begin anew, and nobody takes the difference of two hosts for use."""
        capabilities = site.driver.capabilities
        if capabilities.vm_counters and Verb.MIGRATE_LIVE in capabilities.verbs:
            uuid = site.make_vm(VmState.RUNNING)
            before = site.driver.counters(site.timeout_s).vms[uuid]
            order = order_for(site, Verb.MIGRATE_LIVE, uuid)
            carry_out(site, order)
            after = site.driver.counters(site.timeout_s).vms[uuid]
            assert after.host_id == order.target_host_id
            assert between(before, after) is None

    def test_a_host_that_is_away_is_told_and_the_others_are_served(self, site: Site) -> None:
        """Its VMs are absent, not off; they cannot be found nor ordered about; afterwards all is as before."""
        uuid = site.make_vm(VmState.RUNNING)
        vm = site.driver.find(uuid, site.timeout_s)
        hosts = {host.host_id for host in site.driver.inventory(site.timeout_s).hosts}
        if not site.cut(vm.host_id):
            return
        try:
            inventory = site.driver.inventory(site.timeout_s)
            assert set(inventory.unreachable) == {vm.host_id}
            assert inventory.unreachable[vm.host_id]
            assert hosts - {vm.host_id} <= {host.host_id for host in inventory.hosts}
            assert uuid not in {other.ref.uuid for other in inventory.vms}
            with pytest.raises((Unreachable, NotFound)):
                site.driver.find(uuid, site.timeout_s)
            error = refusal(site, Order(verb=Verb.SUSPEND, uuid=uuid))
            assert isinstance(error, Unreachable | NotFound | Unsupported)
            assert error.acted is False
            if site.driver.capabilities.vm_counters:
                assert uuid not in site.driver.counters(site.timeout_s).vms
        finally:
            site.mend(vm.host_id)
        assert site.driver.find(uuid, site.timeout_s) == vm
        assert site.state_of(uuid) is VmState.RUNNING

    def test_capabilities_are_known_without_asking(self, site: Site) -> None:
        """They are the same before and after, with the hypervisor away too."""
        before = site.driver.capabilities
        site.driver.inventory(site.timeout_s)
        assert site.driver.capabilities == before
        site.driver.close()
        assert site.driver.capabilities == before
        assert site.driver.name
