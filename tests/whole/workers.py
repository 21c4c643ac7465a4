"""Flush workers in fibers: the real `aggregator.worker` on real stores, slow, dying midway, or refused by a disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.pool import ChunkDone
from aggregator.store_files import as_store_error
from aggregator.summary import ChunkResult, Taken, WorkerSettings
from aggregator.worker import FlushWorker
from tests.whole.hub import Process
from tests.whole.ledger import Ledger

WINDOWS_DAYS = (1, 7)
HOUR_RETENTION_S = 400 * 86_400.0
_ATTEMPTS = 3


class WorkerDied(BaseException):
    """The process of a worker is no more; SQLite rolls back what it had not committed."""


@dataclass(slots=True)
class WorkerTrouble:
    """What ails the workers.

    Attributes:
        slow_s: what each chunk takes.
        dies: how many of the next chunks end with their worker: before a store, between two, or after the last.
        refused: VMs whose store takes nothing now.
    """

    slow_s: float = 0.0
    dies: int = 0
    refused: set[str] = field(default_factory=set)


class Worker(FlushWorker):
    """A worker at whose stores things happen."""

    process: Process
    trouble: WorkerTrouble
    dies_at: int | None = None

    def _write_or_replace(self, works, index, now_s, may_forget, lost_stores):  # type: ignore[no-untyped-def]
        """Each commit is a step of its own."""
        if index == self.dies_at:
            raise WorkerDied
        self.process.sleep(0.001)
        if works[index].share.vm_id in self.trouble.refused:
            works[index].store.close()
            raise _refusal()
        return super()._write_or_replace(works, index, now_s, may_forget, lost_stores)

    def again(self, settings: WorkerSettings) -> Worker:
        """Another one: the empty store that each keeps takes longer to make than a history."""
        other = copy(self)
        other._settings = settings
        return other


class FiberWorkers:
    """`pool.Workers`; a chunk whose worker dies goes to the next one, three times at most, as in `ProcessWorkers`."""

    def __init__(
        self, worker: Worker, partitions: int, *, process: Process, trouble: WorkerTrouble, ledger: Ledger
    ) -> None:
        self._partitions = partitions
        self._process = process
        self._trouble = trouble
        self._ledger = ledger
        self._worker = worker
        self._worker.process, self._worker.trouble = process, trouble
        self.replaced = 0

    @property
    def partitions(self) -> int:
        return self._partitions

    def submit(self, partition: int, chunk: list[Taken], now_s: float, may_forget: bool, done: ChunkDone) -> None:
        """As the protocol says."""
        self._process.fiber(lambda: done(self._flush(chunk, now_s, may_forget)))

    def stop(self) -> None:
        """They end with their process."""

    def _flush(self, chunk: Sequence[Taken], now_s: float, may_forget: bool) -> ChunkResult:
        for _ in range(_ATTEMPTS):
            self._process.sleep(self._trouble.slow_s + 0.005)
            try:
                return self._attempt(chunk, now_s, may_forget)
            except WorkerDied:
                self.replaced += 1
        return ChunkResult([], {share.vm_id: "the worker failed" for share in chunk}, {}, 0, 0, 0, {})

    def _attempt(self, chunk: Sequence[Taken], now_s: float, may_forget: bool) -> ChunkResult:
        dies_at = None
        if self._trouble.dies:
            self._trouble.dies -= 1
            dies_at = self._process.hub.rng.randint(0, len(chunk))
        self._worker.dies_at = dies_at
        try:
            result = self._worker.flush(chunk, now_s=now_s, may_forget=may_forget)
        finally:
            self._ledger.stores_written(share.vm_id for share in chunk)
        self._process.sleep(0.001)
        if dies_at == len(chunk):
            raise WorkerDied
        return result


def make_worker(folder: Path) -> Worker:
    """One that others are made after; it writes nothing."""
    return Worker(WorkerSettings(folder, WINDOWS_DAYS, 14 * 86_400.0, HOUR_RETENTION_S))


def _refusal() -> Exception:
    return as_store_error(sqlite3.OperationalError("database or disk is full"))
