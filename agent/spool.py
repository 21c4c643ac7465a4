"""Samples on disk until the aggregator has acknowledged them.

Segments are append-only files of lines, `CRC32 JSON\\n`, so that a torn tail or a flipped bit shows. `acked` holds
the place up to which everything is acknowledged; losing it only means sending some samples again. What the disk
will not take waits in memory, bounded. Every sample that is given up is counted, beside that place, so that the count
outlives a kill on a full disk: what waits in memory alone counts there as given up already.
"""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DEFAULT_MAX_BYTES = 64 << 20
DEFAULT_MAX_SAMPLES = 7 * 24 * 60
_MAX_SEGMENT_BYTES = 256 << 10
# One bound hit gives up one segment, so a segment is a small part of the whole.
_SEGMENTS = 8
_MAX_IN_MEMORY = 60
# A segment that answers like this will not come back, and the samples behind it must not wait for it.
_LOST = (errno.EIO, errno.ENOENT, errno.ESTALE)
_ACKED = "acked"
_SUFFIX = ".seg"


@dataclass(frozen=True, slots=True)
class Chunk:
    """The oldest samples, as JSON texts, and where each ends.

    Args:
        texts: oldest first.
        segment: number of the segment they lie in; None: in memory.
        ends: for each text, the offset just behind it in the segment, or its serial number in memory.
    """

    texts: tuple[str, ...]
    segment: int | None
    ends: tuple[int, ...]


@dataclass(slots=True)
class _Segment:
    number: int
    size_bytes: int = 0
    pending: int = 0


