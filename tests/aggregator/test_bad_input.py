"""Every line of the table of bad input at the agents' door gets the answer that is promised there."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire import MAX_SAMPLES_PER_BATCH
from tests.aggregator.door_fakes import OTHER_VM, TOKEN, TS, VM, Answer, Bench, push_body, request, sample


def ask(data: bytes) -> Answer:
    """The one answer to `data`, and proof that nothing was kept and the aggregator did not stumble."""
    bench = Bench()
    answer = bench.ask(data)
    assert bench.buffer.pushes == []
    assert bench.journal.payloads == []
    assert bench.counters.errors == 0
    assert sum(bench.counters.rejected_by_reason.values()) == 1
    assert bench.counters.rejected_by_reason == {answer.reason: 1}
    return answer


def changed(literal: str, **figures: Any) -> bytes:
    """A push in which the figure given as `"@"` is written as `literal`."""
    document = json.loads(push_body())
    document["samples"][0] |= figures
    return json.dumps(document).replace('"@"', literal).encode()


def test_no_token_401() -> None:
    """No token 401."""
    answer = ask(request(drop=("authorization",)))
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "value", ["Bearer", "Bearer ", "Bearer x", "Basic dTpw", TOKEN, "Bearer " + "x" * 5000, "Bearer \xff"]
)
def test_bad_token_401(value: str) -> None:
    """A bad token, or none in the form asked for, 401."""
    assert ask(request(authorization=value)).status == 401


def test_token_is_checked_before_the_body_is_looked_at() -> None:
    """A stranger's bomb is neither unpacked nor decoded."""
    bomb = gzip.compress(b" " * (10 << 20))
    assert ask(request(bomb, authorization="Bearer x", content_encoding="gzip")).status == 401


def test_token_of_a_with_data_of_b_403() -> None:
    """The header fits the token, the body is of another VM: 403."""
    assert ask(request(push_body(vm=OTHER_VM))).status == 403


def test_token_of_a_with_header_of_b_401() -> None:
    """The token is not one of the VM that the header names."""
    assert ask(request(fallow_vm=OTHER_VM)).status == 401


def test_fallow_vm_differs_from_body_403() -> None:
    """`Fallow-VM` differs from the body 403, though both have right tokens."""
    answer = ask(request(fallow_vm=OTHER_VM, authorization=f"Bearer token-of-{OTHER_VM}"))
    assert (answer.status, answer.reason) == (403, "wrong-vm")


def test_fallow_vm_missing_400() -> None:
    """Without the header a load balancer could not have routed it."""
    assert ask(request(drop=("fallow-vm",))).status == 400


def test_revoked_401() -> None:
    """A right token that was revoked 401, that of an identity in conflict 409; the next generation passes."""
    for reason, status in (("revoked", 401), ("forgotten", 401), ("identity-conflict", 409)):
        bench = Bench()
        bench.revocations.reasons[VM, 1] = reason
        answer = bench.ask(request())
        assert (answer.status, answer.reason) == (status, reason)
        assert bench.ask(request(authorization=f"Bearer token-2-of-{VM}")).status == 204


def test_body_over_1_mib_sized_413() -> None:
    """Over 1 MiB by its Content-Length: 413 before it comes."""
    assert ask(request(b"", content_length=str((1 << 20) + 1))).status == 413


def test_body_over_1_mib_chunked_413() -> None:
    """Over 1 MiB in chunks: 413 as soon as it is known."""
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    data = request(b"", drop=("content-length",), transfer_encoding="chunked") + chunk * 17
    assert ask(data).status == 413


def test_gzip_bomb_413() -> None:
    """Decompression is bounded."""
    assert ask(request(gzip.compress(b" " * (64 << 20)), content_encoding="gzip")).status == 413


def test_unknown_content_encoding_415() -> None:
    """Unknown Content-Encoding 415."""
    assert ask(request(content_encoding="br")).status == 415


