"""The rules over one step just before it is done, one small function each, and which hold for which plan. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from orchestrate import clauses, ladder
from orchestrate.driver import Verb
from orchestrate.groups import Group, MoveSettings, ReclaimSettings, group_named, group_of
from orchestrate.inventory import VmRef, VmState
from orchestrate.outcomes import mismatch
from orchestrate.plan import INVERSE, Mark, Plan, PlanKind, Step
from orchestrate.records import Action, Outcome, Rung
from orchestrate.refusal import Refusal, Rule
from orchestrate.sighting import Minute
from orchestrate.world import Scene
from reports.words import duration_words, time_words

# They take nothing from anybody: an outage, a limit or an exemption is no reason to keep a VM from its users.
GIVES_BACK = frozenset({PlanKind.UNDO, PlanKind.WAKE})
# Two machines' clocks may be this far apart before a plan counts as one of the future.
_CLOCKS_APART_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A step about to be done, and all that it is judged by."""

    step: Step
    plan: Plan
    scene: Scene
    settings: ReclaimSettings

    @property
    def group(self) -> Group | None:
        """Whose rules hold for the VM now."""
        vm, sighting = self.scene.vm, self.scene.sighting
        return None if vm is None or sighting is None else group_of(vm, sighting, self.settings.groups)

    @property
    def is_stop(self) -> bool:
        """The second half of the last rung: its VM was woken a moment ago and can have no fresh figures."""
        return self.step.verb is Verb.STOP

    def refusal(self, rule: Rule, words: str) -> Refusal:
        return refusal(self.step.ref, rule, words)


# Rule 1: it does not act by default.


def beyond(step: Step, kind: PlanKind, settings: ReclaimSettings) -> Iterator[Refusal]:
    """What the settings do not allow whatever the VM is like."""
    if (moves := move_settings(kind, settings)) is not None:
        if not moves.allowed:
            yield refusal(step.ref, Rule.BY_DEFAULT, f"the settings allow no moves for {kind}")
        return
    group, rung = group_named(step.group, settings.groups), ladder.RUNG_OF.get(step.verb)
    if group is None:
        yield refusal(step.ref, Rule.BY_DEFAULT, f"there is no group {step.group} that would allow it")
    elif rung is None or not ladder.reaches(group, rung):
        yield refusal(step.ref, Rule.BY_DEFAULT, f"{step.verb}: the group {group.name} goes up to {group.up_to}")


def move_settings(kind: PlanKind, settings: ReclaimSettings) -> MoveSettings | None:
    return {PlanKind.RELIEF: settings.relief, PlanKind.CONSOLIDATE: settings.consolidation}.get(kind)


def by_default(now: Moment) -> Iterator[Refusal]:
    """The VM is in the group whose rules the step was planned by, and they still go so far."""
    yield from beyond(now.step, now.plan.kind, now.settings)
    if now.plan.kind is PlanKind.RECLAIM and (now.group is None or now.group.name != now.step.group):
        is_now = "in no group" if now.group is None else f"in the group {now.group.name}"
        yield now.refusal(Rule.BY_DEFAULT, f"it is {is_now} now, and was planned for by {now.step.group}")


# Rule 2: it does not act on doubt.


def on_doubt(now: Moment) -> Iterable[Refusal]:
    """An idle VM with enough fresh data; one that sleeps is in no doubt, as it can do nothing."""
    if not (is_asleep(now.scene) or now.is_stop):
        return clauses.on_doubt(now.scene, now.group, now.settings)
    return uncertain_match(now.scene, VmState.RUNNING if now.is_stop else VmState.SUSPENDED)


def uncertain_match(scene: Scene, state: VmState) -> Iterator[Refusal]:
    """Of a VM that can tell nothing of itself: whether it is the one, and as it was left."""
    if scene.doubt is not None or scene.sighting is None:
        yield refusal(scene.ref, Rule.ON_DOUBT, scene.doubt or "no agent is known to run in it")
    if scene.vm is not None and scene.vm.state is not state:
        yield refusal(scene.ref, Rule.ON_DOUBT, f"its hypervisor says that it is {scene.vm.state}")


