"""Whether a plan, and each of its steps, may be done now: the nine rules, and which hold for which kind of plan. Pure.

`check_plan` is asked once before anything is done; one refusal, and nothing is. `check_step` is asked just before each
step, with values that were read just then. `why_left_out` is the same for a VM that is not in a plan yet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from orchestrate import clauses, ladder, outage
from orchestrate.approvals import standing_of
from orchestrate.driver import Verb
from orchestrate.groups import Approve, Group, MoveSettings, ReclaimSettings, group_named
from orchestrate.inventory import VmRef, VmState
from orchestrate.limits import over_limits
from orchestrate.plan import INVERSE, Mark, Plan, PlanKind, Step
from orchestrate.records import Approval, Rung
from orchestrate.refusal import Refusal, Rule
from orchestrate.step_rules import (
    CLAUSES,
    GIVES_BACK,
    Moment,
    beyond,
    cannot,
    expired,
    is_asleep,
    move_settings,
    refusal,
    uncertain_match,
    unsettled,
    wrong_inverse,
)
from orchestrate.world import Scene, World
from reports.words import count_words

# What each kind of plan may do. An undo gives back: what would take from a VM's users has no place in it.
_MOVES = frozenset[Verb | Mark]({Verb.MIGRATE_LIVE, Verb.MIGRATE_COLD})
ALLOWED: Mapping[PlanKind, frozenset[Verb | Mark]] = {
    PlanKind.RECLAIM: frozenset({Mark.MARK, Mark.NOTIFY, Verb.SUSPEND, Verb.RESUME, Verb.STOP}),
    PlanKind.RELIEF: _MOVES,
    PlanKind.CONSOLIDATE: _MOVES,
    PlanKind.UNDO: _MOVES | {Mark.UNMARK, Verb.RESUME, Verb.START},
    PlanKind.WAKE: frozenset({Verb.RESUME, Verb.START}),
}
# What may follow what for the same VM in one plan, beside a move from where the last one led.
_PAIRS = frozenset({(Mark.MARK, Mark.NOTIFY), (Verb.RESUME, Verb.STOP)})


def check_plan(
    plan: Plan,
    world: World,
    settings: ReclaimSettings,
    *,
    settings_sha256: str,
    approvals: Sequence[Approval],
    unattended: bool = False,
) -> tuple[Refusal, ...]:
    """Why nothing of the plan may be done; empty: its steps may be tried, one by one.

    Args:
        world: of now; plans that give back need nothing of it but `now_s` and `stop`.
        settings_sha256: of the present settings.
        unattended: the running service asks, which needs no approval where the settings say so.
    """
    found = [*_form(plan), *expired(plan, world.now_s), *_stopped(world)]
    if plan.kind not in GIVES_BACK:
        found += [
            *_settings_changed(plan, settings_sha256),
            *_not_approved(plan, settings, approvals, unattended=unattended),
            *(each for step in plan.steps for each in beyond(step, plan.kind, settings)),
            *outage.look(world, settings).refusals,
            *over_limits(plan.steps, world.actions, settings.limits, now_s=world.now_s),
        ]
    return tuple(found)


def check_step(step: Step, plan: Plan, scene: Scene, settings: ReclaimSettings) -> tuple[Refusal, ...]:
    """Why the step may not be done; empty: it may.

    Args: scene: of this moment; `vm` is what the driver says now, `sighting` what the aggregator says now.
    """
    now = Moment(step=step, plan=plan, scene=scene, settings=settings)
    return tuple(each for clause in CLAUSES[plan.kind] for each in clause(now))


def why_left_out(
    scene: Scene, group: Group | None, settings: ReclaimSettings, verbs: Sequence[Verb | Mark]
) -> tuple[Refusal, ...]:
    """Why an idle VM, or one that sleeps on the ladder, may not be taken further by these verbs; empty: it may."""
    found = []
    if group is None or not ladder.reaches(group, Rung.MARK):
        whose = "in no group" if group is None else f"the group {group.name} goes up to {group.up_to}"
        found.append(refusal(scene.ref, Rule.BY_DEFAULT, f"report only: {whose}"))
    if is_asleep(scene):
        found += uncertain_match(scene, VmState.SUSPENDED)
    else:
        found += [*clauses.on_doubt(scene, group, settings), *clauses.guest_alone(scene, settings)]
    found += clauses.exempt(scene, group, settings)
    found += unsettled(scene)
    for verb in verbs:
        found += cannot(scene, verb, INVERSE[verb])
    return tuple(found)


def _not_approved(
    plan: Plan, settings: ReclaimSettings, approvals: Sequence[Approval], *, unattended: bool
) -> Iterator[Refusal]:
    asking = list(_needing_a_person(plan, settings)) if unattended else ["whoever applies it"]
    given = [approval for approval in approvals if approval.plan_sha256 == plan.sha256]
    if asking and given:
        yield from _too_few(plan, settings.two_persons_above, given)
    elif not unattended and not given:
        yield refusal(None, Rule.BY_DEFAULT, "nobody has approved the plan")
    elif not given:
        for what in asking:
            yield refusal(None, Rule.BY_DEFAULT, f"nobody has approved the plan, which {what} asks for")


def _needing_a_person(plan: Plan, settings: ReclaimSettings) -> Iterator[str]:
    """Whose settings do not let the service act unasked."""
    for name in sorted({step.group or "" for step in plan.steps}):
        rules: Group | MoveSettings | None = move_settings(plan.kind, settings) or group_named(name, settings.groups)
        if rules is None or rules.approve is not Approve.AUTO:
            yield f"the group {name}" if name else "its kind"


def _too_few(plan: Plan, above: int | None, given: Sequence[Approval]) -> Iterator[Refusal]:
    """Two pairs of eyes for what is large: one account that was taken over, or one slip, is not enough."""
    standing = standing_of(plan, given, (), None, above=above)
    if not standing.is_approved:
        so_far = f"so far {standing.counting[0]}" if standing.counting else "so far nobody"
        words = (
            f"it takes something from {count_words(standing.taken, 'VM')}, more than {above}: two people who log in "
            f"have to approve it, other than {plan.made_by}, who made it ({so_far})"
        )
        yield refusal(None, Rule.BY_DEFAULT, words)


def _settings_changed(plan: Plan, settings_sha256: str) -> Iterator[Refusal]:
    if plan.settings_sha256 != settings_sha256:
        yield refusal(None, Rule.BY_DEFAULT, "the settings have changed since the plan was made: make a new one")


def _form(plan: Plan) -> Iterator[Refusal]:
    """A plan that no planner would make."""
    if not plan.steps:
        yield refusal(None, Rule.SURPRISE, "the plan has no steps")
    if [step.number for step in plan.steps] != list(range(1, len(plan.steps) + 1)):
        yield refusal(None, Rule.SURPRISE, "the steps of the plan are not numbered in their order")
    of_vm: defaultdict[VmRef, list[Step]] = defaultdict(list)
    for step in plan.steps:
        of_vm[step.ref].append(step)
    for ref, steps in of_vm.items():
        if len(steps) > 1 and not all(_follows(one, two) for one, two in pairwise(steps)):
            yield refusal(ref, Rule.TWICE, f"the plan has {len(steps)} steps for it")
    for step in plan.steps:
        if step.verb not in ALLOWED[plan.kind]:
            yield refusal(step.ref, Rule.BY_DEFAULT, f"a plan of the kind {plan.kind} may not {step.verb}")
        yield from wrong_inverse(step)


def _follows(one: Step, two: Step) -> bool:
    if one.target_host_id is not None and two.target_host_id is not None:
        return one.target_host_id == two.expected.host_id
    return (one.verb, two.verb) in _PAIRS


def _stopped(world: World) -> Iterator[Refusal]:
    if world.stop is not None:
        yield refusal(None, Rule.IRREVERSIBLE, f"the kill switch is on: {world.stop}")
