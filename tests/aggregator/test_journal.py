"""The journal as its callers see it: group commit, order, health, and what survives."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.journal import Journal, JournalError
from aggregator.journal_files import Files
from aggregator.journal_format import MAX_PAYLOAD_BYTES, RECORD_HEAD_BYTES
from tests.aggregator.journal_fakes import DIRECTORY, MemoryFiles, QueueReactor


class Harness:
    """A journal with its reactor, and everything that was acknowledged or refused, in order."""

    def __init__(self, files: Files, *, directory: Path = DIRECTORY, segment_bytes: int = 1 << 20) -> None:
        self.reactor = QueueReactor()
        self.commits: list[tuple[float, int, int]] = []
        self.journal = Journal(
            directory,
            reactor=self.reactor,
            segment_bytes=segment_bytes,
            files=files,
            on_commit=lambda *commit: self.commits.append(commit),
        )
        self.recovery = self.journal.open()
        self.events: list[object] = []
        self.threads: set[int] = set()

    def start(self) -> Harness:
        self.journal.start()
        return self

    def append(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.journal.append(payload, self._noting(payload))

    def rotate(self) -> None:
        self.journal.rotate(lambda closed: self.events.append(("closed", closed)))

    def settle(self, count: int) -> list[object]:
        """Runs the reactor until `count` events are there."""
        self.reactor.run_until(lambda: len(self.events) >= count)
        return self.events

    def stop(self) -> None:
        stopped: list[None] = []
        self.journal.stop().addCallback(stopped.append)
        self.reactor.run_until(lambda: stopped)

    def replayed(self) -> list[bytes]:
        return [body for number in self.recovery.segments for body in self.journal.replay(number)]

    def _noting(self, payload: bytes) -> Callable[[JournalError | None], None]:
        def done(error: JournalError | None) -> None:
            self.threads.add(threading.get_ident())
            self.events.append(payload if error is None else (payload, str(error)))

        return done


def recovered(files: MemoryFiles) -> list[bytes]:
    return Harness(MemoryFiles(files.contents())).replayed()


@pytest.fixture(name="files")
def memory_files() -> MemoryFiles:
    return MemoryFiles()


@pytest.fixture(name="harness")
def running_journal(files: MemoryFiles) -> Iterator[Harness]:
    harness = Harness(files).start()
    yield harness
    files.sync_gate.set()
    harness.stop()


def test_many_appends_share_one_sync(files: MemoryFiles, harness: Harness) -> None:
    """What is appended in one turn of the reactor is one commit, one sync and one wake of the reactor."""
    syncs, wakes = files.calls["fdatasync"], harness.reactor.wakes
    bodies = [b"%d" % n for n in range(500)]
    harness.append(*bodies)
    assert harness.events == []
    assert harness.settle(500) == bodies
    assert files.calls["fdatasync"] == syncs + 1
    # One to hand the group over, one to bring its outcome.
    assert harness.reactor.wakes == wakes + 2
    assert harness.threads == {threading.get_ident()}


def test_nothing_is_acknowledged_before_it_is_synced(files: MemoryFiles, harness: Harness) -> None:
    """While a sync takes its time nothing is acknowledged, the next group gathers, and the reactor is free."""
    files.syncing.clear()
    files.sync_gate.clear()
    harness.append(b"slow")
    harness.reactor.run_until(lambda: files.syncing.wait(0.01))
    harness.append(b"next", b"one more")
    assert harness.events == []
    assert harness.journal.queued_bytes == len(b"slownextone more") + 3 * RECORD_HEAD_BYTES
    syncs = files.calls["fdatasync"]
    files.sync_gate.set()
    assert harness.settle(3) == [b"slow", b"next", b"one more"]
    assert files.calls["fdatasync"] == syncs + 2
    assert harness.journal.queued_bytes == 0


def test_counters_and_the_commit_callback_agree(harness: Harness) -> None:
    """Each durable group is reported once, with its time, its records and its bytes, heads included."""
    harness.append(b"abc", b"")
    harness.settle(2)
    harness.append(b"d")
    harness.settle(3)
    counters = harness.journal.counters
    assert [commit[1:] for commit in harness.commits] == [(2, 3 + 2 * RECORD_HEAD_BYTES), (1, 1 + RECORD_HEAD_BYTES)]
    assert all(commit[0] >= 0 for commit in harness.commits)
    assert (counters.commits, counters.records, counters.record_bytes) == (2, 3, 4 + 3 * RECORD_HEAD_BYTES)
    assert counters.commit_s == pytest.approx(sum(commit[0] for commit in harness.commits))
    assert counters.failed_commits == 0


def test_rotate_comes_after_every_earlier_append(harness: Harness) -> None:
    """A rotation is told between the appends before and after it, with the segment that holds the former."""
    harness.append(b"a", b"b")
    harness.rotate()
    harness.append(b"c")
    harness.rotate()
    harness.rotate()
    harness.append(b"d")
    assert harness.settle(7) == [b"a", b"b", ("closed", 1), b"c", ("closed", 2), ("closed", 3), b"d"]
    assert list(harness.journal.replay(1)) == [b"a", b"b"]
    assert list(harness.journal.replay(2)) == [b"c"]


def test_dropping_what_a_rotation_closed_keeps_the_rest(files: MemoryFiles, harness: Harness) -> None:
    """After drop_through(closed) exactly the records since the rotation are left to replay."""
    harness.append(b"stored")
    harness.rotate()
    harness.append(b"kept")
    harness.settle(3)
    bytes_before = harness.journal.bytes_on_disk
    harness.journal.drop_through(1)
    harness.append(b"kept too")
    harness.settle(4)
    assert recovered(files) == [b"kept", b"kept too"]
    assert harness.journal.bytes_on_disk == sum(map(len, files.contents().values())) < bytes_before + 40


def test_a_failed_drop_is_counted_and_harms_nothing(files: MemoryFiles, harness: Harness) -> None:
    """A segment that cannot be deleted is counted; the journal stays healthy and the next call deletes it."""
    harness.rotate()
    files.faults["unlink", 1] = errno.EIO
    harness.settle(1)
    harness.journal.drop_through(1)
    harness.append(b"a")
    harness.settle(2)
    assert harness.journal.counters.failed_drops == 1
    assert harness.journal.healthy
    assert len(files.contents()) == 2
    harness.journal.drop_through(1)
    harness.append(b"b")
    harness.settle(3)
    assert len(files.contents()) == 1


def test_fault_9_a_full_disk_refuses_and_recovers_with_the_next_append(files: MemoryFiles, harness: Harness) -> None:
    """ENOSPC fails the group with the reason and makes the journal unhealthy; with room the next append is durable."""
    harness.append(b"before")
    harness.settle(1)
    files.capacity_bytes = sum(map(len, files.contents().values()))
    harness.append(b"one", b"two")
    harness.settle(3)
    journal = harness.journal
    for body, refused in zip((b"one", b"two"), harness.events[1:], strict=True):
        assert isinstance(refused, tuple)
        assert refused[0] == body
        assert "No space left" in refused[1]
    assert not journal.healthy
    assert "No space left" in str(journal.unhealthy_reason)
    assert (journal.counters.failed_commits, journal.counters.failed_records, journal.queued_bytes) == (1, 2, 0)
    files.capacity_bytes = None
    harness.append(b"after")
    assert harness.settle(4)[3] == b"after"
    assert journal.healthy
    assert journal.unhealthy_reason is None
    assert recovered(files) == [b"before", b"after"]


def test_a_probe_finds_out_that_there_is_room_again(files: MemoryFiles, harness: Harness) -> None:
    """Without a single append an unhealthy journal recovers by its probe, and stays unhealthy until there is room."""
    files.capacity_bytes = 0
    harness.append(b"refused")
    harness.settle(1)
    harness.journal.probe()
    harness.journal.probe()
    harness.rotate()
    harness.settle(2)
    assert not harness.journal.healthy
    files.capacity_bytes = None
    harness.journal.probe()
    harness.reactor.run_until(lambda: harness.journal.healthy)
    harness.append(b"taken")
    assert harness.settle(3)[2] == b"taken"
    assert recovered(files) == [b"taken"]


def test_a_healthy_journal_is_not_probed(files: MemoryFiles, harness: Harness) -> None:
    """A probe of a healthy journal costs no write."""
    writes = files.calls["write"]
    harness.journal.probe()
    harness.rotate()
    harness.settle(1)
    assert files.calls["write"] == writes + 1  # the new segment's header


def test_fault_11_a_failed_sync_is_never_acknowledged_nor_repeated(files: MemoryFiles, harness: Harness) -> None:
    """EIO at fdatasync fails the group; the next goes to another file, and all that was acknowledged is there."""
    harness.append(b"before")
    harness.settle(1)
    files.faults["fdatasync", files.calls["fdatasync"] + 1] = errno.EIO
    harness.append(b"lost")
    harness.settle(2)
    assert "cannot be synced" in str(harness.journal.unhealthy_reason)
    harness.append(b"after")
    assert harness.settle(3)[2] == b"after"
    assert harness.journal.healthy
    assert files.synced_again == []
    assert Harness(files.power_cut(lambda n: 0)).replayed() == [b"before", b"after"]


def test_a_rotation_that_finds_no_room_still_tells_what_is_closed(files: MemoryFiles, harness: Harness) -> None:
    """The full segment can be dropped although no new one could be opened, and that brings the journal back."""
    harness.append(b"stored")
    harness.settle(1)
    files.capacity_bytes = sum(map(len, files.contents().values()))
    harness.rotate()
    closed = harness.settle(2)[1]
    assert isinstance(closed, tuple)
    assert closed[1] >= 1
    assert not harness.journal.healthy
    harness.journal.drop_through(closed[1])
    harness.append(b"room")
    assert harness.settle(3)[2] == b"room"
    assert harness.journal.healthy
    assert recovered(files) == [b"room"]


def test_a_record_that_is_too_long_is_refused_alone(harness: Harness) -> None:
    """More than 2 MiB fails that append, not within the call and not its neighbours; the journal stays healthy."""
    harness.append(b"small", bytes(MAX_PAYLOAD_BYTES + 1), bytes(MAX_PAYLOAD_BYTES))
    assert harness.events == []
    events = harness.settle(3)
    refused = [event for event in events if isinstance(event, tuple)]
    assert len(refused) == 1
    assert "longer than 2097152" in refused[0][1]
    assert harness.journal.healthy
    assert harness.journal.queued_bytes == 0


def test_a_callback_that_fails_harms_no_other(harness: Harness) -> None:
    """An exception in one `done` is counted; the others of the group are called, and the journal goes on."""

    def broken(_: object) -> None:
        raise ZeroDivisionError

    harness.append(b"a")
    harness.journal.append(b"broken", broken)
    harness.append(b"b")
    harness.journal.rotate(broken)
    harness.append(b"c")
    assert harness.settle(3) == [b"a", b"b", b"c"]
    assert harness.journal.counters.failed_callbacks == 2
    assert harness.journal.counters.records == 4


def test_an_append_from_a_callback_joins_the_next_group(harness: Harness) -> None:
    """`done` may append: that record is acknowledged by a commit of its own, never by the one it came from."""
    harness.journal.append(b"first", lambda _: harness.append(b"second"))
    assert harness.settle(1) == [b"second"]
    assert [commit[1] for commit in harness.commits] == [1, 1]


def test_a_bug_below_fails_the_group_and_not_the_thread() -> None:
    """An exception nobody foresaw refuses its group, and the next group is durable in another segment."""

    class Buggy(MemoryFiles):
        def fdatasync(self, descriptor: int) -> None:
            if self.calls["fdatasync"] == 1:
                self.calls["fdatasync"] += 1
                raise ZeroDivisionError("unforeseen")
            super().fdatasync(descriptor)

    files = Buggy()
    harness = Harness(files).start()
    harness.append(b"refused")
    harness.settle(1)
    assert harness.events == [(b"refused", "unexpected: ZeroDivisionError('unforeseen')")]
    assert not harness.journal.healthy
    harness.append(b"taken")
    assert harness.settle(2)[1] == b"taken"
    harness.stop()
    assert b"taken" in files.contents()[DIRECTORY / "00000002.seg"]


def test_stop_commits_what_is_queued(files: MemoryFiles) -> None:
    """Stopping acknowledges every earlier append, then ends the thread and closes the file; twice is once."""
    harness = Harness(files).start()
    harness.append(b"a")
    harness.rotate()
    harness.append(b"b")
    harness.stop()
    assert harness.events == [b"a", ("closed", 1), b"b"]
    assert files.open_files == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "journal"]
    harness.stop()
    assert recovered(files) == [b"a", b"b"]


def test_after_stop_everything_is_refused(files: MemoryFiles) -> None:
    """A stopped journal fails appends, closes nothing, deletes nothing, and says so on the reactor thread."""
    harness = Harness(files).start()
    harness.stop()
    before = files.contents()
    harness.append(b"late")
    harness.rotate()
    harness.journal.drop_through(1)
    harness.journal.probe()
    assert harness.settle(2) == [(b"late", "the journal is stopped"), ("closed", 0)]
    assert files.contents() == before


def test_a_journal_that_never_started_refuses_what_it_was_given(files: MemoryFiles) -> None:
    """Appends before start wait; without a start, stop fails each of them and closes the file."""
    harness = Harness(files)
    harness.append(b"a")
    harness.rotate()
    harness.append(b"b")
    harness.stop()
    refused = "the journal is stopped"
    assert harness.events == [(b"a", refused), ("closed", 0), (b"b", refused)]
    assert files.open_files == 0
    assert harness.journal.queued_bytes == 0


def test_appends_before_start_are_committed_by_it(files: MemoryFiles) -> None:
    """What came before start is one group, durable as soon as the thread runs."""
    harness = Harness(files)
    harness.append(b"early", b"bird")
    assert harness.start().settle(2) == [b"early", b"bird"]
    harness.stop()
    assert recovered(files) == [b"early", b"bird"]


def test_replay_and_appends_go_on_side_by_side(files: MemoryFiles) -> None:
    """Old segments are replayed while new records come, and may be dropped while they are read."""
    first = Harness(files).start()
    first.append(b"old", b"older")
    first.stop()
    harness = Harness(files).start()
    replay = harness.journal.replay(harness.recovery.segments[0])
    assert next(replay) == b"old"
    harness.append(b"new")
    harness.rotate()
    harness.settle(2)
    harness.journal.drop_through(1)
    harness.rotate()
    harness.settle(3)
    assert list(replay) == [b"older"]
    harness.stop()
    assert recovered(files) == [b"new"]


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(st.binary(max_size=30), st.sampled_from(["rotate", "settle", "restart"])), min_size=1, max_size=25
    ),
    st.data(),
)
def test_a_crash_at_any_moment_keeps_what_was_acknowledged(todo: list[bytes | str], data: st.DataObject) -> None:
    """Fault 1: appends, rotations and crashes in any order recover a prefix that holds all that was acknowledged.

    A crash is a copy of the files while the journal thread runs, its last segment cut back to any byte that no
    acknowledged record needs.
    """
    files = MemoryFiles()
    harness = Harness(files, segment_bytes=100).start()
    appended: list[bytes] = []
    pending = 0
    for number, step in enumerate([*todo, "restart"]):
        if isinstance(step, bytes):
            appended.append(b"%d %b" % (number, step))
            harness.append(appended[-1])
            pending += 1
        elif step == "rotate":
            harness.rotate()
            pending += 1
        elif step == "settle":
            harness.settle(pending)
        else:
            acknowledged = len(appended) - sum(1 for _ in _unacknowledged(appended, harness.events))
            left = files.power_cut(lambda n: data.draw(st.integers(0, n)))
            harness.stop()
            files = left
            harness = Harness(files, segment_bytes=100)
            found = harness.replayed()
            assert found == appended[: len(found)]
            assert len(found) >= acknowledged
            assert harness.recovery.damaged_records == 0
            harness.start()
            # What was not acknowledged is lost to its sender, who sends it anew: as a new record here.
            appended = list(found)
            harness.events += found
            pending = len(found)
    harness.stop()


def _unacknowledged(appended: list[bytes], events: list[object]) -> Iterator[bytes]:
    told = {event for event in events if isinstance(event, bytes)}
    return (body for body in appended if body not in told)
