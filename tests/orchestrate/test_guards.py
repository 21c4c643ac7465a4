"""What the controller never does: one test at least for every rule, by the rule's name, for plans and for steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrate.driver import Capabilities, Verb
from orchestrate.groups import Approve, Group, MoveSettings, ReclaimSettings
from orchestrate.guards import ALLOWED, check_plan, check_step, why_left_out
from orchestrate.inventory import Shield, VmState
from orchestrate.limits import Limits
from orchestrate.plan import INVERSE, LIFE_S, Expected, Mark, Plan, PlanKind, Step
from orchestrate.records import Action, Approval, Outcome, Rung
from orchestrate.refusal import Refusal, Rule
from orchestrate.world import Scene, World
from reports.verdicts import Verdict
from tests.orchestrate.worlds import (
    ALL_THE_WAY,
    CAN,
    DAY_S,
    NOW_S,
    SETTINGS,
    SETTINGS_SHA256,
    action,
    approval,
    entry,
    many,
    minute,
    outside,
    plan,
    ref,
    seen,
    sighting,
    step,
    uuid,
    vm,
    with_group,
    world,
)

MOVES = replace(SETTINGS, relief=MoveSettings(allowed=True), consolidation=MoveSettings(allowed=True))
SUSPEND = plan(step())
MOVE = plan(step(Verb.MIGRATE_LIVE, target_host_id="hv2", group=None), kind=PlanKind.RELIEF)
ASLEEP = Expected(state=VmState.SUSPENDED, host_id="hv1")
AWAKE = Expected(state=VmState.RUNNING, host_id="hv1")
STOP = plan(step(Verb.RESUME, expected=ASLEEP), step(Verb.STOP, expected=AWAKE))
WAKE = plan(step(Verb.RESUME, expected=ASLEEP, group=None), kind=PlanKind.WAKE)
UNMARK = plan(step(Mark.UNMARK, expected=AWAKE), kind=PlanKind.UNDO)
# Steps that take something or move a VM, with the settings that allow them.
TAKING: list[tuple[Plan, ReclaimSettings]] = [(SUSPEND, SETTINGS), (MOVE, MOVES)]
GIVING = [WAKE, UNMARK]


def of_plan(
    there: World,
    asked: Plan = SUSPEND,
    settings: ReclaimSettings = SETTINGS,
    approvals: list[Approval] | None = None,
    **changes: Any,
) -> dict[Rule, str]:
    """Refusals of a plan that somebody approved, by their rule."""
    known = [approval(asked)] if approvals is None else approvals
    return by_rule(
        check_plan(asked, there, settings, **{"settings_sha256": SETTINGS_SHA256, "approvals": known, **changes})
    )


def of_step(
    there: World | None = None,
    asked: Plan = SUSPEND,
    settings: ReclaimSettings = SETTINGS,
    number: int = 1,
    **changes: Any,
) -> dict[Rule, str]:
    """Refusals of a plan's step, in a world where the grace is over unless another is given."""
    there = world(entries=[entry()]) if there is None else there
    scene = replace(there.scene(ref()), **changes)
    return by_rule(check_step(asked.steps[number - 1], asked, scene, settings))


def by_rule(refusals: tuple[Refusal, ...]) -> dict[Rule, str]:
    found: dict[Rule, str] = {}
    for one in refusals:
        found[one.rule] = "; ".join(each for each in (found.get(one.rule), one.words) if each)
    return found


def test_nothing_speaks_against_what_every_rule_allows() -> None:
    """Otherwise the refusals below say nothing."""
    assert of_plan(world()) == {}
    assert of_step() == {}
    assert of_plan(world(), MOVE, MOVES) == {}
    assert of_step(None, MOVE, MOVES) == {}
    for given in GIVING:
        assert of_plan(world([], [], live=False), given, approvals=[]) == {}
    assert of_step(asked=UNMARK) == {}
    assert of_step(world([], [vm(state=VmState.SUSPENDED)], live=False), WAKE) == {}


