"""One aggregator a data directory, by a lock that ends with the process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent.settings import ConfigError


class DataDirectoryBusyError(Exception):
    """Another aggregator holds the data directory."""


def lock_data_directory(data_dir: Path) -> int:
    """Makes the directory if needed and locks it for the life of the descriptor returned.

    Raises: DataDirectoryBusyError; ConfigError: it cannot be made or written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise ConfigError(f"--data: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DataDirectoryBusyError(f"{data_dir} is in use by another fallow-aggregator") from error
    return descriptor
