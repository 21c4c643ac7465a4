"""Between flush and database: nothing waits, nothing is lost unseen, and what is refused blocks nobody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import sqlalchemy as sa
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from aggregator.homes import Whole
from aggregator.summary import Heard, Summary
from aggregator.summary_queue import QueueLimits, SummaryQueue
from tests.aggregator.flush_fakes import NOW_S, TS, summary

GATHER_S = QueueLimits().gather_s
AWAY = sa.exc.OperationalError("COMMIT", None, ConnectionError("the database does not answer"))


@dataclass
class FakeWriter:
    """Notes what is written; `error` is raised instead, `refused` are VMs whose rows the database does not take."""

    error: Exception | None = None
    refused: set[str] = field(default_factory=set)
    batches: list[list[str]] = field(default_factory=list)

    def write(self, summaries: Sequence[Summary], *, now_s: float) -> None:
        if self.error is not None:
            raise self.error
        ids = [one.vm_id for one in summaries]
        if self.refused.intersection(ids):
            raise sa.exc.DataError("COPY", None, ValueError("out of range"))
        self.batches.append(ids)

    def heard(self, vms: Sequence[Heard], *, now_s: float) -> list[str]:
        if self.error is not None:
            raise self.error
        self.batches.append([f"heard {one.vm_id}" for one in vms])
        return []

    def joined(self, wholes: Sequence[Whole], *, now_s: float) -> None:
        if self.error is not None:
            raise self.error
        if self.refused.intersection(whole.summary.vm_id for whole in wholes):
            raise sa.exc.DataError("COPY", None, ValueError("out of range"))
        self.batches.append([f"{whole.summary.vm_id} with {'+'.join(whole.of)}" for whole in wholes])


class Bench:
    """A queue with its thread under the test's hand."""

    def __init__(self, **limits: float) -> None:
        self.clock = Clock()
        self.writer = FakeWriter()
        self.jobs: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.owed: list[str] = []
        self.queue = SummaryQueue(
            self.writer,
            in_thread=self._in_thread,
            call_later=self.clock.callLater,
            clock=lambda: NOW_S + self.clock.seconds(),
            limits=QueueLimits(**({"vms": 20, "batch_vms": 4, "away_batch_vms": 2} | limits)),  # type: ignore[arg-type]
        )
        self.queue.on_owed = self.owed.extend

    def _in_thread(self, work: Callable[[], None]) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.jobs.append((work, done))
        assert len(self.jobs) == 1, "two writes at a time"
        return done

    def work(self) -> None:
        """The thread does what it was given."""
        work, done = self.jobs.pop()
        try:
            work()
        except Exception as error:
            done.errback(Failure(error))  # type: ignore[no-untyped-call]
        else:
            done.callback(None)

    def work_all(self) -> None:
        """Until it has nothing to do."""
        while self.jobs:
            self.work()

    def put(self, *vms: str) -> list[str]:
        return self.queue.put([summary(vm) for vm in vms])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def fired(done: Deferred[None]) -> bool:
    """Whether it has fired, in whatever way."""
    done.addErrback(lambda _failure: None)
    return done.called


def test_summaries_are_gathered_into_batches(bench: Bench) -> None:
    """A full batch goes at once; what is less waits a little for more; one write runs at a time."""
    assert bench.put("a", "b") == []
    assert bench.jobs == []
    bench.put("c", "d", "e")
    bench.work()
    assert bench.writer.batches == [["a", "b", "c", "d"]]
    assert bench.jobs == []
    bench.clock.advance(GATHER_S)
    bench.work()
    assert bench.writer.batches[1:] == [["e"]]
    assert (bench.queue.counters.written, bench.queue.counters.batches) == (5, 2)
    assert bench.queue.vm_ids == set()
    assert bench.clock.getDelayedCalls() == []


def test_what_does_not_fit_is_told_at_once() -> None:
    """The bound holds while a write is under way, and there is room again after it."""
    bench = Bench(vms=4)
    assert bench.put("a", "b", "c", "d", "e") == ["e"]
    assert bench.put("f") == ["f"]
    assert bench.queue.counters.refused == 2
    bench.work()
    assert bench.put("f") == []


def test_row_36_a_database_that_is_away_is_asked_again_more_and_more_seldom(bench: Bench) -> None:
    """Fault 36: nothing is lost from the queue; the pause grows to its bound and ends with the first success."""
    bench.writer.error = AWAY
    bench.put("a", "b", "c", "d")
    tries = []
    while bench.clock.seconds() < 400:
        if bench.jobs:
            tries.append(bench.clock.seconds())
            bench.work()
        bench.clock.advance(0.5)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1.0, 60.0)
    assert bench.queue.counters.failures == len(tries)
    assert bench.queue.counters.last_error is not None
    assert bench.queue.failures_in_row == len(tries)
    assert bench.owed == []
    bench.writer.error = None
    bench.clock.advance(60.0)
    bench.work_all()
    bench.clock.advance(GATHER_S)
    bench.work_all()
    assert sorted(vm for batch in bench.writer.batches for vm in batch) == ["a", "b", "c", "d"]
    after: tuple[int, str | None] = (bench.queue.failures_in_row, bench.queue.counters.last_error)
    assert after == (0, None)


