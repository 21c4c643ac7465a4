"""The journal on real files: under the real reactor, and killed while it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from aggregator.journal import Journal, JournalError, ThreadsReactor
from tests.aggregator.journal_fakes import QueueReactor

ROOT = Path(__file__).parents[2]


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_with_a_real_disk_and_the_real_reactor(tmp_path: Path) -> None:
    """On the real reactor and real files, appends are acknowledged on the reactor thread and replayed by a restart."""
    assert hasattr(reactor, "callFromThread")
    real: ThreadsReactor = reactor
    journal = Journal(tmp_path / "journal", reactor=real, segment_bytes=20_000)
    journal.open()
    journal.start()
    bodies = [b"%d" % n * 20 for n in range(2_000)]
    threads = set()
    done: Deferred[None] = Deferred()

    def note(index: int, error: JournalError | None) -> None:
        assert error is None
        threads.add(threading.get_ident())
        if index + 1 < len(bodies):
            if index % 100 == 99:
                send(index + 1)
        else:
            done.callback(None)

    def send(start: int) -> None:
        for index in range(start, start + 100):
            journal.append(bodies[index], partial(note, index))

    send(0)
    await done
    await journal.stop()
    assert threads == {threading.get_ident()}
    assert journal.bytes_on_disk == sum(path.stat().st_size for path in (tmp_path / "journal").iterdir())

    again = Journal(tmp_path / "journal", reactor=real)
    recovery = again.open()
    assert len(recovery.segments) > 2
    assert [body for number in recovery.segments for body in again.replay(number)] == bodies
    await again.stop()


CHILD = """
import sys
from pathlib import Path
from aggregator.journal import Journal
from tests.aggregator.journal_fakes import QueueReactor

reactor = QueueReactor()
journal = Journal(Path(sys.argv[1]), reactor=reactor, segment_bytes=5_000)
next_number = sum(1 for segment in journal.open().segments for _ in journal.replay(segment))
journal.start()

def send():
    global next_number
    number, next_number = next_number, next_number + 1
    journal.append(b"%d" % number, lambda error: (error or print(number, flush=True), send()))

for _ in range(20):
    send()
reactor.run_until(lambda: False)
"""


@pytest.mark.real
def test_fault_1_kill_9_under_load(tmp_path: Path) -> None:
    """Killed again and again while it takes records: each restart finds every acknowledged one, once, in order."""
    directory = tmp_path / "journal"
    acknowledged = -1
    for told_before_kill in (1, 50, 333):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(directory)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        ) as child:
            assert child.stdout is not None
            for _ in range(told_before_kill):
                acknowledged = max(acknowledged, int(child.stdout.readline()))
            os.kill(child.pid, signal.SIGKILL)
            # A line may be cut by the kill: only whole ones were told.
            for line in child.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):
                    acknowledged = max(acknowledged, int(line))
        journal = Journal(directory, reactor=QueueReactor())
        recovery = journal.open()
        found = [int(body) for number in recovery.segments for body in journal.replay(number)]
        journal.stop()
        assert found == list(range(len(found)))
        assert acknowledged < len(found)
        assert recovery.damaged_records == 0
