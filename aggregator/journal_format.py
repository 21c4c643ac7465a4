"""The bytes of the journal: segment header, records, and a scanner that survives damage. No I/O.

`docs/journal.md` describes the format. Integers are little-endian.

    segment = magic (8)  version (4)  CRC-32 of the 12 bytes before (4)  record...
    record  = marker (4)  length (4)  CRC-32 of length and payload (4)  payload
"""

from __future__ import annotations

import re
import struct
from zlib import crc32

VERSION = 1
MAX_PAYLOAD_BYTES = 2 << 20

_MAGIC = b"fallowJ\n"
_HEADER = struct.Struct("<8sII")
HEADER_BYTES = _HEADER.size

# 0xfa and 0xfe occur in no UTF-8 text, so no name inside a payload can look like a record.
MARKER = b"\xfa\x11\x0f\xfe"
_RECORD = struct.Struct("<4sII")
RECORD_HEAD_BYTES = _RECORD.size
_LENGTH = struct.Struct("<I")

_SEGMENT_NAME = re.compile(r"([0-9]{8,18})\.seg")


class JournalError(Exception):
    """The journal cannot do what was asked; the text names the file and why."""


def segment_name(number: int) -> str:
    """File name of segment `number`; names sort as the numbers do."""
    return f"{number:08d}.seg"


def segment_number(name: str) -> int | None:
    """The number in a segment's file name; None: not a segment."""
    match = _SEGMENT_NAME.fullmatch(name)
    return int(match[1]) if match else None


def segment_header() -> bytes:
    """The first HEADER_BYTES of a segment."""
    head = _HEADER.pack(_MAGIC, VERSION, 0)[:-4]
    return head + _LENGTH.pack(crc32(head))


def is_header(head: bytes, name: str) -> bool:
    """Whether `head` begins a segment that can be read; False: cut short or damaged.

    Raises: JournalError: an undamaged header of another version, which only another release can read.
    """
    if len(head) < HEADER_BYTES:
        return False
    magic, version, crc = _HEADER.unpack_from(head)
    if magic != _MAGIC or crc != crc32(head[: HEADER_BYTES - 4]):
        return False
    if version != VERSION:
        raise JournalError(
            f"{name}: journal version {version} is not supported (supported: {VERSION}): "
            "let the release that wrote it flush it, or move the file away"
        )
    return True


def record_head(payload: bytes) -> bytes:
    """What stands before `payload` in a record. The payload must not exceed MAX_PAYLOAD_BYTES."""
    length = len(payload)
    return _RECORD.pack(MARKER, length, crc32(payload, crc32(_LENGTH.pack(length))))


class SegmentScanner:
    """Whole records out of the bytes of one segment, in pieces of any size; damage is skipped and counted.

    At a place where no whole record stands, the next marker at which one does is looked for, so a wrong
    length misleads no further than its own record. Holds at most one record and one piece in memory.

    Attributes:
        header_sound: the header was whole and undamaged.
        damaged: runs of bytes that are no record, with a record after them.
        damaged_bytes: their length.
        valid_end: offset just after the last whole record (or after the header); 0: neither was found.
        end: bytes fed so far.
    """

    def __init__(self, name: str) -> None:
        self.header_sound = False
        self.damaged = 0
        self.damaged_bytes = 0
        self.valid_end = 0
        self.end = 0
        self._name = name
        self._header_seen = False
        self._rest = b""

    @property
    def tail_bytes(self) -> int:
        """Bytes after the last whole record; meaningful after `finish`."""
        return self.end - self.valid_end

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads of the records that `data` completes, oldest first.

        Raises: JournalError: the header is of an unknown version.
        """
        self.end += len(data)
        self._rest += data
        if not self._header_seen:
            if self.end < HEADER_BYTES:
                return []
            self._read_header()
        return self._scan(at_end=False)

    def finish(self) -> list[bytes]:
        """Payloads found in what was held back for more bytes; call it once, after the last `feed`."""
        if not self._header_seen:
            self._read_header()
        return self._scan(at_end=True)

    def _read_header(self) -> None:
        self._header_seen = True
        self.header_sound = is_header(self._rest, self._name)
        if self.header_sound:
            self._rest = self._rest[HEADER_BYTES:]
            self.valid_end = HEADER_BYTES

    def _scan(self, *, at_end: bool) -> list[bytes]:
        rest = self._rest
        base = self.end - len(rest)
        at = 0
        payloads: list[bytes] = []
        while at < len(rest):
            payload = _record_at(rest, at)
            if payload is not None:
                skipped = base + at - self.valid_end
                if skipped:
                    self.damaged += 1
                    self.damaged_bytes += skipped
                payloads.append(payload)
                at += RECORD_HEAD_BYTES + len(payload)
                self.valid_end = base + at
            elif not at_end and _may_become_record(rest, at):
                break
            else:
                found = rest.find(MARKER, at + 1)
                # Without one, the last bytes may still be the beginning of a marker.
                at = found if found >= 0 else max(at + 1, len(rest) - len(MARKER) + 1)
        self._rest = rest[at:]
        return payloads


def _record_at(data: bytes, at: int) -> bytes | None:
    if not data.startswith(MARKER, at) or len(data) - at < RECORD_HEAD_BYTES:
        return None
    _, length, crc = _RECORD.unpack_from(data, at)
    start = at + RECORD_HEAD_BYTES
    if length > MAX_PAYLOAD_BYTES or len(data) - start < length:
        return None
    payload = data[start : start + length]
    return payload if crc == crc32(payload, crc32(data[at + 4 : at + 8])) else None


def _may_become_record(data: bytes, at: int) -> bool:
    """Whether more bytes could complete a record at `at`."""
    here = len(data) - at
    if here < RECORD_HEAD_BYTES:
        return MARKER.startswith(data[at : at + len(MARKER)])
    if not data.startswith(MARKER, at):
        return False
    length: int = _LENGTH.unpack_from(data, at + 4)[0]
    return length <= MAX_PAYLOAD_BYTES and here - RECORD_HEAD_BYTES < length