def test_more_that_is_put_does_not_hammer_a_database_that_is_away(bench: Bench) -> None:
    """The pause holds however much comes."""
    bench.writer.error = AWAY
    bench.put("a", "b", "c", "d")
    bench.work()
    bench.put("e", "f", "g", "h", "i")
    assert bench.jobs == []


def test_a_row_that_is_refused_blocks_nobody(bench: Bench) -> None:
    """Halved until it stands alone, it is owed again; all others are written without a pause."""
    bench.writer.refused = {"bad"}
    bench.put("a", "b", "bad", "c", "d", "e", "f", "g", "h")
    for _ in range(20):
        bench.work_all()
        bench.clock.advance(GATHER_S)
    assert bench.owed == ["bad"]
    assert sorted(vm for batch in bench.writer.batches for vm in batch) == ["a", "b", "c", "d", "e", "f", "g", "h"]
    assert bench.queue.vm_ids == set()


def test_the_newer_of_two_summaries_wins(bench: Bench) -> None:
    """Also when the older was being written, failed, and came back."""
    bench.writer.error = AWAY
    bench.put("a", "b", "c", "d")
    bench.queue.put([summary("a", newest_s=TS + 60)])
    bench.work()
    bench.writer.error = None
    written: list[int] = []
    bench.writer.write = lambda summaries, now_s: written.extend(  # type: ignore[method-assign,misc]
        one.newest_s for one in summaries if one.vm_id == "a"
    )
    for _ in range(10):
        bench.clock.advance(10.0)
        bench.work_all()
    assert written == [TS + 60]


def test_whoever_asks_is_told_when_all_is_written(bench: Bench) -> None:
    """It writes at once, and fires when nothing waits any more."""
    bench.put("a", "b", "c", "d", "e", "f")
    done = bench.queue.drained(60.0)
    bench.work()
    assert not fired(done)
    bench.work()
    assert fired(done)
    assert fired(bench.queue.drained(60.0))
    assert bench.clock.getDelayedCalls() == []


def test_whoever_asks_is_told_when_the_database_fails_or_hangs(bench: Bench) -> None:
    """It is tried at once, pause or not, and no longer waited for than was said."""
    bench.writer.error = AWAY
    bench.put("a")
    done = bench.queue.drained(60.0)
    bench.work()
    assert fired(done)
    done = bench.queue.drained(60.0)
    assert len(bench.jobs) == 1
    bench.clock.advance(59.0)
    assert not fired(done)
    bench.clock.advance(1.0)
    assert fired(done)
    bench.work()


def test_a_join_goes_first_and_makes_what_waits_of_its_vm_needless(bench: Bench) -> None:
    """A summary made before the join knows a part of the history only; it must not be written after it."""
    bench.put("a", "b", "c", "d", "e")
    done = bench.queue.joined(summary("e"), {"b-node": 1})
    after = bench.queue.joined(summary("a"), {"b-node": 1})
    bench.queue.put([summary("a", newest_s=TS + 60)])
    bench.writer.error = AWAY
    bench.work()
    bench.writer.error = None
    assert not fired(done)
    assert not fired(after)
    bench.work()
    assert fired(done)
    assert fired(after)
    assert bench.writer.batches == [["e with b-node", "a with b-node"]]
    bench.clock.advance(60.0)
    bench.work_all()
    bench.clock.advance(60.0)
    bench.work_all()
    flat = [vm for batch in bench.writer.batches for vm in batch]
    assert flat[:2] == ["e with b-node", "a with b-node"]
    assert sorted(flat[2:]) == ["a", "b", "c", "d"]


def test_a_join_that_cannot_be_written_fails_and_is_owed(bench: Bench) -> None:
    """Whoever joined tries again; the summary is read from the store in any case."""
    bench.writer.error = AWAY
    errors: list[object] = []
    bench.queue.joined(summary("a"), {"b-node": 1}).addErrback(lambda failure: errors.append(failure.value))
    bench.clock.advance(GATHER_S)
    bench.work()
    assert errors == [AWAY]
    assert bench.owed == ["a"]


