"""Segment files: recovery, rotation, deletion, and what each failure of the disk costs."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from zlib import crc32

import pytest

from aggregator.journal_files import OsFiles
from aggregator.journal_format import HEADER_BYTES, JournalError, segment_header
from aggregator.journal_segments import PROBE_BYTES, Segments
from tests.aggregator.journal_fakes import DIRECTORY, MemoryFiles, opened, record, recovered

HEADER = segment_header()


def holding(*bodies: bytes, number: int = 1, tail: bytes = b"") -> dict[Path, bytes]:
    return {DIRECTORY / f"{number:08d}.seg": HEADER + b"".join(map(record, bodies)) + tail}


def test_a_new_journal_begins_with_segment_1() -> None:
    """In an empty directory there is nothing to replay, and the first segment is on disk, name included."""
    files = MemoryFiles()
    segments, recovery = opened(files)
    assert (recovery.segments, recovery.truncated_bytes, recovery.damaged_records) == ((), 0, 0)
    assert files.power_cut(lambda n: 0).contents() == {DIRECTORY / "00000001.seg": HEADER}
    assert segments.closed_through == 0
    assert segments.bytes_on_disk == HEADER_BYTES


def test_every_start_appends_to_a_new_segment() -> None:
    """Old segments are replayed and never appended to; their records stay in order."""
    files = MemoryFiles()
    for body in (b"one", b"two", b"three"):
        segments, _ = opened(files)
        segments.commit(record(body))
    _, recovery = opened(files)
    assert recovery.segments == (1, 2, 3)
    assert recovered(files) == [b"one", b"two", b"three"]


def test_row_15_a_torn_tail_is_cut_off() -> None:
    """After the last record whose checksum holds, the last segment is truncated, durably, and the bytes counted."""
    torn = record(b"half of this is missing")[:-5]
    files = MemoryFiles(holding(b"whole", tail=torn))
    segments, recovery = opened(files)
    assert recovery.truncated_bytes == len(torn)
    assert list(segments.replay(1)) == [b"whole"]
    assert recovery.damaged_records == 0
    assert files.power_cut(lambda n: 0).contents()[DIRECTORY / "00000001.seg"] == HEADER + record(b"whole")


def test_row_16_a_record_damaged_in_the_middle_is_skipped_and_counted() -> None:
    """The records around a damaged one come back; it counts once however often its segment is read."""
    bad = bytearray(record(b"damaged"))
    bad[-1] ^= 1
    files = MemoryFiles({**holding(b"first", tail=bytes(bad) + record(b"last")), **holding(b"next", number=2)})
    segments, recovery = opened(files)
    assert recovery.segments == (1, 2)
    for _ in range(2):
        assert list(segments.replay(1)) == [b"first", b"last"]
    assert recovery.damaged_records == 1
    assert recovery.truncated_bytes == 0


def test_damage_at_the_end_of_an_older_segment_is_counted_not_cut() -> None:
    """Only the last segment can have a torn tail; elsewhere the same bytes are a damaged record."""
    files = MemoryFiles({**holding(b"first", tail=b"damage"), **holding(b"next", number=2)})
    before = files.contents()
    segments, recovery = opened(files)
    assert list(segments.replay(1)) == [b"first"]
    assert (recovery.damaged_records, recovery.truncated_bytes) == (1, 0)
    assert before.items() <= files.contents().items()


@pytest.mark.parametrize("number", [1, 2])
def test_a_damaged_header_loses_no_record(number: int) -> None:
    """A segment, last or not, whose header took a flipped bit still yields all its records, and is counted."""
    contents = {**holding(b"one"), **holding(b"two", number=2)}
    path = DIRECTORY / f"{number:08d}.seg"
    contents[path] = b"\0" + contents[path][1:]
    segments, recovery = opened(MemoryFiles(contents))
    assert [body for n in recovery.segments for body in segments.replay(n)] == [b"one", b"two"]
    assert recovery.damaged_records == 1


@pytest.mark.parametrize("left", [b"", HEADER[:7], bytes(HEADER_BYTES)])
def test_fault_4_a_segment_whose_making_was_cut_short_is_removed(left: bytes) -> None:
    """A segment that never got its header held nothing: it goes, and the one before it is the last."""
    files = MemoryFiles({**holding(b"old", tail=b"torn"), DIRECTORY / "00000002.seg": left})
    segments, recovery = opened(files)
    assert recovery.segments == (1,)
    assert recovery.truncated_bytes == len(left) + len(b"torn")
    assert list(segments.replay(1)) == [b"old"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_that_is_no_segment_is_refused_and_left_alone(number: int) -> None:
    """A file with a segment's name, but neither header nor record, stops the start by name and keeps its bytes."""
    contents = {**holding(b"one"), **holding(b"two", number=2), DIRECTORY / f"{number:08d}.seg": b"a letter to my aunt"}
    files = MemoryFiles(contents)
    with pytest.raises(JournalError, match=rf"journal/{number:08d}\.seg: holds neither"):
        opened(files)
    assert files.contents() == contents


