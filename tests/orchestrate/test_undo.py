"""Plans that give back: only what the run did, only where the VM is as the run left it, and never by taking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrate.driver import Verb
from orchestrate.guards import ALLOWED
from orchestrate.inventory import Vm, VmState
from orchestrate.plan import Expected, Mark, Plan, PlanKind, Step, decode_plan, encode_plan
from orchestrate.records import Action, Outcome
from orchestrate.undo import plan_undo, plan_wake
from tests.orchestrate.worlds import NOW_S, SETTINGS_SHA256, action, ref, step, vm


def undo(actions: Sequence[Action], live: Sequence[Vm], **others: Any) -> Plan:
    found = plan_undo(
        actions,
        {one.ref: one for one in live},
        run_id="run-1",
        now_s=NOW_S,
        made_by="ann",
        settings_sha256=SETTINGS_SHA256,
        **others,
    )
    assert (found.kind, found.undoes) == (PlanKind.UNDO, "run-1")
    assert {one.verb for one in found.steps} <= ALLOWED[PlanKind.UNDO]
    assert decode_plan(encode_plan(found)) == found
    return found


def move(number: int = 1, source: str = "hv1", target: str = "hv2") -> Step:
    expected = Expected(state=VmState.RUNNING, host_id=source)
    return step(Verb.MIGRATE_LIVE, number, expected=expected, target_host_id=target, group=None)


@pytest.mark.parametrize(
    ("done", "live", "inverse"),
    [
        (step(Verb.SUSPEND), vm(state=VmState.SUSPENDED), Verb.RESUME),
        (step(Verb.STOP), vm(state=VmState.OFF), Verb.START),
        (step(Mark.MARK), vm(), Mark.UNMARK),
    ],
)
def test_every_step_that_was_done_has_its_inverse(done: Step, live: Vm, inverse: Verb | Mark) -> None:
    """From the state in which the VM is now."""
    (found,) = undo([action(done)], [live]).steps
    assert (found.verb, found.ref, found.expected.state, found.vm_id) == (inverse, ref(), live.state, done.vm_id)
    assert found.reason == f"Undoes {done.verb} of the run run-1."
    assert (found.figures, found.freed_vcpus, found.target_host_id) == ((), None, None)


@pytest.mark.parametrize(
    ("done", "live", "since", "stays"),
    [
        # Suspended, undone, and suspended again: the second suspension is another run's.
        (step(Verb.SUSPEND), vm(state=VmState.SUSPENDED), action(step(Verb.SUSPEND), action_id=9), True),
        (step(Verb.SUSPEND), vm(state=VmState.SUSPENDED), action(step(Verb.RESUME), action_id=9), True),
        (step(Verb.STOP), vm(state=VmState.OFF), action(step(Verb.START), action_id=9, outcome=None), True),
        (step(Mark.MARK), vm(), action(step(Mark.MARK), action_id=9), True),
        (step(Mark.MARK), vm(), action(step(Mark.NOTIFY), action_id=9), False),
        (step(Verb.SUSPEND), vm(state=VmState.SUSPENDED), action(step(Verb.RESUME), action_id=0), False),
        (step(Verb.SUSPEND), vm(state=VmState.SUSPENDED), action(step(Verb.SUSPEND, 2), action_id=9), False),
        (
            step(Verb.SUSPEND),
            vm(state=VmState.SUSPENDED),
            action(step(Verb.RESUME), action_id=9, outcome=Outcome.FAILED),
            False,
        ),
    ],
)
def test_what_another_run_did_since_is_not_undone(done: Step, live: Vm, since: Action, stays: bool) -> None:
    """A VM that is as the run left it by chance alone is somebody else's doing."""
    found = undo([action(done)], [live], later=[replace(since, run_id="run-2")])
    assert (not found.steps) is stays
    if stays:
        assert found.notes == (f"dev-1: {done.verb} is not undone: {since.step.verb} of the run run-2 came after it",)


