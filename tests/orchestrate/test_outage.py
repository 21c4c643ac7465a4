"""Rule 3: when too much changes at once, it is what watches that has changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrate.driver import Verb
from orchestrate.inventory import VmState
from orchestrate.outage import AT_ONCE_S, look
from orchestrate.records import Rung, Seen
from orchestrate.refusal import Rule
from orchestrate.sighting import Sighting
from orchestrate.world import World
from reports.verdicts import Verdict
from tests.orchestrate.worlds import DAY_S, NOW_S, SETTINGS, action, entry, many, seen, sighting, step, uuid, vm, world


def fleet(count: int, changed: int = 0, **changes: Any) -> list[Sighting]:
    """So many idle VMs, the first `changed` of which differ."""
    sightings, _ = many(count)
    return [replace(one, **changes) if place < changed else one for place, one in enumerate(sightings)]


def problems(there: World) -> list[str]:
    found = look(there, SETTINGS)
    assert all(one.rule is Rule.IN_OUTAGE and one.ref is None for one in found.refusals)
    # A look that is not believed is not remembered.
    assert (found.seen is None) is bool(found.refusals)
    return [one.words for one in found.refusals]


@pytest.mark.parametrize(("silent", "count", "stops"), [(0, 1, False), (1, 5, True), (1, 10, False), (2, 19, True)])
def test_row_40_never_acts_in_an_outage_more_than_a_tenth_silent(silent: int, count: int, stops: bool) -> None:
    """A tenth is no outage, more is; the words have the figures."""
    said = problems(world(fleet(count, silent, newest_s=NOW_S - 300.0), []))
    assert bool(said) is stops
    if stops:
        assert f"{silent} of {count} VMs that were reporting are silent now" in said[0]


def test_vms_of_a_node_that_cannot_be_asked_are_silent() -> None:
    """However young their newest summary is: nobody knows what they do now. The words name the node."""
    there = world(fleet(20), [])
    some = frozenset(sorted(there.fleet.sightings)[:3])
    there = replace(there, fleet=replace(there.fleet, unheard=some, problem="node b: it does not run"))
    (said,) = problems(there)
    assert said.startswith("3 of 20 VMs that were reporting are silent now (node b: it does not run): 15%")
    assert not problems(replace(there, fleet=replace(there.fleet, unheard=frozenset(sorted(some)[:2]))))


@pytest.mark.parametrize(
    ("age_s", "is_silent"), [(299.9, False), (300.0, True), (-120.0, False), (-121.0, True), (86_400.0, True)]
)
def test_a_sample_is_fresh_or_its_vm_is_silent(age_s: float, is_silent: bool) -> None:
    """A sample of the future tells of a wrong clock and not of a VM."""
    assert bool(problems(world(fleet(2, 1, newest_s=NOW_S - age_s), []))) is is_silent


def test_a_vm_that_fell_silent_long_ago_is_no_outage_now() -> None:
    """Nor is one that never reported."""
    assert not problems(world(fleet(4, 2, newest_s=NOW_S - DAY_S - 1), []))
    assert not problems(world(fleet(4, 2, newest_s=None), []))


@pytest.mark.parametrize("jump_s", [400 * DAY_S, 2 * DAY_S, 6 * 3600.0, -400 * DAY_S, -600.0])
def test_a_jump_of_the_controllers_clock_is_an_outage(jump_s: float) -> None:
    """Forward or backward: no sample is fresh any more."""
    sightings, vms = many(6)
    assert problems(world(sightings, vms, now_s=NOW_S + jump_s))


def test_never_acts_in_an_outage_of_the_aggregator() -> None:
    """Without its newest samples every figure is as old as the last flush."""
    there = world(live=False)
    assert problems(there) == ["the aggregator tells no newest samples: it did not answer"]
    there = replace(there, fleet=replace(there.fleet, problem="connection refused"))
    assert problems(there) == ["the aggregator tells no newest samples: connection refused"]


@pytest.mark.parametrize(("changed", "count", "stops"), [(1, 5, True), (1, 10, False), (2, 19, True)])
def test_never_acts_in_an_outage_more_than_a_tenth_judged_anew(changed: int, count: int, stops: bool) -> None:
    """Half a fleet that turns idle overnight is a broken figure."""
    before = seen({number: Verdict.ACTIVE if number <= changed else Verdict.IDLE for number in range(1, count + 1)})
    said = problems(world(fleet(count), [], seen=before))
    assert bool(said) is stops
    if stops:
        assert f"{changed} of {count} VMs have another verdict than at the last look" in said[0]


def test_vms_that_are_gone_from_the_catalogue_count_as_judged_anew() -> None:
    """A catalogue of which half is missing is not to be believed."""
    before = seen(dict.fromkeys(range(1, 11), Verdict.IDLE))
    assert problems(world(fleet(5), [], seen=before))


def test_verdicts_of_more_than_a_day_ago_are_no_comparison() -> None:
    """The controller was off meanwhile, and everything may have changed."""
    before = seen(dict.fromkeys(range(1, 11), Verdict.ACTIVE), ago_s=DAY_S + 1)
    assert not problems(world(fleet(10), [], seen=before))
    assert problems(world(fleet(10), [], seen=seen(dict.fromkeys(range(1, 11), Verdict.ACTIVE), ago_s=DAY_S)))


def test_a_fleet_that_sleeps_as_a_whole_shows_no_jump_of_the_clock() -> None:
    """Somebody who is awake has to report: else a clock that jumped would end every grace."""
    said = ["none of 1 VM has reported within a day"]
    asleep = [vm(state=VmState.SUSPENDED)]
    assert problems(world([sighting()], asleep, entries=[entry(1, Rung.SUSPEND)])) == said
    assert problems(world([sighting(newest_s=None)])) == said
    assert not problems(world([], []))


def test_what_the_controller_itself_put_to_sleep_is_no_outage() -> None:
    """By its own records and by the hypervisor's word; one of the two is not enough."""
    sightings, vms = many(4)
    silent = [replace(sightings[0], newest_s=NOW_S - 4000.0, verdict=Verdict.INSUFFICIENT), *sightings[1:]]
    asleep = [replace(vms[0], state=VmState.SUSPENDED), *vms[1:]]
    before = seen(dict.fromkeys(range(1, 5), Verdict.IDLE))
    assert not problems(world(silent, asleep, entries=[entry(1, Rung.SUSPEND)], seen=before))
    assert not problems(world(silent, asleep, actions=[action(step(Verb.SUSPEND))], seen=before))
    assert problems(world(silent, vms, entries=[entry(1, Rung.SUSPEND)], seen=before))
    assert problems(world(silent, asleep, seen=before))
    assert problems(world(silent, asleep, entries=[entry(1, Rung.NOTIFY)], seen=before))


