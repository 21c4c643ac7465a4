"""Summaries that wait for the fleet database: bounded, those of one VM in the order of their making. Pure."""

from __future__ import annotations

from collections.abc import KeysView, Sequence
from itertools import islice

from aggregator.homes import fold
from aggregator.summary import Summary

# Python's own share of what is held, beside the evidence: measured with five windows.
_SUMMARY_BYTES = 700
_FIGURES_BYTES = 1_400


def size_bytes_of(summary: Summary) -> int:
    """About how much memory a summary takes."""
    return _SUMMARY_BYTES + _FIGURES_BYTES * len(summary.figures) + len(summary.evidence or b"")


class Backlog:
    """What waits, by VM, the VM that waits longest first; and what of it is being written.

    Args:
        max_vms: VMs at most, those being written included.
        max_bytes: of memory, about.
    """

    def __init__(self, *, max_vms: int, max_bytes: int) -> None:
        self._max_vms = max_vms
        self._max_bytes = max_bytes
        self._waiting: dict[str, tuple[Summary, ...]] = {}
        self._taken: dict[str, tuple[Summary, ...]] = {}
        self.size_bytes = 0

    @property
    def waiting(self) -> int:
        """VMs that wait, those being written aside."""
        return len(self._waiting)

    @property
    def vm_ids(self) -> set[str]:
        """VMs of which the database may lack something, those being written included."""
        return {*self._waiting, *self._taken}

    def __contains__(self, vm_id: object) -> bool:
        """Whether the database may lack something of a VM."""
        return vm_id in self._waiting or vm_id in self._taken

    @property
    def taken(self) -> KeysView[str]:
        """VMs being written."""
        return self._taken.keys()

    def put(self, summary: Summary) -> bool:
        """Takes a summary in behind what waits of its VM; False: there is no room, and nothing changed."""
        before = self._waiting.get(summary.vm_id, ())
        after = fold(before, summary)
        more_bytes = _size_bytes(after) - _size_bytes(before)
        has_room = bool(before) or len(self._waiting) + len(self._taken) < self._max_vms
        if not has_room or (more_bytes > 0 and self.size_bytes + more_bytes > self._max_bytes):
            return False
        self._waiting[summary.vm_id] = after
        self.size_bytes += more_bytes
        return True

    def take(self, vms: int) -> list[Summary]:
        """All that waits of the first `vms` VMs; it keeps its room until `written` or `put_back`."""
        assert not self._taken
        for vm_id in list(islice(self._waiting, vms)):
            self._taken[vm_id] = self._waiting.pop(vm_id)
        return [summary for held in self._taken.values() for summary in held]

    def written(self) -> None:
        """What was taken is in the database."""
        self.size_bytes -= sum(map(_size_bytes, self._taken.values()))
        self._taken.clear()

    def put_back(self) -> None:
        """What was taken waits again, first, and before what came of the same VMs meanwhile."""
        waiting, self._waiting = self._waiting, self._taken
        self._taken = {}
        for vm_id, newer in waiting.items():
            held = self._waiting.get(vm_id, ())
            before = _size_bytes(held) + _size_bytes(newer)
            for summary in newer:
                held = fold(held, summary)
            self._waiting[vm_id] = held
            self.size_bytes += _size_bytes(held) - before

    def drop(self, vm_id: str) -> None:
        """Lets go of a VM; what is being written is let go of too, should it come back."""
        for held in (self._waiting, self._taken):
            self.size_bytes -= _size_bytes(held.pop(vm_id, ()))


def _size_bytes(held: Sequence[Summary]) -> int:
    return sum(map(size_bytes_of, held))
