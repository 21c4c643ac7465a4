"""`fallow-report serve`: the pages, on this machine alone, until SIGTERM.

Twisted, SQLAlchemy and the rest load when it runs, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from agent.settings import parse_host_port
from reports.report_cli import option

if TYPE_CHECKING:
    from reports.config import ReportConfig

DONE, FAILED = 0, 1
EXAMPLES = """\
examples:
  fallow-report serve --data /var/lib/fallow                 pages on http://127.0.0.1:8901/
  fallow-report serve --config report.toml --listen 127.0.0.1:0
  ssh -L 8901:127.0.0.1:8901 fleet-host                      and open http://127.0.0.1:8901/ here
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `serve` takes beside the options that every command has; `serve` does it."""
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=option(parse_host_port),
        help="where pages are served (default: 127.0.0.1:8901); port 0 takes any free one",
    )


class Startable(Protocol):
    """`reports.web.service.PagesService`, as this module uses it."""

    async def start(self) -> str:
        """Listens; returns the address."""
        ...

    async def stop(self) -> None:
        """Ends everything that runs."""
        ...


def serve(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    err: TextIO,
    reactor: Any,
    make_service: Callable[[ReportConfig], Startable],
) -> int:
    """Serves pages until SIGTERM or SIGINT; returns the exit code.

    Args:
        err: gets the address and the log.
        reactor: of Twisted, not running yet.
        make_service: of the settings with what the options change.

    Raises:
        ConfigError: an address that other machines reach, or no usable fleet database.
        sqlalchemy.exc.OperationalError: the fleet database does not answer.
    """
    import logging  # noqa: PLC0415

    from twisted.internet.defer import Deferred  # noqa: PLC0415
    from twisted.internet.error import CannotListenError  # noqa: PLC0415
    from twisted.logger import globalLogBeginner, textFileLogObserver  # noqa: PLC0415
    from twisted.python.failure import Failure  # noqa: PLC0415

    if options.listen is not None:
        config = replace(config, serve=replace(config.serve, listen=options.listen))
    # It would count on the wall clock: set back by a day, every timer would stand still for a day.
    reactor.seconds = time.monotonic
    service = make_service(config)
    observers: list[Any] = [textFileLogObserver(err)]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    logging.basicConfig(stream=err, level=logging.WARNING)
    status = DONE

    def say(line: str) -> None:
        print(f"fallow-report: {line}", file=err, flush=True)

    def failed(failure: Failure) -> None:
        nonlocal status
        status = FAILED
        value = failure.value
        say(str(value) if isinstance(value, CannotListenError | OSError) else f"cannot start: {failure}")
        reactor.stop()

    def listening(address: str) -> None:
        say(f"pages on {address}")
        say("there is no login yet: whoever can use this machine can use them, and no other machine reaches them")

    def begin() -> None:
        Deferred.fromCoroutine(service.start()).addCallbacks(listening, failed)

    reactor.callWhenRunning(begin)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(service.stop()))
    reactor.run()
    return status
