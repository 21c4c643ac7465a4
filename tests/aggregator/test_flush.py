"""A flush loses nothing: its order, its failures, and what it owes afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from aggregator.flush import SUMMARIES_WITHIN_S
from aggregator.flush_report import FlushReport
from aggregator.flush_take import CHUNK_VMS, chunk_vms_for
from aggregator.pending import PendingSummaries
from aggregator.pool import partition_of
from aggregator.summary import LostStore, Taken
from aggregator.verify_turns import VERIFY_EVERY_S
from tests.aggregator.flush_fakes import NOW_S, TS, FlushBench, NotedPending, push, times_of

VMS = [f"vm-{number}" for number in range(6)]


@pytest.fixture
def bench(tmp_path: Path) -> FlushBench:
    return FlushBench(NotedPending(tmp_path / "summaries.pending"))


def owing(tmp_path: Path, vm: str) -> FlushBench:
    """A flusher after a restart, with one summary still to be written."""
    PendingSummaries(tmp_path / "summaries.pending").replace([vm])
    return FlushBench(NotedPending(tmp_path / "summaries.pending"))


def result(flushed: Deferred[FlushReport]) -> FlushReport:
    """The report of a flush that has ended."""
    found: list[FlushReport] = []
    flushed.addCallback(found.append)
    assert found, "the flush has not ended"
    return found[0]


def whole(bench: FlushBench) -> FlushReport:
    """As whoever asks for a flush gets it: with the summaries written, if the database takes them."""
    return result(bench.flusher.flush().addCallback(bench.flusher.until_written))


def failure(flushed: Deferred[FlushReport]) -> BaseException:
    """Why a flush failed."""
    found: list[Failure] = []
    flushed.addErrback(found.append)
    assert found, "the flush has not failed"
    assert found[0].value is not None
    return found[0].value


def test_the_order_of_a_flush(bench: FlushBench) -> None:
    """Rotate, take, store, summaries, owed ones noted, and only then does the journal's segment go."""
    bench.journal.at_once = False
    bench.buffer.add(push("a", TS), NOW_S)
    flushed = bench.flusher.flush()
    # Acknowledged before the rotation was through: it is in the segment that will go, so it must be taken.
    bench.buffer.add(push("a", TS + 60), NOW_S)
    bench.journal.waiting.pop()(7)
    report = result(flushed)
    assert bench.events == ["rotate", ("store", "a"), "summaries", "pending", ("drop", 7)]
    assert (report.vms, report.rows, report.failures, report.summaries_owed) == (1, 2, {}, 0)
    assert sorted(bench.workers.stores["a"]) == [TS, TS + 60]
    assert bench.buffer.unstored_rows == 0


def test_what_comes_after_the_rotation_is_left_for_the_next(bench: FlushBench) -> None:
    """A later row lies in a later segment, which stays."""
    bench.workers.at_once = False
    bench.buffer.add(push("a", TS), NOW_S)
    flushed = bench.flusher.flush()
    bench.buffer.add(push("a", TS + 60), NOW_S)
    bench.workers.work()
    result(flushed)
    assert sorted(bench.workers.stores["a"]) == [TS]
    assert bench.buffer.unstored_rows == 1


