"""What the journal asks of a file system, so that a test can hand in one that fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol


class Files(Protocol):
    """Blocking file operations; each raises OSError. Descriptors are those of `create`."""

    def make_directory(self, directory: Path) -> None:
        """Creates `directory` and what leads to it, durably; nothing if it exists."""

    def list(self, directory: Path) -> list[tuple[str, int]]:
        """(name, size in bytes) of each regular file, in any order."""

    def create(self, path: Path) -> int:
        """A descriptor that appends to a new file. Raises FileExistsError: `path` exists."""

    def write(self, descriptor: int, data: memoryview) -> int:
        """Writes some of `data` at the end of the file; returns how many bytes."""

    def fdatasync(self, descriptor: int) -> None:
        """Returns once the file's contents and its size are on disk."""

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        """Cuts the file; not durable until the next `fdatasync`."""

    def close(self, descriptor: int) -> None:
        """Frees the descriptor."""

    def fsync_directory(self, directory: Path) -> None:
        """Returns once the names in `directory` are on disk."""

    def cut(self, path: Path, size_bytes: int) -> None:
        """Cuts a file that nobody appends to, durably."""

    def unlink(self, path: Path) -> None:
        """Removes a name; not durable until `fsync_directory`."""

    def open_read(self, path: Path) -> BinaryIO:
        """A file to read from its beginning; whoever asked closes it."""


class OsFiles:
    """`Files` of the operating system."""

    def make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self.make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        self.fsync_directory(directory.parent)

    def list(self, directory: Path) -> list[tuple[str, int]]:
        with os.scandir(directory) as entries:
            return [(entry.name, entry.stat().st_size) for entry in entries if entry.is_file(follow_symlinks=False)]

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def fdatasync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        os.ftruncate(descriptor, size_bytes)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def fsync_directory(self, directory: Path) -> None:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def cut(self, path: Path, size_bytes: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size_bytes)
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def open_read(self, path: Path) -> BinaryIO:
        return open(path, "rb")