# Rule 1.


def logged_in(of: Plan, *names: str) -> list[Approval]:
    """Approvals of people whom an account vouches for."""
    return [replace(approval(of, name), account=name) for name in names]


def test_never_acts_by_default_on_one_persons_word_where_it_is_large() -> None:
    """Above the threshold two people who logged in have to approve, and whoever made the plan is none of them."""
    settings = replace(SETTINGS, two_persons_above=0)
    for known in ([], logged_in(SUSPEND, "ben"), logged_in(SUSPEND, "ben", "ann"), [approval(SUSPEND, "eve")] * 2):
        assert Rule.BY_DEFAULT in of_plan(world(), SUSPEND, settings, approvals=known), known
    unchecked = [approval(SUSPEND, "eve"), approval(SUSPEND, "joe"), *logged_in(SUSPEND, "ben")]
    words = of_plan(world(), SUSPEND, settings, approvals=unchecked)[Rule.BY_DEFAULT]
    assert words == (
        "it takes something from 1 VM, more than 0: two people who log in have to approve it, other than ann, "
        "who made it (so far ben)"
    )
    two = logged_in(SUSPEND, "ben", "eve")
    assert of_plan(world(), SUSPEND, settings, approvals=two) == {}
    other = plan(step(reason="Another one."))
    assert Rule.BY_DEFAULT in of_plan(world(), other, settings, approvals=two)
    assert of_plan(world(), SUSPEND, replace(SETTINGS, two_persons_above=1)) == {}
    assert of_plan(world(), SUSPEND, replace(SETTINGS, two_persons_above=None)) == {}


def test_two_people_are_not_asked_where_nobody_has_to_be() -> None:
    """What the running service may do unasked, and what gives back."""
    auto = replace(with_group(approve=Approve.AUTO), two_persons_above=0)
    assert of_plan(world(), settings=auto, approvals=[approval(SUSPEND)], unattended=True) == {}
    assert Rule.BY_DEFAULT in of_plan(world(), settings=auto, approvals=[approval(SUSPEND)])
    for given in GIVING:
        assert of_plan(world([], [], live=False), given, replace(SETTINGS, two_persons_above=0), approvals=[]) == {}


def test_never_acts_by_default_without_approval() -> None:
    """Not of this plan's hash: not at all; and a group's `auto` is the running service's alone."""
    other = replace(SUSPEND, made_by="eve")
    auto = with_group(approve=Approve.AUTO)
    for asked, settings in TAKING:
        assert Rule.BY_DEFAULT in of_plan(world(), asked, settings, approvals=[])
        assert Rule.BY_DEFAULT in of_plan(world(), asked, settings, approvals=[approval(other)])
        assert Rule.BY_DEFAULT in of_plan(world(), asked, settings, approvals=[], unattended=True)
    assert Rule.BY_DEFAULT in of_plan(world(), settings=auto, approvals=[])
    assert of_plan(world(), settings=auto, approvals=[], unattended=True) == {}
    automatic = replace(MOVES, relief=MoveSettings(allowed=True, approve=Approve.AUTO))
    assert of_plan(world(), MOVE, automatic, approvals=[], unattended=True) == {}


def test_never_acts_by_default_on_one_group_that_wants_a_person() -> None:
    """One such step, and the whole plan waits for somebody."""
    sightings, vms = many(2)
    mixed = plan(step(), step(number=2, group="prod", owner="ben"))
    auto = replace(ALL_THE_WAY, approve=Approve.AUTO)
    settings = replace(SETTINGS, groups=(auto, replace(ALL_THE_WAY, name="prod")))
    refused = of_plan(world(sightings, vms), mixed, settings, approvals=[], unattended=True)
    assert refused == {Rule.BY_DEFAULT: "nobody has approved the plan, which the group prod asks for"}


def test_never_acts_by_default_under_other_settings() -> None:
    """A plan holds for the settings it was made under, and no others."""
    for asked, settings in TAKING:
        assert Rule.BY_DEFAULT in of_plan(world(), asked, settings, settings_sha256="00" * 32)


