"""The agents' door: deadlines of requests and connections, and how many there may be."""

from __future__ import annotations

import pytest

from aggregator.door_parts import connections_for
from aggregator.http import Request
from tests.aggregator.door_fakes import OTHER_VM, Bench, Line, push_body, request

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


def statuses(line: Line) -> list[int]:
    return [answer.status for answer in line.answers()]


def test_row_31_slowloris_is_cut_at_a_total_deadline() -> None:
    """Fault 31: a byte a second does not put off the deadline; 408 and the end, 30 s after the first byte."""
    bench = Bench()
    line = bench.connect()
    data = request()
    for second in range(32):
        if line.closed:
            break
        line.send(data[second : second + 1])
        bench.clock.advance(1)
    assert statuses(line) == [408]
    assert line.closed
    assert 30 <= bench.clock.seconds() <= 31
    assert bench.counters.timeouts == 1


@pytest.mark.parametrize("start", [b"\r\n", HEALTH + b"G", request()[:-1]])
def test_the_deadline_runs_in_every_part_of_a_request(start: bytes) -> None:
    """Blank lines before a request, the head after a finished one, the last byte of a body: 30 s in all."""
    bench = Bench()
    line = bench.connect()
    line.send(start)
    bench.clock.pump([1.0] * 29)
    assert not line.closed
    bench.clock.pump([1.0] * 2)
    assert line.closed
    assert statuses(line)[-1] == 408


def test_a_finished_request_ends_its_deadline() -> None:
    """Each request has its own 30 s; a connection in use lives on."""
    bench = Bench()
    line = bench.connect()
    for _ in range(20):
        line.send(request()[:100])
        bench.clock.pump([1.0] * 20)
        line.send(request()[100:])
    assert statuses(line) == [204] * 20


def test_row_31_a_connection_that_asks_nothing_is_not_idle_but_slow() -> None:
    """Until its first answer it has the time of a request: a TLS handshake at a byte a second comes to nothing."""
    bench = Bench()
    line = bench.connect()
    bench.clock.pump([1.0] * 29)
    assert not line.closed
    bench.clock.pump([1.0] * 2)
    assert line.closed
    assert line.sent == b""


def test_idle_connections_end_after_their_own_time() -> None:
    """150 s without a request, not 30: an agent that comes every minute keeps its connection."""
    bench = Bench()
    line = bench.connect()
    for _ in range(5):
        line.send(request())
        bench.clock.pump([1.0] * 149)
    assert not line.closed
    bench.clock.pump([1.0] * 2)
    assert line.closed
    assert statuses(line) == [204] * 5
    assert bench.counters.idle_closed == 1


def test_a_push_the_disk_does_not_take_in_time_is_503() -> None:
    """A disk that hangs is not waited for without end; if it comes back, the push is stored and not answered again."""
    bench = Bench()
    bench.journal.at_once = False
    line = bench.connect()
    line.send(request() + request())
    bench.clock.pump([1.0] * 31)
    assert statuses(line) == [503]
    assert line.closed
    bench.journal.commit()
    assert statuses(line) == [503]
    assert len(bench.buffer.pushes) == 2


def test_row_32_a_client_that_never_reads_is_closed() -> None:
    """Fault 32: once the answers do not leave, nothing more is read, and after the deadline it is over."""
    bench = Bench()
    line = bench.connect()
    line.send(request())
    line.transport.producer.pauseProducing()  # as the transport does over its high mark
    assert line.transport.producerState == "paused"
    bench.clock.pump([1.0] * 31)
    assert line.aborted
    assert bench.counters.timeouts == 1


def test_a_client_that_reads_late_goes_on() -> None:
    """Read answers end the pause."""
    bench = Bench()
    line = bench.connect()
    line.send(request())
    line.transport.producer.pauseProducing()
    bench.clock.pump([1.0] * 20)
    line.transport.producer.resumeProducing()
    bench.clock.pump([1.0] * 20)
    assert line.transport.producerState == "producing"
    assert not line.aborted


def test_a_close_that_does_not_come_about_is_an_abort() -> None:
    """A peer that takes neither the answer nor the end is dropped after the lingering time."""
    bench = Bench(linger_s=5.0)
    line = bench.connect()
    line.send(b"\0")
    assert line.closed
    assert not line.aborted
    bench.clock.pump([1.0] * 5)
    assert line.aborted


# Bounds on connections.


def test_one_connection_too_many_is_503_and_closed() -> None:
    """Above the bound: 503, Connection: close; once one has left, the next is welcome."""
    bench = Bench(connections=3)
    lines = [bench.connect() for _ in range(3)]
    extra = bench.connect()
    (answer,) = extra.answers()
    assert (answer.status, answer.reason, answer.headers["connection"]) == (503, "connections", "close")
    assert extra.closed
    extra.send(request())
    assert bench.buffer.pushes == []
    extra.door.connectionLost()
    lines[0].door.connectionLost()
    assert bench.connect().answers() == []
    assert bench.counters.connections_refused == 1
    assert bench.counters.connections_open == 3


def test_far_too_many_connections_are_dropped_without_an_answer() -> None:
    """Those that are being refused hold descriptors too: they are bounded as well."""
    bench = Bench(connections=20)
    lines = [bench.connect() for _ in range(22)]
    assert [line.aborted for line in lines] == [False] * 21 + [True]


def test_near_the_bound_answers_ask_to_close() -> None:
    """With 90 % of the connections in use each is given back after its answer."""
    bench = Bench(connections=10)
    first = bench.connect()
    first.send(request())
    assert "connection" not in first.answers()[0].headers
    lines = [bench.connect() for _ in range(8)]
    first.send(request())
    assert first.answers()[1].headers["connection"] == "close"
    assert first.closed
    first.door.connectionLost()
    lines[0].send(request())
    assert "connection" not in lines[0].answers()[0].headers


