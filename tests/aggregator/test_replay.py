"""A replay puts back all that was acknowledged, in as many flushes as the buffer needs."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed

from agent.settings import ConfigError
from aggregator.record import encode_record
from aggregator.replay import Replay, replay_journal
from tests.aggregator.flush_fakes import NOW_S, TS, FlushBench, NotedPending, push

Row = tuple[str, int]


class Replayed:
    """Old segments: number -> payloads."""

    def __init__(self, segments: dict[int, list[bytes]]) -> None:
        self.segments = segments

    def replay(self, segment: int) -> Iterator[bytes]:
        yield from self.segments[segment]


def start(
    bench: FlushBench,
    segments: dict[int, list[bytes]],
    *,
    pauses: list[float] | None = None,
    stop_after: int | None = None,
) -> Deferred[Replay]:
    """Begins a replay; every pause is over at once, and it is told to stop after so many of them."""
    seen = [] if pauses is None else pauses

    def pause(seconds: float) -> Awaitable[object]:
        seen.append(seconds)
        return succeed(None)

    return Deferred.fromCoroutine(
        replay_journal(
            sorted(segments),
            journal=Replayed(segments),
            buffer=bench.buffer,
            flusher=bench.flusher,
            pause=pause,
            is_stopping=lambda: stop_after is not None and len(seen) >= stop_after,
        )
    )


def ended(replayed: Deferred[Replay]) -> Replay:
    found: list[Replay] = []
    replayed.addCallback(found.append)
    assert found, "the replay has not ended"
    return found[0]


def outcome(replayed: Deferred[Replay]) -> int:
    return ended(replayed).records


@given(
    sizes=st.lists(st.lists(st.integers(1, 6), max_size=6), min_size=1, max_size=6),
    gaps=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    max_rows=st.integers(1, 12),
)
def test_a_journal_larger_than_the_buffer_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[list[int]], gaps: list[int], max_rows: int
) -> None:
    """However records lie in segments and however small the buffer: a segment goes only once the stores hold it."""
    bench = FlushBench(NotedPending(tmp_path_factory.mktemp("replay") / "summaries.pending"), max_rows=max_rows)
    rows: dict[int, set[Row]] = {}
    segments: dict[int, list[bytes]] = {}
    number, minute = 0, 0
    for records, gap in zip(sizes, gaps, strict=False):
        number += gap
        segments[number], rows[number] = [], set()
        for count in records:
            vm = f"vm-{minute % 3}"
            times = [TS + 60 * (minute + more) for more in range(count)]
            minute += count
            segments[number].append(encode_record(push(vm, *times), NOW_S))
            rows[number] |= {(vm, ts) for ts in times}
    bench.journal.segment = number + 1
    limit = max_rows + 6

    def stored() -> set[Row]:
        return {(vm, ts) for vm, store in bench.workers.stores.items() for ts in store}

    drop = bench.journal.drop_through

    def checked(segment: int) -> None:
        gone = set().union(*(held for known, held in rows.items() if known <= segment))
        assert gone <= stored()
        drop(segment)

    bench.journal.drop_through = checked  # type: ignore[method-assign]
    add = bench.buffer.add

    def bounded(*arguments: object) -> object:
        result = add(*arguments)  # type: ignore[arg-type]
        assert bench.buffer.unstored_rows <= limit
        return result

    bench.buffer.add = bounded  # type: ignore[method-assign,assignment]
    assert outcome(start(bench, segments)) == sum(map(len, segments.values()))
    held = {(vm, int(one["ts"] or 0)) for vm in ("vm-0", "vm-1", "vm-2") for one in bench.buffer.samples(vm)}
    everything: set[Row] = set().union(*rows.values())
    assert stored() | held == everything
    assert bench.flusher.replayed_through is None
    bench.flusher.flush()
    assert stored() == everything
    assert bench.journal.dropped[-1] == bench.journal.segment


def test_row_10_stores_that_fail_hold_up_the_replay_until_they_are_back(tmp_path: Path) -> None:
    """Fault 10 at the start: it waits and tries again, drops nothing meanwhile, and then goes on."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"), max_rows=2)
    bench.workers.broken = {"a": "disk full"}
    pauses: list[float] = []
    work = bench.workers._store

    def mended_after_three(chunk: object) -> object:
        if len(pauses) == 3:
            bench.workers.broken = {}
        return work(chunk)  # type: ignore[arg-type]

    bench.workers._store = mended_after_three  # type: ignore[method-assign,assignment]
    segments = {1: [encode_record(push("a", TS + 60 * number), NOW_S) for number in range(5)]}
    assert outcome(start(bench, segments, pauses=pauses)) == 5
    assert len(pauses) == 3
    assert min(pauses) > 0
    assert len(bench.workers.stores["a"]) == 4
    assert bench.buffer.unstored_rows == 1


