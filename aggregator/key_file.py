"""The key file while the fleet runs: read again, given a new key, freed of an old one.

A new first line is accepted at once and signs a minute later: by then every aggregator that shares the file has read
it, and none refuses what another one signed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from agent.settings import ConfigError, read_secret
from agent.status import replace_file
from aggregator.tokens import MAX_KEYS, TokenKeys, new_line, parse_keys

# Twice as long as an aggregator may take to read the file again.
SIGNS_AFTER_S = 60.0

_NUMBERED: Final = re.compile(r"k([0-9]{1,15})")


def read_keys(path: Path, *, now_s: float) -> TokenKeys:
    """The keys as they are to be used now; of two, a first line that is younger than SIGNS_AFTER_S does not sign yet.

    Raises: ConfigError: absent, unreadable, readable by others, or a line that is not a key.
    """
    text = read_secret(path)
    try:
        age_s = now_s - path.stat().st_mtime
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    # A file of the future is one of before the clock was set back.
    return parse_keys(text, source=str(path), settling=0 <= age_s < SIGNS_AFTER_S)


def kids_of(path: Path) -> tuple[str, ...]:
    """Ids of the keys in the order of the file. Raises: ConfigError: as `read_keys`."""
    return parse_keys(read_secret(path), source=str(path)).kids


def add_key(path: Path) -> str:
    """Puts a new key on the first line, whole or not at all, mode 0600; returns its kid.

    Raises: ConfigError: there are two already, or the file cannot be read or written.
    """
    kids = kids_of(path)
    if len(kids) >= MAX_KEYS:
        raise ConfigError(f"{path}: holds {' and '.join(kids)} already: drop one first (token drop-key {kids[-1]})")
    numbers = [int(found[1]) for kid in kids if (found := _NUMBERED.fullmatch(kid)) is not None]
    kid = f"k{max(numbers, default=0) + 1}"
    _replace(path, new_line(kid) + _text(path))
    return kid


def drop_key(path: Path, kid: str) -> None:
    """Takes one key out of the file: its tokens are refused from then on.

    Raises: ConfigError: it is not there, it is the only one, or the file cannot be read or written.
    """
    kids = kids_of(path)
    if kid not in kids:
        raise ConfigError(f"{path}: holds no key {kid} (there are: {', '.join(kids)})")
    if len(kids) == 1:
        raise ConfigError(f"{path}: {kid} is the only key: every VM would have to enrol again (token new-key first)")
    kept = [line for line in _text(path).splitlines(keepends=True) if line.strip().partition(":")[0] != kid]
    _replace(path, "".join(kept))


def _text(path: Path) -> str:
    return read_secret(path) + "\n"


def _replace(path: Path, text: str) -> None:
    try:
        # Aggregators of one host may share the file through links: the file is replaced, not the link.
        replace_file(Path(os.path.realpath(path)), text, mode=0o600, sync=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
