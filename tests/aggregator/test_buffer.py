"""Nothing leaves memory before it is stored, and two machines never pass as one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.buffer import LIVE_ROWS, Buffer
from aggregator.buffer_entry import Added
from aggregator.rows import ROW_BYTES
from aggregator.summary import Heard
from tests.aggregator.flush_fakes import NOW_S, TS, push, row, times_of

VM = "web-1"
MAX_ROWS = 40


def rows_held(buffer: Buffer, vm: str = VM) -> list[int]:
    return sorted(int(one["ts"] or 0) for one in buffer.samples(vm))


def flush(buffer: Buffer) -> dict[str, list[int]]:
    """A flush in which every store takes its rows; VM -> their times."""
    taken = {vm: buffer.taken(vm) for vm in buffer.take()}
    for vm in taken:
        buffer.stored(vm)
    return {vm: times_of(share.rows) for vm, share in taken.items() if share is not None}


class Model(RuleBasedStateMachine):
    """The buffer beside a dictionary of all that was ever accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = Buffer(max_rows=10**6)
        self.accepted: dict[str, dict[int, bytes]] = {}
        self.stored: dict[str, set[int]] = {}
        self.conflicts: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.taken: dict[str, list[int]] | None = None
        self.now_s = NOW_S

    @rule(
        vm=st.sampled_from(["a", "b", "c"]),
        minutes=st.lists(st.integers(0, 30), min_size=1, max_size=12),
        cpu=st.sampled_from([0.25, 0.5]),
    )
    def push(self, vm: str, minutes: list[int], cpu: float) -> None:
        """Any times in any order, repeated within the push and of old ones, with the same figures or others."""
        self.now_s += 1
        times = [TS + 60 * minute for minute in minutes]
        one = push(vm, *times, cpu=cpu)
        assert self.buffer.admit(one, self.now_s) is None
        mine = self.accepted.setdefault(vm, {})
        held = set(rows_held(self.buffer, vm))
        expected = [0, 0, 0]
        for ts in times:
            if ts in held and mine[ts] == row(ts, cpu):
                expected[1] += 1
            elif ts in held:
                expected[2] += 1
            else:
                # New, or long stored and dropped from memory: the store decides then, and the first stays there.
                expected[0] += 1
                held.add(ts)
                if ts in self.stored.get(vm, set()):
                    self.stored[vm].remove(ts)
                mine[ts] = row(ts, cpu)
        assert self.buffer.add(one, self.now_s) == Added(*expected)
        self.conflicts[vm] = self.conflicts.get(vm, 0) + expected[2]

    @precondition(lambda self: self.taken is None)
    @rule()
    def take(self) -> None:
        """A flush begins: it is given every unstored row and every conflict."""
        owing = self.buffer.take()
        self.taken = {}
        for vm, rows in self.accepted.items():
            due = sorted(set(rows) - self.stored.setdefault(vm, set()))
            share = self.buffer.taken(vm)
            assert share is not None
            assert sorted(times_of(share.rows)) == due
            for at in range(0, len(share.rows), ROW_BYTES):
                one = share.rows[at : at + ROW_BYTES]
                assert one == rows[times_of(one)[0]]
            assert share.conflicts == self.conflicts.get(vm, 0) - self.told.get(vm, 0)
            assert (vm in owing) == bool(due or share.conflicts)
            self.taken[vm] = due
            self.taken_conflicts = {vm: count for vm, count in self.conflicts.items()}  # noqa: C416
        assert len(owing) == len(set(owing))

    @precondition(lambda self: self.taken is not None)
    @rule(broken=st.sets(st.sampled_from(["a", "b", "c"])))
    def settle(self, broken: set[str]) -> None:
        """It ends: some stores took their rows, others did not; those are owed as before."""
        assert self.taken is not None
        for vm, due in self.taken.items():
            if vm not in broken and vm in self.accepted:
                self.buffer.stored(vm)
                self.stored[vm].update(due)
                self.told[vm] = self.taken_conflicts.get(vm, 0)
        self.taken = None

    @precondition(lambda self: self.taken is None)
    @rule(vm=st.sampled_from(["a", "b", "c"]))
    def forget(self, vm: str) -> None:
        """An admin forgets a VM."""
        self.buffer.forget(vm)
        for part in (self.accepted, self.stored, self.conflicts, self.told):
            part.pop(vm, None)

    @invariant()
    def counts_what_is_not_stored(self) -> None:
        """`unstored_rows` is exact."""
        owed = sum(len(set(rows) - self.stored.get(vm, set())) for vm, rows in self.accepted.items())
        assert self.buffer.unstored_rows == owed

    @invariant()
    def holds_what_is_not_stored(self) -> None:
        """No unstored row is ever missing from memory."""
        for vm, rows in self.accepted.items():
            assert set(rows) - self.stored.get(vm, set()) <= set(rows_held(self.buffer, vm))

    @invariant()
    def shows_the_present(self) -> None:
        """`live` has the newest samples by time, whatever the order they came in."""
        shown = {str(one["vm"]): one["samples"] for one in self.buffer.live(0.0)}
        assert shown.keys() == self.accepted.keys()
        for vm, samples in shown.items():
            assert isinstance(samples, list)
            assert [one["ts"] for one in samples] == sorted(self.accepted[vm])[-LIVE_ROWS:]


