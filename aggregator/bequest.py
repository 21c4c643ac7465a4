"""What a node that leaves for good does with the VMs that push nowhere any more: others become their homes.

A VM that pushes finds another home by itself; one that is off does not, and its history would go with this node. So
this node says in the fleet database that another is the home and that it holds a part; the home takes that in, and has
it deleted here, as any other part. Whatever ends this midway, the note of the part stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from aggregator.bequest_table import Estate
from aggregator.heirs import choose_heir


class Homes(Protocol):
    """The part of `BequestTable` that is used. Blocking; raises where the database does not answer."""

    def look(self, *, now_s: float, after: str = "") -> Estate: ...
    def bequeath(self, heir_of: Mapping[str, str], *, now_s: float) -> int: ...


class Buffered(Protocol):
    """The part of `Buffer` that is asked."""

    def owes(self, vm_id: str) -> bool: ...


class Histories(Protocol):
    """The part of `Flusher` that is asked, and told whose rows should be stored soon."""

    def hurry(self, vm_id: str) -> None: ...
    def owes_summary(self, vm_id: str) -> bool: ...


class Bequest:
    """Gives away the VMs of this node, a round at a time. Called in the reactor's thread.

    Args:
        is_leaving: whether this node leaves for good.
        with_store: VMs -> those of them that have a store here. Blocks.
        in_thread: runs blocking work elsewhere.
        clock: Unix time in seconds.

    Attributes: bequeathed: so many VMs got another home since the start.
    """

    _log = Logger()

    def __init__(
        self,
        homes: Homes,
        *,
        is_leaving: Callable[[], bool],
        buffer: Buffered,
        flusher: Histories,
        with_store: Callable[[Iterable[str]], list[str]],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        clock: Callable[[], float],
    ) -> None:
        self._homes = homes
        self._is_leaving = is_leaving
        self._buffer = buffer
        self._flusher = flusher
        self._with_store = with_store
        self._in_thread = in_thread
        self._clock = clock
        self._is_running = False
        self._is_stopped = False
        self._said: str | None = None
        self.bequeathed = 0

    def tick(self) -> None:
        """Begins a round while this node leaves for good, unless one still runs."""
        if self._is_leaving() and not (self._is_running or self._is_stopped):
            self.round().addErrback(lambda failure: self._log.warn("no VMs are given away: {why}", why=failure.value))

    def stop(self) -> None:
        """Begins nothing more."""
        self._is_stopped = True

    def round(self) -> Deferred[None]:
        """Gives away as many as can be taken in soon. Fails where the fleet database does not answer."""

        async def run() -> None:
            before = self.bequeathed
            try:
                await self._round()
            finally:
                self._is_running = False
                if self.bequeathed > before:
                    self._log.info("{n} VMs that are silent have another home", n=self.bequeathed - before)

        self._is_running = True
        return Deferred.fromCoroutine(run())

    async def _round(self) -> None:
        after, storeless = "", list[str]()
        while self._is_leaving() and not self._is_stopped:
            estate, stored = await self._in_thread(partial(self._look, after))
            self._say(estate.obstacle)
            if not estate.vm_ids:
                break
            after = estate.vm_ids[-1]
            storeless += set(estate.vm_ids).difference(stored)
            heir_of = {vm_id: choose_heir(vm_id, estate.heirs) for vm_id in stored if self._is_told(vm_id)}
            if heir_of and self._is_leaving() and not self._is_stopped:
                self.bequeathed += await self._give(heir_of)
        if storeless:
            some = min(storeless)
            self._log.warn("{n} VMs have no store here to be given away, such as {some}", n=len(storeless), some=some)

    def _look(self, after: str) -> tuple[Estate, list[str]]:
        estate = self._homes.look(now_s=self._clock(), after=after)
        return estate, self._with_store(estate.vm_ids)

    def _is_told(self, vm_id: str) -> bool:
        """Whether all that came of a VM is stored, and the fleet database knows of it."""
        if self._buffer.owes(vm_id) or self._flusher.owes_summary(vm_id):
            # Its turn may be an hour away.
            self._flusher.hurry(vm_id)
            return False
        return True

    def _give(self, heir_of: Mapping[str, str]) -> Deferred[int]:
        now_s = self._clock()
        return self._in_thread(lambda: self._homes.bequeath(heir_of, now_s=now_s))

    def _say(self, obstacle: str | None) -> None:
        if obstacle is not None and obstacle != self._said:
            self._log.warn("this aggregator leaves for good: {why}", why=obstacle)
        self._said = obstacle
