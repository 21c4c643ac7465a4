"""Long work of the pages' server, in processes of its own, so that no page waits for it: one at a time, in turn."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from threading import Lock
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

MAX_OUTPUT_BYTES = 64 << 20
_MAX_ERRORS_BYTES = 8 << 10
_KILL_AFTER_S = 2.0  # of the five seconds that SIGTERM gives


class State(Enum):
    """Where a task stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One command of `fallow-report` and what became of it.

    Attributes:
        key: what it is about; the same is not done twice at once.
        arguments: of the command line.
        finished_s: when it ended, Unix seconds.
        output: what it printed.
        problem: why it failed, in its own words.
    """

    key: str
    arguments: tuple[str, ...]
    state: State = State.WAITING
    finished_s: float | None = None
    output: bytes = b""
    problem: str | None = None

    @property
    def is_under_way(self) -> bool:
        return self.state in {State.WAITING, State.RUNNING}


class Background:
    """Runs tasks, the first asked first. `ask` and `find` may be called in any thread, the others in the reactor's.

    Args:
        reactor: of Twisted, which starts processes.
        clock: Unix time in seconds.
        program: what the arguments are given to.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        reactor: Any,
        clock: Callable[[], float],
        program: Sequence[str] = (sys.executable, "-m", "reports"),
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._program = tuple(program)
        self._lock = Lock()
        self._tasks: dict[str, Task] = {}
        self._queue: list[str] = []
        self._anew: set[str] = set()
        self._running: _Process | None = None
        self._stopping = False

    def ask(self, key: str, arguments: Sequence[str], *, anew: bool = False) -> Task:
        """Has it done, unless it is under way already; returns it as it stands now.

        Args: anew: something has changed: what has begun may have missed it, so that it is done once more afterwards.
        """
        with self._lock:
            known = self._tasks.get(key)
            if known is not None and known.is_under_way:
                if anew and known.state is State.RUNNING:
                    self._anew.add(key)
                return known
            task = self._tasks[key] = Task(key=key, arguments=tuple(arguments))
            self._queue.append(key)
        self._reactor.callFromThread(self._next)
        return task

    def find(self, key: str) -> Task | None:
        """The newest task of that key."""
        with self._lock:
            return self._tasks.get(key)

    def stop(self) -> Deferred[None]:
        """Ends what runs, by force if need be, and starts nothing more."""
        self._stopping = True
        ended: Deferred[None] = Deferred()
        if self._running is None:
            ended.callback(None)
        else:
            self._running.end(ended)
        return ended

    def _next(self) -> None:
        if self._running is not None or self._stopping:
            return
        with self._lock:
            if not self._queue:
                return
            task = self._tasks[self._queue.pop(0)]
            self._tasks[task.key] = task = replace(task, state=State.RUNNING)
        self._running = process = _Process(self._reactor, lambda made: self._ended(task, made))
        command = [*self._program, *task.arguments]
        try:
            self._reactor.spawnProcess(process, command[0], command, env=dict(os.environ))
        except OSError as error:
            self._ended(task, _Outcome(problem=f"cannot be started: {error.strerror or error}"))

    def _ended(self, task: Task, outcome: _Outcome) -> None:
        self._running = None
        ended = replace(
            task,
            state=State.DONE if outcome.problem is None else State.FAILED,
            finished_s=self._clock(),
            output=outcome.output,
            problem=outcome.problem,
        )
        with self._lock:
            self._tasks[task.key] = ended
            if task.key in self._anew:
                self._anew.remove(task.key)
                self._tasks[task.key] = Task(key=task.key, arguments=task.arguments)
                self._queue.append(task.key)
        if ended.problem is not None and not self._stopping:
            self._log.warn("{key} failed: {problem}", key=task.key, problem=ended.problem)
        self._next()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    output: bytes = b""
    problem: str | None = None


class _Process(ProcessProtocol):
    """One process: keeps what it prints, and says when it has ended."""

    def __init__(self, reactor: Any, told: Callable[[_Outcome], None]) -> None:
        self._reactor = reactor
        self._told = told
        self._output: list[bytes] = []
        self._size = 0
        self._errors = b""
        self._ended: Deferred[None] | None = None
        self._kill: Any = None

    def end(self, ended: Deferred[None]) -> None:
        """Asks it to stop; `ended` fires when it has."""
        self._ended = ended
        self._signal("TERM")
        self._kill = self._reactor.callLater(_KILL_AFTER_S, self._signal, "KILL")

    def outReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= MAX_OUTPUT_BYTES:
            self._output.append(data)

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-_MAX_ERRORS_BYTES:]

    def processEnded(self, reason: Failure) -> None:
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        value: Any = reason.value
        self._told(self._outcome(value.exitCode, value.signal))
        if self._ended is not None:
            self._ended.callback(None)

    def _outcome(self, code: int | None, signal: int | None) -> _Outcome:
        if code == 0:
            if self._size > MAX_OUTPUT_BYTES:
                return _Outcome(problem=f"printed more than {MAX_OUTPUT_BYTES >> 20} MiB")
            return _Outcome(output=b"".join(self._output))
        lines = self._errors.decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        how = f"ended by signal {signal}" if signal is not None else f"ended with exit code {code}"
        return _Outcome(problem=said[-1] if said else how)

    def _signal(self, name: str) -> None:
        try:
            transport: Any = self.transport
            transport.signalProcess(name)
        except ProcessExitedAlready:
            # Its end is told in the next turn of the reactor.
            pass
