"""A fleet that moves to another database, such as from a file of SQLite to PostgreSQL: every row of every table.

What is copied is what stood there at one moment, and in the new database there is all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet import schema_floor
from aggregator.fleet_db import Schema, has_tables, migrate, reading

_ROWS_AT_ONCE = 1_000


def copy_fleet(
    source: sa.Engine, target: sa.Engine, schemas: Sequence[Schema], *, said: Callable[[str, int], object]
) -> None:
    """Copies the tables of each part that the source has; those of the target are made.

    Args:
        schemas: of all parts, the aggregator's first.
        said: told the name of each table and how many rows it has, once they are copied.

    Raises:
        ConfigError: the source is of another version of the program, or the target holds rows of a fleet already.
        sqlalchemy.exc.SQLAlchemyError: what either database says.
    """
    with reading(source) as before:
        if before.dialect.name == "postgresql":
            # Else each statement would see another moment; a transaction of SQLite sees one anyway.
            before.execution_options(isolation_level="REPEATABLE READ")
        parts = [schema for schema in schemas if has_tables(before, schema)]
        for schema in parts:
            migrate(target, schema)
        with target.begin() as after:
            tables = [table for schema in parts for table in schema.tables.sorted_tables if table is not schema_floor]
            for table in tables:
                if after.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
                    raise ConfigError(f"{target.url.render_as_string()}: holds a fleet already (table {table.name})")
            for table in tables:
                said(table.name, _copy_table(before, after, table))


def _copy_table(before: sa.Connection, after: sa.Connection, table: sa.Table) -> int:
    """Copies the rows of one table, in the order of their keys: some tables take them in no other."""
    every = sa.select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_ROWS_AT_ONCE)
    copied = 0
    for some in before.execute(every).mappings().partitions():
        after.execute(sa.insert(table), [dict(row) for row in some])
        copied += len(some)
    if table.dialect_options["sqlite"]["autoincrement"]:
        _go_on_counting(before, after, table)
    return copied


def _go_on_counting(before: sa.Connection, after: sa.Connection, table: sa.Table) -> None:
    """The number of a row that went is not given to another."""
    if after.dialect.name != "postgresql":
        return  # SQLite notes the largest number by itself
    (number,) = table.primary_key.columns
    last = before.scalar(sa.select(sa.func.max(number)))
    if before.dialect.name == "sqlite":
        given = before.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
        last = max(last or 0, given.scalar() or 0)
    if last:
        sequence = sa.func.pg_get_serial_sequence(table.name, number.name)
        after.execute(sa.select(sa.func.setval(sequence, last)))
