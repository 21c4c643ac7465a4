"""What this node does with a part of a VM's history when the VM's home asks for it: shows it, then lets it go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from aggregator.buffer import Buffer
from aggregator.part_file import Dropped, StorePart, read_part
from aggregator.part_turns import PartTurns
from aggregator.pool import Caller
from aggregator.problems import Problem, Refused
from aggregator.worker_process import drop_part

_RETRY_AFTER_S = 60


class Histories(Protocol):
    """The part of `Flusher` that is told which VMs have a store here, and whose rows should be stored soon."""

    def know(self, vm_ids: Iterable[str]) -> None: ...
    def unknow(self, vm_id: str) -> None: ...
    def forget(self, vm_id: str) -> None: ...
    def hurry(self, vm_id: str) -> None: ...
    def owes_summary(self, vm_id: str) -> bool: ...


class Giver:
    """Gives parts to their homes. Called in the reactor's thread.

    Args:
        name: of this node.
        home_of: the home of a VM as the fleet database has it. Blocks; what it raises means that nobody knows.
        workers: a store goes where flushes write it, so that no flush writes it meanwhile.
        in_thread: runs blocking work elsewhere.
    """

    def __init__(
        self,
        *,
        name: str,
        store_path: Callable[[str], Path],
        home_of: Callable[[str], str | None],
        buffer: Buffer,
        flusher: Histories,
        workers: Caller,
        turns: PartTurns,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        call_in_reactor: Callable[..., object],
    ) -> None:
        self._name = name
        self._store_path = store_path
        self._home_of = home_of
        self._buffer = buffer
        self._flusher = flusher
        self._workers = workers
        self._turns = turns
        self._in_thread = in_thread
        self._call_in_reactor = call_in_reactor

    async def read(self, vm_id: str, node: str) -> StorePart:
        """The store of a VM as it is now.

        Args: node: who the caller believes to ask.

        Raises: Refused: 421 this is another node; 404 there is no store. StoreError.
        """
        self._check_name(node)
        part: StorePart | None = await self._in_thread(lambda: read_part(self._store_path(vm_id)))
        if part is None:
            raise _no_part(vm_id)
        return part

    async def drop(self, vm_id: str, node: str, mark: str) -> None:
        """Deletes the store of a VM that its home has taken in.

        Args: mark: of the store as it was taken in.

        Raises: Refused: 421, 404 as `read`; 409 not all is in the store yet, it is being joined into, or this
            is its home; 412 it has changed;
            503 the fleet database does not answer, or the store cannot be deleted now.
        """
        self._check_name(node)
        self._check_stored(vm_id)
        try:
            home = await self._in_thread(lambda: self._home_of(vm_id))
        except Exception as error:
            detail = "the fleet database does not answer: nobody knows whether this is the home"
            raise Refused(Problem(503, "database-unavailable", detail, _RETRY_AFTER_S)) from error
        if home in (None, self._name):
            raise Refused(Problem(409, "home-here", f"{vm_id}: no other node than {self._name} is known as its home"))
        # Again: time has passed. From here to the worker nothing comes between.
        self._check_stored(vm_id)
        if not self._turns.give(vm_id):
            detail = f"{vm_id}: another part is being joined into this store"
            raise Refused(Problem(409, "being-joined", detail, _RETRY_AFTER_S))
        self._flusher.unknow(vm_id)
        dropped = await self._drop(vm_id, mark)
        if dropped.is_gone:
            # A flush that ended meanwhile may have made it known again; and it may return one day, as new.
            self._flusher.forget(vm_id)
            return
        self._flusher.know([vm_id])
        if dropped.problem is not None:
            raise Refused(Problem(503, "store-busy", f"{vm_id}: {dropped.problem}", _RETRY_AFTER_S))
        raise Refused(Problem(412, "changed", f"{vm_id}: the store is not the one that was read"))

    def _drop(self, vm_id: str, mark: str) -> Deferred[Dropped]:
        done: Deferred[Dropped] = Deferred()

        def finished(dropped: Dropped) -> None:
            self._call_in_reactor(done.callback, dropped)

        work = partial(drop_part, vm_id, mark)
        self._workers.call(vm_id, work, finished, lambda why: finished(Dropped(is_gone=False, problem=why)))
        return done

    def _check_name(self, node: str) -> None:
        if node != self._name:
            raise Refused(Problem(421, "other-node", f"this is {self._name}, not {node}: see its node.url"))

    def _check_stored(self, vm_id: str) -> None:
        # What was stored here last may make this the home, as soon as the fleet database knows of it.
        if self._buffer.owes(vm_id) or self._flusher.owes_summary(vm_id):
            # Its turn may be an hour away, and its home waits.
            self._flusher.hurry(vm_id)
            detail = f"{vm_id}: samples wait to be stored or to be told of; try again after the next flush"
            raise Refused(Problem(409, "not-stored-yet", detail, _RETRY_AFTER_S))


def _no_part(vm_id: str) -> Refused:
    return Refused(Problem(404, "no-part", f"{vm_id}: nothing of it is stored here"))
