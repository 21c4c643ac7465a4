"""The journal's bytes: what was written comes back, whatever is cut off or flipped."""

from __future__ import annotations

import struct
from itertools import pairwise
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.journal_format import (
    HEADER_BYTES,
    MARKER,
    MAX_PAYLOAD_BYTES,
    RECORD_HEAD_BYTES,
    JournalError,
    SegmentScanner,
    is_header,
    segment_header,
    segment_name,
    segment_number,
)
from tests.aggregator.journal_fakes import record

# Payloads made to mislead: pieces of markers and of record heads.
payloads = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.lists(st.sampled_from([MARKER, MARKER[:2], b"\0\0\0\0", b"\xff" * 4, b"x"]), max_size=6).map(b"".join),
    ),
    max_size=8,
)


def segment(bodies: list[bytes]) -> bytes:
    return segment_header() + b"".join(map(record, bodies))


def scan(data: bytes, cuts: list[int] | None = None) -> tuple[SegmentScanner, list[bytes]]:
    """The scanner after `data`, fed in pieces that end at `cuts`, and what it found."""
    scanner = SegmentScanner("a segment")
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts or []), len(data)]
    found = [body for start, end in pairwise(edges) for body in scanner.feed(data[start:end])]
    return scanner, found + scanner.finish()


def lost_at_most_one(found: list[bytes], written: list[bytes]) -> bool:
    return found == written or any(found == written[:i] + written[i + 1 :] for i in range(len(written)))


@given(payloads, st.lists(st.integers(0, 10_000), max_size=8))
def test_records_come_back_however_the_reading_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    """An undamaged segment yields exactly its payloads, in order, in pieces of any size, and counts no damage."""
    scanner, found = scan(segment(bodies), cuts)
    assert found == bodies
    assert (scanner.header_sound, scanner.damaged, scanner.tail_bytes) == (True, 0, 0)


def test_one_byte_at_a_time() -> None:
    """Feeding single bytes yields each payload as soon as its last byte is there, and not before."""
    scanner = SegmentScanner("a segment")
    seen = [(at, body) for at, byte in enumerate(segment([b"one", b""])) for body in scanner.feed(bytes([byte]))]
    first_end = HEADER_BYTES + RECORD_HEAD_BYTES + 3
    assert seen == [(first_end - 1, b"one"), (first_end + RECORD_HEAD_BYTES - 1, b"")]


@given(payloads)
def test_every_cut_of_the_tail_leaves_the_whole_records(bodies: list[bytes]) -> None:
    """A segment cut at any byte yields the records that lie before the cut whole, and where the last of them ends."""
    data = segment(bodies)
    ends = [HEADER_BYTES + sum(RECORD_HEAD_BYTES + len(body) for body in bodies[:n]) for n in range(len(bodies) + 1)]
    for cut in range(len(data) + 1):
        scanner, found = scan(data[:cut])
        whole = sum(end <= cut for end in ends[1:])
        assert found == bodies[:whole]
        assert scanner.valid_end == (ends[whole] if cut >= HEADER_BYTES else 0)
        assert scanner.damaged == 0


@given(payloads)
def test_any_flipped_bit_loses_at_most_the_record_it_hit(bodies: list[bytes]) -> None:
    """One flipped bit anywhere, the header included, never raises, loses at most one record, and is noticed."""
    data = segment(bodies)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        scanner, found = scan(bytes(flipped))
        assert lost_at_most_one(found, bodies)
        assert scanner.damaged + (scanner.tail_bytes > 0) == 1


@given(st.binary(max_size=300))
def test_garbage_after_the_header_is_no_record(garbage: bytes) -> None:
    """Bytes that nobody wrote as records yield none and end as a tail."""
    scanner, found = scan(segment_header() + garbage)
    assert found == []
    assert scanner.tail_bytes == len(garbage)


@given(st.binary(max_size=60), st.lists(st.integers(0, 10_000), max_size=4))
def test_damage_in_the_middle_is_measured(garbage: bytes, cuts: list[int]) -> None:
    """Foreign bytes between two records are skipped, counted as one run, and their length is known."""
    scanner, found = scan(segment([b"before"]) + garbage + record(b"after"), cuts)
    assert found == [b"before", b"after"]
    assert (scanner.damaged, scanner.damaged_bytes) == (int(bool(garbage)), len(garbage))


@pytest.mark.parametrize("length", [MAX_PAYLOAD_BYTES + 1, 2**32 - 1])
def test_a_length_above_the_maximum_is_damage(length: int) -> None:
    """A record that claims more than 2 MiB is not waited for, even if its checksum holds: what follows is found."""
    head = struct.pack("<I", length)
    liar = MARKER + head + struct.pack("<I", crc32(head))
    scanner = SegmentScanner("a segment")
    assert scanner.feed(segment([]) + liar + record(b"after")) == [b"after"]
    assert scanner.damaged == 1


def test_a_whole_record_above_the_maximum_is_none() -> None:
    """A record that is longer than 2 MiB does not count even if it is whole, so that memory stays bounded."""
    scanner, found = scan(segment([b"before", bytes(MAX_PAYLOAD_BYTES + 1), b"after"]))
    assert found == [b"before", b"after"]
    assert scanner.damaged == 1


def test_a_marker_is_found_wherever_the_reading_is_cut() -> None:
    """After damage, a record is found even if a piece ends inside its marker or its head."""
    data = segment([b"before"]) + b"\xfa\x11damage\xfa" + record(b"after")
    for cut in range(len(data) + 1):
        assert scan(data, [cut])[1] == [b"before", b"after"]


def test_a_length_that_reaches_past_the_end_hides_nothing() -> None:
    """A plausible but wrong length whose record would end after the segment does not swallow the records inside it."""
    liar = MARKER + struct.pack("<II", 1 << 20, 0)
    scanner, found = scan(segment([b"before"]) + liar + record(b"one") + record(b"two"))
    assert found == [b"before", b"one", b"two"]
    assert scanner.damaged == 1


def test_the_longest_record_comes_back() -> None:
    """A payload of exactly 2 MiB is a record."""
    body = MARKER * (MAX_PAYLOAD_BYTES // len(MARKER))
    _, found = scan(segment([body, b"after"]), [1 << 20, 2 << 20])
    assert found == [body, b"after"]


def other_version(version: int) -> bytes:
    head = segment_header()[:8] + struct.pack("<I", version)
    return head + struct.pack("<I", crc32(head))


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_row_42_an_unknown_version_is_refused_by_name(version: int) -> None:
    """A whole header of another version raises JournalError that names the file and both versions."""
    with pytest.raises(JournalError, match=rf"^some/00000001\.seg: journal version {version} .*supported: 1"):
        is_header(other_version(version), "some/00000001.seg")
    with pytest.raises(JournalError, match="a segment: journal version"):
        scan(other_version(version) + record(b"body"))


def test_a_header_cut_short_is_none() -> None:
    """Fewer bytes than a header are no header, and no error."""
    assert is_header(segment_header(), "a segment")
    assert not any(is_header(segment_header()[:cut], "a segment") for cut in range(HEADER_BYTES))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("00000001.seg", 1),
        ("123456789.seg", 123456789),
        ("1.seg", None),
        ("00000001.seg.old", None),
        ("00000001.seg\n", None),
        ("-0000001.seg", None),
        ("\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661.seg", None),
    ],
)
def test_only_segments_look_like_segments(name: str, number: int | None) -> None:
    """A file name is a segment's as a whole or not at all."""
    assert segment_number(name) == number
    assert number is None or segment_name(number) == name
