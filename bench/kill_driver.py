"""Pushes samples that can be recognised again, and remembers which of them were acknowledged.

Each figure follows from the VM and the minute, so that the ledger needs one byte a sample. A push that was not answered
is sent again unchanged, as an agent would; now and then so is one that was answered, and some minutes come late.
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.sample import FIELDS, Unit
from agent.wire import FULL_SAMPLE_FORMAT, encode_batch
from bench.load_driver import DriveError

INTERVAL_S = 60
LONGEST_BATCH = 120
_UNSENT, _SENT, _ACKED = 0, 1, 2
_LATE_RATIO, _BATCH_RATIO, _AGAIN_RATIO = 0.03, 0.08, 0.02
_PAUSE_S = 0.05
_RECV_BYTES = 1 << 16
_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)
_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
# What a store rounds away, in the unit of the field.
_BELOW_ONE_STEP = {Unit.BYTES: 300.0, Unit.BYTES_PER_S: 0.2}
# (unit, steps below which a figure is made); 2^20 steps survive the single precision of a packed row
_RANGES = tuple((field.unit, min(1 << 20, int(field.maximum / field.unit.quantum))) for field in FIELDS)
_MEM_TOTAL = next(index for index, field in enumerate(FIELDS) if field.name == "mem_total_bytes")
_MEM_USED = next(index for index, field in enumerate(FIELDS) if field.name == "mem_used_bytes")


def steps_of(salt: int, minute: int) -> list[int]:
    """Figures of one sample in the quanta of a store, in the order of FIELDS; no two samples have the same."""
    noise = (((salt << 32) + minute + 1) * _MIX) & _MASK
    steps = []
    for _, largest in _RANGES:
        noise = (noise ^ (noise >> 29)) * _MIX & _MASK
        steps.append((noise >> 40) % largest)
    # By these alone a sample could be told from every other.
    steps[_MEM_TOTAL] = max(1 << 31, (salt + 1) << 20)
    steps[_MEM_USED] = (salt << 20) + minute
    return steps


def values_of(steps: Sequence[int]) -> list[float]:
    """The figures as an agent measures them, in the order of FIELDS."""
    return [
        step * unit.quantum + _BELOW_ONE_STEP.get(unit, 0.0) for step, (unit, _) in zip(steps, _RANGES, strict=True)
    ]


def text_of(ts: int, steps: Sequence[int]) -> str:
    """The sample as an agent would encode it."""
    return FULL_SAMPLE_FORMAT % (ts, *values_of(steps))


class VmLedger:
    """One VM: what was sent of it and what of that was acknowledged. Minutes count from `start_s`.

    Args:
        salt: number of the VM; its figures follow from it.
        last_minute: none later is made.
    """

    def __init__(self, vm: str, token: str, *, salt: int, start_s: int, last_minute: int) -> None:
        self.vm = vm
        self.token = token
        self._salt = salt
        self._start_s = start_s
        self._last_minute = last_minute
        self._states = bytearray()
        self._late: list[int] = []
        self._answered: Sequence[int] = ()
        self.pending: Sequence[int] = ()
        self.seq = 0

    def choose(self, draw: random.Random) -> None:
        """Fills `pending` with the minutes of the next push, unless one is still unanswered."""
        if self.pending:
            return
        luck = draw.random()
        begin = len(self._states)
        if (luck < _AGAIN_RATIO and self._answered) or begin + 2 * LONGEST_BATCH > self._last_minute:
            self.pending = self._answered
            return
        if luck < 2 * _AGAIN_RATIO and self._late:
            self.pending, self._late = self._late[:LONGEST_BATCH], self._late[LONGEST_BATCH:]
            return
        if luck > 1 - _LATE_RATIO:
            skipped = draw.randint(1, LONGEST_BATCH)
            self._late += range(begin, begin + skipped)
            self._states += bytes(skipped)
            begin += skipped
        count = draw.randint(2, LONGEST_BATCH) if luck > 1 - _LATE_RATIO - _BATCH_RATIO else 1
        self.pending = range(begin, begin + count)
        self._states += bytes(count)

    def request(self, now_s: float) -> bytes:
        """The push of `pending`, which counts as sent from now on."""
        texts = []
        for minute in self.pending:
            self._states[minute] = max(self._states[minute], _SENT)
            texts.append(text_of(self.ts(minute), steps_of(self._salt, minute)))
        self.seq += 1
        body = encode_batch(vm=self.vm, boot="b-kill", seq=self.seq, sent_s=now_s, interval_s=INTERVAL_S, samples=texts)
        head = (
            f"POST /v1/samples HTTP/1.1\r\nHost: kill\r\nAuthorization: Bearer {self.token}\r\nFallow-VM: {self.vm}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def acknowledge(self) -> None:
        """Notes that `pending` was answered with success."""
        for minute in self.pending:
            self._states[minute] = _ACKED
        self._answered, self.pending = self.pending, ()

    def ts(self, minute: int) -> int:
        """`ts` of a minute."""
        return self._start_s + minute * INTERVAL_S

    def acknowledged(self) -> Iterator[int]:
        """`ts` of every acknowledged sample, rising."""
        return (self.ts(minute) for minute, state in enumerate(self._states) if state == _ACKED)

    def row(self, ts: int) -> tuple[int, ...] | None:
        """The row that a store must hold for this ts if it holds one; None: no such sample was ever sent."""
        minute, rest = divmod(ts - self._start_s, INTERVAL_S)
        if rest or not 0 <= minute < len(self._states) or self._states[minute] == _UNSENT:
            return None
        return (ts, INTERVAL_S, *steps_of(self._salt, minute))


@dataclass(slots=True)
class Counts:
    """Pushes so far: answered with success, sent again, put off by a 503, cut off by a kill."""

    acknowledged: int = 0
    again: int = 0
    put_off: int = 0
    cut_off: int = 0


class LinkLostError(DriveError):
    """A connection could not be made, or was closed by the other side, as when that dies."""


class _Link:
    """One VM's connection."""

    __slots__ = ("answer", "ledger", "rest", "sock")

    def __init__(self, sock: socket.socket, ledger: VmLedger) -> None:
        self.sock = sock
        self.ledger = ledger
        self.rest = b""
        self.answer = b""


