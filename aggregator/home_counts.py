"""Of how many VMs each node is home, as one aggregator knows it while keys of nodes differ.

To count reads every summary: so it is done only then, not at each look, and beside the beats of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from aggregator.fleet_errors import AWAY, one_line

RECOUNT_S = 60.0


class HomeCounts:
    """Counts when it has to.

    Args:
        count: VMs by the name of their home; blocks.
        in_thread: calls what blocks in a thread.
        seconds: a clock that never goes back.
        on_counted: told whenever the count is another.
    Attributes:
        known: as they were last counted; None: not since keys began to differ.
    """

    _log = Logger()

    def __init__(
        self,
        count: Callable[[], Mapping[str, int]],
        *,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        seconds: Callable[[], float],
        on_counted: Callable[[], object],
    ) -> None:
        self.known: Mapping[str, int] | None = None
        self._count = count
        self._in_thread = in_thread
        self._seconds = seconds
        self._on_counted = on_counted
        self._asked_s: float | None = None
        self._is_asking = False

    def count_now(self) -> None:
        """Blocks. What goes wrong is left to the next look."""
        try:
            self.known, self._asked_s = self._count(), self._seconds()
        except AWAY as error:
            self._complain(error)

    def look(self, *, is_needed: bool) -> None:
        """Has them counted if that is needed and was not done lately."""
        if not is_needed:
            self.known = self._asked_s = None
            return
        now_s = self._seconds()
        if self._is_asking or (self._asked_s is not None and now_s - self._asked_s < RECOUNT_S):
            return
        self._is_asking, self._asked_s = True, now_s
        self._in_thread(self._count).addCallbacks(self._counted, self._failed)

    def _counted(self, counts: Mapping[str, int]) -> None:
        self._is_asking = False
        if self._asked_s is not None and counts != self.known:
            self.known = counts
            self._on_counted()

    def _failed(self, failure: Failure) -> None:
        self._is_asking = False
        self._complain(failure.value)

    def _complain(self, error: BaseException | None) -> None:
        self._log.warn("keys differ, and VMs cannot be counted by node: {error}", error=one_line(error))
