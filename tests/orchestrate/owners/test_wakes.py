"""Wishes of owners: one at a time for each VM, and the time to the guest's next sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from aggregator.admin_client import AdminUnavailable
from orchestrate.inventory import VmRef
from orchestrate.live_source import LiveVm
from orchestrate.owners.wakes import UNDER_WAY, Wakes, WakeState, time_to_sample
from tests.orchestrate.fakes import NOW_S, Clock, ref

BEFORE = LiveVm(received_s=NOW_S - 600, newest_s=NOW_S - 605, skew_s=0.0, flags=(), boot="b", minutes=())


def test_a_vm_is_woken_once_at_a_time() -> None:
    """Whoever asks while it is under way is told of that; after its end it is a new wish."""
    wakes = Wakes()
    first = wakes.ask(ref(), "agent-1", now_s=NOW_S)
    assert wakes.ask(ref(), "agent-1", now_s=NOW_S + 1) == first
    taken = wakes.take()
    assert taken == replace(first, state=WakeState.WAKING)
    assert not wakes.has_waiting()
    for state in UNDER_WAY:
        wakes.put(replace(first, state=state))
        assert wakes.ask(ref(), "agent-1", now_s=NOW_S + 2).asked_s == NOW_S
    wakes.put(replace(first, state=WakeState.FAILED))
    assert wakes.ask(ref(), "agent-1", now_s=NOW_S + 3).asked_s == NOW_S + 3


def test_the_oldest_comes_first() -> None:
    """In the order in which owners asked, and words of a delay change that not."""
    wakes = Wakes()
    for number in (2, 1, 3):
        wakes.ask(ref(number), f"agent-{number}", now_s=NOW_S + number)
    wakes.postpone("later")
    assert {wake.words for number in (1, 2, 3) if (wake := wakes.find(ref(number)))} == {"later"}
    taken = [wake.ref for _ in range(3) if (wake := wakes.take()) is not None]
    assert taken == [ref(1), ref(2), ref(3)]
    assert wakes.take() is None


def test_memory_does_not_grow_for_ever() -> None:
    """What has ended is forgotten, the oldest first; what is under way is not."""
    wakes = Wakes()
    waits = wakes.ask(VmRef("lab", "first"), "first", now_s=NOW_S)
    for number in range(1_500):
        wake = wakes.ask(ref(number), str(number), now_s=NOW_S)
        wakes.put(replace(wake, state=WakeState.FAILED))
    assert wakes.find(waits.ref) == waits
    assert wakes.find(ref(0)) is None
    assert wakes.find(ref(1_499)) is not None


def reading(clock: Clock, *answers: LiveVm | Exception | None) -> Callable[[], LiveVm | None]:
    """Each look finds the next of these, and the last for ever."""
    left = list(answers)

    def read() -> LiveVm | None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return read


def waited(before: LiveVm | None, *answers: LiveVm | Exception | None, within_s: float = 60.0) -> float | None:
    clock = Clock()
    return time_to_sample(
        reading(clock, *answers), before, asked_s=NOW_S - 2, clock=clock, pause=clock.advance, within_s=within_s
    )


def test_the_time_runs_from_the_call() -> None:
    """To the look that finds a newer sample in a newer push."""
    news = replace(BEFORE, received_s=NOW_S + 3, newest_s=NOW_S)
    assert waited(BEFORE, BEFORE, BEFORE, BEFORE, news) == pytest.approx(5.0)


def test_a_guest_whose_clock_stood_still_is_heard_too() -> None:
    """Its sample is newer than its last one, and long past by every other clock."""
    assert waited(BEFORE, replace(BEFORE, received_s=NOW_S + 1, newest_s=BEFORE.newest_s and BEFORE.newest_s + 60)) == 2


@pytest.mark.parametrize(
    "old",
    [
        BEFORE,
        replace(BEFORE, received_s=NOW_S + 1),
        replace(BEFORE, newest_s=NOW_S),
        replace(BEFORE, received_s=NOW_S + 1, newest_s=None),
        None,
        AdminUnavailable("away"),
    ],
)
def test_what_is_no_news_is_waited_past(old: LiveVm | Exception | None) -> None:
    """An old sample sent again, a push without one, no answer: none of them is a sign of life."""
    assert waited(BEFORE, old) is None


def test_where_nothing_was_known_before_a_push_after_the_call_counts() -> None:
    """And one from before it does not."""
    assert waited(None, BEFORE) is None
    assert waited(None, BEFORE, replace(BEFORE, received_s=NOW_S + 1)) == pytest.approx(3.0)


def test_nobody_waits_for_a_program_that_ends() -> None:
    """The wait is over at once."""
    clock = Clock()
    read = reading(clock, None)
    assert time_to_sample(read, None, asked_s=NOW_S, clock=clock, pause=clock.advance, is_over=lambda: True) is None
    assert clock.now_s == NOW_S