def test_every_vm_goes_to_its_own_partition_in_chunks_sorted_by_id(tmp_path: Path) -> None:
    """A partition gets one bounded chunk after another; every VM is in exactly one."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"), chunk_vms=2)
    bench.workers.at_once = False
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    flushed = bench.flusher.flush()
    while bench.workers.waiting:
        assert len(bench.workers.waiting) <= bench.workers.partitions
        bench.workers.work()
    assert result(flushed).vms == len(VMS)
    by_partition: dict[int, list[str]] = {}
    for partition, chunk in bench.workers.chunks:
        assert 1 <= len(chunk) <= 2
        by_partition.setdefault(partition, []).extend(share.vm_id for share in chunk)
    assert {vm: number for number, vms in by_partition.items() for vm in vms} == {vm: partition_of(vm, 2) for vm in VMS}
    assert all(vms == sorted(vms) for vms in by_partition.values())


def test_row_20_a_chunk_is_no_larger_than_the_descriptors_allow() -> None:
    """A worker opens all stores of a chunk: few descriptors make it small, many do not make it larger than usual."""
    assert chunk_vms_for(10) == 1
    assert 1 < chunk_vms_for(40) < 10
    assert chunk_vms_for(1024) == chunk_vms_for(20_000) == CHUNK_VMS


def test_row_10_a_store_that_fails_keeps_its_rows_and_the_journal(bench: FlushBench) -> None:
    """Fault 10: what one store could not take stays in memory and on disk; the others are served."""
    for vm in ("good", "bad"):
        bench.buffer.add(push(vm, TS), NOW_S)
    bench.workers.broken = {"bad": "disk full"}
    report = result(bench.flusher.flush())
    assert report.failures == {"bad": "disk full"}
    assert bench.journal.dropped == []
    assert bench.buffer.unstored_rows == 1
    assert bench.flusher.stores_failing is not None
    assert "bad: disk full" in bench.flusher.stores_failing
    assert bench.flusher.stores_failing_ratio == 0.5
    assert bench.flusher.totals.store_failures == 1
    bench.workers.broken = {}
    bench.buffer.add(push("bad", TS + 60), NOW_S)
    assert result(bench.flusher.flush()).rows == 2
    assert sorted(bench.workers.stores["bad"]) == [TS, TS + 60]
    assert bench.journal.dropped == [2]
    assert bench.flusher.stores_failing_ratio == 0.0


def test_failing_stores_are_known_even_when_the_owed_cannot_be_noted(bench: FlushBench) -> None:
    """A full disk fails stores and the note alike: the aggregator must still turn not ready."""
    bench.buffer.add(push("a", TS), NOW_S)
    bench.workers.broken = {"a": "disk full"}
    bench.pending.full = True
    result(bench.flusher.flush())
    assert bench.flusher.stores_failing_ratio == 1.0
    assert bench.journal.dropped == []


def test_an_overrun_is_counted_and_not_started_twice(bench: FlushBench) -> None:
    """A tick while a flush runs is left out."""
    bench.workers.at_once = False
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    assert bench.flusher.is_running
    bench.flusher.tick()
    bench.flusher.tick()
    assert bench.events.count("rotate") == 1
    bench.workers.work()
    assert not bench.flusher.is_running
    assert bench.events.count("rotate") == 1
    totals = bench.flusher.totals
    assert (totals.flushes, totals.overruns) == (1, 2)


def test_a_flush_asked_for_during_a_flush_runs_after_it(bench: FlushBench) -> None:
    """Whoever asks gets all that was acknowledged when they asked; two who wait share one flush."""
    bench.workers.at_once = False
    bench.buffer.add(push("a", TS), NOW_S)
    first = bench.flusher.flush()
    bench.buffer.add(push("a", TS + 60), NOW_S)
    second, third = bench.flusher.flush(), bench.flusher.flush()
    bench.workers.work()
    assert result(first).rows == 1
    assert bench.flusher.is_running
    bench.workers.work()
    assert result(second) is result(third)
    assert bench.buffer.unstored_rows == 0
    assert bench.events.count("rotate") == 2


def test_lost_summaries_are_owed_until_they_are_written(bench: FlushBench, tmp_path: Path) -> None:
    """Fault 36: stores go on and the journal is let go; the debt is on disk, and paid even if no row comes."""
    bench.buffer.add(push("a", TS), NOW_S)
    bench.database.away = True
    report = result(bench.flusher.flush())
    assert (report.rows, report.failures, report.summaries_owed) == (1, {}, 1)
    assert bench.journal.dropped == [1]
    assert bench.summaries.counters.failures > 0
    assert PendingSummaries(tmp_path / "summaries.pending").vm_ids == {"a"}
    assert whole(bench).summaries_owed == 1
    bench.database.away = False
    assert whole(bench).summaries_owed == 0
    assert bench.database.written == ["a"]
    assert PendingSummaries(tmp_path / "summaries.pending").vm_ids == frozenset()
    assert result(bench.flusher.flush()).vms == 0


def test_owed_summaries_survive_a_restart(bench: FlushBench, tmp_path: Path) -> None:
    """A VM that has not pushed since is flushed without rows: its store knows the rest."""
    bench.buffer.add(push("a", TS), NOW_S)
    bench.database.away = True
    result(bench.flusher.flush())
    again = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    again.workers.stores = bench.workers.stores
    assert result(again.flusher.flush()).summaries_owed == 0
    ((_, (share,)),) = again.workers.chunks
    assert (share.vm_id, share.rows, share.received_s) == ("a", b"", 0.0)
    assert again.database.written == ["a"]


def test_an_owed_summary_of_a_vm_without_rows_is_let_go(tmp_path: Path) -> None:
    """A store that holds nothing has no summary; it is not asked for one at every flush from now on."""
    bench = owing(tmp_path, "ghost")
    assert result(bench.flusher.flush()).summaries_owed == 0
    assert bench.pending.vm_ids == frozenset()


def test_an_owed_summary_whose_store_fails_is_still_owed(tmp_path: Path) -> None:
    """Only a summary that was written pays the debt."""
    bench = owing(tmp_path, "a")
    bench.workers.broken = {"a": "locked"}
    assert result(bench.flusher.flush()).summaries_owed == 1
    assert bench.pending.vm_ids == {"a"}


def test_the_journal_stays_when_the_owed_cannot_be_noted(bench: FlushBench) -> None:
    """Without the note only the journal knows whose summary is missing."""
    bench.buffer.add(push("a", TS), NOW_S)
    bench.database.away = True
    bench.pending.full = True
    result(bench.flusher.flush())
    assert bench.journal.dropped == []
    bench.pending.full = False
    result(bench.flusher.flush())
    assert bench.journal.dropped == [2]
    assert bench.pending.vm_ids == {"a"}


@pytest.mark.parametrize(("replayed_through", "dropped"), [(None, 9), (3, 3), (20, 9)])
def test_a_replay_limits_what_is_dropped(bench: FlushBench, replayed_through: int | None, dropped: int) -> None:
    """A segment that is still being read is not in the stores yet."""
    bench.journal.segment = 8
    bench.flusher.replayed_through = replayed_through
    bench.buffer.add(push("a", TS), NOW_S)
    result(bench.flusher.flush())
    assert bench.journal.dropped == [dropped]


@pytest.mark.parametrize("later", [4, None])
def test_a_replay_that_goes_on_during_a_flush_does_not_widen_it(bench: FlushBench, later: int | None) -> None:
    """What counts is how far the replay was when the buffer was taken, not when the flush ends."""
    bench.journal.segment = 8
    bench.workers.at_once = False
    bench.flusher.replayed_through = 3
    bench.buffer.add(push("a", TS), NOW_S)
    flushed = bench.flusher.flush()
    bench.buffer.add(push("a", TS + 60), NOW_S)  # from segment 4
    bench.flusher.replayed_through = later
    bench.workers.work()
    result(flushed)
    assert bench.journal.dropped == [3]
    assert bench.buffer.unstored_rows == 1


def test_fault_22_a_clock_in_doubt_deletes_nothing(bench: FlushBench) -> None:
    """While most VMs seem to be a year off, it is ours that is wrong; one wrong VM is only that."""
    result_of: list[set[bool]] = []
    for skew_s, vms in ((365 * 86400.0, VMS), (-365 * 86400.0, VMS), (0.5, VMS), (1e6, VMS[:2]), (1e6, VMS[:4])):
        bench.workers.forgot.clear()
        for vm in VMS:
            off_s = skew_s if vm in vms else 0.0
            bench.buffer.add(push(vm, TS + 60 * len(result_of), sent_s=NOW_S - off_s), NOW_S)
        result(bench.flusher.flush())
        result_of.append(set(bench.workers.forgot))
    assert result_of == [{False}, {False}, {True}, {True}, {False}]


def test_a_flush_without_any_vm_in_memory_deletes_nothing(tmp_path: Path) -> None:
    """After a restart nobody has said yet what time it is."""
    bench = owing(tmp_path, "a")
    result(bench.flusher.flush())
    assert bench.workers.forgot == [False]


def test_a_forgotten_vm_is_not_flushed(tmp_path: Path) -> None:
    """A VM that an admin forgets during a flush gets no new, empty store."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"), chunk_vms=1)
    bench.journal.at_once = False
    bench.workers.at_once = False
    first, second, third = sorted(f"vm-{number}" for number in range(99) if partition_of(f"vm-{number}", 2) == 0)[:3]
    for vm in (first, second, third):
        bench.buffer.add(push(vm, TS), NOW_S)
    flushed = bench.flusher.flush()
    bench.journal.waiting.pop()(1)
    bench.buffer.forget(third)
    while bench.workers.waiting:
        bench.workers.work()
    assert result(flushed).vms == 2
    assert [share.vm_id for _, chunk in bench.workers.chunks for share in chunk] == [first, second]


