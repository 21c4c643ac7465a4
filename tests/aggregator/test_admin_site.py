"""The bounds that twisted.web lacks: framing, sizes, deadlines, connections, and the headers of every answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as the_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from aggregator.addresses import Proxies, parse_networks
from aggregator.admin_site import MAX_BODY_BYTES, MAX_HEAD_BYTES, SECURITY_HEADERS, AdminSite, SiteLimits
from tests.aggregator.door_fakes import Answer, answers_in

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
reactor: Any = the_reactor
new_transport: Any = StringTransport
new_failure: Any = Failure


class Page(Resource):
    """Answers `size` bytes at once, or when the test calls `answer`."""

    isLeaf = True

    def __init__(self, size: int = 2, *, waits: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.body = b"x" * size
        self.waits = waits
        self.asked: list[Any] = []
        self.gone: list[object] = []

    def render(self, request: Request) -> int:
        asked: Any = request
        asked.notifyFinish().addErrback(self.gone.append)
        self.asked.append(asked)
        if not self.waits:
            self.answer(asked)
        return NOT_DONE_YET

    def answer(self, request: Any) -> None:
        request.setHeader("Content-Length", str(len(self.body)))
        request.write(self.body)
        request.finish()


class Line:
    """One connection over a transport in memory."""

    def __init__(self, site: AdminSite, host: str | None = None) -> None:
        address: Any = None if host is None else IPv4Address("TCP", host, 1024)
        self.channel: Any = site.buildProtocol(address)
        self.transport: Any = new_transport()
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> Line:
        self.channel.dataReceived(data)
        return self

    def leave(self) -> None:
        self.channel.connectionLost(new_failure(ConnectionError()))

    @property
    def answers(self) -> list[Answer]:
        return answers_in(self.transport.value())

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def is_closed(self) -> bool:
        return bool(self.transport.disconnecting)

    @property
    def is_aborted(self) -> bool:
        return bool(self.transport.disconnected)


class House:
    """A site, its page and its clock."""

    def __init__(self, page: Page | None = None, **limits: Any) -> None:
        self.clock = Clock()
        self.page = page or Page()
        self.site = AdminSite(self.page, reactor=self.clock, limits=SiteLimits(**limits))

    def connect(self, host: str | None = None) -> Line:
        return Line(self.site, host)

    def wait(self, seconds: int) -> None:
        self.clock.pump([1.0] * seconds)


# Framing.

BROKEN: dict[str, bytes] = {
    "Content-Length with Transfer-Encoding": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding with Content-Length": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Length: 3\r\n\r\n0\r\n\r\n",
    "identity with Content-Length": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n"
    b"Content-Length: 3\r\n\r\nabc",
    "a coding that is none": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity alone": b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two Content-Lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
    "+3": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "0x3": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
    "-3": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc",
    "bare CR in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "bare LF in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n",
    "bare CR in the first line": b"GET /\r HTTP/1.1\r\nHost: a\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "a folded Host": b"GET / HTTP/1.1\r\nHost:\r\n\ta\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "an empty Host": b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two Hosts, HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "a PROXY line": b"PROXY TCP4 6.6.6.6 10.0.0.2 1 2\r\n" + GET,
    "another version": b"GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    "no version": b"GET /\r\nHost: a\r\n\r\n",
    "a chunk that is none": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("piece_bytes", [None, 1])
def test_broken_framing_is_400_and_closed(name: str, piece_bytes: int | None) -> None:
    """Each is answered 400 as a problem, once; the page is not asked, and what follows is not a request."""
    house = House()
    line = house.connect()
    data = BROKEN[name] + GET
    for start in range(0, len(data), piece_bytes or len(data)):
        line.send(data[start : start + (piece_bytes or len(data))])
    (answer,) = line.answers
    assert (answer.status, answer.reason) == (400, "http")
    assert answer.headers["connection"] == "close"
    assert line.is_closed
    assert house.page.asked == []


def test_http_1_0_needs_no_host() -> None:
    """A health check of an old load balancer is answered, and its connection closed."""
    line = House().connect().send(b"GET / HTTP/1.0\r\n\r\n")
    assert line.transport.value().split(b" ")[1] == b"200"
    assert line.is_closed


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 17_000,
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 17_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 3000 + b"\r\n",
        b"GET /" + b"y" * 17_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["without an end", "one line", "many lines", "the first line"],
)
def test_headers_over_16_kib_are_431(data: bytes) -> None:
    """431 and the end, however they are made up."""
    house = House()
    line = house.connect().send(data + GET)
    (answer,) = line.answers
    assert (answer.status, answer.reason) == (431, "headers-too-large")
    assert line.is_closed
    assert house.page.asked == []


def test_headers_up_to_16_kib_are_taken_again_and_again() -> None:
    """The count begins anew with each request."""
    line = House().connect()
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
    for _ in range(3):
        line.send(head + b"y" * (MAX_HEAD_BYTES - len(head) - 4) + b"\r\n\r\n")
    assert line.statuses == [200] * 3


def test_an_expectation_is_met_unless_the_body_would_be_too_large() -> None:
    """100 Continue for what is welcome; 413 and nothing else for what is not."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    assert House().connect().send(head % 3).transport.value() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert House().connect().send(head % (MAX_BODY_BYTES + 1)).statuses == [413]