def test_a_stop_ends_the_replay_and_drops_nothing(tmp_path: Path) -> None:
    """SIGTERM while stores fail: the program must not wait for them; the next start replays again."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"), max_rows=2)
    bench.workers.broken = {"a": "disk full"}
    segments = {number: [encode_record(push("a", TS + 60 * number), NOW_S)] for number in range(1, 6)}
    assert outcome(start(bench, segments, stop_after=2)) < 5
    assert bench.journal.dropped == []


def test_the_reactor_has_its_turn_during_a_long_replay(tmp_path: Path) -> None:
    """Health checks are answered while millions of records are read."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"), max_rows=10**6)
    pauses: list[float] = []
    segments = {1: [encode_record(push("a", TS + number), NOW_S) for number in range(4_500)]}
    assert outcome(start(bench, segments, pauses=pauses)) == 4_500
    assert pauses == [0.0, 0.0]


def test_a_replay_twice_changes_nothing(tmp_path: Path) -> None:
    """Fault 6: what the stores hold already comes back as duplicates."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    segments = {1: [encode_record(push("a", TS, TS + 60), NOW_S), encode_record(push("a", TS, cpu=0.9), NOW_S)]}
    for _ in range(2):
        outcome(start(bench, segments))
        bench.flusher.flush()
        assert {ts: row for ts, row in bench.workers.stores["a"].items()} == {  # noqa: C416
            TS: push("a", TS).rows,
            TS + 60: push("a", TS + 60).rows,
        }


def of_version_1(record: bytes) -> bytes:
    """The record as the version before lives wrote it: without its token's generation."""
    head = struct.Struct("<BBddQHBH").size
    return b"\x01" + record[1:head] + record[head + 4 :]


def test_row_42_what_an_older_version_took_of_a_forgotten_vm_is_told(tmp_path: Path) -> None:
    """Nobody can tell which of it came with a token of after: it is dropped, counted and named; the rest is kept."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    bench.buffer.lives.learn("a", 1)
    records = [encode_record(push("a", TS, TS + 60), NOW_S), encode_record(push("b", TS), NOW_S)]
    replayed = ended(start(bench, {1: [of_version_1(records[0]), of_version_1(records[1]), records[0]]}))
    assert replayed == Replay(records=3, doubtful={"a": 2})
    assert str(replayed.warning).startswith("dropped 2 samples of 1 VMs that were forgotten since: a. ")
    assert bench.buffer.unstored_rows == 1
    many = Replay(records=0, doubtful={f"vm-{number}": 1 for number in range(20)})
    assert str(many.warning).count("vm-") == 10
    assert ended(start(bench, {1: [records[0]]})).warning is None


def test_row_42_a_record_of_another_version_is_refused_loudly(tmp_path: Path) -> None:
    """Fault 42: read, or refused with the segment's name; never skipped."""
    bench = FlushBench(NotedPending(tmp_path / "summaries.pending"))
    other = bytearray(encode_record(push("a", TS), NOW_S))
    other[0] += 1
    failures: list[BaseException | None] = []
    start(bench, {3: [bytes(other)]}).addErrback(lambda failure: failures.append(failure.value))
    assert len(failures) == 1
    assert isinstance(failures[0], ConfigError)
    assert "journal segment 3" in str(failures[0])
