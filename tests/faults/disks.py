"""Small file systems of a scenario's own: full, failing, or copied at one instant."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUSY_S = 5.0  # what a killed process still holds is free soon


def run(*argv: str) -> None:
    """Runs a command of the system. Raises: CalledProcessError."""
    subprocess.run(argv, check=True, capture_output=True)


@contextmanager
def tmpfs(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs at `place`, with mount options such as "size=1m"."""
    with mounted(place, "-t", "tmpfs", "-o", options, "tmpfs"):
        yield place


def make_ext4(image: Path, size_bytes: int) -> None:
    """A new file system in the file `image`, to be mounted with "-o loop"."""
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    run("mkfs.ext4", "-q", "-F", str(image))


@contextmanager
def ext4(image: Path, size_bytes: int, place: Path) -> Iterator[Path]:
    """A new ext4 in the file `image`, at `place`."""
    make_ext4(image, size_bytes)
    with mounted(place, "-o", "loop", str(image)):
        yield place


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """Mounts for the body's time; `options` are those of `mount`, without the place."""
    place.mkdir(parents=True, exist_ok=True)
    run("mount", *options, str(place))
    try:
        yield place
    finally:
        _unmount(place)


def _unmount(place: Path) -> None:
    until_s = time.monotonic() + _BUSY_S
    while subprocess.run(["umount", str(place)], check=False, capture_output=True).returncode:
        if time.monotonic() > until_s:
            # Somebody is still in there; no path may lead to it when the folder is deleted.
            run("umount", "-l", str(place))
            return
        time.sleep(0.05)


def remount(place: Path, options: str) -> None:
    """Changes a file system that is in use."""
    run("mount", "-o", f"remount,{options}", str(place))


class Ballast:
    """A file that leaves so much room on a file system and no more."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def leave(self, left_bytes: int) -> None:
        """Grows or shrinks until about so much is free; what it holds already stays taken meanwhile."""
        with open(self._path, "ab") as file:
            while True:
                size = os.fstat(file.fileno()).st_size
                stat = os.statvfs(self._path.parent)
                more = stat.f_bavail * stat.f_frsize - left_bytes
                if more <= 0:
                    file.truncate(max(0, size + more))
                    return
                try:
                    os.posix_fallocate(file.fileno(), size, more)
                    return
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    # Others wrote meanwhile: there is less to take now.

    def drop(self) -> None:
        """Frees all of it."""
        self._path.unlink(missing_ok=True)


def inodes_used(place: Path) -> int:
    """Files and folders of a file system."""
    stat = os.statvfs(place)
    return stat.f_files - stat.f_ffree
