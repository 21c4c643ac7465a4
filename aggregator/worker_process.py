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

from aggregator.summary import ChunkResult, Taken, WorkerSettings

if TYPE_CHECKING:
    from aggregator.worker import FlushWorker

_worker: FlushWorker | None = None


def initialise(settings: WorkerSettings) -> None:
    """Called once in each worker process."""
    global _worker  # noqa: PLW0603 - a process pool offers no other place for what lives as long as the process
    from aggregator.worker import FlushWorker  # noqa: PLC0415

    # Ctrl-C reaches the whole process group; only the aggregator decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(5)  # an ack must never wait for a flush
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
