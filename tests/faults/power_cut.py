"""Power cuts: what a disk holds at one instant, without what the system had only in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.disks import ext4, mounted, run, tmpfs


class CutDisk:
    """An ext4 whose disk can be copied as it is at one instant: what a power cut would leave on it.

    Its disk is an image file on another ext4, which is frozen while it is copied. Writes that the inner file system
    has not issued, or that have not arrived, are not in the copy; the programs on it need not be stopped.
    All of it is in memory (a tmpfs), where a sync costs little, so that many cuts fit into a minute.
    """

    def __init__(self, home: Path, *, size_bytes: int) -> None:
        self._home = home
        self._size_bytes = size_bytes
        self._image = home / "outer" / "disk.img"

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Where it is mounted for the body's time."""
        home = self._home
        with (
            tmpfs(home, f"size={4 * self._size_bytes}"),
            ext4(home / "outer.img", 2 * self._size_bytes, home / "outer"),
            ext4(self._image, self._size_bytes, home / "disk") as place,
        ):
            yield place

    @contextmanager
    def cut(self) -> Iterator[Path]:
        """The power fails now: a file system in the state that is left, for the body's time."""
        copy = self._home / "copy.img"
        outer = str(self._image.parent)
        run("fsfreeze", "--freeze", outer)
        try:
            run("cp", "--sparse=always", str(self._image), str(copy))
        finally:
            run("fsfreeze", "--unfreeze", outer)
        with mounted(self._home / "copy", "-o", "loop", str(copy)) as place:
            yield place
        copy.unlink()
