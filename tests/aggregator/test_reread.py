"""A value is read again in a thread; what cannot be read stays, and only one reading is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from aggregator.reread import PATIENCE_S, Reread


class Threads:
    """Threads that answer when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[int]] = []
        self.told: list[int] = []
        self.now_s = 0.0
        self.one = self.make(self.told.append)

    def make(self, on_change: Callable[[int], object]) -> Reread[int]:
        return Reread("numbers", 0, lambda: 0, self.begin, seconds=lambda: self.now_s, on_change=on_change)

    def begin(self, _read: Callable[[], int]) -> Deferred[int]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def fail(self, number: int, text: str) -> None:
        self.waiting[number].errback(Failure(OSError(text)))  # type: ignore[no-untyped-call]


@pytest.fixture
def failures() -> Iterator[list[Failure]]:
    """Failures logged during the test."""
    found: list[Failure] = []

    def observe(event: LogEvent) -> None:
        if isinstance(failure := event.get("log_failure"), Failure):
            found.append(failure)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield found
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


def test_the_newest_value_counts() -> None:
    """Each reading that was asked for later replaces the one before, and whoever wants to know is told."""
    threads = Threads()
    for number in (1, 2):
        threads.one.refresh()
        threads.waiting[-1].callback(number)
    assert (threads.one.value, threads.told) == (2, [1, 2])


def test_one_reading_at_a_time() -> None:
    """However often it is asked for meanwhile, one more follows, begun after the last that asked."""
    threads = Threads()
    for _ in range(100):
        threads.one.refresh()
    assert len(threads.waiting) == 1
    threads.waiting[0].callback(1)
    assert (len(threads.waiting), threads.one.value) == (2, 1)
    threads.waiting[1].callback(2)
    assert (len(threads.waiting), threads.one.value, threads.told) == (2, 2, [1, 2])


def test_a_failure_does_not_end_the_readings() -> None:
    """What was asked for while a reading failed is read, and so is what is asked for later."""
    threads = Threads()
    threads.one.refresh()
    threads.one.refresh()
    threads.fail(0, "disk on fire")
    threads.waiting[1].callback(1)
    threads.one.refresh()
    threads.waiting[2].callback(2)
    assert (threads.one.value, threads.told) == (2, [1, 2])


def test_a_reading_that_hangs_is_not_waited_for() -> None:
    """A database that vanished mid-answer keeps no revocation out: another reading begins, and the old one is void."""
    threads = Threads()
    threads.one.refresh()
    threads.now_s = PATIENCE_S - 1
    threads.one.refresh()
    assert (len(threads.waiting), threads.one.trouble) == (1, None)
    threads.now_s = PATIENCE_S
    threads.one.refresh()
    assert (len(threads.waiting), threads.one.trouble) == (2, "no answer in 60 s")
    threads.waiting[1].callback(2)
    threads.fail(0, "timed out at last")
    assert (threads.one.value, threads.one.trouble, threads.told) == (2, None, [2])
    threads.one.refresh()
    assert len(threads.waiting) == 3


def test_one_who_cannot_take_it_does_not_end_the_readings(failures: list[Failure]) -> None:
    """A mistake of whoever is told is logged; the value counts, and the next one is told too."""
    threads = Threads()
    threads.one = threads.make(lambda value: threads.told.append(1 // (value - 1)))
    for number in (1, 2):
        threads.one.refresh()
        threads.waiting[-1].callback(number)
    assert (threads.one.value, threads.told) == (2, [1])
    assert [failure.type for failure in failures] == [ZeroDivisionError]


def test_what_cannot_be_read_stays_as_it_was() -> None:
    """The trouble is named until a reading goes well."""
    threads = Threads()
    threads.one.refresh()
    threads.waiting[0].callback(1)
    threads.one.refresh()
    threads.fail(1, "disk on fire")
    assert (threads.one.value, threads.one.trouble) == (1, "disk on fire")
    threads.one.refresh()
    threads.waiting[2].callback(2)
    assert (threads.one.value, threads.one.trouble) == (2, None)
