"""Many sockets as one descriptor of the reactor: who is called, who is not any more, and what stays behind."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from twisted.internet.task import Clock

from aggregator.shared_reads import SharedReading, SharedReads

GATHER_S = 0.02


class FakeReactor(Clock):
    """Notes who is registered; its time is the test's."""

    def __init__(self) -> None:
        super().__init__()
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


def test_row_20_without_a_descriptor_for_it_a_connection_reads_by_itself(
    reactor: FakeReactor, reads: SharedReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 20: the first to come, and one that reads on when all others have gone, are served by the reactor."""

    def no_more() -> None:
        raise OSError(24, "Too many open files")

    paused = Side(reads)
    paused.reading.pauseProducing()
    monkeypatch.setattr("select.epoll", no_more)
    paused.reading.resumeProducing()
    first = Side(reads)
    assert (paused.transport.told, first.transport.told) == (["stop", "start"], ["stop", "start"])
    first.reading.pauseProducing()
    assert first.transport.told[-1] == "pause"
    assert (len(reads), reactor.readers) == (0, [])
    for side in (paused, first):
        side.reading.leave()
        side.close()


def test_row_20_nor_does_one_that_the_kernel_does_not_watch(reactor: FakeReactor, reads: SharedReads) -> None:
    """What cannot be watched leaves nothing behind."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        reads.add(1_000_000, lambda: None)
    assert (len(reads), reactor.readers, reads.fileno()) == (0, [], -1)


class Gathered:
    """Connections that are read together; `groups` has how many reads came between each begin and end.

    The reactor tells of what is readable, as `turn` does, only while the reads are with it.
    """

    def __init__(self, count: int) -> None:
        self.reactor = FakeReactor()
        self.groups: list[int] = []
        self.reads = SharedReads(self.reactor, gather_s=GATHER_S, together=self._together)
        self.sides = [Side(self.reads) for _ in range(count)]

    def _together(self, work: Callable[[], None]) -> None:
        before = self.got
        work()
        self.groups.append(self.got - before)

    @property
    def got(self) -> int:
        """Pushes that were read."""
        return sum(len(side.got) for side in self.sides)

    def send(self, *numbers: int) -> None:
        """A byte on each of these connections, and a turn of the reactor."""
        for number in numbers:
            self.sides[number].peer.send(b"x")
        self.turn()

    def turn(self) -> None:
        """What a reactor does when something is readable."""
        if self.reads in self.reactor.readers:
            self.reads.doRead()

    def close(self) -> None:
        """Ends all that is still there."""
        for side in self.sides:
            side.reading.leave()
            side.close()


@pytest.fixture
def gathered() -> Iterator[Gathered]:
    """Two hundred connections."""
    found = Gathered(200)
    yield found
    found.close()
    assert found.reactor.readers == []
    assert found.reactor.getDelayedCalls() == []


def test_who_comes_after_a_pause_is_read_at_once_and_who_comes_soon_after_waits(gathered: Gathered) -> None:
    """The first is not kept waiting; the next ones are read together, `gather_s` after it; then it listens again."""
    gathered.send(0)
    assert gathered.groups == [1]
    for number in (1, 2, 3):
        gathered.send(number)
        gathered.reactor.advance(GATHER_S / 4)
    assert gathered.groups == [1]
    gathered.reactor.advance(GATHER_S / 4)
    assert gathered.groups == [1, 3]
    gathered.reactor.advance(GATHER_S)
    assert gathered.reactor.readers == [gathered.reads]
    gathered.send(4)
    assert gathered.got == 5


def test_a_crowd_is_not_kept_waiting(gathered: Gathered) -> None:
    """The faster they come, the sooner the next reads are: at once, where many were found."""
    gathered.send(0)
    gathered.send(*range(1, 11))
    gathered.reactor.advance(GATHER_S)
    assert gathered.groups == [1, 10]
    # Ten in 20 ms: as many as share an event well take longer than `gather_s`, so that is how long the next wait.
    gathered.send(*range(160))
    gathered.reactor.advance(GATHER_S)
    assert gathered.groups == [1, 10, 160]
    gathered.send(*range(160))
    # 160 in 20 ms: 128 come in 16.
    gathered.reactor.advance(GATHER_S * 0.7)
    assert len(gathered.groups) == 3
    gathered.reactor.advance(GATHER_S * 0.11)
    assert gathered.groups == [1, 10, 160, 160]


def test_a_moment_in_which_few_came_keeps_nobody_waiting(gathered: Gathered) -> None:
    """160 in 8 ms, for two seconds; then one, as when a machine held its breath: the next wait is no longer for it."""
    pace_s = GATHER_S / 10
    for _ in range(1_000):
        gathered.send(*range(160))
        gathered.reactor.advance(pace_s)
    while gathered.reads not in gathered.reactor.readers:
        gathered.reactor.advance(pace_s)
    gathered.reactor.advance(pace_s)
    few_at = len(gathered.groups)
    gathered.send(7)
    assert gathered.groups[few_at:] == [1]
    gathered.send(*range(100))
    gathered.reactor.advance(4 * pace_s)
    assert gathered.groups[few_at:] == [1, 100]


def test_time_that_reading_took_is_not_waited_for_again(gathered: Gathered) -> None:
    """The next reads are `gather_s` after the start of the last ones, at once if those took longer."""
    slow = gathered.sides[0]

    def take_long(data: bytes) -> None:
        slow.got.append(data)
        gathered.reactor.rightNow += 2 * GATHER_S

    slow.reading._received = take_long
    gathered.send(0)
    gathered.send(1)
    assert gathered.groups == [1, 1]


def test_all_that_leave_while_others_wait_leave_nothing_behind(gathered: Gathered) -> None:
    """The last to go takes the timer along, and one that comes then is read."""
    gathered.send(0)
    assert len(gathered.reactor.getDelayedCalls()) == 1
    for side in gathered.sides:
        side.reading.leave()
    assert gathered.reactor.getDelayedCalls() == []
    late = Side(gathered.reads)
    gathered.sides.append(late)
    gathered.send(200)
    assert late.got == [b"x"]


def test_all_that_leave_in_gathered_reads_and_one_that_comes_in_them(gathered: Gathered) -> None:
    """A door that closes all and opens one in the same event: that one is read, by the reactor or the timer."""

    def replace_all(_data: bytes) -> None:
        for side in gathered.sides:
            side.reading.leave()
        gathered.sides.append(Side(gathered.reads))

    gathered.send(0)
    gathered.sides[1].reading._received = replace_all
    gathered.send(1)
    gathered.reactor.advance(GATHER_S)
    gathered.send(200)
    gathered.reactor.advance(GATHER_S)
    assert gathered.sides[200].got == [b"x"]
