"""The inside of a flush worker's process. numpy is loaded here alone, not in the aggregator that submits the work."""

from __future__ import annotations

import contextlib
import os
import signal
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
    with contextlib.suppress(OSError):
        os.nice(5)  # an ack must never wait for a flush
    _worker = FlushWorker(settings)


def flush_chunk(shares: list[Taken], now_s: float, may_forget: bool) -> ChunkResult:
    """Called in a worker process; see `FlushWorker.flush`."""
    if _worker is None:
        raise RuntimeError("the worker process was not initialised")
    return _worker.flush(shares, now_s=now_s, may_forget=may_forget)
