"""The count of samples that a spool gave up outlives a kill, whatever the disk takes."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.spool import Spool


def text(number: int) -> str:
    return f'{{"ts": {60 * number}}}'


def opened(folder: Path, *, max_samples: int = 1_000) -> Spool:
    return Spool(folder, max_samples=max_samples, sync=lambda _fd: None)


def test_row_34_what_a_bound_took_is_still_counted_by_the_next_life(tmp_path: Path) -> None:
    """Neither a kill nor a second one takes the count back to zero, or counts twice."""
    spool = opened(tmp_path, max_samples=10)
    for number in range(100):
        spool.append(text(number))
    gone = spool.dropped_total
    assert gone == 100 - spool.depth > 0
    for _ in range(2):
        again = opened(tmp_path, max_samples=10)
        assert (again.dropped_total, again.depth) == (gone, spool.depth)


def test_row_34_what_waited_in_memory_alone_is_gone_and_counted_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes nothing: the samples of memory count as lost by the next life, and not by this one."""
    spool = opened(tmp_path)
    spool.append(text(0))
    monkeypatch.setattr(spool, "_write", _full_disk)
    for number in range(1, 8):
        spool.append(text(number))
    assert (spool.dropped_total, spool.depth) == (0, 8)
    again = opened(tmp_path)
    assert (again.dropped_total, again.depth) == (7, 1)


def _full_disk(_text: str) -> None:
    raise OSError(28, "No space left on device")


def test_what_memory_held_and_the_disk_took_later_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there is room again, or once it was acknowledged from memory, nothing of it is lost."""
    spool = opened(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(spool, "_write", _full_disk)
        spool.append(text(0))
    spool.append(text(1))
    assert (opened(tmp_path).dropped_total, opened(tmp_path).depth) == (0, 2)
    with monkeypatch.context() as full:
        full.setattr(spool, "_write", _full_disk)
        spool.append(text(2))
        while (chunk := spool.peek(max_samples=500, max_bytes=1 << 20)) is not None:
            spool.ack(chunk)
    assert (opened(tmp_path).dropped_total, opened(tmp_path).depth) == (0, 0)


@given(kept=st.integers(0, 5), acked=st.integers(0, 5))
def test_a_note_of_an_earlier_version_is_read(kept: int, acked: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The place alone, as it was noted before there was a count: nothing is sent again and nothing counted."""
    folder = tmp_path_factory.mktemp("spool")
    spool = opened(folder)
    for number in range(kept + acked):
        spool.append(text(number))
    if acked:
        chunk = spool.peek(max_samples=acked, max_bytes=1 << 20)
        assert chunk is not None
        spool.ack(chunk)
    place = (folder / "acked").read_bytes().rsplit(b" ", 2)[0]
    (folder / "acked").write_bytes(b"%s %08x\n" % (place, zlib.crc32(place)))
    again = opened(folder)
    assert (again.depth, again.dropped_total) == (kept, 0)
