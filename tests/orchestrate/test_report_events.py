"""What the report is told of a run: what was given back or taken for certain, and nothing else."""

from __future__ import annotations

import pytest

from orchestrate.driver import Verb
from orchestrate.inventory import VmRef, VmState
from orchestrate.plan import INVERSE, Expected, Mark, PlanKind, Step
from orchestrate.records import Action, Outcome
from orchestrate.report_events import events_of
from reports.events import EventKind


def action(verb: Verb | Mark, outcome: Outcome | None = Outcome.DONE, vm_id: str | None = "vm-a") -> Action:
    step = Step(
        number=1,
        verb=verb,
        ref=VmRef("lab", "u"),
        name="web",
        vm_id=vm_id,
        owner="ann",
        expected=Expected(state=VmState.RUNNING, host_id="h1"),
        target_host_id="h2" if isinstance(verb, Verb) and verb.is_migration else None,
        inverse=INVERSE[verb],
        reason="It is idle.",
        freed_vcpus=4.0,
    )
    settled_s = None if outcome is None else 20.0
    return Action(action_id=1, run_id="r", step=step, begun_s=10.0, lease_token=1, outcome=outcome, settled_s=settled_s)


@pytest.mark.parametrize(
    ("verb", "kind", "event"),
    [
        (Verb.SUSPEND, PlanKind.RECLAIM, EventKind.RECLAIMED),
        (Verb.STOP, PlanKind.RECLAIM, EventKind.RECLAIMED),
        (Verb.RESUME, PlanKind.UNDO, EventKind.RETURNED),
        (Verb.START, PlanKind.WAKE, EventKind.RETURNED),
    ],
)
def test_what_was_done_is_told_with_what_it_freed(verb: Verb, kind: PlanKind, event: EventKind) -> None:
    """When it was settled, by whom, why and how much."""
    (found,) = events_of([action(verb)], kind=kind, by="ann")
    assert (found.kind, found.vm_id, found.at_s, found.by) == (event, "vm-a", 20.0, "ann")
    assert (found.reason, found.vcpus, found.mem_bytes) == ("It is idle.", 4.0, None)


@pytest.mark.parametrize("outcome", [None, Outcome.SKIPPED, Outcome.FAILED, Outcome.UNKNOWN])
def test_what_is_not_known_to_be_done_is_not_told(outcome: Outcome | None) -> None:
    """A figure of what was realised must not rest on hope."""
    assert list(events_of([action(Verb.SUSPEND, outcome)], kind=PlanKind.RECLAIM, by="ann")) == []


def test_a_vm_that_is_woken_to_be_stopped_is_not_returned() -> None:
    """Nobody has it back for that moment."""
    found = events_of([action(Verb.RESUME), action(Verb.STOP)], kind=PlanKind.RECLAIM, by="ann")
    assert [event.kind for event in found] == [EventKind.RECLAIMED]


@pytest.mark.parametrize("verb", [Mark.MARK, Mark.UNMARK, Mark.NOTIFY, Verb.MIGRATE_LIVE])
def test_marks_and_moves_give_nothing_back(verb: Verb | Mark) -> None:
    """Nor does what has no agent have a page in the report."""
    assert list(events_of([action(verb)], kind=PlanKind.RELIEF, by="ann")) == []
    assert list(events_of([action(Verb.SUSPEND, vm_id=None)], kind=PlanKind.RECLAIM, by="ann")) == []