@pytest.mark.parametrize("verb", [Mark.MARK, Mark.NOTIFY, Verb.SUSPEND, Verb.RESUME, Verb.STOP])
def test_never_acts_by_default_beyond_the_group(verb: Mark | Verb) -> None:
    """Each verb needs a group that goes so far, for the plan and for the step; no group allows nothing."""
    needed = {
        Mark.MARK: Rung.MARK,
        Mark.NOTIFY: Rung.NOTIFY,
        Verb.SUSPEND: Rung.SUSPEND,
        Verb.RESUME: Rung.STOP,
        Verb.STOP: Rung.STOP,
    }[verb]
    rungs = list(Rung)
    for rung in rungs:
        settings = with_group(up_to=rung)
        refused = rungs.index(rung) < rungs.index(needed)
        assert (Rule.BY_DEFAULT in of_plan(world(), plan(step(verb)), settings)) is refused
        assert (Rule.BY_DEFAULT in of_step(asked=plan(step(verb)), settings=settings)) is refused
    nobody = replace(SETTINGS, groups=())
    assert Rule.BY_DEFAULT in of_plan(world(), plan(step(verb)), nobody)
    assert Rule.BY_DEFAULT in of_step(asked=plan(step(verb)), settings=nobody)


def test_never_acts_by_default_when_the_vm_left_its_group() -> None:
    """It was planned for by the rules of one, and is another's now."""
    other = Group(name="prod", names=("*",), up_to=Rung.STOP)
    settings = replace(SETTINGS, groups=(other, ALL_THE_WAY))
    assert "in the group prod now" in of_step(settings=settings)[Rule.BY_DEFAULT]
    tagged = with_group(names=(), tags=("env:dev",))
    assert "in no group now" in of_step(settings=tagged, sighting=sighting(tags=()))[Rule.BY_DEFAULT]


def test_never_acts_by_default_with_moves() -> None:
    """They are allowed for relief and for consolidation, each by itself."""
    assert Rule.BY_DEFAULT in of_plan(world(), MOVE)
    assert Rule.BY_DEFAULT in of_step(asked=MOVE)
    packing = replace(MOVE, kind=PlanKind.CONSOLIDATE)
    assert Rule.BY_DEFAULT in of_plan(world(), packing, replace(MOVES, consolidation=MoveSettings()))
    assert of_plan(world(), packing, MOVES) == {}


def test_never_acts_by_default_with_verbs_of_another_kind_of_plan() -> None:
    """An undo takes nothing, a relief suspends nobody, a reclaim moves nobody."""
    for kind, allowed in ALLOWED.items():
        for verb in {*Verb, *Mark} - allowed:
            target = "hv2" if isinstance(verb, Verb) and verb.is_migration else None
            asked = plan(step(verb, target_host_id=target), kind=kind)
            assert f"may not {verb}" in of_plan(world(), asked, MOVES)[Rule.BY_DEFAULT]


# Rule 2.


@pytest.mark.parametrize("asked", [SUSPEND, plan(step(Mark.MARK)), plan(step(Mark.NOTIFY))])
def test_never_acts_on_doubt_just_before_a_step(asked: Plan) -> None:
    """Every rung is re-checked against figures of that moment, marks and notices too."""
    for now in (
        sighting(verdict=Verdict.ACTIVE),
        sighting(newest_s=NOW_S - 300.0),
        sighting(coverage_ratio=None),
        sighting(minutes=(minute(users=2),)),
        None,
    ):
        assert Rule.ON_DOUBT in of_step(asked=asked, sighting=now)
    assert Rule.ON_DOUBT in of_step(asked=asked, doubt="there are 2 VMs of its UUID")


