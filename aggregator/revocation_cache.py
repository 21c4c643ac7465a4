"""What was refused at the last reading, in a file: an aggregator that starts while its database is away knows that."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

import msgspec
from twisted.logger import Logger

from aggregator.tokens import Revocations

CACHE_FILE_NAME = "revocations.cache"


class _Body(msgspec.Struct):
    below: dict[str, tuple[int, str]]
    clones: list[str]


class RevocationCache:
    """One file of mode 0600, whole or as it was before. Blocking; for any thread."""

    _log = Logger()

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._kept: Revocations | None = None
        self._lock = threading.Lock()

    def read(self) -> Revocations | None:
        """What was kept last; None: nothing was, or it cannot be read."""
        try:
            body = msgspec.json.decode(self._path.read_bytes(), type=_Body)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            self._log.warn("{path}: {error}", path=str(self._path), error=error)
            return None
        return Revocations(body.below, clones=frozenset(body.clones))

    def keep(self, revocations: Revocations) -> Revocations:
        """Writes them if they are news, and returns them. A disk that takes nothing is told in the log alone."""
        with self._lock:
            if revocations != self._kept:
                self._write(revocations)
        return revocations

    def _write(self, revocations: Revocations) -> None:
        fresh = self._path.with_name(f"{self._path.name}.new")
        body = _Body(below=dict(revocations.below), clones=sorted(revocations.clones))
        try:
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(msgspec.json.encode(body))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
        except OSError as error:
            self._log.warn("{path}: cannot be written: {error}", path=str(self._path), error=error)
        else:
            self._kept = revocations
