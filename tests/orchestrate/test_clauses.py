"""Each clause of the rules over one VM, with what is known, what is not, and the edge between them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrate import clauses
from orchestrate.groups import Group
from orchestrate.inventory import Shield, VmRef, VmState
from orchestrate.outside import Outside
from orchestrate.refusal import Refusal, Rule
from orchestrate.world import Scene
from reports.verdicts import Verdict
from tests.orchestrate.worlds import (
    ALL_THE_WAY,
    CAN,
    DAY_S,
    NOW_S,
    SETTINGS,
    minute,
    outside,
    ref,
    sighting,
    vm,
    world,
)


def scene(
    sighting_is: Mapping[str, Any] | None = None, vm_is: Mapping[str, Any] | None = None, **changes: Any
) -> Scene:
    """The scene of an idle VM that differs in this from one that may be taken."""
    there = world([sighting(**(sighting_is or {}))], [vm(**(vm_is or {}))])
    return replace(there.scene(ref()), **changes)


def doubts(there: Scene, group: Group | None = ALL_THE_WAY) -> tuple[Refusal, ...]:
    found = clauses.on_doubt(there, group, SETTINGS)
    assert all(one.rule is Rule.ON_DOUBT and one.ref == ref() for one in found)
    return found


def exempt(there: Scene, group: Group | None = ALL_THE_WAY) -> list[str]:
    found = clauses.exempt(there, group, SETTINGS)
    assert all(one.rule is Rule.EXEMPT and one.ref == ref() for one in found)
    return [one.words for one in found]


def contradictions(there: Scene) -> list[str]:
    found = clauses.guest_alone(there, SETTINGS)
    assert all(one.rule is Rule.GUEST_ALONE and one.ref == ref() for one in found)
    return [one.words for one in found]


def test_an_idle_vm_with_good_figures_is_in_no_doubt() -> None:
    """Otherwise nothing below says anything. A zero is a value, and so are the limits themselves."""
    assert doubts(scene()) == ()
    quiet = {"minutes": (minute(cpu_busy_ratio=0.0, users=0),), "skew_s": 0.0}
    edge = {"days": 14.0, "coverage_ratio": 0.95, "newest_s": NOW_S - 299.9}
    assert doubts(scene({**quiet, **edge})) == ()
    ahead = (minute(-120.0, cpu_busy_ratio=0.0, users=0),)
    assert doubts(scene({"skew_s": -120.0, "newest_s": NOW_S + 120.0, "minutes": ahead})) == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": Verdict.ACTIVE, "cause": "above a limit"}, "not idle: active (above a limit)"),
        ({"verdict": Verdict.SCHEDULED}, "not idle: scheduled"),
        ({"verdict": Verdict.OVERSIZED}, "not idle: oversized"),
        ({"verdict": Verdict.INSUFFICIENT}, "not idle: insufficient data"),
        ({"verdict": Verdict.EXCLUDED}, "not idle: excluded"),
        ({"flags": ("identity_conflict",)}, "flagged: identity_conflict"),
        ({"days": None}, "– days of data, and 14 are needed"),
        ({"days": 13.9}, "13.9 days of data"),
        ({"days": math.nan}, "days of data"),
        ({"coverage_ratio": None}, "– of its window is covered, and 95% are needed"),
        ({"coverage_ratio": 0.9499}, "94.99% of its window"),
        ({"coverage_ratio": 0.0}, "0% of its window"),
        ({"coverage_ratio": math.nan}, "of its window"),
        ({"skew_s": None}, "clock is off by –"),
        ({"skew_s": -120.1}, "clock is off by -2 min"),
        ({"skew_s": math.nan}, "clock is off"),
        ({"newest_s": None}, "newest sample is not known"),
        ({"newest_s": NOW_S - 300.0}, "newest sample is of"),
        ({"newest_s": NOW_S + 121.0}, "newest sample is of"),
        ({"newest_s": math.nan}, "newest sample is of"),
        ({"minutes": ()}, "newest minutes are not known"),
        ({"minutes": (minute(301.0),)}, "newest minute is of"),
        ({"minutes": (minute(90.0, users=1), minute(30.0))}, "somebody was logged in"),
        ({"minutes": (minute(users=None),)}, "whether somebody was logged in"),
        ({"minutes": (minute(90.0, cpu_busy_ratio=0.11), minute(30.0))}, "it woke up: 11% CPU"),
        ({"minutes": (minute(cpu_busy_ratio=math.nan),)}, "it woke up"),
    ],
)
def test_never_acts_on_doubt_of_the_agents_figures(changes: dict[str, Any], said: str) -> None:
    """What is missing counts as busy; each clause alone is enough, and says which it is."""
    assert any(said in one.words for one in doubts(scene(changes))), doubts(scene(changes))


def test_never_acts_on_doubt_of_who_the_vm_is() -> None:
    """Not shown, in a doubtful match, in none, or not running."""
    assert "does not show it" in doubts(scene(vm=None))[0].words
    assert doubts(scene(doubt="matched by its MAC alone"))[0].words == "matched by its MAC alone"
    assert "no agent" in doubts(scene(sighting=None))[0].words
    for state in set(VmState) - {VmState.RUNNING}:
        assert doubts(scene(vm_is={"state": state}))[0].words == f"its hypervisor says that it is {state}"


def test_never_acts_on_doubt_of_another_policys_verdict() -> None:
    """The group's policy has to have made it; a group without one takes the report's."""
    of_its_own = replace(ALL_THE_WAY, policy="strict")
    assert "group goes by strict" in doubts(scene(), of_its_own)[0].words
    assert doubts(scene({"policy": "strict"}), of_its_own) == ()


def test_only_known_use_is_use() -> None:
    """A VM without minutes shows none; the newest minute speaks first."""
    assert clauses.in_use(sighting(minutes=()), SETTINGS) is None
    both = sighting(minutes=(minute(90.0, users=1), minute(30.0, cpu_busy_ratio=0.5)))
    assert "50% CPU" in str(clauses.in_use(both, SETTINGS))


@pytest.mark.parametrize("shield", list(Shield))
def test_never_touches_the_exempt_by_a_shield(shield: Shield) -> None:
    """High availability, passthrough, backup, lock and template, each alone; nor are such VMs moved."""
    there = scene(vm_is={"shields": frozenset({shield})})
    assert exempt(there) == [f"its hypervisor says: {shield}"]
    assert [one.words for one in clauses.pinned(there, SETTINGS)] == [f"its hypervisor says: {shield}"]
    lasting = clauses.exempt(there, ALL_THE_WAY, SETTINGS, lasting_only=True)
    assert bool(lasting) is (shield not in {Shield.BACKUP, Shield.LOCKED})


def test_never_touches_the_exempt_by_tag() -> None:
    """On either side; `pin` forbids a move alone, and `keep` all but that."""
    for there in (scene({"tags": ("fallow:keep",)}), scene(vm_is={"tags": ("fallow:keep", "x")})):
        assert exempt(there) == ["tagged fallow:keep"]
        assert clauses.pinned(there, SETTINGS) == ()
    pinned = scene(vm_is={"tags": ("fallow:pin",)})
    assert exempt(pinned) == []
    assert [one.words for one in clauses.pinned(pinned, SETTINGS)] == ["tagged fallow:pin"]


def test_never_touches_the_exempt_by_the_owners_word() -> None:
    """A keep holds for taking, not for moving."""
    there = scene({"kept": "ann until 2026-12-31: audit"})
    assert exempt(there) == ["kept: ann until 2026-12-31: audit"]
    assert clauses.pinned(there, SETTINGS) == ()


def test_never_touches_the_exempt_without_a_known_owner() -> None:
    """Unless the group says otherwise; the hypervisor's owner is one."""
    nobody = scene({"owner": None})
    assert exempt(nobody) == ["nobody is known to own it"]
    assert exempt(nobody, None) == ["nobody is known to own it"]
    assert exempt(scene({"owner": ""})) == ["nobody is known to own it"]
    assert exempt(nobody, replace(ALL_THE_WAY, unknown_owner=True)) == []
    assert exempt(scene({"owner": None}, {"owner": "ben"})) == []


