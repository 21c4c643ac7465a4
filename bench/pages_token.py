"""An API token for the pages, as an admin makes one at the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.programs import START_WITHIN_S, Programs


def make_pages_token(programs: Programs, source: Sequence[str], file: Path) -> str:
    """The header `Authorization` of a program that may look at the pages.

    Args:
        source: options that say where the fleet is.
        file: gets the token, and is readable by its owner alone.

    Raises: ProgramError: an account or a token could not be made.
    """
    account = "bench"
    for action in (
        ["add", account, "--role", "viewer", "--no-password"],
        ["token", "add", account, "--label", "a measurement", "--scope", "read"],
    ):
        file.touch(mode=0o600)
        made = programs.start(["fallow-report", "user", *action, *source], stdout=file)
        programs.finish(made, within_s=START_WITHIN_S)
    return f"Bearer {file.read_text(encoding='ascii').strip()}"
