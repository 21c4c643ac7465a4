"""The ladder of one VM: what is due on each rung, what takes a VM off it, and what leaves it where it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrate import ladder
from orchestrate.driver import Verb
from orchestrate.groups import Group
from orchestrate.inventory import Shield, VmState
from orchestrate.plan import Expected, Mark
from orchestrate.records import RUNGS, Entry, Rung
from reports.verdicts import Verdict
from tests.orchestrate.worlds import (
    ALL_THE_WAY,
    DAY_S,
    NOW_S,
    SETTINGS,
    entry,
    minute,
    ref,
    sighting,
    step,
    uuid,
    vm,
    world,
)


def up_to(rung: Rung, **changes: Any) -> Group:
    return replace(ALL_THE_WAY, up_to=rung, **changes)


CLIMB = (
    (None, Rung.NOTIFY, (Mark.MARK, Mark.NOTIFY)),
    (None, Rung.MARK, (Mark.MARK,)),
    (None, Rung.REPORT, ()),
    (Rung.REPORT, Rung.STOP, (Mark.MARK, Mark.NOTIFY)),
    (Rung.MARK, Rung.NOTIFY, (Mark.NOTIFY,)),
    (Rung.MARK, Rung.MARK, ()),
    (Rung.NOTIFY, Rung.SUSPEND, (Verb.SUSPEND,)),
    (Rung.NOTIFY, Rung.NOTIFY, ()),
    (Rung.SUSPEND, Rung.STOP, (Verb.RESUME, Verb.STOP)),
    (Rung.SUSPEND, Rung.SUSPEND, ()),
    (Rung.STOP, Rung.STOP, ()),
)


@pytest.mark.parametrize(("rung", "goes_to", "verbs"), CLIMB)
def test_each_rung_has_its_next(rung: Rung | None, goes_to: Rung, verbs: tuple[Verb | Mark, ...]) -> None:
    """When every wait is over; a group that goes no further has nothing due."""
    known = None if rung is None else entry(rung=rung, ago_s=99 * DAY_S)
    assert ladder.due(known, up_to(goes_to), now_s=NOW_S) == verbs


def test_there_is_no_rung_below_stop() -> None:
    """Nothing is ever deleted."""
    assert RUNGS[-1] is Rung.STOP
    assert ladder.due(entry(rung=Rung.STOP, ago_s=9999 * DAY_S), ALL_THE_WAY, now_s=NOW_S) == ()


@pytest.mark.parametrize(("rung", "grace_s"), [(Rung.NOTIFY, 7 * DAY_S), (Rung.SUSPEND, 30 * DAY_S)])
def test_a_wait_is_over_when_its_last_second_is(rung: Rung, grace_s: float) -> None:
    """Not before, and not while the clock stands before its beginning."""
    for ago_s, is_due in [(grace_s, True), (grace_s - 1, False), (0.0, False), (-DAY_S, False)]:
        known = entry(rung=rung, ago_s=ago_s)
        assert bool(ladder.due(known, ALL_THE_WAY, now_s=NOW_S)) is is_due
        assert ladder.due_s(known, ALL_THE_WAY) == NOW_S - ago_s + grace_s


@pytest.mark.parametrize("rung", [Rung.NOTIFY, Rung.SUSPEND])
def test_a_promise_outlives_the_settings(rung: Rung) -> None:
    """A shorter grace of today does not shorten what was said; a longer one holds from the next look on."""
    known = entry(rung=rung, ago_s=DAY_S)
    short = replace(ALL_THE_WAY, grace_s=0.0, stop_grace_s=0.0)
    assert ladder.due_s(known, short) == known.due_s
    long = replace(ALL_THE_WAY, grace_s=99 * DAY_S, stop_grace_s=99 * DAY_S)
    assert ladder.due_s(known, long) == NOW_S + 98 * DAY_S


def test_who_was_told_of_no_suspension_is_told_first() -> None:
    """The group goes further now than when its owner was told: a new notice, and no stop at all without a word."""
    told_of_nothing = entry(rung=Rung.NOTIFY, ago_s=99 * DAY_S, due_s=None)
    assert ladder.due(told_of_nothing, up_to(Rung.SUSPEND), now_s=NOW_S) == (Mark.NOTIFY,)
    assert ladder.due(told_of_nothing, up_to(Rung.NOTIFY), now_s=NOW_S) == ()
    assert ladder.due(entry(rung=Rung.SUSPEND, ago_s=99 * DAY_S, due_s=None), ALL_THE_WAY, now_s=NOW_S) == ()


@pytest.mark.parametrize(
    ("verb", "rung", "grace_s"),
    [
        (Mark.NOTIFY, Rung.SUSPEND, 7 * DAY_S),
        (Mark.NOTIFY, Rung.NOTIFY, None),
        (Verb.SUSPEND, Rung.STOP, 30 * DAY_S),
        (Verb.SUSPEND, Rung.SUSPEND, None),
        (Mark.MARK, Rung.STOP, None),
        (Verb.STOP, Rung.STOP, None),
    ],
)
def test_a_step_says_how_long_the_next_waits(verb: Verb | Mark, rung: Rung, grace_s: float | None) -> None:
    """Where there is a next one."""
    assert ladder.grace_s(verb, up_to(rung)) == grace_s


def dropped(known: Entry, sighting_is: dict[str, Any], vm_is: dict[str, Any], **changes: Any) -> str | None:
    there = world([sighting(**sighting_is)], [vm(**vm_is)], entries=[known])
    group = changes.pop("group", ALL_THE_WAY)
    return ladder.drop_words(replace(there.scene(ref()), **changes), group, SETTINGS)


@pytest.mark.parametrize("rung", [Rung.MARK, Rung.NOTIFY])
@pytest.mark.parametrize(
    ("sighting_is", "vm_is", "changes", "words"),
    [
        ({}, {}, {}, None),
        ({}, {}, {"entry": None}, None),
        ({}, {}, {"vm": None}, "it is gone"),
        ({}, {}, {"sighting": None, "match": None}, "no agent is known to run in it"),
        ({"verdict": Verdict.ACTIVE, "cause": "above a limit"}, {}, {}, "it is not idle: active (above a limit)"),
        ({"minutes": (minute(users=1),)}, {}, {}, "somebody was logged in at 2026-11-18 11:06 UTC"),
        ({"kept": "ann"}, {}, {}, "kept: ann"),
        ({"tags": ("fallow:keep",)}, {}, {}, "tagged fallow:keep"),
        ({"owner": None}, {}, {}, "nobody is known to own it"),
        ({"owner": "bob"}, {}, {}, "its owner is bob now, and was ann when the notice went out"),
        ({"owner": None}, {"owner": "ann"}, {}, None),
        ({"boot": "boot-2"}, {}, {}, "it started anew since it was marked"),
        ({}, {"shields": frozenset({Shield.HIGH_AVAILABILITY})}, {}, "its hypervisor says: under high availability"),
        ({}, {"created_s": NOW_S - 7 * DAY_S}, {}, "it was made anew since it was marked"),
        ({}, {"state": VmState.OFF}, {}, "it is off, and was left running"),
        ({}, {"state": VmState.PAUSED}, {}, "it is paused, and was left running"),
        ({}, {"state": VmState.SUSPENDED}, {}, "it is suspended, and was left running"),
        ({}, {}, {"group": None}, "its group is none now, and was dev"),
        ({}, {}, {"group": replace(ALL_THE_WAY, name="prod")}, "its group is prod now, and was dev"),
        # What passes, or what a later look will know better.
        ({"newest_s": NOW_S - 900.0}, {}, {}, None),
        ({"coverage_ratio": 0.5}, {}, {}, None),
        ({"flags": ("replayed",)}, {}, {}, None),
        ({"boot": None}, {}, {}, None),
        ({"minutes": ()}, {}, {}, None),
        ({}, {"shields": frozenset({Shield.BACKUP, Shield.LOCKED})}, {}, None),
        ({}, {"state": VmState.CHANGING}, {}, None),
        ({}, {"state": VmState.UNKNOWN}, {}, None),
        ({}, {}, {"vm": None, "readable": False}, None),
        ({}, {"owner": "ann"}, {"sighting": None, "match": None, "doubt": "there are 2 VMs of its UUID"}, None),
    ],
)
def test_what_takes_a_vm_off_the_ladder(
    rung: Rung, sighting_is: dict[str, Any], vm_is: dict[str, Any], changes: dict[str, Any], words: str | None
) -> None:
    """Not idle, kept, exempt, gone, made anew, in another group; a doubt alone leaves it where it is."""
    assert dropped(entry(rung=rung, owner="ann"), sighting_is, vm_is, **changes) == words


@pytest.mark.parametrize("rung", [Rung.MARK, Rung.NOTIFY, Rung.SUSPEND])
def test_a_new_owner_is_told_before_anything_is_taken(rung: Rung) -> None:
    """The notice went to another, or to nobody that was known; where that was not noted, nothing is concluded."""
    state = {"state": VmState.SUSPENDED if rung is Rung.SUSPEND else VmState.RUNNING}
    silent = {"newest_s": NOW_S - 99 * DAY_S}
    for before, whose in (("bob", "bob"), ("", "nobody that is known")):
        told = f"its owner is ann now, and was {whose} when the notice went out"
        assert dropped(entry(rung=rung, owner=before), silent, state) == told
    assert dropped(entry(rung=rung, owner=None), silent, state) is None


def test_a_vm_that_ran_while_it_was_thought_asleep_is_not_stopped() -> None:
    """Somebody woke it, used it and suspended it again between two looks."""
    known, asleep = entry(rung=Rung.SUSPEND), {"state": VmState.SUSPENDED}
    assert dropped(known, {"newest_s": known.since_s + SETTINGS.max_skew_s}, asleep) is None
    words = dropped(known, {"newest_s": known.since_s + 900.0}, asleep)
    assert words is not None
    assert words.endswith("after it was suspended")


def test_a_boot_that_was_not_known_when_it_was_marked_begins_anew() -> None:
    """Nobody can say whether the VM has started since; while it is not known now either, a look says too little."""
    words = "whether it started anew since it was marked is not known"
    assert dropped(entry(rung=Rung.MARK, boot=None), {}, {}) == words
    assert dropped(entry(rung=Rung.MARK, boot=None), {"boot": None}, {}) is None


def test_another_agent_in_the_vm_begins_anew() -> None:
    """It is not the machine whose owner was told."""
    assert dropped(entry(vm_id=uuid(9)), {}, {}) == f"another agent runs in it: {uuid()}"


@pytest.mark.parametrize(("rung", "left"), [(Rung.SUSPEND, VmState.SUSPENDED), (Rung.STOP, VmState.OFF)])
def test_a_vm_that_was_put_to_sleep_stays_until_somebody_wakes_it(rung: Rung, left: VmState) -> None:
    """Its agent is silent, which says nothing; another state, or an exemption, does."""
    known = entry(rung=rung)
    silent = {"verdict": Verdict.INSUFFICIENT, "minutes": (), "newest_s": NOW_S - 99 * DAY_S}
    assert dropped(known, silent, {"state": left}) is None
    assert dropped(known, silent, {"state": left}, group=replace(ALL_THE_WAY, name="prod")) is None
    assert dropped(known, {**silent, "kept": "ann"}, {"state": left}) == "kept: ann"
    assert dropped(known, silent, {"state": VmState.CHANGING}) is None
    for state in {VmState.RUNNING, VmState.PAUSED}:
        assert dropped(known, silent, {"state": state}) == f"it is {state}, and was left {left}"


def test_where_a_vm_stands_after_each_step() -> None:
    """Marked, told, suspended: each with its time, and with what the step promised."""
    known: Entry | None = None
    way: list[tuple[float, Verb | Mark, float | None]] = [
        (1.0, Mark.MARK, None),
        (2.0, Mark.NOTIFY, 7.0),
        (3.0, Verb.SUSPEND, 30.0),
    ]
    for at_s, verb, grace_s in way:
        boot = "boot-1" if verb is Mark.MARK else None
        expected = Expected(state=VmState.RUNNING, host_id="hv1", boot=boot)
        done = step(verb, grace_s=grace_s, expected=expected)
        known = ladder.entry_after(done, known, vm_id=uuid(), at_s=at_s, run_id=f"run-{at_s}")
        assert known is not None
        assert (known.rung, known.since_s, known.group) == (ladder.RUNG_OF[verb], at_s, "dev")
        assert known.due_s == (None if grace_s is None else at_s + grace_s)
        assert (known.marked_s, known.boot, known.run_id) == (1.0, "boot-1", f"run-{at_s}")
        assert known.owner == done.owner == "ann"
    assert known is not None
    assert known.notified_s == 2.0


@pytest.mark.parametrize("verb", [Mark.UNMARK, Verb.RESUME, Verb.START])
def test_what_gives_back_ends_the_climb(verb: Verb | Mark) -> None:
    """The VM is on no rung any more; a VM that is woken only to be stopped then stands on the last."""
    assert ladder.entry_after(step(verb), entry(), vm_id=uuid(), at_s=NOW_S, run_id="run-1") is None
    stopped = ladder.entry_after(step(Verb.STOP), None, vm_id=uuid(), at_s=NOW_S, run_id="run-1")
    assert stopped is not None
    assert (stopped.rung, stopped.marked_s, stopped.due_s) == (Rung.STOP, NOW_S, None)