def test_never_acts_on_doubt_of_a_move() -> None:
    """Neither side told of the VM lately, or there are two of its UUID; a weak match does not matter."""
    stale = sighting(newest_s=NOW_S - 300.0)
    assert Rule.ON_DOUBT in of_step(None, MOVE, MOVES, sighting=stale, outside=None)
    assert of_step(None, MOVE, MOVES, sighting=None, match=None) == {}
    assert Rule.ON_DOUBT in of_step(None, MOVE, MOVES, sighting=None, match=None, doubt="there are 2 VMs of its UUID")
    assert of_step(None, MOVE, MOVES, doubt="matched by its MAC alone") == {}


# Rule 3.


def test_never_acts_in_an_outage_with_any_plan_that_takes() -> None:
    """Silence, another verdict or no aggregator stops all of it; giving back goes on."""
    silent = world([sighting(newest_s=NOW_S - 300.0)])
    changed = world(seen=seen({1: Verdict.ACTIVE}))
    for there in (silent, changed, world(live=False)):
        for asked, settings in TAKING:
            assert list(of_plan(there, asked, settings)) == [Rule.IN_OUTAGE]
        for given in GIVING:
            assert of_plan(there, given, approvals=[]) == {}


# Rule 4.


def test_never_exceeds_a_limit_by_a_random_part() -> None:
    """Two VMs where one is allowed: the whole plan is refused, with words and a way out."""
    sightings, vms = many(2)
    both = plan(step(), step(number=2, owner="ben"))
    settings = replace(SETTINGS, limits=Limits(run=1))
    refused = of_plan(world(sightings, vms), both, settings)
    assert list(refused) == [Rule.OVER_LIMIT]
    assert "2 actions in one run, and the limit is 1" in refused[Rule.OVER_LIMIT]


def test_never_exceeds_a_limit_after_what_was_done_within_the_hour() -> None:
    """Also not with a move; a waking is never held up."""
    none_left = Limits(hour=1)
    there = world(actions=[action(step())])
    for asked, settings in TAKING:
        assert Rule.OVER_LIMIT in of_plan(there, asked, replace(settings, limits=none_left))
    for given in GIVING:
        assert of_plan(there, given, replace(SETTINGS, limits=Limits(run=0, hour=0, host=0, owner=0))) == {}


# Rule 5.


@pytest.mark.parametrize(
    "now",
    [
        {"sighting": sighting(tags=("env:dev", "fallow:keep"))},
        {"sighting": sighting(kept="ann until 2026-12-31: audit")},
        {"sighting": sighting(owner=None)},
        {"vm": vm(shields=frozenset({Shield.BACKUP}))},
        {"vm": vm(created_s=NOW_S - DAY_S)},
    ],
)
def test_never_touches_the_exempt_just_before_a_step(now: dict[str, Any]) -> None:
    """An exemption that came between plan and step holds."""
    for asked in (SUSPEND, plan(step(Mark.MARK)), plan(step(Mark.NOTIFY))):
        assert Rule.EXEMPT in of_step(asked=asked, **now)


def test_never_touches_the_exempt_while_it_sleeps() -> None:
    """A VM whose owner keeps it is not taken from suspended to stopped."""
    there = world([sighting(kept="ann")], [vm(state=VmState.SUSPENDED)], entries=[entry(rung=Rung.SUSPEND)])
    assert Rule.EXEMPT in of_step(there, STOP)


def test_never_touches_the_exempt_by_moving_what_is_pinned() -> None:
    """A pin or a shield keeps a VM where it is; a keep does not."""
    assert Rule.EXEMPT in of_step(None, MOVE, MOVES, vm=vm(tags=("fallow:pin",)))
    assert Rule.EXEMPT in of_step(None, MOVE, MOVES, vm=vm(shields=frozenset({Shield.PASSTHROUGH})))
    assert of_step(None, MOVE, MOVES, sighting=sighting(kept="ann")) == {}


# Rule 6.


