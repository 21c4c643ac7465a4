"""Running the system's programs for the rig, with errors that say what failed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
COMMAND_WITHIN_S = 120.0
_LOOK_EVERY_S = 0.05


class RigError(Exception):
    """Something of the rig does not work; the text says which part and what it said."""


def run(*argv: str, cwd: Path | None = None, stdin: str | None = None, within_s: float = COMMAND_WITHIN_S) -> str:
    """What a program prints. Raises: RigError: it failed, or took longer than `within_s`."""
    try:
        done = subprocess.run(argv, cwd=cwd, input=stdin, capture_output=True, text=True, timeout=within_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RigError(f"{' '.join(argv)}: {error}") from error
    if done.returncode != 0:
        raise RigError(f"{' '.join(argv)}: status {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def wait_for(found: Callable[[], T | None], what: str, *, within_s: float, explain: Callable[[], str] = str) -> T:
    """What `found` gives once it is neither None nor False.

    Args: explain: text for the error, such as the end of a log.
    Raises: RigError: nothing came within `within_s`.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        value = found()
        if value is not None and value is not False:
            return value
        if time.monotonic() >= deadline_s:
            raise RigError(f"{what}: nothing within {within_s:g} s{explain()}")
        time.sleep(_LOOK_EVERY_S)
