"""Work of a running aggregator that comes again and again, whatever became of it the last time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import LoopingCall
from twisted.logger import Logger


class Periodic:
    """Timers of one reactor."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._loops: list[LoopingCall] = []

    def every(self, seconds: float, work: Callable[[], object]) -> None:
        """Calls `work` from then on, for the first time after so many seconds."""

        # A LoopingCall ends for good at the first exception: catch it, and go on.
        def guarded() -> None:
            try:
                work()
            except Exception:
                self._log.failure("a periodic task failed")

        loop = LoopingCall(guarded)
        loop.clock = self._reactor
        self._loops.append(loop)
        loop.start(seconds, now=False)

    def stop(self) -> None:
        """Calls nothing more."""
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.stop()