def test_a_flush_that_fails_waits_for_all_partitions_and_the_next_one_works(bench: FlushBench) -> None:
    """A bug in one partition must not let the next flush take what another is still storing."""
    zero, one = (next(vm for vm in VMS if partition_of(vm, 2) == number) for number in (0, 1))
    for vm in (zero, one):
        bench.buffer.add(push(vm, TS), NOW_S)
    submit = bench.workers.submit

    def broken(*arguments: object) -> None:
        if arguments[0] == 0:
            raise RuntimeError("a bug")
        bench.workers.at_once = False
        submit(*arguments)  # type: ignore[arg-type]

    bench.workers.submit = broken  # type: ignore[method-assign,assignment]
    flushed = bench.flusher.flush()
    assert bench.flusher.is_running
    bench.workers.work()
    assert str(failure(flushed)) == "a bug"
    assert not bench.flusher.is_running
    assert bench.journal.dropped == []
    assert bench.buffer.unstored_rows == 1
    bench.workers.submit = submit
    bench.workers.at_once = True
    assert result(bench.flusher.flush()).rows == 1
    assert bench.journal.dropped == [2]


def test_a_failed_tick_is_logged_and_the_next_one_runs(bench: FlushBench) -> None:
    """The schedule survives whatever a flush meets."""
    bench.journal.rotate = lambda done: done(1) if bench.events else 1 / 0  # type: ignore[method-assign,assignment]
    bench.flusher.tick()
    bench.events.append("mended")
    bench.flusher.tick()
    assert bench.flusher.totals.flushes == 1


