"""Reading addresses and answers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.connection import BadAnswerError, Connection, parse_address, parse_head
from agent.settings import ConfigError
from tests.agent.fake_aggregator import FakeAggregator, answer, listening


def test_head_tells_status_length_and_when_to_come_back() -> None:
    """Names of headers are read whatever their case, and a plain answer keeps the connection."""
    head = parse_head(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 12\r\nRETRY-AFTER: 7\r\n\r\n")
    assert (head.status, head.length, head.retry_after_s, head.close) == (503, 12, 7.0, False)


@pytest.mark.parametrize(
    ("head", "close"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
    ],
)
def test_connection_is_kept_only_where_the_answer_allows_it(head: bytes, close: bool) -> None:
    """A 204 has no body by itself; an answer of unknown length or an old version ends its connection."""
    assert parse_head(head).close is close


def test_retry_after_that_is_a_date_is_left_to_the_backoff() -> None:
    """Only seconds are read: a date would need a clock that both sides share."""
    head = parse_head(b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\nRetry-After: Sat, 21 Nov 2026 08:00:00 GMT\r\n\r\n")
    assert head.retry_after_s is None


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 2x4 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
    ],
)
def test_what_is_no_readable_answer_is_refused(head: bytes) -> None:
    """Another protocol, broken lengths and chunks are errors of their own, not surprises later."""
    with pytest.raises(BadAnswerError):
        parse_head(head)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_refused(garbage: bytes) -> None:
    """No bytes make the reader raise anything but BadAnswerError."""
    with suppress(BadAnswerError):
        assert parse_head(b"HTTP/1.1 200 " + garbage + b"\r\n\r\n").status == 200


def test_addresses() -> None:
    """The port may be left out; IPv6 hosts keep their brackets."""
    assert str(parse_address("http://127.0.0.1:1234")) == "http://127.0.0.1:1234"
    assert str(parse_address("http://[::1]:1234/")) == "http://[::1]:1234"
    assert str(parse_address("https://fallow.example")) == "https://fallow.example:8899"
    assert str(parse_address("http://10.0.0.1", insecure_plain=True)) == "http://10.0.0.1:8899"


@pytest.mark.parametrize(
    ("url", "ca", "named"),
    [
        ("ftp://127.0.0.1", None, "--aggregator"),
        ("127.0.0.1:8899", None, "--aggregator"),
        ("http://127.0.0.1:99999", None, "--aggregator"),
        ("http://127.0.0.1/v1", None, "--aggregator"),
        ("http://10.0.0.1:8899", None, "--insecure-plain"),
        ("http://127.0.0.1:8899", Path("ca.pem"), "--ca"),
        ("https://127.0.0.1:8899", Path("does/not/exist.pem"), "--ca"),
    ],
)
def test_useless_addresses_name_the_option(url: str, ca: Path | None, named: str) -> None:
    """Each mistake names the option that must change; a token never goes in the clear to another machine unasked."""
    with pytest.raises(ConfigError, match=named):
        parse_address(url, ca=ca)


@pytest.mark.real
def test_answers_with_and_without_length_on_one_connection() -> None:
    """Two requests share a connection; an answer without a length is read to its end and ends it."""

    async def main() -> None:
        fake = FakeAggregator(script=[answer(200, {"stored": 1}), answer(400, {"detail": "odd"})])
        async with listening(fake):
            connection = Connection(parse_address(fake.url))
            first = await connection.request("/v1/samples", {}, b"one")
            second = await connection.request("/v1/samples", {}, b"two")
            connection.close()
        assert (first.head.status, first.body) == (200, b'{"stored": 1}')
        assert (second.head.status, second.detail()) == (400, "odd")
        assert [request.connection for request in fake.requests] == [0, 0]

        async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"body")
            writer.write(b"HTTP/1.1 500 Odd\r\n\r\nit ends here")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(until_closed, "127.0.0.1", 0)
        async with server:
            connection = Connection(parse_address(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            third = await connection.request("/", {}, b"body")
        assert (third.head.status, third.detail(), third.head.close) == (500, "it ends here", True)

    asyncio.run(main())
