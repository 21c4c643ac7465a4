"""What a database's tables are, so that a migrated one can be held against the tables of the code."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

_POSTGRES_SHAPE = """
SELECT 'column', c.relname, a.attnum::text, a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
       || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
       || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
       || coalesce(' COMMENT ' || col_description(c.oid, a.attnum), '')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""


def sqlite_statements(path: Path) -> set[str]:
    """Every CREATE of a SQLite file but Alembic's own, spaces evened out."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name NOT LIKE 'alembic%'"
        )
        return {" ".join(sql.split()) for (sql,) in rows}


def postgres_shape(connection: sa.Connection) -> set[tuple[Any, ...]]:
    """Columns with types, defaults and comments, indexes and constraints of every table but Alembic's own."""
    rows = connection.exec_driver_sql(_POSTGRES_SHAPE).all()
    return {tuple(row) for row in rows if not row[1].startswith("alembic")}


def differences(connection: sa.Connection, metadata: sa.MetaData, *, ignored: Iterable[str] = ()) -> list[Any]:
    """What Alembic would change to make the database's tables those of `metadata`, tables in `ignored` aside."""
    others = set(ignored)

    def is_compared(_object: object, name: str | None, kind: str, *_: object) -> bool:
        return kind != "table" or not (name in others or str(name).startswith("alembic"))

    context = MigrationContext.configure(
        connection,
        opts={
            "compare_server_default": True,
            "compare_type": True,
            "include_object": is_compared,
        },
    )
    return list(compare_metadata(context, metadata))