TestModel = Model.TestCase


def test_what_comes_during_a_flush_waits_for_the_next() -> None:
    """Rows that arrive between take and stored are neither given to that flush nor counted as stored by it."""
    buffer = Buffer(max_rows=MAX_ROWS)
    buffer.add(push(VM, TS), NOW_S)
    assert buffer.take() == [VM]
    buffer.add(push(VM, TS + 60), NOW_S)
    share = buffer.taken(VM)
    assert share is not None
    assert times_of(share.rows) == [TS]
    buffer.stored(VM)
    assert buffer.unstored_rows == 1
    assert flush(buffer) == {VM: [TS + 60]}
    assert buffer.take() == []


def test_the_last_samples_stay_after_a_flush_whatever_their_order() -> None:
    """An old spool that drains does not push the present out of memory."""
    buffer = Buffer(max_rows=10_000)
    buffer.add(push(VM, *range(TS, TS + 20 * 60, 60)), NOW_S)
    buffer.add(push(VM, *range(TS - 100 * 60, TS, 60)), NOW_S)
    flush(buffer)
    assert rows_held(buffer) == list(range(TS + 10 * 60, TS + 20 * 60, 60))
    buffer.add(push(VM, TS + 20 * 60), NOW_S)
    flush(buffer)
    assert rows_held(buffer) == list(range(TS + 11 * 60, TS + 21 * 60, 60))


def test_memory_does_not_grow_with_history() -> None:
    """After each flush a VM costs its last samples and no more."""
    buffer = Buffer(max_rows=10_000)
    for start in range(0, 3_000, 30):
        buffer.add(push(VM, *(TS + 60 * (start + minute) for minute in range(30))), NOW_S)
        flush(buffer)
        assert len(rows_held(buffer)) == LIVE_ROWS


def test_a_full_buffer_is_503_and_takes_again_after_a_flush() -> None:
    """Fault 7: memory stays bounded; the answer says when to come back; what is in is kept."""
    buffer = Buffer(max_rows=MAX_ROWS)
    buffer.add(push(VM, *(TS + 60 * minute for minute in range(MAX_ROWS))), NOW_S)
    assert buffer.fullness == 1.0
    problem = buffer.admit(push("other", TS), NOW_S)
    assert problem is not None
    assert (problem.status, problem.reason) == (503, "buffer-full")
    assert problem.retry_after_s is not None
    assert not problem.close
    assert len(flush(buffer)[VM]) == MAX_ROWS
    assert buffer.admit(push("other", TS), NOW_S) is None


def test_a_batch_larger_than_the_buffer_is_taken_alone() -> None:
    """Refused for good, it would block the spool of its agent for ever."""
    buffer = Buffer(max_rows=3)
    batch = push(VM, *(TS + 60 * minute for minute in range(5)))
    assert buffer.admit(batch, NOW_S) is None
    buffer.add(batch, NOW_S)
    assert buffer.admit(push("other", TS), NOW_S) is not None


def test_news_of_the_clock_are_of_the_push_that_came_last() -> None:
    """Last seen and skew follow arrival, also after our own clock was set back a year."""
    buffer = Buffer(max_rows=MAX_ROWS)
    year_s = 365 * 86400.0
    buffer.add(push(VM, TS, sent_s=NOW_S), NOW_S + year_s)
    assert buffer.skews_s() == [year_s]
    buffer.add(push(VM, TS + 60, sent_s=NOW_S), NOW_S + 2.5)
    assert buffer.skews_s() == [2.5]
    assert buffer.newest_received_s == NOW_S + 2.5


