"""What one end writes the other reads: encode and decode agree, here and with the aggregator's fast decoder."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sample import FIELDS, Sample, Unit
from agent.wire import (
    MAX_BODY_BYTES,
    MAX_SAMPLES_PER_BATCH,
    VM_ID_PATTERN,
    Batch,
    WireError,
    decode_batch,
    encode_batch,
    encode_sample,
    is_vm_id,
)
from aggregator.decode import decode_push
from aggregator.problems import Refused
from aggregator.rows import unpack_rows

NOW_S = 1_790_000_000.0
TS = 1_789_999_980
# What a text may be off by: five digits of a ratio, a tenth of a byte a second.
TEXT_STEP = {
    Unit.RATIO: 5e-6,
    Unit.BYTES: 0.0,
    Unit.BYTES_PER_S: 0.05,
    Unit.COUNT: 0.0,
    Unit.LOAD: 0.005,
    Unit.CPU_S: 0.0005,
}


def figures(unit: Unit, maximum: float) -> st.SearchStrategy[float]:
    whole = unit in (Unit.BYTES, Unit.COUNT)
    return st.integers(0, int(maximum)) if whole else st.floats(0, maximum)


@st.composite
def samples(draw: st.DrawFn, interval_s: int = 60) -> Sample:
    """Any sample that an agent may send."""
    values: dict[str, Any] = {}
    for field in FIELDS:
        known = figures(field.unit, field.maximum)
        values[field.name] = draw(known if field.required else st.none() | known)
    values["mem_used_bytes"], values["mem_total_bytes"] = sorted((values["mem_used_bytes"], values["mem_total_bytes"]))
    return Sample(ts=(TS // interval_s - draw(st.integers(0, 10_000))) * interval_s, **values)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Any push that an agent may send."""
    interval_s = draw(st.sampled_from([1, 10, 60, 300, 3600]))
    return Batch(
        vm=draw(st.from_regex(VM_ID_PATTERN, fullmatch=True)),
        boot=draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)),
        seq=draw(st.integers(0, 2**53)),
        sent_s=draw(st.floats(0, 2**32 - 1)),
        interval_s=interval_s,
        samples=tuple(draw(st.lists(samples(interval_s), min_size=1, max_size=4))),
    )


def encode(batch: Batch) -> bytes:
    return encode_batch(
        vm=batch.vm,
        boot=batch.boot,
        seq=batch.seq,
        sent_s=batch.sent_s,
        interval_s=batch.interval_s,
        samples=[encode_sample(sample) for sample in batch.samples],
    )


def close(one: float | None, other: float | None, unit: Unit) -> bool:
    """Equal within what the text keeps."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= TEXT_STEP[unit] * 1.001 + 1e-12 * abs(other)


@given(batches())
def test_a_batch_comes_back_as_it_went(batch: Batch) -> None:
    """Every value, at the precision of the text; what was not measured is left out and stays so."""
    again = decode_batch(encode(batch))
    assert (again.vm, again.boot, again.seq, again.interval_s) == (batch.vm, batch.boot, batch.seq, batch.interval_s)
    assert again.sent_s == pytest.approx(batch.sent_s, abs=0.0005)
    for one, sent in zip(again.samples, batch.samples, strict=True):
        assert one.ts == sent.ts
        for field in FIELDS:
            assert close(getattr(one, field.name), getattr(sent, field.name), field.unit), field.name


@given(batches())
def test_encoding_what_was_decoded_changes_nothing_more(batch: Batch) -> None:
    """A figure is rounded once: a spool that is read and sent again says the same."""
    once = decode_batch(encode(batch))
    assert decode_batch(encode(once)) == once


@given(batches())
def test_the_fast_decoder_takes_what_is_encoded_and_reads_the_same(batch: Batch) -> None:
    """The aggregator's rows hold the values of `decode_batch` at the precision that a store keeps."""
    body = encode(batch)
    plain, push = decode_batch(body), decode_push(body, content_encoding=None, now_s=NOW_S)
    assert (push.vm, push.boot, push.seq, push.sent_s) == (plain.vm, plain.boot, plain.seq, plain.sent_s)
    assert (push.interval_s, push.count, push.unknown_fields) == (plain.interval_s, len(plain.samples), 0)
    for row, sample in zip(unpack_rows(push.rows), plain.samples, strict=True):
        assert (row["ts"], row["interval_s"]) == (sample.ts, plain.interval_s)
        for field in FIELDS:
            stored, sent = row[field.name], getattr(sample, field.name)
            assert (stored is None) == (sent is None)
            if stored is not None:
                # Half a step of the store, and of the 24 bits of a packed float.
                assert abs(stored - sent) <= field.unit.quantum / 2 + abs(sent) * 2**-24 + 1e-6, field.name


names = sorted({"ts", *(field.name for field in FIELDS)})
odd: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.text(max_size=4) | st.integers() | st.floats() | st.just([]) | st.just({})
)


