"""A service on the Twisted reactor until a signal ends it: its log, what it says at its start, its exit code."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TextIO, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from reports.program import DONE, FAILED

Say = Callable[[str], None]
Started_co = TypeVar("Started_co", covariant=True)


class Startable(Protocol[Started_co]):
    """What runs: construction may refuse settings, `start` may find its address taken."""

    def start(self) -> Coroutine[Any, Any, Started_co]:
        """Listens. What it returns is told to whoever started it."""
        ...

    def stop(self) -> Coroutine[Any, Any, None]:
        """Ends within the time that a signal gives."""
        ...


def run_service(
    make_service: Callable[[Say], Startable[Started_co]],
    started: Callable[[Started_co, Say], object],
    *,
    program: str,
    err: TextIO,
    reactor: Any,
) -> int:
    """Runs it until SIGTERM or SIGINT; returns the exit code.

    Args:
        make_service: given what says a line; what it raises is raised.
        started: called once it has started, with what `start` returned.
        err: gets the lines and the log.
        reactor: of Twisted, not running yet.
    """
    status = DONE

    def say(line: str) -> None:
        print(f"{program}: {line}", file=err, flush=True)

    # It would count on the wall clock: set back by a day, every timer would stand still for a day.
    reactor.seconds = time.monotonic
    service = make_service(say)
    observers: list[Any] = [textFileLogObserver(err)]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    logging.basicConfig(stream=err, level=logging.WARNING)

    def failed(failure: Failure) -> None:
        nonlocal status
        status = FAILED
        value = failure.value
        say(str(value) if isinstance(value, CannotListenError | OSError) else f"cannot start: {failure}")
        reactor.stop()

    def begin() -> None:
        Deferred.fromCoroutine(service.start()).addCallbacks(lambda told: started(told, say), failed)

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(service.stop()))
    reactor.run()
    return status