def test_live_gives_pages_by_id_and_single_vms() -> None:
    """Pages follow each other without a gap or a VM twice; one VM alone is found at once."""
    buffer = Buffer(max_rows=MAX_ROWS)
    for vm in ("c", "a", "b"):
        buffer.add(push(vm, TS, boot=f"boot-{vm}"), NOW_S)
    first = buffer.live(0.0, limit=2)
    assert [(one["vm"], one["boot"]) for one in first] == [("a", "boot-a"), ("b", "boot-b")]
    assert [one["vm"] for one in buffer.live(0.0, after="b", limit=2)] == ["c"]
    assert [one["vm"] for one in buffer.live(0.0, vm="b")] == ["b"]
    assert buffer.live(0.0, vm="d") == buffer.live(NOW_S + 1, vm="b") == []


def test_pages_follow_each_other_whoever_comes_and_goes() -> None:
    """A look's pages have every VM that was there from its first to its last, once; the next look has all others."""
    buffer = Buffer(max_rows=MAX_ROWS)

    def look(between: Callable[[], object]) -> list[str]:
        found: list[str] = []
        while page := [str(one["vm"]) for one in buffer.live(0.0, after=found[-1] if found else "", limit=2)]:
            found += page
            between()
        return found

    assert buffer.live(0.0, after="a", limit=2) == []
    for vm in "hbdf":
        buffer.add(push(vm, TS), NOW_S)
    assert look(lambda: None) == ["b", "d", "f", "h"]
    coming = iter("ga")
    assert [vm for vm in look(lambda: buffer.add(push(next(coming), TS), NOW_S)) if vm in "bdfh"] == list("bdfh")
    assert look(lambda: buffer.forget("f")) == list("abdgh")
    buffer.add(push("f", TS), NOW_S)
    assert look(lambda: None) == list("abdfgh")
    assert buffer.forget_silent(["d"], NOW_S + 10 * 86400.0) == 0  # owes a row
    flush(buffer)
    assert buffer.forget_silent(["d"], NOW_S + 10 * 86400.0) == 1
    assert look(lambda: None) == list("abfgh")


def test_many_clocks_are_sampled() -> None:
    """Of many VMs some clocks are asked, spread over all; of few, all."""
    buffer = Buffer(max_rows=MAX_ROWS)
    for number in range(10):
        buffer.add(push(f"vm-{number}", TS, sent_s=NOW_S), NOW_S + number)
    assert buffer.skews_s() == list(range(10))
    assert buffer.skews_s(most=5) == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_those_who_wait_are_told_as_they_are_when_asked_for() -> None:
    """VMs that come, go or are taken while others are told are neither an error nor told wrongly."""
    buffer = Buffer(max_rows=MAX_ROWS)
    for vm in "abcd":
        buffer.add(push(vm, TS), NOW_S)
    waiting = buffer.waiting()
    assert next(waiting) == Heard("a", TS, NOW_S, 0.0)
    buffer.forget("b")
    buffer.add(push("e", TS), NOW_S)
    assert buffer.take(["c"]) == ["c"]
    assert [heard.vm_id for heard in waiting] == ["d"]


def test_live_leaves_out_those_silent_since() -> None:
    """`since` is compared with when a VM was last heard of; flags are in the words of the fleet database."""
    buffer = Buffer(max_rows=MAX_ROWS)
    buffer.add(push("old", TS), NOW_S - 100)
    buffer.add(push("new", TS, sent_s=NOW_S - 500), NOW_S)
    (only,) = buffer.live(NOW_S)
    assert (only["vm"], only["last_seen_s"], only["skew_s"], only["flags"]) == ("new", NOW_S, 500.0, ["clock_skew"])
    assert len(buffer.live(0.0)) == len(buffer) == 2


def clones(buffer: Buffer, *pushes: tuple[str, int]) -> list[int | None]:
    """Statuses of pushes given as (boot, minute), each kept where it is admitted; None: admitted."""
    statuses = []
    for boot, minute in pushes:
        one = push(VM, TS + 60 * minute, boot=boot, cpu={"A": 0.1, "B": 0.2}.get(boot, 0.3))
        problem = buffer.admit(one, NOW_S)
        if problem is None:
            buffer.add(one, NOW_S)
        statuses.append(problem.status if problem else None)
    return statuses


