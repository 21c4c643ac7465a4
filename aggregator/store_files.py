"""Where stores lie, and reading samples out of one: what the aggregator's own process does with stores."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from aggregator.rows import SAMPLE_COLUMNS, dequantise

SELECT_SAMPLES = f"SELECT {', '.join(SAMPLE_COLUMNS)} FROM sample WHERE ts >= ? AND ts <= ? ORDER BY ts"


class StoreError(Exception):
    """A store that cannot be read or written. `corrupt`: it will not get better by waiting."""

    def __init__(self, detail: str, *, corrupt: bool) -> None:
        self.corrupt = corrupt
        super().__init__(detail)


def store_path(data_dir: Path, vm_id: str) -> Path:
    """Where a VM's store lies: spread over 65,536 folders by a hash, so that no folder grows large."""
    digest = hashlib.sha256(vm_id.encode()).hexdigest()
    return data_dir / "stores" / digest[:2] / digest[2:4] / f"{vm_id}.db"


def as_store_error(error: sqlite3.Error | OSError | ValueError) -> StoreError:
    """Tells what waiting may cure (a full disk, a lock) from what it will not (a damaged file)."""
    curable = isinstance(error, sqlite3.OperationalError | OSError)
    return StoreError(f"{type(error).__name__}: {error}", corrupt=not curable)


def read_samples(path: Path, from_s: int, to_s: int) -> list[dict[str, float | int | None]]:
    """Raw rows of a store with from_s <= ts <= to_s as wire fields, by rising ts; none where there is no store.

    Raises StoreError.
    """
    if not path.exists():
        return []
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)
        try:
            return [dequantise(row) for row in connection.execute(SELECT_SAMPLES, (from_s, to_s))]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise as_store_error(error) from error
