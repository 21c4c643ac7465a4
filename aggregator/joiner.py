"""Brings histories together: takes the parts that other nodes hold of this node's VMs into its own stores.

Of each part: the store is read from its node, a worker takes it in, the node deletes it if it has not changed, and the
fleet database is told that there is one part less. Whatever ends this midway, the note of the part is still there, and
all of it is done again in a later round; to do it twice changes nothing. A note that was written anew since the round
looked at it stays too: its node has stored more meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Protocol
from urllib.parse import quote

from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from aggregator.part_file import Joined
from aggregator.part_turns import PartTurns
from aggregator.parts import DuePart, Round
from aggregator.pool import Caller
from aggregator.summary import Summary
from aggregator.worker_process import join_part, settle_part

_AT_ONCE = 32  # VMs: the fleet database is told of several together
_MOVING = 4  # of these, whose stores are on their way: each may be in memory as a whole
_A_ROUND = 2_000  # parts
_FIRST_PAUSE_S = 60.0
_LONGEST_PAUSE_S = 1800.0
# The VM still sends samples to the other node, or has done so just now.
_USUAL = frozenset({"not-stored-yet", "changed", "home-here", "being-joined"})


class Door(Protocol):
    """The part of `AdminClient` that is asked. Blocking; raises AdminUnavailable."""

    def get(self, target: str) -> AdminAnswer: ...
    def delete(self, target: str, *, etag: str) -> AdminAnswer: ...


class PartTable(Protocol):
    """The part of `Parts` that is used. Blocking; raises where the database does not answer."""

    def look(self, *, now_s: float, after_s: float, limit: int, but: Collection[str] = ()) -> Round: ...
    def note(self, vm_id: str, holder: str, problem: str | None) -> None: ...


class Histories(Protocol):
    """The part of `Flusher` that is asked: whether a VM had rows here, and which life of it counts."""

    def know(self, vm_ids: Iterable[str]) -> None: ...
    def knows(self, vm_id: str) -> bool: ...
    def life_of(self, vm_id: str) -> int: ...


@dataclass(slots=True)
class JoinTotals:
    """What rounds have done since the start. `waiting`: parts at the last look."""

    joined: int = 0
    failed: int = 0
    waiting: int = 0
    rounds: int = 0
    last_s: float = 0.0
    inserted: int = 0


@dataclass(slots=True)
class _Pause:
    until_s: float
    seconds: float


class _Pauses:
    """What failed is left alone for a while, longer each time."""

    def __init__(self, clock: Callable[[], float], first_s: float) -> None:
        self._clock = clock
        self._first_s = first_s
        self._pauses: dict[object, _Pause] = {}

    def failed(self, key: object) -> None:
        before = self._pauses.get(key)
        seconds = self._first_s if before is None else min(_LONGEST_PAUSE_S, 2 * before.seconds)
        self._pauses[key] = _Pause(self._clock() + seconds, seconds)

    def succeeded(self, key: object) -> None:
        self._pauses.pop(key, None)

    def holds(self, key: object) -> bool:
        pause = self._pauses.get(key)
        # A clock that was set back prolongs none.
        return pause is not None and 0 < pause.until_s - self._clock() <= pause.seconds

    def held(self) -> list[object]:
        return [key for key in self._pauses if self.holds(key)]


class Joiner:
    """Takes in parts, a round at a time. Called in the reactor's thread.

    Args:
        connect: the door of a node, by name and address. Raises ValueError: it may not be asked there.
        flusher: knows which VMs have had rows here.
        written: writes the summary of a store that took in the parts of some nodes; as `SummaryQueue.joined`.
        in_thread: runs blocking work elsewhere.
        clock: Unix time in seconds.
        after_s: a large part is due so long after it was noted.
        pause_s: what failed is left alone for so long the first time, at most a minute.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        parts: PartTable,
        connect: Callable[[str, str], Door],
        workers: Caller,
        flusher: Histories,
        written: Callable[[Summary, Mapping[str, int]], Deferred[None]],
        turns: PartTurns,
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
        call_in_reactor: Callable[..., object],
        clock: Callable[[], float],
        after_s: float,
        pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._parts = parts
        self._connect = connect
        self._workers = workers
        self._flusher = flusher
        self._written = written
        self._turns = turns
        self._in_thread = in_thread
        self._call_in_reactor = call_in_reactor
        self._clock = clock
        self._after_s = after_s
        self._nodes = _Pauses(clock, min(_FIRST_PAUSE_S, pause_s))
        self._failing = _Pauses(clock, min(_FIRST_PAUSE_S, pause_s))
        self._moving = DeferredSemaphore(_MOVING)
        self._is_running = False
        self._is_stopped = False
        self.totals = JoinTotals()

    def tick(self) -> None:
        """Begins a round, unless one still runs."""
        if not (self._is_running or self._is_stopped):
            self.round().addErrback(lambda failure: self._log.warn("no parts are joined: {why}", why=failure.value))

    def stop(self) -> None:
        """Begins nothing more; what is under way is left where it is."""
        self._is_stopped = True

    def round(self) -> Deferred[None]:
        """Takes in what is due; fires when that is done. Fails where the fleet database does not answer."""

        async def run() -> None:
            try:
                while await self._round():
                    pass
            finally:
                self._is_running = False

        self._is_running = True
        return Deferred.fromCoroutine(run())

    async def _round(self) -> bool:
        """Takes in what one look finds; whether another look is worth it at once: there is more, and it gets less."""
        now_s = self._clock()
        but = [str(held) for held in self._nodes.held()]
        limit = _A_ROUND + len(self._failing.held())
        self._turns.look()
        found: Round = await self._in_thread(
            lambda: self._parts.look(now_s=now_s, after_s=self._after_s, limit=limit, but=but)
        )
        self.totals.waiting = found.waiting
        due = sorted(part for part in found.due if not self._failing.holds((part.vm_id, part.node)))
        vms = iter([list(parts) for _, parts in groupby(due, key=lambda part: part.vm_id)])
        joined_before, waits = self.totals.joined, list[str]()
        await DeferredList([Deferred.fromCoroutine(self._work_on(vms, waits)) for _ in range(_AT_ONCE)])
        if waits:
            self._log.warn("{n} parts of histories wait, such as {some}", n=len(waits), some=waits[0])
        self.totals.rounds += 1
        self.totals.last_s = self._clock()
        return len(found.due) == limit and self.totals.joined > joined_before and not self._is_stopped

    async def _work_on(self, vms: Iterable[list[DuePart]], waits: list[str]) -> None:
        for parts in vms:
            for part in parts:
                if self._is_stopped:
                    return
                if not self._nodes.holds(part.node) and self._turns.begin_join(part.vm_id):
                    try:
                        await self._try(part, waits)
                    finally:
                        self._turns.end_join(part.vm_id)

    async def _try(self, part: DuePart, waits: list[str]) -> None:
        key = (part.vm_id, part.node)
        try:
            await self._take(part)
            self._failing.succeeded(key)
            return
        except _Skipped:
            return
        except _Waits as wait:
            why = str(wait)
            self.totals.failed += not wait.is_usual
        except AdminUnavailable as error:
            # All of its parts would end so.
            self._nodes.failed(part.node)
            why = error.reason
            self.totals.failed += 1
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            self.totals.failed += 1
        if self._is_stopped:
            return
        self._failing.failed(key)
        waits.append(f"{part.node}'s part of {part.vm_id}: {why}")
        try:
            await self._in_thread(lambda: self._parts.note(part.vm_id, part.node, why))
        except Exception as error:
            self._log.warn("why a part waits cannot be noted: {error}", error=error)

    async def _take(self, part: DuePart) -> None:
        """Raises _Waits: the part is still where it was; _Skipped, AdminUnavailable, and what others raise."""
        await self._moving.acquire()
        try:
            whole = await self._move(part)
        finally:
            self._moving.release()
        await self._written(whole, {part.node: part.mark})
        self.totals.joined += 1
        self.totals.waiting = max(0, self.totals.waiting - 1)

    async def _move(self, part: DuePart) -> Summary:
        """Has the part here and nowhere else; what the store says as a whole. Raises as `_take`."""
        if self._is_stopped or self._nodes.holds(part.node):
            raise _Skipped
        door = self._connect(part.node, part.url)
        target = f"/v1/vms/{quote(part.vm_id, safe='')}/part?node={quote(part.node, safe='')}"
        answer: AdminAnswer = await self._in_thread(lambda: door.get(target))
        self._nodes.succeeded(part.node)
        if answer.status == 200:
            await self._join(part, door, target, answer)
        elif answer.problem[0] != "no-part":
            raise _refused(part, answer)
        # Anew: a flush may have added to the store since, and what is written now must not be older.
        whole = await self._call(part.vm_id, partial(settle_part, part.vm_id, part.node, *self._known_of(part)))
        if whole.summary is None:
            raise _Waits("what came last of this VM is not stored here yet", is_usual=True)
        if whole.summary.life >= self._flusher.life_of(part.vm_id):
            # Where there was nothing of it before there is a store from now on.
            self._flusher.know([part.vm_id])
        return whole.summary

    async def _join(self, part: DuePart, door: Door, target: str, answer: AdminAnswer) -> None:
        """Takes a store in and has it deleted where it was. Raises as `_take`."""
        work = partial(join_part, part.vm_id, part.node, answer.body, *self._known_of(part))
        joined = await self._call(part.vm_id, work)
        self.totals.inserted += joined.inserted
        deleted: AdminAnswer = await self._in_thread(lambda: door.delete(target, etag=answer.etag))
        if deleted.status != 204 and deleted.problem[0] != "no-part":
            raise _refused(part, deleted)

    def _known_of(self, part: DuePart) -> tuple[bool, int]:
        return self._flusher.knows(part.vm_id), self._flusher.life_of(part.vm_id)

    async def _call(self, vm_id: str, work: Callable[[], Joined]) -> Joined:
        """What a worker made of a store. Raises _Waits: nothing."""
        if self._is_stopped:
            raise _Waits("this aggregator is stopping", is_usual=True)
        done: Deferred[Joined] = Deferred()

        def finished(joined: Joined) -> None:
            self._call_in_reactor(done.callback, joined)

        self._workers.call(vm_id, work, finished, lambda why: finished(Joined(problem=why)))
        joined = await done
        if joined.problem is not None:
            raise _Waits(joined.problem)
        return joined


class _Skipped(Exception):
    """Nothing was tried: the round ends, or the node was found away."""


class _Waits(Exception):
    """A part is still where it was. `is_usual`: that will pass by itself."""

    def __init__(self, why: str, *, is_usual: bool = False) -> None:
        self.is_usual = is_usual
        super().__init__(why)


def _refused(part: DuePart, answer: AdminAnswer) -> _Waits:
    reason, detail = answer.problem
    text = f"{part.node} answered {answer.status} {reason}: {detail}".rstrip(": ")
    return _Waits(text, is_usual=reason in _USUAL)
