"""The HTTP parser: whole requests out of any pieces, and nothing that is not one."""

from __future__ import annotations

import itertools
import tracemalloc

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.http import HttpLimits, Interim, Request, RequestParser
from aggregator.problems import Problem

LIMITS = HttpLimits(head_bytes=512, body_bytes=1000)
SIMPLE = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
PUSH = (
    b"POST /v1/samples?x=1 HTTP/1.1\r\nhOsT: a\r\nAuthorization: Bearer  t \r\nFALLOW-VM: web-1\t\r\n"
    b"Content-Type: application/json\r\nContent-Encoding: gzip\r\nX-Other: y\r\nContent-Length: 3\r\n\r\nabc"
)
CHUNKED = (
    b"POST /v1/enroll HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n"
)
EXPECT = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok"
CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
REFUSED = {
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two tokens": b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nauthorization: b\r\n\r\n",
    "length and chunked": CHUNKED_HEAD.replace(b"Transfer", b"Content-Length: 3\r\nTransfer") + b"\r\n0\r\n\r\n",
    "chunked and length": CHUNKED_HEAD + b"Content-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "length list": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
    "length +3": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "length 0x3": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
    "length -1": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nabc",
    "length empty": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc",
    "length beyond 64 bits": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    "bare CR in a header": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "bare CR after the request line": b"GET / HTTP/1.1\rHost: a\r\n\r\n",
    "bare CR after a chunk size": CHUNKED_HEAD + b"\r\n3\rabc\r\n0\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "blank before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "PROXY line": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


def feed_all(data: bytes, cuts: list[int], limits: HttpLimits = LIMITS) -> tuple[list[object], RequestParser]:
    """Events of `data` fed in pieces."""
    parser = RequestParser(limits)
    events: list[object] = []
    edges = [0, *sorted(cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if start < end:
            events.extend(parser.feed(data[start:end]))
    return events, parser


def whole(data: bytes) -> list[object]:
    return feed_all(data, [])[0]


def only_problem(data: bytes) -> Problem:
    (event,) = whole(data)
    assert isinstance(event, Problem)
    return event


def test_request_has_what_the_door_needs() -> None:
    """Method, path without query, the headers of interest without blanks around them, and the body."""
    assert whole(PUSH) == [
        Request(b"POST", b"/v1/samples", b"Bearer  t", b"web-1", b"application/json", b"gzip", b"abc", True)
    ]


def test_absent_headers_are_empty() -> None:
    """A header that did not come is b"", never None."""
    assert whole(SIMPLE) == [Request(b"GET", b"/healthz", b"", b"", b"", b"", b"", True)]


def test_chunked_body_is_joined() -> None:
    """Chunk extensions and trailers vanish; the chunks become one body."""
    (event,) = whole(CHUNKED)
    assert isinstance(event, Request)
    assert event.body == b"abcde"


def test_trailers_say_nothing_of_who_asks() -> None:
    """A proxy lets them pass unread: they neither add to its X-Forwarded-For nor bring a token or a VM."""
    forged = b"X-Forwarded-For: 10.1.2.3\r\nAuthorization: Bearer t\r\nFallow-VM: web-1\r\nHost: b\r\n"
    head = CHUNKED.replace(b"Host: a\r\n", b"Host: a\r\nX-Forwarded-For: 192.0.2.7\r\n")
    (event,) = whole(head.replace(b"Trailer: x\r\n", forged))
    assert isinstance(event, Request)
    assert (event.forwarded_for, event.authorization, event.fallow_vm) == (b"192.0.2.7", b"", b"")
    (again,) = whole(PUSH)
    assert isinstance(again, Request)
    assert again.fallow_vm == b"web-1"


def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_bytes() -> None:
    """Chunks of two bytes are joined as they come: a stranger must not turn one megabyte into twenty."""
    parser = RequestParser(HttpLimits(body_bytes=1 << 20))
    parser.feed(CHUNKED_HEAD + b"\r\n")
    chunks = b"2\r\nab\r\n" * 20_000
    tracemalloc.start()
    try:
        parser.feed(chunks)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 4 * 2 * 20_000
    (event,) = parser.feed(b"0\r\n\r\n")
    assert isinstance(event, Request)
    assert event.body == b"ab" * 20_000


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_broken_framing_is_400_and_ends_the_connection(data: bytes) -> None:
    """Whatever two readers could understand differently is refused, and nothing after it is read."""
    events, parser = feed_all(data + SIMPLE, [])
    (problem,) = events
    assert isinstance(problem, Problem)
    assert (problem.status, problem.close) == (400, True)
    assert parser.ended
    assert parser.feed(SIMPLE) == []


@given(st.data())
def test_any_split_gives_the_same_requests(data: st.DataObject) -> None:
    """However TCP cuts the stream, the same events come out in the same order."""
    pieces = data.draw(st.lists(st.sampled_from([SIMPLE, PUSH, CHUNKED, EXPECT, *REFUSED.values()]), max_size=5))
    stream = b"".join(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    events, parser = feed_all(stream, cuts)
    expected, whole_parser = feed_all(stream, [])
    # After a framing error the wording may differ with what the parser has seen by then; the answer may not.
    assert [_essence(event) for event in events] == [_essence(event) for event in expected]
    assert (parser.ended, parser.between) == (whole_parser.ended, whole_parser.between)


def _essence(event: object) -> object:
    return (event.status, event.reason, event.close) if isinstance(event, Problem) else event


def test_byte_by_byte_equals_whole() -> None:
    """One byte at a time is a split like any other."""
    stream = PUSH + CHUNKED + SIMPLE
    assert feed_all(stream, list(range(len(stream))))[0] == whole(stream)


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=5))
def test_random_bytes_never_raise(data: bytes, cuts: list[int]) -> None:
    """Garbage yields events or nothing, never an exception."""
    feed_all(data, [min(cut, len(data)) for cut in cuts])


@given(st.integers(0, len(PUSH) - 1), st.binary(min_size=1, max_size=3))
def test_a_damaged_request_never_raises(position: int, garbage: bytes) -> None:
    """A request with a few bytes replaced yields events or nothing, never an exception."""
    feed_all(PUSH[:position] + garbage + PUSH[position + len(garbage) :] + SIMPLE, [position])


def test_headers_over_the_limit_are_431() -> None:
    """The sum of all headers counts, those of no interest too."""
    lines = b"".join(b"X-%d: y\r\n" % index for index in range(100))
    assert only_problem(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n").status == 431


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: ", b"GET / HTTP/1.1\r\n", CHUNKED[:-4]])
@pytest.mark.parametrize("piece_bytes", [1, 100, 600])
def test_a_head_or_trailer_that_never_ends_is_431(start: bytes, piece_bytes: int) -> None:
    """A header without an end is refused soon after the limit, and until then memory is bounded by it."""
    parser = RequestParser(LIMITS)
    assert parser.feed(start) == []
    fed = 0
    while not (events := parser.feed(b"x" * piece_bytes)):
        fed += piece_bytes
        assert fed <= LIMITS.head_bytes + 2 * piece_bytes
    (problem,) = events
    assert isinstance(problem, Problem)
    assert problem.status == 431


def test_sized_body_over_the_limit_is_413_before_it_comes() -> None:
    """Content-Length alone decides."""
    assert only_problem(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").status == 413


def test_chunked_body_over_the_limit_is_413() -> None:
    """Chunks are counted as they come, long before the last one."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert only_problem(head + b"fff\r\n" + b"x" * 1001).status == 413


@pytest.mark.parametrize("body_bytes", [0, 1, 1000])
def test_bodies_up_to_the_limit_pass(body_bytes: int) -> None:
    """The limit itself is allowed."""
    (event,) = whole(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % body_bytes + b"x" * body_bytes)
    assert isinstance(event, Request)
    assert len(event.body) == body_bytes


def test_http_1_0_closes_unless_it_asks_to_stay() -> None:
    """HTTP/1.0 needs no Host, and ends the connection without `Connection: keep-alive`."""
    events, parser = feed_all(b"GET /readyz HTTP/1.0\r\n\r\n" + SIMPLE, [])
    assert [event.keep_alive for event in events if isinstance(event, Request)] == [False]
    assert parser.ended
    assert len(whole(b"GET /readyz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + SIMPLE)) == 2


def test_connection_close_ends_the_connection() -> None:
    """What follows the last request is not even looked at."""
    events, parser = feed_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + b"\0garbage", [])
    assert [event.keep_alive for event in events if isinstance(event, Request)] == [False]
    assert len(events) == 1
    assert parser.ended


def test_expectation_is_answered_before_the_body() -> None:
    """`100 Continue` comes as soon as the headers are known to be acceptable."""
    head, _, body = EXPECT.partition(b"\r\n\r\n")
    parser = RequestParser(LIMITS)
    assert parser.feed(head + b"\r\n\r\n") == [Interim.CONTINUE]
    (event,) = parser.feed(body)
    assert isinstance(event, Request)


def test_expectation_of_a_body_too_large_is_413_alone() -> None:
    """Nobody is asked to go on with a body that will be refused."""
    assert only_problem(EXPECT.replace(b"Length: 2", b"Length: 2000")).status == 413


def test_expectation_without_a_body_needs_no_interim_answer() -> None:
    """There is nothing to wait for."""
    (event,) = whole(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")
    assert isinstance(event, Request)


def test_unknown_expectation_is_417() -> None:
    """An expectation we do not know cannot be met."""
    assert only_problem(EXPECT.replace(b"100-continue", b"200-fine")).status == 417


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\nxxx",
    ],
)
def test_upgrades_are_refused(data: bytes) -> None:
    """No other protocol begins on this connection: 501, and closed."""
    problem = only_problem(data)
    assert (problem.status, problem.close) == (501, True)


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"identity, chunked"])
def test_other_transfer_codings_are_501(coding: bytes) -> None:
    """A body whose coding is not understood is not passed on as if it were."""
    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding
    assert only_problem(data).status == 501


def test_unknown_version_is_refused() -> None:
    """HTTP/2.0 in an HTTP/1 request line is nothing we speak."""
    assert only_problem(b"GET / HTTP/2.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").status == 505


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/samples", b"/v1/samples"),
        (b"/v1/samples?a=b?c", b"/v1/samples"),
        (b"http://aggregator:8899/v1/samples?a", b"/v1/samples"),
        (b"https://aggregator", b"/"),
    ],
)
def test_path_of_targets(target: bytes, path: bytes) -> None:
    """Absolute targets, which proxies send, name the same paths."""
    (event,) = whole(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert isinstance(event, Request)
    assert event.path == path


def test_between_tells_whether_a_request_has_begun() -> None:
    """A deadline runs from the first byte of a request, and stops with its last."""
    parser = RequestParser(LIMITS)
    assert parser.between
    parser.feed(SIMPLE[:3])
    assert not parser.between
    parser.feed(SIMPLE[3:] + SIMPLE[:1])
    assert not parser.between
    parser.feed(SIMPLE[1:])
    assert parser.between


def test_httptools_alone_would_take_a_missing_host() -> None:
    """The check here is needed: the library does not make it."""

    class Seen:
        complete = False

        def on_message_complete(self) -> None:
            self.complete = True

    seen = Seen()
    httptools.HttpRequestParser(seen).feed_data(REFUSED["no host"])
    assert seen.complete
