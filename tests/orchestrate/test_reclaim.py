"""From a world to a plan: who is in it, in which order, and why the others are not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.driver import Verb
from orchestrate.groups import Approve, ReclaimSettings
from orchestrate.guards import check_plan
from orchestrate.inventory import Shield, VmState
from orchestrate.limits import Limits
from orchestrate.plan import LIFE_S, Mark, PlanKind, decode_plan, encode_plan
from orchestrate.reclaim import Reclaim, counted, plan_reclaim
from orchestrate.records import Entry, Rung
from orchestrate.refusal import Rule
from orchestrate.sighting import Sighting
from orchestrate.world import World
from reports.verdicts import Verdict
from tests.orchestrate.worlds import (
    ALL_THE_WAY,
    DAY_S,
    NOW_S,
    SETTINGS,
    SETTINGS_SHA256,
    approval,
    entry,
    many,
    ref,
    seen,
    sighting,
    uuid,
    vm,
    with_group,
    world,
)


def reclaim(there: World, settings: ReclaimSettings = SETTINGS, **changes: Any) -> Reclaim:
    return plan_reclaim(there, settings, made_by="ann", settings_sha256=SETTINGS_SHA256, **changes)


def verbs(found: Reclaim) -> list[tuple[str, Verb | Mark]]:
    return [(one.name, one.verb) for one in found.plan.steps]


def test_a_newly_idle_vm_is_marked_and_its_owner_told() -> None:
    """Both in one plan, with the evidence, and what the notice promises."""
    found = reclaim(world())
    assert verbs(found) == [("dev-1", Mark.MARK), ("dev-1", Mark.NOTIFY)]
    mark, notice = found.plan.steps
    assert (mark.number, notice.number) == (1, 2)
    assert (notice.owner, notice.mail, notice.vm_id, notice.group) == ("ann", "ann@example.org", uuid(), "dev")
    assert (notice.grace_s, mark.grace_s) == (7 * DAY_S, None)
    assert notice.figures == sighting().figures
    assert notice.reason == "Idle for 14 days: CPU below 2%."
    assert (mark.inverse, notice.inverse) == (Mark.UNMARK, None)
    plan = found.plan
    assert (plan.kind, plan.made_s, plan.expires_s) == (PlanKind.RECLAIM, NOW_S, NOW_S + LIFE_S)
    assert found.seen is not None
    assert not check_plan(plan, world(), SETTINGS, settings_sha256=SETTINGS_SHA256, approvals=[approval(plan)])


def test_evidence_is_asked_for_what_comes_into_the_plan_alone() -> None:
    """Reading what a verdict rests on takes long; the best of the batch are explained, and nobody else."""
    sightings, vms = many(3)
    sightings = [replace(one, score=float(n), figures=()) for n, one in enumerate(sightings)]
    asked: list[str] = []

    def evidence(wanted: Collection[Sighting]) -> Mapping[str, Sighting]:
        asked.extend(one.vm_id for one in wanted)
        return {one.vm_id: replace(one, sentence="It sleeps.", figures=sighting().figures) for one in wanted}

    found = reclaim(world(sightings, vms), top=1, evidence=evidence)
    assert asked == [uuid(3)]
    assert {one.reason for one in found.plan.steps} == {"It sleeps."}
    assert {one.figures for one in found.plan.steps} == {sighting().figures}


def test_a_vm_whose_verdict_changed_while_its_evidence_was_read_is_not_in_the_plan() -> None:
    """The later verdict holds."""

    def evidence(wanted: Collection[Sighting]) -> Mapping[str, Sighting]:
        return {one.vm_id: replace(one, verdict=Verdict.ACTIVE) for one in wanted}

    assert verbs(reclaim(world(), evidence=evidence)) == []


def test_after_the_grace_it_is_suspended() -> None:
    """With what that gives back; before, it is said until when it waits."""
    found = reclaim(world(entries=[entry()]))
    (suspend,) = found.plan.steps
    assert (suspend.verb, suspend.inverse, suspend.grace_s) == (Verb.SUSPEND, Verb.RESUME, 30 * DAY_S)
    assert (suspend.freed_vcpus, suspend.freed_mem_bytes, suspend.money_per_month) == (4.0, 8e9, 30.0)
    assert "its owner was told at 2026-11-10" in suspend.reason
    assert suspend.expected.boot == "boot-1"
    waits = reclaim(world(entries=[entry(ago_s=DAY_S)]))
    assert verbs(waits) == []
    assert [(one.next_verb, one.due_s) for one in waits.waiting] == [(Verb.SUSPEND, NOW_S + 6 * DAY_S)]
    assert "1 VM in grace: the first is due at 2026-11-24" in waits.plan.notes[0]


def test_after_the_longer_grace_it_is_woken_and_stopped() -> None:
    """Its agent has been silent since, as it must be."""
    silent = sighting(verdict=Verdict.INSUFFICIENT, newest_s=NOW_S - 30 * DAY_S, minutes=())
    # Somebody has to be heard, or nobody is.
    there = world(
        [silent, sighting(2)],
        [vm(state=VmState.SUSPENDED), vm(2)],
        entries=[entry(rung=Rung.SUSPEND, ago_s=30 * DAY_S)],
    )
    found = reclaim(there, only={ref(1)})
    assert verbs(found) == [("dev-1", Verb.RESUME), ("dev-1", Verb.STOP)]
    resume, stop = found.plan.steps
    assert (resume.expected.state, stop.expected.state) == (VmState.SUSPENDED, VmState.RUNNING)
    assert stop.freed_vcpus is None
    assert "nobody asked for it" in stop.reason


@pytest.mark.parametrize("verdict", set(Verdict) - {Verdict.IDLE})
def test_only_idle_vms_climb(verdict: Verdict) -> None:
    """The other verdicts are for the report: nothing is planned for them, and nothing counted as left out."""
    found = reclaim(world([sighting(verdict=verdict)]))
    assert (verbs(found), found.left_out) == ([], ())


def test_notices_come_first_and_then_the_best() -> None:
    """By score, ties by id: what reaches no hypervisor is done before what might end the run."""
    sightings, vms = many(5)
    scores = (1.0, 5.0, 3.0, 3.0, 2.0)
    sightings = [replace(one, score=score) for one, score in zip(sightings, scores, strict=True)]
    entries = [entry(number) for number in (1, 2, 4)]
    found = reclaim(world(sightings, vms, entries=entries))
    assert [name for name, _ in verbs(found)] == ["dev-3", "dev-3", "dev-5", "dev-5", "dev-2", "dev-4", "dev-1"]
    assert [one.number for one in found.plan.steps] == [1, 2, 3, 4, 5, 6, 7]


def test_a_batch_takes_the_best_of_each() -> None:
    """So many notices and so many suspensions; `top` goes before the settings, and the rest is told."""
    sightings, vms = many(4)
    entries = [entry(number) for number in (1, 2)]
    there = world(sightings, vms, entries=entries)
    found = reclaim(there, replace(SETTINGS, batch=1))
    assert verbs(found) == [("dev-3", Mark.MARK), ("dev-3", Mark.NOTIFY), ("dev-1", Verb.SUSPEND)]
    assert found.later == (ref(4), ref(2))
    assert "2 VMs more due" in found.plan.notes[-1]
    assert len(reclaim(there, replace(SETTINGS, batch=1), top=2).plan.steps) == 6
    assert len(reclaim(there, top=0).plan.steps) == 0


def test_only_the_vms_that_were_asked_for() -> None:
    """Nothing is said of the others."""
    sightings, vms = many(3)
    found = reclaim(world([*sightings, sighting(9)], vms), only={ref(2)})
    assert {one.ref for one in found.plan.steps} == {ref(2)}
    assert found.left_out == ()


def test_only_the_groups_that_need_nobody() -> None:
    """What the running service may do by itself."""
    assert verbs(reclaim(world(), approve=Approve.AUTO)) == []
    assert len(reclaim(world(), with_group(approve=Approve.AUTO), approve=Approve.AUTO).plan.steps) == 2


def test_over_a_limit_the_plan_is_shown_and_refused_whole() -> None:
    """Not a random part of it."""
    sightings, vms = many(4)
    there = world(sightings, vms, entries=[entry(number) for number in range(1, 5)])
    settings = replace(SETTINGS, limits=Limits(run=3))
    plan = reclaim(there, settings).plan
    assert len(plan.steps) == 4
    refusals = check_plan(plan, there, settings, settings_sha256=SETTINGS_SHA256, approvals=[approval(plan)])
    assert [one.rule for one in refusals] == [Rule.OVER_LIMIT]
    less = reclaim(there, settings, top=3).plan
    assert not check_plan(less, there, settings, settings_sha256=SETTINGS_SHA256, approvals=[approval(less)])


def test_who_is_left_out_is_told_why() -> None:
    """Every idle VM is in the plan, in grace, or in the list with all its reasons, counted by its first."""
    sightings, vms = many(4)
    sightings[0] = replace(sightings[0], owner=None, coverage_ratio=0.5)
    vms[1] = replace(vms[1], shields=frozenset({Shield.LOCKED}))
    there = world([*sightings, sighting(9, name="lost")], vms)
    found = reclaim(there, with_group(names=("dev-1", "dev-2", "dev-3")))
    assert {name for name, _ in verbs(found)} == {"dev-3"}
    reasons = {one.name: [each.rule for each in one.refusals] for one in found.left_out}
    assert reasons == {
        "dev-1": [Rule.ON_DOUBT, Rule.EXEMPT],
        "dev-2": [Rule.EXEMPT],
        "dev-4": [Rule.BY_DEFAULT],
        "lost": [Rule.ON_DOUBT],
    }
    assert counted(found.left_out) == {Rule.BY_DEFAULT: 1, Rule.ON_DOUBT: 2, Rule.EXEMPT: 1}
    assert "2 idle VMs left out: it never acts on doubt" in found.plan.notes


def test_a_vm_whose_uuid_is_there_twice_is_told_with_the_reason() -> None:
    """Not merely as unknown."""
    found = reclaim(world([sighting()], [vm(host_id="hv1"), vm(host_id="hv2")]))
    (one,) = found.left_out
    assert (one.ref, one.refusals[0].words) == (ref(), "there are 2 VMs of its UUID: lab on hv1 and lab on hv2")


def test_an_outage_stops_the_whole_look() -> None:
    """No step, no drop, nothing remembered; the reason stands in the plan."""
    there = world([sighting(newest_s=NOW_S - 600.0, verdict=Verdict.ACTIVE)], entries=[entry()])
    found = reclaim(there)
    assert (found.plan.steps, found.drops, found.seen) == ((), (), None)
    assert [one.rule for one in found.stopped] == [Rule.IN_OUTAGE]
    assert found.plan.notes[0].startswith("stopped: ")


def test_a_vm_that_is_in_use_comes_off_the_ladder() -> None:
    """And is not in the plan of the same look, to be marked again at once."""
    sightings, vms = many(20)
    sightings[0] = replace(sightings[0], verdict=Verdict.ACTIVE)
    sightings[1] = replace(sightings[1], boot="boot-2")
    there = world(sightings, vms, entries=[entry(1), entry(2)])
    found = reclaim(there, top=1)
    assert [one.ref for one in found.drops] == [ref(1), ref(2)]
    assert not {ref(1), ref(2)} & {one.ref for one in found.plan.steps}
    assert "2 VMs taken off the ladder" in found.plan.notes


def test_a_guest_that_was_made_anew_under_the_same_name_begins_anew() -> None:
    """The old UUID is gone and comes off; the new one is marked, whatever the old one's grace."""
    found = reclaim(world([sighting(2, name="web")], [vm(2, name="web")], entries=[entry(1)]))
    assert [(one.ref, one.words) for one in found.drops] == [(ref(1), "it is gone")]
    assert [(one.ref, one.verb) for one in found.plan.steps] == [(ref(2), Mark.MARK), (ref(2), Mark.NOTIFY)]


