"""Rows are taken from a large fleet in pieces: what comes, goes and changes between them does no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from aggregator.buffer import Buffer
from aggregator.flush_report import FlushReport
from aggregator.flush_take import Pieces, take
from tests.aggregator.flush_fakes import NOW_S, TS, FlushBench, NotedPending, push

VMS = [f"vm-{number}" for number in range(9)]


class Turns:
    """A reactor's turns, under the test's hand."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def call(self, work: Callable[..., object], *arguments: object) -> None:
        """As `callFromThread`."""
        self.waiting.append(lambda: work(*arguments))

    def end(self, between: Callable[[], object] = lambda: None) -> None:
        """Has all their turns, with something between them."""
        while self.waiting:
            between()
            self.waiting.pop(0)()


def test_others_have_their_turn_between_pieces_of_a_flush(tmp_path: Path) -> None:
    """What was acknowledged before the rotation is stored; of what comes between pieces nothing is lost."""
    turns = Turns()
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    bench.flusher._pieces = Pieces(turns.call, 2)
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    reports: list[FlushReport] = []
    bench.flusher.flush().addCallback(reports.append)
    assert len(turns.waiting) == 1
    assert bench.events == ["rotate"]
    later = [*VMS, "new"]
    for vm in later:
        bench.buffer.add(push(vm, TS + 60), NOW_S)
    bench.buffer.forget(VMS[-1])
    turns.end()
    assert reports[0].vms == len(VMS) - 1
    assert bench.journal.dropped == [1]
    stored = {vm: set(rows) for vm, rows in bench.workers.stores.items()}
    assert all(TS in stored[vm] for vm in VMS[:-1])
    unstored = [vm for vm in later if TS + 60 not in stored.get(vm, set())]
    assert bench.buffer.unstored_rows == len(unstored) - 1  # but for the one that was forgotten
    bench.flusher.flush()
    turns.end()
    assert bench.buffer.unstored_rows == 0
    assert all({TS, TS + 60} <= bench.workers.stores[vm].keys() for vm in VMS[:-1])
    assert bench.workers.stores["new"].keys() == {TS + 60}


@given(
    vms=st.integers(1, 3),
    before=st.lists(st.sampled_from(VMS), max_size=12),
    between=st.lists(st.tuples(st.sampled_from(["push", "forget"]), st.sampled_from(VMS)), max_size=12),
    unwanted=st.sets(st.sampled_from(VMS)),
)
def test_all_that_was_there_is_taken_whatever_comes_between(
    vms: int, before: list[str], between: list[tuple[str, str]], unwanted: set[str]
) -> None:
    """Each wanted VM with rows at the start is chosen once, sorted in its partition, with at least those rows."""
    turns, buffer = Turns(), Buffer(max_rows=1_000)
    minutes = iter(range(TS, TS + 60_000, 60))
    for vm in before:
        buffer.add(push(vm, next(minutes)), NOW_S)
    held = {vm: len(list(buffer.samples(vm))) for vm in before}
    events = iter(between)
    forgotten: set[str] = set()
    pushed: set[str] = set()

    def one_event() -> None:
        what, vm = next(events, ("", ""))
        if what == "push":
            buffer.add(push(vm, next(minutes)), NOW_S)
            pushed.add(vm)
        elif what == "forget":
            buffer.forget(vm)
            forgotten.add(vm)

    pieces = Pieces(turns.call, vms)
    due = {"due", *VMS[:2]}
    taking = Deferred.fromCoroutine(
        take(buffer, pieces, wanted=lambda vm: vm not in unwanted, due=due, owed=["a"], partitions=2)
    )
    found: list[list[list[str]]] = []
    taking.addCallback(found.append)
    turns.end(one_event)
    shares = found[0]
    assert all(share == sorted(share) for share in shares)
    chosen = [vm for share in shares for vm in share]
    assert len(chosen) == len(set(chosen))
    assert {"a", "due"} | (set(VMS[:2]) - unwanted - forgotten - pushed) <= set(chosen)
    for vm in set(before) - unwanted - forgotten:
        taken = buffer.taken(vm)
        assert vm in chosen
        assert taken is not None
        assert len(taken.rows) >= len(b"".join(push(vm, TS).rows for _ in range(held[vm])))