@given(st.integers(0, 200), st.binary(max_size=6), st.integers(0, 6), st.integers(1, 60))
def test_mutated_requests_are_answered_or_awaited(position: int, garbage: bytes, removed: int, piece: int) -> None:
    """Bytes put in or taken out anywhere, in pieces: whole answers, nothing raised, no 500, and an end in time."""
    data = b"POST /x?y=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX-Y: z\r\n\r\nabc" + GET
    position %= len(data)
    house = House()
    line = house.connect()
    changed = data[:position] + garbage + data[position + removed :]
    for start in range(0, len(changed), piece):
        line.send(changed[start : start + piece])
    assert set(line.statuses) <= {200, 400, 413, 431}
    house.wait(70)
    assert line.is_closed


# Deadlines.


def test_row_31_a_request_has_one_deadline_however_it_trickles() -> None:
    """A byte a second in the head, or in the body: 408 after a minute from the start, not one reset by each byte."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\n"
    for start in (b"", head[:-2], head):
        house = House()
        line = house.connect().send(start)
        for _ in range(62):
            if not line.is_closed:
                line.send(b"x")
            house.wait(1)
        assert line.statuses == ([408] if start else [])
        assert line.is_closed
        assert 60 <= house.clock.seconds() <= 63
        house.wait(10)
        assert line.is_aborted


def test_row_31_the_beginning_of_a_next_request_does_not_get_the_time_of_an_answer() -> None:
    """Pipelined: the second has its own minute from the first one's answer on."""
    house = House()
    line = house.connect().send(GET + b"GET / HT")
    house.wait(61)
    assert line.is_closed
    house = House()
    line = house.connect().send(GET + b"GET / HTTP/1.1\r\nHost")
    house.wait(61)
    assert line.statuses == [200, 408]


def test_an_answer_that_is_not_made_in_time_is_503() -> None:
    """A page that hangs does not hold a connection for ever; it is told, and what comes late goes nowhere."""
    house = House(Page(waits=True), answer_s=100.0)
    line = house.connect().send(GET)
    house.wait(99)
    assert line.statuses == []
    house.wait(2)
    assert line.statuses == [503]
    assert int(line.answers[0].headers["retry-after"]) > 0
    line.leave()
    assert len(house.page.gone) == 1


def test_a_slow_answer_within_its_time_is_sent() -> None:
    """Longer than a request may take to come, and the connection goes on afterwards."""
    house = House(Page(waits=True))
    line = house.connect().send(GET)
    house.wait(300)
    house.page.answer(house.page.asked[0])
    assert line.statuses == [200]
    house.wait(59)
    line.send(GET)
    house.page.answer(house.page.asked[1])
    assert line.statuses == [200, 200]


@pytest.mark.parametrize("ends", [b"", b"Connection: close\r\n"])
def test_row_32_a_client_that_never_reads_its_answer_is_dropped(ends: bytes) -> None:
    """The end of the connection waits for the peer a while, and no longer."""
    house = House()
    line = house.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\n" + ends + b"\r\n")
    assert line.statuses == [200]
    house.wait(70)
    assert line.is_aborted


def test_nothing_is_left_of_a_connection_that_ended() -> None:
    """No timer, no count: of one served, refused, timed out, or left in the middle."""
    house = House(Page(waits=True))
    for data in (b"", GET, b"GET", BROKEN["no Host"], GET[:-2]):
        line = house.connect("198.51.100.7").send(data)
        line.leave()
    timed_out = house.connect("198.51.100.7")
    house.wait(61)
    timed_out.leave()
    assert house.clock.getDelayedCalls() == []
    assert (house.site._open, house.site._per_address._counts) == (0, {})


# Connections.


def test_one_connection_too_many_is_503_and_far_too_many_are_dropped() -> None:
    """In all, whoever they are of; once one has left there is room."""
    house = House(connections=20, per_address=100)
    lines = [house.connect() for _ in range(22)]
    assert [line.statuses for line in lines] == [[]] * 20 + [[503], []]
    assert [line.is_aborted for line in lines] == [False] * 21 + [True]
    lines[20].send(GET)
    assert house.page.asked == []
    for line in lines[19:]:
        line.leave()
    assert house.connect().send(GET).statuses == [200]


