"""Many sockets as one descriptor of the reactor: who is called, who is not any more, and what stays behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial

import pytest

from aggregator.shared_reads import SharedReading, SharedReads


class FakeReactor:
    """Notes who is registered."""

    def __init__(self) -> None:
        self.readers: list[object] = []

    def addReader(self, reader: object) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: object) -> None:
        self.readers.remove(reader)


class FakeTransport:
    """A transport that holds a real socket and notes what it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.told: list[str] = []

    def getHandle(self) -> socket.socket:
        return self.sock

    def stopReading(self) -> None:
        self.told.append("stop")

    def startReading(self) -> None:
        self.told.append("start")

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")


class Side:
    """One connection: our transport with its reading, and the peer's socket."""

    def __init__(self, reads: SharedReads) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.transport = FakeTransport(ours)
        self.got: list[bytes] = []
        self.reading = SharedReading(reads, self.transport, self.got.append)

    def close(self) -> None:
        """Closes both ends."""
        self.transport.sock.close()
        self.peer.close()


@pytest.fixture
def reactor() -> FakeReactor:
    return FakeReactor()


@pytest.fixture
def reads(reactor: FakeReactor) -> SharedReads:
    return SharedReads(reactor)


@pytest.fixture
def sides(reads: SharedReads) -> Iterator[list[Side]]:
    """Three connections."""
    found = [Side(reads) for _ in range(3)]
    yield found
    for side in found:
        side.reading.leave()
        side.close()


def test_all_that_is_readable_is_read_in_one_event(reads: SharedReads, sides: list[Side]) -> None:
    """Two of three have sent: both are read, the third is not asked, and a second event finds nothing."""
    sides[0].peer.send(b"a")
    sides[2].peer.send(b"c")
    reads.doRead()
    assert [side.got for side in sides] == [[b"a"], [], [b"c"]]
    reads.doRead()
    assert [side.got for side in sides] == [[b"a"], [], [b"c"]]
    assert [side.transport.told for side in sides] == [["stop"]] * 3


def test_a_pause_holds_what_comes(reads: SharedReads, sides: list[Side]) -> None:
    """While it is paused a connection is not read; after that it is, once. Either said twice is as said once."""
    side = sides[0]
    side.reading.pauseProducing()
    side.reading.pauseProducing()
    side.peer.send(b"a")
    reads.doRead()
    assert side.got == []
    side.reading.resumeProducing()
    side.reading.resumeProducing()
    reads.doRead()
    assert side.got == [b"a"]


def test_an_end_is_the_transports_business(reads: SharedReads, sides: list[Side]) -> None:
    """A peer that closes: nothing is received, the transport reads again and finds the end; pauses go to it."""
    side = sides[0]
    side.peer.close()
    reads.doRead()
    side.reading.pauseProducing()
    side.reading.resumeProducing()
    assert (side.got, side.transport.told) == ([], ["stop", "start", "pause", "resume"])
    assert len(reads) == 2


def test_one_that_closes_another_in_the_same_event(reads: SharedReads, sides: list[Side]) -> None:
    """A connection that is gone by its turn is passed over, also when its number is another's by then."""
    for side in sides:
        side.peer.send(b"x")

    def end_others(first: Side, data: bytes) -> None:
        first.got.append(data)
        for other in sides:
            if other is not first:
                other.transport.sock.close()
                other.reading.closed()

    for side in sides:
        side.reading._received = partial(end_others, side)
    reads.doRead()
    assert sum(len(side.got) for side in sides) == 1
    assert len(reads) == 1


def test_a_failure_of_one_is_not_the_others(reads: SharedReads, sides: list[Side]) -> None:
    """An exception of one connection's reader is logged; the others are read."""

    def fail(_data: bytes) -> None:
        raise ValueError("a bug")

    sides[0].reading._received = fail
    for side in sides:
        side.peer.send(b"x")
    reads.doRead()
    assert [side.got for side in sides[1:]] == [[b"x"], [b"x"]]


def test_it_is_with_the_reactor_while_anybody_is_here(reactor: FakeReactor, reads: SharedReads) -> None:
    """The first connection registers it, the last one takes it away and closes its descriptor; it begins again."""
    assert reactor.readers == []
    for _ in range(2):
        one, two = Side(reads), Side(reads)
        assert reactor.readers == [reads]
        assert reads.fileno() >= 0
        one.reading.leave()
        assert reactor.readers == [reads]
        two.transport.sock.close()
        two.reading.closed()
        assert reactor.readers == []
        assert reads.fileno() == -1
        reads.doRead()  # the reactor may have had the event already
        one.close()
        two.close()
