"""One data directory through many lives of the real aggregator, and the pushes that go into it."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.error import HTTPError

from agent.settings import parse_host_port
from bench.demo import Doors, open_doors
from bench.kill_driver import INTERVAL_S, KillDriver, VmLedger
from bench.programs import Program, ProgramError, Programs

FLUSH_INTERVAL = "700ms"  # so that many kills meet a flush
HISTORY_DAYS = 40
RETENTION = "60d"
OPTIONS = ("--flush-interval", FLUSH_INTERVAL, "--flush-workers", "2", "--retention-raw", RETENTION)
READY_WITHIN_S = 60.0
FLUSH_WITHIN_S = 300.0
STOP_WITHIN_S = 10.0


class Impatient:
    """The clock of `Programs`, which looks ten times as often: most of the time goes into waiting for a start."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, secs: float, /) -> None:
        time.sleep(secs / 10)


class Lives:
    """Starts the aggregator again and again on one data directory.

    Args:
        data: the data directory; made by the first start.
        scratch: an existing folder for the join token.
    Attributes:
        ledgers: of the VMs that were enrolled, with all that was ever sent.
        driver: pushes for them.
        restart_s: seconds from a start to readiness, one figure a start.
    """

    def __init__(self, programs: Programs, data: Path, scratch: Path, draw: random.Random) -> None:
        self._programs = programs
        self._scratch = scratch
        self.data = data
        self.ledgers: list[VmLedger] = []
        self.driver = KillDriver(self.ledgers, draw)
        self.restart_s: list[float] = []

    def begin(self, options: Sequence[str] = OPTIONS, *, under: Sequence[str] = ()) -> Program:
        """Starts it and does not wait.

        Args: under: what the command line is put behind, such as strace and its options.
        """
        for name in ("agents.address", "admin.address"):
            (self.data / name).unlink(missing_ok=True)
        argv = ["fallow-aggregator", "run", "--data", str(self.data)]
        return self._programs.start([*argv, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *options], under=under)

    def start(self, options: Sequence[str] = OPTIONS, *, under: Sequence[str] = ()) -> tuple[Program, Doors]:
        """Starts it and waits until it is ready. Raises: ProgramError: it ended, or took too long."""
        began_s = time.monotonic()
        program = self.begin(options, under=under)
        doors = self.wait_until_ready(program)
        self.restart_s.append(time.monotonic() - began_s)
        return program, doors

    def wait_until_ready(self, program: Program) -> Doors:
        """Its doors, once it takes pushes. Raises: ProgramError: it ended, or took too long."""
        doors = open_doors(self._programs, program, self.data)
        self._programs.wait_until(
            lambda: is_ready(doors) or None, running=[program], within_s=READY_WITHIN_S, what="readiness"
        )
        return doors

    def enrol(self, doors: Doors, vms: int) -> None:
        """Gives so many VMs a token and a ledger."""
        path = self._scratch / "join.token"
        path.touch(mode=0o600)
        argv = ["fallow-aggregator", "join-token", "--data", str(self.data), "--uses", str(vms), "--ttl", "1h"]
        self._programs.finish(self._programs.start(argv, stdout=path), within_s=READY_WITHIN_S)
        join_token = path.read_text("ascii").strip()
        start_s = int(time.time()) // INTERVAL_S * INTERVAL_S - HISTORY_DAYS * 86_400
        for salt in range(vms):
            vm = f"kill-{salt:04d}"
            body = json.dumps({"join_token": join_token, "vm": vm, "hostname": vm}).encode()
            token = json.loads(ask(f"http://{doors.agents}/v1/enroll", body))["token"]
            last_minute = HISTORY_DAYS * 86_400 // INTERVAL_S
            self.ledgers.append(VmLedger(vm, token, salt=salt, start_s=start_s, last_minute=last_minute))

    def end(self) -> None:
        """A last life: what is unanswered is sent again, everything is flushed, SIGTERM ends it.

        Raises: ProgramError, DriveError: something of that was not done.
        """
        program, doors = self.start()
        self.driver.connect(parse_host_port(doors.agents))
        self.driver.settle(READY_WITHIN_S)
        flush(doors)
        self.driver.close()
        program.process.terminate()
        self._programs.finish(program, within_s=STOP_WITHIN_S)


def flush(doors: Doors) -> None:
    """Has everything stored and summed up. Raises: ProgramError: something is left undone."""
    report = json.loads(doors.ask("/v1/flush", method="POST", within_s=FLUSH_WITHIN_S))
    if report["failures"] or report["summaries_owed"]:
        raise ProgramError(f"the last flush left something undone: {report}")


def ask(url: str, body: bytes | None = None) -> bytes:
    """What a door answers to a GET, or to a POST of JSON. Raises: URLError, HTTPError."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    # Without this, a proxy of the environment would be asked for our own loopback.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=READY_WITHIN_S) as answer:
        return bytes(answer.read())


def is_ready(doors: Doors) -> bool:
    """What /readyz says."""
    try:
        ask(f"http://{doors.agents}/readyz")
    except HTTPError as error:
        if error.code == 503:
            return False
        raise
    return True