@pytest.mark.parametrize(
    ("age_s", "is_exempt"), [(14 * DAY_S, False), (14 * DAY_S - 1, True), (-DAY_S, True), (math.nan, True)]
)
def test_never_touches_the_exempt_by_age(age_s: float, is_exempt: bool) -> None:
    """A young VM is left alone, and so is one of the future; where no age is known the samples tell."""
    assert bool(exempt(scene(vm_is={"created_s": NOW_S - age_s}))) is is_exempt
    assert exempt(scene(vm_is={"created_s": None})) == []


@pytest.mark.parametrize(
    ("cores", "agrees"),
    [(0.0, True), (0.04, True), (0.48, True), (0.5, False), (4.0, False), (math.nan, False), (None, False)],
)
def test_never_believes_only_the_guest_of_its_cpu(cores: float | None, agrees: bool) -> None:
    """4 vCPUs that say 1 %: up to 11 % outside, and 0.05 cores of the emulation's own; no reading is no agreement."""
    assert (contradictions(scene(outside=outside(cpu_cores=cores))) == []) is agrees


def test_never_believes_only_the_guest_that_says_more_than_its_host() -> None:
    """A guest that is busy by its own word and not by its host's is no guest to judge by."""
    busy = {"minutes": (minute(cpu_busy_ratio=0.5),)}
    assert contradictions(scene(busy)) == ["its hypervisor counts 2.5% CPU, its agent 50%"]


