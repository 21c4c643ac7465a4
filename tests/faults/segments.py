"""Where the records of a journal lie, and damage to it."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from aggregator.journal_format import HEADER_BYTES, RECORD_HEAD_BYTES, SegmentScanner, segment_header
from aggregator.record import decode_record
from aggregator.rows import row_ts

Key = tuple[str, int]  # VM and ts


@dataclass(frozen=True, slots=True)
class Record:
    """A record in an undamaged segment: its bytes from `begin` up to `end`, and the samples in it."""

    segment: Path
    begin: int
    end: int
    keys: frozenset[Key]


def segments_of(data: Path) -> list[Path]:
    """Oldest first."""
    return sorted((data / "journal").glob("*.seg"))


def records_of(segment: Path) -> list[Record]:
    """All records. A torn tail is no record."""
    scanner = SegmentScanner(segment.name)
    payloads = [*scanner.feed(segment.read_bytes()), *scanner.finish()]
    found = []
    at = HEADER_BYTES
    for payload in payloads:
        push, _ = decode_record(payload)
        end = at + RECORD_HEAD_BYTES + len(payload)
        keys = frozenset((push.vm, row_ts(push.rows, index)) for index in range(push.count))
        found.append(Record(segment, at, end, keys))
        at = end
    return found


def flip_bits(segment: Path, draw: random.Random, times: int) -> list[int]:
    """Turns single bits over, each in another byte; gives their offsets."""
    content = bytearray(segment.read_bytes())
    offsets = draw.sample(range(len(content)), times)
    for offset in offsets:
        content[offset] ^= 1 << draw.randrange(8)
    segment.write_bytes(content)
    return sorted(offsets)


def tear(segment: Path, draw: random.Random) -> str:
    """Appends what a crash in the middle of a write may leave; says what."""
    content = segment.read_bytes()
    record = draw.choice(records_of(segment))
    whole = content[record.begin : record.end]
    kind, torn = draw.choice(
        (
            ("half a record", whole[: draw.randrange(1, len(whole))]),
            ("zeros", bytes(draw.randrange(1, 10_000))),
            ("noise", draw.randbytes(draw.randrange(1, 10_000))),
            ("a record of zeros", whole[:RECORD_HEAD_BYTES] + bytes(len(whole) - RECORD_HEAD_BYTES)),
        )
    )
    segment.write_bytes(content + torn)
    return kind


def cut(segment: Path, draw: random.Random) -> int:
    """Cuts the file anywhere behind its header; gives the new length."""
    length = draw.randrange(HEADER_BYTES, segment.stat().st_size)
    with open(segment, "r+b") as file:
        file.truncate(length)
    return length


def set_version(segment: Path, version: int) -> None:
    """Gives the segment a sound header of another version."""
    content = segment.read_bytes()
    head = segment_header()[:8] + struct.pack("<I", version)
    segment.write_bytes(head + struct.pack("<I", crc32(head)) + content[HEADER_BYTES:])


def hit_by(records: Iterable[Record], offsets: Iterable[int]) -> Iterator[Record]:
    """The records that hold any of these bytes."""
    hits = list(offsets)
    return (record for record in records if any(record.begin <= offset < record.end for offset in hits))


def only_in(hit: Iterable[Record], records: Iterable[Record]) -> set[Key]:
    """Samples of `hit` that no other record holds."""
    gone = set(hit)
    kept = {key for record in records if record not in gone for key in record.keys}
    return {key for record in gone for key in record.keys} - kept
