"""`fallow-orchestrate serve`: the controller's pages for people, until SIGTERM.

Twisted, SQLAlchemy and the rest load when it runs, so that `--help` stays light.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.settings import parse_host_port
from orchestrate.cli_parts import PROGRAM
from orchestrate.config import OrchestrateConfig
from orchestrate.surroundings import Surroundings
from reports.report_cli import option

if TYPE_CHECKING:
    from orchestrate.pages.serving import Serving
    from reports.daemon import Startable

_EXAMPLES = """\
examples:
  fallow-orchestrate serve --config orchestrate.toml         plans and approvals on http://127.0.0.1:8903/
  ssh -L 8903:127.0.0.1:8903 fleet-host                      and open http://127.0.0.1:8903/ here
"""


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `serve` takes."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=option(parse_host_port),
        help="where pages are served (default: 127.0.0.1:8903); port 0 takes any free one",
    )


def run_serve(
    options: argparse.Namespace,
    config: OrchestrateConfig,
    around: Surroundings,
    *,
    reactor: Any,
    make_service: Callable[[OrchestrateConfig], Startable[Serving]],
) -> int:
    """Serves pages until SIGTERM or SIGINT; returns the exit code.

    Args:
        reactor: of Twisted, not running yet.
        make_service: of the settings with what the options change.

    Raises:
        ConfigError: plain text for other machines, no usable certificate, or no usable fleet database.
        sqlalchemy.exc.OperationalError: the fleet database does not answer.
    """
    from reports.daemon import run_service  # noqa: PLC0415

    if options.listen is not None:
        config = replace(config, pages=replace(config.pages, listen=options.listen))

    def started(serving: Serving, say: Callable[[str], None]) -> None:
        say(f"pages on {serving.address}")
        if not serving.has_accounts:
            # A link of its own would end the one that the report's pages have told of.
            say("there is no account yet: fallow-report user add NAME --role admin makes the first one")

    return run_service(lambda _say: make_service(config), started, program=PROGRAM, err=around.err, reactor=reactor)
