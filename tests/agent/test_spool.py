"""What was spooled comes out again, in order and whole, whatever the disk did; every loss is counted."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.spool import Spool


def no_sync(fd: int) -> None:
    """Durability is not what these tests look at."""


def text(number: int) -> str:
    return f'{{"ts": {60 * number}, "cpu_busy_ratio": 0.5}}'


def drain(spool: Spool, *, max_samples: int = 500) -> list[str]:
    """Everything that waits, acknowledged chunk by chunk."""
    texts: list[str] = []
    while (chunk := spool.peek(max_samples=max_samples, max_bytes=1 << 20)) is not None:
        assert len(chunk.texts) <= max_samples
        texts += chunk.texts
        spool.ack(chunk)
    return texts


class Disk:
    """`sync` that fails while told to."""

    def __init__(self) -> None:
        self.failing = False
        self.calls = 0

    def sync(self, fd: int) -> None:
        self.calls += 1
        if self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    spool = Spool(folder, sync=no_sync)
    yield spool
    spool.close()


def test_samples_come_out_oldest_first(spool: Spool) -> None:
    """A queue: in order, each once."""
    texts = [text(number) for number in range(1000)]
    for one in texts:
        spool.append(one)
    assert spool.depth == 1000
    assert drain(spool) == texts
    assert spool.depth == 0


def test_what_is_not_acknowledged_comes_again(spool: Spool) -> None:
    """Looking is not taking."""
    spool.append(text(1))
    first, second = (spool.peek(max_samples=10, max_bytes=1000) for _ in range(2))
    assert first == second
    assert spool.depth == 1


def test_a_restart_forgets_nothing_and_resends_little(folder: Path) -> None:
    """After kill -9 every sample is there, and what was acknowledged is not sent again."""
    spool = Spool(folder, sync=no_sync)
    for number in range(10):
        spool.append(text(number))
    chunk = spool.peek(max_samples=4, max_bytes=1 << 20)
    assert chunk is not None
    spool.ack(chunk)
    again = Spool(folder, sync=no_sync)
    assert again.depth == 6
    assert drain(again) == [text(number) for number in range(4, 10)]
    assert Spool(folder, sync=no_sync).depth == 0


def test_a_lost_place_means_sending_again(folder: Path) -> None:
    """A damaged note of what was acknowledged costs duplicates, never samples."""
    spool = Spool(folder, sync=no_sync)
    for number in range(3):
        spool.append(text(number))
    chunk = spool.peek(max_samples=2, max_bytes=1 << 20)
    assert chunk is not None
    spool.ack(chunk)
    (folder / "acked").write_bytes(b"\x00" * 38)
    assert drain(Spool(folder, sync=no_sync)) == [text(number) for number in range(3)]


@pytest.mark.parametrize("cut", range(1, len(text(2)) + 10))
def test_a_torn_tail_is_recognised(folder: Path, cut: int) -> None:
    """Wherever the last write was cut off, the samples before it are whole and new ones join cleanly."""
    spool = Spool(folder, sync=no_sync)
    spool.append(text(1))
    spool.append(text(2))
    spool.close()
    (segment,) = folder.glob("*.seg")
    os.truncate(segment, segment.stat().st_size - cut)
    again = Spool(folder, sync=no_sync)
    again.append(text(3))
    assert drain(again) == [text(1), text(3)]
    assert again.damaged_total == 1


def test_a_flipped_bit_costs_one_sample(folder: Path) -> None:
    """A record whose checksum fails is skipped and counted, its neighbours are kept."""
    spool = Spool(folder, sync=no_sync)
    for number in range(5):
        spool.append(text(number))
    spool.close()
    (segment,) = folder.glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[content.index(b'"ts": 120')] ^= 0x20
    segment.write_bytes(content)
    again = Spool(folder, sync=no_sync)
    assert drain(again) == [text(number) for number in (0, 1, 3, 4)]
    assert (again.damaged_total, again.depth) == (1, 0)


@pytest.mark.parametrize("damaged", [0, 2, 4])
def test_a_flipped_line_end_costs_what_it_divided(folder: Path, damaged: int) -> None:
    """Two records run together, or the last one has no end: each is counted, and the queue goes on behind them."""
    spool = Spool(folder, sync=no_sync)
    for number in range(5):
        spool.append(text(number))
    (segment,) = folder.glob("*.seg")
    lines = segment.read_bytes().split(b"\n")
    at = sum(len(line) + 1 for line in lines[: damaged + 1]) - 1
    content = bytearray(segment.read_bytes())
    content[at] ^= 0x10
    segment.write_bytes(content)
    lost = {damaged, damaged + 1} & set(range(5))
    assert drain(spool) == [text(number) for number in range(5) if number not in lost]
    assert (spool.damaged_total, spool.depth) == (len(lost), 0)
    spool.append(text(9))
    assert drain(spool) == [text(9)]


def test_a_segment_that_is_gone_does_not_block_the_queue(folder: Path) -> None:
    """Somebody deleted the files: what was in them is counted, what comes after is sent."""
    spool = Spool(folder, sync=no_sync)
    for number in range(3):
        spool.append(text(number))
    for segment in folder.glob("*.seg"):
        segment.unlink()
    assert spool.peek(max_samples=10, max_bytes=1000) is None
    spool.append(text(9))
    assert drain(spool) == [text(9)]
    assert spool.damaged_total == 3


def test_bound_by_number_drops_the_oldest_and_counts(folder: Path) -> None:
    """With room for 80 samples, the newest 70 at least are kept, and each other one is counted."""
    spool = Spool(folder, max_samples=80, sync=no_sync)
    for number in range(1000):
        spool.append(text(number))
    kept = drain(spool)
    assert 70 <= len(kept) <= 80
    assert kept == [text(number) for number in range(1000 - len(kept), 1000)]
    assert spool.dropped_total == 1000 - len(kept)


def test_bound_by_size_holds_on_disk(folder: Path) -> None:
    """The segments never take more than the bound, and all that is gone is counted."""
    spool = Spool(folder, max_bytes=8000, sync=no_sync)
    for number in range(1000):
        spool.append(text(number))
        assert sum(path.stat().st_size for path in folder.glob("*.seg")) <= 8000
    kept = drain(spool)
    assert kept[-1] == text(999)
    assert len(kept) + spool.dropped_total == 1000


def test_acknowledged_segments_are_deleted(folder: Path) -> None:
    """A spool that is emptied all the time does not grow."""
    spool = Spool(folder, max_bytes=8000, sync=no_sync)
    for number in range(1000):
        spool.append(text(number))
        assert drain(spool) == [text(number)]
    assert spool.dropped_total == 0
    assert len(list(folder.glob("*.seg"))) <= 2


def test_an_ack_for_what_a_bound_took_is_harmless(folder: Path) -> None:
    """A push may succeed while its samples are given up: what came after them stays."""
    spool = Spool(folder, max_samples=8, sync=no_sync)
    spool.append(text(0))
    chunk = spool.peek(max_samples=10, max_bytes=1000)
    assert chunk is not None
    for number in range(1, 30):
        spool.append(text(number))
    depth = spool.depth
    spool.ack(chunk)
    assert spool.depth == depth
    assert drain(spool)[-1] == text(29)


def test_a_failed_sync_leaves_that_file_for_another(folder: Path) -> None:
    """After EIO the file is not trusted with more samples; nothing is lost while the process lives."""
    disk = Disk()
    spool = Spool(folder, sync=disk.sync)
    spool.append(text(1))
    disk.failing = True
    spool.append(text(2))
    assert spool.trouble is not None
    assert "Input/output error" in spool.trouble
    disk.failing = False
    spool.append(text(3))
    assert spool.trouble is None
    assert len(list(folder.glob("*.seg"))) == 2
    assert drain(spool) == [text(1), text(2), text(3)]


def test_chunks_respect_the_byte_limit(spool: Spool) -> None:
    """A chunk stays below the limit of a request, but one sample always goes."""
    for number in range(10):
        spool.append(text(number))
    chunk = spool.peek(max_samples=500, max_bytes=3 * len(text(1)) + 6)
    assert chunk is not None
    assert len(chunk.texts) == 3
    single = spool.peek(max_samples=500, max_bytes=1)
    assert single is not None
    assert len(single.texts) == 1


def unwritable(folder: Path) -> Path:
    """Makes the next segment impossible: a folder has its name. Works for root too, unlike permissions."""
    (folder / f"{1:016d}.seg").mkdir(parents=True)
    return folder


def test_what_the_disk_refuses_waits_in_memory_and_is_bounded(tmp_path: Path) -> None:
    """With no room for a segment 60 samples wait in memory, can be sent from there, and the rest is counted."""
    folder = tmp_path / "spool"
    spool = Spool(folder, sync=no_sync)
    unwritable(folder)
    for number in range(100):
        spool.append(text(number))
    assert spool.trouble is not None
    assert (spool.depth, spool.dropped_total) == (60, 40)
    chunk = spool.peek(max_samples=10, max_bytes=1 << 20)
    assert chunk is not None
    assert chunk.texts == tuple(text(number) for number in range(40, 50))
    spool.ack(chunk)
    (folder / f"{1:016d}.seg").rmdir()
    spool.append(text(100))
    assert spool.trouble is None
    assert drain(spool) == [text(number) for number in range(50, 101)]


@pytest.mark.real
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_and_survived(tmp_path: Path) -> None:
    """ENOSPC at the write itself: the sample waits in memory, the trouble says why, nothing is raised."""
    folder = tmp_path / "spool"
    spool = Spool(folder, sync=no_sync)
    (folder / f"{1:016d}.seg").symlink_to("/dev/full")
    spool.append(text(1))
    assert spool.trouble is not None
    assert "No space left" in spool.trouble
    assert spool.depth == 1


@pytest.mark.real
def test_a_write_that_was_cut_short_leaves_no_half_record(folder: Path) -> None:
    """The disk takes a part of a record and then no more: the part is removed, all samples come out whole."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    spool = Spool(folder, sync=no_sync)
    try:
        # The one way to a short write without a disk to fill: the kernel cuts at the limit.
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
        for number in range(30):
            spool.append(text(number))
        trouble, size = spool.trouble, sum(path.stat().st_size for path in folder.glob("*.seg"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert trouble is not None
    assert size < 300
    spool.append(text(30))
    assert (spool.trouble, spool.dropped_total) == (None, 0)
    spool.close()
    again = Spool(folder, sync=no_sync)
    assert drain(again) == [text(number) for number in range(31)]
    assert again.damaged_total == 0


class SpoolMachine(RuleBasedStateMachine):
    """Against a plain list: append, push in any sizes, kill and restart, as often as you like."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.folder = Path(self.home.name)
        self.spool = self._open()
        self.model: list[str] = []
        self.number = 0

    def _open(self) -> Spool:
        return Spool(self.folder, max_bytes=4096, max_samples=10_000, sync=no_sync)

    @rule(count=st.integers(1, 20), width=st.integers(0, 40))
    def append(self, count: int, width: int) -> None:
        for _ in range(count):
            # Below the bound, so that nothing may be missing.
            if self.spool.size_bytes > 3000:
                return
            self.number += 1
            self.model.append(f"{self.number}{'é' * width}")
            self.spool.append(self.model[-1])

    @rule(max_samples=st.integers(1, 30), acknowledged=st.booleans())
    def push(self, max_samples: int, acknowledged: bool) -> None:
        chunk = self.spool.peek(max_samples=max_samples, max_bytes=10_000)
        if chunk is None:
            assert self.model == []
            return
        assert list(chunk.texts) == self.model[: len(chunk.texts)]
        if acknowledged:
            self.spool.ack(chunk)
            del self.model[: len(chunk.texts)]

    @rule()
    def kill_and_restart(self) -> None:
        self.spool.close()
        self.spool = self._open()

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        assert self.spool.depth == len(self.model)
        assert (self.spool.dropped_total, self.spool.damaged_total) == (0, 0)

    def teardown(self) -> None:
        self.spool.close()
        self.home.cleanup()


SpoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestSpoolMachine = SpoolMachine.TestCase
