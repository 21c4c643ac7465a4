"""Virtual time, and processes in it that can be killed between any two steps.

One loop calls what is due, in order; code that blocks (an agent's push, the journal's thread, a flush worker) runs in
a fiber, which gives way to the loop wherever it would wait. Nothing here knows a wall clock, a thread or a hash order.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

_TOLD = 30


class Broken(BaseException):
    """The oracle saw what may never be. No `except Exception` of a program hides it."""


class Call:
    """Something to be done at a time, as `callLater` returns it."""

    __slots__ = ("_args", "_work", "at_s")

    def __init__(self, at_s: float, work: Callable[..., object], args: tuple[object, ...]) -> None:
        self.at_s = at_s
        self._work: Callable[..., object] | None = work
        self._args = args

    def active(self) -> bool:
        """It is still to come."""
        return self._work is not None

    def cancel(self) -> None:
        """It will not come."""
        self._work = None

    def run(self) -> None:
        """Now."""
        work, self._work = self._work, None
        if work is not None:
            work(*self._args)


class Hub:
    """The loop, its clock, chance, and the log of what happened.

    Args:
        seed: the same seed is the same history, to the last step.
        say: told each line of the log.
    Attributes:
        now_s: seconds since the beginning.
        step: calls made so far.
    """

    def __init__(self, seed: int, say: Callable[[str], None] | None = None) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.step = 0
        self.told: deque[str] = deque(maxlen=_TOLD)
        self._say = say
        self._hash = hashlib.sha256()
        self._heap: list[tuple[float, int, Call]] = []
        self._number = 0
        self._main = getcurrent()

    @property
    def digest(self) -> str:
        """Of every step and every line: equal for equal histories."""
        return self._hash.hexdigest()

    @property
    def in_fiber(self) -> bool:
        """Whether whoever asks may wait."""
        return getcurrent() is not self._main

    def tell(self, words: str) -> None:
        """A line of the log."""
        line = f"{self.step:6d} {self.now_s:10.3f} s  {words}"
        self._hash.update(line.encode())
        self.told.append(line)
        if self._say is not None:
            self._say(line)

    def call_later(self, delay_s: float, work: Callable[..., object], *args: object) -> Call:
        """Calls after `delay_s`; what is due at the same time comes in the order in which it was asked for."""
        call = Call(self.now_s + max(0.0, delay_s), work, args)
        self._number += 1
        heappush(self._heap, (call.at_s, self._number, call))
        return call

    def run(self, until_s: float, *, after_step: Callable[[], object] = lambda: None) -> None:
        """Lives until then."""
        assert not self.in_fiber
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            at_s, number, call = heappop(heap)
            if not call.active():
                continue
            self.now_s = at_s
            self.step += 1
            self._hash.update(b"%d %r" % (number, at_s))
            call.run()
            after_step()
        self.now_s = until_s

    def spawn(self, work: Callable[[], object]) -> Any:
        """A fiber that has not begun."""
        return greenlet(work, self._main)

    def give_way(self) -> Any:
        """Back to the loop, until somebody switches to this fiber again."""
        assert self.in_fiber
        return self._main.switch()


class Process:
    """What dies as a whole: its calls and its fibers. Stands in for the reactor of a program.

    Attributes: alive: nothing of it runs once this is False.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.alive = True
        self._calls: list[Call] = []
        self._fibers: list[Any] = []

    def seconds(self) -> float:
        """A clock that never goes back."""
        return self.hub.now_s

    def callLater(self, delay: float, callable: Callable[..., Any], /, *args: object) -> Call:
        """As a reactor's."""
        call = self.hub.call_later(delay, callable, *args)
        if not self.alive:
            call.cancel()
            return call
        if len(self._calls) > 200:
            self._calls = [each for each in self._calls if each.active()]
        self._calls.append(call)
        return call

    def callFromThread(self, f: Callable[..., Any], /, *args: object) -> None:
        """As a reactor's; a turn of the loop later."""
        self.callLater(0.0, f, *args)

    def fiber(self, work: Callable[[], object]) -> None:
        """Runs `work`, which may wait; soon."""
        fiber = self.hub.spawn(work)
        self._fibers = [each for each in self._fibers if not each.dead]
        self._fibers.append(fiber)
        self.callLater(0.0, fiber.switch)

    def sleep(self, seconds: float) -> None:
        """Lets time pass in a fiber."""
        self.callLater(seconds, getcurrent().switch)
        self.hub.give_way()

    def later(self, seconds: float, work: Callable[[], Any]) -> Deferred[Any]:
        """What a thread would do, and then its outcome in the loop."""
        done: Deferred[Any] = Deferred()

        def run() -> None:
            try:
                found = work()
            except Exception:
                done.errback(Failure())  # type: ignore[no-untyped-call]
            else:
                done.callback(found)

        self.callLater(seconds, run)
        return done

    def die(self) -> None:
        """At once, wherever its fibers stand."""
        assert not self.hub.in_fiber
        self.alive = False
        for call in self._calls:
            call.cancel()
        fibers, self._fibers = self._fibers, []
        for fiber in fibers:
            if fiber:
                fiber.throw(GreenletExit)


class Inbox:
    """A queue that a fiber waits at, as `queue.SimpleQueue` for a thread."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._items: deque[Any] = deque()
        self._waiting: Any = None

    def put(self, item: Any) -> None:
        """Any time."""
        self._items.append(item)
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._process.callLater(0.0, waiting.switch)

    def get(self) -> Any:
        """Waits for the next one."""
        while not self._items:
            self._waiting = getcurrent()
            self._process.hub.give_way()
        return self._items.popleft()


class Signal:
    """As much of `threading.Event` as an agent needs."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._is_set = False
        self._wakes: list[Call] = []

    def is_set(self) -> bool:
        return self._is_set

    def clear(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            if wake.active():
                self._process.callLater(0.0, wake.run)

    def wait(self, timeout_s: float) -> bool:
        """Whether it was set within that time."""
        if not self._is_set:
            # One call, whoever comes first with it: a fiber may be woken only once.
            wake = self._process.callLater(timeout_s, getcurrent().switch)
            self._wakes.append(wake)
            self._process.hub.give_way()
        return self._is_set
