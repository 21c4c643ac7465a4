"""How the controller's own tables come into the fleet database, and whether they are there."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from aggregator.fleet_db import Schema, open_part
from orchestrate.tables import metadata

ORCHESTRATE = Schema(
    tables=metadata,
    scripts=Path(__file__).parent / "migrations",
    # The newest file of migrations/versions.
    head="0002",
    version_table="alembic_version_orchestrate",
    part="orchestrate",
    brought_by="a command of its fallow-orchestrate that writes, such as plan, brings it up",
)


def open_orchestrate_db(url: str | None, data_dir: Path) -> sa.Engine:
    """An engine for reading and writing the controller's own tables: as `aggregator.fleet_db.open_part`.

    A commit of this engine is on disk when it returns: SQLite syncs at each, PostgreSQL as `SqlRecords` asks it to.
    """
    return open_part(ORCHESTRATE, url, data_dir)