def test_totals_add_up(bench: FlushBench) -> None:
    """What `/metrics` shows of flushes."""
    for vm in ("a", "b"):
        bench.buffer.add(push(vm, TS, TS + 60), NOW_S)
    bench.buffer.add(push("a", TS, cpu=0.9), NOW_S)
    bench.workers.lost = {"a": LostStore("it was changed", "stores/a.damaged-1"), "b": LostStore("it was gone", None)}
    bench.workers.at_once = False
    flushed = bench.flusher.flush()
    bench.now_s += 4.0
    bench.workers.work()
    assert result(flushed).seconds == 4.0
    totals = bench.flusher.totals
    assert (totals.flushes, totals.rows, totals.stores, totals.conflicts) == (1, 4, 2, 1)
    assert (totals.last_s, totals.last_duration_s, totals.seconds) == (NOW_S + 4.0, 4.0, 4.0)
    assert totals.stores_lost == 2 * len(bench.workers.chunks)


def test_rows_of_a_flush_are_those_of_the_buffer(bench: FlushBench) -> None:
    """A chunk carries the packed rows as they came."""
    bench.buffer.add(push("a", TS + 60, TS), NOW_S)
    result(bench.flusher.flush())
    ((_, (share,)),) = bench.workers.chunks
    assert times_of(share.rows) == [TS + 60, TS]


def test_figures_that_were_spared_are_read_once_the_vm_is_silent(bench: FlushBench) -> None:
    """The schedule leaves figures of an open hour alone; the last of them are not forgotten."""
    bench.workers.spares_figures = True
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    bench.flusher.tick()
    bench.flusher.tick()
    assert [times_of(share.rows) for _, (share,) in bench.workers.chunks] == [[TS], []]


