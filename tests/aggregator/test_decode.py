"""The decoder of pushes: the same answers as the plain one on the wire, and a reason for every refusal."""

from __future__ import annotations

import gzip
import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sample import FIELDS, Sample, Unit
from agent.wire import MAX_SAMPLES_PER_BATCH, decode_batch, encode_batch, encode_sample
from aggregator.decode import DecodeLimits, Push, decode_push
from aggregator.problems import Problem, Refused
from aggregator.record import RecordError, decode_record, encode_record
from aggregator.rows import ROW_BYTES, row_ts, unpack_rows
from tests.aggregator.door_fakes import NOW_S, TS, VM, push_body, sample


def decode(body: bytes | str, encoding: str | None = None, limits: DecodeLimits | None = None) -> Push:
    data = body.encode() if isinstance(body, str) else body
    return decode_push(data, content_encoding=encoding, now_s=NOW_S, limits=limits or DecodeLimits())


def refusal(body: bytes | str, encoding: str | None = None, limits: DecodeLimits | None = None) -> Problem:
    with pytest.raises(Refused) as caught:
        decode(body, encoding, limits)
    return caught.value.problem


def problem_of(body: bytes) -> Problem | None:
    """Why a body is refused; None where it is a push."""
    try:
        decode(body)
    except Refused as refused:
        return refused.problem
    return None


def message(**changes: Any) -> dict[str, Any]:
    """A push as a document; `sample=` changes its one sample, `...` drops a key."""
    document: dict[str, Any] = json.loads(push_body())
    first = document["samples"][0] | changes.pop("sample", {})
    document["samples"] = [{name: value for name, value in first.items() if value is not ...}]
    return {name: value for name, value in (document | changes).items() if value is not ...}


def text(**changes: Any) -> str:
    return json.dumps(message(**changes))


def with_figure(name: str, literal: str) -> str:
    """A push whose sample has `name` written as `literal`, whatever that is."""
    return text(sample={name: "@"}).replace('"@"', literal)


def figures(unit: Unit, maximum: float) -> st.SearchStrategy[float]:
    if unit in (Unit.BYTES, Unit.COUNT):
        return st.integers(0, int(maximum))
    return st.floats(0, maximum)


samples = st.builds(
    Sample,
    ts=st.integers(0, 10_000).map(lambda minutes: TS - 60 * minutes),
    mem_total_bytes=st.integers(2**52, 2**53),
    mem_used_bytes=st.integers(0, 2**52),
    **{
        field.name: figures(field.unit, field.maximum)
        if field.required
        else st.none() | figures(field.unit, field.maximum)
        for field in FIELDS
        if not field.name.startswith("mem_")
    },
)


@given(st.lists(samples, min_size=1, max_size=5))
def test_agrees_with_the_plain_decoder(batch: list[Sample]) -> None:
    """What `agent.wire` reads from a push is what the packed rows hold, at the precision of a row."""
    body = push_body(*batch)
    push = decode(body)
    plain = decode_batch(body)
    assert (push.vm, push.boot, push.seq, push.sent_s) == (plain.vm, plain.boot, plain.seq, plain.sent_s)
    assert (push.count, push.unknown_fields) == (len(batch), 0)
    assert (push.oldest_ts, push.newest_ts) == (min(one.ts for one in batch), max(one.ts for one in batch))
    for row, expected in zip(unpack_rows(push.rows), plain.samples, strict=True):
        assert (row["ts"], row["interval_s"]) == (expected.ts, 60)
        for field in FIELDS:
            value, wanted = row[field.name], getattr(expected, field.name)
            if wanted is None:
                assert value is None
            else:
                assert value == pytest.approx(wanted, rel=1e-6, abs=field.unit.quantum)