def test_an_address_may_not_take_all_connections() -> None:
    """429 for one too many of it; loopback and proxies are not counted by address."""
    house = House(per_address=2)
    house.site.trust(Proxies(parse_networks(["10.0.0.0/8"])))
    assert [house.connect("198.51.100.7").statuses for _ in range(3)] == [[], [], [429]]
    assert house.connect("198.51.100.7").is_aborted
    for host in ("198.51.100.8", *["127.0.0.1"] * 5, *["10.1.2.3"] * 5):
        assert house.connect(host).send(GET).statuses == [200]


# Headers.


@pytest.mark.parametrize("data", [GET, BROKEN["no Host"], b"GET /" + b"y" * 17_000])
def test_every_answer_has_the_headers_that_browsers_go_by(data: bytes) -> None:
    """Also those that twisted.web or the bounds make; the server does not tell its version."""
    (answer,) = House().connect().send(data).answers
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name.lower()] == value
    assert "TwistedWeb" not in str(answer.headers)
    assert "strict-transport-security" not in answer.headers


def test_what_a_page_says_itself_is_left() -> None:
    """A page with scripts has a policy of its own."""
    house = House(Page(waits=True))
    line = house.connect().send(GET)
    house.page.asked[0].setHeader("Content-Security-Policy", "default-src 'self'")
    house.page.answer(house.page.asked[0])
    assert line.answers[0].headers["content-security-policy"] == "default-src 'self'"


@pytest.mark.parametrize("data", [GET, BROKEN["no Host"]])
def test_browsers_that_come_by_https_are_told_to_keep_to_it(data: bytes) -> None:
    """HSTS, where TLS is spoken here or by a proxy before it."""
    house = House()
    house.site.trust(Proxies(), is_https=True)
    (answer,) = house.connect().send(data).answers
    assert answer.headers["strict-transport-security"].startswith("max-age=")


def test_http_2_is_not_agreed_upon() -> None:
    """Whatever is installed beside."""
    assert House().site.acceptableProtocols() == [b"http/1.1"]


# Over sockets.


def listening(page: Page, **limits: Any) -> Any:
    return reactor.listenTCP(
        0, AdminSite(page, reactor=reactor, limits=SiteLimits(**limits)), interface="127.0.0.1", backlog=300
    )


def in_thread(work: Callable[[tuple[str, int]], Any], port: Any) -> Any:
    return deferToThread(work, ("127.0.0.1", port.getHost().port))


def read_all(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(65536):
        found += data
    return found


@pytest.mark.real
@pytest_twisted.inlineCallbacks
def test_row_31_slow_clients_are_cut_and_others_served() -> Generator[Any, Any, None]:
    """200 connections with a byte each do not keep a request waiting, and end with 408 or without a word."""
    port = listening(Page(), request_s=1.0)

    def work(address: tuple[str, int]) -> tuple[bytes, set[bytes]]:
        slow = [socket.create_connection(address, timeout=60) for _ in range(200)]
        try:
            for number, sock in enumerate(slow):
                sock.sendall(b"GET / HTTP/1.1\r\nHo" if number % 2 else b"G")
            with socket.create_connection(address, timeout=60) as sock:
                sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                served = read_all(sock)
            return served[:12], {read_all(sock)[:12] for sock in slow}
        finally:
            for sock in slow:
                sock.close()

    try:
        served, cut = yield in_thread(work, port)
        assert served == b"HTTP/1.1 200"
        assert cut == {b"", b"HTTP/1.1 408"}
    finally:
        yield port.stopListening()


@pytest.mark.real
@pytest_twisted.inlineCallbacks
def test_row_32_a_client_that_never_reads_is_closed() -> Generator[Any, Any, None]:
    """An answer larger than what the kernel holds, and a peer that reads nothing of it: gone after the deadline."""
    page = Page(64 << 20)
    port = listening(page, request_s=0.5, linger_s=0.2)
    ends = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    def work(address: tuple[str, int]) -> None:
        for data in (GET, ends):
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.settimeout(60)
                sock.connect(address)
                sock.sendall(data)
                until_s = time.monotonic() + 60
                while not _is_reset(sock):
                    assert time.monotonic() < until_s, "it was never closed"
                    time.sleep(0.02)

    try:
        yield in_thread(work, port)
    finally:
        yield port.stopListening()


def _is_reset(sock: socket.socket) -> bool:
    """Whether the peer has dropped the connection, seen without reading."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 or sock.getsockopt(
        socket.IPPROTO_TCP, socket.TCP_INFO, 1
    ) != bytes([1])


@pytest.mark.real
@pytest_twisted.inlineCallbacks
def test_a_client_that_is_still_sending_reads_why_it_was_refused() -> Generator[Any, Any, None]:
    """What comes after a refusal is read and thrown away, so that the kernel does not throw the answer away."""
    port = listening(Page())

    def work(address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, timeout=60) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + b"x" * (4 << 20))
            return read_all(sock)

    try:
        (answer,) = answers_in((yield in_thread(work, port)))
        assert answer.status == 413
    finally:
        yield port.stopListening()