def test_row_42_a_segment_of_another_version_stops_the_start() -> None:
    """A newer journal is refused by file name and left as it is, whichever segment it is."""
    newer = b"fallowJ\n" + (2).to_bytes(4, "little")
    newer += crc32(newer).to_bytes(4, "little")
    for number in (1, 2):
        contents = {**holding(b"one"), **holding(b"two", number=2)}
        contents[DIRECTORY / f"{number:08d}.seg"] = newer + b"what only the newer release can read"
        files = MemoryFiles(contents)
        with pytest.raises(JournalError, match=rf"{number:08d}\.seg: journal version 2"):
            opened(files)
        assert files.contents() == contents


def test_foreign_files_are_left_alone() -> None:
    """Files that do not have a segment's name are neither read nor deleted."""
    note = {DIRECTORY / "README": b"hands off", DIRECTORY / "00000001.seg.bak": b"mine"}
    files = MemoryFiles(note)
    segments, recovery = opened(files)
    segments.rotate()
    segments.drop_through(99)
    assert recovery.segments == ()
    assert note.items() <= files.contents().items()


def test_a_full_segment_is_followed_by_the_next() -> None:
    """A commit that finds its segment at the limit goes to a new one; all of them come back in order."""
    files = MemoryFiles()
    segments, _ = opened(files, segment_bytes=100)
    bodies = [bytes([n]) * 40 for n in range(7)]
    for body in bodies:
        segments.commit(record(body))
    assert segments.closed_through == 3
    assert files.open_files == 1
    assert recovered(files) == bodies


def test_a_full_segment_is_used_further_when_no_new_one_can_be_made() -> None:
    """Without descriptors or inodes for the next segment, the full one still takes records."""
    files = MemoryFiles()
    segments, _ = opened(files, segment_bytes=50)
    segments.commit(record(bytes(60)))
    files.broken["create"] = errno.EMFILE
    segments.commit(record(b"squeezed in"))
    assert segments.closed_through == 0
    del files.broken["create"]
    segments.commit(record(b"next"))
    assert segments.closed_through >= 1
    assert recovered(files) == [bytes(60), b"squeezed in", b"next"]


def test_drop_deletes_what_is_closed_and_nothing_else() -> None:
    """Segments up to the number go, durably; the current one stays whatever the number says."""
    files = MemoryFiles()
    segments, _ = opened(files)
    for body in (b"one", b"two", b"three"):
        segments.commit(record(body))
        segments.rotate()
    segments.commit(record(b"current"))
    segments.drop_through(2)
    assert recovered(MemoryFiles(files.power_cut(lambda n: 0).contents())) == [b"three", b"current"]
    segments.drop_through(1_000)
    assert files.contents() == {DIRECTORY / "00000004.seg": HEADER + record(b"current")}
    assert segments.bytes_on_disk == len(HEADER + record(b"current"))


