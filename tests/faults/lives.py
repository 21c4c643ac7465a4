"""A small fleet through many lives of the aggregator under faults, and at the end the one oracle."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from agent.settings import parse_host_port
from bench.demo import Doors
from bench.kill_compare import Findings, compare
from bench.kill_driver import KillDriver, LinkLostError, VmLedger
from bench.kill_lives import FLUSH_WITHIN_S, READY_WITHIN_S, RETENTION, STOP_WITHIN_S, Lives, flush
from bench.load_driver import DriveError
from bench.programs import Program, ProgramError, tail
from bench.tree import processes
from tests.faults.scenario import Surroundings
from tests.faults.strace import Injection, Trace
from tests.faults.tally import FaultError, Tally, tally_of

OPTIONS = ("--flush-interval", "1h", "--flush-workers", "1", "--retention-raw", RETENTION)
_DYING_S = 10.0


@dataclass(frozen=True, slots=True)
class Life:
    """One running aggregator."""

    program: Program
    doors: Doors
    data: Path

    @property
    def pid(self) -> int:
        """Its own process, also behind strace."""
        return pid_of(self.program)

    @property
    def address(self) -> tuple[str, int]:
        return parse_host_port(self.doors.agents)

    def get(self, path: str, *, within_s: float = 30.0) -> tuple[int, bytes]:
        """Status and body that the agents' door answers on a connection of its own."""
        connection = HTTPConnection(*self.address, timeout=within_s)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def flush(self) -> dict[str, Any]:
        """Has everything stored; the report. Raises: OSError, HTTPException."""
        report: dict[str, Any] = json.loads(self.doors.ask("/v1/flush", method="POST", within_s=FLUSH_WITHIN_S))
        return report

    def metric(self, name: str) -> float:
        """One figure of /metrics without labels."""
        for line in self.doors.ask("/metrics", method="GET", within_s=READY_WITHIN_S).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise FaultError(f"no metric {name}")

    def kill(self) -> None:
        """SIGKILL for it, its workers and what it runs behind."""
        group = self.program.process.pid
        os.killpg(group, signal.SIGKILL)
        self.program.process.wait()
        # A worker that still ends keeps files open, and with them the disk.
        wait_for(
            "end of the workers", lambda: not any(_is_of(group, stat) for stat in Path("/proc").glob("[0-9]*/stat"))
        )


