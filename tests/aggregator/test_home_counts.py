"""When an aggregator counts which node is home of how many VMs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from aggregator.home_counts import RECOUNT_S, HomeCounts


class Counting:
    """What counts, and answers when it is told to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked: list[Deferred[Any]] = []
        self.told = 0
        self.error: Exception | None = None
        self.counts = HomeCounts(
            self.count, in_thread=self.in_thread, seconds=self.clock.seconds, on_counted=self.on_counted
        )

    def count(self) -> Mapping[str, int]:
        if self.error is not None:
            raise self.error
        return {"a": 1}

    def in_thread(self, _work: Callable[[], Any]) -> Deferred[Any]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def on_counted(self) -> None:
        self.told += 1

    def look_and_answer(self, homes: Mapping[str, int]) -> None:
        self.counts.look(is_needed=True)
        self.asked[-1].callback(homes)


def test_nothing_is_counted_while_keys_agree() -> None:
    """A million summaries are not read for nothing, and what was counted once is not known for ever."""
    counting = Counting()
    counting.counts.look(is_needed=False)
    assert (counting.asked, counting.counts.known) == ([], None)
    counting.look_and_answer({"a": 1})
    assert counting.counts.known == {"a": 1}
    counting.counts.look(is_needed=False)
    assert counting.counts.known is None


def test_counts_are_taken_now_and_then() -> None:
    """One at a time, and not at every beat; only news is told."""
    counting = Counting()
    counting.counts.look(is_needed=True)
    counting.clock.advance(RECOUNT_S)
    counting.counts.look(is_needed=True)
    assert len(counting.asked) == 1
    counting.asked[0].callback({"a": 1})
    for homes, told in (({"a": 1}, 1), ({"a": 2}, 2)):
        counting.look_and_answer(homes)
        assert (counting.counts.known, counting.told) == (homes, told)
        counting.counts.look(is_needed=True)
        counting.clock.advance(RECOUNT_S)
    assert len(counting.asked) == 3


def test_what_comes_too_late_is_not_taken() -> None:
    """Keys agree again: the next difference has its own count."""
    counting = Counting()
    counting.counts.look(is_needed=True)
    counting.counts.look(is_needed=False)
    counting.asked[0].callback({"a": 1})
    assert (counting.counts.known, counting.told) == (None, 0)


def test_a_start_does_not_fail_for_a_count() -> None:
    """The next look asks again."""
    counting = Counting()
    counting.error = sa.exc.OperationalError("SELECT", {}, Exception("canceling statement due to timeout"))
    counting.counts.count_now()
    assert counting.counts.known is None
    counting.look_and_answer({"a": 1})
    assert counting.counts.known == {"a": 1}


def test_a_count_that_fails_is_tried_again() -> None:
    """What was known stays known meanwhile."""
    counting = Counting()
    counting.counts.count_now()
    counting.clock.advance(RECOUNT_S)
    counting.counts.look(is_needed=True)
    counting.asked[0].errback(sa.exc.OperationalError("SELECT", {}, Exception("away")))
    assert counting.counts.known == {"a": 1}
    counting.clock.advance(RECOUNT_S)
    counting.look_and_answer({"b": 1})
    assert counting.counts.known == {"b": 1}
