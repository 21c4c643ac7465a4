"""Gathering: under load the next group waits a moment for more records; nobody waits for it who is done."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

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


def test_what_is_appended_together_is_one_group_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """One group goes to the disk when the work ends, woken for once; whoever comes next need not gather again."""
    reactor = QueueReactor()
    paused: list[float] = []
    groups: list[int] = []
    journal = Journal(
        tmp_path,
        reactor=reactor,
        files=MemoryFiles(),
        gather_s=5.0,
        on_commit=lambda _seconds, records, _bytes: groups.append(records),
        monotonic_s=lambda: 0.0,
        pause=paused.append,
    )
    journal.open()
    journal.start()
    answered: list[JournalError | None] = []

    def work() -> None:
        for _ in range(3):
            journal.append(b"record", answered.append)

    before = reactor.wakes
    journal.together(work)
    assert answered == []
    reactor.run_until(lambda: len(answered) == 3)
    assert (groups, paused, reactor.wakes - before) == ([3], [], 1)
    journal.append(b"by itself", answered.append)
    reactor.run_until(lambda: len(answered) == 4)
    assert (groups, paused) == ([3, 1], [5.0])
    stopped = journal.stop()
    reactor.run_until(lambda: stopped.called)


def test_work_that_fails_half_way_still_has_its_records_written(tmp_path: Path) -> None:
    """What was appended before the failure is made durable, and the failure is its caller's; also while a group is
    under way, and where the work appends nothing."""
    reactor = QueueReactor()
    files = MemoryFiles()
    journal = Journal(tmp_path, reactor=reactor, files=files)
    journal.open()
    journal.start()
    answered: list[JournalError | None] = []

    def work() -> None:
        journal.append(b"record", answered.append)
        raise ValueError("a bug")

    files.sync_gate.clear()
    for _ in range(2):
        with pytest.raises(ValueError, match="a bug"):
            journal.together(work)
    journal.together(lambda: None)
    files.sync_gate.set()
    reactor.run_until(lambda: len(answered) == 2)
    assert answered == [None, None]
    stopped = journal.stop()
    reactor.run_until(lambda: stopped.called)
