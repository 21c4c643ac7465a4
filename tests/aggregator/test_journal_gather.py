"""Gathering: under load the next group waits a moment for more records; nobody waits for it who is done."""

from __future__ import annotations

import threading
from pathlib import Path

from aggregator.journal import Journal, JournalError
from tests.aggregator.journal_fakes import MemoryFiles, QueueReactor


def test_the_next_group_gathers_while_the_last_one_is_answered(tmp_path: Path) -> None:
    """A group's callers hear before the pause; what comes during it becomes one group, after it."""
    reactor = QueueReactor()
    paused: list[float] = []
    groups: list[int] = []
    resume = threading.Event()

    def pause(seconds: float) -> None:
        paused.append(seconds)
        resume.wait(60)

    journal = Journal(
        tmp_path,
        reactor=reactor,
        files=MemoryFiles(),
        gather_s=5.0,
        on_commit=lambda _seconds, records, _bytes: groups.append(records),
        monotonic_s=lambda: 0.0,
        pause=pause,
    )
    journal.open()
    journal.start()
    answered: list[JournalError | None] = []
    journal.append(b"first", answered.append)
    reactor.run_until(lambda: answered)
    for _ in range(3):
        journal.append(b"later", answered.append)
    assert (answered, groups) == ([None], [1])
    resume.set()
    reactor.run_until(lambda: len(answered) == 4)
    assert (groups, paused[0]) == ([1, 3], 5.0)
    stopped = journal.stop()
    reactor.run_until(lambda: stopped.called)


def test_a_wait_that_fails_ends_nothing(tmp_path: Path) -> None:
    """The journal's only thread goes on: the next record is answered too, and so is the end."""
    reactor = QueueReactor()

    def pause(_seconds: float) -> None:
        raise OSError(22, "Invalid argument")

    journal = Journal(
        tmp_path, reactor=reactor, files=MemoryFiles(), gather_s=5.0, monotonic_s=lambda: 0.0, pause=pause
    )
    journal.open()
    journal.start()
    answered: list[JournalError | None] = []
    journal.append(b"record", answered.append)
    reactor.run_until(lambda: len(answered) == 1)
    journal.append(b"record", answered.append)
    reactor.run_until(lambda: len(answered) == 2)
    assert answered == [None, None]
    assert journal.healthy
    stopped = journal.stop()
    reactor.run_until(lambda: stopped.called)
