"""Flush workers: one process a partition, replaced when it dies. A VM always goes to the same partition."""

from __future__ import annotations

import multiprocessing
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Protocol, TypeVar

from aggregator.summary import ChunkResult, Taken, WorkerSettings
from aggregator.worker_process import flush_chunk, initialise

_ATTEMPTS = 3
_CALL_ATTEMPTS = 2  # what kills two workers is left for later: flushes share them
_STOP_S = 1.0

ChunkDone = Callable[[ChunkResult], None]
T = TypeVar("T")


class Workers(Protocol):
    """What the flusher needs of its workers; `done` is called in any thread."""

    @property
    def partitions(self) -> int: ...

    def submit(self, partition: int, chunk: list[Taken], now_s: float, may_forget: bool, done: ChunkDone) -> None:
        """Flushes a chunk; what a dead worker leaves undone comes back as failures."""

    def stop(self) -> None:
        """Ends the workers; a chunk under way is dropped, and its journal stays."""


class Caller(Protocol):
    """What other work on stores needs of the workers; see `ProcessWorkers.call`."""

    def call(
        self, vm_id: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[str], None]
    ) -> None: ...


def partition_of(vm_id: str, partitions: int) -> int:
    """Which partition a VM belongs to, in every run."""
    return zlib.crc32(vm_id.encode()) % partitions


class ProcessWorkers:
    """Workers as processes, started at first use by `spawn`: a fork would copy the reactor and its sockets."""

    def __init__(self, settings: WorkerSettings, partitions: int) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._executors: list[ProcessPoolExecutor | None] = [None] * partitions
        self._retired: list[ProcessPoolExecutor] = []
        self._stopping = False
        self.replaced = 0

    @property
    def partitions(self) -> int:
        return len(self._executors)

    def submit(self, partition: int, chunk: list[Taken], now_s: float, may_forget: bool, done: ChunkDone) -> None:
        self._retired.clear()
        work = partial(flush_chunk, chunk, now_s, may_forget)
        self._attempt(partition, work, done, lambda why: done(_failed(chunk, why)), _ATTEMPTS)

    def call(self, vm_id: str, work: Callable[[], T], done: Callable[[T], None], failed: Callable[[str], None]) -> None:
        """Does other work on one VM's store, after what was submitted before and before what comes later.

        Args:
            work: a function of `worker_process` with its arguments. It may run again where a worker dies.
            done, failed: the one is called with what it returned, the other with why it did not; in any thread.
        """
        self._retired.clear()
        self._attempt(partition_of(vm_id, self.partitions), work, done, failed, _CALL_ATTEMPTS)

    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        return [process.pid for process in multiprocessing.active_children() if process.pid is not None]

    def stop(self) -> None:
        self._stopping = True
        for executor in self._executors:
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)
        # A worker that hangs must not hold up the exit; its transaction rolls back at the next opening.
        for process in multiprocessing.active_children():
            process.terminate()
        until_s = time.monotonic() + _STOP_S
        for process in multiprocessing.active_children():
            process.join(max(0.0, until_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join(_STOP_S)

    def _attempt(
        self,
        partition: int,
        work: Callable[[], T],
        done: Callable[[T], None],
        failed: Callable[[str], None],
        attempts: int,
    ) -> None:
        def finished(future: Future[T]) -> None:
            if future.cancelled():
                failed("the worker was stopped")
                return
            error = future.exception()
            if error is None:
                done(future.result())
            elif isinstance(error, BrokenProcessPool) and attempts > 1 and not self._stopping:
                self._replace(partition, executor)
                self._attempt(partition, work, done, failed, attempts - 1)
            else:
                failed(f"the worker failed: {type(error).__name__}: {error}")

        if self._stopping:
            failed("the worker was stopped")
            return
        executor = self._executors[partition]
        try:
            if executor is None:
                executor = self._executors[partition] = ProcessPoolExecutor(
                    max_workers=1, mp_context=self._context, initializer=initialise, initargs=(self._settings,)
                )
            future = executor.submit(work)
        except (BrokenProcessPool, RuntimeError, OSError) as error:
            # It died while idle, or there was no memory for another.
            if attempts > 1 and not self._stopping:
                self._replace(partition, executor)
                self._attempt(partition, work, done, failed, attempts - 1)
            else:
                failed(f"no worker could be started: {error}")
            return
        future.add_done_callback(finished)

    def _replace(self, partition: int, broken: ProcessPoolExecutor | None) -> None:
        self.replaced += 1
        if broken is not None:
            # Neither shut down nor let go here: this may be its own thread, which holds the lock that both need.
            self._retired.append(broken)
        self._executors[partition] = None


def _failed(chunk: Sequence[Taken], why: str) -> ChunkResult:
    return ChunkResult([], {share.vm_id: why for share in chunk}, {}, 0, 0, 0, {})
