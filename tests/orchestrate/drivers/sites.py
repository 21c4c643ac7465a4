"""Simulated hypervisors for tests: a clock of their own, a small park, and the contract's way past the driver."""

from __future__ import annotations

import uuid as uuids
from dataclasses import dataclass, field, replace

from orchestrate.driver import Capabilities, Driver, Order, Verb
from orchestrate.drivers.simulated import ALL, Keeper, SimulatedDriver
from orchestrate.drivers.simulated_faults import Faults
from orchestrate.drivers.simulated_park import Park, ParkHost, ParkVm
from orchestrate.drivers.simulated_site import SimulatedSite
from orchestrate.drivers.simulated_state import MemoryKeeper
from orchestrate.drivers.simulated_values import Pace
from orchestrate.inventory import VmState

GIB = 1 << 30
START_S = 1_700_000_000.0
HOSTS = tuple(ParkHost(host_id=f"h{n}", cores=16, mem_bytes=64 * GIB) for n in (1, 2, 3))


@dataclass
class FakeTime:
    """A clock that whoever sleeps turns."""

    at_s: float = START_S
    woken: int = 0

    def now_s(self) -> float:
        return self.at_s

    def sleep_until(self, at_s: float) -> None:
        self.at_s = max(self.at_s, at_s)

    def wake(self) -> None:
        self.woken += 1


def vm_of(uuid: str, *, host_id: str = "h1", mem_bytes: int = 2 * GIB, name: str | None = None) -> ParkVm:
    """A VM that does a little."""
    return ParkVm(
        uuid=uuid,
        name=name or uuid,
        host_id=host_id,
        vcpus=2,
        mem_bytes=mem_bytes,
        cpu_ratio=0.02,
        net_bytes_per_s=300.0,
        disk_bytes_per_s=100.0,
    )


@dataclass
class SimulatedContractSite:
    """The contract's `Site` over simulated hypervisors."""

    time: FakeTime
    keeper: Keeper
    capabilities: Capabilities = ALL
    timeout_s: float = 600.0
    glance_s: float = 0.5
    states: frozenset[VmState] = frozenset({VmState.RUNNING, VmState.SUSPENDED, VmState.PAUSED, VmState.OFF})
    driver: Driver = field(init=False)

    def __post_init__(self) -> None:
        self.driver = self.reopen()

    def reopen(self) -> Driver:
        return SimulatedDriver("lab", self.keeper, self.time, capabilities=self.capabilities)

    def make_vm(
        self,
        state: VmState,
        *,
        name: str | None = None,
        owner: str | None = None,
        mail: str | None = None,
        tags: tuple[str, ...] = (),
    ) -> str:
        uuid = str(uuids.uuid4())
        with self.keeper.open(self.time.now_s()) as site:
            site.add(replace(vm_of(uuid, name=name), owner=owner, mail=mail, tags=tags, state=state))
        return uuid

    def set_state(self, uuid: str, state: VmState) -> None:
        with self.keeper.open(self.time.now_s()) as site:
            site.force(uuid, state)

    def state_of(self, uuid: str) -> VmState:
        with self.keeper.open(self.time.now_s()) as site:
            return site.guests[uuid].state

    def remove_vm(self, uuid: str) -> None:
        with self.keeper.open(self.time.now_s()) as site:
            site.remove(uuid)

    def marker(self, uuid: str) -> str | None:
        with self.keeper.open(self.time.now_s()) as site:
            return str(site.guests[uuid].boot)

    def slow_order(self, uuid: str) -> Order | None:
        if Verb.MIGRATE_LIVE in self.capabilities.verbs:
            return Order(verb=Verb.MIGRATE_LIVE, uuid=uuid, target_host_id="h2")
        return Order(verb=Verb.SUSPEND, uuid=uuid)

    def let_pass(self, span_s: float) -> None:
        self.time.at_s += span_s

    def cut(self, host_id: str) -> bool:
        with self.keeper.open(self.time.now_s()) as site:
            site.cut(host_id)
        return True

    def mend(self, host_id: str) -> None:
        with self.keeper.open(self.time.now_s()) as site:
            site.mend(host_id)


def site_of(*vms: ParkVm, faults: Faults | None = None, pace: Pace | None = None) -> SimulatedSite:
    """Three hosts with these VMs."""
    return SimulatedSite(Park(hosts=HOSTS, vms=vms), now_s=START_S, faults=faults, pace=pace, driver="lab")


def driver_of(site: SimulatedSite, time: FakeTime) -> SimulatedDriver:
    """Its driver."""
    return SimulatedDriver("lab", MemoryKeeper(site), time)
