"""Flush workers as real processes: only those can be killed, stopped and orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire import VM_ID_PATTERN
from aggregator.part_file import Dropped, read_part
from aggregator.pool import ProcessWorkers, partition_of
from aggregator.store_files import read_samples, store_path
from aggregator.summary import ChunkResult, Taken, WorkerSettings
from aggregator.worker_process import drop_part
from tests.aggregator.flush_fakes import NOW_S, TS, row

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0
DAY_S = 86_400.0


def settings(tmp_path: Path, windows_days: tuple[int, ...] = (1, 7)) -> WorkerSettings:
    return WorkerSettings(tmp_path, windows_days, 14 * DAY_S, 400 * DAY_S)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[ProcessWorkers]:
    pool = ProcessWorkers(settings(tmp_path), 2)
    yield pool
    pool.stop()


class Submitted:
    """A chunk on its way through a pool."""

    def __init__(self, pool: ProcessWorkers, *vms: str, partition: int = 0, times: tuple[int, ...] = (TS,)) -> None:
        self._results: SimpleQueue[ChunkResult] = SimpleQueue()
        rows = b"".join(map(row, times))
        chunk = [Taken(vm, rows, 0, NOW_S, 0.5, False) for vm in vms]
        pool.submit(partition, chunk, NOW_S, False, self._results.put)

    def result(self) -> ChunkResult:
        return self._results.get(timeout=PATIENCE_S)


def pid_of_only_worker(pool: ProcessWorkers) -> int:
    (pid,) = pool.pids()
    return pid


def is_alive(pid: int) -> bool:
    """Whether a process still runs; a zombie that nobody reaps has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@given(st.from_regex(VM_ID_PATTERN, fullmatch=True), st.integers(1, 64))
def test_a_vm_belongs_to_one_partition(vm: str, partitions: int) -> None:
    """It depends on the id and the number of partitions alone, so that it is the same in every run."""
    assert partition_of(vm, partitions) == zlib.crc32(vm.encode()) % partitions


def test_partitions_are_those_of_every_earlier_run() -> None:
    """Two workers must never meet in one store: the division may not change under a running fleet."""
    assert [partition_of(f"vm-{number}", 4) for number in range(8)] == [0, 2, 0, 2, 1, 3, 1, 3]


def test_partitions_share_the_work() -> None:
    """No partition gets much more than its part."""
    counts = [0] * 4
    for number in range(4_000):
        counts[partition_of(f"6f9c2b1e-0000-4b1e-8d2a-{number:012x}", 4)] += 1
    assert min(counts) > 800


@pytest.mark.real
def test_a_chunk_is_stored_and_summarised(tmp_path: Path, workers: ProcessWorkers) -> None:
    """What goes in as packed rows lies in the stores afterwards; a process is started only where there is work."""
    assert workers.pids() == []
    found = Submitted(workers, "a", "b", times=(TS, TS + 60)).result()
    assert (found.inserted, found.failures) == (4, {})
    assert [summary.vm_id for summary in found.summaries] == ["a", "b"]
    assert [one["ts"] for one in read_samples(store_path(tmp_path, "a"), 0, 2**32)] == [TS, TS + 60]
    assert len(workers.pids()) == 1
    assert workers.replaced == 0


@pytest.mark.real
def test_fault_5_a_worker_killed_at_work_is_replaced_and_its_chunk_done_again(
    tmp_path: Path, workers: ProcessWorkers
) -> None:
    """kill -9 of a worker that has a chunk: another one stores it, each row once."""
    Submitted(workers, "a").result()
    pid = pid_of_only_worker(workers)
    os.kill(pid, signal.SIGSTOP)
    submitted = Submitted(workers, "a", "b", times=(TS, TS + 60))
    os.kill(pid, signal.SIGKILL)
    found = submitted.result()
    assert found.failures == {}
    assert (found.inserted, found.duplicates) == (3, 1)
    for vm in ("a", "b"):
        assert [one["ts"] for one in read_samples(store_path(tmp_path, vm), 0, 2**32)] == [TS, TS + 60]
    assert workers.replaced == 1
    assert pid_of_only_worker(workers) != pid
    assert Submitted(workers, "a", times=(TS + 120,)).result().inserted == 1
    assert workers.replaced == 1


@pytest.mark.real
def test_a_worker_that_died_idle_is_replaced(workers: ProcessWorkers) -> None:
    """The next chunk does not fail because nobody looked in between."""
    Submitted(workers, "a").result()
    pid = pid_of_only_worker(workers)
    os.kill(pid, signal.SIGKILL)
    assert Submitted(workers, "b").result().inserted == 1
    assert pid_of_only_worker(workers) != pid