def test_a_segment_that_cannot_be_deleted_is_tried_again() -> None:
    """A failed deletion is an error that costs nothing: the next call deletes it."""
    files = MemoryFiles()
    segments, _ = opened(files)
    segments.rotate()
    files.faults["unlink", 1] = errno.EIO
    with pytest.raises(JournalError, match="cannot delete"):
        segments.drop_through(1)
    segments.drop_through(1)
    assert list(files.contents()) == [DIRECTORY / "00000002.seg"]


@pytest.mark.parametrize("truncate_fails", [False, True])
def test_fault_9_a_full_disk_costs_the_group_and_nothing_before_it(truncate_fails: bool) -> None:
    """After a write cut short by ENOSPC, no part of the group is replayed, and with room the next commit succeeds."""
    files = MemoryFiles()
    segments, _ = opened(files)
    segments.commit(record(b"before"))
    files.capacity_bytes = len(HEADER + record(b"before")) + 20
    if truncate_fails:
        files.faults["truncate", 1] = errno.EIO
    with pytest.raises(JournalError, match=r"00000001\.seg: cannot be written: .*No space left"):
        segments.commit(record(b"too much for what is left") * 2)
    assert recovered(MemoryFiles(files.contents())) == [b"before"]
    left_behind = 20 if truncate_fails else 0
    assert len(files.contents()[DIRECTORY / "00000001.seg"]) == len(HEADER + record(b"before")) + left_behind
    files.capacity_bytes = None
    segments.commit(record(b"after"))
    assert recovered(files) == [b"before", b"after"]


def test_a_later_cut_back_takes_no_acknowledged_record() -> None:
    """A failed write that could not be cut back ends its segment: cutting after the next one harms nothing."""
    files = MemoryFiles()
    segments, _ = opened(files)
    for truncate_fails in (True, False):
        segments.commit(record(b"acknowledged"))
        files.capacity_bytes = sum(map(len, files.contents().values())) + 20
        if truncate_fails:
            files.faults["truncate", 1] = errno.EIO
        with pytest.raises(JournalError, match="No space left"):
            segments.commit(record(b"too much for what is left"))
        files.capacity_bytes = None
    assert recovered(files) == [b"acknowledged", b"acknowledged"]


def test_a_write_cut_short_is_continued() -> None:
    """A write that takes a part of the group at a time still makes all of it durable."""

    class Sips(MemoryFiles):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, data[:16])

    files = Sips()
    segments, _ = opened(files)
    segments.commit(record(b"a" * 50) + record(b"b" * 50))
    assert recovered(files.power_cut(lambda n: 0)) == [b"a" * 50, b"b" * 50]


def test_a_write_that_takes_nothing_is_an_error() -> None:
    """A file system that reports 0 bytes written fails the group instead of being asked for ever."""

    class Closed(MemoryFiles):
        def write(self, descriptor: int, data: memoryview) -> int:
            return super().write(descriptor, data) if self.calls["write"] < 1 else 0

    segments, _ = opened(Closed())
    with pytest.raises(JournalError, match="nothing was written"):
        segments.commit(record(b"body"))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_fault_11_a_file_whose_sync_failed_is_never_synced_again(number: int) -> None:
    """A failed fdatasync fails its group; the next commit goes to a new segment, and what was durable stays so."""
    files = MemoryFiles()
    segments, _ = opened(files)
    segments.commit(record(b"before"))
    files.faults["fdatasync", files.calls["fdatasync"] + 1] = number
    with pytest.raises(JournalError, match=r"00000001\.seg: cannot be synced"):
        segments.commit(record(b"lost"))
    segments.commit(record(b"after"))
    segments.close()
    assert segments.closed_through == 2
    assert files.synced_again == []
    assert files.open_files == 0
    assert recovered(files.power_cut(lambda n: 0)) == [b"before", b"after"]


