"""A clock, a driver that fails on demand, rules that say what they are told to, and plans to try them with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from orchestrate.driver import (
    AFTER,
    BEFORE,
    Busy,
    Capabilities,
    NotFound,
    Order,
    OutcomeUnknown,
    Refused,
    Unreachable,
    Verb,
)
from orchestrate.inventory import Counters, Inventory, Vm, VmRef, VmState
from orchestrate.plan import LIFE_S, Expected, Mark, Plan, PlanKind, Step, renumbered
from orchestrate.records import Entry, Lease, Records, Rung
from orchestrate.refusal import Refusal

NOW_S = 1_795_000_000.0
GIB = 2**30


class Clock:
    """Tells what it was set to."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class Fault(Enum):
    """What goes wrong at a call of the driver, if anything does."""

    NONE = auto()
    # Nothing happened, and the driver knows.
    BUSY = auto()
    UNREACHABLE = auto()
    REFUSED = auto()
    GONE = auto()
    # The driver does not know: the order was carried out, or never arrived.
    TIMEOUT_ACTED = auto()
    TIMEOUT_LOST = auto()
    BUG_ACTED = auto()
    BUG_LOST = auto()
    # Of tasks: it says that it has ended, it takes its time, or it never ends and can or cannot be given up.
    LIES = auto()
    SLOW = auto()
    STUCK = auto()
    ENDLESS = auto()


def raise_fault(fault: Fault) -> None:
    """Raises what a driver would; nothing for those that are no errors."""
    errors: dict[Fault, Callable[[], Exception]] = {
        Fault.BUSY: lambda: Busy("another task has the VM"),
        Fault.UNREACHABLE: lambda: Unreachable("no answer"),
        Fault.REFUSED: lambda: Refused("not allowed"),
        Fault.GONE: lambda: NotFound("no such VM"),
        Fault.TIMEOUT_ACTED: lambda: OutcomeUnknown("no answer within 20 s"),
        Fault.TIMEOUT_LOST: lambda: OutcomeUnknown("no answer within 20 s"),
        Fault.BUG_ACTED: lambda: RuntimeError("a bug"),
        Fault.BUG_LOST: lambda: RuntimeError("a bug"),
    }
    if fault in errors:
        raise errors[fault]()


ACTED = {Fault.NONE, Fault.TIMEOUT_ACTED, Fault.BUG_ACTED}


class FakeTask:
    """Ends at its first wait, unless the fault says otherwise. Waiting advances the clock."""

    progress_ratio = None

    def __init__(self, driver: FakeDriver, order: Order, fault: Fault) -> None:
        self._driver, self._order, self._fault = driver, order, fault
        self._slices_left = 2
        self.is_cancelled = False

    def wait(self, timeout_s: float) -> bool:
        """As the fault has it."""
        self._driver.at("wait", self._order)
        if self._fault in {Fault.STUCK, Fault.ENDLESS}:
            if self.is_cancelled and self._fault is Fault.STUCK:
                raise Refused("cancelled")
            self._driver.clock.advance(timeout_s)
            return False
        if self._fault is Fault.SLOW and self._slices_left:
            self._slices_left -= 1
            self._driver.clock.advance(timeout_s)
            return False
        self._driver.clock.advance(1)
        if self._fault in {*ACTED, Fault.SLOW}:
            self._driver.change(self._order)
        raise_fault(self._fault)
        return True

    def cancel(self) -> None:
        """Works with STUCK alone."""
        self._driver.at("cancel", self._order)
        self.is_cancelled = True


