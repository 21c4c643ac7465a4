"""The kill switch as a file that the pages make and remove; every controller looks at it before each step."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from orchestrate.sources import read_kill_switch

_OFF = "off"


class SwitchStuck(Exception):
    """It could not be pulled or let go; the text says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KillSwitch:
    """The file while it exists nothing is done.

    Args: makes_folder: its folder is the controller's own, and not one that may be another machine's.
    """

    path: Path
    makes_folder: bool

    def read(self) -> str | None:
        """What stops everything, in words; None: nothing does."""
        return read_kill_switch(self.path, needs_folder=not self.makes_folder)

    def pull(self, words: str) -> bool:
        """Stops everything; False: it was on before, and says what it said. Raises: SwitchStuck.

        Args: words: one line, told wherever something is refused.
        """
        try:
            if self.makes_folder:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.open("x", encoding="utf-8") as file:
                file.write(f"{words}\n")
                file.flush()
                os.fsync(file.fileno())
            self._sync_folder()
        except FileExistsError:
            return False
        except OSError as error:
            if self.path.exists():
                # Without its words, as on a full disk: what counts is that it is there.
                return True
            raise SwitchStuck(f"{self.path} cannot be made: {error.strerror or error}") from error
        return True

    def let_go(self) -> bool:
        """Lets things be done again; False: it was off before. Raises: SwitchStuck."""
        try:
            self.path.unlink()
            self._sync_folder()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SwitchStuck(f"{self.path} cannot be removed: {error.strerror or error}") from error
        return True

    def _sync_folder(self) -> None:
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def switch_sha256(stop: str | None) -> str:
    """What a form about the switch was made for. Args: stop: of `KillSwitch.read`."""
    return hashlib.sha256((_OFF if stop is None else f"on {stop}").encode()).hexdigest()
