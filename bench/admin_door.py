"""What benchmarks ask of a running aggregator as its admin: flushes, and how much waits for them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers_system import ask, ask_json
from bench.programs import ProgramError


@dataclass(frozen=True, slots=True)
class AdminDoor:
    """The admin door at `address` of the aggregator that keeps its things in `data`."""

    address: tuple[str, int]
    data: Path

    def flush_turn(self) -> dict[str, Any]:
        """The next scheduled flush: of the VMs whose turn it is. Raises: ProgramError: something was left undone."""
        return self._flush("/v1/flush?figures=due")

    def flush(self) -> dict[str, Any]:
        """A flush of every VM. Raises: ProgramError: something was left undone."""
        return self._flush("/v1/flush")

    def buffered_samples(self) -> int:
        """Samples in memory that are in no store yet. Raises: ProgramError: it does not tell."""
        return self._metric("fallow_buffered_samples")

    def stored_samples(self) -> int:
        """Samples that flushes stored since the start, asked for or not. Raises: ProgramError: as above."""
        return self._metric("fallow_flushed_samples_total")

    def _metric(self, name: str) -> int:
        text = ask(self.address, "/metrics", headers=self._headers()).decode()
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        if found is None:
            raise ProgramError(f"the aggregator does not tell of {name}")
        return int(float(found[1]))

    def _flush(self, target: str) -> dict[str, Any]:
        report: dict[str, Any] = ask_json(self.address, target, method="POST", headers=self._headers())
        if report["failures"] or report["summaries_owed"]:
            raise ProgramError(f"the flush was not whole: {report}")
        return report

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {(self.data / 'admin.token').read_text().strip()}"}


def check_steady(before: int, after: int, *, spread_ratio: float = 0.1) -> None:
    """Raises ProgramError: other numbers of samples wait in memory than before, so that a cost is not of what came."""
    if abs(after - before) > spread_ratio * before:
        raise ProgramError(f"{before} samples were in memory when the measuring began, {after} when it ended")