@given(st.data())
def test_refuses_what_the_plain_decoder_refuses(data: st.DataObject) -> None:
    """A push with one value replaced by any JSON value is never an exception, and never taken where wire refuses."""
    document = message(sample={field.name: 0 for field in FIELDS if not field.required})
    values: st.SearchStrategy[Any] = (
        st.none() | st.booleans() | st.text(max_size=5) | st.integers() | st.floats() | st.just([]) | st.just({})
    )
    if data.draw(st.booleans()):
        document["samples"][0][data.draw(st.sampled_from(sorted(document["samples"][0])))] = data.draw(values)
    else:
        document[data.draw(st.sampled_from(sorted(document)))] = data.draw(values)
    body = json.dumps(document).encode()
    problem = problem_of(body)
    if problem is None:
        decode_batch(body)  # raises WireError where it disagrees
    else:
        assert problem.status in (400, 413, 422)


@given(st.integers(0, 2000), st.binary(max_size=4), st.integers(0, 3))
def test_any_mutation_is_a_push_or_a_refusal(position: int, garbage: bytes, removed: int) -> None:
    """Bytes put in or taken out anywhere yield a push, 400, 413 or 422."""
    body = push_body(sample(users=1))
    position %= len(body)
    mutated = body[:position] + garbage + body[position + removed :]
    problem = problem_of(mutated)
    assert problem is None or problem.status in (400, 413, 422)


@given(st.binary(max_size=300), st.sampled_from([None, "gzip", "identity", "br"]))
def test_random_bodies_are_refused(body: bytes, encoding: str | None) -> None:
    """Garbage is refused, never an exception."""
    assert refusal(body, encoding).status in (400, 415, 422)


def test_rows_keep_the_order_of_the_samples() -> None:
    """The packed rows come as they were sent, also when that is not by time."""
    push = decode(push_body(sample(TS), sample(TS - 120), sample(TS - 60)))
    assert [row_ts(push.rows, index) for index in range(push.count)] == [TS, TS - 120, TS - 60]
    assert (push.oldest_ts, push.newest_ts, len(push.rows)) == (TS - 120, TS, 3 * ROW_BYTES)


def test_null_says_the_same_as_absent() -> None:
    """An optional figure that is null was not measured."""
    assert decode(text(sample={"users": None, "load1": None})).rows == decode(text()).rows


@pytest.mark.parametrize("name", ["cpu_busy_ratio", "mem_total_bytes", "mem_used_bytes", "ts"])
def test_null_or_absent_is_422_for_what_a_sample_needs(name: str) -> None:
    """Required figures cannot be left out."""
    assert refusal(text(sample={name: None})).status == 422
    assert refusal(text(sample={name: ...})).status == 422


@pytest.mark.parametrize("name", ["v", "vm", "boot", "seq", "sent_s", "samples"])
def test_a_message_without_one_of_its_parts_is_422(name: str) -> None:
    """Only `interval_s` has a default."""
    problem = refusal(text(**{name: ...}))
    assert problem.status == 422
    assert name in problem.detail


def test_interval_is_a_minute_unless_said() -> None:
    """Without `interval_s`, samples are of 60 s."""
    assert decode(text(interval_s=...)).interval_s == 60