@pytest.mark.real
def test_a_worker_that_cannot_start_fails_its_chunk(tmp_path: Path) -> None:
    """After a few attempts the rows are owed, not lost, and the flush goes on."""
    pool = ProcessWorkers(settings(tmp_path, windows_days=()), 1)
    try:
        found = Submitted(pool, "a", "b").result()
        assert found.failures.keys() == {"a", "b"}
        assert found.summaries == []
        assert pool.replaced == 2
    finally:
        pool.stop()


@pytest.mark.real
def test_stop_ends_a_worker_that_hangs(workers: ProcessWorkers) -> None:
    """Fault 7 at the exit: stopped processes are killed, and what they had is reported as not done."""
    submitted = [Submitted(workers, "a", partition=number) for number in range(2)]
    for one in submitted:
        one.result()
    pids = workers.pids()
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    hanging = Submitted(workers, "b", partition=0)
    workers.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert hanging.result().failures.keys() == {"b"}
    late = Submitted(workers, "c", partition=1).result()
    assert late.failures.keys() == {"c"}
    assert workers.pids() == []


@pytest.mark.real
def test_workers_ignore_ctrl_c(workers: ProcessWorkers) -> None:
    """SIGINT goes to the whole group; only the aggregator decides when a worker ends."""
    Submitted(workers, "a").result()
    pid = pid_of_only_worker(workers)
    os.kill(pid, signal.SIGINT)
    assert Submitted(workers, "b").result().inserted == 1
    assert pid_of_only_worker(workers) == pid
    assert workers.replaced == 0


PARENT = """
import sys, time
from pathlib import Path
from queue import SimpleQueue
from aggregator.part_file import Dropped, read_part
from aggregator.pool import ProcessWorkers
from aggregator.summary import WorkerSettings

if __name__ == "__main__":
    pool = ProcessWorkers(WorkerSettings(Path(sys.argv[1]), (1,), 1e6, 1e9), 2)
    done = SimpleQueue()
    for number in range(2):
        pool.submit(number, [], 0.0, False, done.put)
    for _ in range(2):
        done.get()
    print(*pool.pids(), flush=True)
    time.sleep(600)
"""


@pytest.mark.real
def test_workers_end_with_an_aggregator_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent leaves no worker behind: fifty restarts would leave a hundred."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        try:
            assert parent.stdout is not None
            pids = [int(word) for word in parent.stdout.readline().split()]
            assert len(pids) == 2
            assert all(map(is_alive, pids))
        finally:
            parent.kill()
    until_s = time.monotonic() + PATIENCE_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < until_s, "a worker outlives its aggregator"
        time.sleep(0.02)


class Called:
    """Other work on a VM's store on its way through a pool."""

    def __init__(self, pool: ProcessWorkers, vm_id: str, work: Callable[[], object]) -> None:
        self._results: SimpleQueue[object] = SimpleQueue()
        pool.call(vm_id, work, self._results.put, lambda why: self._results.put(f"failed: {why}"))

    def result(self) -> object:
        return self._results.get(timeout=PATIENCE_S)


def test_other_work_takes_its_turn_among_flushes(workers: ProcessWorkers, tmp_path: Path) -> None:
    """A store is dropped after the flush that was submitted before, and by the process that flushes it."""
    partition = partition_of("a", workers.partitions)
    first = Submitted(workers, "a", partition=partition)
    asked = Called(workers, "a", partial(drop_part, "a", "0" * 32))
    second = Submitted(workers, "a", partition=partition, times=(TS + 60,))
    assert asked.result() == Dropped(is_gone=False)
    assert first.result().inserted == second.result().inserted == 1
    part = read_part(store_path(tmp_path, "a"))
    assert part is not None
    assert Called(workers, "a", partial(drop_part, "a", part.mark)).result() == Dropped(is_gone=True)
    assert not store_path(tmp_path, "a").exists()
    assert len(workers.pids()) == 1


def test_other_work_that_fails_says_why(workers: ProcessWorkers) -> None:
    """What a worker raises comes back as text, and the worker goes on."""
    assert "FileNotFoundError" in str(Called(workers, "a", partial(os.stat, "no such file")).result())
    assert Called(workers, "a", partial(os.getpid)).result() == pid_of_only_worker(workers)


def test_work_that_kills_its_worker_is_given_up(workers: ProcessWorkers) -> None:
    """Once more, and no more: flushes share the workers, and go on with a new one."""
    died = Called(workers, "a", partial(os._exit, 3))
    assert "BrokenProcessPool" in str(died.result())
    assert Submitted(workers, "a", partition=partition_of("a", workers.partitions)).result().inserted == 1


def test_work_after_the_stop_fails(workers: ProcessWorkers) -> None:
    """Whoever waits is told."""
    workers.stop()
    assert str(Called(workers, "a", partial(os.getpid)).result()).startswith("failed: ")
