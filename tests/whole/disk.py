"""The disk of an aggregator's journal: in memory, slow, full, failing, and forgetful when the power goes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.aggregator.journal_fakes import MemoryFiles
from tests.whole.hub import Hub, Process


class Watch(Protocol):
    """Whoever has to know what is durable."""

    def synced(self, path: Path, contents: bytes) -> None:
        """These bytes of a segment would survive a power cut."""

    def unlinked(self, path: Path) -> None:
        """A segment is deleted."""


class Disk(MemoryFiles):
    """`journal_files.Files` whose every write and sync takes time, so that a crash may come in between.

    Attributes:
        process: whose thread waits; None: nobody waits.
        slow_s: what each sync takes beside some fractions of a millisecond.
        fails: operation -> how many of the next calls fail with EIO.
        syncs: makes a sync do its work; a planted bug leaves it out.
    """

    def __init__(self, hub: Hub, watch: Watch, contents: dict[Path, bytes] | None = None) -> None:
        super().__init__(contents)
        self.process: Process | None = None
        self.slow_s = 0.0
        self.fails: dict[str, int] = {}
        self._hub = hub
        self._watch = watch

    def write(self, descriptor: int, data: memoryview) -> int:
        self._wait(0.0002)
        self._fail("write")
        return super().write(descriptor, data)

    def fdatasync(self, descriptor: int) -> None:
        path, file = self._open[descriptor]
        self._wait(self._hub.rng.choice((0.0003, 0.001, 0.01)) + self.slow_s)
        if self.fails.get("fdatasync"):
            self.fails["fdatasync"] -= 1
            file.sync_failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().fdatasync(descriptor)
        if not file.sync_failed:
            self._watch.synced(path, file.synced)

    def create(self, path: Path) -> int:
        self._fail("create")
        return super().create(path)

    def fsync_directory(self, directory: Path) -> None:
        self._wait(0.0003)
        self._fail("fsync_directory")
        super().fsync_directory(directory)

    def unlink(self, path: Path) -> None:
        self._wait(0.0001)
        self._fail("unlink")
        super().unlink(path)
        self._watch.unlinked(path)

    def survive_kill(self) -> Disk:
        """What the next process finds: everything that was written; what was not synced still is not."""
        self._open.clear()
        self.fails.clear()
        self.process = None
        return self

    def survive_power_cut(self, keep: Callable[[int], int]) -> Disk:
        """What the next process finds after the power went."""
        left = Disk(self._hub, self._watch, self.power_cut(keep).contents())
        left.capacity_bytes = self.capacity_bytes
        left.slow_s = self.slow_s
        return left

    @property
    def used_bytes(self) -> int:
        """Of all files."""
        return sum(len(file.written) for file in self.files.values())

    def _wait(self, seconds: float) -> None:
        if self.process is not None and self._hub.in_fiber:
            self.process.sleep(seconds)

    def _fail(self, operation: str) -> None:
        if self.fails.get(operation):
            self.fails[operation] -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
