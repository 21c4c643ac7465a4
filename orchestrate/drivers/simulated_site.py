"""A site of simulated hypervisors: hosts, VMs and the tasks under way, as of a time that is handed in. No I/O.

Nothing happens by itself: `advance` carries out what became due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from orchestrate.driver import (
    AFTER,
    BEFORE,
    Busy,
    DriverError,
    NotFound,
    Order,
    OutcomeUnknown,
    Refused,
    Unreachable,
    Verb,
)
from orchestrate.drivers.simulated_faults import Fault, Faults, NoFaults
from orchestrate.drivers.simulated_park import Park, ParkHost, ParkVm
from orchestrate.drivers.simulated_values import Guest, Job, JobState, Pace
from orchestrate.inventory import Host, HostCounters, Vm, VmCounters, VmRef, VmState

# States in which a VM takes the memory of its host.
_IN_MEMORY = frozenset({VmState.RUNNING, VmState.PAUSED})
# What an ended task is kept for: whoever waits for it asks within that time.
_KEEP_ENDED_S = 3600.0
_STALL_FACTOR = 100.0


class SimulatedSite:
    """Hypervisors that live in memory. Times are Unix seconds and never go back.

    Attributes:
        hosts, guests, jobs: what there is, by id, by UUID and by number.
        down: hosts that do not answer. orders, reads: how many there were, which `faults` go by.
        now_s: up to when everything has happened.
    """

    def __init__(
        self,
        park: Park,
        *,
        now_s: float,
        pace: Pace | None = None,
        faults: Faults | None = None,
        driver: str = "simulated",
    ) -> None:
        self._driver = driver
        self._pace = pace or Pace()
        self._faults = faults or NoFaults()
        self._running: set[int] = set()
        # A frozen VM costs more to make than to keep: unchanged ones are handed out again.
        self._told: dict[str, Vm] = {}
        self.hosts: dict[str, ParkHost] = {host.host_id: host for host in park.hosts}
        self.guests: dict[str, Guest] = {}
        self.jobs: dict[int, Job] = {}
        self.down: set[str] = set()
        self.orders = 0
        self.reads = 0
        self.now_s = now_s
        for vm in park.vms:
            self.add(vm)

    # What the driver asks.

    def read(self, what: str) -> None:
        """Counts a read. Raises: Unreachable: by chance."""
        self.reads += 1
        if self._faults.of_read(what, self.reads):
            raise Unreachable(f"the hypervisors did not answer ({what})")

    def host(self, host_id: str) -> Host:
        """As the contract tells it."""
        host = self.hosts[host_id]
        return Host(
            driver=self._driver,
            host_id=host_id,
            cores=host.cores,
            mem_bytes=host.mem_bytes,
            accepts=host.accepts,
            tags=host.tags,
        )

    def vms(self) -> Iterator[Vm]:
        """Those on hosts that answer."""
        return (self.tell(guest) for guest in self.guests.values() if guest.host_id not in self.down)

    def tell(self, guest: Guest) -> Vm:
        """A VM as the contract tells it."""
        vm = guest.vm
        known = self._told.get(vm.uuid)
        if known is None:
            known = self._told[vm.uuid] = Vm(
                ref=VmRef(self._driver, vm.uuid),
                name=vm.name,
                host_id=guest.host_id,
                state=guest.state if guest.job is None else VmState.CHANGING,
                vcpus=vm.vcpus,
                mem_bytes=vm.mem_bytes,
                disk_bytes=vm.disk_bytes,
                owner=vm.owner,
                mail=vm.mail,
                tags=vm.tags,
                macs=vm.macs,
                addresses=vm.addresses,
                created_s=vm.created_s,
                shields=vm.shields,
            )
        return known

    def find(self, uuid: str) -> Guest:
        """A VM on a host that answers. Raises: NotFound; Unreachable: it may be on a host that does not."""
        guest = self.guests.get(uuid)
        if guest is not None and guest.host_id not in self.down:
            return guest
        if self.down:
            raise Unreachable(f"{uuid} is on no host that answers; {', '.join(sorted(self.down))} do not", uuid=uuid)
        raise NotFound(f"there is no VM {uuid}", uuid=uuid)

    def counters_of(self, guest: Guest) -> VmCounters:
        """Of a VM that runs."""
        guest.count(self.now_s)
        half = int(guest.net_bytes)
        disk = int(guest.disk_bytes / 2)
        return VmCounters(
            uuid=guest.vm.uuid,
            host_id=guest.host_id,
            at_s=self.now_s,
            cpu_s=guest.cpu_s,
            mem_bytes=guest.vm.mem_bytes,
            disk_read_bytes=disk,
            disk_write_bytes=disk,
            net_rx_bytes=half,
            net_tx_bytes=half,
        )

    def host_counters(self) -> dict[str, HostCounters]:
        """Memory in use on hosts that answer, by id.

        Busy time is not told: VMs come and go, and the sum of theirs would go back.
        """
        held, there = self.mem_used_bytes(), (host_id for host_id in self.hosts if host_id not in self.down)
        return {
            host_id: HostCounters(host_id=host_id, at_s=self.now_s, mem_used_bytes=held[host_id]) for host_id in there
        }

    def begin(self, order: Order) -> Job:
        """Takes an order. Raises: DriverError: as the contract says, and by chance."""
        self.orders += 1
        guest = self.find(order.uuid)
        self._refuse_wrong(order, guest)
        fault = self._faults.of_order(order, self.orders)
        _refuse_by_chance(fault, order, guest.host_id)
        job = self._start(order, guest, fault)
        if fault is Fault.LOST_AFTER:
            raise OutcomeUnknown(f"{order.verb}: no answer in time", host_id=guest.host_id, uuid=order.uuid)
        return job

    def outcome(self, number: int) -> bool:
        """Whether a task has ended well; False while it is under way. Raises: DriverError: it has not, or who knows."""
        job = self.jobs.get(number)
        if job is None:
            raise OutcomeUnknown(f"task {number} is long forgotten")
        order = job.order
        where = {"host_id": job.source_host_id, "uuid": order.uuid}
        if job.source_host_id in self.down or (order.target_host_id or "") in self.down:
            raise OutcomeUnknown(f"{order.verb}: the connection to its host broke", **where)
        if job.state is JobState.FAILED:
            raise Refused(f"{order.verb}: {job.words}", **where)
        if job.state is JobState.UNKNOWN or (job.fault is Fault.BROKEN and self.now_s > job.began_s):
            raise OutcomeUnknown(f"{order.verb}: {job.words or 'the connection broke'}", **where)
        return job.state is JobState.DONE

    def cancel(self, number: int) -> None:
        """Gives up a task; the VM is as it was. One that shuts down already cannot be held back."""
        job = self.jobs.get(number)
        if job is not None and job.state is JobState.RUNNING and job.order.verb is not Verb.STOP:
            self._end(job, JobState.FAILED, "it was cancelled")

    def advance(self, now_s: float) -> None:
        """Lets everything happen that is due by `now_s`."""
        now_s = max(now_s, self.now_s)
        if self._running:
            due = [job for number in self._running if (job := self.jobs[number]).ends_s <= now_s]
            for job in sorted(due, key=lambda job: (job.ends_s, job.number)):
                # Its VM's counters stand as of the moment in which it ended.
                self.now_s = max(self.now_s, job.ends_s)
                self._finish(job)
        self.now_s = now_s
        if len(self.jobs) > len(self._running):
            for number in [n for n, job in self.jobs.items() if job.ends_s + _KEEP_ENDED_S < now_s]:
                if number not in self._running:
                    del self.jobs[number]

    # What others do to the site, past the controller.

    def set_faults(self, faults: Faults) -> None:
        """From now on other things go wrong."""
        self._faults = faults

    def add(self, vm: ParkVm) -> None:
        """One more VM. Raises: ValueError: there is one of that UUID, or no such host."""
        if vm.uuid in self.guests or vm.host_id not in self.hosts:
            raise ValueError(f"{vm.uuid} is there already, or there is no host {vm.host_id}")
        self.guests[vm.uuid] = Guest(vm=vm, host_id=vm.host_id, state=vm.state, counted_s=self.now_s)

    def remove(self, uuid: str) -> None:
        """Somebody deletes a VM."""
        self._interrupt(uuid, "the VM was deleted")
        del self.guests[uuid]
        self._told.pop(uuid, None)

    def change(self, uuid: str, edit: Callable[[ParkVm], ParkVm]) -> None:
        """Gives a VM another use, other tags or another owner; its UUID stays."""
        guest = self.guests[uuid]
        guest.count(self.now_s)
        guest.vm = edit(guest.vm)
        self._told.pop(uuid, None)

    def force(self, uuid: str, state: VmState) -> None:
        """Somebody at the hypervisor brings a VM into another state; a task that has it fails."""
        self._interrupt(uuid, f"somebody made the VM {state}")
        self._turn(self.guests[uuid], state)

    def crash(self, uuid: str) -> None:
        """A VM ends by itself."""
        self.force(uuid, VmState.OFF)

    def cut(self, host_id: str) -> None:
        """A host is not reached any more; its VMs go on. Migrations from and to it are given up."""
        self.down.add(host_id)
        for job in self._jobs_at(host_id):
            if job.order.verb.is_migration:
                self._end(job, JobState.FAILED, "the link broke, and the VM stays where it was")

    def mend(self, host_id: str) -> None:
        """It is reached again."""
        self.down.discard(host_id)

    def lose(self, host_id: str) -> None:
        """A host loses its power: its running VMs end. It stays away until `mend`."""
        self.cut(host_id)
        for job in self._jobs_at(host_id):
            self._end(job, JobState.UNKNOWN, "the host lost its power")
        for guest in self.guests.values():
            if guest.host_id == host_id and guest.state in _IN_MEMORY:
                self._turn(guest, VmState.OFF)

    def mem_used_bytes(self) -> Counter[str]:
        """By host: of the VMs that are in its memory, or on their way into it."""
        held: Counter[str] = Counter()
        for guest in self.guests.values():
            if guest.state in _IN_MEMORY:
                held[guest.host_id] += guest.vm.mem_bytes
        for number in self._running:
            order = self.jobs[number].order
            guest = self.guests[order.uuid]
            if order.verb is Verb.MIGRATE_LIVE and order.target_host_id is not None:
                held[order.target_host_id] += guest.vm.mem_bytes
            elif order.verb in {Verb.START, Verb.RESUME}:
                held[guest.host_id] += guest.vm.mem_bytes
        return held

    # Inside.

    def _refuse_wrong(self, order: Order, guest: Guest) -> None:
        where = {"host_id": guest.host_id, "uuid": order.uuid}
        if guest.job is not None:
            raise Busy(f"{order.verb}: {self.jobs[guest.job].order.verb} is under way", **where)
        if guest.state is not BEFORE[order.verb]:
            raise Refused(f"{order.verb}: the VM is {guest.state}, not {BEFORE[order.verb]}", **where)
        host_id = guest.host_id
        if order.target_host_id is not None:
            target = self.hosts.get(order.target_host_id)
            if target is None:
                raise NotFound(f"{order.verb}: there is no host {order.target_host_id}", uuid=order.uuid)
            if target.host_id == guest.host_id:
                raise Refused(f"{order.verb}: the VM is on {target.host_id} already", **where)
            if target.host_id in self.down:
                raise Unreachable(f"{order.verb}: {target.host_id} does not answer", **where)
            if not target.accepts:
                raise Refused(f"{order.verb}: {target.host_id} takes no VMs", **where)
            host_id = target.host_id
        if order.verb in {Verb.START, Verb.RESUME, Verb.MIGRATE_LIVE}:
            free = self.hosts[host_id].mem_bytes - self.mem_used_bytes()[host_id]
            if free < guest.vm.mem_bytes:
                words = f"{order.verb}: {host_id} has {free} bytes of memory free, the VM needs {guest.vm.mem_bytes}"
                raise Refused(words, **where)

    def _start(self, order: Order, guest: Guest, fault: Fault | None) -> Job:
        span_s = self._pace.span_s(order.verb, order.uuid, guest.vm.mem_bytes)
        if order.verb is Verb.STOP and guest.vm.deaf:
            span_s = self._pace.deaf_s * self._pace.factor
        if fault is Fault.STALL:
            span_s *= _STALL_FACTOR
        elif fault in {Fault.FAIL, Fault.CRASH}:
            span_s /= 2
        job = Job(
            number=self.orders,
            order=order,
            source_host_id=guest.host_id,
            began_s=self.now_s,
            ends_s=self.now_s + span_s,
            fault=fault,
        )
        self.jobs[job.number] = job
        self._running.add(job.number)
        guest.job = job.number
        self._told.pop(order.uuid, None)
        if span_s <= 0:
            self._finish(job)
        return job

    def _finish(self, job: Job) -> None:
        order = job.order
        guest = self.guests[order.uuid]
        if job.fault is Fault.FAIL:
            self._end(job, JobState.FAILED, "the hypervisor gave it up")
        elif job.fault is Fault.CRASH:
            self._end(job, JobState.UNKNOWN, "the VM ended on the way")
            self._turn(guest, VmState.OFF)
        elif order.verb is Verb.STOP and guest.vm.deaf:
            self._end(job, JobState.FAILED, "the guest does not hear the power button")
        else:
            self._end(job, JobState.DONE, "")
            if order.verb is Verb.MIGRATE_LIVE:
                guest.count(self.now_s)
                guest.begin_process()
            if order.target_host_id is not None:
                guest.host_id = order.target_host_id
            self._turn(guest, AFTER[order.verb])

    def _end(self, job: Job, state: JobState, words: str) -> None:
        job.state, job.words, job.ends_s = state, words, min(job.ends_s, self.now_s)
        self._running.discard(job.number)
        self.guests[job.order.uuid].job = None
        self._told.pop(job.order.uuid, None)

    def _interrupt(self, uuid: str, words: str) -> None:
        job = self.guests[uuid].job
        if job is not None:
            self._end(self.jobs[job], JobState.UNKNOWN, words)

    def _jobs_at(self, host_id: str) -> list[Job]:
        jobs = (self.jobs[number] for number in sorted(self._running))
        return [job for job in jobs if host_id in {job.source_host_id, job.order.target_host_id}]

    def _turn(self, guest: Guest, state: VmState) -> None:
        guest.count(self.now_s)
        if state in _IN_MEMORY and guest.state not in _IN_MEMORY:
            guest.begin_process()
            # Only what was kept on disk goes on with its memory.
            guest.boot += guest.state is not VmState.SUSPENDED
        guest.state = state
        self._told.pop(guest.vm.uuid, None)

    def restore(self, guests: Iterable[Guest], jobs: Iterable[Job]) -> None:
        """Puts kept VMs and tasks in the place of all there are."""
        self.guests = {guest.vm.uuid: guest for guest in guests}
        self.jobs = {job.number: job for job in jobs}
        self._running = {job.number for job in self.jobs.values() if job.state is JobState.RUNNING}
        self._told.clear()


def _refuse_by_chance(fault: Fault | None, order: Order, host_id: str) -> None:
    errors: dict[Fault, tuple[type[DriverError], str]] = {
        Fault.REFUSE: (Refused, "the hypervisor said no"),
        Fault.BUSY: (Busy, "another task has the VM"),
        Fault.UNREACHABLE: (Unreachable, f"{host_id} did not answer"),
        Fault.LOST_BEFORE: (OutcomeUnknown, "no answer in time"),
    }
    if fault in errors:
        kind, words = errors[fault]
        raise kind(f"{order.verb}: {words}", host_id=host_id, uuid=order.uuid)