@pytest.mark.parametrize("interval_s", [1, 10, 300, 3600])
def test_intervals_that_divide_an_hour_pass(interval_s: int) -> None:
    """Rollups are by the hour: an interval must fit into it whole."""
    push = decode(text(interval_s=interval_s, sample={"ts": TS // 3600 * 3600}))
    assert push.interval_s == interval_s
    assert next(unpack_rows(push.rows))["interval_s"] == interval_s


@pytest.mark.parametrize("interval_s", [0, -60, 7, 7200, 59.5, "60", True, None])
def test_other_intervals_are_422(interval_s: object) -> None:
    """What does not divide an hour, or is no whole number, is refused."""
    assert refusal(text(interval_s=interval_s)).status == 422


def test_ts_off_the_grid_is_422() -> None:
    """`ts` is a multiple of the interval, in every sample of a batch."""
    assert refusal(text(sample={"ts": TS + 1})).status == 422
    problem = refusal(push_body(sample(TS - 60), sample(TS + 1)))
    assert problem.status == 422
    assert "samples[1].ts" in problem.detail


def test_24_hours_ahead_pass_and_more_is_422() -> None:
    """Clocks are wrong, but not by more than a day."""
    day_ahead = int(NOW_S) // 60 * 60 + 86400
    assert decode(text(sample={"ts": day_ahead})).newest_ts == day_ahead
    assert refusal(text(sample={"ts": day_ahead + 60})).status == 422


def test_memory_used_beyond_total_is_422() -> None:
    """More used than there is would be a ratio above 1."""
    assert refusal(text(sample={"mem_used_bytes": 2, "mem_total_bytes": 1})).status == 422


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_ranges_of_every_figure(field: Any) -> None:
    """0 and the maximum of `agent.sample.FIELDS` pass; below and above are 422, and name the figure."""
    full = {"mem_total_bytes": 2**53, "mem_used_bytes": 0}
    for value in (0, int(field.maximum), float(field.maximum)):
        assert decode(text(sample=full | ({} if field.name == "mem_total_bytes" else {field.name: value}))).count == 1
    for value in (-1, -0.001, field.maximum * 1.001 + 1):
        problem = refusal(text(sample=full | {field.name: value}))
        assert problem.status == 422
        assert field.name in problem.detail


@pytest.mark.parametrize("literal", ["1e400", "9" * 5000, "9223372036854775808", "-9223372036854775809", "1e19"])
@pytest.mark.parametrize("name", ["cpu_busy_ratio", "mem_used_bytes", "users", "ts"])
def test_numbers_that_no_figure_can_be_are_422(name: str, literal: str) -> None:
    """Well-formed, but out of every range."""
    assert refusal(with_figure(name, literal)).status == 422


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x10", "'1'", "nul"])
@pytest.mark.parametrize("name", ["cpu_busy_ratio", "x_unknown"])
def test_what_is_not_json_is_400(name: str, literal: str) -> None:
    """Not JSON is not well-formed, under a known key or an unknown one."""
    assert refusal(with_figure(name, literal)).status == 400


@pytest.mark.parametrize("name", ["boot", "x_unknown"])
@pytest.mark.parametrize("literal", [r'"\ud800"', r'"\udc00"', r'"\ud800\ud800"', r'"\q"', '"\x01"'])
def test_texts_that_are_no_unicode_are_400(name: str, literal: str) -> None:
    """A lone surrogate is refused in what is kept and in what is skipped."""
    assert refusal(text(**{name: "@"}).replace('"@"', literal)).status == 400


@pytest.mark.parametrize("name", ["vm", "boot", "x_unknown"])
@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_bytes_that_are_no_utf8_are_400(name: str, bad: bytes) -> None:
    """Invalid UTF-8 is refused anywhere in the body, also where the decoder skips."""
    assert refusal(text(**{name: "@"}).encode().replace(b"@", bad)).status == 400


def test_unicode_in_a_boot_id_passes() -> None:
    """Texts are Unicode; up to 64 characters."""
    assert decode(text(boot="ü" * 64)).boot == "ü" * 64
    assert refusal(text(boot="ü" * 65)).status == 422
    assert refusal(text(boot="")).status == 422


@pytest.mark.parametrize("value", [True, False, "0.5", "", [], {}, [0.5]])
@pytest.mark.parametrize("name", ["cpu_busy_ratio", "mem_total_bytes", "procs", "ts"])
def test_other_types_than_numbers_are_422(name: str, value: object) -> None:
    """A bool is no number, nor is a text that looks like one."""
    assert refusal(text(sample={name: value})).status == 422


@pytest.mark.parametrize("value", [-1, 2**53 + 1, 1.5, "1", True, None])
def test_seq_is_a_whole_number_up_to_2_53(value: object) -> None:
    """What a double cannot tell apart is no sequence."""
    assert refusal(text(seq=value)).status == 422


def test_largest_seq_passes() -> None:
    """2^53 itself is still exact."""
    assert decode(text(seq=2**53)).seq == 2**53


@pytest.mark.parametrize("version", [0, 2, 99, -1, 10**30])
def test_another_version_is_422_that_names_ours(version: int) -> None:
    """The version is looked at before everything else: a new one may differ in all of it."""
    for body in (text(v=version), json.dumps({"v": version, "points": "of another world"})):
        problem = refusal(body)
        assert (problem.status, problem.reason) == (422, "version")
        assert "supported: 1" in problem.detail


@pytest.mark.parametrize(
    "vm", ["../../x", "/etc/passwd", "a\0", "web\n", "", "A", "-a", "x" * 65, "a'; DROP TABLE vm;--", 'a"b', "a b", "ä"]
)
def test_vm_ids_that_may_not_name_a_file_are_422(vm: str) -> None:
    """The whole text must match, so no path, quote or trailing newline gets in."""
    assert refusal(text(vm=vm)).status == 422


def test_duplicate_keys_take_the_last() -> None:
    """docs/wire.md says so; every value must still be right, and nothing counts as unknown."""
    body = text(sample={"cpu_busy_ratio": 0.5})
    push = decode(body.replace('"cpu_busy_ratio": 0.5', '"cpu_busy_ratio": 0.25, "cpu_busy_ratio": 0.75'))
    assert next(unpack_rows(push.rows))["cpu_busy_ratio"] == 0.75
    assert push.unknown_fields == 0
    assert refusal(body.replace('"cpu_busy_ratio": 0.5', '"cpu_busy_ratio": "x", "cpu_busy_ratio": 0.75')).status == 422


def test_nesting_without_end_is_400() -> None:
    """Deep nesting is refused, never a RecursionError."""
    for deep in ("[" * 10**5, "[" * 10**5 + "]" * 10**5, '{"a":' * 10**5):
        assert refusal(text(x="@").replace('"@"', deep)).status == 400
        assert refusal(deep).status == 400
        assert refusal(with_figure("users", deep)).status == 400


@given(st.integers(0, 600))
def test_truncated_json_is_400(length: int) -> None:
    """Any part of a push is not a push, whatever may be wrong with the values in it."""
    body = push_body(sample(users=1))
    assert refusal(body[: length % len(body)]).status == 400


def test_unknown_fields_are_ignored_and_counted() -> None:
    """Names of a later version do no harm; what lies inside them does not count again."""
    known = decode(text())
    push = decode(text(color="red", extra={"a": 1, "b": [{"c": 2}]}, sample={"gpu_ratio": 0.5}))
    assert push.unknown_fields == 3
    assert push.rows == known.rows
    batch = message()
    batch["samples"] = [batch["samples"][0] | {"x": 1}, batch["samples"][0], batch["samples"][0] | {"x": 1, "y": 2}]
    assert decode(json.dumps(batch)).unknown_fields == 3


@pytest.mark.parametrize("literal", ["1e400", "9" * 5000])
def test_impossible_numbers_under_unknown_keys_are_422(literal: str) -> None:
    """Nothing that no reader could hold is passed over."""
    assert refusal(with_figure("x_unknown", literal)).status == 422


def test_batches_have_a_bound() -> None:
    """As many samples as the wire allows, and not one more; none at all is no push either."""
    one = encode_sample(sample())

    def batch(count: int) -> bytes:
        return encode_batch(vm=VM, boot="b", seq=1, sent_s=NOW_S, interval_s=60, samples=[one] * count)

    assert decode(batch(MAX_SAMPLES_PER_BATCH)).count == MAX_SAMPLES_PER_BATCH
    assert refusal(batch(MAX_SAMPLES_PER_BATCH + 1)).status == 413
    assert refusal(batch(0)).status == 422


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", " gzip "])
def test_gzip_is_unpacked(encoding: str) -> None:
    """The coding's name is not case-sensitive."""
    assert decode(gzip.compress(push_body()), encoding) == decode(push_body())
    assert decode(push_body(), "identity") == decode(push_body())


def test_gzip_bomb_is_413() -> None:
    """Decompression stops at the limit, whatever would still come."""
    assert refusal(gzip.compress(b" " * (64 << 20)), "gzip").status == 413


def test_gzip_up_to_the_limit_passes() -> None:
    """The limit is on what is inside, and the limit itself is allowed."""
    body = push_body()
    assert decode(gzip.compress(body), "gzip", DecodeLimits(body_bytes=len(body))).count == 1
    assert refusal(gzip.compress(body), "gzip", DecodeLimits(body_bytes=len(body) - 1)).status == 413


@pytest.mark.parametrize("damage", ["cut", "tail", "flip", "plain", "empty"])
def test_broken_gzip_is_400(damage: str) -> None:
    """Truncated, followed by something, damaged, or no gzip at all."""
    packed = gzip.compress(push_body())
    broken = {
        "cut": packed[:-3],
        "tail": packed + b"x",
        "flip": packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:],
        "plain": push_body(),
        "empty": b"",
    }
    assert refusal(broken[damage], "gzip").status == 400


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "\xff"])
def test_other_codings_are_415(encoding: str) -> None:
    """What cannot be unpacked is not guessed at."""
    assert refusal(push_body(), encoding).status == 415


