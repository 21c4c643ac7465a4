"""The one oracle: acknowledged ⊆ durable, each sample once and as it was made, every drop counted.

It sees what agents make, what the journal has synced, what stores hold and what the door answers, and shares no code
with what it watches but the layout of a journal's record and of a packed row. A sample is known again by its memory
figure, which no two samples of a history have in common.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.sample import FIELDS
from aggregator.journal_format import HEADER_BYTES
from aggregator.record import decode_record
from aggregator.rows import ROW, ROW_BYTES, SAMPLE_COLUMNS
from aggregator.store_files import store_path
from aggregator.store_rows import read_rows
from bench.raw_rows import raw_rows
from tests.whole.hub import Broken

SERIAL_BYTES = 1024
REVOKED_S = 60.0
_MARK = b"\xfa\x11\x0f\xfe"
_HEAD = struct.Struct("<4sII")
_SERIAL_AT = 2 + [field.column for field in FIELDS].index("mem_used")
_TS_AND_SERIAL = [SAMPLE_COLUMNS.index(name) for name in ("ts", "mem_used")]


@dataclass(frozen=True, slots=True)
class Made:
    """A sample as its agent made it. `text` is what stands in the spool, `made_s` the true time since the beginning."""

    vm: str
    ts: int
    text: str
    made_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A push on its way. `offset_s`: of its sender's clock, when it was sent."""

    vm: str
    serials: tuple[int, ...]
    generation: int
    offset_s: float


@dataclass(slots=True)
class _Segment:
    """What is synced of one: the serials in it, and up to where it was read."""

    serials: set[int] = field(default_factory=set)
    read_bytes: int = HEADER_BYTES


