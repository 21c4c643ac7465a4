"""What the journal holds of one push: a compact binary record. Pure.

Record, little-endian: version (1 byte) · bytes of a packed row (1) · received_s, skew_s (8 each) · seq (8) ·
interval_s (2) · lengths of vm and boot (1, 2) · generation of the token (4) · vm · boot · rows. The row's size stands
in it so that a journal of another layout is refused and not misread. Version 1 had no generation: it reads as 0.
"""

from __future__ import annotations

import struct

from aggregator.decode import Push
from aggregator.rows import ROW_BYTES, row_ts

VERSION = 2
_HEAD = struct.Struct("<BBddQHBHI")
_HEAD_1 = struct.Struct("<BBddQHBH")
_pack = _HEAD.pack


class RecordError(ValueError):
    """A record of the journal that this program cannot read."""


def encode_record(push: Push, received_s: float) -> bytes:
    """One journal payload; `received_s` is Unix time on the aggregator's clock."""
    vm = push.vm.encode()
    boot = push.boot.encode()
    skew_s = received_s - push.sent_s
    head = _pack(VERSION, ROW_BYTES, received_s, skew_s, push.seq, push.interval_s, len(vm), len(boot), push.generation)
    return b"%b%b%b%b" % (head, vm, boot, push.rows)


def tells_generation(payload: bytes) -> bool:
    """Whether a record that can be decoded says of which token its push came."""
    return payload[:1] != b"\x01"


def decode_record(payload: bytes) -> tuple[Push, float]:
    """The push and its `received_s`; `unknown_fields` is not kept.

    Raises: RecordError: another version or layout, or not a record.
    """
    head = _HEAD_1 if payload[:1] == b"\x01" else _HEAD
    if len(payload) < head.size:
        raise RecordError(f"a record of {len(payload)} bytes is too short")
    version, row_bytes, received_s, skew_s, seq, interval_s, vm_bytes, boot_bytes, *more = head.unpack_from(payload)
    if version not in (1, VERSION) or row_bytes != ROW_BYTES:
        raise RecordError(
            f"a record of version {version} with rows of {row_bytes} bytes; "
            f"this program reads versions 1 and {VERSION} with rows of {ROW_BYTES}"
        )
    generation = more[0] if more else 0
    vm_end = head.size + vm_bytes
    boot_end = vm_end + boot_bytes
    rows = payload[boot_end:]
    count, rest = divmod(len(rows), ROW_BYTES)
    if rest or not count:
        raise RecordError(f"{len(rows)} bytes are not rows of {ROW_BYTES} bytes")
    try:
        vm = payload[head.size : vm_end].decode()
        boot = payload[vm_end:boot_end].decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"names that are not UTF-8: {error}") from error
    timestamps = [row_ts(rows, index) for index in range(count)]
    sent_s = received_s - skew_s
    push = Push(vm, boot, seq, sent_s, interval_s, rows, count, min(timestamps), max(timestamps), 0, generation)
    return push, received_s