def on_doubt_of_a_move(now: Moment) -> Iterator[Refusal]:
    """Somebody has told of the VM lately, and there is one VM of its UUID alone."""
    yield from clauses.stale_figures(now.scene, now.settings)
    if now.scene.match is None and now.scene.doubt is not None:
        yield now.refusal(Rule.ON_DOUBT, now.scene.doubt)
    elif now.scene.match is None and not now.scene.readable:
        # Its agent may be known, and say that it is pinned.
        yield now.refusal(Rule.ON_DOUBT, "not all hypervisors answered, so that its agent is not known")


# Rule 5: it does not touch the exempt.


def exempt(now: Moment) -> Iterable[Refusal]:
    """Tags, the owner's word, shields, age, an unknown owner."""
    return clauses.exempt(now.scene, now.group, now.settings)


def pinned(now: Moment) -> Iterable[Refusal]:
    """What must stay where it is."""
    return clauses.pinned(now.scene, now.settings)


# Rule 6: it does not surprise.


def expired(plan: Plan, now_s: float) -> Iterator[Refusal]:
    if not now_s < plan.expires_s:
        yield refusal(None, Rule.SURPRISE, f"the plan expired at {time_words(plan.expires_s)}: make a new one")
    if not plan.made_s <= now_s + _CLOCKS_APART_S:
        words = f"the plan is of {time_words(plan.made_s)}, and it is {time_words(now_s)}: a clock is wrong"
        yield refusal(None, Rule.SURPRISE, words)


def unchanged(now: Moment) -> Iterator[Refusal]:
    """The plan still holds and the VM is as the plan says."""
    if now.step not in now.plan.steps:
        yield now.refusal(Rule.SURPRISE, "the step is not in the plan")
    yield from expired(now.plan, now.scene.now_s)
    expected, sighting = now.step.expected, now.scene.sighting
    if now.scene.vm is not None and (changed := mismatch(now.step, now.scene.vm)) is not None:
        yield now.refusal(Rule.SURPRISE, f"it {changed}")
    if expected.boot is not None and sighting is not None and sighting.boot not in {None, expected.boot}:
        yield now.refusal(Rule.SURPRISE, "it has started anew since the plan was made")
    marked = now.scene.entry.boot if now.scene.entry is not None else None
    if now.step.verb is Verb.SUSPEND and sighting is not None and sighting.boot is None and (expected.boot or marked):
        yield now.refusal(Rule.ON_DOUBT, "whether it has started anew is not known")


def on_its_rung(now: Moment) -> Iterator[Refusal]:
    """The step is the next rung, and every wait before it is over."""
    if now.is_stop:
        yield from _not_woken_for_it(now)
        return
    scene, group = now.scene, now.group
    if (words := ladder.drop_words(scene, group, now.settings)) is not None:
        yield now.refusal(Rule.SURPRISE, f"it comes off the ladder: {words}")
    if group is None:
        return
    due = ladder.due(scene.entry, group, now_s=scene.now_s)
    if due[:1] != (now.step.verb,):
        rung = scene.entry.rung if scene.entry is not None else Rung.REPORT
        start_s = ladder.due_s(scene.entry, group) if scene.entry is not None else None
        until = f", and stays until {time_words(start_s)} at least" if start_s is not None else ""
        yield now.refusal(Rule.SURPRISE, f"{now.step.verb} is not due: it is on the rung {rung}{until}")


def _not_woken_for_it(now: Moment) -> Iterator[Refusal]:
    """A stop follows this run's own waking of the VM at once; a VM that somebody else woke is in use."""
    woken = next((action for action in now.scene.actions if _woke(action, now)), None)
    if woken is None:
        within = duration_words(now.settings.fresh_s)
        yield now.refusal(Rule.SURPRISE, f"it was not woken to be stopped by this plan within {within}")
    elif any(one.users for one in _minutes_after(woken, now.scene)):
        yield now.refusal(Rule.SURPRISE, "somebody has logged in since it was woken")
    if now.scene.entry is not None and now.scene.entry.rung is not Rung.SUSPEND:
        yield now.refusal(Rule.SURPRISE, f"it is on the rung {now.scene.entry.rung}")


