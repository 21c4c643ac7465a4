"""What surrounds a controller in a history: records and a driver at which things happen and that the oracle watches.

What a test may break is handed in as a `Breakage`; the oracle is told nothing of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from orchestrate.database import SqlRecords
from orchestrate.driver import Capabilities, Driver, Order, Task
from orchestrate.drivers.simulated_faults import Fault
from orchestrate.groups import ReclaimSettings
from orchestrate.histories.oracle import Oracle
from orchestrate.histories.truth import Truth
from orchestrate.inventory import Counters, Inventory, Vm
from orchestrate.memory import MemoryRecords
from orchestrate.outside import Outside
from orchestrate.plan import Plan, Step
from orchestrate.records import Action, Entry, Lease, Outcome, Records
from orchestrate.sighting import Sighting
from orchestrate.world import World

# Who, and at what point: anything may happen there.
Moment = Callable[[str, str], None]


class Crash(BaseException):
    """The controller is killed here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """One guard made blind: what the controller is told instead of the truth.

    Args:
        deaf: it never hears of the kill switch.
        leaderless: it keeps acting under whatever lease it has.
        forgetful: it sees no open actions. wordless: it writes no intents.
        inattentive: it takes a VM for what it was at the last look.
        hasty: it looks at the whole fleet once in an hour.
    """

    settings: Callable[[ReclaimSettings], ReclaimSettings] = lambda settings: settings
    # None: as it is. These three are asked of every VM at every look.
    sighting: Callable[[Sighting], Sighting] | None = None
    vm: Callable[[Vm], Vm] | None = None
    outside: Callable[[Outside, Sighting | None], Outside] | None = None
    world: Callable[[World], World] = lambda world: world
    entry: Callable[[Entry], Entry] = lambda entry: entry
    planned: Callable[[Plan], Plan] = lambda plan: plan
    deaf: bool = False
    leaderless: bool = False
    forgetful: bool = False
    wordless: bool = False
    inattentive: bool = False
    hasty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the controllers of one history share."""

    truth: Truth
    oracle: Oracle
    records: AnyWatchedRecords
    driver: Driver
    moment: Moment
    breakage: Breakage
    rng: random.Random
    notice_fails_ratio: float


class _Watched:
    """Records at which things happen; what keeps them comes after it. Attributes: set before the first use."""

    moment: Moment
    oracle: Oracle
    breakage: Breakage

    def renew(self, lease: Lease, *, now_s: float, life_s: float) -> Lease:
        if self.breakage.leaderless:
            return lease
        return self._kept.renew(lease, now_s=now_s, life_s=life_s)

    def intend(self, run_id: str, step: Step, lease: Lease, *, now_s: float) -> Action:
        self.moment(lease.holder, "intend")
        if self.breakage.leaderless:
            lease = self._kept.leader() or lease
        if self.breakage.wordless:
            return Action(action_id=0, run_id=run_id, step=step, begun_s=now_s, lease_token=lease.token)
        action = self._kept.intend(run_id, step, lease, now_s=now_s)
        self.moment(lease.holder, "intended")
        return action

    def unsettled(self) -> Sequence[Action]:
        return () if self.breakage.forgetful else self._kept.unsettled()

    def truly_unsettled(self) -> Sequence[Action]:
        """For the oracle, whatever is broken."""
        return self._kept.unsettled()

    def settle(
        self, action: Action, outcome: Outcome, words: str, *, by: str, now_s: float, entry: Entry | None = None
    ) -> Action:
        self.moment(by, "settle")
        known = next((each for each in self._kept.actions(action.run_id) if each.action_id == action.action_id), None)
        stands = self._kept.settle(action, outcome, words, by=by, now_s=now_s, entry=entry)
        if stands != known:
            # Told twice, by two controllers, it was already looked at.
            self.oracle.settled(stands, by_person=by == "a person")
        return stands

    @property
    def _kept(self) -> Records:
        # Typed so because a mixin does not know what it is mixed into.
        return cast(Records, super())


class WatchedRecords(_Watched, MemoryRecords):
    """In memory."""


class WatchedSqlRecords(_Watched, SqlRecords):
    """In a database: slower by far, and the same histories."""


AnyWatchedRecords = WatchedRecords | WatchedSqlRecords


class RandomFaults:
    """Of the hypervisors, drawn as the history goes."""

    def __init__(self, rng: random.Random, ratio: float) -> None:
        self._rng = rng
        self._ratio = ratio
        self._all = list(Fault)

    def of_order(self, order: Order, number: int) -> Fault | None:  # noqa: ARG002 - as the protocol wants it
        return self._rng.choice(self._all) if self._rng.random() < self._ratio else None

    def of_read(self, what: str, number: int) -> bool:  # noqa: ARG002 - as the protocol wants it
        return self._rng.random() < self._ratio / 5


class WatchedDriver:
    """One controller's driver: the oracle sees each call first."""

    def __init__(self, who: str, setting: Setting) -> None:
        self._who = who
        self._setting = setting
        self._driver = setting.driver
        self._remembered: dict[str, Vm] = {}

    @property
    def name(self) -> str:
        return self._driver.name

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    def inventory(self, timeout_s: float) -> Inventory:
        told = self._driver.inventory(timeout_s)
        blind = self._setting.breakage
        if blind.inattentive:
            self._remembered = {vm.ref.uuid: vm for vm in told.vms}
        return told if blind.vm is None else replace(told, vms=tuple(blind.vm(vm) for vm in told.vms))

    def find(self, uuid: str, timeout_s: float) -> Vm:
        self._setting.moment(self._who, "find")
        if self._setting.breakage.inattentive and uuid in self._remembered:
            return self._remembered[uuid]
        vm = self._driver.find(uuid, timeout_s)
        self._setting.oracle.found(self._who, uuid)
        blind = self._setting.breakage
        return vm if blind.vm is None else blind.vm(vm)

    def counters(self, timeout_s: float) -> Counters:
        return self._driver.counters(timeout_s)

    def begin(self, order: Order, timeout_s: float) -> Task:
        setting = self._setting
        site = setting.truth.site
        guest = setting.truth.guest(order.uuid)
        setting.oracle.ordered(self._who, order, setting.truth.time.wall_s())
        host_id = guest.host_id if guest is not None else ""
        try:
            task = self._driver.begin(order, timeout_s)
        finally:
            job = site.jobs.get(site.orders)
            if job is not None and job.order is order:
                setting.oracle.took(job, host_id)
        setting.moment(self._who, "begun")
        return WatchedTask(self._who, setting, task)

    def close(self) -> None:
        self._driver.close()


class WatchedTask:
    """Things happen while it is waited for."""

    def __init__(self, who: str, setting: Setting, task: Task) -> None:
        self._who = who
        self._setting = setting
        self._task = task

    @property
    def progress_ratio(self) -> float | None:
        return self._task.progress_ratio

    def wait(self, timeout_s: float) -> bool:
        self._setting.moment(self._who, "wait")
        return self._task.wait(timeout_s)

    def cancel(self) -> None:
        self._task.cancel()
