"""How the report's own tables come into the fleet database, and whether they are there."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from aggregator.fleet_db import Schema, has_tables, open_part
from reports.tables import metadata

REPORT = Schema(
    tables=metadata,
    scripts=Path(__file__).parent / "migrations",
    # The newest file of migrations/versions.
    head="0002",
    version_table="alembic_version_report",
    part="report",
    brought_by="a command of its fallow-report that writes, such as keep, brings it up",
)


def open_report_db(url: str | None, data_dir: Path) -> sa.Engine:
    """An engine for reading and writing the report's own tables: as `aggregator.fleet_db.open_part`."""
    return open_part(REPORT, url, data_dir)


def has_report_tables(connection: sa.Connection) -> bool:
    """Whether the report has written to this database yet; a reader that finds nothing goes on without.

    Raises: ConfigError: its tables are older or newer than this program's.
    """
    return has_tables(connection, REPORT)