@given(st.lists(samples, min_size=1, max_size=4), st.floats(0, 2**32), st.text(min_size=1, max_size=64))
def test_a_record_holds_a_push(batch: list[Sample], received_s: float, boot: str) -> None:
    """What the journal kept is the push that was acknowledged, and when it came."""
    push = decode(text(boot=boot, samples=[json.loads(encode_sample(one)) for one in batch]))
    again, again_s = decode_record(encode_record(push, received_s))
    assert again_s == received_s
    assert again.sent_s == pytest.approx(push.sent_s, abs=1e-5)
    assert (again.vm, again.boot, again.seq, again.rows) == (push.vm, push.boot, push.seq, push.rows)
    assert (again.count, again.oldest_ts, again.newest_ts) == (push.count, push.oldest_ts, push.newest_ts)
    assert again.interval_s == push.interval_s


def test_row_42_a_record_of_before_lives_reads_as_of_the_first() -> None:
    """A journal that the version before left is replayed; what this one writes says of which token it came."""
    push = msgspec.structs.replace(decode(push_body()), generation=70_000)
    record = encode_record(push, NOW_S)
    assert decode_record(record)[0].generation == 70_000
    head = struct.Struct("<BBddQHBH").size
    before, received_s = decode_record(b"\x01" + record[1:head] + record[head + 4 :])
    assert (before.generation, before.vm, before.rows, received_s) == (0, push.vm, push.rows, NOW_S)


@given(st.binary(max_size=300))
def test_a_record_that_is_none_is_refused(payload: bytes) -> None:
    """Other bytes are a RecordError and nothing else."""
    with pytest.raises(RecordError):
        decode_record(payload)


@given(st.integers(0, 200))
def test_a_cut_record_is_refused(length: int) -> None:
    """A record without its last byte, or without most of them, is none."""
    record = encode_record(decode(push_body()), NOW_S)
    with pytest.raises(RecordError):
        decode_record(record[: length % len(record)])


def test_a_record_of_another_layout_is_refused_loudly() -> None:
    """A journal of another version or row size is named, never misread."""
    record = bytearray(encode_record(decode(push_body()), NOW_S))
    for position in (0, 1):
        other = record.copy()
        struct.pack_into("<B", other, position, record[position] + 1)
        with pytest.raises(RecordError, match="this program reads versions 1 and 2"):
            decode_record(bytes(other))
