"""The journal's segment files: recovery, and appends that are durable when they return. Blocking.

Everything but `replay` belongs to one thread at a time. The rules when a disk fails:

- a failed write is cut back to the last good byte, and the file is used further;
- after a failed fdatasync the kernel may hold the lost pages for clean, so that a second one would lie:
  the file is never synced again but closed as it is, and the next commit opens a new segment;
- what was committed before a failure stays valid in either case.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.journal_files import Files
from aggregator.journal_format import (
    HEADER_BYTES,
    JournalError,
    SegmentScanner,
    is_header,
    segment_header,
    segment_name,
    segment_number,
)

_READ_BYTES = 1 << 20
# Room for less than a group of pushes is no room: a journal that took 12 bytes would fail again at once.
PROBE_BYTES = 64 << 10


@dataclass(slots=True)
class Recovery:
    """What was found when the journal was opened; the damage grows while segments are replayed.

    Attributes:
        segments: numbers of the segments to replay, oldest first.
        truncated_bytes: length of the torn tail, and of segments that never got a header.
        damaged: by segment, runs of bytes that were skipped; each hides one record or more.
    """

    segments: tuple[int, ...]
    truncated_bytes: int
    damaged: dict[int, int] = field(default_factory=dict)

    @property
    def damaged_records(self) -> int:
        """Skipped runs of all segments read so far; a segment read twice counts once."""
        return sum(self.damaged.values())


@dataclass(slots=True)
class _Current:
    number: int
    descriptor: int
    size_bytes: int


class Segments:
    """The segment files in `directory`.

    Args:
        segment_bytes: a segment that has reached this size is followed by a new one; the commit that
            reaches it still fits in.
    Attributes:
        bytes_on_disk: of all segments, counting what was committed.
        closed_through: number of the newest segment that gets no more records; 0: there is none.
    """

    def __init__(self, directory: Path, *, segment_bytes: int, files: Files) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._files = files
        self._current: _Current | None = None
        self._next_number = 1
        self._sizes: dict[int, int] = {}
        self._recovery = Recovery((), 0)
        self.bytes_on_disk = 0

    @property
    def closed_through(self) -> int:
        return (self._current.number if self._current else self._next_number) - 1

    def open(self) -> Recovery:
        """Makes the directory usable: checks every header, cuts the torn tail, opens a new segment.

        Raises: JournalError: a segment of an unknown version, a file that is none, or a failing disk.
        """
        try:
            self._files.make_directory(self._directory)
            self._recovery = self._recover()
        except OSError as error:
            raise JournalError(f"{self._directory}: cannot open the journal: {error}") from error
        self._next_number = max(self._sizes, default=0) + 1
        self.bytes_on_disk = sum(self._sizes.values())
        self._create()
        return self._recovery

    def replay(self, segment: int) -> Iterator[bytes]:
        """Payloads of a closed segment, oldest first; what is damaged is skipped and counted in `Recovery`.

        May run in any thread. Raises: JournalError: the file cannot be read.
        """
        path = self._path(segment)
        scanner = SegmentScanner(str(path))
        try:
            yield from self._payloads(path, scanner)
        except OSError as error:
            raise JournalError(f"{path}: cannot be read: {error}") from error
        # Only a damaged record, or one that was never acknowledged, leaves a tail in a closed segment.
        self._recovery.damaged[segment] = scanner.damaged + (scanner.tail_bytes > 0)

    def commit(self, data: bytes) -> None:
        """Appends whole records and returns once they are on disk. Raises: JournalError: none of them counts."""
        current = self._current or self._create()
        if current.size_bytes >= self._segment_bytes:
            current = self._follow(current)
        self._append(current, data)
        current.size_bytes += len(data)
        self._sizes[current.number] = current.size_bytes
        self.bytes_on_disk += len(data)

    def rotate(self) -> None:
        """Closes the current segment and opens the next.

        Raises: JournalError: no new one; the old is closed all the same, so that it can be dropped for room.
        """
        self.close()
        self._create()

    def probe(self) -> None:
        """Tries whether a commit would succeed now, leaving nothing behind. Raises: JournalError: it would not."""
        current = self._current or self._create()
        self._append(current, bytes(PROBE_BYTES))
        self._cut_back(current)

    def drop_through(self, segment: int) -> None:
        """Deletes the closed segments up to and including `segment`.

        Raises: JournalError: one could not be deleted; the next call tries again.
        """
        doomed = sorted(number for number in self._sizes if number <= min(segment, self.closed_through))
        try:
            for number in doomed:
                with contextlib.suppress(FileNotFoundError):
                    self._files.unlink(self._path(number))
                self.bytes_on_disk -= self._sizes.pop(number)
            if doomed:
                self._files.fsync_directory(self._directory)
        except OSError as error:
            raise JournalError(f"{self._directory}: cannot delete old segments: {error}") from error

    def close(self) -> None:
        """Closes the current segment as it is; the next commit opens a new one."""
        current, self._current = self._current, None
        if current is not None:
            with contextlib.suppress(OSError):  # what counts was synced before
                self._files.close(current.descriptor)

    def _path(self, number: int) -> Path:
        return self._directory / segment_name(number)

    def _append(self, current: _Current, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = self._files.write(current.descriptor, view)
                if written == 0:
                    raise OSError(errno.EIO, "nothing was written")
                view = view[written:]
        except OSError as error:
            self._cut_back(current)
            raise JournalError(f"{self._path(current.number)}: cannot be written: {error}") from error
        try:
            self._files.fdatasync(current.descriptor)
        except OSError as error:
            self.close()
            raise JournalError(f"{self._path(current.number)}: cannot be synced: {error}") from error

    def _cut_back(self, current: _Current) -> None:
        try:
            self._files.truncate(current.descriptor, current.size_bytes)
        except OSError:
            # Where the file ends is unknown now: a later cut could take records that were acknowledged.
            self.close()

    def _follow(self, full: _Current) -> _Current:
        try:
            fresh = self._create()
        except JournalError:
            return full  # still good: better too long than refusing
        with contextlib.suppress(OSError):
            self._files.close(full.descriptor)
        return fresh

    def _create(self) -> _Current:
        # A number is never tried twice: a file half made may be left under it.
        number, self._next_number = self._next_number, self._next_number + 1
        path = self._path(number)
        header = segment_header()
        descriptor: int | None = None
        try:
            descriptor = self._files.create(path)
            if self._files.write(descriptor, memoryview(header)) != len(header):
                raise OSError(errno.ENOSPC, "the header was cut short")
            self._files.fdatasync(descriptor)
            self._files.fsync_directory(self._directory)
        except OSError as error:
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    self._files.close(descriptor)
                with contextlib.suppress(OSError):
                    self._files.unlink(path)
            raise JournalError(f"{path}: cannot be created: {error}") from error
        self._current = _Current(number, descriptor, HEADER_BYTES)
        self._sizes[number] = HEADER_BYTES
        self.bytes_on_disk += HEADER_BYTES
        return self._current

    def _recover(self) -> Recovery:
        self._sizes = {
            number: size
            for name, size in self._files.list(self._directory)
            if (number := segment_number(name)) is not None
        }
        recovery = Recovery((), 0)
        suspects = set()
        for number, size in list(self._sizes.items()):
            if self._has_header(number):
                continue
            if size > HEADER_BYTES:
                suspects.add(number)
            else:
                # Its making was interrupted: it is used only after its header is on disk.
                self._files.unlink(self._path(number))
                recovery.truncated_bytes += self._sizes.pop(number)
        recovery.segments = tuple(sorted(self._sizes))
        for number in suspects.union(recovery.segments[-1:]):
            self._check(number, recovery, is_last=number == recovery.segments[-1])
        return recovery

    def _has_header(self, number: int) -> bool:
        path = self._path(number)
        with self._files.open_read(path) as file:
            return is_header(file.read(HEADER_BYTES), str(path))

    def _check(self, number: int, recovery: Recovery, *, is_last: bool) -> None:
        path = self._path(number)
        scanner = SegmentScanner(str(path))
        for _ in self._payloads(path, scanner):
            pass
        if scanner.valid_end == 0:
            raise JournalError(f"{path}: holds neither the header nor any record of a journal: move it away")
        recovery.damaged[number] = scanner.damaged
        if is_last and scanner.tail_bytes:
            self._files.cut(path, scanner.valid_end)
            self._sizes[number] = scanner.valid_end
            recovery.truncated_bytes += scanner.tail_bytes
        elif scanner.tail_bytes:
            recovery.damaged[number] += 1

    def _payloads(self, path: Path, scanner: SegmentScanner) -> Iterator[bytes]:
        with self._files.open_read(path) as file:
            while data := file.read(_READ_BYTES):
                yield from scanner.feed(data)
        yield from scanner.finish()