def test_whoever_asks_for_a_flush_gets_figures(bench: FlushBench) -> None:
    """Also where it had to wait for a scheduled one."""
    bench.workers.at_once = False
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    asked = bench.flusher.flush()
    bench.buffer.add(push("a", TS + 60), NOW_S)
    bench.workers.work()
    bench.workers.work()
    result(asked)
    assert [share.wants_figures for _, (share,) in bench.workers.chunks] == [False, True]


def test_an_owed_summary_is_owed_with_its_figures(tmp_path: Path) -> None:
    """They may be those of an hour that closed while the database was away."""
    bench = owing(tmp_path, "a")
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    bench.buffer.add(push("a", TS + 60), NOW_S)
    bench.flusher.tick()
    assert [share.wants_figures for _, (share,) in bench.workers.chunks] == [True, False]


def full(tmp_path: Path) -> FlushBench:
    """A flusher whose queue, full with one VM, waits for a database that is away, and that owes another."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"), queue_vms=1)
    bench.database.away = True
    bench.buffer.add(push("queued", TS), NOW_S)
    bench.flusher.tick()
    bench.buffer.add(push("owed", TS), NOW_S)
    bench.flusher.tick()
    bench.workers.chunks.clear()
    return bench


def test_row_36_what_does_not_fit_into_the_queue_is_owed(tmp_path: Path) -> None:
    """Fault 36: a flush ends though the database is away and the queue is full; both VMs are noted on disk."""
    bench = full(tmp_path)
    assert bench.flusher.totals.flushes == 2
    assert bench.journal.dropped == [1, 2]
    assert bench.summaries.vm_ids == {"queued"}
    assert PendingSummaries(tmp_path / "summaries.pending").vm_ids == {"owed", "queued"}


def test_row_36_debts_are_not_read_again_and_again_while_the_database_is_away(tmp_path: Path) -> None:
    """Each reading costs the workers' time; a VM that pushes keeps its debt, of which the figures may be a part."""
    bench = full(tmp_path)
    bench.flusher.tick()
    assert bench.workers.chunks == []
    bench.buffer.add(push("owed", TS + 60), NOW_S)
    bench.flusher.tick()
    assert [share.wants_figures for share in shares(bench).values()] == [False]
    bench.database.away = False
    bench.reactor.advance(1.0)
    assert bench.database.written == ["queued"]
    assert bench.flusher.summaries_owed == 1
    bench.flusher.tick()
    assert [(share.vm_id, share.wants_figures) for share in shares(bench).values()] == [("owed", True)]
    assert bench.database.written == ["queued", "owed"]
    assert bench.flusher.summaries_owed == 0


def test_figures_that_were_owed_stay_owed_until_they_are_read(tmp_path: Path) -> None:
    """The database comes back while a VM is flushed without its figures: an hour that closed before is not lost."""
    bench = full(tmp_path)
    bench.workers.at_once = False
    bench.buffer.add(push("owed", TS + 60), NOW_S)
    bench.flusher.tick()
    bench.database.away = False
    bench.reactor.advance(1.0)
    bench.workers.work()
    assert bench.database.written == ["queued", "owed"]
    assert PendingSummaries(tmp_path / "summaries.pending").vm_ids == {"owed"}


def test_what_waits_in_the_queue_is_not_read_again(bench: FlushBench) -> None:
    """The queue has it; no store is opened for it a second time."""
    bench.database.away = True
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    bench.workers.chunks.clear()
    bench.flusher.tick()
    assert bench.workers.chunks == []
    bench.database.away = False
    bench.reactor.advance(1.0)
    assert bench.database.written == ["a"]


