"""Forgetting on one node: whose memory goes at once, whose store a worker deletes, and what is tried again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred

from aggregator.buffer import Buffer
from aggregator.forgetting import Forgetting
from aggregator.lives import first_of
from aggregator.part_file import Dropped
from aggregator.tokens import Revocations
from aggregator.worker_process import drop_forgotten
from tests.aggregator.flush_fakes import NOW_S, TS, push


class Bench:
    """Forgetting with all around it but the buffer fake; workers work when the test says so."""

    def __init__(self, revocations: Revocations | None = None, *, stores: tuple[str, ...] = ()) -> None:
        self.buffer = Buffer(max_rows=100, on_new_life=self._came_back)
        self.told: list[str] = []
        self.asked: list[tuple[str, int]] = []
        self.waiting: list[Callable[[Dropped], None]] = []
        self.kept: list[float | None] = []
        self.forgetting = Forgetting(
            revocations or Revocations(),
            buffer=self.buffer,
            flusher=self,
            workers=self,
            with_store=lambda vm_ids: [vm_id for vm_id in vm_ids if vm_id in stores],
            in_thread=self._in_thread,
            call_in_reactor=lambda call, *arguments: call(*arguments),
            clock=lambda: NOW_S,
        )

    def _came_back(self, vm_id: str, life: int) -> None:
        self.forgetting.came_back(vm_id, life)

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return maybeDeferred(work)

    def forget(self, vm_id: str) -> None:
        self.told.append(vm_id)

    def call(self, vm_id: str, work: Any, done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        assert isinstance(work, partial)
        assert work.func is drop_forgotten
        assert work.args[0] == vm_id
        self.asked.append(work.args[:2])
        self.kept.append(work.args[2])
        self.waiting.append(done)

    def work(self, dropped: Dropped | None = None) -> None:
        """Workers answer what they were asked so far."""
        waiting, self.waiting = self.waiting, []
        for done in waiting:
            done(dropped or Dropped(is_gone=True))

    def push(self, vm_id: str, life: int) -> int:
        one = msgspec.structs.replace(push(vm_id, TS), generation=first_of(life) + 1)
        return self.buffer.add(one, NOW_S).stored


def forgotten(**lives: int) -> Revocations:
    """What the fleet database says where these VMs were forgotten."""
    return Revocations({vm_id: (first_of(life), "forgotten") for vm_id, life in lives.items()})


def test_what_was_forgotten_before_the_start_is_looked_for_once() -> None:
    """Nothing of it is replayed; the stores that there are go when the replay is over."""
    bench = Bench(forgotten(a=1, b=2), stores=("b",))
    assert bench.push("a", 0) == bench.push("b", 1) == 0
    assert bench.asked == []
    bench.forgetting.start()
    assert bench.asked == [("b", 2)]
    bench.work()
    bench.forgetting.read(forgotten(a=1, b=2))
    assert (bench.asked, bench.told) == ([("b", 2)], [])


def test_news_of_the_database_drop_what_is_held() -> None:
    """Memory at once, and the rest of this VM alone; what is known already is no news."""
    bench = Bench()
    bench.push("a", 0)
    bench.push("b", 0)
    for _ in range(2):
        bench.forgetting.read(forgotten(a=1))
    assert (bench.buffer.vm_ids(), bench.told, bench.asked) == (["b"], ["a"], [("a", 1)])


def test_a_vm_that_came_back_keeps_what_it_pushed() -> None:
    """Its first push tells of the forgetting; when the database does, there is nothing more to be done."""
    bench = Bench()
    bench.push("a", 0)
    assert bench.push("a", 1) == 1
    assert (bench.told, bench.asked, bench.buffer.unstored_rows) == (["a"], [("a", 1)], 1)
    bench.work(Dropped(is_gone=False))
    bench.forgetting.read(forgotten(a=1))
    assert (bench.told, bench.asked, bench.buffer.unstored_rows) == (["a"], [("a", 1)], 1)


def test_a_store_that_cannot_be_deleted_is_tried_again() -> None:
    """When the database is read next, and then ever less often; by the life that counts by then."""
    bench = Bench()
    bench.forgetting.read(forgotten(a=1))
    bench.work(Dropped(is_gone=False, problem="no"))
    assert bench.asked == [("a", 1)]
    bench.forgetting.read(forgotten(a=2))
    assert bench.asked == [("a", 1), ("a", 2)]
    bench.work(Dropped(is_gone=False, problem="no"))
    bench.forgetting.read(forgotten(a=2))
    assert bench.asked == [("a", 1), ("a", 2), ("a", 2)]
    tries: list[int] = []
    for reading in range(300):
        if bench.waiting:
            tries.append(reading)
        bench.work(Dropped(is_gone=False, problem="no"))
        bench.forgetting.read(forgotten(a=2))
    assert [after - before for before, after in pairwise(tries)] == [2, 4, 8, 16, 32, 64, 64, 64]
    bench.forgetting.read(forgotten(a=3))
    bench.work()
    asked = len(bench.asked)
    for _ in range(300):
        bench.forgetting.read(forgotten(a=3))
    assert len(bench.asked) == asked


def test_an_admin_waits_until_the_store_is_gone() -> None:
    """Or until it could not be deleted for now, which is told."""
    bench = Bench()
    bench.push("a", 0)
    outcome: list[bool] = []
    bench.forgetting.forget("a", 1).addCallback(outcome.append)
    assert (bench.buffer.vm_ids(), bench.told, outcome) == ([], ["a"], [])
    bench.work(Dropped(is_gone=False, problem="no"))
    assert outcome == [False]
    bench.forgetting.forget("b", 1).addCallback(outcome.append)
    bench.work()
    assert outcome == [False, True]
    bench.forgetting.read(forgotten(a=1))
    assert bench.asked == [("a", 1), ("b", 1), ("a", 1)]


def test_only_a_life_that_begins_here_has_no_store_yet() -> None:
    """A damaged store is deleted at that moment alone: later, or once the VM is back, it may be of the new life."""
    bench = Bench()
    bench.forgetting.forget("a", 1)
    bench.push("b", 1)
    bench.work()
    bench.forgetting.forget("b", 1)
    bench.work()
    bench.forgetting.read(forgotten(a=1, b=1, c=1))
    assert bench.asked == [("a", 1), ("b", 1), ("b", 1), ("c", 1)]
    assert bench.kept == [None, NOW_S, NOW_S, NOW_S]


def test_a_fleet_that_is_forgotten_does_not_hold_up_flushes() -> None:
    """A few stores at a time; all in the end, but for what a stop leaves to the next start."""
    bench = Bench()
    bench.forgetting.read(forgotten(**{f"vm-{number}": 1 for number in range(30)}))
    assert len(bench.asked) == 8
    while bench.waiting:
        bench.work()
    assert len(set(bench.asked)) == 30
    bench.forgetting.stop()
    bench.forgetting.read(forgotten(late=1))
    assert len(bench.asked) == 30