@given(batches(), st.data())
def test_what_the_fast_decoder_takes_the_plain_one_takes_with_the_same_values(
    batch: Batch, data: st.DataObject
) -> None:
    """With any value of a push replaced by any other: never taken there and refused or read otherwise here."""
    document: dict[str, Any] = json.loads(encode(batch))
    place = data.draw(st.sampled_from([document, *document["samples"]]))
    place[data.draw(st.sampled_from(sorted(document) if place is document else names))] = data.draw(odd)
    body = json.dumps(document).encode()
    try:
        push = decode_push(body, content_encoding=None, now_s=NOW_S)
    except Refused:
        return
    plain = decode_batch(body)
    assert (push.vm, push.boot, push.seq, push.sent_s) == (plain.vm, plain.boot, plain.seq, plain.sent_s)
    assert [row["ts"] for row in unpack_rows(push.rows)] == [sample.ts for sample in plain.samples]


@given(batches(), st.sampled_from(FIELDS), st.data())
def test_both_decoders_refuse_figures_out_of_range(batch: Batch, field: Any, data: st.DataObject) -> None:
    """Negative, above the maximum, a text, or missing where it is required: neither takes it."""
    document: dict[str, Any] = json.loads(encode(batch))
    sample = data.draw(st.sampled_from(document["samples"]))
    bad = (
        st.floats(max_value=-1e-300, allow_infinity=False)
        | st.floats(field.maximum * 1.001, 1e300)
        | st.text(max_size=3)
    )
    value = data.draw(bad | st.none() if field.required else bad)
    sample[field.name] = value
    body = json.dumps(document).encode()
    with pytest.raises(WireError):
        decode_batch(body)
    with pytest.raises(Refused):
        decode_push(body, content_encoding=None, now_s=NOW_S)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_garbage_is_a_wire_error(body: bytes) -> None:
    """Whatever it is: never another exception."""
    with pytest.raises(WireError):
        decode_batch(body)


HEAD = '{"v": 1, "boot": "b", "seq": 1, "sent_s": 1, '


@pytest.mark.parametrize(
    "body",
    [
        "[" * 100_000,
        "[]",
        "null",
        "{}",
        '{"v": 2}',
        '{"v": "1"}',
        '{"v": 1}',
        HEAD + '"vm": "a", "samples": 5}',
        HEAD + '"vm": "a", "samples": [5]}',
        HEAD + '"vm": "../x", "samples": []}',
    ],
    ids=range(10),
)
def test_documents_that_are_no_batch(body: str) -> None:
    """Nested without end, of another shape or version, or of a VM whose id may not name a file."""
    with pytest.raises(WireError):
        decode_batch(body.encode())


def test_fields_of_later_versions_are_ignored() -> None:
    """In the message and in each sample."""
    document: dict[str, Any] = json.loads(
        encode_batch(vm="a", boot="b", seq=1, sent_s=1.0, interval_s=60, samples=[encode_sample(sample())])
    )
    document["colour"] = document["samples"][0]["gpu_ratio"] = 0.5
    assert decode_batch(json.dumps(document).encode()).samples == (sample(),)


def sample(**figures: Any) -> Sample:
    known: dict[str, Any] = {"ts": TS, "cpu_busy_ratio": 0.25, "mem_total_bytes": 2048, "mem_used_bytes": 1024}
    return Sample(**known | figures)


def test_the_text_of_a_sample() -> None:
    """The wire as documented: names, whole numbers without a point, no figure that was not measured."""
    assert encode_sample(sample(net_rx_bytes_per_s=310.25, users=0)) == (
        f'{{"ts": {TS}, "cpu_busy_ratio": 0.25, "mem_total_bytes": 2048, "mem_used_bytes": 1024, '
        '"net_rx_bytes_per_s": 310.2, "users": 0}'
    )


def test_the_largest_batch_is_within_the_body_limit() -> None:
    """As many samples as a batch may hold, with the longest texts, stay below the limit of a body."""
    figures = {field.name: 1.2346e-05 if field.unit is Unit.RATIO else field.maximum for field in FIELDS}
    longest = encode_sample(sample(**figures | {"ts": 2**32 - 1}))
    body = encode_batch(
        vm="v" * 64,
        boot="b" * 64,
        seq=2**53,
        sent_s=2.0**32,
        interval_s=3600,
        samples=[longest] * MAX_SAMPLES_PER_BATCH,
    )
    assert len(body) <= MAX_BODY_BYTES


@pytest.mark.parametrize("text", ["a", "0", "6f9c2b1e-0000-4b1e-8d2a-3c4d5e6f7a8b", "a.b_c-d", "a" * 64])
def test_ids(text: str) -> None:
    """Lower-case letters, digits, and inside also . _ -; up to 64."""
    assert is_vm_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "A", "-a", ".a", "_a", "a" * 65, "a\n", "a\0", "a/b", "../x", "a b", "ä", "a'", 'a"', "<script>", "\uff41"],
)
def test_ids_that_are_none(text: str) -> None:
    """The whole text must match: nothing that could leave a folder or end a statement."""
    assert not is_vm_id(text)
