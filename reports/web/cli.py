"""`fallow-report serve`: the pages, until SIGTERM.

Twisted, SQLAlchemy and the rest load when it runs, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from agent.settings import parse_host_port
from aggregator.listen_settings import PLAIN_OPTION
from reports.report_cli import option

if TYPE_CHECKING:
    from reports.config import ReportConfig
    from reports.daemon import Startable
    from reports.web.serving import Serving

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
    parser.add_argument(
        PLAIN_OPTION,
        action="store_true",
        help="serve other machines in plain text: a proxy before the pages ends TLS",
    )


def serve(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    err: TextIO,
    reactor: Any,
    make_service: Callable[[ReportConfig], Startable[Serving]],
) -> int:
    """Serves pages until SIGTERM or SIGINT; returns the exit code.

    Args:
        err: gets the address and the log.
        reactor: of Twisted, not running yet.
        make_service: of the settings with what the options change.

    Raises:
        ConfigError: plain text for other machines, no usable certificate, or no usable fleet database.
        sqlalchemy.exc.OperationalError: the fleet database does not answer.
    """
    from reports.daemon import run_service  # noqa: PLC0415

    if options.listen is not None:
        config = replace(config, serve=replace(config.serve, listen=options.listen))
    if options.plain_behind_proxy:
        door = replace(config.serve.door, plain_behind_proxy=True)
        config = replace(config, serve=replace(config.serve, door=door))

    def listening(serving: Serving, say: Callable[[str], None]) -> None:
        say(f"pages on {serving.address}")
        if serving.first_link is not None:
            say(f"there is no account yet: make the first admin, once, within a day: {serving.first_link}")

    return run_service(lambda _say: make_service(config), listening, program="fallow-report", err=err, reactor=reactor)