class FakeDriver:
    """VMs in a dictionary.

    Args: faults: (call, order or None) -> what goes wrong; call is find, begin or wait.
    """

    def __init__(self, *vms: Vm, clock: Clock, name: str = "lab") -> None:
        self.name = name
        self.clock = clock
        self.capabilities = Capabilities(verbs=frozenset(Verb))
        self.vms = {vm.ref.uuid: vm for vm in vms}
        self.orders: list[Order] = []
        self.reads = 0
        # One fault a call, first come first served; none once they are used up.
        self.faults: dict[str, list[Fault]] = {}
        # Told of every call before it is made.
        self.watch: Callable[[str, Order | None], None] = lambda _call, _order: None

    def fail(self, call: str, *faults: Fault) -> None:
        """The next calls of this kind fail so."""
        self.faults.setdefault(call, []).extend(faults)

    def at(self, call: str, order: Order | None) -> Fault:
        """Called at every call; its fault."""
        self.watch(call, order)
        waiting = self.faults.get(call)
        return waiting.pop(0) if waiting and call != "wait" else Fault.NONE

    def change(self, order: Order) -> None:
        """What an order does to its VM."""
        vm = self.vms.get(order.uuid)
        if vm is not None:
            host_id = order.target_host_id or vm.host_id
            self.vms[order.uuid] = replace(vm, state=AFTER[order.verb], host_id=host_id)

    def inventory(self, timeout_s: float) -> Inventory:
        """All VMs; no hosts."""
        return Inventory(driver=self.name, read_s=self.clock(), hosts=(), vms=tuple(self.vms.values()))

    def find(self, uuid: str, timeout_s: float) -> Vm:
        """As it is."""
        self.reads += 1
        raise_fault(self.at("find", None))
        if uuid not in self.vms:
            raise NotFound(f"{uuid}: no such VM")
        return self.vms[uuid]

    def counters(self, timeout_s: float) -> Counters:
        """None of anything."""
        return Counters(hosts={}, vms={})

    def begin(self, order: Order, timeout_s: float) -> FakeTask:
        """Notes the order, refuses it in a wrong state, and starts a task."""
        self.orders.append(order)
        fault = self.at("begin", order)
        vm = self.vms.get(order.uuid)
        if vm is None:
            raise NotFound(f"{order.uuid}: no such VM")
        if vm.state is not BEFORE[order.verb]:
            raise Refused(f"it is {vm.state}")
        if fault in {Fault.TIMEOUT_ACTED, Fault.BUG_ACTED}:
            self.change(order)
        if fault in {Fault.TIMEOUT_ACTED, Fault.TIMEOUT_LOST}:
            self.clock.advance(timeout_s)
        raise_fault(fault)
        waiting = self.faults.get("wait")
        return FakeTask(self, order, waiting.pop(0) if waiting else Fault.NONE)

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class FakeChecks:
    """Says what it is told to. `steps`: by step number."""

    plan: Sequence[Refusal] = ()
    steps: dict[int, Sequence[Refusal]] = field(default_factory=dict)
    asked: list[tuple[int, Vm | None]] = field(default_factory=list)

    def of_plan(self, plan: Plan, *, now_s: float) -> Sequence[Refusal]:
        """As told."""
        return self.plan

    def of_step(self, step: Step, plan: Plan, live: Vm | None, *, now_s: float) -> Sequence[Refusal]:
        """As told; remembers what it was asked."""
        self.asked.append((step.number, live))
        return self.steps.get(step.number, ())


def ref(number: int = 1) -> VmRef:
    return VmRef(driver="lab", uuid=f"00000000-0000-4000-8000-{number:012d}")


def a_vm(number: int = 1, state: VmState = VmState.RUNNING, host_id: str = "hv1") -> Vm:
    return Vm(ref=ref(number), name=f"vm{number}", host_id=host_id, state=state, vcpus=2, mem_bytes=GIB)


INVERSE: dict[Verb | Mark, Verb | Mark] = {
    Verb.SUSPEND: Verb.RESUME,
    Verb.RESUME: Verb.SUSPEND,
    Verb.STOP: Verb.START,
    Verb.START: Verb.STOP,
    Verb.MIGRATE_LIVE: Verb.MIGRATE_LIVE,
    Verb.MIGRATE_COLD: Verb.MIGRATE_COLD,
    Mark.MARK: Mark.UNMARK,
    Mark.UNMARK: Mark.MARK,
}


def a_step(verb: Verb | Mark = Verb.SUSPEND, number: int = 1, *, target: str | None = None) -> Step:
    """A step for VM `number`, which is where the verb needs it."""
    state = VmState.RUNNING if isinstance(verb, Mark) else BEFORE[verb]
    return Step(
        number=1,
        verb=verb,
        ref=ref(number),
        name=f"vm{number}",
        vm_id=f"agent-{number}",
        owner="ann",
        expected=Expected(state=state, host_id="hv1"),
        target_host_id=target or ("hv2" if isinstance(verb, Verb) and verb.is_migration else None),
        inverse=INVERSE.get(verb),
        reason="idle for 30 days",
        group="dev",
        freed_vcpus=2.0,
    )


def a_plan(*steps: Step, kind: PlanKind = PlanKind.RECLAIM, made_s: float = NOW_S) -> Plan:
    return Plan(
        kind=kind,
        made_s=made_s,
        expires_s=made_s + LIFE_S,
        made_by="ann",
        settings_sha256="5" * 64,
        steps=renumbered(steps),
    )


def an_entry(number: int = 1, rung: Rung = Rung.NOTIFY) -> Entry:
    return Entry(
        ref=ref(number),
        vm_id=f"agent-{number}",
        rung=rung,
        since_s=NOW_S - 10,
        group="dev",
        marked_s=NOW_S - 20,
        notified_s=NOW_S - 10,
        due_s=NOW_S - 5,
        boot="b1",
        run_id="r0",
    )


def a_lease(records: Records, holder: str = "a", *, now_s: float = NOW_S, life_s: float = 60.0) -> Lease:
    lease = records.acquire(holder, now_s=now_s, life_s=life_s)
    assert lease is not None
    return lease