@pytest.mark.parametrize("value", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
def test_unknown_content_type_415(value: str) -> None:
    """Unknown Content-Type 415."""
    assert ask(request(content_type=value)).status == 415


def test_no_content_type_415() -> None:
    """None at all is unknown too."""
    assert ask(request(drop=("content-type",))).status == 415


def test_json_with_parameters_passes() -> None:
    """`application/json; charset=utf-8` is JSON, however it is written."""
    assert Bench().ask(request(content_type="Application/JSON; charset=utf-8")).status == 204


@pytest.mark.parametrize("body", [b"", b"{", b"not json", push_body()[:-1], push_body() + b"}", b"\xff\xfe{}"])
def test_broken_or_truncated_json_400(body: bytes) -> None:
    """Broken or truncated JSON 400."""
    assert ask(request(body)).status == 400


def test_truncated_gzip_400() -> None:
    """A truncated gzip body 400."""
    assert ask(request(gzip.compress(push_body())[:-1], content_encoding="gzip")).status == 400


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_nan_infinity_400(literal: str) -> None:
    """NaN and Infinity are not JSON: 400."""
    assert ask(request(changed(literal, cpu_busy_ratio="@"))).status == 400


def test_lone_surrogate_400() -> None:
    """A lone surrogate 400, also under a key nobody reads."""
    assert ask(request(changed(r'"\ud800"', note="@"))).status == 400


def test_duplicate_keys_last_wins() -> None:
    """Documented in docs/wire.md: the last of two equal keys counts."""
    bench = Bench()
    assert bench.ask(request(changed('0.1, "users": 7', users="@"))).status == 204
    (push,) = bench.buffer.pushes
    assert push.unknown_fields == 0


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_100000_400(opening: str) -> None:
    """Nesting 10⁵ 400, not a RecursionError."""
    assert ask(request(changed(opening * 100_000, note="@"))).status == 400
    assert ask(request((opening * 100_000).encode())).status == 400


@pytest.mark.parametrize("literal", ["1e400", "9" * 5000, str(2**63), str(-(2**63) - 1)])
@pytest.mark.parametrize("name", ["cpu_busy_ratio", "mem_used_bytes", "procs"])
def test_1e400_5000_digits_and_2_63_are_422(name: str, literal: str) -> None:
    """1e400, a 5,000-digit number, an integer ≥ 2⁶³: 422."""
    assert ask(request(changed(literal, **{name: "@"}))).status == 422


@pytest.mark.parametrize("literal", ["true", "false", '"0.5"', "[]", "{}"])
def test_bool_or_string_for_a_number_422(literal: str) -> None:
    """Bool or string where a number belongs 422."""
    assert ask(request(changed(literal, cpu_busy_ratio="@"))).status == 422


@pytest.mark.parametrize("literal", ["-1", "1e7", "1.01"])
def test_cpu_minus_one_or_a_billion_percent_422(literal: str) -> None:
    """Cpu −1 or 10⁹ %: 422."""
    assert ask(request(changed(literal, cpu_busy_ratio="@"))).status == 422


def test_timestamp_over_24_h_ahead_422() -> None:
    """Timestamp over 24 h ahead 422."""
    assert ask(request(push_body(sample(TS + 86400 + 120)))).status == 422


def test_timestamp_before_2000_422() -> None:
    """Timestamp before 2000 422."""
    assert ask(request(push_body(sample(946_684_740)))).status == 422


def test_older_than_raw_retention_is_too_old_in_a_200() -> None:
    """Older than raw retention: rejected `too_old` in a 200, the others are stored."""
    bench = Bench()
    old_ts = TS - 15 * 86400
    answer = bench.ask(request(push_body(sample(old_ts), sample(TS))))
    assert answer.status == 200
    assert answer.document == {
        "stored": 1,
        "duplicate": 0,
        "conflict": 0,
        "rejected": [{"ts": old_ts, "reason": "too_old"}],
    }
    assert [push.oldest_ts for push in bench.buffer.pushes] == [TS]
    assert bench.counters.samples_too_old == 1


def test_all_older_than_raw_retention_touches_no_disk() -> None:
    """With nothing left to store there is nothing to make durable."""
    bench = Bench()
    answer = bench.ask(request(push_body(sample(TS - 15 * 86400))))
    assert (answer.status, answer.document["stored"]) == (200, 0)
    assert bench.journal.payloads == []


def test_unknown_schema_version_422_naming_those_supported() -> None:
    """Unknown schema version 422, naming those supported."""
    answer = ask(request(push_body().replace(b'"v": 1', b'"v": 2')))
    assert answer.status == 422
    assert "supported: 1" in answer.document["detail"]


def test_more_than_n_samples_a_batch_413() -> None:
    """More than N samples a batch 413."""
    assert ask(request(push_body(*[sample()] * (MAX_SAMPLES_PER_BATCH + 1)))).status == 413


@pytest.mark.parametrize(
    "vm", ["../../x", "/etc/passwd", "a\0b", "web\n", "a'--", 'x"; DROP TABLE vm', "A", "x" * 65, "ä"]
)
def test_vm_ids_that_are_paths_or_sql_422(vm: str) -> None:
    """VM ids `../../x`, `/etc/passwd`, NUL, trailing newline, quotes and SQL: 422 in the body."""
    body = json.dumps(json.loads(push_body()) | {"vm": vm}).encode()
    answer = ask(request(body))
    assert (answer.status, answer.reason) == (422, "vm-id")


@pytest.mark.parametrize("vm", ["../../x", "/etc/passwd", "a'--", "A", "x" * 65, "\xe4"])
def test_vm_ids_that_are_paths_or_sql_in_the_header_422(vm: str) -> None:
    """The same ids in `Fallow-VM` 422."""
    answer = ask(request(fallow_vm=vm))
    assert (answer.status, answer.reason) == (422, "vm-id")


@pytest.mark.parametrize(
    ("changes", "raw"),
    [
        ({"transfer_encoding": "chunked"}, b""),
        ({}, b"Content-Length: 3\r\n"),
        ({"content_length": "+3"}, b""),
        ({"content_length": "0x3"}, b""),
        ({}, b"X: a\rb\r\n"),
        ({"drop": ("host",)}, b""),
        ({}, b"Fallow-VM: web-2\r\n"),
    ],
    ids=["length and chunked", "two lengths", "+3", "0x3", "bare CR", "no host", "two Fallow-VM"],
)
def test_broken_framing_400_and_closed(changes: dict[str, Any], raw: bytes) -> None:
    """Content-Length with Transfer-Encoding, two Content-Lengths, `+3`, `0x3`, bare CR, no Host: 400."""
    bench = Bench()
    line = bench.connect()
    line.send(request(raw_headers=raw, **changes))
    (answer,) = line.answers()
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert line.closed


def test_headers_over_16_kib_431() -> None:
    """Headers over 16 KiB 431, in one line or in many."""
    assert ask(request(x_long="y" * 17_000)).status == 431
    assert ask(request(raw_headers=b"X: y\r\n" * 3000)).status == 431


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/samples", "POST"),
        ("PUT", "/v1/samples", "POST"),
        ("DELETE", "/v1/enroll", "POST"),
        ("GET", "/v1/token", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("OPTIONS", "/readyz", "GET, HEAD"),
    ],
)
def test_wrong_method_405(method: str, path: str, allow: str) -> None:
    """Wrong method 405, with those allowed."""
    answer = ask(request(method=method, path=path))
    assert (answer.status, answer.headers["allow"]) == (405, allow)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/samples/", "//v1/samples", "/v1/../v1/samples", "/metrics", "*"])
