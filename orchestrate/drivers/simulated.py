"""The driver `simulated`: hosts and VMs that exist in memory, or in a file that several processes share.

It drives the demo, the tests and simulations of the whole controller. Its settings::

    kind = "simulated"
    park = "park.toml"      # hosts and VMs: orchestrate.drivers.simulated_park
    state = "state.json"    # how they are now, kept between processes; without it they live in this process alone
    pace = 1.0              # on all durations; 0: everything happens at once
    seed = 1                # of what goes wrong
    [….faults]              # how often, 0..1: refuse, busy, unreachable, lost-before, lost-after, fail, …, read
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from agent.settings import SettingsReader, parse_text
from orchestrate.driver import Capabilities, Driver, Order, Task, Unsupported, Verb
from orchestrate.drivers.registry import DriverConfig
from orchestrate.drivers.simulated_faults import Fault, SeededFaults
from orchestrate.drivers.simulated_park import read_park
from orchestrate.drivers.simulated_site import SimulatedSite
from orchestrate.drivers.simulated_state import FileKeeper, MemoryKeeper
from orchestrate.drivers.simulated_values import Pace
from orchestrate.inventory import Counters, Inventory, Vm, VmState

ALL = Capabilities(verbs=frozenset(Verb), vm_counters=True, host_counters=True)


class Time(Protocol):
    """The clock of the hypervisors, and how one waits by it."""

    def now_s(self) -> float:
        """Unix seconds."""

    def sleep_until(self, at_s: float) -> None:
        """Comes back at `at_s`, or before when somebody calls `wake`; a fake one turns its clock there."""

    def wake(self) -> None:
        """Ends the sleep of others: what they wait for may have changed."""


class WallTime:
    """Really waits. Args: clock: Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._changed = threading.Condition()

    def now_s(self) -> float:
        return self._clock()

    def sleep_until(self, at_s: float) -> None:
        with self._changed:
            self._changed.wait(max(0.0, at_s - self._clock()))

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Keeper(Protocol):
    """Where a site is kept."""

    def open(self, now_s: float) -> AbstractContextManager[SimulatedSite]:
        """The site as of `now_s`, for nobody else meanwhile; changes are kept when the block ends, however it does."""


class SimulatedDriver:
    """A site of simulated hypervisors. Args: capabilities: fewer than ALL, to be like a poorer driver."""

    def __init__(self, name: str, keeper: Keeper, time: Time, *, capabilities: Capabilities = ALL) -> None:
        self._name = name
        self._keeper = keeper
        self._time = time
        self._capabilities = capabilities

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def inventory(self, timeout_s: float) -> Inventory:  # noqa: ARG002 - it answers at once
        with self._open() as site:
            site.read("inventory")
            return Inventory(
                driver=self._name,
                read_s=self._time.now_s(),
                hosts=tuple(site.host(host_id) for host_id in site.hosts if host_id not in site.down),
                vms=tuple(site.vms()),
                unreachable={host_id: f"{host_id} does not answer" for host_id in sorted(site.down)},
            )

    def find(self, uuid: str, timeout_s: float) -> Vm:  # noqa: ARG002 - it answers at once
        with self._open() as site:
            site.read("find")
            return site.tell(site.find(uuid))

    def counters(self, timeout_s: float) -> Counters:  # noqa: ARG002 - it answers at once
        has = self._capabilities
        if not has.vm_counters and not has.host_counters:
            raise Unsupported(f"{self._name} counts nothing")
        with self._open() as site:
            site.read("counters")
            running = [g for g in site.guests.values() if g.state is VmState.RUNNING and g.host_id not in site.down]
            return Counters(
                hosts=site.host_counters() if has.host_counters else {},
                vms={guest.vm.uuid: site.counters_of(guest) for guest in running} if has.vm_counters else {},
            )

    def begin(self, order: Order, timeout_s: float) -> Task:  # noqa: ARG002 - it answers at once
        if order.verb not in self._capabilities.verbs:
            raise Unsupported(f"{self._name} cannot {order.verb}", uuid=order.uuid)
        with self._open() as site:
            return SimulatedTask(site.begin(order).number, self._open, self._time)

    def close(self) -> None:
        """Nothing is held open."""

    def _open(self) -> AbstractContextManager[SimulatedSite]:
        return self._keeper.open(self._time.now_s())


class SimulatedTask:
    """An order under way at a simulated site."""

    def __init__(self, number: int, site: Callable[[], AbstractContextManager[SimulatedSite]], time: Time) -> None:
        self._number = number
        self._site = site
        self._time = time

    @property
    def progress_ratio(self) -> float | None:
        with self._site() as site:
            job = site.jobs.get(self._number)
            return None if job is None else job.progress_ratio(site.now_s)

    def wait(self, timeout_s: float) -> bool:
        until_s = self._time.now_s() + timeout_s
        while True:
            with self._site() as site:
                if site.outcome(self._number):
                    return True
                ends_s, now_s = site.jobs[self._number].ends_s, site.now_s
            if now_s >= until_s:
                return False
            self._time.sleep_until(min(ends_s, until_s))

    def cancel(self) -> None:
        with self._site() as site:
            site.cancel(self._number)
        self._time.wake()


def open_driver(config: DriverConfig, clock: Callable[[], float]) -> Driver:
    """A driver out of its settings. Paths are those of the process that reads them.

    Raises: ConfigError: every mistake in the settings and in the park.
    """
    reader = SettingsReader(config.settings, source=config.source)
    park_path = reader.take("park", _path, None)
    state_path = reader.take("state", _path, None)
    pace = reader.take("pace", _factor, 1.0)
    seed = reader.take("seed", _seed, 1)
    ratios = {fault: reader.take(f"faults.{fault}", _factor, 0.0) for fault in Fault}
    read_ratio = reader.take("faults.read", _factor, 0.0)
    faults = None
    try:
        faults = SeededFaults(seed, ratios, read_ratio)
    except ValueError as error:
        reader.reject("faults", str(error))
    if park_path is None:
        reader.reject("park", "is missing: the file that describes hosts and VMs")
    reader.finish()
    assert park_path is not None
    park = read_park(park_path)

    def make() -> SimulatedSite:
        return SimulatedSite(park, now_s=clock(), pace=Pace(factor=pace), faults=faults, driver=config.name)

    keeper: Keeper = MemoryKeeper(make()) if state_path is None else FileKeeper(state_path, make)
    return SimulatedDriver(config.name, keeper, WallTime(clock))


def _path(value: object) -> Path:
    return Path(parse_text(value))


def _factor(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{value!r} is not a number from 0 on")
    return float(value)


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a whole number")
    return value