def test_never_surprises_after_a_day() -> None:
    """A plan expires, for every kind of it; and one of the future is of a wrong clock."""
    for asked in (SUSPEND, MOVE, *GIVING):
        late = world(now_s=NOW_S + LIFE_S)
        assert "expired" in of_plan(late, asked)[Rule.SURPRISE]
        assert "expired" in of_step(late, asked)[Rule.SURPRISE]
        early = world(now_s=NOW_S - 61.0)
        assert "a clock is wrong" in of_plan(early, asked)[Rule.SURPRISE]


def test_never_surprises_with_another_step_than_was_previewed() -> None:
    """What runs stands in the plan, in its order, and there is something to run."""
    scene = world(entries=[entry()]).scene(ref())
    assert Rule.SURPRISE in by_rule(check_step(step(reason="another"), SUSPEND, scene, SETTINGS))
    assert Rule.SURPRISE in of_plan(world(), replace(SUSPEND, steps=()))
    assert Rule.SURPRISE in of_plan(world(), replace(SUSPEND, steps=(step(number=1), step(number=1))))


@pytest.mark.parametrize(
    "now",
    [
        {"vm": vm(state=VmState.OFF)},
        {"vm": vm(state=VmState.PAUSED)},
        {"vm": vm(host_id="hv2")},
        {"sighting": sighting(boot="boot-2")},
    ],
)
def test_never_surprises_a_vm_that_has_changed(now: dict[str, Any]) -> None:
    """Another state, host or boot than the plan says: the step is not that plan's any more."""
    assert Rule.SURPRISE in of_step(**now)
    assert Rule.SURPRISE in of_step(None, MOVE, MOVES, **now)


def test_never_acts_on_doubt_about_a_restart() -> None:
    """The boot was known when it was marked or planned and is not now: it may have started anew."""
    assert "started anew" in of_step(sighting=sighting(boot=None))[Rule.ON_DOUBT]


@pytest.mark.parametrize(
    ("verb", "rung", "ago_s", "due"),
    [
        (Mark.MARK, None, 0.0, True),
        (Mark.NOTIFY, None, 0.0, False),
        (Verb.SUSPEND, None, 0.0, False),
        (Mark.MARK, Rung.MARK, 0.0, False),
        (Mark.NOTIFY, Rung.MARK, 0.0, True),
        (Verb.SUSPEND, Rung.MARK, 99 * DAY_S, False),
        (Verb.SUSPEND, Rung.NOTIFY, 7 * DAY_S, True),
        (Verb.SUSPEND, Rung.NOTIFY, 7 * DAY_S - 1, False),
        (Verb.SUSPEND, Rung.NOTIFY, -DAY_S, False),
        (Mark.NOTIFY, Rung.NOTIFY, 99 * DAY_S, False),
        (Verb.STOP, Rung.NOTIFY, 99 * DAY_S, False),
    ],
)
def test_never_surprises_by_skipping_a_rung_or_a_wait(
    verb: Verb | Mark, rung: Rung | None, ago_s: float, due: bool
) -> None:
    """Each step on its rung alone, and not a second early."""
    entries = [] if rung is None else [entry(rung=rung, ago_s=ago_s)]
    assert (of_step(world(entries=entries), plan(step(verb))) == {}) is due


def test_never_surprises_a_vm_that_comes_off_the_ladder() -> None:
    """It was made anew under its UUID since it was marked: another VM in all but its name."""
    there = world(vms=[vm(created_s=NOW_S - 20 * DAY_S)], entries=[entry(ago_s=21 * DAY_S)])
    assert "made anew" in of_step(there)[Rule.SURPRISE]


def woken(outcome: Outcome | None = Outcome.DONE, ago_s: float = 20.0, of: Step | None = None) -> Action:
    return action(of or STOP.steps[0], outcome, ago_s=ago_s)


