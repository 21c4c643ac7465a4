"""The driver `libvirt`: a site of hosts, each with a libvirt daemon of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from orchestrate.driver import (
    BEFORE,
    Busy,
    Capabilities,
    Driver,
    DriverError,
    NotFound,
    Order,
    Refused,
    Task,
    Unreachable,
    Unsupported,
    Verb,
)
from orchestrate.drivers import libvirt_stats as stats_of
from orchestrate.drivers.libvirt_links import Link, Visit, load_libvirt
from orchestrate.drivers.libvirt_look import Found, Look, merged, settled
from orchestrate.drivers.libvirt_orders import Work
from orchestrate.drivers.libvirt_settings import HostSettings, LibvirtSettings, parse_settings
from orchestrate.drivers.libvirt_threads import Deadline
from orchestrate.drivers.libvirt_xml import is_uuid
from orchestrate.drivers.registry import DriverConfig
from orchestrate.inventory import Counters, Host, HostCounters, Inventory, Vm, VmCounters, VmState

T = TypeVar("T")
_POWER = frozenset({Verb.SUSPEND, Verb.RESUME, Verb.STOP, Verb.START})
_MIGRATIONS = frozenset({Verb.MIGRATE_LIVE, Verb.MIGRATE_COLD})
_CAN_BE_CANCELLED = frozenset({Verb.SUSPEND, Verb.MIGRATE_LIVE})
# How long it may take to see what became of an order that failed, to ask how far one is, and to give one up.
_AFTERMATH_S, _PROGRESS_S, _CANCEL_S = 30.0, 2.0, 10.0


def open_driver(config: DriverConfig, clock: Callable[[], float]) -> Driver:
    """The driver; it connects at its first call. Raises: ConfigError: its settings, or a missing package."""
    return LibvirtDriver(config.name, parse_settings(config), load_libvirt(), clock)


class LibvirtDriver:
    """See `orchestrate.driver.Driver`.

    Args:
        library: the module libvirt, as `load_libvirt` gives it.
        clock: Unix seconds.
    """

    def __init__(self, name: str, settings: LibvirtSettings, library: Any, clock: Callable[[], float]) -> None:
        self._name = name
        self._settings = settings
        self._library = library
        self._clock = clock
        self._capabilities = _capabilities(settings)
        self._hosts: Mapping[str, HostSettings] = {host.host_id: host for host in settings.hosts}
        self._links = {host.host_id: Link(host, library) for host in settings.hosts}
        self._looks = {host.host_id: Look(driver=name, settings=host, library=library) for host in settings.hosts}
        self._tasks: dict[str, LibvirtTask] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def inventory(self, timeout_s: float) -> Inventory:
        """All hosts and VMs now. A VM that two hosts claim is there twice."""

        def read(look: Look, connection: Any) -> tuple[Host, list[Found]]:
            return look.host(connection), look.all(connection)

        read_s = self._clock()
        answers, unreachable = self._ask_all(read, timeout_s)
        return Inventory(
            driver=self._name,
            read_s=read_s,
            hosts=tuple(host for host, _ in answers.values()),
            vms=merged([each for _, found in answers.values() for each in found]),
            unreachable={host_id: str(error) for host_id, error in unreachable.items()},
        )

    def find(self, uuid: str, timeout_s: float) -> Vm:
        """One VM as it is now.

        Raises:
            NotFound: no host has it, and all of them answered.
            Unreachable: no host that answers has it, and not all of them did.
            Refused: two hosts have it, and which of them is the one cannot be told.
        """
        return self._find(uuid, timeout_s).vm

    def counters(self, timeout_s: float) -> Counters:
        """Of hosts and VMs that are on. Raises: Unsupported."""
        if not self._capabilities.vm_counters:
            raise Unsupported(f"{self._name}: libvirt's test driver counts nothing")

        def read(look: Look, connection: Any) -> tuple[HostCounters, list[tuple[VmCounters, bool]]]:
            return look.host_counters(connection, self._clock), look.vm_counters(connection, self._clock)

        answers, _ = self._ask_all(read, timeout_s)
        vms: dict[str, VmCounters] = {}
        for _, counted in answers.values():
            for counters, executes in counted:
                # While it moves, both hosts know it: the one where it runs counts.
                if executes or counters.uuid not in vms:
                    vms[counters.uuid] = counters
        return Counters(hosts={host_id: host for host_id, (host, _) in answers.items()}, vms=vms)

    def begin(self, order: Order, timeout_s: float) -> Task:
        """Gives an order. Raises: DriverError: nothing was begun."""
        deadline = Deadline(timeout_s)
        uuid = order.uuid.lower()
        if order.verb not in self._capabilities.verbs:
            raise Unsupported(f"{self._name} cannot {order.verb}", uuid=order.uuid)
        earlier = self._tasks.get(uuid)
        if earlier is not None and not earlier.is_over:
            raise Busy(f"{earlier.verb} is under way", uuid=order.uuid)
        found = self._find(uuid, deadline.left_s())
        vm = found.vm
        _check_state(order, found)
        target = self._target(order, vm, deadline)
        work = Work(
            order=Order(verb=order.verb, uuid=uuid, target_host_id=order.target_host_id),
            vm=vm,
            target=target,
            look=self._looks[vm.host_id],
            look_everywhere=self._look_everywhere,
            settings=self._settings,
        )
        link = self._links[vm.host_id]
        task = LibvirtTask(link.begin(work.run), link, work)
        self._tasks = {other: running for other, running in self._tasks.items() if not running.is_over}
        self._tasks[uuid] = task
        return task

    def close(self) -> None:
        """Lets go of the connections. Orders under way keep theirs."""
        for link in self._links.values():
            link.close()

    def _target(self, order: Order, vm: Vm, deadline: Deadline) -> HostSettings | None:
        """Where a migration leads, and there is somebody there."""
        host_id = order.target_host_id
        if host_id is None:
            return None
        target = self._hosts.get(host_id)
        if target is None:
            raise NotFound(f"{self._name} has no host {host_id!r}", host_id=host_id, uuid=order.uuid)
        if host_id == vm.host_id:
            raise Refused(f"{host_id}: {vm.name} is there", host_id=host_id, uuid=order.uuid)
        try:
            self._links[host_id].visit(lambda connection: connection.getInfo(), deadline.left_s())
        except DriverError as error:
            error.uuid = order.uuid
            raise
        return target

    def _find(self, uuid: str, timeout_s: float) -> Found:
        if not is_uuid(uuid.lower()):
            raise NotFound(f"{self._name} has no VM {uuid!r}: that is no UUID", uuid=uuid)
        answers, unreachable = self._ask_all(lambda look, connection: look.one(connection, uuid.lower()), timeout_s)
        found = [each for each in answers.values() if each is not None]
        if not found and unreachable:
            why = "; ".join(str(error) for error in unreachable.values())
            raise Unreachable(f"no VM {uuid} on the hosts that answer ({why})", uuid=uuid)
        if not found:
            raise NotFound(f"{self._name} has no VM {uuid}", uuid=uuid)
        candidates = settled(found)
        if len(candidates) > 1:
            hosts = " and ".join(sorted(each.vm.host_id for each in candidates))
            raise Refused(
                f"{candidates[0].vm.name} is {candidates[0].vm.state} on {hosts}: one of them is wrong", uuid=uuid
            )
        return candidates[0]

    def _look_everywhere(self, uuid: str) -> dict[str, Found | DriverError | None]:
        answers, unreachable = self._ask_all(lambda look, connection: look.one(connection, uuid), _AFTERMATH_S)
        return {**answers, **unreachable}

    def _ask_all(self, ask: Callable[[Look, Any], T], timeout_s: float) -> tuple[dict[str, T], dict[str, DriverError]]:
        """What each host answers, all asked at once; and why others do not."""
        deadline = Deadline(timeout_s)
        visits: dict[str, Visit[T]] = {}
        answers: dict[str, T] = {}
        unreachable: dict[str, DriverError] = {}
        for host_id, link in self._links.items():
            try:
                visits[host_id] = link.begin(partial(ask, self._looks[host_id]))
            except DriverError as error:
                unreachable[host_id] = error
        for host_id, visit in visits.items():
            try:
                answers[host_id] = self._links[host_id].end(visit, deadline)
            except DriverError as error:
                unreachable[host_id] = error
        return answers, unreachable


class LibvirtTask:
    """See `orchestrate.driver.Task`."""

    def __init__(self, visit: Visit[None], link: Link, work: Work) -> None:
        self._running = visit.running
        self._link = link
        self._work = work

    @property
    def verb(self) -> Verb:
        return self._work.order.verb

    @property
    def is_over(self) -> bool:
        return self._running.is_over

    @property
    def progress_ratio(self) -> float | None:
        if self.is_over:
            return 1.0
        if self.verb not in _CAN_BE_CANCELLED:
            return None
        look, uuid = self._work.look, self._work.order.uuid
        with suppress(DriverError):
            job = self._link.visit(lambda connection: look.job(look.domain(connection, uuid)), _PROGRESS_S)
            return stats_of.progress_ratio(job)
        return None

    def wait(self, timeout_s: float) -> bool:
        if not self._running.wait(timeout_s):
            return False
        self._running.result()
        return True

    def cancel(self) -> None:
        if self.is_over or self.verb not in _CAN_BE_CANCELLED:
            return
        look, uuid = self._work.look, self._work.order.uuid
        # There may be nothing left to give up; `wait` tells.
        with suppress(DriverError):
            self._link.visit(lambda connection: look.domain(connection, uuid).abortJob(), _CANCEL_S)


def _capabilities(settings: LibvirtSettings) -> Capabilities:
    """What all hosts of a site can do."""
    is_test = any(host.uri.is_test for host in settings.hosts)
    return Capabilities(
        verbs=_POWER | _MIGRATIONS if settings.migrates and not is_test else _POWER,
        vm_counters=not is_test,
        host_counters=not is_test,
    )


def _check_state(order: Order, found: Found) -> None:
    vm = found.vm
    wanted = BEFORE[order.verb]
    words = f"{vm.host_id}: {vm.name} is {vm.state}, and {order.verb} needs it {wanted}"
    if vm.state is VmState.CHANGING:
        raise Busy(words, host_id=vm.host_id, uuid=order.uuid)
    if vm.state is not wanted:
        raise Refused(words, host_id=vm.host_id, uuid=order.uuid)
    if not found.is_kept:
        # Stopped, it would be gone; there would be nothing left to start.
        raise Refused(f"{vm.host_id}: {vm.name} is transient", host_id=vm.host_id, uuid=order.uuid)
