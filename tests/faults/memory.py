"""A cap on the memory of one process, set while it runs, beyond which the kernel kills it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# Of the first and the second version of control groups, and where each has its groups.
_KINDS = ((_ROOT / "memory", "memory.limit_in_bytes"), (_ROOT, "memory.max"))


class NoMemoryGroupError(OSError):
    """This machine lets nobody cap memory."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One control group."""

    folder: Path
    limit_name: str

    def limit(self, pid: int, max_bytes: int) -> None:
        """Takes a process in; what it and its later children are given from now on counts against the cap."""
        # What it holds already is counted where it was; the cap is for what it asks for from now on.
        (self.folder / "cgroup.procs").write_text(str(pid))
        (self.folder / self.limit_name).write_text(str(max_bytes))


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A group that goes with its last process. Raises: NoMemoryGroupError."""
    for parent, limit_name in _KINDS:
        folder = parent / f"fallow-{secrets.token_hex(3)}"
        with suppress(OSError):
            folder.mkdir()
        if not (folder / limit_name).exists():
            with suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield MemoryGroup(folder, limit_name)
        finally:
            os.rmdir(folder)
        return
    raise NoMemoryGroupError("no writable control group for memory")
