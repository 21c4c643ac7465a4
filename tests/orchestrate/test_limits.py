"""Limits count what takes something from people, and name what is exceeded."""

from __future__ import annotations

import pytest

from orchestrate.driver import Verb
from orchestrate.inventory import VmState
from orchestrate.limits import Limits, over_limits
from orchestrate.plan import Expected, Mark, Step
from orchestrate.records import Action, Outcome
from orchestrate.refusal import Rule
from tests.orchestrate.worlds import NOW_S, action, step

ROOMY = Limits(run=100, hour=100, host=100, owner=100)


def steps(count: int, *, host: str | None = None, owner: str | None = None) -> list[Step]:
    return [
        step(
            number=number,
            expected=Expected(state=VmState.RUNNING, host_id=host or f"hv{number}"),
            owner=owner or f"owner-{number}",
        )
        for number in range(1, count + 1)
    ]


def words(planned: list[Step], done: list[Action], limits: Limits) -> list[str]:
    found = over_limits(planned, done, limits, now_s=NOW_S)
    assert all(one.rule is Rule.OVER_LIMIT and one.ref is None for one in found)
    return [one.words.split(":")[0] for one in found]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(run=2, hour=100, host=100, owner=100), "3 actions in one run, and the limit is 2"),
        (Limits(run=100, hour=2, host=100, owner=100), "3 actions in one hour, and the limit is 2"),
        (
            Limits(run=100, hour=100, host=2, owner=100),
            "3 actions in one hour for the host hv1 of lab, and the limit is 2",
        ),
        (Limits(run=100, hour=100, host=100, owner=2), "3 actions in one hour for the owner ann, and the limit is 2"),
    ],
)
def test_each_limit_is_kept_and_named(limits: Limits, said: str) -> None:
    """At the limit nothing is said; one more, and the words name limit, count and the way out."""
    planned = steps(3, host="hv1", owner="ann")
    assert words(planned, [], limits) == [said]
    assert words(planned[:2], [], limits) == []
    assert "--top N or --vm" in over_limits(planned, [], limits, now_s=NOW_S)[0].words


def test_what_was_done_within_the_hour_counts() -> None:
    """Done, unknown and open actions do; failed and skipped ones, marks, wakings and older ones do not."""
    one = Limits(run=100, hour=1, host=100, owner=100)
    for outcome, over in [
        (Outcome.DONE, True),
        (Outcome.UNKNOWN, True),
        (None, True),
        (Outcome.FAILED, False),
        (Outcome.SKIPPED, False),
    ]:
        assert bool(words(steps(1), [action(step(), outcome)], one)) is over
    for harmless in (Mark.MARK, Mark.NOTIFY, Verb.RESUME, Verb.START):
        assert not words(steps(1), [action(step(harmless))], one)
    assert words(steps(1), [action(step(), ago_s=3599.0)], one)
    assert not words(steps(1), [action(step(), ago_s=3600.0)], one)


def test_a_clock_that_was_put_back_forgets_nothing() -> None:
    """An action of the future was done all the same."""
    assert words(steps(1), [action(step(), ago_s=-86_400.0)], Limits(run=9, hour=1, host=9, owner=9))


def test_marks_and_wakings_are_not_counted() -> None:
    """They take nothing from anybody."""
    harmless = [step(verb) for verb in (Mark.MARK, Mark.NOTIFY, Verb.RESUME)] * 9
    assert over_limits(harmless, [], Limits(run=0, hour=0, host=0, owner=0), now_s=NOW_S) == ()


def test_only_the_hosts_and_owners_of_the_plan_matter() -> None:
    """That somebody else's share is used up is no reason."""
    limits = Limits(run=9, hour=9, host=1, owner=1)
    elsewhere = action(step(expected=Expected(state=VmState.RUNNING, host_id="hv9"), owner="eve"))
    assert not words(steps(1), [elsewhere] * 3, limits)


def test_vms_of_unknown_owners_count_as_one_owners() -> None:
    """Nobody knows that they are not."""
    planned = [step(number=number, owner=None) for number in (1, 2)]
    limits = Limits(run=9, hour=9, host=9, owner=1)
    assert words(planned, [], limits) == ["2 actions in one hour for the owner an unknown owner, and the limit is 1"]


def test_all_that_is_exceeded_is_told_at_once() -> None:
    """A person mends everything in one go."""
    assert len(words(steps(3, host="hv1", owner="ann"), [], Limits(run=1, hour=1, host=1, owner=1))) == 4
    assert not words(steps(3, host="hv1", owner="ann"), [], ROOMY)