def test_row_36_a_database_that_hangs_holds_up_no_flush(tmp_path: Path) -> None:
    """Fault 36: ticks go on; whoever asks gets an answer in a minute, which says what is owed."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    hanging: list[Callable[[], object]] = []
    bench.hang = hanging.append
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    bench.buffer.add(push("b", TS), NOW_S)
    bench.flusher.tick()
    assert (bench.flusher.totals.flushes, bench.flusher.totals.overruns, bench.journal.dropped) == (2, 0, [1, 2])
    asked = bench.flusher.flush().addCallback(bench.flusher.until_written)
    bench.flusher.tick()
    assert bench.flusher.totals.flushes == 4
    answers: list[FlushReport] = []
    asked.addCallback(answers.append)
    bench.reactor.advance(SUMMARIES_WITHIN_S - 1)
    assert answers == []
    bench.reactor.advance(1.0)
    assert answers[0].summaries_owed == 2
    assert len(hanging) == 1


def test_a_forgotten_vm_is_not_written(bench: FlushBench) -> None:
    """Neither what waits in the queue nor what is owed brings its row back."""
    bench.database.away = True
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    bench.buffer.forget("a")
    bench.flusher.forget("a")
    bench.database.away = False
    bench.reactor.advance(60.0)
    result(bench.flusher.flush())
    assert bench.database.written == []
    assert bench.pending.vm_ids == frozenset()


def test_a_forgotten_vm_owes_no_figures(bench: FlushBench) -> None:
    """It is not flushed again, so that its store does not come back."""
    bench.workers.spares_figures = True
    bench.buffer.add(push("a", TS), NOW_S)
    bench.flusher.tick()
    bench.buffer.forget("a")
    bench.flusher.tick()
    assert len(bench.workers.chunks) == 1


def shares(bench: FlushBench) -> dict[str, Taken]:
    """What the workers were given in the last flush, by VM."""
    found = {share.vm_id: share for _, chunk in bench.workers.chunks for share in chunk}
    bench.workers.chunks.clear()
    return found


def test_row_18_workers_are_told_who_had_a_history(tmp_path: Path) -> None:
    """VMs with a summary at the start, and those that were stored since; not one that an admin forgot."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"), known_vms=["old"])
    for step in range(2):
        for vm in ("old", "new"):
            bench.buffer.add(push(vm, TS + step), NOW_S)
        result(bench.flusher.flush())
        given = shares(bench)
        assert given["old"].had_history
    assert given["new"].had_history
    bench.flusher.forget("old")
    result(bench.flusher.flush())
    bench.buffer.add(push("old", TS + 60), NOW_S)
    result(bench.flusher.flush())
    assert not shares(bench)["old"].had_history


def test_row_17_every_store_is_verified_once_in_its_time(tmp_path: Path) -> None:
    """In the weeks it takes, each store of VMs that push is verified once and about as many in each flush."""
    vms = [f"vm-{number}" for number in range(40)]
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    counts = dict.fromkeys(vms, 0)
    begin_s, steps = bench.now_s, int(VERIFY_EVERY_S / 3600)
    for step in range(steps + 1):
        bench.now_s = begin_s + step * 3600.0
        for vm in vms:
            bench.buffer.add(push(vm, TS + step * 3600, sent_s=bench.now_s), bench.now_s)
        result(bench.flusher.flush(all_figures=False))
        due = [vm for vm, share in shares(bench).items() if share.verify]
        assert len(due) <= 5
        for vm in due:
            counts[vm] += 1
    assert set(counts.values()) == {1}


def test_row_22_a_clock_that_jumps_does_not_verify_all_stores_at_once(tmp_path: Path) -> None:
    """After a year ahead, or back, a flush verifies what an hour would have."""
    vms = [f"vm-{number}" for number in range(200)]
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    for jump_s in (0.0, 365 * 86400.0, -365 * 86400.0):
        bench.now_s += jump_s
        for vm in vms:
            bench.buffer.add(push(vm, TS + int(bench.now_s) % 1000), bench.now_s)
        result(bench.flusher.flush())
        assert sum(share.verify for share in shares(bench).values()) <= 5


def turned(tmp_path: Path, *, known: bool = True) -> FlushBench:
    """A flusher with two turns, and the VMs of `VMS`, which are known for long."""
    return FlushBench(NotedPending(tmp_path / "summaries.pending"), turns=2, known_vms=VMS if known else ())


def stored_by_turn(bench: FlushBench) -> list[str]:
    """VMs that the next scheduled flush stores, in order."""
    bench.events.clear()
    result(bench.flusher.flush_turn())
    return sorted(vm for event in bench.events if event[0] == "store" for vm in event[1:])  # type: ignore[index]


