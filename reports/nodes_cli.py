"""`fallow-report nodes`: the aggregators of the fleet, and what each holds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TextIO

from aggregator.fleet_db import open_fleet_read_only, reading
from reports.config import ReportConfig
from reports.program import DONE

_EXAMPLES = """\
examples:
  fallow-report nodes                                   which run, what each keeps, and what holds it up
  fallow-report nodes --json                            for programs
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(
    options: argparse.Namespace,
    config: ReportConfig,
    *,
    clock: Callable[[], float],
    out: TextIO,
    width: int | None,
    colour: bool,
) -> int:
    """Lists them.

    Raises: ConfigError: there is no usable fleet database; sqlalchemy.exc.OperationalError: its server is away.
    """
    from reports.node_rows import read_holdings  # noqa: PLC0415
    from reports.node_words import nodes_json, nodes_text  # noqa: PLC0415

    engine = open_fleet_read_only(config.fleet_url, config.data_dir)
    try:
        with reading(engine) as connection:
            now_s = clock()
            found = read_holdings(connection, now_s)
    finally:
        engine.dispose()
    out.write(nodes_json(found, now_s) if options.json else nodes_text(found, now_s, width=width, colour=colour))
    return DONE
