"""A file system in memory that fails on request and can lose its power; a reactor that is a queue."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO

from aggregator.journal_format import record_head
from aggregator.journal_segments import Recovery, Segments

DIRECTORY = Path("journal")


def record(payload: bytes) -> bytes:
    """A whole record."""
    return record_head(payload) + payload


@dataclass
class MemoryFile:
    """`written` is what a reader sees, `synced` what a power cut leaves at least."""

    written: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    sync_failed: bool = False


class MemoryFiles:
    """`Files` in memory.

    Attributes:
        calls: by operation, how often it was called.
        faults: (operation, number of the call from 1) -> errno of that one call.
        broken: operation -> errno of every call until it is taken out.
        capacity_bytes: writes beyond it are cut short, then fail with ENOSPC.
        synced_again: files synced after a sync of theirs had failed: must stay empty.
        sync_gate: clear it to hold every fdatasync back.
    """

    def __init__(self, contents: dict[Path, bytes] | None = None) -> None:
        self.files = {path: MemoryFile(bytearray(body), body) for path, body in (contents or {}).items()}
        self.durable_names = dict(self.files)
        self.calls: Counter[str] = Counter()
        self.faults: dict[tuple[str, int], int] = {}
        self.broken: dict[str, int] = {}
        self.capacity_bytes: int | None = None
        self.synced_again: list[Path] = []
        self.sync_gate = threading.Event()
        self.sync_gate.set()
        self.syncing = threading.Event()
        self._open: dict[int, tuple[Path, MemoryFile]] = {}
        self._next_descriptor = 100

    @property
    def open_files(self) -> int:
        return len(self._open)

    def power_cut(self, keep: Callable[[int], int]) -> MemoryFiles:
        """What is left. `keep(n)` picks 0..n: how many unsynced bytes or which of n + 1 states survived."""
        left: dict[Path, bytes] = {}
        # Copies: a journal thread may be at work. What is durable is read first, so that it is never ahead.
        all_durable, all_now = dict(self.durable_names), dict(self.files)
        for path in sorted({*all_now, *all_durable}):
            now, durable = all_now.get(path), all_durable.get(path)
            kept = now if now is durable or keep(1) else durable
            if kept is not None:
                synced, written = kept.synced, bytes(kept.written)
                if written.startswith(synced):
                    left[path] = written[: len(synced) + keep(len(written) - len(synced))]
                else:
                    left[path] = (written, synced)[keep(1)]
        return MemoryFiles(left)

    def contents(self) -> dict[Path, bytes]:
        """What a copy of every file holds now."""
        return {path: bytes(file.written) for path, file in dict(self.files).items()}

    def make_directory(self, directory: Path) -> None:
        self._enter("make_directory")

    def list(self, directory: Path) -> list[tuple[str, int]]:
        self._enter("list")
        return [(path.name, len(file.written)) for path, file in self.files.items() if path.parent == directory]

    def create(self, path: Path) -> int:
        self._enter("create")
        if path in self.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        self.files[path] = MemoryFile()
        self._next_descriptor += 1
        self._open[self._next_descriptor] = (path, self.files[path])
        return self._next_descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        self._enter("write")
        room = len(data)
        if self.capacity_bytes is not None:
            room = min(room, self.capacity_bytes - sum(len(file.written) for file in self.files.values()))
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._open[descriptor][1].written += data[:room]
        return room

    def fdatasync(self, descriptor: int) -> None:
        path, file = self._open[descriptor]
        self.syncing.set()
        assert self.sync_gate.wait(60)
        if file.sync_failed:
            self.synced_again.append(path)
            return
        try:
            self._enter("fdatasync")
        except OSError:
            file.sync_failed = True
            raise
        file.synced = bytes(file.written)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self._enter("truncate")
        del self._open[descriptor][1].written[size_bytes:]

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]
        self._enter("close")

    def fsync_directory(self, directory: Path) -> None:
        self._enter("fsync_directory")
        self.durable_names = dict(self.files)

    def cut(self, path: Path, size_bytes: int) -> None:
        self._enter("cut")
        file = self.files[path]
        del file.written[size_bytes:]
        file.synced = bytes(file.written)

    def unlink(self, path: Path) -> None:
        self._enter("unlink")
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        del self.files[path]

    def open_read(self, path: Path) -> BinaryIO:
        self._enter("open_read")
        return io.BytesIO(bytes(self.files[path].written))

    def _enter(self, operation: str) -> None:
        self.calls[operation] += 1
        number = self.broken.get(operation) or self.faults.get((operation, self.calls[operation]))
        if number is not None:
            raise OSError(number, os.strerror(number))


class QueueReactor:
    """The reactor thread is whoever calls `run_until`."""

    def __init__(self) -> None:
        self.wakes = 0
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[object, ...]]] = SimpleQueue()

    def callFromThread(self, f: Callable[..., Any], /, *args: object) -> None:
        self.wakes += 1
        self._calls.put((f, args))

    def run_until(self, reached: Callable[[], object], timeout_s: float = 60) -> None:
        """Runs calls until `reached()`; fails if none comes for `timeout_s`."""
        while not reached():
            try:
                call, args = self._calls.get(timeout=timeout_s)
            except Empty:
                raise AssertionError("the journal never called back") from None
            call(*args)


def opened(files: MemoryFiles, *, segment_bytes: int = 1 << 20) -> tuple[Segments, Recovery]:
    """Segments on these files, and what their opening found."""
    segments = Segments(DIRECTORY, segment_bytes=segment_bytes, files=files)
    return segments, segments.open()


def recovered(files: MemoryFiles) -> list[bytes]:
    """What a restart on these files replays."""
    segments, recovery = opened(files)
    return [body for number in recovery.segments for body in segments.replay(number)]
