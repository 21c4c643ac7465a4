"""`bench reconnect`: agents that wait as `agent.push` does, pushes of a whole hour, and the bars."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from aggregator.decode import decode_push
from aggregator.http import HttpLimits, Request, RequestParser
from aggregator.tokens import TokenKeys
from bench.reconnect import outcome
from bench.reconnect_agents import SAMPLES, Agents, requests_of, source_of, vm_name

LATER = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"
STORED = b"HTTP/1.1 204 No Content\r\n\r\n"
FIGURES: dict[str, object] = {
    "agents": 2,
    "samples": 120,
    "stored_samples": 120,
    "flushed_after_s": 3.0,
    "peak_rss_bytes": 1000,
}


def test_a_push_is_an_hour_of_one_vm() -> None:
    """Packed with gzip, of the VM in the header, with a token that fits."""
    keys = TokenKeys({"k1": b"k" * 32})
    newest_ts = int(time.time()) // 60 * 60
    for number, data in enumerate(requests_of(keys, 40, 3, newest_ts), start=40):
        (request,) = RequestParser(HttpLimits()).feed(data)
        assert isinstance(request, Request)
        push = decode_push(request.body, content_encoding="gzip", now_s=time.time())
        assert (push.vm, push.count, push.newest_ts) == (vm_name(number), SAMPLES, newest_ts)
        assert request.fallow_vm.decode() == push.vm
        assert keys.verify(push.vm, request.authorization[7:]) == 1


def test_agents_come_from_many_addresses() -> None:
    """16 share one, 10,000 take 625, all of loopback."""
    sources = {source_of(number) for number in range(10_000)}
    assert len(sources) == 625
    assert all(source.startswith("127.") for source in sources)


@contextmanager
def answering(answer: Callable[[int], bytes]) -> Iterator[tuple[str, int]]:
    """A server that gives connection n what `answer(n)` says, and closes unless that is STORED."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        held = []

        def serve() -> None:
            for number in range(1000):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.settimeout(30)
                connection.recv(1)
                reply = answer(number)
                connection.sendall(reply)
                held.append(connection)
                if reply != STORED:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in held:
                connection.close()


@pytest.mark.real
def test_agents_that_are_put_off_come_back() -> None:
    """503 is waited out, a connection that is cut is tried again; in the end all are served."""
    answers = [LATER, b"", STORED]
    with answering(lambda number: answers[number] if number < 3 else STORED) as address:
        agents = Agents(address, [b"push"] * 3, first=0, clock=time.monotonic)
        agents.run()
    assert len(agents.seen.done_s) == 3
    assert agents.seen.statuses == {"503": 1, "204": 3}
    assert (agents.seen.broken, agents.seen.unserved) == (1, 0)


@pytest.mark.real
def test_an_agent_that_is_refused_for_good_is_not_served() -> None:
    """401 is the end of it."""
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
    with answering(lambda _number: refusal) as address:
        agents = Agents(address, [b"push"], first=0, clock=time.monotonic)
        agents.run()
    assert (agents.seen.done_s, agents.seen.unserved) == ([], 1)


def seen(**changes: object) -> dict[str, object]:
    return {"done_s": [1.0, 2.0], "statuses": {"204": 2, "503": 9, "429": 1}, "broken": 0, "cpu_s": 0.1} | changes


def missed(figures: dict[str, object], *parts: dict[str, object]) -> list[str]:
    return [bar.name for bar in outcome(figures, parts).bars if not bar.ok]


def test_the_bars() -> None:
    """All served and stored in two minutes, only 429 and 503 on the way, memory within its cap."""
    assert missed(FIGURES, seen()) == []
    assert missed(FIGURES, seen(done_s=[1.0])) == ["reconnect: agents not served"]
    assert missed(FIGURES | {"stored_samples": 119}, seen()) == ["reconnect: samples not stored"]
    assert missed(FIGURES | {"flushed_after_s": 121.0}, seen()) == ["reconnect: all stored after, s"]
    assert missed(FIGURES, seen(statuses={"204": 2, "500": 1})) == ["reconnect: answers other than 2xx, 429, 503"]
    assert missed(FIGURES | {"peak_rss_bytes": 2 << 30}, seen()) == ["reconnect: peak memory, bytes"]
