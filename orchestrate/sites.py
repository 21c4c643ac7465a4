"""All drivers at once: inventories and counters read in parallel, each with its deadline. Blocking.

A driver serves one thread at a time. One that does not come back by its deadline is left alone until it does: whatever
it holds is not known meanwhile, and what is not known is not touched.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from orchestrate.driver import Driver, DriverError
from orchestrate.inventory import Counters, Inventory, VmRef
from orchestrate.outside import Outside, between

# Counters are told in steps of some milliseconds, and a shorter time says nothing of a VM; of a longer one the agent's
# last minutes tell nothing.
MIN_SPAN_S = 5.0
MAX_SPAN_S = 900.0
# What a driver may be late by before it counts as hanging.
_GRACE_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """All sites at one moment. Args: problems: drivers that could not be read, by name, and why."""

    inventories: tuple[Inventory, ...]
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    at_s: float
    counters: Counters


class Sites:
    """The drivers, by name.

    Args:
        timeout_s: for each driver's answer.
        clock: seconds that the spans between readings are told by.
        pause: waits so many seconds.
    """

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        *,
        clock: Callable[[], float],
        pause: Callable[[float], None],
        timeout_s: float = 60.0,
    ) -> None:
        self.drivers = dict(drivers)
        self._clock = clock
        self._pause = pause
        self._timeout_s = timeout_s
        self._locks = {name: threading.Lock() for name in drivers}
        # Of each driver, the two newest readings that are far enough apart.
        self._readings: dict[str, tuple[_Reading, ...]] = {}

    def look(self) -> Look:
        """Everything that every driver knows now."""
        answers = self._ask({name: driver.inventory for name, driver in self.drivers.items()})
        return Look(
            inventories=tuple(each.value for each in answers.values() if each.value is not None),
            problems={name: each.problem for name, each in answers.items() if each.problem is not None},
        )

    def outside(self) -> Mapping[VmRef, Outside]:
        """What VMs did lately as their hosts count it; VMs of which that cannot be told are absent.

        Waits MIN_SPAN_S where there is no earlier reading to compare with.
        """
        counting = [name for name, driver in self.drivers.items() if driver.capabilities.vm_counters]
        first = {name: self._measure(name, counters) for name, counters in self._count(counting).items()}
        lacking = [name for name, found in first.items() if found is None]
        if lacking:
            self._pause(MIN_SPAN_S)
            first |= {name: self._measure(name, counters) for name, counters in self._count(lacking).items()}
        return {ref: outside for found in first.values() if found is not None for ref, outside in found.items()}

    def outside_of(self, ref: VmRef) -> Outside | None:
        """One VM as its host counts it now; None where that cannot be told."""
        found = self._count([ref.driver])
        pair = self._pair(ref.driver, found[ref.driver]) if ref.driver in found else None
        return None if pair is None else _between(*pair, ref.uuid)

    def readings(self, name: str) -> tuple[Counters | None, Counters] | None:
        """A driver's newest counters and those before them; None: none were read yet. Asks nobody."""
        found = [each.counters for each in self._readings.get(name, ())]
        if not found:
            return None
        return (found[-2] if len(found) > 1 else None, found[-1])

    def close(self) -> None:
        """Closes every driver that is not busy; tasks under way go on at the hypervisors."""
        for name, driver in self.drivers.items():
            if self._locks[name].acquire(blocking=False):
                try:
                    driver.close()
                finally:
                    self._locks[name].release()

    def _count(self, names: Iterable[str]) -> Mapping[str, Counters]:
        answers = self._ask({name: self.drivers[name].counters for name in names if name in self.drivers})
        return {name: each.value for name, each in answers.items() if each.value is not None}

    def _measure(self, name: str, counters: Counters) -> Mapping[VmRef, Outside] | None:
        """What happened since an earlier reading; None where there is none of a fitting age."""
        pair = self._pair(name, counters)
        if pair is None:
            return None
        told = ((uuid, _between(*pair, uuid)) for uuid in pair[1].vms)
        return {VmRef(name, uuid): outside for uuid, outside in told if outside is not None}

    def _pair(self, name: str, counters: Counters) -> tuple[Counters, Counters] | None:
        """An earlier reading of a fitting age, and this one, which is kept; None where there is none."""
        now = _Reading(at_s=self._clock(), counters=counters)
        known = [each for each in self._readings.get(name, ()) if 0 <= now.at_s - each.at_s <= MAX_SPAN_S]
        fitting = [each for each in known if now.at_s - each.at_s >= MIN_SPAN_S]
        if not known or known[-1] in fitting:
            known = [*known[-1:], now]
        self._readings[name] = tuple(known)
        return (fitting[-1].counters, counters) if fitting else None

    def _ask(self, calls: Mapping[str, Callable[[float], T]]) -> Mapping[str, _Answer[T]]:
        """Each call in a thread of its own, so that one slow site does not hold up the others."""
        answers = {name: _Answer[T]() for name in calls}
        threads = [
            threading.Thread(target=self._answer, args=(name, call, answers[name]), daemon=True)
            for name, call in calls.items()
        ]
        for thread in threads:
            thread.start()
        until_s = time.monotonic() + self._timeout_s + _GRACE_S
        for answer in answers.values():
            answer.done.wait(max(until_s - time.monotonic(), 0.0))
        # A copy: a thread that comes back late must not change what was told.
        late = f"no answer within {self._timeout_s + _GRACE_S:g} s"
        return {name: answer.taken(late=late) for name, answer in answers.items()}

    def _answer(self, name: str, call: Callable[[float], T], answer: _Answer[T]) -> None:
        if not self._locks[name].acquire(blocking=False):
            answer.fail("an earlier question is still unanswered")
            return
        try:
            answer.give(call(self._timeout_s))
        except DriverError as error:
            answer.fail(str(error) or type(error).__name__)
        except Exception as error:  # a mistake in somebody's driver: what it holds is not known
            answer.fail(f"{type(error).__name__}: {error}")
        finally:
            self._locks[name].release()


def _between(before: Counters, after: Counters, uuid: str) -> Outside | None:
    old, new = before.vms.get(uuid), after.vms.get(uuid)
    return None if old is None or new is None else between(old, new)


class _Answer(Generic[T]):
    """What a thread brings back."""

    def __init__(self, value: T | None = None, problem: str | None = None) -> None:
        self.value = value
        self.problem = problem
        self.done = threading.Event()

    def give(self, value: T) -> None:
        self.value = value
        self.done.set()

    def fail(self, problem: str) -> None:
        self.problem = problem
        self.done.set()

    def taken(self, *, late: str) -> _Answer[T]:
        return _Answer(self.value, self.problem) if self.done.is_set() else _Answer(problem=late)