def test_an_address_may_not_take_all_connections() -> None:
    """One too many of an address is 429 with Retry-After and closed; others are welcome, and so is it once one left."""
    bench = Bench(connections=100, per_address=3)
    lines = [bench.connect("198.51.100.7") for _ in range(3)]
    extra = bench.connect("198.51.100.7")
    (answer,) = extra.answers()
    assert (answer.status, answer.reason, answer.headers["connection"]) == (429, "per-address", "close")
    assert int(answer.headers["retry-after"]) > 0
    assert extra.closed
    assert bench.connect("198.51.100.8").answers() == []
    extra.door.connectionLost()
    lines[0].door.connectionLost()
    assert bench.connect("198.51.100.7").answers() == []
    assert bench.counters.connections_refused == 1


def test_far_too_many_of_an_address_are_dropped_without_an_answer() -> None:
    """Those being refused are bounded too, of each address."""
    bench = Bench(connections=100, per_address=3)
    lines = [bench.connect("198.51.100.7") for _ in range(5)]
    assert [line.aborted for line in lines] == [False] * 4 + [True]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.1.2.3", "::ffff:10.1.2.3"])
def test_loopback_and_proxies_are_not_counted_by_address(host: str) -> None:
    """Behind them is everybody; the bound of all holds for them as well."""
    bench = Bench(connections=50, per_address=3, proxies=["10.0.0.0/8"])
    lines = [bench.connect(host) for _ in range(51)]
    assert [bool(line.answers()) for line in lines] == [False] * 50 + [True]


def test_a_token_may_not_fill_the_journals_queue() -> None:
    """One push too many of a VM on its way to the disk: 429 with Retry-After; of others, and later: taken."""
    bench = Bench(per_token=2)
    bench.journal.at_once = False
    lines = [bench.connect() for _ in range(4)]
    for line in lines[:3]:
        line.send(request())
    (answer,) = lines[2].answers()
    assert (answer.status, answer.reason) == (429, "per-token")
    assert int(answer.headers["retry-after"]) > 0
    lines[3].send(request(push_body(vm=OTHER_VM), fallow_vm=OTHER_VM, authorization=f"Bearer token-of-{OTHER_VM}"))
    bench.journal.commit()
    assert [statuses(line) for line in lines] == [[204], [204], [429], [204]]
    bench.journal.at_once = True
    lines[2].send(request())
    assert statuses(lines[2]) == [429, 204]
    assert bench.factory.in_flight == {}


@pytest.mark.parametrize("trouble", ["durable", "append"])
def test_a_push_that_fails_is_counted_out(trouble: str) -> None:
    """Whether the journal refuses it later or breaks at once: nothing stays claimed."""
    bench = Bench(per_token=1)
    if trouble == "durable":
        bench.journal.error = OSError("disk full")
    else:
        bench.journal.breaks = ValueError("a bug")
    line = bench.connect()
    line.send(request() * 3)
    assert statuses(line) == ([503] * 3 if trouble == "durable" else [500])
    assert bench.factory.in_flight == {}


def test_the_address_of_a_request_is_the_peers_or_what_a_proxy_says() -> None:
    """X-Forwarded-For counts of a configured proxy alone, its lines joined."""
    bench = Bench(proxies=["10.0.0.0/8"])

    def address(peer: str, header: bytes) -> str:
        asked = Request(b"POST", b"/v1/enroll", b"", b"", b"", b"", b"", True, header)
        return bench.connect(peer).door.peer_address(asked)

    assert address("198.51.100.7", b"10.0.0.1") == "198.51.100.7"
    assert address("10.0.0.1", b"6.6.6.6, 198.51.100.7") == "198.51.100.7"
    assert address("10.0.0.1", b"") == "10.0.0.1"
    assert address("10.0.0.1", b"\xff") == "10.0.0.1"


@pytest.mark.parametrize(("fds", "connections"), [(40, 20), (1024, 768), (20_000, 19_744), (1, 1)])
def test_connections_leave_descriptors_for_the_rest(fds: int, connections: int) -> None:
    """The journal, the database and the workers need descriptors too."""
    assert connections_for(fds) == connections


def test_bodies_that_are_not_whole_yet_are_bounded_together() -> None:
    """Strangers who each begin a large body do not fill the memory; small pushes in pieces still come through."""
    bench = Bench(unfinished_bytes=300_000)
    head, _, _ = request(b"", content_length="1000000").partition(b"\r\n\r\n")
    lines = [bench.connect() for _ in range(4)]
    for line in lines:
        line.send(head + b"\r\n\r\n" + b"x" * 100_000)
    assert [statuses(line) for line in lines] == [[], [], [], [503]]
    assert lines[3].answers()[0].reason == "unfinished"
    small = bench.connect()
    push = request()
    small.send(push[:-10])
    small.send(push[-10:])
    assert statuses(small) == [204]
    for line in lines:
        line.send(b"x" * 100_000)
    assert [statuses(line) for line in lines] == [[503]] * 4
    for line in lines:
        line.door.connectionLost()
    assert bench.factory.unfinished_bytes == 0
    line = bench.connect()
    line.send(head + b"\r\n\r\n" + b"x" * 100_000)
    assert statuses(line) == []


def test_a_whole_request_is_no_longer_unfinished() -> None:
    """What came of the next one counts, and nothing of those before it."""
    bench = Bench()
    line = bench.connect()
    push = request()
    line.send(push[:-10])
    assert 0 < bench.factory.unfinished_bytes < len(push)
    line.send(push[-10:] + push[:-5])
    assert 0 < bench.factory.unfinished_bytes < len(push)
    line.send(push[-5:])
    assert bench.factory.unfinished_bytes == 0