class Ledger:
    """Everything that was made, and what became of it.

    Args: data_dir: below which the stores lie.
    Attributes:
        made: by serial. serials: by the text of the sample.
        acked: serials that the door said 2xx to, one by one rejected ones left out.
        rejected: serials listed as `too_old`.
        stored: of each VM, ts -> serial as its store had it when it was last read.
        heard_s: of each VM, when the newest sample that is durable was made.
        offsets_s: of each VM's clock, as of its newest push that was answered, and of that which came.
        in_conflict: VMs that were told that two machines push as them, and have not enrolled since.
        clock_is_right: the aggregator's.
        gone: serials whose only copy was lost where nothing can help: memory of a killed agent whose disk was full.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.made: dict[int, Made] = {}
        self.serials: dict[str, int] = {}
        self.acked: set[int] = set()
        self.rejected: set[int] = set()
        self.gone: set[int] = set()
        self.stored: dict[str, dict[int, int]] = {}
        self.raw_retention_s = 14 * 86400.0
        self.true_now_s = 0.0
        self.clock_is_right = True
        self.heard_s: dict[str, float] = {}
        self.offsets_s: dict[str, tuple[float, float]] = {}
        self.in_conflict: set[str] = set()
        self._readers: dict[str, sqlite3.Connection] = {}
        self._segments: dict[Path, _Segment] = {}
        self._revoked: dict[str, tuple[int, float]] = {}
        self._unreachable_since_s: float | None = None
        self._unreachable_until_s = float("-inf")

    # What agents do.

    def next_serial(self) -> int:
        """Of the sample that is made next."""
        return len(self.made) + 1

    def add_made(self, vm: str, ts: int, text: str, made_s: float) -> int:
        """A sample exists; its serial."""
        serial = serial_of(text)
        if serial in self.made:
            raise Broken(f"sample {serial} was made twice")
        self.made[serial] = Made(vm, ts, text, made_s)
        self.serials[text] = serial
        return serial

    # What the journal's disk does.

    def synced(self, path: Path, contents: bytes) -> None:
        """A segment would survive a power cut as far as this."""
        segment = self._segments.setdefault(path, _Segment())
        segment.read_bytes, found = _read_records(contents, segment.read_bytes)
        segment.serials.update(found)
        for one in (self.made[serial] for serial in found):
            self.heard_s[one.vm] = max(self.heard_s.get(one.vm, one.made_s), one.made_s)

    def unlinked(self, path: Path) -> None:
        """A segment is gone: the stores must hold all of it."""
        segment = self._segments.pop(path, None)
        if segment is not None:
            self._check_durable(segment.serials & self.acked, f"the journal dropped {path.name}")

    def restarted(self, contents: Mapping[Path, bytes]) -> None:
        """The aggregator died; this is what its journal's disk has now."""
        self._segments = {}
        for path, body in contents.items():
            segment = self._segments[path] = _Segment()
            segment.read_bytes, found = _read_records(body, segment.read_bytes)
            segment.serials.update(found)
        self._check_durable(self.acked, "after the crash")

    # What the door answers.

    def arrived(self, sent: Sent) -> None:
        """The door has the whole of a push; whoever sent it may be gone before the answer."""
        answered_s, _ = self.offsets_s.get(sent.vm, (sent.offset_s, 0.0))
        self.offsets_s[sent.vm] = (answered_s, sent.offset_s)

    def answered(self, sent: Sent, status: int, body: bytes, *, arrived_s: float) -> None:
        """The door begins to send this answer to a push that it had whole at `arrived_s`."""
        if status == 409:
            self.in_conflict.add(sent.vm)
        if not 200 <= status < 300:
            return
        serials = set(sent.serials)
        found = json.loads(body) if status == 200 else {}
        # What was refused whole, as an old push that comes late, leaves nothing behind and tells nothing of a clock.
        if len(found.get("rejected", ())) < len(serials):
            self.offsets_s[sent.vm] = (sent.offset_s, sent.offset_s)
        if status == 200:
            old = {int(one["ts"]) for one in found["rejected"]}
            wrong = sorted(ts for ts in old if not self._is_old(ts, slack_s=60.0))
            if wrong and self.clock_is_right:
                raise Broken(f"samples of {sent.vm} at {wrong} are young and were rejected")
            self.rejected.update(serial for serial in serials if self.made[serial].ts in old)
            serials = {serial for serial in serials if self.made[serial].ts not in old}
            if found["stored"] + found["duplicate"] + found["conflict"] != len(serials):
                raise Broken(f"an answer counts {found} for {len(serials)} samples of {sent.vm}")
        self._check_token(sent, arrived_s)
        self.acked |= serials
        self._check_durable(serials, f"{sent.vm} was answered {status}")

    def enrolled(self, vm: str) -> None:
        """It has a new token."""
        self.in_conflict.discard(vm)

    def revoked(self, vm: str, below_generation: int, now_s: float) -> None:
        """Tokens of the VM below this generation count no more; it is written down."""
        known = self._revoked.get(vm)
        if known is None or below_generation > known[0]:
            self._revoked[vm] = (below_generation, now_s)

    def database(self, *, away: bool, now_s: float) -> None:
        """The fleet database goes or comes: while it is away nobody can hear of a revocation."""
        if away:
            self._unreachable_since_s = now_s
        else:
            self._unreachable_since_s, self._unreachable_until_s = None, now_s

    # What flush workers do.

    def stores_written(self, vms: Iterable[str]) -> None:
        """Stores may have changed: nothing that was in them may be another, or gone before its time."""
        for vm in vms:
            before, now = self.stored.get(vm, {}), self._read_store(vm)
            for ts, serial in before.items():
                if ts not in now:
                    self._check_forgotten(vm, ts)
                elif now[ts] != serial:
                    raise Broken(f"{vm} at {ts}: sample {now[ts]} took the place of {serial}")
            self.stored[vm] = now

    def close(self) -> None:
        """Lets go of the stores."""
        for reader in self._readers.values():
            reader.close()

    # At the end.

    def conflicts(self, vm: str) -> int:
        """As the store of a VM counts them."""
        return int(self._reader(vm).execute("SELECT conflicts FROM store").fetchone()[0])

    def check_end(self, *, waiting: set[int], given_up: Mapping[str, int]) -> None:
        """All is mended and flushed.

        Args:
            waiting: serials in spools.
            given_up: of each VM, the samples its agents counted as given up: dropped, damaged, quarantined.
        """
        for vm in sorted({one.vm for one in self.made.values()}):
            mine = {serial: one for serial, one in self.made.items() if one.vm == vm}
            stored = self.stored.get(vm, {})
            differing = 0
            lost = []
            for serial, one in mine.items():
                if stored.get(one.ts) == serial:
                    continue
                if one.ts in stored and serial in self.acked:
                    differing += 1
                elif serial in self.acked:
                    if not self._is_old(one.ts):
                        raise Broken(f"sample {serial} of {vm} at {one.ts} was acknowledged and is not stored")
                elif serial not in waiting and serial not in self.rejected and serial not in self.gone:
                    lost.append(serial)
            if len(lost) > given_up.get(vm, 0):
                raise Broken(
                    f"{vm} lacks {len(lost)} samples ({lost[0]} to {lost[-1]}) "
                    f"and counted {given_up.get(vm, 0)} as given up"
                )
            if stored:
                self._check_conflicts(vm, differing)
                self._check_rows(vm)

    def _check_conflicts(self, vm: str, differing: int) -> None:
        counted = self.conflicts(vm)
        if counted < differing:
            raise Broken(f"{vm} has {differing} samples that differ from the first of their time, and counts {counted}")
        times = [one.ts for one in self.made.values() if one.vm == vm]
        if counted and len(times) == len(set(times)):
            raise Broken(f"{vm} counts {counted} conflicts and made each minute once")

    def _check_rows(self, vm: str) -> None:
        """Every row is what its agent made."""
        rows = raw_rows(self._reader(vm))
        for row in rows:
            cells = dict(zip(SAMPLE_COLUMNS, row, strict=True))
            one = self.made[cells["mem_used"] or 0]
            told = json.loads(one.text)
            for known in FIELDS:
                value, cell = told.get(known.name), cells[known.column]
                # Half a step may be rounded either way.
                right = cell is None if value is None else abs(value / known.unit.quantum - (cell or 0)) <= 1.0
                if not right:
                    raise Broken(f"{vm} at {cells['ts']}: {known.column} is {cell} and was {value}")

    def _check_durable(self, serials: Iterable[int], when: str) -> None:
        for serial in sorted(serials):
            one = self.made[serial]
            if any(serial in segment.serials for segment in self._segments.values()):
                continue
            # Another sample of that time may have been first: then this one is a conflict, counted at the end.
            if one.ts not in self.stored.get(one.vm, {}) and not self._is_old(one.ts):
                raise Broken(f"{when}: sample {serial} of {one.vm} at {one.ts} is acknowledged and nowhere durable")

    def _check_token(self, sent: Sent, arrived_s: float) -> None:
        known = self._revoked.get(sent.vm)
        if known is None or sent.generation >= known[0]:
            return
        heard_s = known[1]
        if self._unreachable_since_s is not None:
            return
        heard_s = max(heard_s, self._unreachable_until_s)
        if arrived_s - heard_s > REVOKED_S:
            raise Broken(
                f"a token of {sent.vm}, generation {sent.generation}, was taken "
                f"{arrived_s - heard_s:.0f} s after it was revoked"
            )

    def _check_forgotten(self, vm: str, ts: int) -> None:
        if not self._is_old(ts):
            raise Broken(f"the store of {vm} forgot {ts}, which is {self.true_now_s - ts:.0f} s old")

    def _is_old(self, ts: int, *, slack_s: float = 0.0) -> bool:
        """By the true time, whatever anybody's clock said."""
        return self.true_now_s - ts > self.raw_retention_s - slack_s

    def _read_store(self, vm: str) -> dict[int, int]:
        if not store_path(self._data_dir, vm).exists():
            return {}
        rows = {ts: serial for table in read_rows(self._reader(vm)) for ts, serial in table[:, _TS_AND_SERIAL].tolist()}
        for ts, serial in rows.items():
            one = self.made.get(serial)
            if one is None or one.vm != vm or one.ts != ts:
                raise Broken(f"the store of {vm} holds sample {serial} at {ts}, which nobody made: {one}")
        return rows

    def _reader(self, vm: str) -> sqlite3.Connection:
        """Kept open: each new connection would read the schema first. It holds no lock between two questions."""
        if vm not in self._readers:
            self._readers[vm] = sqlite3.connect(store_path(self._data_dir, vm), isolation_level=None)
        return self._readers[vm]


def serial_of(text: str) -> int:
    """Of a sample as it stands in a spool or in a push."""
    found: int = json.loads(text)["mem_used_bytes"] // SERIAL_BYTES
    return found


def _read_records(contents: bytes, at: int) -> tuple[int, set[int]]:
    """Serials in the whole records from `at` on, and where the last one ends."""
    found: set[int] = set()
    while at + _HEAD.size <= len(contents):
        mark, length, crc = _HEAD.unpack_from(contents, at)
        payload = contents[at + _HEAD.size : at + _HEAD.size + length]
        whole = mark == _MARK and len(payload) == length
        if not whole or zlib.crc32(payload, zlib.crc32(struct.pack("<I", length))) != crc:
            break
        rows = decode_record(payload)[0].rows
        for start in range(0, len(rows), ROW_BYTES):
            found.add(int(ROW.unpack_from(rows, start)[_SERIAL_AT]) // SERIAL_BYTES)
        at += _HEAD.size + length
    return at, found
