"""`bench slow`: slow connections that stay as many as they should be, and the ratio of the middle rounds."""

from __future__ import annotations

import socket
import threading
from array import array

import pytest

from bench.load_driver import Drive
from bench.slow import Side, outcome, slow_clients
from bench.slow_clients import SlowClients


def a_side(*p99_s: float) -> Side:
    side = Side(slow_open=[2000])
    for one in p99_s:
        side.take(Drive(seconds=1.0, acked=100, ack_s=array("d", [one] * 100)))
    return side


def test_the_bar_is_the_ratio_of_the_middle_rounds() -> None:
    """One round that the machine disturbed decides nothing."""
    found = outcome(a_side(0.010, 0.500, 0.012), a_side(0.018, 0.015, 3.0))
    (bar,) = found.bars
    assert bar.value == pytest.approx(0.018 / 0.012)
    assert bar.ok


def test_more_than_twice_as_slow_misses_the_bar() -> None:
    """2 is the limit."""
    (bar,) = outcome(a_side(0.010), a_side(0.021)).bars
    assert not bar.ok


@pytest.mark.real
def test_slow_connections_send_ask_and_come_back() -> None:
    """Half send bytes of a request, half ask and do not read; one that is closed is opened again."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        server.settimeout(30)
        address = server.getsockname()
        clients = SlowClients(("127.0.0.1", address[1]), 4)
        clients.open_all()
        over: list[int] = []
        running = threading.Thread(target=clients.run, args=(over,))
        running.start()
        try:
            accepted = [server.accept()[0] for _ in range(4)]
            accepted[0].close()
            accepted.append(server.accept()[0])  # the one that was closed, again
        finally:
            over.append(1)
            running.join()
            clients.close()
        for one in accepted:
            one.close()
    assert clients.seen.again >= 1
    assert clients.seen.sent_bytes > 0


@pytest.mark.real
def test_the_process_of_slow_connections_tells_what_it_saw() -> None:
    """It starts, ends with SIGTERM, and says how many connections were open."""
    side = Side()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=16) as server,
        slow_clients(("127.0.0.1", server.getsockname()[1]), 6, side),
    ):
        pass
    assert side.slow_open == [6]
    assert side.again == 0