def test_each_vm_is_stored_at_its_turn(tmp_path: Path) -> None:
    """Two scheduled flushes store every VM once; a segment goes when both have stored what it holds."""
    bench = turned(tmp_path)
    bench.workers.old = True
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    first = stored_by_turn(bench)
    assert 0 < len(first) < len(VMS)
    assert bench.journal.dropped == []
    assert sorted([*first, *stored_by_turn(bench)]) == VMS
    assert bench.journal.dropped == [1]
    assert bench.buffer.unstored_rows == 0
    stored_by_turn(bench)
    assert bench.journal.dropped == [1, 2]


def test_vm_that_is_hurried_does_not_wait_for_its_turn(tmp_path: Path) -> None:
    """Another node waits for its rows: the next scheduled flush stores them, and the one after that is as ever."""
    bench = turned(tmp_path)
    bench.workers.old = True
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    turns = bench.flusher._turns
    late = next(vm for vm in VMS if turns.turn_of(vm) == 1)
    bench.flusher.hurry(late)
    assert late in stored_by_turn(bench)
    stored_by_turn(bench)
    bench.buffer.add(push(late, TS + 60), NOW_S)
    assert late not in stored_by_turn(bench)


def test_whose_turn_is_another_is_told_of(tmp_path: Path) -> None:
    """The fleet database learns when VMs were last heard of that the flush leaves for later."""
    bench = turned(tmp_path)
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    later = set(VMS) - set(stored_by_turn(bench))
    assert {(one.vm_id, one.newest_s, one.received_s) for one in bench.database.told} == {
        (vm, TS, NOW_S) for vm in later
    }


def test_new_and_young_vms_have_no_turn(tmp_path: Path) -> None:
    """Who is not known yet, or for less than a day, is stored by every flush."""
    bench = turned(tmp_path, known=False)
    for minute in range(3):
        for vm in VMS:
            bench.buffer.add(push(vm, TS + 60 * minute), NOW_S)
        assert stored_by_turn(bench) == VMS
        assert bench.buffer.unstored_rows == 0


def test_a_store_that_failed_is_tried_by_the_next_flush(tmp_path: Path) -> None:
    """Its turn does not matter; the journal keeps what its turn brought until it is stored."""
    bench = turned(tmp_path)
    bench.workers.old = True
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    bench.workers.broken = dict.fromkeys(VMS, "no")
    stored_by_turn(bench)
    stored_by_turn(bench)
    assert bench.journal.dropped == []
    bench.workers.broken = {}
    assert stored_by_turn(bench) == VMS
    assert bench.buffer.unstored_rows == 0
    assert bench.journal.dropped == [2]
    stored_by_turn(bench)
    assert bench.journal.dropped == [2, 3]


def test_whoever_asks_gets_all_turns(tmp_path: Path) -> None:
    """A flush that is asked for stores everybody and lets the journal go."""
    bench = turned(tmp_path)
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    assert whole(bench).vms == len(VMS)
    assert bench.journal.dropped == [1]


def test_a_turn_and_a_whole_flush_that_wait_become_a_whole_one(tmp_path: Path) -> None:
    """Both are asked for while a flush runs: the one after it leaves nobody out."""
    bench = turned(tmp_path)
    bench.workers.at_once = False
    bench.buffer.add(push(VMS[0], TS), NOW_S)
    bench.flusher.flush()
    for vm in VMS:
        bench.buffer.add(push(vm, TS + 60), NOW_S)
    bench.flusher.flush_turn()
    asked = bench.flusher.flush()
    bench.workers.work()
    bench.workers.work()
    assert result(asked).vms == len(VMS)


def test_a_vm_at_home_elsewhere_does_not_wait_for_its_turn(tmp_path: Path) -> None:
    """It came back, and the fleet database learns of that only when its rows are stored: the next flush does so."""
    bench = turned(tmp_path)
    bench.workers.old = True
    for vm in VMS:
        bench.buffer.add(push(vm, TS), NOW_S)
    bench.flusher.flush()
    for vm in VMS:
        bench.buffer.add(push(vm, TS + 60), NOW_S)
    others = VMS[:]
    bench.database.elsewhere = set(VMS)
    for vm in stored_by_turn(bench):
        others.remove(vm)
        bench.buffer.add(push(vm, TS + 120), NOW_S)
    again = stored_by_turn(bench)
    assert set(others) <= set(again)
