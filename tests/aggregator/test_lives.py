"""The lives of a VM: in generations of its tokens, in memory, in its store, and in what is joined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.buffer import Buffer
from aggregator.decode import Push
from aggregator.lives import MAX_LIFE, Lives, first_of, is_spent, life_of, lives_of
from aggregator.part_file import Dropped, drop_store, read_part
from aggregator.store_files import read_samples, store_path
from aggregator.store_life import drop_life
from aggregator.tokens import MAX_GENERATION
from aggregator.worker import FlushWorker
from aggregator.worker_join import PartJoiner
from tests.aggregator.flush_fakes import NOW_S, TS, push, times_of
from tests.aggregator.store_fakes import START_S, flush, minutes, settings, share

VM = "vm-1"


def times(directory: Path) -> list[int]:
    """Minutes that the store of the VM holds."""
    found = read_samples(store_path(directory, VM), 0, 2**32)
    return [(int(one["ts"] or 0) - START_S) // 60 for one in found]


def rows(*numbers: int) -> bytes:
    return b"".join(minutes(START_S + 60 * number, 1) for number in numbers)


# Generations.


@given(st.integers(0, MAX_LIFE), st.integers(0, (1 << 16) - 2))
def test_a_generation_says_its_life(life: int, number: int) -> None:
    """All that is given out in a life, and what refuses it, is of that life; the largest that a token can have too."""
    generation = first_of(life) + number
    assert life_of(generation) == life_of(generation + 1) == life
    assert generation <= MAX_GENERATION
    assert not is_spent(generation)
    assert is_spent(first_of(life) + (1 << 16) - 1)


def test_who_was_forgotten_stands_in_the_revocations() -> None:
    """Whatever the reason is by now; who was only revoked was not."""
    below = {"a": (first_of(1), "forgotten"), "b": (7, "revoked"), "c": (first_of(2) + 3, "rotated")}
    assert dict(lives_of(below)) == {"a": 1, "c": 2}


def test_what_is_known_of_lives_never_goes_back() -> None:
    """Of several sources the newest counts; only what is newer is news."""
    lives = Lives()
    assert [lives.learn("a", life) for life in (0, 2, 1, 2, 3)] == [False, True, False, False, True]
    assert (lives.of("a"), lives.of("b")) == (3, 0)
    assert [lives.is_over("a", life) for life in (2, 3, 4)] == [True, False, False]
    assert not lives.is_over("b", 0)


# Memory.


def of_life(life: int, *at: int) -> Push:
    return msgspec.structs.replace(push(VM, *(TS + 60 * one for one in at)), generation=first_of(life) + 1)


def test_a_push_of_a_new_life_takes_the_place_of_all_before() -> None:
    """Unstored rows of before go and are counted out; a push of before is refused, or dropped where it was too late."""
    told: list[tuple[str, int]] = []
    buffer = Buffer(max_rows=10, on_new_life=lambda vm_id, life: told.append((vm_id, life)))
    first, second = of_life(0, 0, 1), of_life(2, 2)
    assert buffer.add(first, NOW_S).stored == 2
    assert buffer.take() == [VM]
    assert buffer.add(second, NOW_S).stored == 1
    assert (told, buffer.unstored_rows) == ([(VM, 2)], 1)
    buffer.stored(VM)  # what the flush had taken was of before
    assert buffer.unstored_rows == 1
    problem = buffer.admit(of_life(1, 3), NOW_S)
    assert problem is not None
    assert (problem.status, problem.reason) == (401, "forgotten")
    assert tuple(buffer.add(of_life(1, 3), NOW_S)) == (0, 0, 0)
    assert buffer.take() == [VM]
    taken = buffer.taken(VM)
    assert taken is not None
    assert (times_of(taken.rows), taken.life) == ([TS + 120], 2)


def test_memory_forgets_what_is_of_before_alone() -> None:
    """Also where it hears of the forgetting from the database after the VM is back."""
    buffer = Buffer(max_rows=10)
    buffer.add(of_life(1, 0), NOW_S)
    buffer.forget_before(VM, 1)
    assert VM in buffer
    buffer.forget_before(VM, 2)
    assert (VM in buffer, buffer.unstored_rows) == (False, 0)


def test_a_rotation_is_no_new_life() -> None:
    """Tokens of two generations that count at once fill one history."""
    buffer = Buffer(max_rows=10, on_new_life=lambda _vm, _life: pytest.fail("there is none"))
    for generation in (1, 2, 1, 2):
        one = msgspec.structs.replace(push(VM, TS + 60 * buffer.unstored_rows), generation=generation)
        assert buffer.add(one, NOW_S).stored == 1
    assert buffer.unstored_rows == 4


# The store.


def test_a_store_of_a_life_that_is_over_gives_way(tmp_path: Path) -> None:
    """The first rows of a new life begin it anew, and that is no loss; rows of before are not taken any more."""
    worker = FlushWorker(settings(tmp_path))
    flush(worker, share(VM, rows(0, 1), conflicts=3))
    result = flush(worker, share(VM, rows(5), had_history=True, life=2))
    assert (times(tmp_path), result.lost_stores) == ([5], {})
    (told,) = result.summaries
    assert (told.life, told.conflicts, told.oldest_s, told.flags) == (2, 0, START_S, [])
    result = flush(worker, share(VM, rows(6), conflicts=1, had_history=True, life=1))
    assert (times(tmp_path), result.inserted, result.conflicts) == ([5], 0, 0)
    assert [(one.life, one.conflicts) for one in result.summaries] == [(2, 0)]
    result = flush(worker, share(VM, rows(7), had_history=True, life=2))
    assert (times(tmp_path), [one.life for one in result.summaries]) == ([5, 7], [2])


def test_a_store_begun_in_a_later_life_is_not_begun_again(tmp_path: Path) -> None:
    """One whose store is gone in that life is lost as any other."""
    worker = FlushWorker(settings(tmp_path))
    flush(worker, share(VM, rows(0), life=1))
    store_path(tmp_path, VM).unlink()
    result = flush(worker, share(VM, rows(1), had_history=True, life=1))
    assert (list(result.lost_stores), times(tmp_path)) == ([VM], [1])


def test_a_worker_says_of_which_life_a_store_is_that_is_after_its_rows(tmp_path: Path) -> None:
    """Whoever gave them counts them as dropped; it learns of the life from a store that it asks for a summary too."""
    worker = FlushWorker(settings(tmp_path))
    assert flush(worker, share(VM, rows(0), life=2)).newer_lives == {}
    assert flush(worker, share(VM, rows(1), life=1), share("other", rows(1), life=1)).newer_lives == {VM: 2}
    assert flush(worker, share(VM, b"", had_history=True)).newer_lives == {VM: 2}
    assert flush(worker, share(VM, rows(2), life=3)).newer_lives == {}


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_summary_that_is_owed_of_a_forgotten_vm_begins_no_store(tmp_path: Path, is_stored: bool) -> None:
    """There is nothing to tell: what is of before goes, and no store without rows stays."""
    worker, path = FlushWorker(settings(tmp_path)), store_path(tmp_path, VM)
    if is_stored:
        flush(worker, share(VM, rows(0)))
    result = flush(worker, share(VM, b"", wants_figures=True, had_history=is_stored, life=1))
    assert (path.exists(), result.summaries, result.failures, result.lost_stores) == (False, [], {}, {})
    flush(worker, share(VM, rows(1), life=1))
    result = flush(worker, share(VM, b"", wants_figures=True, life=1))
    assert ([one.life for one in result.summaries], times(tmp_path)) == ([1], [1])


def test_dropping_a_life_leaves_the_next(tmp_path: Path) -> None:
    """What is of before goes, and twice is once; what was begun since stays."""
    worker = FlushWorker(settings(tmp_path))
    path = store_path(tmp_path, VM)
    flush(worker, share(VM, rows(0), life=1))
    assert drop_life(path, 1) == Dropped(is_gone=False)
    assert times(tmp_path) == [0]
    for _ in range(2):
        assert drop_life(path, 2) == Dropped(is_gone=True)
        assert not path.exists()


def test_row_17_a_flipped_bit_is_no_other_life(tmp_path: Path) -> None:
    """The rows of a store whose life cannot be read are neither deleted nor added to: it is moved aside as damaged."""
    worker = FlushWorker(settings(tmp_path))
    path = store_path(tmp_path, VM)
    flush(worker, share(VM, rows(0), life=1))
    sound = path.read_bytes()
    for bit in range(32):
        body = bytearray(sound)
        body[68 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(body)
        dropped = drop_life(path, 2, keep_doubtful_s=NOW_S)
        assert (dropped.is_gone, dropped.problem, path.exists()) == (True, None, False)
        assert Path(str(dropped.aside)).read_bytes() == body
    path.write_bytes(body)
    result = flush(worker, share(VM, rows(1), had_history=True, life=1))
    assert list(result.lost_stores) == [VM]
    assert times(tmp_path) == [1]


def damaged(sound: bytes) -> Iterator[bytes]:
    """A store with a header of zeros or of noise, of a size of pages that is none, cut short, with a flipped life."""
    yield bytes(100) + sound[100:]
    yield b"noise" * 20 + sound[100:]
    yield sound[:16] + b"\x10\x01" + sound[18:]
    yield sound[:2_000]
    yield sound[:68] + b"\x00\x01" + sound[70:]


@pytest.mark.parametrize("case", range(5))
@pytest.mark.parametrize("is_begun_now", [False, True])
def test_row_17_a_damaged_store_of_a_forgotten_vm_does_not_stay(tmp_path: Path, case: int, is_begun_now: bool) -> None:
    """It is deleted where it cannot be of the life that just began; else it may be, and is moved aside."""
    path = store_path(tmp_path, VM)
    flush(FlushWorker(settings(tmp_path)), share(VM, rows(0)))
    body = list(damaged(path.read_bytes()))[case]
    path.write_bytes(body)
    dropped = drop_life(path, 1, keep_doubtful_s=None if is_begun_now else NOW_S)
    assert (dropped.is_gone, dropped.problem) == (True, None)
    left = {one.name: one.read_bytes() for one in path.parent.iterdir() if not one.name.endswith("-journal")}
    assert left == ({} if is_begun_now else {f"{VM}.damaged-{int(NOW_S)}": body})
    assert not Path(f"{path}-journal").exists()


def test_row_12_a_store_that_cannot_be_read_now_is_no_damage(tmp_path: Path) -> None:
    """A lock, or a disk that does not give its bytes: the store stays as it is, and why is told."""
    path = store_path(tmp_path, VM)
    path.mkdir(parents=True)
    dropped = drop_life(path, 1, keep_doubtful_s=NOW_S)
    assert (dropped.is_gone, dropped.aside, path.is_dir()) == (False, None, True)
    assert dropped.problem


# Joining.


def joined(tmp_path: Path, *, ours: int | None, theirs: int, known: int) -> tuple[list[int], str | None]:
    """Minutes of our store, and the problem, where our minute 0 and their minute 1 are of these lives."""
    here, there = tmp_path / "here", tmp_path / "there"
    if ours is not None:
        flush(FlushWorker(settings(here)), share(VM, rows(0), life=ours))
    flush(FlushWorker(settings(there)), share(VM, rows(1), life=theirs))
    part = read_part(store_path(there, VM))
    assert part is not None
    joiner = PartJoiner(settings(here))
    found = joiner.join(VM, "b", part.body, had_history=ours is not None, life=known)
    assert drop_store(store_path(there, VM), part.mark).is_gone
    return times(here), found.problem


@pytest.mark.parametrize(
    ("ours", "theirs", "known", "left"),
    [
        (1, 1, 1, [0, 1]),
        (1, 0, 1, [0]),  # of before: nothing is taken
        (1, 0, 0, [0]),
        (0, 1, 0, [1]),  # ours is of before, though we did not know
        (None, 0, 1, []),
        (None, 1, 0, [1]),
    ],
)
def test_parts_are_joined_within_a_life(
    tmp_path: Path, ours: int | None, theirs: int, known: int, left: list[int]
) -> None:
    """Histories of before and after a VM was forgotten never become one; the newer stands."""
    assert joined(tmp_path, ours=ours, theirs=theirs, known=known) == (left, None)


def test_what_is_settled_says_its_life(tmp_path: Path) -> None:
    """A store of before is told of no more."""
    flush(FlushWorker(settings(tmp_path)), share(VM, rows(0), life=1))
    joiner = PartJoiner(settings(tmp_path))
    settled = joiner.settle(VM, "b", had_history=True, life=1)
    assert settled.summary is not None
    assert settled.summary.life == 1
    assert joiner.settle(VM, "b", had_history=True, life=2).problem == "this VM was forgotten"
