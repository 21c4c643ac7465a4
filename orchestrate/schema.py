"""How the controller's own tables come into the fleet database, and whether they are there."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from aggregator.fleet_db import Schema, check_revision, has_tables, migrate, open_fleet
from orchestrate.tables import metadata

ORCHESTRATE = Schema(
    tables=metadata,
    scripts=Path(__file__).parent / "migrations",
    # The newest file of migrations/versions.
    head="0001",
    version_table="alembic_version_orchestrate",
    part="orchestrate",
    brought_by="a command of its fallow-orchestrate that writes, such as plan, brings it up",
)


def open_orchestrate_db(url: str | None, data_dir: Path) -> sa.Engine:
    """An engine for reading and writing the controller's own tables, which it makes or brings up where need be.

    The tables of the aggregator are for reading: they are checked and left as they are. Connects. A commit of this
    engine is on disk when it returns: SQLite syncs at each, PostgreSQL as `SqlRecords` asks it to.

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
        migrate(engine, ORCHESTRATE)
    except BaseException:
        engine.dispose()
        raise
    return engine


def has_orchestrate_tables(connection: sa.Connection) -> bool:
    """Whether the controller has written to this database yet.

    Raises: ConfigError: its tables are older or newer than this program's.
    """
    return has_tables(connection, ORCHESTRATE)
