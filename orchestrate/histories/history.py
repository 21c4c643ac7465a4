"""Random histories of the whole controller under virtual time, from a seed: what may it ever do that it must not?

Each has a fleet of its own, two controllers, and everything that can go wrong: data that is missing, outages, verdicts
that flap, exemptions that come and go, clocks that jump, drivers that fail, crashes between intent and result, a leader
that is stopped past its lease, settings that change, stale and altered plans, the kill switch. An oracle
(`orchestrate.histories.oracle`) watches. The same seed is the same history, to the last call.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from orchestrate.driver import AFTER, BEFORE, Verb
from orchestrate.drivers.simulated import SimulatedDriver
from orchestrate.drivers.simulated_state import MemoryKeeper
from orchestrate.histories.controller import Controller
from orchestrate.histories.events import Events
from orchestrate.histories.oracle import Oracle
from orchestrate.histories.rules import Forbidden
from orchestrate.histories.truth import DAY_S, DRIVER, HOUR_S, Truth, draw_truth
from orchestrate.histories.watched import (
    AnyWatchedRecords,
    Breakage,
    Crash,
    RandomFaults,
    Setting,
    WatchedRecords,
)
from orchestrate.inventory import Vm, VmState
from orchestrate.plan import INVERSE, LIFE_S, Expected, Mark, Plan, PlanKind, Step, renumbered
from orchestrate.reconcile import resolve
from orchestrate.records import Approval, Outcome
from orchestrate.undo import plan_undo, plan_wake

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How one ended.

    Args:
        forbidden: what the oracle saw; None: nothing.
        counts: orders by their verb, `notice`, `crash`, `refused`, `skipped` …
    """

    seed: int
    forbidden: str | None
    counts: Counter[str] = field(default_factory=Counter)


def run_history(
    seed: int, *, breakage: Breakage | None = None, say: Say | None = None, records: AnyWatchedRecords | None = None
) -> History:
    """Lives through the history of a seed.

    Args:
        say: told of each thing that happens, for people.
        records: empty ones; None: in memory.
    """
    story = _Story(seed, breakage or Breakage(), say, WatchedRecords() if records is None else records)
    try:
        story.live()
    except Forbidden as forbidden:
        story.tell(f"FORBIDDEN: {forbidden}")
        return History(seed=seed, forbidden=str(forbidden), counts=story.oracle.counts)
    return History(seed=seed, forbidden=None, counts=story.oracle.counts)


