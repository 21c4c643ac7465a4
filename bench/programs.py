"""Starting our programs as a user would, watching them, and stopping every one of them again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

T = TypeVar("T")

TAIL_LINES = 20
START_WITHIN_S = 60.0
POLL_S = 0.1
INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended


class Clock(Protocol):
    """The two functions of `time` that waiting needs."""

    def monotonic(self) -> float: ...

    def sleep(self, secs: float, /) -> None: ...


class ProgramError(Exception):
    """A run that cannot go on; the text says which program failed and shows the end of its log."""


@dataclass(frozen=True)
class Program:
    """One started program; what it says on stderr, and on stdout unless that was asked for, is in `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs.

        It is not reaped here: as long as it is not, nothing else can have its pid or its process group.
        """
        if self.process.returncode is not None:
            return self.process.returncode
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


class Programs:
    """Everything that a run started, in order.

    Each program has a process group of its own: Ctrl-C in the terminal reaches the driver alone, which stops them
    in order, and the workers of a program that had to be killed go with it.
    """

    def __init__(self, folder: Path, logs: Path, clock: Clock) -> None:
        """Args: folder: where the console scripts are.  logs: where output goes."""
        self.folder = folder
        self._logs = logs
        self._clock = clock
        self._interrupted = False
        self.started: list[Program] = []

    def interrupt(self) -> None:
        """Makes whoever waits, now or next, raise KeyboardInterrupt; safe in a signal handler."""
        self._interrupted = True

    def start(
        self, argv: Sequence[str], *, stdout: Path | None = None, inherit: bool = False, under: Sequence[str] = ()
    ) -> Program:
        """Starts a console script, or the program of an absolute path.

        Args:
            stdout: file for its results, beside the log.
            inherit: its results go where ours do.
            under: a command line that is given ours to run, such as that of strace; the process is that one's.
        Raises: ProgramError: it cannot be started.
        """
        command = Path(argv[0]).name
        name = f"{command}-{argv[1]}" if len(argv) > 1 and not argv[1].startswith("-") else command
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        with open(log, "ab") as errors, open(stdout or os.devnull, "wb") as results:
            out = None if inherit else results if stdout else errors
            try:
                process = subprocess.Popen(
                    [*under, str(self.folder / argv[0]), *argv[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                raise ProgramError(f"{argv[0]} cannot be started: {error}") from error
        program = Program(name, process, log)
        self.started.append(program)
        return program

    def wait_until(self, found: Callable[[], T | None], *, running: Sequence[Program], within_s: float, what: str) -> T:
        """What `found` gives once it is not None.

        Raises: ProgramError: a program of `running` ended meanwhile, or the time is up.  KeyboardInterrupt.
        """
        deadline_s = self._clock.monotonic() + within_s
        while True:
            if self._interrupted:
                raise KeyboardInterrupt
            value = found()
            if value is not None:
                return value
            for program in running:
                status = program.status()
                if status is not None:
                    raise ProgramError(f"{program.name} ended with status {status}{tail(program.log)}")
            if self._clock.monotonic() >= deadline_s:
                raise ProgramError(
                    f"{what}: nothing within {within_s:g} s" + "".join(tail(program.log) for program in running)
                )
            self._clock.sleep(POLL_S)

    def wait_for_line(self, path: Path, *, running: Sequence[Program], within_s: float = START_WITHIN_S) -> str:
        """The line in a file that a program of `running` writes: an address or a token, once it is whole.

        Raises: ProgramError: a program of `running` ended meanwhile, or the time is up.  KeyboardInterrupt.
        """

        def read() -> str | None:
            try:
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                return None
            return text.strip() if text.endswith("\n") else None

        return self.wait_until(read, running=running, within_s=within_s, what=path.name)

    def finish(
        self,
        program: Program,
        *,
        running: Sequence[Program] = (),
        within_s: float,
        watch: Callable[[], None] = lambda: None,
        accepted: Sequence[int] = (0,),
    ) -> int:
        """Waits for a program that ends by itself and gives its status.

        Args: watch: called at each look, for progress.
        Raises: ProgramError: another status than `accepted`, or one of `running` ended.  KeyboardInterrupt.
        """

        def status() -> int | None:
            watch()
            return program.status()

        code = self.wait_until(status, running=running, within_s=within_s, what=program.name)
        if code not in accepted:
            raise ProgramError(f"{program.name} ended with status {code}{tail(program.log)}")
        return code

    def stop_all(self, *, grace_s: float = 10.0) -> None:
        """Stops what still runs, the newest first: SIGTERM, and SIGKILL for the whole group after the grace."""
        for program in reversed(self.started):
            if program.process.returncode is not None:
                continue
            if program.status() is None:
                program.process.terminate()
                deadline_s = self._clock.monotonic() + grace_s
                while program.status() is None and self._clock.monotonic() < deadline_s:
                    self._clock.sleep(POLL_S)
                if program.status() is None:
                    print(
                        f"{program.name} (pid {program.process.pid}) did not stop within {grace_s:g} s: killed",
                        file=sys.stderr,
                    )
            # Its workers too; its pid is still taken, so that this can reach nobody else.
            os.killpg(program.process.pid, signal.SIGKILL)
            program.process.wait()


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, headed by its name; empty where there is none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    last = text.splitlines()[-lines:]
    return "".join(f"\n  {line}" for line in [f"the end of {log.name}:", *last]) if last else ""
