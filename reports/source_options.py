"""The options of `fallow-report` that say where the fleet and the settings are."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.settings import parse_text
from reports.report_cli import option


def add_source_options(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Adds what says where the fleet and the settings are."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=default,
        help="the aggregator's data directory (default: $FALLOW_DATA or /var/lib/fallow)",
    )
    source.add_argument(
        "--fleet", metavar="URL", type=option(parse_text), default=default, help="the fleet database, of SQLAlchemy"
    )
    parser.add_argument(
        "--config", metavar="FILE", type=Path, default=default, help="settings in TOML, in a table [report]"
    )