@pytest.mark.parametrize(
    "order",
    [
        [("A", 1), ("B", 2), ("A", 3)],
        # Both push at the same second of the minute, the copy always just behind the original.
        [("A", 1), ("B", 1), ("A", 2)],
        # The clock of the copy is minutes behind.
        [("A", 1), ("A", 5), ("B", 3), ("A", 6)],
        [("A", 1), ("B", 1), ("C", 1), ("A", 2)],
        [("A", 1), ("B", 2), ("C", 3), ("B", 4)],
    ],
)
def test_fault_29_two_machines_as_one_are_told_apart(order: list[tuple[str, int]]) -> None:
    """Boots that interleave: from the first sight on, both get 409 until one is enrolled anew."""
    told: list[str] = []
    buffer = Buffer(max_rows=MAX_ROWS, on_identity_conflict=told.append)
    *before, last = clones(buffer, *order)
    assert before == [None] * len(before)
    assert last == 409
    later = max(minute for _, minute in order) + 1
    assert clones(buffer, ("A", later), ("B", later), ("new", later + 1)) == [409, 409, 409]
    assert told == [VM]
    assert buffer.live(0.0)[0]["flags"] == ["identity_conflict"]
    problem = buffer.admit(push(VM, TS + 60 * later, boot="A"), NOW_S)
    assert problem is not None
    assert problem.reason == "identity-conflict"
    buffer.enrolled(VM)
    assert clones(buffer, ("A", later), ("A", later + 1)) == [None, None]
    assert buffer.live(0.0)[0]["flags"] == []


@pytest.mark.parametrize(
    "order",
    [
        [("A", 1), ("B", 5), ("A", 2), ("B", 6), ("A", 3), ("A", 4), ("B", 7)],
        [("A", 1), ("A", 2), ("B", 3), ("C", 9), ("B", 4), ("A", 5), ("C", 10)],
        # A reboot whose clock was set back, and a last push of the old boot that was told twice.
        [("A", 1), ("A", 9), ("B", 4), ("B", 5), ("B", 10)],
        [("A", 1), ("B", 1), ("A", 1), ("B", 2), ("B", 3)],
        # The draining boot comes first after a restart of the aggregator.
        [("B", 5), ("A", 2), ("A", 3), ("B", 6)],
    ],
)
def test_an_old_boot_alone_is_only_a_spool_that_drains(order: list[tuple[str, int]]) -> None:
    """Samples from before the new boot began are no second machine."""
    told: list[str] = []
    buffer = Buffer(max_rows=MAX_ROWS, on_identity_conflict=told.append)
    assert clones(buffer, *order) == [None] * len(order)
    assert told == []


def test_a_conflict_of_identity_reaches_the_summary_though_no_row_comes() -> None:
    """The VM is given to the next flush, and to the one after it if its store failed."""
    buffer = Buffer(max_rows=MAX_ROWS)
    clones(buffer, ("A", 1), ("B", 2))
    flush(buffer)
    clones(buffer, ("A", 3))
    assert buffer.take() == [VM]  # this flush fails
    assert buffer.take() == [VM]
    share = buffer.taken(VM)
    assert share is not None
    assert share.identity_conflict
    assert share.rows == b""
    buffer.enrolled(VM)  # while that flush runs: the summary must change once more
    buffer.stored(VM)
    assert buffer.take() == [VM]
    buffer.stored(VM)
    assert buffer.take() == []


def test_silent_vms_are_forgotten_unless_they_owe_something() -> None:
    """A day of silence frees memory, but never a row, a count or the knowledge that two machines are one."""
    day_s = 86_400.0
    buffer = Buffer(max_rows=MAX_ROWS)
    for vm in ("idle", "owing"):
        buffer.add(push(vm, TS), NOW_S)
    clones(buffer, ("A", 1), ("B", 2), ("A", 3))
    flush(buffer)
    buffer.add(push("owing", TS + 60), NOW_S)
    buffer.add(push("fresh", TS), NOW_S + 10)
    flushed = flush(buffer)
    assert flushed.keys() == {"owing", "fresh"}
    buffer.add(push("owing", TS + 120), NOW_S)
    assert buffer.forget_silent(buffer.vm_ids(), NOW_S + day_s) == 0
    assert buffer.forget_silent(buffer.vm_ids(), NOW_S + day_s + 5) == 1
    assert sorted(str(one["vm"]) for one in buffer.live(0.0)) == ["fresh", "owing", VM]
    assert clones(buffer, ("B", 4)) == [409]


def test_an_unknown_vm_is_no_error() -> None:
    """Whatever is asked of a VM that memory does not know, it has nothing."""
    buffer = Buffer(max_rows=MAX_ROWS)
    buffer.enrolled("x")
    buffer.stored("x")
    buffer.forget("x")
    assert buffer.taken("x") is None
    assert list(buffer.samples("x")) == []
    assert buffer.unstored_rows == 0
