"""The ladder over random worlds: whatever happens between two looks, no rule is broken and no rung is skipped.

What is watched is every step that the guards let pass, held against what is true of the VM then. True times and the
controller's clock are apart: that one can be wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from orchestrate.driver import AFTER, Verb
from orchestrate.groups import ReclaimSettings
from orchestrate.guards import check_plan, check_step
from orchestrate.inventory import Shield, Vm, VmRef, VmState
from orchestrate.ladder import entry_after
from orchestrate.limits import Limits
from orchestrate.plan import Mark, Plan, PlanKind, Step
from orchestrate.reclaim import plan_reclaim
from orchestrate.records import Action, Entry, Outcome, Rung, Seen
from orchestrate.sighting import Sighting
from orchestrate.world import World
from reports.verdicts import Verdict
from tests.orchestrate.worlds import (
    ALL_THE_WAY,
    DAY_S,
    NOW_S,
    SETTINGS_SHA256,
    approval,
    minute,
    outside,
    sighting,
    uuid,
    vm,
    world,
)

HOUR_S = 3600.0
VMS = tuple(range(1, 13))
SOME = st.sampled_from(VMS[:4])
# A clock that is off by more makes every sample look stale or of the future, and everything stops.
CLOCK_SLACK_S = 300.0
LIMITS = Limits(run=3, hour=4, host=3, owner=3)
WAY: tuple[Verb | Mark, ...] = (Mark.MARK, Mark.NOTIFY, Verb.SUSPEND, Verb.RESUME, Verb.STOP)
PROMISES = {Mark.NOTIFY: ALL_THE_WAY.grace_s, Verb.SUSPEND: ALL_THE_WAY.stop_grace_s}


@dataclass
class Truth:
    """One VM as it is. `climbed`: the steps done to it since it last began anew, with their true times."""

    number: int
    state: VmState = VmState.RUNNING
    verdict: Verdict = Verdict.IDLE
    users: int = 0
    silent_since_s: float | None = None
    kept: str | None = None
    owner: str | None = "ann"
    tags: tuple[str, ...] = ()
    shields: frozenset[Shield] = frozenset()
    coverage_ratio: float | None = 0.99
    cpu_cores: float | None = 0.1
    boots: int = 1
    is_open: bool = False
    is_twice: bool = False

    def __post_init__(self) -> None:
        self.climbed: list[tuple[Verb | Mark, float]] = []


class Ladders(RuleBasedStateMachine):
    """A controller that looks, plans and applies, and a world that does what it likes in between."""

    @initialize()
    def start(self) -> None:
        self.true_s = NOW_S
        self.clock_off_s = 0.0
        self.truths = {number: Truth(number) for number in VMS}
        self.entries: dict[VmRef, Entry] = {}
        self.actions: list[Action] = []
        self.done_at_s: list[float] = []
        self.seen: dict[str, Seen] = {}
        self.up_to = Rung.STOP
        self.stop: str | None = None
        self.grace_s = ALL_THE_WAY.grace_s
        self.old_plans: list[Plan] = []
        self.applied: set[str] = set()

    # What the controller is shown.

    @property
    def now_s(self) -> float:
        return self.true_s + self.clock_off_s

    @property
    def settings(self) -> ReclaimSettings:
        group = replace(ALL_THE_WAY, up_to=self.up_to, grace_s=self.grace_s)
        return ReclaimSettings(groups=(group,), limits=LIMITS)

    def told(self, truth: Truth) -> Sighting:
        """By its agent, whose clock is right; a VM that sleeps says nothing."""
        heard_s = self.true_s if truth.silent_since_s is None else truth.silent_since_s
        asleep = self.true_s - heard_s > HOUR_S
        return sighting(
            truth.number,
            now_s=heard_s,
            verdict=Verdict.INSUFFICIENT if asleep and truth.verdict is Verdict.IDLE else truth.verdict,
            minutes=() if asleep else (minute(now_s=heard_s, users=truth.users),),
            kept=truth.kept,
            owner=truth.owner,
            tags=truth.tags,
            coverage_ratio=truth.coverage_ratio,
            boot=f"boot-{truth.boots}",
        )

    def shown(self, truth: Truth) -> Vm:
        """By its hypervisor."""
        return vm(truth.number, state=truth.state, host_id=f"hv{truth.number % 4}", shields=truth.shields)

    def look(self) -> World:
        truths = list(self.truths.values())
        shown = [self.shown(truth) for truth in truths]
        shown += [replace(self.shown(truth), host_id="hv9") for truth in truths if truth.is_twice]
        return world(
            [self.told(truth) for truth in truths],
            shown,
            now_s=self.now_s,
            entries=list(self.entries.values()),
            outsides={VmRef("lab", uuid(one.number)): outside(self.now_s, cpu_cores=one.cpu_cores) for one in truths},
            actions=[one for one in self.actions if one.begun_s > self.now_s - DAY_S],
            unsettled=[one for one in self.actions if one.outcome is None],
            seen=self.seen,
            stop=self.stop,
        )

    # What happens to the world.

    @rule(hours=st.sampled_from([0.02, 0.5, 2, 24, 24 * 7, 24 * 8, 24 * 31]))
    def time_passes(self, hours: float) -> None:
        self.true_s += hours * HOUR_S

    @rule(off_s=st.sampled_from([0.0, 0.0, 60.0, -60.0, 250.0, 8 * DAY_S, -8 * DAY_S, 400 * DAY_S, -400 * DAY_S]))
    def the_clock_jumps(self, off_s: float) -> None:
        self.clock_off_s = off_s

    @rule(number=SOME, verdict=st.sampled_from([Verdict.IDLE, Verdict.ACTIVE, Verdict.EXCLUDED]))
    def it_is_judged_anew(self, number: int, verdict: Verdict) -> None:
        self.truths[number].verdict = verdict

    @rule(number=SOME, users=st.sampled_from([0, 1]))
    def somebody_logs_in_or_out(self, number: int, users: int) -> None:
        self.truths[number].users = users

    @rule(number=SOME, coverage_ratio=st.sampled_from([0.99, 0.9, None]), cpu_cores=st.sampled_from([0.1, 3.0, None]))
    def its_figures_change(self, number: int, coverage_ratio: float | None, cpu_cores: float | None) -> None:
        self.truths[number].coverage_ratio, self.truths[number].cpu_cores = coverage_ratio, cpu_cores

    @rule(number=SOME, kept=st.sampled_from([None, "ann"]), owner=st.sampled_from(["ann", "ann", None]))
    def its_owner_speaks(self, number: int, kept: str | None, owner: str | None) -> None:
        self.truths[number].kept, self.truths[number].owner = kept, owner

    @rule(
        number=SOME,
        tags=st.sampled_from([(), ("fallow:keep",)]),
        shields=st.sampled_from([frozenset(), frozenset({Shield.BACKUP})]),
    )
    def it_is_tagged_or_shielded(self, number: int, tags: tuple[str, ...], shields: frozenset[Shield]) -> None:
        self.truths[number].tags, self.truths[number].shields = tags, shields

    @rule(days=st.lists(st.sampled_from([0, 0, 8, 31]), max_size=4))
    def all_is_well(self, days: list[int]) -> None:
        """For some looks: otherwise too much is wrong at once for anything to be done."""
        self.mend()
        for each in days:
            self.true_s += each * DAY_S
            self.plan_and_apply(2, is_applied=True)

    def mend(self) -> None:
        self.clock_off_s, self.stop, self.up_to, self.grace_s = 0.0, None, Rung.STOP, ALL_THE_WAY.grace_s
        self.the_network_is_back()
        for truth in self.truths.values():
            truth.verdict, truth.users, truth.coverage_ratio, truth.cpu_cores = Verdict.IDLE, 0, 0.99, 0.1
            truth.kept, truth.owner, truth.tags, truth.shields = None, "ann", (), frozenset()

    @rule(number=SOME)
    def it_starts_anew(self, number: int) -> None:
        truth = self.truths[number]
        truth.state, truth.silent_since_s, truth.boots = VmState.RUNNING, None, truth.boots + 1

    @rule(number=SOME)
    def somebody_wakes_it(self, number: int) -> None:
        truth = self.truths[number]
        truth.state, truth.silent_since_s = VmState.RUNNING, None

    @rule(number=SOME, is_open=st.booleans(), is_twice=st.booleans())
    def it_is_doubtful(self, number: int, is_open: bool, is_twice: bool) -> None:
        truth = self.truths[number]
        truth.is_twice = is_twice
        ref = VmRef("lab", uuid(number))
        self.actions = [one for one in self.actions if one.outcome is not None or one.step.ref != ref]
        if is_open and self.old_plans and self.old_plans[-1].steps:
            opened = replace(self.old_plans[-1].steps[0], ref=ref)
            self.actions.append(self.action(opened, None))
        truth.is_open = any(one.outcome is None and one.step.ref == ref for one in self.actions)

    @rule(number=SOME)
    def it_falls_silent(self, number: int) -> None:
        truth = self.truths[number]
        truth.silent_since_s = truth.silent_since_s or self.true_s

    @rule(spared=st.sampled_from([0, 2]))
    def the_network_fails(self, spared: int) -> None:
        for truth in list(self.truths.values())[spared:]:
            truth.silent_since_s = truth.silent_since_s or self.true_s

    @rule()
    def the_network_is_back(self) -> None:
        for truth in self.truths.values():
            truth.silent_since_s = None if truth.state is VmState.RUNNING else truth.silent_since_s

    @rule(
        up_to=st.sampled_from([Rung.STOP, Rung.STOP, *Rung]),
        grace_s=st.sampled_from([ALL_THE_WAY.grace_s, ALL_THE_WAY.grace_s, 0.0]),
        stop=st.sampled_from([None, None, None, "maintenance"]),
    )
    def the_settings_change(self, up_to: Rung, grace_s: float, stop: str | None) -> None:
        self.up_to, self.grace_s, self.stop = up_to, grace_s, stop

    # What the controller does.

    @rule(top=st.sampled_from([None, 1, 2, 3]), is_applied=st.sampled_from([True, True, True, False]))
    def look_and_apply(self, top: int | None, is_applied: bool) -> None:
        self.plan_and_apply(top, is_applied=is_applied)

    def plan_and_apply(self, top: int | None, *, is_applied: bool) -> None:
        there = self.look()
        found = plan_reclaim(there, self.settings, made_by="ann", settings_sha256=SETTINGS_SHA256, top=top)
        again = plan_reclaim(there, self.settings, made_by="ann", settings_sha256=SETTINGS_SHA256, top=top)
        assert found.plan.sha256 == again.plan.sha256
        if found.seen is not None:
            self.seen = dict(found.seen)
        for drop in found.drops:
            self.drop(drop.ref)
        if found.seen is not None:
            self.must_be_off_the_ladder()
        if is_applied:
            self.apply(found.plan)
        self.old_plans.append(found.plan)

    @rule(place=st.integers(0, 99))
    def apply_an_old_plan(self, place: int) -> None:
        if self.old_plans:
            self.apply(self.old_plans[place % len(self.old_plans)])

    def apply(self, plan: Plan) -> None:
        if plan.sha256 in self.applied:
            return
        there = self.look()
        refusals = check_plan(plan, there, self.settings, settings_sha256=SETTINGS_SHA256, approvals=[approval(plan)])
        if refusals:
            return
        self.applied.add(plan.sha256)
        self.may_run(plan)
        for step in plan.steps:
            scene = self.look().scene(step.ref)
            if check_step(step, plan, scene, self.settings):
                continue
            self.may_be_done(step)
            self.carry_out(step)

    def carry_out(self, step: Step) -> None:
        truth = self.truth_of(step)
        if isinstance(step.verb, Verb):
            truth.state = AFTER[step.verb]
            # What was woken has not said a word yet.
            truth.silent_since_s = truth.silent_since_s or self.true_s
        if step.is_disruptive:
            self.done_at_s.append(self.true_s)
        self.actions.append(self.action(step, Outcome.DONE))
        truth.climbed.append((step.verb, self.true_s))
        after = entry_after(step, self.entries.get(step.ref), vm_id=step.vm_id or "", at_s=self.now_s, run_id="run")
        self.entries.pop(step.ref, None)
        if after is not None:
            self.entries[step.ref] = after

    def drop(self, ref: VmRef) -> None:
        del self.entries[ref]
        self.truths[int(ref.uuid[-12:])].climbed.clear()

    def action(self, step: Step, outcome: Outcome | None) -> Action:
        return Action(
            action_id=len(self.actions) + 1,
            run_id="run",
            step=step,
            begun_s=self.now_s,
            lease_token=1,
            outcome=outcome,
        )

    def truth_of(self, step: Step) -> Truth:
        return self.truths[int(step.ref.uuid[-12:])]

    # What must hold.

    def must_be_off_the_ladder(self) -> None:
        """Rule 6: after a look nobody is left there who is in use, kept, exempt, or was woken."""
        for ref, entry in self.entries.items():
            truth = self.truths[int(ref.uuid[-12:])]
            if truth.is_twice:
                # Whose agent it is nobody can say: it stays where it is, and nothing is done to it.
                continue
            assert (truth.kept, truth.tags) == (None, ())
            assert truth.owner is not None
            if entry.rung is Rung.SUSPEND:
                assert truth.state is VmState.SUSPENDED
            elif entry.rung is not Rung.STOP:
                assert (truth.state, truth.verdict, truth.users) == (VmState.RUNNING, Verdict.IDLE, 0)
                assert entry.boot == f"boot-{truth.boots}"

    def may_run(self, plan: Plan) -> None:
        """Rules 3, 4 and 8: no outage, no limit, no kill switch."""
        assert plan.kind is PlanKind.RECLAIM
        assert self.stop is None
        awake = [truth for truth in self.truths.values() if truth.state is VmState.RUNNING]
        newly = [
            truth
            for truth in awake
            if truth.silent_since_s is not None
            and CLOCK_SLACK_S * 2 < self.true_s - truth.silent_since_s < DAY_S - CLOCK_SLACK_S
        ]
        assert len(newly) <= 0.1 * len(self.truths)
        assert abs(self.clock_off_s) <= CLOCK_SLACK_S
        taking = [step for step in plan.steps if step.is_disruptive]
        if taking:
            lately = [at_s for at_s in self.done_at_s if self.true_s - at_s < HOUR_S - 2 * CLOCK_SLACK_S]
            assert len(taking) <= LIMITS.run
            assert len(lately) + len(taking) <= LIMITS.hour

    def may_be_done(self, step: Step) -> None:
        """Rules 1, 2, 5, 6, 7 and 9 for a VM as it truly is."""
        truth = self.truth_of(step)
        assert not truth.is_open
        assert not truth.is_twice
        assert (truth.kept, truth.tags, truth.shields) == (None, (), frozenset())
        assert truth.owner is not None
        rungs = {Mark.MARK: Rung.MARK, Mark.NOTIFY: Rung.NOTIFY, Verb.SUSPEND: Rung.SUSPEND}
        assert list(Rung).index(rungs.get(step.verb, Rung.STOP)) <= list(Rung).index(self.up_to)
        if step.verb in {Verb.RESUME, Verb.STOP}:
            assert truth.state is (VmState.SUSPENDED if step.verb is Verb.RESUME else VmState.RUNNING)
        else:
            assert (truth.state, truth.verdict, truth.users) == (VmState.RUNNING, Verdict.IDLE, 0)
            assert (truth.coverage_ratio, truth.cpu_cores) == (0.99, 0.1)
            heard_s = self.true_s if truth.silent_since_s is None else truth.silent_since_s
            assert self.true_s - heard_s <= 2 * CLOCK_SLACK_S
        self.is_next(step, truth)

    def is_next(self, step: Step, truth: Truth) -> None:
        """Every rung before it was stood on, in order, each for as long as was promised."""
        # Who was told that nothing follows is told anew once something does.
        way = [verb for place, (verb, _) in enumerate(truth.climbed) if (verb, place) != (Mark.NOTIFY, 2)]
        is_second_notice = step.verb is Mark.NOTIFY and way == [Mark.MARK, Mark.NOTIFY]
        assert is_second_notice or (*way, step.verb) == WAY[: len(way) + 1]
        if truth.climbed and step.verb in {Verb.SUSPEND, Verb.RESUME}:
            _, since_s = truth.climbed[-1]
            entry = self.entries[step.ref]
            assert entry.due_s is not None
            promised_s = entry.due_s - entry.since_s
            assert promised_s >= (0.0 if step.verb is Verb.SUSPEND else ALL_THE_WAY.stop_grace_s)
            assert self.true_s - since_s >= promised_s - 2 * CLOCK_SLACK_S
            assert self.true_s - since_s >= (self.grace_s if step.verb is Verb.SUSPEND else 0.0) - 2 * CLOCK_SLACK_S


TestLadders = Ladders.TestCase
TestLadders.settings = settings(max_examples=60, stateful_step_count=50)
