"""What an agent may say when it enrols: bad input gets the answer that is its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.enrolment import MAX_ENROLMENT_BYTES, Enrolment, decode_enrolment
from aggregator.problems import Refused

GOOD: dict[str, Any] = {
    "join_token": "join-x",
    "vm": "vm-1",
    "hostname": "web",
    "ips": ["10.0.0.1", "fe80::1"],
    "macs": ["52:54:00:00:00:01"],
    "machine": {"system": "Linux", "kernel": "6.1", "vcpus": 4},
    "boot": "b7",
}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda part: st.lists(part, max_size=3)
)


def status(body: bytes) -> int:
    with pytest.raises(Refused) as caught:
        decode_enrolment(body)
    return caught.value.problem.status


def test_an_enrolment_is_read_whole() -> None:
    """Every field of the wire arrives."""
    assert decode_enrolment(json.dumps(GOOD).encode()) == Enrolment(
        join_token="join-x",
        vm="vm-1",
        hostname="web",
        ips=("10.0.0.1", "fe80::1"),
        macs=("52:54:00:00:00:01",),
        machine={"system": "Linux", "kernel": "6.1", "vcpus": 4},
        boot="b7",
    )


def test_evidence_may_be_absent_or_null_and_unknown_fields_pass() -> None:
    """An older or a newer agent enrols too."""
    nulls = dict.fromkeys(("hostname", "ips", "macs", "machine", "boot"))
    expected = Enrolment(join_token="x", vm="a")
    assert decode_enrolment(b'{"join_token": "x", "vm": "a", "later": {"n": 1}}') == expected
    assert decode_enrolment(json.dumps({"join_token": "x", "vm": "a", **nulls}).encode()) == expected


def test_of_a_key_that_stands_twice_the_last_one_counts() -> None:
    """Duplicate keys: last wins, as docs/enrolment.md says."""
    assert decode_enrolment(b'{"join_token": "x", "vm": "a", "vm": "b"}').vm == "b"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"join_token": "x", "vm": "a"',
        b'{"join_token": "x", "vm": "a", "machine": {"n": NaN}}',
        b'{"join_token": "x", "vm": "a", "machine": {"n": Infinity}}',
        b'{"join_token": "\\ud800", "vm": "a"}',
        b'{"join_token": "\xff", "vm": "a"}',
        b'{"join_token": "x", "vm": "a", "deep": ' + b"[" * 50_000,
    ],
    ids=["empty", "brace", "truncated", "NaN", "Infinity", "surrogate", "not UTF-8", "nested"],
)
def test_what_is_not_well_formed_is_400(body: bytes) -> None:
    """Broken or truncated JSON, NaN, Infinity, a lone surrogate, endless nesting: 400."""
    assert status(body) == 400


@pytest.mark.parametrize(
    "changed",
    [
        {"vm": "../../x"},
        {"vm": "/etc/passwd"},
        {"vm": "a\0"},
        {"vm": "a\n"},
        {"vm": "A"},
        {"vm": ""},
        {"vm": "a" * 65},
        {"vm": "a'; DROP TABLE vm; --"},
        {"vm": 7},
        {"vm": None},
        {"join_token": "x" * 257},
        {"join_token": True},
        {"hostname": "x" * 257},
        {"hostname": "\x1b[31mred"},
        {"hostname": "two\nlines"},
        {"boot": "\0"},
        {"ips": ["x" * 65]},
        {"ips": ["a"] * 257},
        {"ips": ["\r"]},
        {"ips": "10.0.0.1"},
        {"macs": [1]},
        {"macs": ["\x07"]},
        {"machine": {"a": []}},
        {"machine": {"a": "\x1b"}},
        {"machine": {"\x1b": "a"}},
        {"machine": {str(number): 1 for number in range(65)}},
    ],
)
def test_what_is_out_of_range_is_422(changed: dict[str, Any]) -> None:
    """A wrong type, size, character or VM id: 422."""
    assert status(json.dumps({**GOOD, **changed}).encode()) == 422


@pytest.mark.parametrize(
    "vm_id",
    [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "0" * 32,
        "iid-datasource-none",
        "uninitialized",
        "not-settable",
    ],
)
def test_a_known_placeholder_is_422(vm_id: str) -> None:
    """Known placeholder UUIDs are refused: as one identity they would be many machines."""
    with pytest.raises(Refused, match="many machines") as caught:
        decode_enrolment(json.dumps({"join_token": "x", "vm": vm_id}).encode())
    assert (caught.value.problem.status, caught.value.problem.reason) == (422, "placeholder")


@pytest.mark.parametrize("number", ["1e400", "9" * 5_000, "-" + "9" * 5_000])
def test_a_number_without_bounds_is_422(number: str) -> None:
    """1e400 and a 5,000-digit number: 422."""
    assert status(f'{{"join_token": "x", "vm": "a", "machine": {{"n": {number}}}}}'.encode()) == 422


def test_a_field_that_is_required_is_422() -> None:
    """No join token, no id, or no object at all: 422."""
    assert [status(body) for body in (b"{}", b'{"vm": "a"}', b'{"join_token": "x"}', b"[]", b"1")] == [422] * 5


def test_a_large_body_is_413() -> None:
    """Nothing over the bound is even parsed."""
    assert status(b" " * (MAX_ENROLMENT_BYTES + 1)) == 413


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_only_ever_refused(body: bytes) -> None:
    """No bytes raise anything but Refused with 400 or 422."""
    assert status(body) in {400, 422}


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_value_in_any_field_is_taken_or_refused(name: str, value: object) -> None:
    """What is taken is within the bounds, the rest is 400 or 422."""
    body = json.dumps({**GOOD, name: value}).encode()
    try:
        taken = decode_enrolment(body)
    except Refused:
        assert status(body) in {400, 422}
    else:
        assert (taken.hostname or "").isprintable()
        assert len(taken.join_token) <= 256


def test_a_join_token_has_no_repr() -> None:
    """A log line of an enrolment does not show its secret."""
    assert "join-x" not in repr(decode_enrolment(json.dumps(GOOD).encode()))