def test_a_move_leads_back() -> None:
    """To the host it came from; several moves of one VM, one after the other."""
    (back,) = undo([action(move())], [vm(host_id="hv2")]).steps
    assert (back.verb, back.expected.host_id, back.target_host_id) == (Verb.MIGRATE_LIVE, "hv2", "hv1")
    both = undo([action(move()), action(move(source="hv2", target="hv3"))], [vm(host_id="hv3")])
    assert [(one.expected.host_id, one.target_host_id) for one in both.steps] == [("hv3", "hv2"), ("hv2", "hv1")]


def test_the_last_is_undone_first() -> None:
    """And numbered anew."""
    done = [action(step(number=number)) for number in (1, 2, 3)]
    found = undo(done, [vm(number, state=VmState.SUSPENDED) for number in (1, 2, 3)])
    assert [(one.number, one.ref) for one in found.steps] == [(1, ref(3)), (2, ref(2)), (3, ref(1))]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.SKIPPED])
def test_what_was_not_done_is_not_undone(outcome: Outcome) -> None:
    """It left nothing behind."""
    found = undo([action(step(), outcome)], [vm()])
    assert (found.steps, found.notes) == ((), ())


@pytest.mark.parametrize("outcome", [None, Outcome.UNKNOWN])
def test_what_nobody_knows_is_told_and_left(outcome: Outcome | None) -> None:
    """A person has to settle it first."""
    found = undo([action(step(), outcome)], [vm()])
    assert (found.steps, found.notes) == ((), ("what became of 1 action is not settled: not undone",))


@pytest.mark.parametrize(
    ("done", "live", "note"),
    [
        (step(), [vm()], "dev-1: suspend is not undone: it is running now, and was left suspended"),
        (step(), [], "dev-1: suspend is not undone: the VM was not found"),
        (step(Verb.STOP), [vm(state=VmState.SUSPENDED)], "dev-1: stop is not undone: it is suspended now"),
        (move(), [vm(host_id="hv7")], "dev-1: migrate-live is not undone: it is on hv7 now, and was left on hv2"),
        (step(Mark.MARK), [vm(state=VmState.SUSPENDED)], "dev-1: mark is not undone: it is suspended now"),
    ],
)
def test_what_is_not_as_the_run_left_it_is_told_and_left(done: Step, live: list[Vm], note: str) -> None:
    """Somebody else has dealt with it since."""
    found = undo([action(done)], live)
    assert found.steps == ()
    assert found.notes[0].startswith(note)


def test_a_mark_is_taken_off_a_vm_that_is_gone() -> None:
    """It is a line in our own records."""
    assert [one.verb for one in undo([action(step(Mark.MARK))], []).steps] == [Mark.UNMARK]


def test_a_notice_cannot_be_taken_back_and_a_waking_is_not() -> None:
    """An undo takes nothing: the stop of a VM is undone by a start, its waking not by a suspension."""
    asleep = Expected(state=VmState.SUSPENDED, host_id="hv1")
    run = [action(step(Mark.NOTIFY, 2)), action(step(Verb.RESUME, expected=asleep)), action(step(Verb.STOP))]
    found = undo(run, [vm(state=VmState.OFF), vm(2)])
    assert [one.verb for one in found.steps] == [Verb.START]
    assert found.notes == ()


@pytest.mark.parametrize(("state", "verb"), [(VmState.SUSPENDED, Verb.RESUME), (VmState.OFF, Verb.START)])
def test_a_vm_is_woken_from_where_it_is(state: VmState, verb: Verb) -> None:
    """With the memory it went to sleep with, if there is any."""
    found = plan_wake(vm(state=state, owner="ann"), now_s=NOW_S, made_by="ann", settings_sha256=SETTINGS_SHA256)
    (one,) = found.steps
    assert (found.kind, one.verb, one.expected.state, one.owner) == (PlanKind.WAKE, verb, state, "ann")


@pytest.mark.parametrize("state", [VmState.RUNNING, VmState.PAUSED, VmState.CHANGING, VmState.UNKNOWN])
def test_there_is_nothing_to_wake_in_other_states(state: VmState) -> None:
    """Said as a mistake of whoever asked."""
    with pytest.raises(ValueError, match=f"dev-1 is {state}: there is nothing to wake"):
        plan_wake(vm(state=state), now_s=NOW_S, made_by="ann", settings_sha256=SETTINGS_SHA256)