def _is_of(group: int, stat: Path) -> bool:
    """Whether a process that is more than a zombie belongs to the group."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return False  # it ended meanwhile
    return fields[0] not in "ZX" and int(fields[2]) == group


def pid_of(program: Program) -> int:
    """The aggregator's process, which is strace's child where that started it."""
    tree = processes(program.process.pid)
    is_strace = Path(f"/proc/{program.process.pid}/comm").read_text().strip() == "strace"
    return tree[1] if is_strace and len(tree) > 1 else tree[0]


class Herd:
    """VMs with one data directory; each life is one process.

    Args:
        data: the data directory; by default one in the scenario's home.
        options: of every life.
    """

    def __init__(
        self, here: Surroundings, *, vms: int, data: Path | None = None, options: Sequence[str] = OPTIONS
    ) -> None:
        self._here = here
        self._options = options
        self.lives = Lives(here.programs, data or here.home / "data", here.home, here.draw)
        with self.life() as life:
            self.lives.enrol(life.doors, vms)
            self.stop(life)

    @property
    def data(self) -> Path:
        return self.lives.data

    @property
    def ledgers(self) -> list[VmLedger]:
        return self.lives.ledgers

    def driver(self, ledgers: Sequence[VmLedger] | None = None) -> KillDriver:
        """Pushes for these VMs, by default for all."""
        return KillDriver(self.ledgers if ledgers is None else ledgers, self._here.draw)

    @contextmanager
    def life(self, *options: str, under: Sequence[str] = ()) -> Iterator[Life]:
        """An aggregator that is ready; killed at the end, if it still runs."""
        program, doors = self.lives.start((*self._options, *options), under=under)
        life = Life(program, doors, self.data)
        try:
            yield life
        finally:
            if program.process.returncode is None:
                life.kill()

    def stop(self, life: Life) -> None:
        """SIGTERM. Raises: ProgramError: it did not end with 0 in time."""
        os.kill(life.pid, signal.SIGTERM)
        self._here.programs.finish(life.program, within_s=STOP_WITHIN_S)
        life.program.process.wait()

    def live_through(self, injection: Injection, *, push_s: float, ledgers: Sequence[VmLedger] | None = None) -> bool:
        """One life in which the injection may kill the aggregator or a worker at any moment; whether it did.

        It starts, takes pushes for so long, flushes and stops. Raises: FaultError: it ended, or hung, otherwise.
        """
        trace = self._here.home / "trace"
        trace.unlink(missing_ok=True)
        program = self.lives.begin(self._options, under=injection.under(trace))
        driver = self.driver(ledgers)
        try:
            doors = self.lives.wait_until_ready(program)
            life = Life(program, doors, self.data)
            driver.connect(life.address)
            driver.run(push_s)
            driver.settle(READY_WITHIN_S)
            life.flush()
            driver.close()
            self.stop(life)
        except (ProgramError, LinkLostError, HTTPException, OSError) as error:
            # A push that was refused for good is no part of dying.
            if isinstance(error, DriveError) and not isinstance(error, LinkLostError):
                raise
            if not self._dies(program):
                raise FaultError(f"after {injection}: {error}{tail(program.log)}") from error
            driver.cut()
        finally:
            struck = Trace(trace)
            if program.process.returncode is None:
                os.killpg(program.process.pid, signal.SIGKILL)
                program.process.wait()
            struck.clear_semaphores()
        return struck.killed > 0

    def finish(self, *, injections: int, notes: str = "") -> Tally:
        """A last life without faults in which all is sent again and flushed; then what the stores hold."""
        self.lives.end()
        return tally_of(compare(self.data, self.ledgers), injections=injections, notes=notes)

    def compare_copy(self, data: Path, watch: Callable[[Life], None] = lambda _life: None) -> Findings:
        """Starts an aggregator on a copy of the data directory, has it store all, stops it, and compares.

        Args: watch: called once all is stored.
        """
        copy = Lives(self._here.programs, data, self._here.home, self._here.draw)
        program, doors = copy.start(self._options)
        life = Life(program, doors, data)
        try:
            flush(doors)
            watch(life)
            self.stop(life)
        finally:
            if program.process.returncode is None:
                life.kill()
        return compare(data, self.ledgers)

    @staticmethod
    def _dies(program: Program) -> bool:
        until_s = time.monotonic() + _DYING_S
        while program.status() is None and time.monotonic() < until_s:
            time.sleep(0.01)
        return program.status() == -signal.SIGKILL


@contextmanager
def flushing(life: Life) -> Iterator[list[dict[str, Any]]]:
    """A flush that runs beside the body; its report is in the list once the body is left."""
    reports: list[dict[str, Any]] = []

    def work() -> None:
        with suppress(OSError, HTTPException):
            reports.append(life.flush())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield reports
    finally:
        thread.join(FLUSH_WITHIN_S)


def wait_for(what: str, found: Any, *, within_s: float = READY_WITHIN_S) -> None:
    """Returns once `found()` is true. Raises: FaultError: it is not within that time."""
    until_s = time.monotonic() + within_s
    while not found():
        if time.monotonic() > until_s:
            raise FaultError(f"no {what} within {within_s:g} s")
        time.sleep(0.02)


def push_until(driver: KillDriver, what: str, found: Callable[[], object]) -> None:
    """Pushes until `found()` is true. Raises: FaultError: it is not within a minute."""
    until_s = time.monotonic() + READY_WITHIN_S
    while not found():
        must(time.monotonic() < until_s, f"no {what} within {READY_WITHIN_S:g} s of pushing")
        driver.run(0.05)


def push_until_put_off(driver: KillDriver) -> None:
    """Pushes until one has been answered with 503. Raises: FaultError: none is."""
    push_until(driver, "push that is put off", lambda: driver.counts.put_off)


def push_until_taken(driver: KillDriver, pushes: int) -> None:
    """Pushes until so many more are acknowledged. Raises: FaultError: they are not."""
    enough = driver.counts.acknowledged + pushes
    push_until(driver, "acks", lambda: driver.counts.acknowledged >= enough)


def must(holds: object, why: str) -> None:
    """Raises: FaultError: it does not hold."""
    if not holds:
        raise FaultError(why)
