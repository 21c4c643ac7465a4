"""Connections that take their time: `python -m bench.slow_clients HOST PORT COUNT`, until SIGTERM.

Half of them send a push at one byte a second, the others ask for something every ten seconds and never read. One
that the door closes is opened again, so that there are always as many. Says `ready`, then at the end what it saw.
"""

from __future__ import annotations

import json
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

_TICKS_PER_S: Final = 100
_ASK_EVERY_S: Final = 10
_PER_ADDRESS: Final = 16
_HEAD: Final = b"POST /v1/samples HTTP/1.1\r\nHost: slow\r\nFallow-VM: slow\r\nX-Slow: " + b"y" * 10_000
_QUESTION: Final = b"GET /healthz HTTP/1.1\r\nHost: slow\r\n\r\n"
_SMALL_BUFFER_BYTES: Final = 4_096


@dataclass(slots=True)
class Seen:
    """What became of the connections: how many at the end, how often one was opened again, bytes and questions sent."""

    open: int = 0
    again: int = 0
    sent_bytes: int = 0
    questions: int = 0


class _Slow:
    """One place for a connection."""

    __slots__ = ("at", "number", "reads", "sock")

    def __init__(self, number: int) -> None:
        self.number = number
        self.reads = number % 2 == 0
        self.sock: socket.socket | None = None
        self.at = 0


class SlowClients:
    """As many connections as asked for, spread over loopback addresses as machines would be.

    Args: address: host and port of the agents' door.  count: connections.
    """

    def __init__(self, address: tuple[str, int], count: int) -> None:
        self._address = address
        self._epoll = select.epoll()
        self._places = [_Slow(number) for number in range(count)]
        self._by_fileno: dict[int, _Slow] = {}
        self.seen = Seen()

    def open_all(self) -> None:
        """Opens every connection. Raises: OSError: the door is not there."""
        for place in self._places:
            self._open(place)

    def run(self, is_over: Sequence[object]) -> None:
        """Goes on until `is_over` holds something."""
        tick = 0
        began_s = time.monotonic()
        while not is_over:
            for place in self._places[tick % _TICKS_PER_S :: _TICKS_PER_S]:
                self._act(place, tick // _TICKS_PER_S)
            self._notice_closed()
            tick += 1
            time.sleep(max(0.0, began_s + tick / _TICKS_PER_S - time.monotonic()))
        self.seen.open = len(self._by_fileno)

    def close(self) -> None:
        """Closes every connection."""
        for place in self._by_fileno.values():
            if place.sock is not None:
                place.sock.close()
        self._epoll.close()

    def _open(self, place: _Slow) -> None:
        sock = socket.socket()
        if not place.reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER_BYTES)
        # A bound for each address must not be met here: agents come from many.
        sock.bind((f"127.1.{place.number // _PER_ADDRESS // 250}.{place.number // _PER_ADDRESS % 250 + 1}", 0))
        sock.settimeout(10.0)
        sock.connect(self._address)
        sock.setblocking(False)
        place.sock, place.at = sock, 0
        self._by_fileno[sock.fileno()] = place
        # Of what a non-reader is answered, only that the other side hung up is of interest.
        self._epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLRDHUP if place.reads else select.EPOLLRDHUP)

    def _act(self, place: _Slow, second: int) -> None:
        if place.sock is None:
            with suppress(OSError):
                self._open(place)
                self.seen.again += 1
            return
        with suppress(OSError):
            if place.reads:
                self.seen.sent_bytes += place.sock.send(_HEAD[place.at : place.at + 1])
                place.at += 1
            elif (second + place.number) % _ASK_EVERY_S == 0:
                self.seen.questions += place.sock.send(_QUESTION) == len(_QUESTION)

    def _notice_closed(self) -> None:
        for fileno, event in self._epoll.poll(0):
            place = self._by_fileno[fileno]
            assert place.sock is not None
            if not event & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                with suppress(OSError):
                    place.sock.recv(65536)
                continue
            self._epoll.unregister(fileno)
            del self._by_fileno[fileno]
            place.sock.close()
            place.sock = None


def main(argv: Sequence[str]) -> None:
    """Opens the connections, says `ready`, and ends with SIGTERM and one JSON object."""
    clients = SlowClients((argv[0], int(argv[1])), int(argv[2]))
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    clients.open_all()
    print("ready", flush=True)
    clients.run(ended)
    clients.close()
    print(json.dumps(asdict(clients.seen)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
