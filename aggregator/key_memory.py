"""How an aggregator's keys were last judged, in a file: one that starts while its database is away goes by that."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from twisted.logger import Logger

from agent.settings import ConfigError
from aggregator.key_marks import parse_marks
from aggregator.tokens import create_secret

JUDGED_FILE_NAME = "keys.judged"

_FLEET, _STRANGE = "fleet", "strange"


class KeyMemory:
    """One file of one line: a word and marks. What cannot be read or written is as if it were not there."""

    _log = Logger()

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._kept: str | None = None

    def keep(self, marks: str, *, is_stranger: bool) -> None:
        """Notes a judgement of keys with these marks. Blocks, where it is news."""
        line = f"{_STRANGE if is_stranger else _FLEET} {marks}\n"
        if line == self._kept:
            return
        try:
            # Without the file no keys are doubted: that is how a crash in between ends.
            self._path.unlink(missing_ok=True)
            create_secret(self._path, line)
        except (OSError, ConfigError) as error:
            self._log.warn("{path}: cannot be written: {error}", path=str(self._path), error=error)
        else:
            self._kept = line

    def doubt(self, marks: str) -> str | None:
        """Why keys with these marks are no good until the fleet database says otherwise, in a clause; None: they are.

        Keys that have nothing in common with those of the last run are good for no token: nobody enrols meanwhile.
        """
        try:
            word, _, kept = self._path.read_text(encoding="ascii").strip().partition(" ")
        except (OSError, UnicodeDecodeError):
            return None
        before, now = parse_marks(kept), parse_marks(marks)
        if not before or not now or word not in (_FLEET, _STRANGE):
            return None
        are_same = bool({mark[:2] for mark in before} & {mark[:2] for mark in now})
        if are_same and word == _STRANGE:
            return "its token keys were not those of the fleet when the fleet database last answered"
        if not are_same and word == _FLEET:
            return "its token keys are none of those that it had when the fleet database last answered"
        return None
