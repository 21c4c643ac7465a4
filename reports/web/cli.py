"""`fallow-report serve`: the pages, on this machine alone, until SIGTERM.

Twisted, SQLAlchemy and the rest load when it runs, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from agent.settings import parse_host_port
from reports.report_cli import option

if TYPE_CHECKING:
    from reports.config import ReportConfig
    from reports.daemon import Startable

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


def serve(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    err: TextIO,
    reactor: Any,
    make_service: Callable[[ReportConfig], Startable[str]],
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
    from reports.daemon import run_service  # noqa: PLC0415

    if options.listen is not None:
        config = replace(config, serve=replace(config.serve, listen=options.listen))

    def listening(address: str, say: Callable[[str], None]) -> None:
        say(f"pages on {address}")
        say("there is no login yet: whoever can use this machine can use them, and no other machine reaches them")

    return run_service(lambda _say: make_service(config), listening, program="fallow-report", err=err, reactor=reactor)
