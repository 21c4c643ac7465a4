"""Where the recorded traces are that tests may read but the repository must not hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TRACES = Path(__file__).resolve().parents[1].parent / "shared" / "traces"


def trace(name: str) -> Path:
    """A file under the folder of traces. Skips the test where it is absent, but fails where all must be there."""
    path = TRACES / name
    if not path.exists():
        if os.environ.get("FALLOW_CI") == "1":
            pytest.fail(f"the trace {path} is absent")
        pytest.skip(f"the trace {path} is absent")
    return path