class _Story:
    """One history as it goes on."""

    def __init__(self, seed: int, breakage: Breakage, say: Say | None, records: AnyWatchedRecords) -> None:
        self._rng = rng = random.Random(seed)  # noqa: S311 - no secret
        self._say = say
        self.truth: Truth = draw_truth(rng)
        faults = rng.choice([0.0, 0.02, 0.2])
        self.truth.site.set_faults(RandomFaults(rng, faults))
        self._trouble = rng.choice([0.0, 0.01, 0.05, 0.15])
        self._records = records
        self.oracle = Oracle(truth=self.truth, leader=self._records.leader, unsettled=self._records.truly_unsettled)
        self._records.moment, self._records.oracle, self._records.breakage = self._moment, self.oracle, breakage
        driver = SimulatedDriver(DRIVER, MemoryKeeper(self.truth.site), self.truth.time)
        self._setting = Setting(
            truth=self.truth,
            oracle=self.oracle,
            records=self._records,
            driver=driver,
            moment=self._moment,
            breakage=breakage,
            rng=rng,
            notice_fails_ratio=rng.choice([0.0, 0.0, 0.3]),
        )
        self._events = Events(self.truth, self.oracle, self._records, rng)
        self._controllers = {name: Controller(f"{name}.1", self._setting) for name in "ab"}
        self._lives = 1
        self._pending: list[Plan] = []
        # Whoever is at work just now: a second one may begin while the first is stopped, but no third.
        self._at_work: list[str] = []

    def tell(self, words: str) -> None:
        """For people who replay it."""
        if self._say is not None:
            time = self.truth.time
            self._say(f"{(time.true_s - 1_700_000_000.0) / HOUR_S:10.3f} h  {words}")

    def live(self) -> None:
        """From the beginning to the end."""
        rng = self._rng
        waits = [60.0, HOUR_S, *(g.grace_s for g in self.truth.settings.groups)]
        waits += [
            g.stop_grace_s for g in self.truth.settings.groups if g.stop_grace_s <= 7 * DAY_S or rng.random() < 0.3
        ]
        deeds = [self._watch] * 5 + [self._plan] * 3 + [self._apply] * 4
        deeds += [self._undo, self._wake, self._resolve, self._relieve, self._rave, self._rave]
        eventful = rng.choice([0.1, 0.3, 0.6])
        for _ in range(rng.randint(5, 16)):
            self.truth.time.pass_(rng.choice(waits) + rng.choice([1.0, 30.0, 600.0]))
            while rng.random() < eventful:
                self.tell(self._events.happen())
            deed = rng.choice(deeds)
            name = rng.choice("ab")
            self._work(name, deed)

    def _work(self, name: str, deed: Callable[[Controller], None]) -> None:
        with self._life(name) as controller:
            self.tell(f"{controller.who} {deed.__name__.strip('_')}")
            deed(controller)

    @contextmanager
    def _life(self, name: str) -> Iterator[Controller]:
        """A controller at work; when it is killed, the next one of its kind knows nothing."""
        controller = self._controllers[name]
        self._at_work.append(name)
        try:
            yield controller
        except Crash:
            self.tell(f"{controller.who} is killed")
            self.oracle.counts["crash"] += 1
            self._lives += 1
            self._controllers[name] = Controller(f"{name}.{self._lives}", self._setting)
        finally:
            self._at_work.pop()

    # What people and the service do.

    def _watch(self, controller: Controller) -> None:
        controller.watch()

    def _plan(self, controller: Controller) -> None:
        plan = controller.plan(self._rng.choice([None, None, 1, 2]))
        if plan.steps:
            self._pending.append(plan)

    def _apply(self, controller: Controller) -> None:
        if not self._pending:
            self._plan(controller)
        if not self._pending:
            return
        plan = self._pending.pop(self._rng.randrange(len(self._pending)))
        drawn = self._rng.random()
        if drawn < 0.9:
            approval = Approval(plan_sha256=plan.sha256, by="a person", at_s=self.truth.time.wall_s())
            self._records.approve(approval)
            self.oracle.approved(plan.sha256)
        if drawn > 0.85 and plan.steps:
            # Somebody puts another step into what was shown.
            step = replace(plan.steps[0], verb=Verb.SUSPEND, inverse=Verb.RESUME)
            plan = replace(plan, steps=(step, *plan.steps[1:]))
        result = controller.apply(plan)
        if result is not None:
            self._count(result.actions, bool(result.refusals))
            for refusal in result.refusals:
                self.tell(f"refused: {refusal.words}")
            for action in result.actions:
                self.tell(f"{action.step.verb} {action.step.ref.uuid}: {action.outcome}: {action.words}")

    def _relieve(self, controller: Controller) -> None:
        plan = controller.relieve()
        if plan.steps:
            self.oracle.counts["relief"] += 1
            self._pending.append(plan)
            self._apply(controller)

    def _rave(self, controller: Controller) -> None:
        """A planner gone mad: whatever it plans is well written, shown and approved, and only the guards stand by."""
        vms = list(controller.live().values())
        self._rng.shuffle(vms)
        kind = self._rng.choice([PlanKind.RECLAIM, PlanKind.RECLAIM, PlanKind.RELIEF, PlanKind.RELIEF, PlanKind.UNDO])
        steps = [step for vm in vms[: self._rng.choice([1, 2, 4])] for step in self._mad_steps(kind, vm)]
        now_s = self.truth.time.wall_s()
        plan = Plan(
            kind=kind,
            made_s=now_s,
            expires_s=now_s + LIFE_S,
            made_by="a mad planner",
            settings_sha256=f"{self.truth.settings_version:064d}",
            steps=renumbered(tuple(steps)),
        )
        if steps:
            self.oracle.previewed(plan)
            self._pending.append(plan)
            self._apply(controller)

    def _mad_steps(self, kind: PlanKind, vm: Vm) -> Iterator[Step]:
        """What befits its state, and nothing else of it."""
        moves = kind is PlanKind.RELIEF
        targets = [host_id for host_id in self.truth.site.hosts if host_id != vm.host_id]
        if moves and not targets:
            return
        fitting = [verb for verb, state in BEFORE.items() if state is vm.state and verb.is_migration is moves]
        verbs: list[Verb | Mark] = [*fitting, *([] if moves else [Mark.NOTIFY, Mark.MARK])]
        if vm.state is VmState.SUSPENDED and not moves:
            verbs = [Verb.RESUME, Verb.STOP]
        elif verbs:
            verbs = [self._rng.choice(verbs)]
        agents = self.truth.agents_of(vm.ref.uuid)
        group = self.truth.group_of(agents[0]) if agents else None
        state = vm.state
        for verb in verbs:
            moved = isinstance(verb, Verb) and verb.is_migration
            yield Step(
                number=1,
                verb=verb,
                ref=vm.ref,
                name=vm.name,
                vm_id=agents[0].vm_id if agents else None,
                owner=agents[0].owner if agents else vm.owner,
                expected=Expected(state=state, host_id=vm.host_id),
                target_host_id=self._rng.choice(targets) if moved else None,
                inverse=INVERSE[verb],
                reason="it said so",
                group=group.name if group is not None else None,
                grace_s=self._rng.choice([None, 0.0, DAY_S]),
            )
            state = AFTER[verb] if isinstance(verb, Verb) else state

    def _undo(self, controller: Controller) -> None:
        runs = [run for run in self._records.runs() if self._records.actions(run.run_id)]
        if runs:
            run = self._rng.choice(runs)
            plan = plan_undo(
                self._records.actions(run.run_id),
                controller.live(),
                run_id=run.run_id,
                now_s=self.truth.time.wall_s(),
                made_by="a person",
                settings_sha256=f"{self.truth.settings_version:064d}",
            )
            self._give_back(controller, plan)

    def _wake(self, controller: Controller) -> None:
        asleep = [vm for vm in controller.live().values() if vm.state in {VmState.SUSPENDED, VmState.OFF}]
        if asleep:
            plan = plan_wake(
                self._rng.choice(asleep),
                now_s=self.truth.time.wall_s(),
                made_by="an owner",
                settings_sha256=f"{self.truth.settings_version:064d}",
            )
            self._give_back(controller, plan)

    def _give_back(self, controller: Controller, plan: Plan) -> None:
        if plan.steps:
            self.oracle.previewed(plan)
            result = controller.apply(plan)
            if result is not None:
                self._count(result.actions, bool(result.refusals))

    def _resolve(self, controller: Controller) -> None:  # noqa: ARG002 - a deed like the others
        """A person looks at the hypervisor and says what became of an action."""
        for action in self._records.unsettled():
            guest = self.truth.guest(action.step.ref.uuid)
            if action.outcome is None or (guest is not None and guest.job is not None):
                continue
            verb = action.step.verb
            done = isinstance(verb, Verb) and guest is not None and guest.state is AFTER[verb]
            outcome = Outcome.DONE if done else Outcome.FAILED
            now_s = self.truth.time.wall_s()
            resolve(self._records, action.action_id, outcome, by="a person", reason="looked", now_s=now_s)
            self.oracle.counts["resolved"] += 1

    def _count(self, actions: tuple[object, ...], refused: bool) -> None:
        self.oracle.counts["refused" if refused else "applied"] += 1
        for action in actions:
            self.oracle.counts[f"{getattr(action, 'outcome', None)}"] += 1

    # What happens in between.

    def _moment(self, who: str, where: str) -> None:
        rng = self._rng
        if not self._at_work or rng.random() >= self._trouble:
            return
        drawn = rng.random()
        if drawn < 0.25:
            raise Crash
        if drawn < 0.5:
            span_s = rng.choice([10.0, 100.0, 130.0, 700.0])
            self.tell(f"{who} stands still for {span_s:.0f} s ({where})")
            self.truth.time.pass_(span_s)
            other = "b" if self._at_work[-1] == "a" else "a"
            if len(self._at_work) == 1 and rng.random() < 0.5:
                self._work(other, rng.choice([self._watch, self._apply, self._undo, self._wake]))
        elif where == "intend" or drawn < 0.6:
            # Between its last look and its order nothing but the kill switch can still be seen by anybody.
            if where in {"intend", "find", "notified", "settle"}:
                self.tell(f"({where}) {self._events.stop()}")
        elif where in {"find", "wait", "begun", "notified"}:
            self.tell(f"({where}) {self._events.happen()}")
