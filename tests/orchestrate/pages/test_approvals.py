"""How far a plan has come, as people are told: never more than the guards would let be done."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrate.approvals import Hindrance, NotApprovable, Standing, State, check_approvable, need_words, standing_of
from orchestrate.driver import Verb
from orchestrate.plan import Mark, Plan, PlanKind
from orchestrate.records import Approval, Run
from orchestrate.refusal import Rule
from tests.orchestrate.test_guards import of_plan
from tests.orchestrate.worlds import NOW_S, SETTINGS, plan, step, world

SUSPEND, MARK = plan(step(Verb.SUSPEND)), plan(step(Mark.MARK))
NAMES = ("ann", "ben", "eve", "joe")
APPROVALS = st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=5, unique_by=lambda one: one[0])


def given_by(of: Plan, people: list[tuple[str, bool]]) -> list[Approval]:
    """Args: people: names, and whether they logged in."""
    return [
        Approval(plan_sha256=of.sha256, by=by, at_s=NOW_S, account=by if checked else None) for by, checked in people
    ]


def standing(of: Plan, *people: tuple[str, bool], above: int | None = 0, run: Run | None = None) -> Standing:
    return standing_of(of, given_by(of, list(people)), [run] if run else [], run, above=above)


@given(asked=st.sampled_from([SUSPEND, MARK]), people=APPROVALS, above=st.sampled_from([None, 0, 1]))
def test_what_is_called_approved_is_what_the_guards_let_pass(
    asked: Plan, people: list[tuple[str, bool]], above: int | None
) -> None:
    """Whoever approved, logged in or not, and whatever the threshold is: both say the same."""
    known = given_by(asked, people)
    refused = Rule.BY_DEFAULT in of_plan(world(), asked, replace(SETTINGS, two_persons_above=above), approvals=known)
    assert standing_of(asked, known, (), None, above=above).is_approved is not refused


@given(people=APPROVALS)
def test_whoever_made_it_never_counts_where_two_are_needed(people: list[tuple[str, bool]]) -> None:
    """Nor does a name that nobody checked; everybody counts once."""
    counting = standing(SUSPEND, *people).counting
    assert SUSPEND.made_by not in counting
    assert set(counting) <= {by for by, checked in people if checked}
    assert len(counting) == len(set(counting))


def test_each_state_has_its_words() -> None:
    """From waiting to applied, and what needs nobody."""
    run = Run(run_id="1", plan_sha256=SUSPEND.sha256, kind="reclaim", by="ann", begun_s=NOW_S)
    ben, eve = ("ben", True), ("eve", True)
    undo = replace(SUSPEND, kind=PlanKind.UNDO)
    for found, state in (
        (standing(SUSPEND), State.WAITING),
        (standing(SUSPEND, ("ben", False)), State.WAITING),
        (standing(SUSPEND, ben), State.ONE_OF_TWO),
        (standing(SUSPEND, ben, eve), State.APPROVED),
        (standing(SUSPEND, ("ben", False), above=None), State.APPROVED),
        (standing(SUSPEND, ben, eve, run=run), State.UNDER_WAY),
        (standing(SUSPEND, ben, eve, run=replace(run, ended_s=NOW_S)), State.APPLIED),
        (standing(undo), State.NEEDS_NONE),
    ):
        assert found.state(NOW_S) is state
        assert need_words(found).endswith(".")
    assert standing(SUSPEND, ben, eve).state(SUSPEND.expires_s) is State.EXPIRED


@pytest.mark.parametrize(
    ("by", "found", "hindrance"),
    [
        (SUSPEND.made_by, standing(SUSPEND), Hindrance.OWN_PLAN),
        (SUSPEND.made_by.upper(), standing(SUSPEND), Hindrance.OWN_PLAN),
        ("ben", standing(replace(SUSPEND, kind=PlanKind.WAKE)), Hindrance.NEEDS_NONE),
        ("ben", standing(replace(SUSPEND, expires_s=NOW_S)), Hindrance.EXPIRED),
    ],
)
def test_a_yes_that_cannot_be_taken(by: str, found: Standing, hindrance: Hindrance) -> None:
    """Each says which it is."""
    with pytest.raises(NotApprovable) as caught:
        check_approvable(found, by, now_s=NOW_S)
    assert caught.value.hindrance is hindrance
    check_approvable(standing(SUSPEND), "ben", now_s=NOW_S)


def test_whatever_an_approver_sees_changes_the_fingerprint() -> None:
    """The plan, an approval, a run, the threshold and the kill switch: each makes a page stale."""
    run = Run(run_id="1", plan_sha256=SUSPEND.sha256, kind="reclaim", by="ann", begun_s=NOW_S)
    seen = [
        standing(SUSPEND).fingerprint(None),
        standing(replace(SUSPEND, made_s=NOW_S + 1)).fingerprint(None),
        standing(SUSPEND, ("ben", True)).fingerprint(None),
        standing(SUSPEND, ("ben", False)).fingerprint(None),
        standing(SUSPEND, run=run).fingerprint(None),
        standing(SUSPEND, above=None).fingerprint(None),
        standing(SUSPEND).fingerprint("STOP is there"),
        standing(SUSPEND).fingerprint("STOP is there: for another reason"),
    ]
    assert len(set(seen)) == len(seen)
    assert standing(SUSPEND).fingerprint(None) == seen[0]
