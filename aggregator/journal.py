"""The journal: what was acknowledged survives kill -9 and a power cut. `docs/journal.md`.

The reactor thread only gathers records; one thread of its own writes and syncs them, a group at a time,
while the next group gathers. Everything a caller sees (callbacks, counters, health) changes on the
reactor thread. The files are the business of `journal_segments`, the bytes that of `journal_format`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from aggregator.journal_files import Files, OsFiles
from aggregator.journal_format import MAX_PAYLOAD_BYTES, RECORD_HEAD_BYTES, JournalError, record_head
from aggregator.journal_segments import Recovery, Segments

__all__ = ["Journal", "JournalCounters", "JournalError", "Recovery"]

SEGMENT_BYTES = 64 << 20

AppendDone = Callable[[JournalError | None], None]
RotateDone = Callable[[int], None]
OnCommit = Callable[[float, int, int], None]


class ThreadsReactor(Protocol):
    """The part of a reactor that the journal needs."""

    def callFromThread(self, f: Callable[..., Any], /, *args: object) -> None:
        """Has `f` called on the reactor thread, soon and in order."""


@dataclass(slots=True)
class JournalCounters:
    """Ever-growing counts since the journal was made.

    Attributes:
        records, record_bytes: made durable, record heads included.
        commits, commit_s: groups made durable, and the time that took.
        failed_commits, failed_records: groups that could not be made durable, and the records in them.
        failed_drops: times old segments could not be deleted.
        failed_callbacks: callbacks of callers that raised.
    """

    records: int = 0
    record_bytes: int = 0
    commits: int = 0
    commit_s: float = 0.0
    failed_commits: int = 0
    failed_records: int = 0
    failed_drops: int = 0
    failed_callbacks: int = 0


@dataclass(frozen=True, slots=True)
class _Job:
    """Work for the journal thread, and what the reactor thread does with its outcome.

    `settle` gets the error, or None, and the seconds that `run` took. `then_gather`: the next group waits for more.
    """

    run: Callable[[], None]
    settle: Callable[[JournalError | None, float], None]
    then_gather: bool = False


class Journal:
    """Appends records durably, many in one sync.

    Args:
        directory: of the segments; made if it is absent.
        reactor: runs callbacks on its thread.
        segment_bytes: a segment that has reached this size is followed by a new one.
        files: the file system; by default the real one.
        gather_s: least time from the start of one group's commit to that of the next, but after one of `together`. A
            sync costs the same for one record as for a hundred: under load, waiting a moment for more of them saves a
            twentieth of a push's CPU.
        on_commit: called on the reactor thread with (seconds, records, bytes) of each group that became durable.
        monotonic_s: the clock that times commits.
        pause: lets that many seconds pass in the journal thread.
    Attributes:
        healthy: the last commit, rotation or probe succeeded; while False, expect appends to fail.
        unhealthy_reason: why not; None while healthy.
    """

    log = Logger()

    def __init__(
        self,
        directory: Path,
        *,
        reactor: ThreadsReactor,
        segment_bytes: int = SEGMENT_BYTES,
        files: Files | None = None,
        gather_s: float = 0.0,
        on_commit: OnCommit | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.healthy = True
        self.unhealthy_reason: str | None = None
        self.counters = JournalCounters()
        self._segments = Segments(directory, segment_bytes=segment_bytes, files=files or OsFiles())
        self._reactor = reactor
        self._on_commit = on_commit
        self._monotonic_s = monotonic_s
        self._gather_s = gather_s
        self._pause = pause
        self._queued_bytes = 0
        # The group that gathers, and the jobs before it.
        self._chunks: list[bytes] = []
        self._dones: list[AppendDone] = []
        self._jobs: deque[_Job] = deque()
        self._probing = False
        self._holding = False
        self._ungathered = False  # some record of the group came by itself
        # The thread has a job or will be handed one; before `start` there is none to hand it to.
        self._busy = True
        self._inbox: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped: Deferred[None] | None = None

    @property
    def queued_bytes(self) -> int:
        """Bytes of the appends whose `done` is still to be called."""
        return self._queued_bytes

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all segments."""
        return self._segments.bytes_on_disk

    def open(self) -> Recovery:
        """Recovers what is there and opens a new segment. Blocks; call it once, before everything else.

        Raises: JournalError: a segment of an unknown version, a file that is no segment, or a failing disk.
        """
        return self._segments.open()

    def replay(self, segment: int) -> Iterator[bytes]:
        """Payloads of one old segment, oldest first; damaged ones are skipped and counted in the `Recovery`.

        Blocks while it reads, a MiB at a time; any thread may run it, also while the journal takes appends.
        Raises: JournalError: the segment cannot be read.
        """
        return self._segments.replay(segment)

    def start(self) -> None:
        """Starts the journal thread, after `open`."""
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()
        self._hand_over()

    def stop(self) -> Deferred[None]:
        """Commits what is queued and ends the thread; fires then. Later appends fail."""
        if self._stopped is None:
            self._stopped = Deferred()
            if self._thread is None:
                self._fail_unstarted()
            elif not self._busy:
                self._hand_over()
        return self._stopped

    def append(self, payload: bytes, done: AppendDone) -> None:
        """Queues a record. Reactor thread only.

        Args:
            payload: at most 2 MiB.
            done: called on the reactor thread, never from within this call: with None once the record is
                on disk, with the error if it may not be. In the order of the appends.
        """
        if len(payload) > MAX_PAYLOAD_BYTES or self._stopped is not None:
            self._refuse(len(payload), done)
            return
        self._chunks.append(record_head(payload))
        self._chunks.append(payload)
        self._dones.append(done)
        self._queued_bytes += RECORD_HEAD_BYTES + len(payload)
        if self._holding:
            return
        self._ungathered = True
        if not self._busy:
            # Not at once: what else this turn of the reactor brings joins the group.
            self._busy = True
            self._reactor.callFromThread(self._hand_over)

    def together(self, work: Callable[[], None]) -> None:
        """Runs `work`; what it appends goes to the disk as one group when it returns. Reactor thread only.

        Whoever calls this has let a moment pass so that more would come: the next group is not kept waiting for it.
        """
        self._holding = True
        try:
            work()
        finally:
            self._holding = False
            if self._dones and not self._busy:
                self._hand_over()

    def rotate(self, done: RotateDone) -> None:
        """Closes the current segment and opens the next. Reactor thread only.

        Args:
            done: called on the reactor thread, after the `done` of every earlier append, with the number of
                the newest closed segment. It holds all that was durable by then, also when the next segment
                could not be opened: the journal is unhealthy then, and the old may be dropped all the same.
                0 after `stop`, which rotates no more.
        """

        def settle(error: JournalError | None, _seconds: float) -> None:
            self._note_health(error)
            self._call(done, self._segments.closed_through)

        if self._stopped is not None:
            self._reactor.callFromThread(self._call, done, 0)
        else:
            self._queue(_Job(self._segments.rotate, settle))

    def drop_through(self, segment: int) -> None:
        """Has the journal thread delete the closed segments up to and including `segment`. Reactor thread only.

        One that cannot be deleted is counted and tried again at the next call.
        """

        def settle(error: JournalError | None, _seconds: float) -> None:
            if error is not None:
                self.counters.failed_drops += 1
                self.log.warn("{error}", error=error)

        if self._stopped is None:
            self._queue(_Job(lambda: self._segments.drop_through(segment), settle))

    def probe(self) -> None:
        """Tries an unhealthy journal, so that it recovers though nobody appends. Reactor thread only.

        Nothing happens while it is healthy or a probe is under way.
        """

        def settle(error: JournalError | None, _seconds: float) -> None:
            self._probing = False
            self._note_health(error)

        if not self.healthy and not self._probing and self._stopped is None:
            self._probing = True
            self._queue(_Job(self._segments.probe, settle))

    def _queue(self, job: _Job) -> None:
        self._seal_group()
        self._jobs.append(job)
        if not self._busy:
            self._hand_over()

    def _seal_group(self) -> None:
        if not self._dones:
            return
        chunks, self._chunks = self._chunks, []
        dones, self._dones = self._dones, []
        then_gather, self._ungathered = self._ungathered, False
        size_bytes = sum(map(len, chunks))

        def settle(error: JournalError | None, seconds: float) -> None:
            self._settle_group(dones, size_bytes, error, seconds)

        self._jobs.append(_Job(lambda: self._segments.commit(b"".join(chunks)), settle, then_gather))

    def _hand_over(self) -> None:
        if not self._jobs:
            self._seal_group()
        self._busy = bool(self._jobs)
        if self._jobs:
            self._inbox.put(self._jobs.popleft())
        elif self._stopped is not None:
            self._inbox.put(None)

    def _work(self) -> None:
        """The journal thread: one job after another until it is handed None."""
        while (job := self._inbox.get()) is not None:
            began_s = self._monotonic_s()
            error: JournalError | None = None
            try:
                job.run()
            except JournalError as expected:
                error = expected
            except Exception as unexpected:
                self.log.failure("the journal met a bug and leaves its segment")
                self._segments.close()
                error = JournalError(f"unexpected: {unexpected!r}")
            seconds = self._monotonic_s() - began_s
            if job.then_gather and seconds < self._gather_s:
                # Who waits for this group hears at once; only the next one gathers a little longer.
                self._reactor.callFromThread(job.settle, error, seconds)
                self._gather(self._gather_s - seconds)
                self._reactor.callFromThread(self._hand_over)
            else:
                self._reactor.callFromThread(self._finish, job, error, seconds)
        self._segments.close()
        self._reactor.callFromThread(self._join)

    def _gather(self, seconds: float) -> None:
        try:
            self._pause(seconds)
        except Exception:
            # Waiting is a saving; the one thread that everything waits for must not end of it.
            self.log.failure("the journal could not wait for more to come")

    def _finish(self, job: _Job, error: JournalError | None, seconds: float) -> None:
        job.settle(error, seconds)
        self._hand_over()

    def _join(self) -> None:
        assert self._thread is not None
        assert self._stopped is not None
        self._thread.join()
        self._stopped.callback(None)

    def _settle_group(
        self, dones: list[AppendDone], size_bytes: int, error: JournalError | None, seconds: float
    ) -> None:
        self._queued_bytes -= size_bytes
        self._note_health(error)
        counters = self.counters
        if error is None:
            counters.commits += 1
            counters.commit_s += seconds
            counters.records += len(dones)
            counters.record_bytes += size_bytes
            if self._on_commit is not None:
                self._call(self._on_commit, seconds, len(dones), size_bytes)
        else:
            counters.failed_commits += 1
            counters.failed_records += len(dones)
        for done in dones:
            try:
                done(error)
            except Exception:
                self._note_callback_failure()

    def _note_health(self, error: JournalError | None) -> None:
        if error is None:
            if not self.healthy:
                self.log.info("the journal takes records again")
            self.healthy, self.unhealthy_reason = True, None
        else:
            if self.healthy:
                self.log.warn("the journal is unhealthy: {error}", error=error)
            self.healthy, self.unhealthy_reason = False, str(error)

    def _refuse(self, length_bytes: int, done: AppendDone) -> None:
        reason = (
            f"a record of {length_bytes} bytes is longer than {MAX_PAYLOAD_BYTES}"
            if length_bytes > MAX_PAYLOAD_BYTES
            else "the journal is stopped"
        )
        self._reactor.callFromThread(self._call, done, JournalError(reason))

    def _fail_unstarted(self) -> None:
        assert self._stopped is not None
        self._seal_group()
        while self._jobs:
            self._jobs.popleft().settle(JournalError("the journal is stopped"), 0.0)
        self._segments.close()
        self._stopped.callback(None)

    def _call(self, callback: Callable[..., None], *args: object) -> None:
        try:
            callback(*args)
        except Exception:
            self._note_callback_failure()

    def _note_callback_failure(self) -> None:
        self.counters.failed_callbacks += 1
        self.log.failure("a callback of the journal failed")
