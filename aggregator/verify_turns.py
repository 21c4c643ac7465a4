"""When a store is held against its sums: each once in four weeks, at its own time, while its VM pushes. Pure."""

from __future__ import annotations

import zlib

VERIFY_EVERY_S = 28 * 86400.0
_AT_ONCE_S = 3600.0  # of that: bounds what a flush verifies after a pause, or when the clock jumps


class VerifyTurns:
    """Whose turn it is in each flush. Nothing needs to be remembered of a store."""

    def __init__(self) -> None:
        self._until_s: float | None = None  # stores whose time came until then are verified
        self._from_s = 0.0

    def begin(self, now_s: float) -> None:
        """A flush begins: it is the turn of those whose time came since the last one."""
        self._from_s = now_s if self._until_s is None else max(self._until_s, now_s - _AT_ONCE_S)
        self._until_s = now_s

    def is_due(self, vm_id: str) -> bool:
        """Whether it is a VM's turn in the flush that began last."""
        if self._until_s is None:
            return False
        due_s = zlib.crc32(vm_id.encode()) / (1 << 32) * VERIFY_EVERY_S
        return (self._from_s - due_s) // VERIFY_EVERY_S < (self._until_s - due_s) // VERIFY_EVERY_S