@pytest.mark.parametrize(
    ("rate", "agrees"), [(0.0, True), (11_000.0, True), (11_001.0, False), (None, True), (math.nan, False)]
)
def test_never_believes_only_the_guest_of_its_traffic(rate: float | None, agrees: bool) -> None:
    """500 B/s inside: twice that and 10 KB/s outside; a driver that counts no traffic says nothing of it."""
    assert (contradictions(scene(outside=outside(net_bytes_per_s=rate))) == []) is agrees


def test_never_believes_only_the_guest_that_measures_no_traffic() -> None:
    """Where the driver counts it, the agent has to tell."""
    mute = {"minutes": (minute(net_rx_bytes_per_s=None),)}
    assert contradictions(scene(mute)) == ["its hypervisor counts 600 B/s of traffic, its agent –"]


@pytest.mark.parametrize("seen", [None, outside(at_s=NOW_S - 300.0), outside(at_s=NOW_S + 121.0)])
def test_never_believes_only_the_guest_where_nothing_fresh_was_read(seen: Outside | None) -> None:
    """A driver that says it counts has to have counted just now."""
    assert contradictions(scene(outside=seen)) == ["what its hypervisor counts of it could not be read"]
    assert contradictions(scene(outside=None, capabilities=None)) != []
    assert contradictions(scene(outside=None, capabilities=replace(CAN, vm_counters=False))) == []


def test_the_same_minutes_are_compared() -> None:
    """Those that the reading spans; where it is younger than all of them, the newest."""
    woke = tuple(minute(30.0 + 60.0 * back, cpu_busy_ratio=0.9 if back > 3 else 0.01) for back in (5, 4, 3, 2, 1, 0))
    assert contradictions(scene({"minutes": woke}, outside=outside(span_s=120.0))) == []
    assert contradictions(scene({"minutes": woke}, outside=outside(span_s=600.0))) != []
    assert contradictions(scene(outside=outside(at_s=NOW_S, span_s=5.0))) == []
    assert contradictions(scene({"minutes": ()})) == ["its agent says nothing of the minutes its hypervisor counted"]
    assert contradictions(scene(vm_is={"vcpus": 0})) != []


def test_a_move_needs_news_of_the_vm() -> None:
    """From its agent or from its hypervisor; either is enough."""
    stale, old = {"newest_s": NOW_S - 300.0}, outside(at_s=NOW_S - 300.0)
    assert clauses.stale_figures(scene(stale, outside=old), SETTINGS)[0].rule is Rule.ON_DOUBT
    assert clauses.stale_figures(scene(stale), SETTINGS) == ()
    assert clauses.stale_figures(scene(outside=None), SETTINGS) == ()
    assert clauses.stale_figures(scene(sighting=None, outside=None), SETTINGS) != ()


def test_a_vm_of_another_site_is_another_vm() -> None:
    """Its scene says so: nothing is known of it."""
    elsewhere = world().scene(VmRef("far", ref().uuid))
    assert (elsewhere.vm, elsewhere.sighting, elsewhere.capabilities, elsewhere.readable) == (None, None, None, False)
