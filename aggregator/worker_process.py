"""The inside of a flush worker's process. numpy is loaded here alone, not in the aggregator that submits the work."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from aggregator.part_file import Dropped, Joined, drop_store
from aggregator.store_files import store_path
from aggregator.store_life import drop_life
from aggregator.summary import ChunkResult, Taken, WorkerSettings

if TYPE_CHECKING:
    from aggregator.worker import FlushWorker
    from aggregator.worker_join import PartJoiner

_settings: WorkerSettings | None = None
_worker: FlushWorker | None = None
_joiner: PartJoiner | None = None


def initialise(settings: WorkerSettings) -> None:
    """Called once in each worker process."""
    global _settings, _worker  # noqa: PLW0603 - a process pool offers no other place for what lives so long
    from aggregator.worker import FlushWorker  # noqa: PLC0415

    # Ctrl-C reaches the whole process group; only the aggregator decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(5)  # an ack must never wait for a flush
    _settings = settings
    _worker = FlushWorker(settings)
    # As in the aggregator: what is alive now stays, and nearly all else goes by reference counting.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _end_with_parent() -> None:
    # A worker holds both ends of the pipe that it waits on, so that it would never notice a killed aggregator.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def flush_chunk(shares: list[Taken], now_s: float, may_forget: bool) -> ChunkResult:
    """Called in a worker process; see `FlushWorker.flush`."""
    if _worker is None:
        raise RuntimeError("the worker process was not initialised")
    return _worker.flush(shares, now_s=now_s, may_forget=may_forget)


def join_part(vm_id: str, node: str, body: bytes, had_history: bool, life: int) -> Joined:
    """Called in a worker process; see `PartJoiner.join`."""
    return _part_joiner().join(vm_id, node, body, had_history=had_history, life=life)


def settle_part(vm_id: str, node: str, had_history: bool, life: int) -> Joined:
    """Called in a worker process; see `PartJoiner.settle`."""
    return _part_joiner().settle(vm_id, node, had_history=had_history, life=life)


def drop_part(vm_id: str, mark: str) -> Dropped:
    """Called in a worker process, so that no flush writes the store meanwhile; see `part_file.drop_store`."""
    return drop_store(store_path(_known_settings().data_dir, vm_id), mark)


def drop_forgotten(vm_id: str, life: int, keep_doubtful_s: float | None) -> Dropped:
    """Called in a worker process, as `drop_part`; see `store_life.drop_life`."""
    return drop_life(store_path(_known_settings().data_dir, vm_id), life, keep_doubtful_s=keep_doubtful_s)


def _part_joiner() -> PartJoiner:
    global _joiner  # noqa: PLW0603 - as above
    if _joiner is None:
        from aggregator.worker_join import PartJoiner  # noqa: PLC0415

        _joiner = PartJoiner(_known_settings())
    return _joiner


def _known_settings() -> WorkerSettings:
    if _settings is None:
        raise RuntimeError("the worker process was not initialised")
    return _settings