def test_a_host_that_does_not_answer_takes_nobody_off_the_ladder() -> None:
    """Its VMs are not gone: nobody can see them."""
    found = reclaim(world([sighting()], [], entries=[entry()], unreachable={"hv1": "timed out"}))
    assert (found.drops, found.plan.steps) == ((), ())


NUMBERS = st.integers(1, 4)
SIGHTINGS = st.lists(
    st.builds(
        lambda number, verdict, score, owner, kept: sighting(
            number, verdict=verdict, score=score, owner=owner, kept=kept
        ),
        NUMBERS,
        st.sampled_from([Verdict.IDLE, Verdict.IDLE, Verdict.ACTIVE]),
        st.sampled_from([1.0, 2.0]),
        st.sampled_from(["ann", "ben", None]),
        st.sampled_from([None, None, "ann"]),
    ),
    unique_by=lambda one: one.vm_id,
)
ENTRY = st.builds(
    lambda number, rung, days: entry(number, rung, ago_s=days * DAY_S),
    NUMBERS,
    st.sampled_from(Rung),
    st.integers(0, 40),
)
ENTRIES = st.lists(ENTRY, unique_by=lambda one: one.ref)


@given(SIGHTINGS, st.sets(NUMBERS), ENTRIES, st.none() | st.integers(0, 3))
def test_the_same_world_makes_the_same_plan(
    sightings: Sequence[Any], numbers: set[int], entries: Sequence[Entry], batch: int | None
) -> None:
    """Whatever the order in which it was read: steps, notes and hash; and the plan survives its JSON."""
    vms = [vm(number) for number in sorted(numbers)]
    settings = replace(SETTINGS, batch=batch)
    found = reclaim(world(sightings, vms, entries=entries), settings)
    again = reclaim(world(sightings[::-1], vms[::-1], entries=entries[::-1]), settings)
    assert found == again
    assert found.plan.sha256 == again.plan.sha256
    assert decode_plan(encode_plan(found.plan)) == found.plan


