"""Whose rows a scheduled flush stores: each VM's at its own turn, so that a store is seldom opened for few rows. Pure.

A flush costs a store about the same however many rows it brings. Turns spread the VMs of a fleet over flushes, and the
journal keeps what waits for its turn: a segment may go once every VM had one after it.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable


class FlushTurns:
    """Args: count: each VM has one turn in so many flushes."""

    def __init__(self, count: int) -> None:
        self._next = 0
        self._through = [0] * count
        # What a turn's last flush brought but for these VMs, whose store failed then: each flush tries them again.
        self._segment = [0] * count
        self._failed: list[frozenset[str]] = [frozenset()] * count

    @property
    def everybody(self) -> range:
        """All turns."""
        return range(len(self._through))

    def turn_of(self, vm_id: str) -> int:
        """A VM's, in every run. Not by the bits that choose its worker: each turn keeps all of them at work."""
        return (zlib.crc32(vm_id.encode()) >> 16) % len(self._through)

    def next(self) -> range:
        """The turn of the scheduled flush that begins now."""
        turn = self._next
        self._next = (turn + 1) % len(self._through)
        return range(turn, turn + 1)

    def settle(self, turns: Collection[int], segment: int, failed: Iterable[str]) -> int:
        """A flush of these turns ended; returns through which segment the journal is stored for all VMs.

        Args:
            segment: through which its rows reached the flush.
            failed: VMs that could not be stored. Whose store failed in the flush before was tried again in this one.
        """
        failing = frozenset(failed)
        for turn in self.everybody:
            if turn in turns:
                self._segment[turn] = segment
                self._failed[turn] = frozenset(vm_id for vm_id in failing if self.turn_of(vm_id) == turn)
            else:
                self._failed[turn] &= failing
            if not self._failed[turn]:
                self._through[turn] = self._segment[turn]
        return min(self._through)