def test_joins_that_wait_are_written_together_and_none_spoils_the_others() -> None:
    """While they are, their VMs are what the database may lack; a row that it refuses is found by halves."""
    bench = Bench(joined_batch_vms=4)
    bench.writer.refused = {"vm-1"}
    dones = [bench.queue.joined(summary(f"vm-{number}"), {"b-node": number}) for number in range(6)]
    failed: list[Failure] = []
    dones[1].addErrback(failed.append)
    assert bench.queue.vm_ids == {f"vm-{number}" for number in range(6)}
    bench.work_all()
    bench.clock.advance(GATHER_S)
    bench.work_all()
    flat = [vm for batch in bench.writer.batches for vm in batch]
    assert flat == [f"vm-{number} with b-node" for number in (0, 2, 3, 4, 5)]
    assert len(bench.writer.batches) < 5
    assert all(map(fired, dones))
    assert [type(failure.value) for failure in failed] == [sa.exc.DataError]
    assert bench.owed == ["vm-1"]
    assert bench.queue.vm_ids == set()


def test_a_forgotten_vm_is_let_go_of(bench: Bench) -> None:
    """Also while its write is under way, should that fail."""
    bench.writer.error = AWAY
    bench.put("a", "b", "c", "d", "e")
    bench.queue.forget("a")
    bench.queue.forget("e")
    bench.work()
    assert bench.queue.vm_ids == {"b", "c", "d"}


def test_the_end_waits_for_the_write_under_way_and_begins_no_other(bench: Bench) -> None:
    """For so long as it was told; a join that has not begun fails."""
    bench.put("a", "b", "c", "d", "e", "f", "g", "h")
    join = bench.queue.joined(summary("a"), {"b-node": 1})
    ended = bench.queue.stop(2.0)
    assert fired(join)
    assert not fired(ended)
    bench.work()
    assert fired(ended)
    assert bench.jobs == []
    assert bench.clock.getDelayedCalls() == []


def test_the_end_does_not_wait_for_a_database_that_hangs(bench: Bench) -> None:
    """Its thread is left to itself; nothing comes after it."""
    bench.put("a", "b", "c", "d")
    ended = bench.queue.stop(2.0)
    bench.clock.advance(2.0)
    assert fired(ended)
    bench.writer.error = AWAY
    bench.work()
    assert bench.clock.getDelayedCalls() == []


def test_memory_is_bounded_too() -> None:
    """Evidence of many VMs weighs more than their number says."""
    bench = Bench(size_bytes=100_000, batch_vms=1_000, vms=1_000)
    refused = [bench.queue.put([summary(f"vm-{n}")._replace(evidence=b"x" * 20_000)]) for n in range(10)]
    assert sum(map(len, refused)) > 5
    assert bench.queue.size_bytes <= 100_000


def heard(*vms: str) -> list[Heard]:
    return [Heard(vm, TS, NOW_S, 0.5) for vm in vms]


def test_what_was_heard_is_noted_when_no_summary_waits(bench: Bench) -> None:
    """Summaries go first; those that were merely heard of follow in batches of their own; the newest telling counts."""
    bench.put("a", "b", "c", "d", "e")
    bench.queue.hear(iter(heard("x", "y")))
    bench.queue.hear(heard("z"))
    bench.work()
    bench.clock.advance(GATHER_S)
    bench.work_all()
    assert bench.writer.batches == [["a", "b", "c", "d"], ["e"], ["heard z"]]
    assert bench.queue.counters.written == 5


def test_what_was_heard_is_cut_into_batches() -> None:
    """No transaction holds more than its bound, and summaries come between two of them."""
    bench = Bench(heard_batch_vms=2)
    bench.queue.hear(heard("v", "w", "x"))
    bench.put("a", "b", "c", "d")
    bench.work_all()
    assert bench.writer.batches == [["heard v", "heard w"], ["a", "b", "c", "d"], ["heard x"]]


def test_what_was_heard_is_not_owed(bench: Bench) -> None:
    """A database that is away loses it: nothing is owed, nothing retried, and summaries are not held up."""
    bench.writer.error = ConnectionError("away")
    bench.queue.hear(heard("x"))
    bench.work_all()
    assert (bench.owed, bench.queue.failures_in_row, bench.queue.counters.failures) == ([], 0, 1)
    bench.writer.error = None
    bench.put("a", "b", "c", "d")
    bench.work_all()
    assert bench.writer.batches == [["a", "b", "c", "d"]]


def test_nobody_waits_for_what_was_heard(bench: Bench) -> None:
    """Whoever waits for all summaries is told when the last is written."""
    bench.put("a")
    bench.queue.hear(heard("x"))
    done = bench.queue.drained(60.0)
    bench.work()
    assert fired(done)
    bench.work_all()
    assert bench.writer.batches == [["a"], ["heard x"]]
