"""How the report's own tables come into the fleet database, and whether they are there."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from aggregator.fleet_db import Schema, check_revision, has_tables, migrate, open_fleet
from reports.tables import metadata

REPORT = Schema(
    tables=metadata,
    scripts=Path(__file__).parent / "migrations",
    # The newest file of migrations/versions.
    head="0001",
    version_table="alembic_version_report",
    part="report",
    brought_by="a command of its fallow-report that writes, such as keep, brings it up",
)


def open_report_db(url: str | None, data_dir: Path) -> sa.Engine:
    """An engine for reading and writing the report's own tables, which it makes or brings up where need be.

    The tables of the aggregator are for reading: they are checked and left as they are. Connects.

    Args:
        url: of SQLAlchemy; None is `fleet.db` in `data_dir`.

    Raises:
        ConfigError: there is no such database, it holds no fleet, or either schema is of another version of the
            program and cannot be brought up here.
        sqlalchemy.exc.OperationalError: the server of the database does not answer.
    """
    engine = open_fleet(url, data_dir, must_exist=True)
    try:
        check_revision(engine)
        migrate(engine, REPORT)
    except BaseException:
        engine.dispose()
        raise
    return engine


def has_report_tables(connection: sa.Connection) -> bool:
    """Whether the report has written to this database yet; a reader that finds nothing goes on without.

    Raises: ConfigError: its tables are older or newer than this program's.
    """
    return has_tables(connection, REPORT)