def test_a_suspended_vm_is_woken_and_shut_down_in_order() -> None:
    """Both halves of the last rung, without fresh figures, which a VM that slept cannot have."""
    old = sighting(verdict=Verdict.INSUFFICIENT, newest_s=NOW_S - 40 * DAY_S, minutes=())
    asleep = world(
        [old], [vm(state=VmState.SUSPENDED)], entries=[entry(rung=Rung.SUSPEND, ago_s=30 * DAY_S)], outsides={}
    )
    assert of_step(asleep, STOP) == {}
    awake = world([old], [vm()], actions=[woken()], outsides={})
    assert of_step(awake, STOP, number=2) == {}
    early = world(
        [old], [vm(state=VmState.SUSPENDED)], entries=[entry(rung=Rung.SUSPEND, ago_s=30 * DAY_S - 1)], outsides={}
    )
    assert list(of_step(early, STOP)) == [Rule.SURPRISE]


@pytest.mark.parametrize(
    "actions",
    [
        [],
        [woken(Outcome.FAILED)],
        [woken(Outcome.UNKNOWN)],
        [woken(ago_s=300.0)],
        [woken(of=replace(STOP.steps[0], reason="of another plan"))],
    ],
)
def test_never_surprises_by_stopping_what_somebody_else_woke(actions: list[Action]) -> None:
    """Only this plan's own waking, done, and just now; whoever else woke the VM wants it."""
    assert Rule.SURPRISE in of_step(world(actions=actions), STOP, number=2)


def test_never_surprises_by_stopping_what_is_used_since_it_woke() -> None:
    """Somebody logged in between the two halves, or the VM went to another rung."""
    used = world([sighting(minutes=(minute(5.0, users=1),))], actions=[woken()])
    assert "logged in" in of_step(used, STOP, number=2)[Rule.SURPRISE]
    marked = world(actions=[woken()], entries=[entry(rung=Rung.MARK)])
    assert "on the rung mark" in of_step(marked, STOP, number=2)[Rule.SURPRISE]
    alone = plan(step(Verb.STOP, expected=AWAKE))
    assert Rule.SURPRISE in of_step(world(actions=[woken()]), alone)


# Rule 7.


def test_never_acts_twice_on_a_vm_with_an_open_action() -> None:
    """Whatever the plan: what became of the first has to be settled."""
    open_one = action(step(), Outcome.UNKNOWN)
    for asked, settings in (*TAKING, *((given, SETTINGS) for given in GIVING)):
        assert "is not settled" in of_step(None, asked, settings, unsettled=open_one)[Rule.TWICE]


def test_never_acts_twice_or_on_another_vm() -> None:
    """Gone, another UUID, or another agent in it; only a mark can be taken off a VM that is gone."""
    for asked, settings in (*TAKING, (WAKE, SETTINGS)):
        assert Rule.TWICE in of_step(None, asked, settings, vm=None)
        assert Rule.TWICE in of_step(None, asked, settings, vm=vm(2, name="dev-1"))
    assert of_step(asked=UNMARK, vm=None) == {}
    other = replace(step(), vm_id=uuid(2))
    assert "another agent" in of_step(asked=plan(other))[Rule.TWICE]


def test_never_acts_twice_on_one_vm_in_a_plan() -> None:
    """But for a mark with its notice, a waking with its stop, and a move that goes on from the last one."""
    assert Rule.TWICE in of_plan(world(), plan(step(), step()))
    assert Rule.TWICE in of_plan(world(), plan(step(Mark.NOTIFY), step(Mark.MARK)))
    assert of_plan(world(), plan(step(Mark.MARK), step(Mark.NOTIFY))) == {}
    assert of_plan(world(), STOP) == {}
    there = step(Verb.MIGRATE_LIVE, target_host_id="hv2")
    back = replace(there, target_host_id="hv3", expected=Expected(state=VmState.RUNNING, host_id="hv2"))
    assert of_plan(world(), plan(there, back, kind=PlanKind.RELIEF), MOVES) == {}
    assert Rule.TWICE in of_plan(world(), plan(there, there, kind=PlanKind.RELIEF), MOVES)


# Rule 8.


