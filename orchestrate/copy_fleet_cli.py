"""`fallow-orchestrate copy-fleet`: the fleet database to another one, with what all programs keep in it.

It is here because the controller alone knows the tables of all.
"""

from __future__ import annotations

import argparse
import os

from agent.settings import ConfigError, parse_text
from orchestrate.cli_parts import fail
from orchestrate.config import OrchestrateConfig
from orchestrate.surroundings import Surroundings
from reports.program import DONE
from reports.report_cli import option
from reports.words import count_words

_EXAMPLES = """\
examples:
  fallow-orchestrate copy-fleet --data /var/lib/fallow --to postgresql+psycopg://fallow@db.example/fallow
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what `copy-fleet` takes."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "--to",
        metavar="URL",
        type=option(parse_text),
        required=True,
        help="an empty database; its password is better in PGPASSWORD or ~/.pgpass than here",
    )


def run(options: argparse.Namespace, config: OrchestrateConfig, around: Surroundings) -> int:
    """Copies all tables. Returns: 1: an aggregator runs on the data directory.

    Raises: ConfigError: either is no database of a fleet that can be used, or the new one is not empty.
    """
    from aggregator.data_lock import DataDirectoryBusyError, lock_data_directory  # noqa: PLC0415
    from aggregator.fleet_copy import copy_fleet  # noqa: PLC0415
    from aggregator.fleet_db import FLEET, check_revision, open_fleet  # noqa: PLC0415
    from orchestrate.schema import ORCHESTRATE  # noqa: PLC0415
    from reports.schema import REPORT  # noqa: PLC0415

    url, data_dir = config.report.fleet_url, config.report.data_dir
    if url is None and not data_dir.is_dir():
        raise ConfigError(f"--data: {data_dir} is not a directory")
    lock = None
    try:
        if url is None:
            lock = lock_data_directory(data_dir)
        source = open_fleet(url, data_dir, must_exist=True)
        target = open_fleet(options.to, data_dir)
        try:
            check_revision(source)
            copy_fleet(
                source,
                target,
                (FLEET, REPORT, ORCHESTRATE),
                said=lambda table, rows: around.out.write(f"{table}: {count_words(rows, 'row')}\n"),
            )
        finally:
            source.dispose()
            target.dispose()
    except DataDirectoryBusyError as error:
        return fail(around, f"{error}: stop it first, and every other program that writes to this database")
    finally:
        if lock is not None:
            os.close(lock)
    around.out.write("copied; start the programs with the new database (fleet.url; in the report: fleet)\n")
    return DONE