def _woke(action: Action, now: Moment) -> bool:
    before = next((one for one, two in pairwise(now.plan.steps) if two == now.step), None)
    return (
        before is not None
        and action.step == before
        and before.verb is Verb.RESUME
        and action.outcome is Outcome.DONE
        and abs(now.scene.now_s - action.begun_s) < now.settings.fresh_s
    )


def _minutes_after(woken: Action, scene: Scene) -> Iterator[Minute]:
    minutes = scene.sighting.minutes if scene.sighting is not None else ()
    return (one for one in minutes if one.ts_s > woken.begun_s)


# Rule 7: it does not act twice.


def twice(now: Moment) -> Iterator[Refusal]:
    """The VM is there, it is the one that was planned for, and no action on it is open."""
    if now.scene.vm is None and now.step.verb is not Mark.UNMARK:
        yield now.refusal(Rule.TWICE, "it is gone")
    if now.scene.vm is not None and now.scene.vm.ref != now.step.ref:
        yield now.refusal(Rule.TWICE, f"it is another VM: {now.scene.vm.ref}")
    match = now.scene.match
    if now.step.vm_id is not None and match is not None and match.vm_id != now.step.vm_id:
        yield now.refusal(Rule.TWICE, f"another agent runs in it: {match.vm_id}")
    yield from unsettled(now.scene)


def unsettled(scene: Scene) -> Iterator[Refusal]:
    if (action := scene.unsettled) is not None:
        since = time_words(action.begun_s)
        words = f"what became of {action.step.verb} (action {action.action_id} of {since}) is not settled"
        yield refusal(scene.ref, Rule.TWICE, words)


# Rule 8: it does nothing that it cannot undo.


def irreversible(now: Moment) -> Iterator[Refusal]:
    """The inverse is written in the step, and the driver can do both."""
    yield from wrong_inverse(now.step)
    # What gives back need not be taken again.
    inverse = None if now.plan.kind in GIVES_BACK else now.step.inverse
    yield from cannot(now.scene, now.step.verb, inverse)


def wrong_inverse(step: Step) -> Iterator[Refusal]:
    if step.inverse != INVERSE[step.verb]:
        yield refusal(step.ref, Rule.IRREVERSIBLE, f"{step.inverse} does not undo {step.verb}")


def cannot(scene: Scene, verb: Verb | Mark, inverse: Verb | Mark | None) -> Iterator[Refusal]:
    can = scene.capabilities.verbs if scene.capabilities is not None else frozenset()
    for needed in (verb, inverse):
        if isinstance(needed, Verb) and needed not in can:
            yield refusal(scene.ref, Rule.IRREVERSIBLE, f"the driver {scene.ref.driver} cannot {needed}")


# Rule 9: it does not believe only the guest.


def guest_alone(now: Moment) -> Iterable[Refusal]:
    """The hypervisor's counters agree with the agent; of a VM that sleeps there is nothing to count."""
    if is_asleep(now.scene) or now.is_stop:
        return ()
    return clauses.guest_alone(now.scene, now.settings)


def is_asleep(scene: Scene) -> bool:
    return scene.entry is not None and scene.entry.rung is Rung.SUSPEND


def refusal(ref: VmRef | None, rule: Rule, words: str) -> Refusal:
    return Refusal(rule=rule, words=words, ref=ref)


_Clause = Callable[[Moment], Iterable[Refusal]]
_OF_A_MOVE: Sequence[_Clause] = (twice, by_default, on_doubt_of_a_move, pinned, unchanged, irreversible)
_OF_GIVING_BACK: Sequence[_Clause] = (twice, unchanged, irreversible)
# Rules 3 and 4 are of whole plans: `check_plan`.
CLAUSES: Mapping[PlanKind, Sequence[_Clause]] = {
    PlanKind.RECLAIM: (
        twice,
        by_default,
        on_doubt,
        exempt,
        unchanged,
        on_its_rung,
        irreversible,
        guest_alone,
    ),
    PlanKind.RELIEF: _OF_A_MOVE,
    PlanKind.CONSOLIDATE: _OF_A_MOVE,
    PlanKind.UNDO: _OF_GIVING_BACK,
    PlanKind.WAKE: _OF_GIVING_BACK,
}
