"""kill -9 of the real aggregator under load, again and again: what was acknowledged against what is stored."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from agent.settings import parse_count, parse_host_port
from bench.demo import Doors
from bench.kill_compare import Findings, compare
from bench.kill_lives import FLUSH_WITHIN_S, STOP_WITHIN_S, Impatient, Lives
from bench.load_driver import DriveError
from bench.outcome import Bar, Outcome, Say
from bench.programs import Program, ProgramError, Programs
from bench.tree import processes

LOAD_S = (0.2, 2.0)
_SAY_EVERY_S = 5.0
_STARTING_RATIO, _FLUSHED_RATIO, _ALONE_RATIO = 0.15, 0.2, 0.2  # of the kills; the rest is load and the group
_WORKER_RATIO = 0.35
_SLICE_S = 0.05


class KillError(subprocess.SubprocessError):
    """The run could not be finished; the text says why and shows the end of a log."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `bench kill`."""
    add = parser.add_argument
    add("--times", metavar="N", type=_count, default=50, help="how often the aggregator is killed (default 50)")
    add("--seed", metavar="S", type=int, default=1, help="of the moments and the samples (default 1)")
    add("--vms", metavar="N", type=_count, default=100, help="VMs, each with one push under way (default 100)")


def _count(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@dataclass(slots=True)
class Killed:
    """What was done to the aggregator.

    Attributes:
        kills: of the aggregator; its workers went with it unless counted in `alone`.
        starting: of `kills`, those before it was ready.
        flushed: of `kills`, those shortly after a whole flush.
        alone: of `kills`, those that left its workers running.
        workers: kills of workers alone.
        hot_journals: transactions of stores that kills left half done, each by its journal and its time.
    """

    kills: int = 0
    starting: int = 0
    flushed: int = 0
    alone: int = 0
    workers: int = 0
    hot_journals: set[tuple[str, int]] = field(default_factory=set)


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Kills, restarts and compares. Raises: KillError: the aggregator did not come back, or a push was refused."""
    with tempfile.TemporaryDirectory(prefix="fallow-kill-") as name:
        home = Path(name)
        programs = Programs(Path(sys.executable).parent, home / "logs", Impatient())
        trial = Trial(programs, home, random.Random(options.seed), say)
        try:
            trial.enrol(options.vms)
            trial.kill_again_and_again(options.times)
            trial.lives.end()
            say(f"comparing {options.vms} stores with what was acknowledged")
            findings = compare(trial.lives.data, trial.lives.ledgers)
        except (ProgramError, DriveError, HTTPException, sqlite3.Error) as error:
            raise KillError(f"{type(error).__name__}: {error}") from error
        finally:
            trial.lives.driver.close()
            programs.stop_all()
    for line in (*findings.rollup_mismatches, *findings.summary_mismatches):
        say(f"WRONG {line}")
    return outcome(trial.killed, trial.lives, findings)


def outcome(killed: Killed, lives: Lives, findings: Findings) -> Outcome:
    """Figures, and the bars: nothing lost, nothing twice, nothing invented, rollups and summaries as the raw rows."""
    counts = lives.driver.counts
    figures = {
        "kills": killed.kills,
        "kills_while_starting": killed.starting,
        "kills_after_a_flush": killed.flushed,
        "kills_without_workers": killed.alone,
        "worker_kills": killed.workers,
        "hot_store_journals": len(killed.hot_journals),
        "acknowledged_pushes": counts.acknowledged,
        "pushes_sent_again": counts.again,
        "pushes_cut_off": counts.cut_off,
        "acknowledged_samples": findings.acknowledged,
        "stored_samples": findings.stored,
        "lost_samples": findings.lost,
        "doubled_samples": findings.doubled,
        "never_sent_samples": findings.never_sent,
        "rollup_mismatches": len(findings.rollup_mismatches),
        "summary_mismatches": len(findings.summary_mismatches),
        "restart_median_s": statistics.median(lives.restart_s),
        "restart_max_s": max(lives.restart_s),
    }
    names = ("lost_samples", "doubled_samples", "never_sent_samples", "rollup_mismatches", "summary_mismatches")
    return Outcome(figures, tuple(Bar(f"kill: {name.replace('_', ' ')}", float(figures[name]), 0.0) for name in names))


class Trial:
    """One data directory through many lives of the aggregator."""

    def __init__(self, programs: Programs, home: Path, draw: random.Random, say: Say) -> None:
        self._programs = programs
        self._draw = draw
        self._say = say
        self.lives = Lives(programs, home / "data", home, draw)
        self.killed = Killed()

    def enrol(self, vms: int) -> None:
        """Starts the first aggregator, and gives every VM a token and a ledger."""
        program, doors = self.lives.start()
        self.lives.enrol(doors, vms)
        self._kill(program, alone=False)

    def kill_again_and_again(self, times: int) -> None:
        """So many lives of the aggregator, each ended by SIGKILL at a random moment."""
        said_s = time.monotonic()
        # The first aggregator, which only enrolled, does not count.
        self.killed = Killed()
        self.lives.restart_s.clear()
        for _ in range(times):
            luck = self._draw.random()
            if luck < _STARTING_RATIO:
                self._kill_while_starting()
            else:
                flushed = luck < _STARTING_RATIO + _FLUSHED_RATIO
                self._kill_under_load(flushed=flushed, alone=luck > 1 - _ALONE_RATIO)
            if time.monotonic() - said_s > _SAY_EVERY_S:
                said_s = time.monotonic()
                self._say(
                    f"{self.killed.kills} of {times} kills, {self.lives.driver.counts.acknowledged} pushes acknowledged"
                )

    def _kill_while_starting(self) -> None:
        program = self.lives.begin()
        time.sleep(self._draw.uniform(0.05, 1.0))
        self.killed.starting += 1
        self._kill(program, alone=False)

    def _kill_under_load(self, *, flushed: bool, alone: bool) -> None:
        program, doors = self.lives.start()
        load_s = self._draw.uniform(*LOAD_S)
        self.lives.driver.connect(parse_host_port(doors.agents))
        if flushed:
            self._run_through_a_flush(doors)
            self.killed.flushed += 1
            load_s = self._draw.uniform(0.0, LOAD_S[0])
        if self._draw.random() < _WORKER_RATIO:
            before_s = load_s * self._draw.random()
            self.lives.driver.run(before_s)
            self._kill_a_worker(program)
            load_s -= before_s
        self.lives.driver.run(load_s)
        self._kill(program, alone=alone)
        self.lives.driver.cut()

    def _run_through_a_flush(self, doors: Doors) -> None:
        reports: list[str] = []

        def ask() -> None:
            with suppress(OSError, HTTPException):
                reports.append(doors.ask("/v1/flush", method="POST", within_s=FLUSH_WITHIN_S))

        flushing = threading.Thread(target=ask, daemon=True)
        flushing.start()
        while flushing.is_alive():
            self.lives.driver.run(_SLICE_S)
        if not reports or json.loads(reports[0])["failures"]:
            raise ProgramError(f"a flush under load failed: {reports}")

    def _kill_a_worker(self, program: Program) -> None:
        found = workers(program.process.pid)
        if found:
            os.kill(self._draw.choice(found), signal.SIGKILL)
            self.killed.workers += 1

    def _kill(self, program: Program, *, alone: bool) -> None:
        self.killed.kills += 1
        if alone:
            # Not waited for: while its pid is taken, so is the number of the group in which its workers live on.
            self.killed.alone += 1
            os.kill(program.process.pid, signal.SIGKILL)
            self._programs.finish(program, within_s=STOP_WITHIN_S, accepted=(-signal.SIGKILL,))
        else:
            os.killpg(program.process.pid, signal.SIGKILL)
            program.process.wait()
            for path in (self.lives.data / "stores").rglob("*.db-journal"):
                # A store keeps its journal, and empties it when a transaction ends.
                if (found := path.stat()).st_size:
                    self.killed.hot_journals.add((path.name, found.st_mtime_ns))


def workers(aggregator_pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Processes of an aggregator that flush."""
    return [pid for pid in processes(aggregator_pid, proc)[1:] if b"spawn_main" in _command_line(proc / str(pid))]


def _command_line(folder: Path) -> bytes:
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""
