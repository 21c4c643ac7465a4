"""The executor under errors at every call, lost leases, kill switches and restarts, in any order.

What is watched is the driver itself: every order that reaches it is held against what is on record at that moment.
"""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrate.driver import AFTER, Order, Verb
from orchestrate.executor import Executor
from orchestrate.inventory import VmState
from orchestrate.memory import MemoryRecords
from orchestrate.orders import Timeouts
from orchestrate.plan import Mark, Plan, PlanKind, Step
from orchestrate.reconcile import reconcile, resolve
from orchestrate.records import Action, Entry, Lease, Outcome, StaleLease
from orchestrate.refusal import Refusal, Rule
from tests.orchestrate.fakes import Clock, FakeChecks, FakeDriver, Fault, a_plan, a_step, a_vm, ref

LIFE_S = 60.0
VMS = (1, 2, 3)
VERBS = st.sampled_from([Verb.SUSPEND, Verb.RESUME, Verb.STOP, Verb.START, Verb.MIGRATE_LIVE, Mark.MARK, Mark.NOTIFY])
STEPS = st.lists(st.tuples(VERBS, st.sampled_from(VMS)), min_size=1, max_size=4)
EVENTS = ["nothing", "nothing", "nothing", "die", "die late", "kill switch", "lose the lease", "stand still"]
CALLS = ["find", "begin", "wait"]


class Died(BaseException):
    """The process is gone in the middle of something: nothing after it runs, as after SIGKILL."""


class Forbidden(BaseException):
    """Something that must never happen; no `except Exception` hides it."""


def must(holds: bool, words: str) -> None:
    if not holds:
        raise Forbidden(words)


class Watched(MemoryRecords):
    """Records that notice an outcome which the live state does not bear out."""

    def __init__(self, driver: FakeDriver) -> None:
        super().__init__()
        self.driver = driver

    def settle(
        self, action: Action, outcome: Outcome, words: str, *, by: str, now_s: float, entry: Entry | None = None
    ) -> Action:
        verb = action.step.verb
        if outcome is Outcome.DONE and isinstance(verb, Verb) and by != "person":
            vm = self.driver.vms[action.step.ref.uuid]
            must(vm.state is AFTER[verb], "done, says the record, and the VM is not so")
            must(
                not verb.is_migration or vm.host_id == action.step.target_host_id,
                "moved, says the record, and it is not",
            )
        return super().settle(action, outcome, words, by=by, now_s=now_s, entry=entry)