def test_unknown_path_404(path: str) -> None:
    """Paths match whole; nothing is normalised."""
    assert ask(request(path=path)).status == 404


def test_forged_proxy_line_400() -> None:
    """A PROXY line from a peer that is no configured proxy is not HTTP: 400."""
    assert ask(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + request()).status == 400


def test_forged_x_forwarded_for_ignored() -> None:
    """X-Forwarded-For changes nothing: identity is the token."""
    assert Bench().ask(request(x_forwarded_for="127.0.0.1", forwarded="for=127.0.0.1")).status == 204
    assert ask(request(x_forwarded_for="127.0.0.1", authorization="Bearer x")).status == 401


@given(st.integers(0, 3000), st.binary(max_size=6), st.integers(0, 6), st.integers(1, 4000))
def test_mutated_requests_never_yield_500(position: int, garbage: bytes, removed: int, piece_bytes: int) -> None:
    """Bytes put in or taken out anywhere: an answer below 500 (or 501, 505), a close, or still waiting for the rest."""
    data = request()
    position %= len(data)
    bench = Bench()
    line = bench.connect()
    line.send(data[:position] + garbage + data[position + removed :], piece_bytes=piece_bytes)
    assert bench.counters.errors == 0
    assert all(answer.status != 500 for answer in line.answers())


@given(st.lists(st.binary(max_size=400), max_size=5))
def test_random_bytes_end_with_an_answer_or_a_close(pieces: list[bytes]) -> None:
    """Whatever comes, nothing is raised, and after the deadline the connection is gone."""
    bench = Bench()
    line = bench.connect()
    for piece in pieces:
        line.send(piece)
    bench.clock.pump([1.0] * 200)
    assert line.closed
    assert bench.counters.errors == 0
