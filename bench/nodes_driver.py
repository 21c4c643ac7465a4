"""Pushes of a large fleet at an even rate over few connections to a load balancer, each kept until it is answered.

A connection serves any VM. A push that is refused for now, or whose connection ends, is sent again unchanged a little
later, as an agent would, on whatever connection is free.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.kill_driver import VmLedger, all_taken, first_answer
from bench.load_driver import DriveError

_AGAIN_RATIO, _BACKLOG_RATIO, _LATE_RATIO = 0.02, 0.02, 0.01
_LONGEST_BACKLOG = 30
_PAUSE_S = (0.2, 1.0)  # before what was refused is sent again
_LOOK_S = 0.02
_CONNECT_S = 10.0
_RECV_BYTES = 1 << 16
_LATER = frozenset((408, 429, 500, 502, 503, 504))


class PacedLedger(VmLedger):
    """A VM that mostly sends the next minute: now and then a short backlog, an old minute, or the last push again."""

    def choose(self, draw: random.Random) -> None:
        """Fills `pending` with the minutes of the next push, unless one is still unanswered."""
        if self.pending:
            return
        luck = draw.random()
        begin = len(self._states)
        if luck < _AGAIN_RATIO and self._answered:
            self.pending = self._answered
        elif luck < 2 * _AGAIN_RATIO and self._late:
            self.pending, self._late = self._late, []
        else:
            count = 1
            if luck > 1 - _BACKLOG_RATIO - _LATE_RATIO:
                count = draw.randint(2, _LONGEST_BACKLOG)
            if luck > 1 - _LATE_RATIO:
                # These come after those that follow them.
                self._late += range(begin, begin + count)
                self._states += bytes(count)
                begin, count = begin + count, 1
            if begin + count > self._last_minute:
                raise DriveError(f"{self.vm} has no minutes left: the run is too long")
            self.pending = range(begin, begin + count)
            self._states += bytes(count)

    def choose_late(self) -> bool:
        """Fills `pending` with what was put off; False where nothing was."""
        if not self.pending:
            self.pending, self._late = self._late, []
        return bool(self.pending)


@dataclass(slots=True)
class Sent:
    """What the driver saw so far.

    Attributes:
        acknowledged: pushes answered with success.
        samples: in them.
        later: pushes that were refused for now, by status.
        broken: connections that ended before the answer.
        ack_s: from when a push was sent, for the first time, to its success.
    """

    acknowledged: int = 0
    samples: int = 0
    later: dict[int, int] = field(default_factory=dict)
    broken: int = 0
    ack_s: array[float] = field(default_factory=lambda: array("d"))

    def quantile_s(self, quantile: float) -> float:
        """The ack time that a share of `quantile` of the pushes did not exceed; NaN without any."""
        ordered = sorted(self.ack_s)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else float("nan")


class _Link:
    """One connection and the VM whose answer it waits for."""

    __slots__ = ("ledger", "rest", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ledger: PacedLedger | None = None
        self.rest = b""


class NodesDriver:
    """Connections to one address, open until `close`.

    Args:
        address: of the load balancer.
        ledgers: of all VMs, pushed for in turn.
        connections: how many are kept open.
        draw: of what each VM sends, and of pauses.
        tls: to connect with; None is plain text.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        ledgers: Sequence[PacedLedger],
        connections: int,
        draw: random.Random,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = address
        self._ledgers = ledgers
        self._draw = draw
        self._tls = tls
        self._turn = 0
        self._first_sent_s: dict[str, float] = {}
        self._again: deque[tuple[float, PacedLedger]] = deque()
        self._epoll = select.epoll()
        self._links: dict[int, _Link] = {}
        self._free: deque[_Link] = deque()
        self.sent = Sent()
        for _ in range(connections):
            self._connect()

    @property
    def under_way(self) -> int:
        """Pushes that are not acknowledged."""
        return len(self._first_sent_s)

    def close(self) -> None:
        """Closes every connection."""
        for link in self._links.values():
            link.sock.close()
        self._links.clear()
        self._free.clear()
        self._epoll.close()

    def run(self, seconds: float, *, pushes_per_s: float) -> None:
        """Pushes for so long. A push waits while all connections do. Raises: DriveError: one was refused for good."""
        began_s = time.monotonic()
        sent = 0
        while (passed_s := time.monotonic() - began_s) < seconds:
            self._resend()
            due = int(passed_s * pushes_per_s)
            while sent < due and self._free and (ledger := self._next()) is not None:
                sent += 1
                ledger.choose(self._draw)
                self._first_sent_s[ledger.vm] = time.monotonic()
                self._send(ledger)
            self._receive(min(_LOOK_S, 1 / pushes_per_s))

    def settle(self, within_s: float) -> None:
        """Sends what was put off and nothing new, until all is acknowledged. Raises: DriveError: that took too long."""
        ends_s = time.monotonic() + within_s
        late = deque(self._ledgers)
        while late or self._first_sent_s:
            if time.monotonic() > ends_s:
                raise DriveError(f"{self.under_way} pushes were not acknowledged within {within_s:g} s")
            self._resend()
            for _ in range(len(late)):
                if not self._free:
                    break
                ledger = late.popleft()
                if ledger.vm in self._first_sent_s:
                    late.append(ledger)
                elif ledger.choose_late():
                    self._first_sent_s[ledger.vm] = time.monotonic()
                    self._send(ledger)
            self._receive(_LOOK_S)

    def _next(self) -> PacedLedger | None:
        """The next VM in turn that has nothing under way; None when every one has."""
        for _ in range(len(self._ledgers)):
            ledger = self._ledgers[self._turn]
            self._turn = (self._turn + 1) % len(self._ledgers)
            if ledger.vm not in self._first_sent_s:
                return ledger
        return None

    def _resend(self) -> None:
        now_s = time.monotonic()
        while self._again and self._free and self._again[0][0] <= now_s:
            self._send(self._again.popleft()[1])

    def _send(self, ledger: PacedLedger) -> None:
        link = self._free.popleft()
        link.ledger = ledger
        request = ledger.request(time.time())
        try:
            sent = link.sock.send(request)
        except OSError:
            self._lost(link)
            return
        if sent != len(request):
            raise DriveError("a push did not fit into a socket's buffer")

    def _receive(self, timeout_s: float) -> None:
        for fileno, _ in self._epoll.poll(timeout_s):
            link = self._links[fileno]
            try:
                received = link.sock.recv(_RECV_BYTES)
            except (ssl.SSLWantReadError, BlockingIOError):
                continue
            except OSError:
                received = b""
            if not received:
                self._lost(link)
                continue
            link.rest += received
            self._take_answer(link)

    def _take_answer(self, link: _Link) -> None:
        if (whole := first_answer(link.rest)) is None:
            return
        status, body, link.rest = whole
        ledger, link.ledger = link.ledger, None
        if ledger is None:
            # A load balancer does so before it closes a connection that was never used.
            if status != 408:
                raise DriveError(f"an answer to nothing: {status} {body[:200]!r}")
            self._lost(link)
            return
        self._free.append(link)
        if status in _LATER:
            self.sent.later[status] = self.sent.later.get(status, 0) + 1
            self._put_off(ledger)
        elif status == 204 or (status == 200 and all_taken(body, len(ledger.pending))):
            self.sent.acknowledged += 1
            self.sent.samples += len(ledger.pending)
            self.sent.ack_s.append(time.monotonic() - self._first_sent_s.pop(ledger.vm))
            ledger.acknowledge()
        else:
            raise DriveError(f"a push of {ledger.vm} was answered {status}: {body.decode('utf-8', 'replace')}")

    def _put_off(self, ledger: PacedLedger) -> None:
        self._again.append((time.monotonic() + self._draw.uniform(*_PAUSE_S), ledger))

    def _lost(self, link: _Link) -> None:
        """Replaces a connection that ended, and puts off what it had under way."""
        if link in self._free:
            self._free.remove(link)
        del self._links[link.sock.fileno()]
        link.sock.close()
        if link.ledger is not None:
            self.sent.broken += 1
            self._put_off(link.ledger)
        self._connect()

    def _connect(self) -> None:
        try:
            sock = socket.create_connection(self._address, timeout=_CONNECT_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_hostname=self._address[0])
        except OSError as error:
            raise DriveError(f"{self._address[0]}:{self._address[1]}: {error}") from error
        sock.setblocking(False)
        link = self._links[sock.fileno()] = _Link(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._free.append(link)
