"""A wall clock for one program that can be set while it runs; its monotonic clock stays true."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

HOUR_S = 3600
YEAR_S = 365 * 24 * HOUR_S
_LIBRARY = "libfaketimeMT.so.1"
# The library refuses the call by which Python sleeps (EINVAL), and leaves this one alone.
_SLEEP = """import select, time
time.sleep = lambda secs: select.select((), (), (), secs) and None
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeClock:
    """An offset in a file, which the program's library reads at every look at the clock."""

    path: Path

    @property
    def under(self) -> tuple[str, ...]:
        """What a command line is put behind so that the program and its children live by this clock."""
        return (
            "env",
            f"LD_PRELOAD={_library()}",
            f"FAKETIME_TIMESTAMP_FILE={self.path}",
            "FAKETIME_NO_CACHE=1",
            # Sleeps and timeouts must last as long as ever.
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            f"PYTHONPATH={os.pathsep.join(filter(None, (str(self.modules), os.environ.get('PYTHONPATH'))))}",
        )

    @property
    def modules(self) -> Path:
        """Of the module that Python loads at each start."""
        return self.path.with_suffix(".modules")

    def set(self, offset_s: int) -> None:
        """Sets the clock so many seconds from the true time."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        os.replace(fresh, self.path)


def fake_clock(path: Path, offset_s: int = 0) -> FakeClock:
    """A clock whose offset is kept at `path`."""
    clock = FakeClock(path=path)
    clock.set(offset_s)
    clock.modules.mkdir()
    (clock.modules / "sitecustomize.py").write_text(_SLEEP)
    return clock


def _library() -> Path:
    """Raises: FileNotFoundError."""
    found = sorted(Path("/usr/lib").glob(f"*/faketime/{_LIBRARY}"))
    if not found:
        raise FileNotFoundError(f"{_LIBRARY} is not installed")
    return found[0]
