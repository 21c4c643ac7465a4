"""Body of a push → `Push` of packed rows, or `Refused` with the answer. Pure; docs/wire.md has the rules.

The message types are built from `agent.sample.FIELDS`, so that names and ranges stand once. The straight path
costs a few microseconds; anything odd takes a second, slower look that finds the most fitting answer.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import msgspec
from msgspec import Meta

from agent.sample import FIELDS
from agent.wire import DEFAULT_INTERVAL_S, MAX_BODY_BYTES, MAX_SAMPLES_PER_BATCH, VERSION, VM_ID_PATTERN
from aggregator.problems import Problem, Refused
from aggregator.rows import NAN, ROW

MAX_AHEAD_S = 24 * 3600
OLDEST_TS = 946_684_800  # 2000-01-01: an older clock was never set
CLOCKS_APART_S = 3600.0  # from here on a sample's age says more about clocks than about the sample
_CLOCK_RETRY_S = 5
_U32_MAX = 2**32 - 1
_SUPPORTED = f"supported: {VERSION}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """Bounds of one push: bytes after decompression, and samples."""

    body_bytes: int = MAX_BODY_BYTES
    samples: int = MAX_SAMPLES_PER_BATCH


class Push(msgspec.Struct, frozen=True, gc=False):
    """What one push carries, packed.

    Args:
        vm: id of the VM, whole `VM_ID_PATTERN`.
        boot: id of this boot, 1 to 64 characters.
        seq: number of this push within the boot.
        sent_s: Unix time on the agent's clock at sending.
        interval_s: length of each sample's interval; divides 3600.
        rows: `aggregator.rows.ROW` after `ROW`, in the order they were sent (oldest first, by the protocol).
        count: rows in `rows`, at least one.
        oldest_ts: smallest `ts`, Unix seconds.
        newest_ts: largest `ts`.
        unknown_fields: names in the message that this version does not know.
        generation: of the token that it came with.
    """

    vm: str
    boot: str
    seq: int
    sent_s: float
    interval_s: int
    rows: bytes
    count: int
    oldest_ts: int
    newest_ts: int
    unknown_fields: int = 0
    generation: int = 0


def _message_decoder(
    *, forbid_unknown: bool
) -> tuple[type[msgspec.Struct], type[msgspec.Struct], Callable[[bytes], Any]]:
    # An absent figure takes this very NaN, which is how packed rows say "not measured".
    figures = [
        (field.name, Annotated[float, Meta(ge=0.0, le=field.maximum)])
        if field.required
        else (field.name, Annotated[float, Meta(ge=0.0, le=field.maximum)] | None, NAN)
        for field in FIELDS
    ]
    sample = msgspec.defstruct(
        "Sample",
        [("ts", Annotated[int, Meta(ge=OLDEST_TS, le=_U32_MAX)]), *figures],
        kw_only=True,
        gc=False,
        forbid_unknown_fields=forbid_unknown,
    )
    message = msgspec.defstruct(
        "Message",
        [
            ("v", int),
            ("vm", str),
            ("boot", Annotated[str, Meta(min_length=1, max_length=64)]),
            ("seq", Annotated[int, Meta(ge=0, le=2**53)]),
            ("sent_s", Annotated[float, Meta(ge=0.0, le=float(_U32_MAX))]),
            ("interval_s", Annotated[int, Meta(ge=1, le=3600)], DEFAULT_INTERVAL_S),
            ("samples", list[sample]),  # type: ignore[valid-type]
        ],
        kw_only=True,
        forbid_unknown_fields=forbid_unknown,
    )
    return sample, message, msgspec.json.Decoder(message).decode


# Most messages hold no unknown field: the strict decoder says so for nothing.
_SAMPLE, _MESSAGE, _decode_known = _message_decoder(forbid_unknown=True)
_decode_lenient = _message_decoder(forbid_unknown=False)[2]
_decode_anything = msgspec.json.Decoder().decode
_values_of = msgspec.structs.astuple
_MESSAGE_NAMES = frozenset(_MESSAGE.__struct_fields__)
_SAMPLE_NAMES = frozenset(_SAMPLE.__struct_fields__)
_MEM_USED = _SAMPLE.__struct_fields__.index("mem_used_bytes")
_MEM_TOTAL = _SAMPLE.__struct_fields__.index("mem_total_bytes")
_is_vm_id = re.compile(VM_ID_PATTERN).fullmatch
_pack = ROW.pack
_DEFAULT_LIMITS = DecodeLimits()


def decode_push(
    body: bytes,
    *,
    content_encoding: str | None,
    now_s: float,
    limits: DecodeLimits = _DEFAULT_LIMITS,
    generation: int = 0,
) -> Push:
    """One push, checked.

    Args:
        body: as received, before decompression.
        content_encoding: None, `identity` or `gzip`.
        now_s: Unix time on the aggregator's clock.
        limits: bounds.
        generation: of the token that it came with.

    Raises: Refused: 400 not well-formed, 413 too much, 415 unknown encoding, 422 of a wrong type or out of range,
        ClocksApart: too far ahead by our clock, but not by the VM's.
    """
    if content_encoding is not None:
        body = decompress(body, content_encoding, limits.body_bytes)
    unknown_fields = 0
    try:
        message = _decode_known(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message, unknown_fields = _decode_again(body)
    if message.v != VERSION:
        _refuse_version(message.v)
    vm = message.vm
    if _is_vm_id(vm) is None:
        _refuse_value(f"vm: {vm[:100]!r} is not a VM id ({VM_ID_PATTERN})", "vm-id")
    interval_s = message.interval_s
    samples = message.samples
    count = len(samples)
    if 3600 % interval_s:
        _refuse_value(f"interval_s: {interval_s} does not divide 3600", "value")
    if count > limits.samples:
        raise Refused(Problem(413, "batch-too-large", f"samples: {count} are more than {limits.samples} a batch"))
    latest_ts = now_s + MAX_AHEAD_S
    if count == 1:
        values = _values_of(samples[0])
        oldest_ts = newest_ts = values[0]
        if oldest_ts % interval_s or oldest_ts > latest_ts or values[_MEM_USED] > values[_MEM_TOTAL]:
            _refuse_sample(samples, interval_s, now_s, message.sent_s)
        try:
            rows = _pack(oldest_ts, interval_s, *values[1:])
        except struct.error:
            rows = _pack_with_nulls(values, interval_s)
    else:
        rows, oldest_ts, newest_ts = _pack_all(samples, interval_s, now_s, message.sent_s)
    return Push(
        vm,
        message.boot,
        message.seq,
        message.sent_s,
        interval_s,
        rows,
        count,
        oldest_ts,
        newest_ts,
        unknown_fields,
        generation,
    )


def clocks_apart(sent_s: float, received_s: float) -> Problem:
    """Why samples must wait that are as young as they should be by the clocks of most VMs, and not by ours."""
    apart_h = (sent_s - received_s) / 3600
    how = "ahead of" if apart_h > 0 else "behind"
    detail = f"this VM's clock is {abs(apart_h):.0f} h {how} the aggregator's, and so are most others"
    return Problem(503, "clock", detail, retry_after_s=_CLOCK_RETRY_S)


class ClocksApart(Refused):
    """Samples are too far ahead by our clock, and not by the VM's: one of the two is wrong.

    Its own answer is that of `clocks_apart`, for as long as it may be ours.

    Args: otherwise: the answer where it is the VM's.
    """

    def __init__(self, sent_s: float, received_s: float, otherwise: Problem) -> None:
        super().__init__(clocks_apart(sent_s, received_s))
        self.otherwise = otherwise


def decompress(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """The body without its content coding, `max_bytes` at most.

    Raises: Refused: 415 unknown coding, 413 larger, 400 broken, truncated or followed by something.
    """
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip"):
        raise Refused(
            Problem(
                415, "content-encoding", f"Content-Encoding: {content_encoding[:100]!r} is neither gzip nor identity"
            )
        )
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Refused(Problem(400, "gzip", f"the body is not gzip: {error}")) from error
    if len(plain) > max_bytes:
        raise Refused(Problem(413, "body-too-large", f"the body is larger than {max_bytes} bytes once decompressed"))
    if not inflater.eof:
        raise Refused(Problem(400, "gzip", "the gzip body is truncated"))
    if inflater.unused_data:
        raise Refused(Problem(400, "gzip", "the gzip body is followed by something else"))
    return plain


def _pack_all(samples: Sequence[Any], interval_s: int, now_s: float, sent_s: float) -> tuple[bytes, int, int]:
    if not samples:
        _refuse_value("samples: is empty", "value")
    rows = []
    latest_ts = now_s + MAX_AHEAD_S
    oldest_ts = newest_ts = samples[0].ts
    for sample in samples:
        values = _values_of(sample)
        ts = values[0]
        if ts % interval_s or ts > latest_ts or values[_MEM_USED] > values[_MEM_TOTAL]:
            _refuse_sample(samples, interval_s, now_s, sent_s)
        if ts > newest_ts:
            newest_ts = ts
        elif ts < oldest_ts:
            oldest_ts = ts
        try:
            rows.append(_pack(ts, interval_s, *values[1:]))
        except struct.error:
            rows.append(_pack_with_nulls(values, interval_s))
    return b"".join(rows), oldest_ts, newest_ts


def _pack_with_nulls(values: Sequence[Any], interval_s: int) -> bytes:
    """An explicit null says the same as an absent key."""
    return _pack(values[0], interval_s, *(NAN if value is None else value for value in values[1:]))


def _refuse_value(detail: str, reason: str) -> NoReturn:
    raise Refused(Problem(422, reason, detail))


def _refuse_version(version: int) -> NoReturn:
    _refuse_value(f"v: {str(version)[:20]} is not a supported version ({_SUPPORTED})", "version")


def _refuse_sample(samples: Sequence[Any], interval_s: int, now_s: float, sent_s: float) -> NoReturn:
    for index, sample in enumerate(samples):
        if sample.ts % interval_s:
            _refuse_value(f"samples[{index}].ts: {sample.ts} is not a multiple of interval_s {interval_s}", "timestamp")
        if sample.ts > now_s + MAX_AHEAD_S:
            detail = f"samples[{index}].ts: {sample.ts} is more than {MAX_AHEAD_S // 3600} h ahead"
            if sample.ts <= sent_s + MAX_AHEAD_S and sent_s - now_s > CLOCKS_APART_S:
                raise ClocksApart(sent_s, now_s, Problem(422, "timestamp", detail))
            _refuse_value(detail, "timestamp")
        if sample.mem_used_bytes > sample.mem_total_bytes:
            _refuse_value(f"samples[{index}].mem_used_bytes: is more than mem_total_bytes", "value")
    raise ValueError("no sample to refuse")


def _decode_again(body: bytes) -> tuple[Any, int]:
    """A message that is not of known fields alone: how many others it has, or why it is refused.

    400 comes before 422, and the version before everything else that may be wrong with the values.
    """
    try:
        body.decode()  # msgspec looks only into the strings it keeps
        anything = _decode_anything(body)
    except UnicodeDecodeError as error:
        raise Refused(Problem(400, "json", f"the body is not UTF-8: {error.reason} at byte {error.start}")) from error
    except msgspec.ValidationError as error:
        raise Refused(Problem(422, "value", str(error))) from error
    except msgspec.DecodeError as error:
        raise Refused(Problem(400, "json", str(error))) from error
    except RecursionError as error:
        raise Refused(Problem(400, "json", "the body is nested too deeply")) from error
    version = anything.get("v") if isinstance(anything, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version != VERSION:
        _refuse_version(version)
    try:
        message = _decode_lenient(body)
    except msgspec.ValidationError as error:
        raise Refused(Problem(422, "value", str(error))) from error
    unknown_fields = len(anything.keys() - _MESSAGE_NAMES)
    for sample in anything["samples"]:
        unknown_fields += len(sample.keys() - _SAMPLE_NAMES)
    return message, unknown_fields
