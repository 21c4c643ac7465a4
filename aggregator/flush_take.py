"""Whose rows a flush stores, taken out of the buffer a piece of the fleet at a time.

A million VMs are seconds of work, and nobody is answered meanwhile unless other events have their turns in between.
That is safe, since all that the journal's closed segments hold is in the buffer when the rotation is over, and stays
there until it is stored. What comes later only adds: to a VM that is not looked at yet, whose new rows are stored
sooner than they have to be, or to one that was, or is new, whose rows lie in a segment that stays. Only what the flush
may claim to have stored must be settled when the rotation is over, before the first piece.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence, Set

from twisted.internet.defer import Deferred

from aggregator.buffer import Buffer
from aggregator.pool import partition_of

PIECE_VMS = 2_000  # some milliseconds
CHUNK_VMS = 128
_WORKER_FDS = 24  # of a worker, beside its stores: its pipe, its modules
_STORE_FDS = 3  # the store, its rollback journal, their folder while that is synced


def chunk_vms_for(descriptors: int) -> int:
    """How many VMs a worker that may open so many descriptors is given at once: it opens all their stores."""
    return max(1, min(CHUNK_VMS, (descriptors - _WORKER_FDS) // _STORE_FDS))


class Pieces:
    """Cuts long loops.

    Args:
        call_in_reactor: has something called on the reactor thread, after other events.
        vms: how many make a piece.
    """

    def __init__(self, call_in_reactor: Callable[..., object], vms: int = PIECE_VMS) -> None:
        self._call_in_reactor = call_in_reactor
        self._vms = vms

    async def of(self, vm_ids: Sequence[str]) -> AsyncIterator[Sequence[str]]:
        """One piece after another, the first at once."""
        for start in range(0, len(vm_ids), self._vms):
            if start:
                await self.turn()
            yield vm_ids[start : start + self._vms]

    def turn(self) -> Deferred[None]:
        """Fires after other events."""
        had: Deferred[None] = Deferred()
        self._call_in_reactor(had.callback, None)
        return had


async def take(
    buffer: Buffer,
    pieces: Pieces,
    *,
    wanted: Callable[[str], bool],
    due: Set[str],
    owed: Iterable[str],
    partitions: int,
) -> list[list[str]]:
    """Has the buffer give up the rows of a flush; its VMs by partition, sorted.

    Args:
        wanted: whether it is of this flush to store a VM.
        due: those whose figures are to be read if they are wanted.
        owed: those whose summary is, wanted or not.
    """
    chosen = set(owed)
    async for piece in pieces.of(buffer.vm_ids()):
        mine = set(filter(wanted, piece))
        chosen.update(buffer.take(piece, mine.__contains__), mine & due)
    async for piece in pieces.of(list(due)):
        chosen.update(vm_id for vm_id in piece if vm_id not in buffer and wanted(vm_id))
    shares: list[list[str]] = [[] for _ in range(partitions)]
    async for piece in pieces.of(list(chosen)):
        for vm_id in piece:
            shares[partition_of(vm_id, partitions)].append(vm_id)
    for share in shares:
        if len(chosen) > PIECE_VMS:
            await pieces.turn()
        share.sort()
    return shares
