"""Joining and giving on one node, kept apart: which VMs a round works on, and which were given away since. Pure.

A round acts on what the fleet database said when it looked. A VM whose store was given to a newer home since then must
not be joined any more: that would begin a second store, of which nobody knows.
"""

from __future__ import annotations


class PartTurns:
    """VMs of one node. All on the reactor, so that nothing comes between question and answer."""

    def __init__(self) -> None:
        self._joining: set[str] = set()
        self._given: set[str] = set()

    def look(self) -> None:
        """A round is about to look: what was given away before will not be in what it finds."""
        self._given.clear()

    def begin_join(self, vm_id: str) -> bool:
        """Whether a part of this VM may be taken in; until `end_join` its store is not given away."""
        if vm_id in self._given:
            return False
        self._joining.add(vm_id)
        return True

    def end_join(self, vm_id: str) -> None:
        """What was begun has ended, one way or another."""
        self._joining.discard(vm_id)

    def give(self, vm_id: str) -> bool:
        """Whether the store of this VM may be given away; then nothing is joined into it before the next look."""
        if vm_id in self._joining:
            return False
        self._given.add(vm_id)
        return True
