"""The steps of a schema, run by Alembic, and which programs of before may go on with the tables that they leave.

A step says in `floor` the oldest revision whose programs still read and write rightly after it; one that says nothing
lets none go on. The table `schema_floor` has a row for each part of the schema, which that part's steps write, and
later whoever puts in what an older program would misread (`raise_floor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from aggregator.fleet import node, schema_floor
from aggregator.fleet_clock import ahead_s
from aggregator.node_state import AWAY_AFTER_S

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

# The floor's row of the part that has no name.
_NAMELESS = "aggregator"


class Steps:
    """Alembic's directory of steps up to one of them. Loads Alembic, of which a running aggregator has no use."""

    def __init__(self, scripts: Path, head: str) -> None:
        from alembic.config import Config  # noqa: PLC0415
        from alembic.script import ScriptDirectory  # noqa: PLC0415

        self._config: Config = Config()
        self._config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        self._config.set_main_option("path_separator", "os")
        self._directory: ScriptDirectory = ScriptDirectory.from_config(self._config)
        self._head = head

    @property
    def floor(self) -> str:
        """The oldest revision whose programs may use the tables once all steps are done."""
        steps = self._directory.walk_revisions("base", self._head)
        return max(str(getattr(step.module, "floor", step.revision)) for step in steps)

    def apply(self, connection: sa.Connection, version_table: str) -> None:
        """Runs those that the database has not seen, in the transaction of `connection`."""
        from alembic import command  # noqa: PLC0415

        self._config.attributes["connection"] = connection
        self._config.attributes["version_table"] = version_table
        command.upgrade(self._config, self._head)


def read_floor(connection: sa.Connection, part: str) -> str | None:
    """What programs must at least be written for to use the tables of a part; None: nobody has said so."""
    if not sa.inspect(connection).has_table(schema_floor.name):
        return None
    floor: str | None = connection.scalar(sa.select(schema_floor.c.revision).where(_row_of(part)))
    return floor


def note_floor(connection: sa.Connection, part: str, revision: str) -> None:
    """Writes what `read_floor` reads; it never sinks. A database from before there were floors goes without."""
    if sa.inspect(connection).has_table(schema_floor.name):
        noted = max(read_floor(connection, part) or revision, revision)
        connection.execute(sa.delete(schema_floor).where(_row_of(part)))
        connection.execute(sa.insert(schema_floor).values(part=part or _NAMELESS, revision=noted))


def raise_floor(connection: sa.Connection, part: str, revision: str) -> None:
    """Keeps out programs for a schema before `revision` from their next start on; two at once may do so."""
    lower = sa.and_(_row_of(part), schema_floor.c.revision < revision)
    connection.execute(sa.update(schema_floor).where(lower).values(revision=revision))


def _row_of(part: str) -> sa.ColumnElement[bool]:
    return schema_floor.c.part == (part or _NAMELESS)


def nodes_below(connection: sa.Connection, revision: str, now_s: float | None) -> Iterator[str]:
    """Aggregators that were written for an older revision: the name of each, and for which.

    Args: now_s: only of those that run at this time; None: of all, those that are away and may come back too.
    """
    if not sa.inspect(connection).has_table(node.name):
        return
    # An older database has not all columns of the table.
    rows = sa.select(node.c.node, node.c.revision).order_by(node.c.node)
    if now_s is not None:
        rows = rows.where(node.c.state != "stopped", node.c.seen_s > now_s - ahead_s(connection) - AWAY_AFTER_S)
    for name, written_for in connection.execute(rows.where(node.c.revision < revision)):
        yield f"{name} ({written_for})"
