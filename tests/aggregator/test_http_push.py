"""Whole pushes taken in one go: the same as the general parser makes of them, and nothing that it would refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.http import HttpLimits, Request, RequestParser
from aggregator.http_push import whole_push

LIMITS = HttpLimits(head_bytes=600, body_bytes=1000)
HEAD = b"POST /v1/samples HTTP/1.1\r\nHost: a:8899\r\n"
TOKEN = b"Authorization: Bearer k1.1.mac\r\nFallow-VM: web-1\r\nContent-Type: application/json\r\n"
OF_AN_AGENT = HEAD + b"Accept-Encoding: identity\r\nContent-Length: 3\r\n" + TOKEN + b"\r\nabc"
OF_A_PROXY = (
    b"POST /v1/samples HTTP/1.1\r\nhost: a\r\naccept-encoding: identity\r\ncontent-length: 3\r\n"
    b"authorization: Bearer k1.1.mac\r\nfallow-vm: web-1\r\ncontent-type: application/json\r\n"
    b"content-encoding: gzip\r\nfallow-dropped: 12\r\nx-forwarded-for: 10.0.0.7\r\n\r\nabc"
)
LENGTH_LAST = HEAD + TOKEN + b"Content-Length: 3\r\n\r\nabc"
TAKEN = {"of an agent": OF_AN_AGENT, "of a proxy": OF_A_PROXY, "length last": LENGTH_LAST}
LEFT_ALONE = {
    "two lengths": HEAD + b"Content-Length: 3\r\n" + TOKEN + b"Content-Length: 3\r\n\r\nabc",
    "no length": HEAD + TOKEN + b"\r\nabc",
    "too little body": LENGTH_LAST[:-1],
    "too much body": LENGTH_LAST + b"d",
    "two requests": LENGTH_LAST + LENGTH_LAST,
    "no host": LENGTH_LAST.replace(b"Host: a:8899\r\n", b""),
    "empty host": LENGTH_LAST.replace(b"Host: a:8899", b"Host: "),
    "two tokens": LENGTH_LAST.replace(TOKEN, TOKEN + b"Authorization: Bearer x\r\n"),
    "two VMs": LENGTH_LAST.replace(b"Fallow-VM: web-1\r\n", b"Fallow-VM: web-1\r\nFallow-VM: web-2\r\n"),
    "length +3": LENGTH_LAST.replace(b"Length: 3", b"Length: +3"),
    "length 0x3": LENGTH_LAST.replace(b"Length: 3", b"Length: 0x3"),
    "chunked": LENGTH_LAST.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "length and chunked": LENGTH_LAST.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "bare CR": LENGTH_LAST.replace(b"web-1\r\n", b"web-1\r"),
    "bare LF": LENGTH_LAST.replace(b"\r\n", b"\n"),
    "folded header": LENGTH_LAST.replace(b"web-1\r\n", b"web-1\r\n x\r\n"),
    "blank before the colon": LENGTH_LAST.replace(b"Host:", b"Host :"),
    "NUL in a header": LENGTH_LAST.replace(b"web-1", b"web\x00-1"),
    "not ASCII": LENGTH_LAST.replace(b"web-1", b"web\xff-1"),
    "connection: close": LENGTH_LAST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
    "HTTP/1.0": LENGTH_LAST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a query": LENGTH_LAST.replace(b"/v1/samples", b"/v1/samples?x=1"),
    "another method": LENGTH_LAST.replace(b"POST", b"PUT"),
    "another path": LENGTH_LAST.replace(b"samples", b"enroll"),
    "head too large": LENGTH_LAST.replace(b"k1.1.mac", b"x" * 600),
    "body too large": LENGTH_LAST.replace(b": 3", b": 1001").replace(b"abc", b"x" * 1001),
}


def by_the_general_parser(data: bytes) -> list[object]:
    """The events of a parser that cannot take the short way: the first byte comes alone."""
    parser = RequestParser(LIMITS)
    return [*parser.feed(data[:1]), *parser.feed(data[1:])]


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_what_agents_and_proxies_write_is_taken(data: bytes) -> None:
    """Each usual form is one request, the same that the general parser makes."""
    assert whole_push(data, head_bytes=600, body_bytes=1000) is not None
    events = RequestParser(LIMITS).feed(data)
    assert events == by_the_general_parser(data)
    (request,) = events
    assert isinstance(request, Request)
    assert (request.fallow_vm, request.authorization, request.body) == (b"web-1", b"Bearer k1.1.mac", b"abc")


def test_what_a_proxy_adds_is_read() -> None:
    """Encoding, dropped samples and the client's address come through."""
    (request,) = RequestParser(LIMITS).feed(OF_A_PROXY)
    assert isinstance(request, Request)
    assert (request.content_encoding, request.fallow_dropped, request.forwarded_for) == (b"gzip", b"12", b"10.0.0.7")


@pytest.mark.parametrize("data", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_anything_odd_is_left_to_the_general_parser(data: bytes) -> None:
    """What is not exactly one usual push is not taken, and the answer is that of the general parser."""
    assert whole_push(data, head_bytes=600, body_bytes=1000) is None
    assert RequestParser(LIMITS).feed(data) == by_the_general_parser(data)


_BITS = (b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\x80", b"3", b"Host: b\r\n", b"chunked")
_EDITS = st.lists(
    st.tuples(
        st.integers(0, len(OF_A_PROXY)),
        st.integers(0, 4),
        st.sampled_from(
            [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\x80", b"3", b"Host: b\r\n", b"chunked"]
        ),
    ),
    max_size=3,
)


@given(st.sampled_from(sorted(TAKEN.values())), _EDITS)
def test_both_ways_agree_on_damaged_pushes(data: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    """Whatever bytes are cut, changed or put in: the short way makes the general parser's request, or keeps out."""
    for at, cut, put in edits:
        data = data[:at] + put + data[at + cut :]
    parts = whole_push(data, head_bytes=600, body_bytes=1000)
    if parts is not None:
        (request,) = by_the_general_parser(data)
        assert isinstance(request, Request)
        assert request.keep_alive
        assert (request.method, request.path) == (b"POST", b"/v1/samples")
        assert parts == (
            request.authorization,
            request.fallow_vm,
            request.content_type,
            request.content_encoding,
            request.fallow_dropped,
            request.forwarded_for,
            request.body,
        )


def test_between_other_requests_too() -> None:
    """A push after another one, however that came, and before a request of another kind: each as the parser has it."""
    parser = RequestParser(LIMITS)
    events: list[object] = []
    for data in (
        OF_AN_AGENT[:50],
        OF_AN_AGENT[50:],
        OF_A_PROXY,
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
        OF_AN_AGENT,
    ):
        events += parser.feed(data)
    assert [request.path for request in events if isinstance(request, Request)] == [
        b"/v1/samples",
        b"/v1/samples",
        b"/healthz",
        b"/v1/samples",
    ]


def test_not_behind_stray_bytes() -> None:
    """Line ends before a request are the general parser's business: it decides what follows them."""
    parser = RequestParser(LIMITS)
    assert parser.feed(b"\r\n") == []
    (request,) = parser.feed(OF_AN_AGENT)
    assert isinstance(request, Request)
    assert request.body == b"abc"