class KillDriver:
    """Keeps one push of every VM under way. One `connect` per life of the aggregator, then `run`s, then `cut`."""

    def __init__(self, ledgers: Sequence[VmLedger], draw: random.Random) -> None:
        self._ledgers = ledgers
        self._draw = draw
        self._links: dict[int, _Link] = {}
        self._paused: list[tuple[float, _Link]] = []
        self._epoll: select.epoll | None = None
        self.counts = Counts()

    def connect(self, address: tuple[str, int]) -> None:
        """Opens all connections and sends the first push on each. Raises: LinkLostError."""
        self._epoll = select.epoll()
        for ledger in self._ledgers:
            try:
                sock = socket.create_connection(address, timeout=10)
            except OSError as error:
                raise LinkLostError(f"{address[0]}:{address[1]}: {error}") from error
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            link = self._links[sock.fileno()] = _Link(sock, ledger)
            self._epoll.register(sock.fileno(), select.EPOLLIN)
            self._send_next(link)

    def run(self, seconds: float) -> None:
        """Pushes for so long. Raises: DriveError: a push was refused for good. LinkLostError."""
        for link in self._links.values():
            if not link.ledger.pending:  # all is answered after `settle`
                self._send_next(link)
        ends_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < ends_s:
            self._resume(now_s)
            for fileno, _ in self._poll(min(_PAUSE_S, ends_s - now_s)):
                link = self._links[fileno]
                if not self._receive(link):
                    raise LinkLostError(f"the connection of {link.ledger.vm} was closed")
                self._take_answers(link, resend=True)

    def settle(self, within_s: float) -> None:
        """Sends nothing new and waits until nothing is unanswered. Raises: DriveError: that took too long."""
        ends_s = time.monotonic() + within_s
        while any(ledger.pending for ledger in self._ledgers):
            now_s = time.monotonic()
            if now_s > ends_s:
                raise DriveError(f"pushes were not answered within {within_s:g} s")
            self._resume(now_s)
            for fileno, _ in self._poll(_PAUSE_S):
                link = self._links[fileno]
                if not self._receive(link):
                    raise LinkLostError(f"the connection of {link.ledger.vm} was closed")
                self._take_answers(link, resend=False)

    def cut(self) -> None:
        """Reads what the aggregator still said before it died, then closes every connection."""
        for link in self._links.values():
            link.sock.settimeout(10)
            try:
                while self._receive(link):
                    pass
            except TimeoutError as error:
                raise DriveError(f"the connection of {link.ledger.vm} outlived the aggregator") from error
            self._take_answers(link, resend=False)
            self.counts.cut_off += bool(link.ledger.pending)
        self.close()

    def close(self) -> None:
        """Closes every connection."""
        for link in self._links.values():
            link.sock.close()
        self._links.clear()
        self._paused.clear()
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None

    def _poll(self, timeout_s: float) -> list[tuple[int, int]]:
        assert self._epoll is not None
        return self._epoll.poll(timeout_s)

    def _resume(self, now_s: float) -> None:
        due = [link for at_s, link in self._paused if at_s <= now_s]
        self._paused = [(at_s, link) for at_s, link in self._paused if at_s > now_s]
        for link in due:
            self._send_next(link)

    def _send_next(self, link: _Link) -> None:
        ledger = link.ledger
        self.counts.again += bool(ledger.pending)
        ledger.choose(self._draw)
        request = ledger.request(time.time())
        try:
            sent = link.sock.send(request)
        except (BrokenPipeError, ConnectionResetError):
            # Whether that is right is for the reading side to say.
            return
        if sent != len(request):
            raise DriveError("a push did not fit into a socket's buffer")

    @staticmethod
    def _receive(link: _Link) -> bool:
        """Adds what came to `rest`; False at the end of the connection."""
        try:
            received = link.sock.recv(_RECV_BYTES)
        except ConnectionResetError:
            return False
        link.rest += received
        return bool(received)

    def _take_answers(self, link: _Link, *, resend: bool) -> None:
        while (whole := first_answer(link.rest)) is not None:
            status, body, link.rest = whole
            ledger = link.ledger
            if status == 503:
                self.counts.put_off += 1
                self._paused.append((time.monotonic() + _PAUSE_S, link))
                continue
            if status != 204 and (status != 200 or not all_taken(body, len(ledger.pending))):
                raise DriveError(f"a push of {ledger.vm} was answered {status}: {body.decode('utf-8', 'replace')}")
            ledger.acknowledge()
            self.counts.acknowledged += 1
            if resend:
                self._send_next(link)


def first_answer(received: bytes) -> tuple[int, bytes, bytes] | None:
    """Status and body of the first answer, and what follows it; None while it is not whole."""
    head, blank, rest = received.partition(b"\r\n\r\n")
    if not blank:
        return None
    found = _LENGTH.search(head)
    length = int(found[1]) if found else 0
    return (int(head[9:12]), rest[:length], rest[length:]) if len(rest) >= length else None


def all_taken(body: bytes, count: int) -> bool:
    """Whether a 200 says that every sample is stored, now or before, and none differs from what was."""
    answer = json.loads(body)
    return bool(answer["stored"] + answer["duplicate"] == count and not answer["rejected"])
