"""VMs whose summary the fleet database still lacks: a small file that survives a lost database and a restart."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from agent.settings import ConfigError


class PendingSummaries:
    """A set of VM ids on disk, whole or as it was before: written beside and renamed.

    Raises: ConfigError: the file is there and cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.vm_ids = frozenset(path.read_text(encoding="utf-8").split())
        except FileNotFoundError:
            self.vm_ids = frozenset()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def replace(self, vm_ids: Iterable[str]) -> None:
        """Makes `vm_ids` the set, durably. Raises OSError: the disk is full or gone; the old set stays."""
        wanted = frozenset(vm_ids)
        if wanted == self.vm_ids:
            return
        fresh = self._path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            file.write("\n".join(sorted(wanted)))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self.vm_ids = wanted