@given(SIGHTINGS, st.sets(NUMBERS), ENTRIES, st.none() | st.integers(0, 3))
def test_every_idle_vm_is_accounted_for_once(
    sightings: Sequence[Any], numbers: set[int], entries: Sequence[Entry], batch: int | None
) -> None:
    """In the plan, later, in grace, left out, dropped, or at the end of its way: nobody is forgotten or told twice."""
    there = world(sightings, [vm(number) for number in sorted(numbers)], entries=entries)
    found = reclaim(there, replace(SETTINGS, batch=batch))
    planned = [*dict.fromkeys(one.ref.uuid for one in found.plan.steps), *(one.uuid for one in found.later)]
    told = [*planned, *(one.ref.uuid for one in found.waiting), *(one.vm_id for one in found.left_out)]
    dropped = {one.ref.uuid for one in found.drops}
    assert len(told) == len(set(told))
    # An agent without a VM is left out, and what was known of its VM is dropped.
    assert not dropped & (set(told) - {one.vm_id for one in found.left_out if one.ref is None})
    assert {one.vm_id for one in sightings if one.verdict is Verdict.IDLE} <= {*told, *dropped}
    assert all(ALL_THE_WAY.name == one.group for one in found.plan.steps)


def test_verdicts_are_compared_with_those_of_the_last_look() -> None:
    """A fleet that turned idle overnight is not reclaimed."""
    sightings, vms = many(3)
    found = reclaim(world(sightings, vms, seen=seen(dict.fromkeys((1, 2, 3), Verdict.ACTIVE))))
    assert [one.rule for one in found.stopped] == [Rule.IN_OUTAGE]
