"""Rows 31 and 32: clients that send too slowly, and clients that never read."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable

from agent.settings import parse_host_port
from bench.demo import Doors
from bench.kill_lives import Lives
from tests.faults.caller import QUIET, caller_of, finish, metric, must, push_next
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally

_WITHIN_S = 60.0


def slow_senders(place: Surroundings) -> Tally:
    """Connections that send a byte a second are cut before they are through, and pushes beside them are answered."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start((*QUIET, "--limits-request-time", "3s"))
    lives.enrol(doors, 4)
    alone_s = _paced(place, lives, doors, lambda: None, turns=100)
    request = b"POST /v1/samples HTTP/1.1\r\nHost: slow\r\nX-Filler: " + b"a" * 100
    slow = _open_many(parse_host_port(doors.agents), place.injections)
    sent = dict.fromkeys(slow, 0)
    # Each at its own moment of the second: all at once would be a load of another kind.
    began_s = {sock: time.monotonic() + place.draw.random() for sock in slow}

    def drip() -> None:
        now_s = time.monotonic()
        for sock in [sock for sock, count in sent.items() if count < now_s - began_s[sock]]:
            if _ended(sock, request[sent[sock] : sent[sock] + 1]):
                sock.close()
                del sent[sock]
                place.advance()
            else:
                sent[sock] += 1

    beside_s: list[float] = []
    while sent:
        must(max(sent.values()) < len(request), f"{len(sent)} slow connections sent all they had")
        beside_s += _paced(place, lives, doors, drip, turns=50)
    cut = metric(doors, "fallow_timeouts_total")
    must(cut >= place.injections, f"{place.injections} slow connections, {cut} cut at a deadline")
    notes = f"p99 of acks {_p99_ms(alone_s):.1f} ms alone, {_p99_ms(beside_s):.1f} ms beside them"
    return finish(place.programs, lives, program, doors, injections=place.injections, notes=notes)


def _paced(place: Surroundings, lives: Lives, doors: Doors, between: Callable[[], None], *, turns: int) -> list[float]:
    """Ack times of so many pushes, with something else between them."""
    took_s = []
    caller = caller_of(doors)
    for turn in range(turns):
        between()
        ledger = lives.ledgers[turn % len(lives.ledgers)]
        ledger.choose(place.draw)
        began_s = time.monotonic()
        answer = caller.push(ledger)
        took_s.append(time.monotonic() - began_s)
        must(not ledger.pending, f"a push beside slow connections was answered {answer}")
        time.sleep(0.002)
    caller.close()
    return took_s


def _p99_ms(took_s: list[float]) -> float:
    return statistics.quantiles(took_s, n=100)[98] * 1000


def _open_many(address: tuple[str, int], count: int) -> list[socket.socket]:
    found = []
    for _ in range(count):
        sock = socket.socket()
        # What the kernel would take for a client that does not read must not hide it for long.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(_WITHIN_S)
        sock.connect(address)
        sock.setblocking(False)
        found.append(sock)
    return found


def _ended(sock: socket.socket, data: bytes) -> bool:
    """Sends, unless the other side has ended the connection, told why or not."""
    try:
        said = sock.recv(4096)
    except BlockingIOError:
        said = None
    except ConnectionError:
        return True
    if said is not None:
        must(not said or b" 408 " in said.split(b"\r\n", 1)[0], f"a slow connection was told {said[:60]!r}")
        return True
    try:
        sock.send(data)
    except ConnectionError:
        return True
    return False


def deaf_clients(place: Surroundings) -> Tally:
    """Clients that send and send and never read an answer are closed, and others are served meanwhile."""
    lives = Lives(place.programs, place.home / "data", place.home, place.draw)
    program, doors = lives.start((*QUIET, "--limits-request-time", "2s"))
    lives.enrol(doors, 2)
    first, second = lives.ledgers
    served = caller_of(doors)
    push_next(served, first, place.draw)
    first.choose(place.draw)
    # What was never pushed is answered again and again with more words than a success has.
    request = b"GET /nothing HTTP/1.1\r\nHost: deaf\r\n\r\n" * 50
    deaf = _open_many(parse_host_port(doors.agents), place.injections)
    unsent = dict.fromkeys(deaf, b"")
    deadline_s = time.monotonic() + _WITHIN_S
    while unsent:
        must(time.monotonic() < deadline_s, f"{len(unsent)} clients that never read are still there")
        for sock in list(unsent):
            try:
                while True:
                    data = unsent[sock] or request
                    unsent[sock] = data[sock.send(data) :]
            except BlockingIOError:
                continue
            except ConnectionError:
                sock.close()
                del unsent[sock]
                place.advance()
        push_next(served, second, place.draw)
        time.sleep(0.02)
    served.close()
    push_next(caller_of(doors), first, place.draw)
    return finish(place.programs, lives, program, doors, injections=place.injections)


SCENARIOS = (
    Scenario(rows=(31,), name="slow-senders", needs=(), run=slow_senders, quick=200, whole=2_000),
    Scenario(rows=(32,), name="deaf-clients", needs=(), run=deaf_clients, quick=6, whole=50),
)
