"""What this aggregator still holds of VMs that an admin forgot, at whichever aggregator of the fleet that was.

The fleet database keeps for ever that a VM was forgotten: its tokens count from the first generation of its next life
on (`aggregator.lives`). Whoever reads that drops what it holds of a life before: memory at once, and the store by the
worker that the VM's flushes go to, which knows what is in it by then. Called in the reactor's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from aggregator.buffer import Buffer
from aggregator.lives import lives_of
from aggregator.part_file import Dropped
from aggregator.pool import Caller
from aggregator.tokens import Revocations
from aggregator.worker_process import drop_forgotten

_AT_ONCE = 8  # stores: flushes wait behind them
_LONGEST_WAIT = 6  # doublings of a reading of the revocations: half an hour


class Histories(Protocol):
    """The part of `Flusher` that is told."""

    def forget(self, vm_id: str) -> None: ...


class Forgetting:
    """Forgets VMs here.

    Args:
        revocations: as they are known at the start; before anything is replayed.
        with_store: those of some VMs that have a store here. Blocks.
        in_thread: runs blocking work elsewhere.
        clock: Unix seconds.
    """

    _log = Logger()

    def __init__(
        self,
        revocations: Revocations,
        *,
        buffer: Buffer,
        flusher: Histories,
        workers: Caller,
        with_store: Callable[[Iterable[str]], list[str]],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        call_in_reactor: Callable[..., object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._buffer = buffer
        self._flusher = flusher
        self._workers = workers
        self._with_store = with_store
        self._in_thread = in_thread
        self._call_in_reactor = call_in_reactor
        self._clock = clock
        self._due: set[str] = set()
        self._readings = 0
        self._failed: dict[str, int] = {}  # when to try again, in readings
        self._failures: dict[str, int] = {}  # one after the other
        self._under_way = 0
        self._is_stopped = False
        self._of_before = [vm_id for vm_id, life in lives_of(revocations.below) if buffer.lives.learn(vm_id, life)]

    def start(self) -> None:
        """Looks for stores of VMs that were forgotten while this aggregator did not run."""

        def found(vm_ids: list[str]) -> None:
            self._due.update(vm_ids)
            self._go_on()

        known, self._of_before = self._of_before, []
        if known:
            self._in_thread(lambda: self._with_store(known)).addCallback(found).addErrback(
                lambda failure: self._log.failure("stores of forgotten VMs cannot be looked for", failure)
            )

    def stop(self) -> None:
        """Begins nothing more: the next start looks again."""
        self._is_stopped = True

    def read(self, revocations: Revocations) -> None:
        """The fleet database was read again: forgets who is news, and tries again what failed."""
        self._readings += 1
        again = [vm_id for vm_id, reading in self._failed.items() if reading <= self._readings]
        for vm_id, life in lives_of(revocations.below):
            if self._buffer.lives.learn(vm_id, life):
                self._drop_memory(vm_id, life)
                self._failures.pop(vm_id, None)
                again.append(vm_id)
        for vm_id in again:
            self._failed.pop(vm_id, None)
        self._due.update(again)
        self._go_on()

    def came_back(self, vm_id: str, _life: int) -> None:
        """A push of a new life came before the fleet database was read again; the buffer knows."""
        self._flusher.forget(vm_id)
        self._due.add(vm_id)
        self._go_on()

    def forget(self, vm_id: str, life: int) -> Deferred[bool]:
        """An admin forgot a VM here; fires when its store is gone too, or with False: it could not go for now."""
        is_news = self._buffer.lives.learn(vm_id, life)
        if is_news:
            self._drop_memory(vm_id, life)
        # The life has just begun: unless it is known already, there is no store of it.
        return self._drop(vm_id, may_be_newer=not is_news)

    def _drop_memory(self, vm_id: str, life: int) -> None:
        self._buffer.forget_before(vm_id, life)
        self._flusher.forget(vm_id)

    def _go_on(self) -> None:
        while self._due and self._under_way < _AT_ONCE and not self._is_stopped:
            self._under_way += 1
            self._drop(self._due.pop()).addCallback(self._dropped)

    def _dropped(self, _is_gone: bool) -> None:
        self._under_way -= 1
        self._go_on()

    def _drop(self, vm_id: str, *, may_be_newer: bool = True) -> Deferred[bool]:
        done: Deferred[Dropped] = Deferred()

        def finished(dropped: Dropped) -> None:
            self._call_in_reactor(done.callback, dropped)

        work = partial(drop_forgotten, vm_id, self._buffer.lives.of(vm_id), self._clock() if may_be_newer else None)
        self._workers.call(vm_id, work, finished, lambda why: finished(Dropped(is_gone=False, problem=why)))
        return done.addCallback(lambda dropped: self._told(vm_id, dropped))

    def _told(self, vm_id: str, dropped: Dropped) -> bool:
        if dropped.problem is not None:
            failures = self._failures[vm_id] = self._failures.get(vm_id, 0) + 1
            wait = 1 << min(failures - 1, _LONGEST_WAIT)
            self._failed[vm_id] = self._readings + wait
            self._log.warn(
                "the store of {vm_id}, forgotten, cannot be deleted: {why}; what is revoked is read {wait} times before"
                " the next try",
                vm_id=vm_id,
                why=dropped.problem,
                wait=wait,
            )
            return False
        self._failed.pop(vm_id, None)
        self._failures.pop(vm_id, None)
        if dropped.aside is not None:
            self._log.warn(
                "{vm_id} was forgotten, and its store is too damaged to say whether it is of before: moved to {aside};"
                " delete that by hand",
                vm_id=vm_id,
                aside=dropped.aside,
            )
        return True
