"""Pushes of a ledger, one at a time over a connection of the test's own, each with its answer."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from agent.settings import parse_host_port
from agent.wire import encode_batch
from bench.demo import Doors
from bench.kill_compare import compare
from bench.kill_driver import INTERVAL_S, VmLedger, steps_of, text_of
from bench.kill_lives import STOP_WITHIN_S, Lives, flush
from bench.programs import Program, Programs
from tests.faults.tally import FaultError, Tally, tally_of

PATIENCE_S = 30.0
# Options of an aggregator that flushes when it is told to.
QUIET = ("--flush-interval", "1h", "--retention-raw", "60d")


class NoAnswerError(Exception):
    """The connection ended, or nothing came in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agents' door said; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def figure(self, name: str) -> int:
        """A count of a 200, such as `duplicate`."""
        return int(json.loads(self.body)[name])

    def taken(self, count: int) -> bool:
        """Whether all of so many samples are stored, now or before, and none differs from what was."""
        if self.status == 204:
            return True
        if self.status != 200:
            return False
        told = json.loads(self.body)
        return bool(told["stored"] + told["duplicate"] == count and not told["rejected"])


class Caller:
    """A connection that is kept, and opened anew after a failure."""

    def __init__(self, address: tuple[str, int], *, timeout_s: float = PATIENCE_S) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._sock: socket.socket | None = None

    def ask(self, request: bytes) -> Answer:
        """One request and its answer. Raises: NoAnswerError."""
        try:
            if self._sock is None:
                self._sock = socket.create_connection(self.address, timeout=self._timeout_s)
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sock.sendall(request)
            response = HTTPResponse(self._sock, method="POST")
            try:
                response.begin()
                body = response.read()
                headers = {name.lower(): value for name, value in response.getheaders()}
                if response.status == 200:
                    # One that was cut off in its head may look whole.
                    json.loads(body)
                if response.will_close:
                    self.close()
                return Answer(response.status, headers, body)
            finally:
                response.close()
        except (OSError, HTTPException, ValueError) as error:
            self.close()
            raise NoAnswerError(f"{type(error).__name__}: {error}") from error

    def push(self, ledger: VmLedger) -> Answer:
        """Sends what is pending and notes it if it was taken. Raises: NoAnswerError."""
        answer = self.ask(ledger.request(time.time()))
        if answer.taken(len(ledger.pending)):
            ledger.acknowledge()
        return answer

    def close(self) -> None:
        """The next request opens another connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None


def caller_of(doors: Doors) -> Caller:
    """A connection to the agents' door."""
    return Caller(parse_host_port(doors.agents))


def push_request(
    ledger: VmLedger, minutes: Sequence[int], *, salt: int, boot: str = "b-kill", sent_s: float | None = None
) -> bytes:
    """A push of these minutes that the ledger does not note, with the figures of any salt."""
    body = encode_batch(
        vm=ledger.vm,
        boot=boot,
        seq=1,
        sent_s=time.time() if sent_s is None else sent_s,
        interval_s=INTERVAL_S,
        samples=[text_of(ledger.ts(minute), steps_of(salt, minute)) for minute in minutes],
    )
    head = (
        f"POST /v1/samples HTTP/1.1\r\nHost: faults\r\nAuthorization: Bearer {ledger.token}\r\n"
        f"Fallow-VM: {ledger.vm}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def must(truth: object, what: str) -> None:
    """Raises: FaultError: it is not so."""
    if not truth:
        raise FaultError(what)


def metric(doors: Doors, name: str) -> float:
    """One figure of /metrics; labels are part of its name. Raises: FaultError: there is none."""
    for line in doors.ask("/metrics", method="GET", within_s=PATIENCE_S).splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    raise FaultError(f"no metric {name}")


def end_in_peace(programs: Programs, program: Program, doors: Doors) -> None:
    """Has everything stored and ends the aggregator. Raises: ProgramError."""
    flush(doors)
    program.process.terminate()
    programs.finish(program, within_s=STOP_WITHIN_S)


def push_next(caller: Caller, ledger: VmLedger, draw: random.Random) -> None:
    """The next push of a VM, which must be taken; a refusal for now is waited for. Raises: FaultError."""
    ledger.choose(draw)
    deadline_s = time.monotonic() + 2 * PATIENCE_S
    while ledger.pending:
        must(time.monotonic() < deadline_s, f"{ledger.vm}: nobody takes its push")
        try:
            answer = caller.push(ledger)
        except NoAnswerError:
            continue
        must(not ledger.pending or answer.status in (429, 503), f"{ledger.vm}: answered {answer}")


def finish(
    programs: Programs, lives: Lives, program: Program, doors: Doors, *, injections: int, notes: str = ""
) -> Tally:
    """Flushes, ends the aggregator in peace and compares. Raises: FaultError, ProgramError."""
    end_in_peace(programs, program, doors)
    return tally_of(compare(lives.data, lives.ledgers), injections=injections, notes=notes)
