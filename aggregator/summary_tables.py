"""How rows of summaries come into their tables: compiled upserts, on PostgreSQL by COPY and one merge. Blocking.

Rows are tuples in the order of the table's columns. Whatever is written twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from aggregator.fleet import vm_summary

Row = tuple[Any, ...]

# What a summary owed from before a restart does not know: when its VM was last heard of, and what made it doubtful.
OF_A_PUSH = ("received_s", "skew_s", "flags")

_COPY_TYPES: dict[type, str] = {
    sa.Double: "float8",
    sa.BigInteger: "int8",
    sa.Integer: "int4",
    sa.LargeBinary: "bytea",
    sa.Text: "text",
    sa.String: "varchar",
}


class RowWriter(Protocol):
    """Writes rows of one table."""

    def insert(self, connection: sa.Connection, rows: Sequence[Row]) -> int:
        """Leaves rows of a key that is there alone; returns how many it inserted."""

    def upsert(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Inserts, or overwrites all but what the writer keeps in the row of the same key."""


def row_writer(table: sa.Table, dialect: sa.Dialect, *, keep: Collection[str] = ()) -> RowWriter:
    """A writer for `table`. `keep`: columns that stay as they are in a row of the same key."""
    return (_Copies if dialect.name == "postgresql" else _Statements)(table, dialect, keep)


class _Statements:
    """Compiled once: SQLAlchemy's handling of each row costs more than writing it does."""

    def __init__(self, table: sa.Table, dialect: sa.Dialect, keep: Collection[str]) -> None:
        columns = [column.name for column in table.columns]
        insert = sqlite.insert(table)
        ignoring = insert.on_conflict_do_nothing()
        merging = insert.on_conflict_do_update(index_elements=_keys(table), set_=_overwrites(table, insert, keep))
        self._insert, self._upsert = (
            str(statement.compile(dialect=dialect, column_keys=columns)) for statement in (ignoring, merging)
        )

    def insert(self, connection: sa.Connection, rows: Sequence[Row]) -> int:
        return connection.exec_driver_sql(self._insert, list(rows)).rowcount if rows else 0

    def upsert(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        if rows:
            connection.exec_driver_sql(self._upsert, list(rows))


class _Copies:
    """COPY into a temporary table of the connection, then one statement for all rows. Once a transaction each."""

    def __init__(self, table: sa.Table, dialect: sa.Dialect, keep: Collection[str]) -> None:
        self._new = _Stage(f"fallow_{table.name}_new", table, dialect)
        self._any = _Stage(f"fallow_{table.name}_{len(keep)}", table, dialect)
        insert = self._new.insert()
        self._insert = str(insert.on_conflict_do_nothing().compile(dialect=dialect))
        insert = self._any.insert()
        merging = insert.on_conflict_do_update(index_elements=_keys(table), set_=_overwrites(table, insert, keep))
        self._upsert = str(merging.compile(dialect=dialect))

    def insert(self, connection: sa.Connection, rows: Sequence[Row]) -> int:
        return self._new.run(connection, rows, self._insert)

    def upsert(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        self._any.run(connection, rows, self._upsert)


class _Stage:
    """A temporary table with the columns of `table`, and how rows come into it."""

    def __init__(self, name: str, table: sa.Table, dialect: sa.Dialect) -> None:
        self._table = table
        self._names = [column.name for column in table.columns]
        self._types = [_COPY_TYPES[type(column.type)] for column in table.columns]
        self._stage = sa.table(name, *(sa.column(column) for column in self._names))
        columns = ", ".join(self._names)
        like = sa.select(*table.columns).compile(dialect=dialect)
        # Made once a connection and emptied by each commit: a table a transaction leaves dead rows in the catalogue.
        self._make = f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ON COMMIT DELETE ROWS AS {like} WITH NO DATA"
        self._copy = f"COPY pg_temp.{name} ({columns}) FROM STDIN (FORMAT BINARY)"

    def insert(self) -> postgresql.Insert:
        """All staged rows into the table."""
        # In the order of their keys, so that two that insert the same VMs wait for each other and do not lock up.
        staged = sa.select(self._stage).order_by(*(self._stage.c[key] for key in _keys(self._table)))
        return postgresql.insert(self._table).from_select(self._names, staged)

    def run(self, connection: sa.Connection, rows: Sequence[Row], statement: str) -> int:
        """Stages the rows and runs the statement; returns how many rows that wrote."""
        if not rows:
            return 0
        connection.exec_driver_sql(self._make)
        _driving(connection, lambda cursor: self._fill(cursor, rows))
        return connection.exec_driver_sql(statement).rowcount

    def _fill(self, cursor: Any, rows: Sequence[Row]) -> None:
        with cursor.copy(self._copy) as copy:
            copy.set_types(self._types)
            for row in rows:
                copy.write_row(row)


def _driving(connection: sa.Connection, work: Callable[[Any], None]) -> None:
    """Hands the driver's own cursor to `work`. Raises: sqlalchemy.exc.DBAPIError: as SQLAlchemy's own statements do."""
    module = connection.dialect.loaded_dbapi
    try:
        cursor: Any = connection.connection.cursor()
        with cursor:
            work(cursor)
    except module.Error as error:
        is_lost = connection.dialect.is_disconnect(error, None, None)
        if is_lost:
            connection.invalidate(error)
        raise sa.exc.DBAPIError.instance(
            "COPY", None, error, module.Error, connection_invalidated=is_lost, dialect=connection.dialect
        ) from error


def _keys(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key]


def _overwrites(
    table: sa.Table, insert: sqlite.Insert | postgresql.Insert, keep: Collection[str]
) -> dict[str, sa.ColumnElement[Any]]:
    fixed = {*_keys(table), *keep}
    rest: dict[str, Any] = {
        column.name: insert.excluded[column.name] for column in table.columns if column.name not in fixed
    }
    if table is vm_summary:
        # A time that lies ahead of now was written while our clock was wrong.
        newer = sa.or_(insert.excluded.received_s >= table.c.received_s, table.c.received_s > insert.excluded.updated_s)
        for name in OF_A_PUSH:
            if name not in fixed:
                rest[name] = sa.case((newer, insert.excluded[name]), else_=table.c[name])
    return rest
