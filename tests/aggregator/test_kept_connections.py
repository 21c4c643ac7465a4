"""Connections that are kept: each for one question at a time, not for too long, and not too many."""

from __future__ import annotations

from http.client import HTTPConnection

from aggregator.kept_connections import IDLE_S, KeptConnections


class Spy(HTTPConnection):
    """Never opened; tells that it was closed."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Bench:
    def __init__(self, most: int) -> None:
        self.now_s = 0.0
        self.made: list[Spy] = []
        self.kept = KeptConnections(self.make, most=most, clock=lambda: self.now_s)

    def make(self) -> Spy:
        self.made.append(Spy("x.example"))
        return self.made[-1]


def test_a_connection_is_used_again() -> None:
    """By the next that asks, and by nobody else meanwhile."""
    bench = Bench(2)
    first, was_kept = bench.kept.take()
    assert not was_kept
    other, _ = bench.kept.take()
    assert other is not first
    bench.kept.give_back(first)
    assert bench.kept.take() == (first, True)


def test_no_more_are_kept_than_wanted() -> None:
    """The others are closed; with none to keep, all are."""
    for most in (0, 2):
        bench = Bench(most)
        for connection, _ in [bench.kept.take() for _ in range(4)]:
            bench.kept.give_back(connection)
        assert [one.is_closed for one in bench.made] == [False] * most + [True] * (4 - most)


def test_one_that_was_idle_for_long_is_closed() -> None:
    """Its other end closes it about then."""
    bench = Bench(2)
    old, _ = bench.kept.take()
    bench.kept.give_back(old)
    bench.now_s = IDLE_S
    assert bench.kept.take() == (old, True)
    bench.kept.give_back(old)
    bench.now_s += IDLE_S + 1
    fresh, was_kept = bench.kept.take()
    assert (fresh is old, was_kept) == (False, False)
    assert bench.made[0].is_closed


def test_close_leaves_none() -> None:
    """What is idle is closed; the next question opens another."""
    bench = Bench(2)
    bench.kept.give_back(bench.kept.take()[0])
    bench.kept.close()
    assert bench.made[0].is_closed
    assert bench.kept.take()[1] is False
