"""What strace says was written to, and synced of, each file of the journal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.faults.strace import Trace

_ON_FILE = re.compile(r"\d+<([^>]*\.seg)>(.*)", re.DOTALL)
_RESULT = re.compile(r"= (-?\d+)")
_CUT_TO = re.compile(r", (\d+)\)")


@dataclass(slots=True)
class Synced:
    """One file.

    Attributes:
        written_bytes: its length as the program knows it.
        durable_bytes: its length at the last sync that succeeded.
        failed: syncs of it that failed.
        synced_after_failure: it was synced, or tried to be, after one had failed.
    """

    written_bytes: int = 0
    durable_bytes: int = 0
    failed: int = 0
    synced_after_failure: bool = False


def read_journal_trace(trace: Trace, journal: Path) -> dict[Path, Synced]:
    """By path. The trace must hold write, fdatasync and ftruncate, with the paths of descriptors."""
    seen: dict[Path, Synced] = {}
    for call in trace.calls():
        found = _ON_FILE.match(call.text)
        if found is None or Path(found[1]).parent != journal:
            continue
        file = seen.setdefault(Path(found[1]), Synced())
        results = _RESULT.findall(found[2])
        result = int(results[-1]) if results else -1  # none where a kill came first
        if call.name == "write":
            file.written_bytes += max(0, result)
        elif call.name == "ftruncate" and (cut := _CUT_TO.search(found[2])):
            file.written_bytes = int(cut[1])
        elif call.name == "fdatasync":
            file.synced_after_failure |= bool(file.failed)
            if result == 0:
                file.durable_bytes = file.written_bytes
            elif "INJECTED" in call.text:
                file.failed += 1
    return seen