class Executors(RuleBasedStateMachine):
    """Two controllers that share records and a hypervisor."""

    @initialize()
    def start(self) -> None:
        self.clock = Clock()
        self.driver = FakeDriver(*map(a_vm, VMS), clock=self.clock)
        self.records = Watched(self.driver)
        self.stop: str | None = None
        self.given: Counter[int] = Counter()
        self.token: int | None = None
        self.is_applying = False
        self.event: tuple[str, str] = ("", "")
        self.number = 0
        self.applied: list[Plan] = []
        self.driver.watch = self.on_call

    def on_call(self, call: str, order: Order | None) -> None:
        """Every call to the hypervisor, before it is made."""
        leader = self.records.leader()
        must(leader is not None and leader.token == self.token, "a call under a lease that has a successor")
        must(leader is not None and self.clock() < leader.expires_s, "a call under a lease that ran out")
        if call == "begin" and order is not None:
            self.check_order(order)
        if call == "cancel":
            must(self.stop is None, "a task given up while the kill switch is set")
        if call == "find" and self.stop is not None and self.is_applying:
            is_under_way = any(self.given[action.action_id] for action in self.records.unsettled())
            must(is_under_way, "a VM read for a new order while the kill switch is set")
        kind, when = self.event
        if when == call:
            self.event = ("", "")
            if kind == "die late" and order is not None:
                self.driver.change(order)
            self.strike(kind)

    def check_order(self, order: Order) -> None:
        """One durable intent, of this lease, and never two orders for it."""
        must(self.stop is None, "an order while the kill switch is set")
        intents = [action for action in self.records.unsettled() if action.step.ref.uuid == order.uuid]
        must(len(intents) == 1, "an order without an intent, or to a VM whose last action is open")
        step = intents[0].step
        must((intents[0].outcome, intents[0].lease_token) == (None, self.token), "an order for an intent of another")
        must((step.verb, step.target_host_id) == (order.verb, order.target_host_id), "an order for another intent")
        self.given[intents[0].action_id] += 1
        must(self.given[intents[0].action_id] == 1, "two orders for one intent")

    def strike(self, kind: str) -> None:
        """Something happens in the middle of a call."""
        if kind.startswith("die"):
            raise Died
        if kind == "kill switch":
            self.stop = "STOP"
        if kind in {"lose the lease", "stand still"}:
            self.clock.advance(LIFE_S)
        if kind == "lose the lease":
            assert self.records.acquire("other", now_s=self.clock(), life_s=LIFE_S) is not None

    @rule(
        holder=st.sampled_from(["a", "b"]),
        chosen=STEPS,
        kind=st.sampled_from([PlanKind.RECLAIM, PlanKind.RELIEF, PlanKind.UNDO]),
        event=st.tuples(st.sampled_from(EVENTS), st.sampled_from([*CALLS, "notify", "of_step"])),
        faults=st.dictionaries(
            st.sampled_from(CALLS), st.lists(st.sampled_from(Fault), min_size=1, max_size=3), max_size=2
        ),
        refused=st.sampled_from(["", "", "", "step", "plan"]),
        again=st.booleans(),
    )
    def apply(
        self,
        holder: str,
        chosen: list[tuple[Verb | Mark, int]],
        kind: PlanKind,
        event: tuple[str, str],
        faults: dict[str, list[Fault]],
        refused: str,
        again: bool,
    ) -> None:
        """A controller takes the lease, clears up what was left, and applies a plan."""
        lease = self.lead(holder)
        if lease is None:
            return
        plan = a_plan(*(a_step(*each) for each in chosen), kind=kind, made_s=self.clock())
        if again and self.applied:
            plan = self.applied[-1]
        self.number += 1
        no = (Refusal(rule=Rule.EXEMPT, words="no"),)
        checks = FakeChecks(plan=no if refused == "plan" else (), steps={1: no} if refused == "step" else {})
        self.driver.faults = {call: list(each) for call, each in faults.items()}
        self.event = event
        self.is_applying = True
        before = len(self.driver.orders)
        try:
            result = self.executor(checks).apply(plan, lease, by=holder)
        except (Died, StaleLease):
            self.applied.append(plan)
            return
        except ValueError:
            assert plan in self.applied, "a new plan is no plan that was applied before"
            assert len(self.driver.orders) == before
            return
        finally:
            self.driver.faults = {}
            self.event = ("", "")
            self.is_applying = False
        self.applied.append(plan)
        assert result.actions == tuple(self.records.actions(result.run.run_id))
        if refused == "plan":
            assert (result.actions, len(self.driver.orders)) == ((), before)
        if result.run.ended_s is not None:
            assert all(action.outcome is not None for action in result.actions)

    def executor(self, checks: FakeChecks) -> Executor:
        def of_step(*_: object, **__: object) -> object:
            if self.event[1] == "of_step":
                kind, self.event = self.event[0], ("", "")
                self.strike(kind)
            return FakeChecks.of_step(checks, *_, **__)  # type: ignore[arg-type]

        def notify(_step: Step, _plan: Plan) -> str:
            must(self.stop is None, "a notice while the kill switch is set")
            if self.event[1] == "notify":
                kind, self.event = self.event[0], ("", "")
                self.strike(kind)
            return "told"

        watched = FakeChecks(plan=checks.plan)
        watched.of_step = of_step  # type: ignore[method-assign,assignment]
        return Executor(
            self.records,
            {"lab": self.driver},
            watched,
            notify=notify,
            clock=self.clock,
            stopped=lambda: self.stop,
            timeouts=Timeouts(),
            lease_life_s=LIFE_S,
            make_id=lambda: f"r{self.number}",
        )

    def lead(self, holder: str) -> Lease | None:
        lease = self.records.acquire(holder, now_s=self.clock(), life_s=LIFE_S)
        if lease is not None:
            self.token = lease.token
            reconcile(
                self.records,
                {"lab": self.driver},
                lease,
                by=holder,
                clock=self.clock,
                timeouts=Timeouts(),
                lease_life_s=LIFE_S,
            )
        return lease

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0, 10_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def switch(self) -> None:
        self.stop = None if self.stop else "STOP"

    @rule(number=st.sampled_from(VMS), state=st.sampled_from([VmState.RUNNING, VmState.SUSPENDED, VmState.OFF]))
    def somebody_else_acts(self, number: int, state: VmState) -> None:
        """Past the controller: the VM is another way, at home, or made anew."""
        self.driver.vms[ref(number).uuid] = a_vm(number, state)

    @rule(outcome=st.sampled_from([Outcome.DONE, Outcome.FAILED]))
    def a_person_looks(self, outcome: Outcome) -> None:
        for action in self.records.unsettled():
            if action.outcome is Outcome.UNKNOWN:
                resolve(self.records, action.action_id, outcome, by="person", reason="I looked", now_s=self.clock())

    @invariant()
    def every_order_has_its_intent(self) -> None:
        """Each order is one intent's, and what is SKIPPED cost none."""
        if not hasattr(self, "driver"):
            return
        assert sum(self.given.values()) == len(self.driver.orders)
        for run in self.records.runs(limit=1000):
            for action in self.records.actions(run.run_id):
                if action.outcome is Outcome.SKIPPED:
                    assert self.given[action.action_id] == 0


TestExecutors = Executors.TestCase
TestExecutors.settings = settings(max_examples=400, stateful_step_count=15)