def test_a_look_that_is_believed_is_remembered() -> None:
    """With the verdicts of all VMs and its time."""
    found = look(world(fleet(2, 1, verdict=Verdict.ACTIVE), []), SETTINGS)
    assert found.seen == {
        uuid(1): Seen(verdict=Verdict.ACTIVE, seen_s=NOW_S),
        uuid(2): Seen(verdict=Verdict.IDLE, seen_s=NOW_S),
    }


def test_looks_that_follow_each_other_closely_do_not_hide_what_changes_at_once() -> None:
    """Every minute one more of 40 VMs is judged anew: no look sees many, and together they are an outage."""
    before = seen(dict.fromkeys(range(1, 41), Verdict.ACTIVE), ago_s=60.0)
    for minutes in range(1, 10):
        now_s = NOW_S + 60.0 * minutes
        sightings = [
            sighting(number, now_s=now_s, verdict=Verdict.IDLE if number <= minutes else Verdict.ACTIVE)
            for number in range(1, 41)
        ]
        found = look(world(sightings, [], now_s=now_s, seen=before), SETTINGS)
        assert bool(found.refusals) is (minutes > 4)
        before = dict(found.seen or before)


def test_what_changed_a_while_ago_is_no_news() -> None:
    """The verdict of then is forgotten, and what changes from now on is counted alone."""
    old = seen({1: Verdict.ACTIVE, 2: Verdict.ACTIVE}, ago_s=AT_ONCE_S)
    sightings = [sighting(1), *(sighting(number, verdict=Verdict.ACTIVE) for number in range(2, 13))]
    found = look(world(sightings, [], seen={**seen(dict.fromkeys(range(3, 13), Verdict.ACTIVE)), **old}), SETTINGS)
    assert found.seen is not None
    assert found.seen[uuid(1)] == Seen(verdict=Verdict.IDLE, seen_s=NOW_S)