class Spool:
    """A queue of encoded samples in a folder. One process at a time; its methods may be called from any thread.

    Args:
        folder: made where it is absent.
        max_bytes: bound of all segments together.
        max_samples: bound of samples waiting. A number rather than an age: a clock that jumps ages nothing.
        sync: makes a file durable; fdatasync but in tests.

    Attributes:
        dropped_total: samples given up because a bound was reached, since this folder was made.
        damaged_total: records whose checksum failed or that were cut off.
        trouble: what the disk said last; None once it takes samples again.

    Raises: OSError: the folder cannot be made or read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_samples: int = DEFAULT_MAX_SAMPLES,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_samples = max_samples
        self._segment_bytes = max(1, min(_MAX_SEGMENT_BYTES, max_bytes // _SEGMENTS))
        self._segment_samples = max(1, max_samples // _SEGMENTS)
        self._sync = sync
        self._lock = threading.RLock()
        self._memory: deque[tuple[int, str]] = deque()
        self._memory_serial = 0
        self._fd: int | None = None
        self._acked_fd: int | None = None
        self.dropped_total = self._noted_gone = 0
        self.damaged_total = 0
        self.trouble: str | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._segments: deque[_Segment] = deque()
        self._head_bytes = 0
        self._recover()

    @property
    def depth(self) -> int:
        """Samples waiting."""
        with self._lock:
            return sum(segment.pending for segment in self._segments) + len(self._memory)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        with self._lock:
            return sum(segment.size_bytes for segment in self._segments)

    def append(self, text: str) -> None:
        """Takes a sample, onto the disk if that will have it. Never raises; over a bound the oldest go."""
        with self._lock:
            self._memory_serial += 1
            self._memory.append((self._memory_serial, text))
            self.trouble = None
            try:
                while self._memory:
                    self._write(self._memory[0][1])
                    self._memory.popleft()
            except OSError as error:
                self.trouble = f"{self._folder}: {error.strerror or error}"
            while len(self._memory) > _MAX_IN_MEMORY:
                self._memory.popleft()
                self.dropped_total += 1
            self._keep_bounds()
            if self.dropped_total + len(self._memory) != self._noted_gone:
                self._note()

    def peek(self, *, max_samples: int, max_bytes: int) -> Chunk | None:
        """The oldest samples, at least one however large; None where nothing waits.

        Raises: OSError: no file can be opened now. A segment that is gone or unreadable is counted and left behind.
        """
        with self._lock:
            while self._head_bytes < self._segments[0].size_bytes:
                try:
                    chunk = self._read(self._segments[0], max_samples, max_bytes)
                except OSError as error:
                    if error.errno not in _LOST:
                        raise
                    self._give_up_oldest(error)
                    continue
                self._drop_finished()
                if chunk is not None:
                    return chunk
            newest = list(self._memory)[:max_samples]
            if not newest:
                return None
            return Chunk(tuple(text for _, text in newest), None, tuple(serial for serial, _ in newest))

    def ack(self, chunk: Chunk) -> None:
        """Forgets the samples of `chunk`. Never raises: a place that could not be kept only means sending again."""
        with self._lock:
            if chunk.segment is None:
                while self._memory and self._memory[0][0] <= chunk.ends[-1]:
                    self._memory.popleft()
                self._note()
                return
            # A bound may have taken the segment while the push was under way.
            if self._segments and self._segments[0].number == chunk.segment and chunk.ends[-1] > self._head_bytes:
                self._segments[0].pending -= len(chunk.ends)
                self._head_bytes = chunk.ends[-1]
                self._note()
                self._drop_finished()

    def close(self) -> None:
        """Gives the files back. What waits stays on disk."""
        with self._lock:
            self._close_active()
            if self._acked_fd is not None:
                os.close(self._acked_fd)
                self._acked_fd = None

    def _recover(self) -> None:
        numbers = sorted(
            int(path.stem) for path in self._folder.iterdir() if path.suffix == _SUFFIX and path.stem.isdigit()
        )
        acked_segment, acked_bytes, self.dropped_total = self._load_acked()
        for number in numbers:
            if number < acked_segment:
                self._path(number).unlink(missing_ok=True)
                continue
            content = self._path(number).read_bytes()
            size_bytes = content.rfind(b"\n") + 1
            if size_bytes < len(content):
                self.damaged_total += 1
                os.truncate(self._path(number), size_bytes)
            start_bytes = acked_bytes if number == acked_segment else 0
            if start_bytes > size_bytes or (start_bytes and content[start_bytes - 1 : start_bytes] != b"\n"):
                start_bytes = 0
            if not self._segments:
                self._head_bytes = start_bytes
            pending = content.count(b"\n", start_bytes, size_bytes)
            self._segments.append(_Segment(number, size_bytes, pending))
        if not self._segments:
            self._segments.append(_Segment(acked_segment + 1))
        self._drop_finished()
        # Now, while there may be room for it.
        self._note()

    def _read(self, segment: _Segment, max_samples: int, max_bytes: int) -> Chunk | None:
        """Good records at the head; what is damaged before them is skipped and counted."""
        if self._head_bytes >= segment.size_bytes:
            return None
        with open(self._path(segment.number), "rb") as file:
            file.seek(self._head_bytes)
            content = file.read(segment.size_bytes - self._head_bytes)
        texts: list[str] = []
        ends: list[int] = []
        end_bytes = self._head_bytes
        taken_bytes = 0
        for line in content.split(b"\n")[:-1]:
            text = _text(line)
            if text is None and texts:
                break
            end_bytes += len(line) + 1
            if text is None:
                self._head_bytes = end_bytes
                segment.pending = max(0, segment.pending - 1)
                self.damaged_total += 1
                continue
            taken_bytes += len(text) + 2
            if texts and (len(texts) >= max_samples or taken_bytes > max_bytes):
                break
            texts.append(text)
            ends.append(end_bytes)
        else:
            # Read to the end: what damage joined to its neighbour, or left without an end, is not among these.
            self.damaged_total += max(0, segment.pending - len(texts))
            segment.pending = len(texts)
            if not texts:
                self._head_bytes = segment.size_bytes
        return Chunk(tuple(texts), segment.number, tuple(ends)) if texts else None

    def _write(self, text: str) -> None:
        line = _line(text)
        active = self._segments[-1]
        full = active.size_bytes + len(line) > self._segment_bytes or active.pending >= self._segment_samples
        if full and active.size_bytes:
            active = self._next_segment()
        if self._fd is None:
            self._fd = os.open(self._path(active.number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._cut_back(active)
            raise
        active.size_bytes += len(line)
        active.pending += 1
        try:
            self._sync(self._fd)
            if active.size_bytes == len(line):
                self._sync_folder()
        except OSError as error:
            # After a failed sync the kernel may call the lost pages clean: never trust this file again.
            self.trouble = f"{self._path(active.number)}: {error.strerror or error}"
            self._next_segment()

    def _sync_folder(self) -> None:
        folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._sync(folder_fd)
        finally:
            os.close(folder_fd)

    def _cut_back(self, active: _Segment) -> None:
        """Removes half a record, so that the next one does not join it."""
        try:
            os.truncate(self._path(active.number), active.size_bytes)
        except OSError:
            self._next_segment()

    def _next_segment(self) -> _Segment:
        self._close_active()
        self._segments.append(_Segment(self._segments[-1].number + 1))
        self._drop_finished()
        return self._segments[-1]

    def _drop_finished(self) -> None:
        while len(self._segments) > 1 and self._head_bytes >= self._segments[0].size_bytes:
            self._forget_oldest()

    def _keep_bounds(self) -> None:
        while self.size_bytes > self._max_bytes or self.depth > self._max_samples:
            if len(self._segments) == 1:
                if not self._segments[0].size_bytes:
                    return
                self._next_segment()
            if len(self._segments) > 1:
                self.dropped_total += self._segments[0].pending
                self._forget_oldest()

    def _give_up_oldest(self, error: OSError) -> None:
        self.trouble = f"{self._path(self._segments[0].number)}: {error.strerror or error}"
        self.damaged_total += self._segments[0].pending
        if len(self._segments) == 1:
            self._close_active()
            self._segments.append(_Segment(self._segments[0].number + 1))
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        oldest = self._segments.popleft()
        self._head_bytes = 0
        try:
            self._path(oldest.number).unlink(missing_ok=True)
        except OSError as error:
            self.trouble = f"{self._path(oldest.number)}: {error.strerror or error}"
        self._note()

    def _close_active(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _note(self) -> None:
        """Keeps the place of the acks, and how many samples are gone if this process is killed now."""
        gone = self.dropped_total + len(self._memory)
        place = b"%016d %012d %012d" % (self._segments[0].number, self._head_bytes, gone)
        try:
            if self._acked_fd is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._acked_fd = os.open(self._folder / _ACKED, flags, 0o600)
            # The same length in the same place: a full disk has that block already.
            os.pwrite(self._acked_fd, b"%s %08x\n" % (place, zlib.crc32(place)), 0)
            self._noted_gone = gone
        except OSError as error:
            self.trouble = f"{self._folder / _ACKED}: {error.strerror or error}"

    def _load_acked(self) -> tuple[int, int, int]:
        try:
            place, _, crc = (self._folder / _ACKED).read_bytes().rstrip(b"\n").rpartition(b" ")
            if crc != b"%08x" % zlib.crc32(place):
                return 0, 0, 0
            # An earlier version noted no count.
            number, offset_bytes, gone, *_ = (*map(int, place.split()), 0)
            return number, offset_bytes, gone
        except (OSError, ValueError):
            return 0, 0, 0

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:016d}{_SUFFIX}"


def _line(text: str) -> bytes:
    body = text.encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _text(line: bytes) -> str | None:
    """The sample of a line without its end; None where the checksum fails."""
    crc, _, body = line.partition(b" ")
    try:
        return body.decode() if crc == b"%08x" % zlib.crc32(body) else None
    except UnicodeDecodeError:
        return None
