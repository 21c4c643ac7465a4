"""Whose summary the fleet database lacks, and the note of that which outlasts this process. Runs on the reactor.

The note is a file that is written and synced in a thread: of a million VMs that takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.logger import Logger

from aggregator.pending import PendingSummaries
from aggregator.summary_queue import SummaryQueue


class Debts:
    """What is owed to the fleet database.

    Args:
        in_thread: runs blocking work elsewhere.

    Attributes: vm_ids: those whose summary is to be read from its store again: neither written nor in the queue.
    """

    _log = Logger()

    def __init__(
        self,
        pending: PendingSummaries,
        summaries: SummaryQueue,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]] = maybeDeferred,
    ) -> None:
        self._pending = pending
        self._summaries = summaries
        self._in_thread = in_thread
        # Of two notes at once the older could be the last.
        self._noting = DeferredLock()
        self.vm_ids = set(pending.vm_ids)
        summaries.on_owed = self.vm_ids.update

    def __contains__(self, vm_id: object) -> bool:
        """Whether the fleet database may lack what was stored of this VM."""
        return vm_id in self.vm_ids or vm_id in self._summaries

    def __len__(self) -> int:
        return len(self._unwritten())

    def add(self, vm_ids: Iterable[str]) -> None:
        """The summaries of these are to be read from their stores."""
        self.vm_ids.update(vm_ids)

    def remove(self, vm_ids: Iterable[str]) -> None:
        """These were read."""
        self.vm_ids.difference_update(vm_ids)

    def note(self) -> Deferred[int | None]:
        """Notes durably whose summary lacks now; fires with how many, or with None: the disk does not take it."""

        async def write() -> int | None:
            unwritten = self._unwritten()
            try:
                await self._in_thread(lambda: self._pending.replace(unwritten))
            except OSError as error:
                self._log.warn("cannot note {n} owed summaries: {error}", n=len(unwritten), error=error)
                return None
            return len(unwritten)

        noted: Deferred[int | None] = self._noting.run(lambda: Deferred.fromCoroutine(write()))
        return noted

    def _unwritten(self) -> set[str]:
        return self.vm_ids | self._summaries.vm_ids