def test_never_does_what_it_cant_undo_without_an_inverse() -> None:
    """The inverse stands in the step, and it is the right one."""
    for asked, settings in TAKING:
        wrong = replace(asked, steps=(replace(asked.steps[0], inverse=None),))
        assert Rule.IRREVERSIBLE in of_plan(world(), wrong, settings)
        assert Rule.IRREVERSIBLE in of_step(None, wrong, settings)
    assert INVERSE.keys() == {*Verb, *Mark}
    for verb, inverse in INVERSE.items():
        assert inverse is None or INVERSE[inverse] == verb


def test_never_does_what_it_cant_undo_at_its_driver() -> None:
    """A driver that suspends and cannot resume is not asked to suspend; a waking needs no way back."""
    assert "cannot resume" in of_step(capabilities=Capabilities(verbs=frozenset({Verb.SUSPEND})))[Rule.IRREVERSIBLE]
    assert "cannot suspend" in of_step(capabilities=None)[Rule.IRREVERSIBLE]
    asleep = world(vms=[vm(state=VmState.SUSPENDED)], capabilities=Capabilities(verbs=frozenset({Verb.RESUME})))
    assert of_step(asleep, WAKE) == {}


def test_never_does_what_it_cant_undo_under_the_kill_switch() -> None:
    """While the file is there nothing is done at all, giving back included."""
    for asked in (SUSPEND, MOVE, *GIVING):
        assert "maintenance" in of_plan(world(stop="maintenance"), asked, MOVES)[Rule.IRREVERSIBLE]


def test_never_does_what_it_cant_undo_because_no_verb_destroys() -> None:
    """There is no such verb, so no plan can have it: a new one has to come through this test."""
    assert {*Verb} == {
        Verb.SUSPEND,
        Verb.RESUME,
        Verb.STOP,
        Verb.START,
        Verb.MIGRATE_LIVE,
        Verb.MIGRATE_COLD,
    }


# Rule 9.


def test_never_believes_only_the_guest_just_before_a_step() -> None:
    """Counters that contradict the agent, or that could not be read; a driver without them is asked for none."""
    for asked in (SUSPEND, plan(step(Mark.NOTIFY))):
        assert Rule.GUEST_ALONE in of_step(asked=asked, outside=outside(cpu_cores=3.0))
        assert Rule.GUEST_ALONE in of_step(asked=asked, outside=None)
    assert of_step(outside=None, capabilities=replace(CAN, vm_counters=False)) == {}


# The same before there is a plan.


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda there: replace(there, sighting=sighting(flags=("replayed",))), Rule.ON_DOUBT),
        (lambda there: replace(there, vm=vm(tags=("fallow:keep",))), Rule.EXEMPT),
        (lambda there: replace(there, unsettled=action(step(), None)), Rule.TWICE),
        (lambda there: replace(there, capabilities=Capabilities(verbs=frozenset())), Rule.IRREVERSIBLE),
        (lambda there: replace(there, outside=None), Rule.GUEST_ALONE),
    ],
)
def test_what_a_step_would_be_refused_for_is_no_candidate(change: Callable[[Scene], Scene], rule: Rule) -> None:
    """Planning leaves the VM out by the same clause, with the same words."""
    scene = world(entries=[entry()]).scene(ref())
    assert why_left_out(scene, ALL_THE_WAY, SETTINGS, [Verb.SUSPEND]) == ()
    left_out = why_left_out(change(scene), ALL_THE_WAY, SETTINGS, [Verb.SUSPEND])
    assert {one.rule for one in left_out} == {rule}
    refused = check_step(SUSPEND.steps[0], SUSPEND, change(scene), SETTINGS)
    assert set(left_out) <= set(refused)


def test_a_vm_without_a_group_is_reported_only() -> None:
    """So is one whose group goes no further."""
    scene = world().scene(ref())
    assert [one.rule for one in why_left_out(scene, None, SETTINGS, ())] == [Rule.BY_DEFAULT]
    report = replace(ALL_THE_WAY, up_to=Rung.REPORT)
    assert [one.words for one in why_left_out(scene, report, SETTINGS, ())] == [
        "report only: the group dev goes up to report"
    ]