@pytest.mark.parametrize("operation", ["create", "write", "fdatasync", "fsync_directory"])
def test_a_segment_that_cannot_be_made_is_tried_again_under_a_new_number(operation: str) -> None:
    """While no segment can be made every commit fails, none leaves anything, and the first that can is durable."""
    files = MemoryFiles()
    segments, _ = opened(files)
    segments.commit(record(b"before"))
    files.broken[operation] = errno.EIO
    with pytest.raises(JournalError, match=r"00000002\.seg: cannot be created"):
        segments.rotate()
    for _ in range(2):
        with pytest.raises(JournalError, match="cannot be created"):
            segments.commit(record(b"refused"))
    files.broken.clear()
    segments.commit(record(b"after"))
    assert files.open_files == 1
    assert recovered(files.power_cut(lambda n: 0)) == [b"before", b"after"]


def test_a_rotation_without_room_still_lets_the_old_segment_go() -> None:
    """On a full disk, closing and dropping the old segment is what makes room for the new one."""
    files = MemoryFiles()
    segments, _ = opened(files)
    segments.commit(record(bytes(100)))
    files.capacity_bytes = sum(map(len, files.contents().values()))
    with pytest.raises(JournalError, match="No space left"):
        segments.rotate()
    assert segments.closed_through >= 1
    segments.drop_through(segments.closed_through)
    segments.commit(record(b"there is room"))
    assert recovered(files) == [b"there is room"]


def test_a_probe_needs_room_and_leaves_nothing() -> None:
    """A probe fails while a group would, succeeds once there is room, and no probe is ever replayed."""
    files = MemoryFiles()
    segments, _ = opened(files)
    segments.commit(record(b"before"))
    before = files.contents()
    files.capacity_bytes = len(next(iter(before.values()))) + PROBE_BYTES - 1
    with pytest.raises(JournalError, match="No space left"):
        segments.probe()
    files.capacity_bytes += 1
    segments.probe()
    assert files.contents() == before
    assert recovered(files.power_cut(lambda n: n)) == [b"before"]


def test_fault_14_a_read_only_disk_at_start_is_an_error_by_name() -> None:
    """Opening a journal on a disk that takes nothing raises JournalError, not OSError."""
    for operation in ("make_directory", "list", "open_read", "cut", "create"):
        files = MemoryFiles(holding(b"one", tail=b"torn"))
        files.broken[operation] = errno.EROFS
        with pytest.raises(JournalError, match=r"journal.*Read-only file system"):
            opened(files)


def test_a_segment_that_cannot_be_read_is_named() -> None:
    """A read error while replaying raises JournalError with the file."""
    files = MemoryFiles(holding(b"one"))
    segments, _ = opened(files)
    files.broken["open_read"] = errno.EIO
    with pytest.raises(JournalError, match=r"00000001\.seg: cannot be read"):
        list(segments.replay(1))


@pytest.mark.real
def test_the_operating_systems_files(tmp_path: Path) -> None:
    """On a real file system the same happens: durable appends, rotation, a torn tail, deletion; nothing stays open."""
    directory = tmp_path / "data" / "journal"
    before = len(os.listdir("/proc/self/fd"))
    segments = Segments(directory, segment_bytes=1 << 20, files=OsFiles())
    assert segments.open().segments == ()
    segments.commit(record(b"one"))
    segments.rotate()
    segments.commit(record(b"two"))
    segments.probe()
    segments.close()
    assert sorted(path.name for path in directory.iterdir()) == ["00000001.seg", "00000002.seg"]
    assert directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())
    with open(directory / "00000002.seg", "ab") as file:
        file.write(b"torn")

    segments = Segments(directory, segment_bytes=1 << 20, files=OsFiles())
    recovery = segments.open()
    assert (recovery.segments, recovery.truncated_bytes) == ((1, 2), 4)
    assert (directory / "00000002.seg").read_bytes() == HEADER + record(b"two")
    assert [body for number in recovery.segments for body in segments.replay(number)] == [b"one", b"two"]
    segments.drop_through(2)
    segments.close()
    assert [path.name for path in directory.iterdir()] == ["00000003.seg"]
    assert len(os.listdir("/proc/self/fd")) == before
