"""What the journal of a killed aggregator holds of the pushes that were acknowledged, as its next start reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aggregator.journal import SEGMENT_BYTES
from aggregator.journal_files import OsFiles
from aggregator.journal_segments import Segments
from aggregator.record import decode_record
from aggregator.rows import ROW_BYTES, row_ts


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Samples in the journal, against the acknowledged ones.

    Attributes:
        samples: found, each VM and minute once.
        lost: acknowledged and not found.
        doubled: found once more than once.
        strange: of a VM or minute that nobody pushed.
        damaged: runs of bytes that were no records.
    """

    samples: int
    lost: int
    doubled: int
    strange: int
    damaged: int


def read_journal(folder: Path, vms: Sequence[str], minutes: Sequence[int]) -> Kept:
    """Reads every record; all of these minutes of all of these VMs were acknowledged.

    Args: folder: of the segments. minutes: ts, in steps of 60 from the first.
    Raises: JournalError, RecordError: it cannot be read.
    """
    number = {vm: index for index, vm in enumerate(vms)}
    first = minutes[0]
    found = np.zeros((len(minutes), len(vms)), np.uint8)
    strange = 0
    segments = Segments(folder, segment_bytes=SEGMENT_BYTES, files=OsFiles())
    recovery = segments.open()
    for segment in recovery.segments:
        for payload in segments.replay(segment):
            push, _ = decode_record(payload)
            index = number.get(push.vm)
            for row in range(len(push.rows) // ROW_BYTES):
                minute, rest = divmod(row_ts(push.rows, row) - first, 60)
                if index is None or rest or not 0 <= minute < len(minutes):
                    strange += 1
                else:
                    found[minute, index] += 1
    segments.close()
    samples = int(np.count_nonzero(found))
    return Kept(
        samples=samples,
        lost=found.size - samples,
        doubled=int(np.count_nonzero(found > 1)),
        strange=strange,
        damaged=recovery.damaged_records,
    )
