"""What is owed to the fleet database, and the note of it on disk: never the reactor's work, never lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from aggregator.buffer import Buffer
from aggregator.debts import Debts
from aggregator.flush import Flusher
from aggregator.pending import PendingSummaries
from tests.aggregator.flush_fakes import NOW_S, TS, FlushBench, NotedPending, push


class Threads:
    """Work for threads, done when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def __call__(self, work: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.waiting.append((work, done))
        return done

    def work(self) -> None:
        """Does what waits, and all that follows from it."""
        while self.waiting:
            work, done = self.waiting.pop(0)
            try:
                done.callback(work())
            except OSError as error:
                done.errback(error)


def on_disk(tmp_path: Path) -> set[str]:
    return set(PendingSummaries(tmp_path / "pending").vm_ids)


def make_bench(tmp_path: Path) -> FlushBench:
    return FlushBench(NotedPending(tmp_path / "pending"))


def flusher_of(bench: FlushBench, threads: Threads, later: Callable[..., object]) -> Flusher:
    """Another one on the same parts, whose threads and turns are under the test's hand."""
    return Flusher(
        buffer=bench.buffer,
        journal=bench.journal,
        workers=bench.workers,
        summaries=bench.summaries,
        pending=bench.pending,
        call_in_reactor=later,
        clock=lambda: NOW_S,
        in_thread=threads,
        piece_vms=100,
    )


def test_a_whole_disk_of_stores_is_owed_in_pieces_and_noted_in_a_thread(tmp_path: Path) -> None:
    """Other events have their turns between the pieces, and the disk is never waited for."""
    threads, turns = Threads(), list[tuple[Any, ...]]()
    bench = make_bench(tmp_path)
    flusher = flusher_of(bench, threads, lambda *call: turns.append(call))
    vm_ids = [f"vm-{number}" for number in range(250)]
    noted = flusher.owe(vm_ids)
    sizes = []
    while turns:
        sizes.append(flusher.summaries_owed)
        call, *arguments = turns.pop(0)
        call(*arguments)
    assert sizes == [100, 200]
    assert (noted.called, flusher.summaries_owed, on_disk(tmp_path)) == (False, 250, set())
    threads.work()
    assert (noted.called, on_disk(tmp_path)) == (True, set(vm_ids))


def test_a_segment_goes_only_when_the_note_is_on_disk(tmp_path: Path) -> None:
    """A flush waits for the note, and keeps the journal where the disk does not take it."""
    threads, bench = Threads(), make_bench(tmp_path)
    bench.database.away = True
    flusher = flusher_of(bench, threads, lambda call, *arguments: call(*arguments))
    for is_full in (True, False):
        bench.pending.full = is_full
        bench.buffer.add(push("a", TS + 60 * is_full), NOW_S)
        done = flusher.flush()
        assert (list(bench.workers.stores), done.called, bench.journal.dropped) == (["a"], False, [])
        threads.work()
        assert done.called
    assert (len(bench.journal.dropped), on_disk(tmp_path)) == (1, {"a"})


def test_of_two_notes_the_later_is_the_last(tmp_path: Path) -> None:
    """One begins when the one before it has ended, and notes what is owed by then."""
    threads = Threads()
    debts = Debts(PendingSummaries(tmp_path / "pending"), make_bench(tmp_path).summaries, threads)
    debts.add(["a"])
    first = debts.note()
    debts.add(["b"])
    second = debts.note()
    debts.remove(["a"])
    debts.add(["c"])
    assert len(threads.waiting) == 1
    threads.work()
    assert (first.result, second.result, on_disk(tmp_path)) == (1, 2, {"b", "c"})


def test_a_store_of_a_later_life_ends_the_one_in_memory(tmp_path: Path) -> None:
    """Its samples are counted as dropped, those that came meanwhile too; the door refuses what follows."""
    bench = make_bench(tmp_path)
    told: list[dict[str, int]] = []
    bench.flusher.on_newer_lives = lambda lives: told.append(dict(lives))
    bench.workers.at_once = False
    bench.buffer.add(push("a", TS, TS + 60), NOW_S)
    bench.buffer.add(push("b", TS), NOW_S)
    bench.flusher.flush()
    bench.buffer.add(push("a", TS + 120), NOW_S)
    bench.workers.newer = {"a": 1}
    bench.workers.work()
    assert (told[0], bench.buffer.lives.of("a"), bench.buffer.forgotten_rows) == ({"a": 1}, 1, 3)
    assert (bench.buffer.unstored_rows, bench.buffer.vm_ids()) == (0, ["b"])
    problem = bench.buffer.admit(push("a", TS + 180), NOW_S)
    assert problem is not None
    assert problem.reason == "forgotten"
    assert bench.database.written == ["b"]


def test_what_memory_lets_go_of_for_a_forgetting_is_counted() -> None:
    """Of the unstored samples each once: those held, and those that come too late; what is stored is not dropped."""
    buffer = Buffer(max_rows=100)
    buffer.add(push("a", TS), NOW_S)
    buffer.take()
    buffer.stored("a")
    buffer.add(push("a", TS + 60, TS + 120), NOW_S)
    buffer.lives.learn("a", 1)
    buffer.forget_before("a", 1)
    assert buffer.forgotten_rows == 2
    buffer.add(push("a", TS + 180), NOW_S)
    assert buffer.forgotten_rows == 3
