"""Every part of the fleet database comes up from every schema it ever had, on both databases, and loses no row."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from agent.settings import ConfigError
from aggregator.fleet_db import FLEET, Schema, has_tables, migrate, open_fleet, reading
from aggregator.schema_steps import Steps, read_floor
from orchestrate.schema import ORCHESTRATE
from reports.schema import REPORT
from tests.postgres import postgres_database
from tests.schemas import differences, postgres_shape, sqlite_statements

Rows = Mapping[str, Sequence[Mapping[str, Any]]]

PARTS = (FLEET, REPORT, ORCHESTRATE)
SQLITE, POSTGRESQL = "sqlite", pytest.param("postgresql", marks=pytest.mark.real)
# One row each in every table; 8 characters fit every key.
_VALUES: Mapping[type[sa.types.TypeEngine[Any]], object] = {
    sa.LargeBinary: b"\x00\xff",
    sa.Boolean: True,
    sa.Integer: 1,
    sa.Float: 1.5,
    sa.String: "deadbeef",
}


def revisions(schema: Schema) -> list[str]:
    """Oldest first."""
    config = Config()
    config.set_main_option("script_location", str(schema.scripts))
    config.set_main_option("path_separator", "os")
    return [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()][::-1]


STARTS = [(schema, head) for schema in PARTS for head in revisions(schema)[:-1]]


@dataclass(frozen=True, slots=True)
class Database:
    """An empty one, and a second to hold it against."""

    engine: sa.Engine
    other: sa.Engine
    url: str | None
    folder: Path

    @property
    def is_sqlite(self) -> bool:
        return self.url is None

    def shapes(self) -> Iterator[set[Any]]:
        """What the tables of both are."""
        for number, engine in enumerate((self.engine, self.other)):
            if self.is_sqlite:
                yield set(sqlite_statements(self.folder / str(number) / "fleet.db"))
            else:
                with engine.connect() as connection:
                    yield set(postgres_shape(connection))


@pytest.fixture(params=[SQLITE, POSTGRESQL])
def database(request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Database]:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    if request.param == "sqlite":
        with _opened(None, tmp_path / "0") as engine, _opened(None, tmp_path / "1") as other:
            yield Database(engine, other, None, tmp_path)
        return
    with (
        postgres_database(pytestconfig) as url,
        postgres_database(pytestconfig) as other_url,
        _opened(url, tmp_path) as engine,
        _opened(other_url, tmp_path) as other,
    ):
        yield Database(engine, other, url, tmp_path)


@contextmanager
def _opened(url: str | None, folder: Path) -> Iterator[sa.Engine]:
    engine = open_fleet(url, folder)
    try:
        yield engine
    finally:
        engine.dispose()


def fill(engine: sa.Engine) -> Rows:
    """Puts a row into every table and gives the rows by table."""
    found = sa.MetaData()
    with engine.begin() as connection:
        found.reflect(connection)
        # Those that the steps themselves write say something else afterwards.
        tables = [table for table in found.sorted_tables if not table.name.startswith(("alembic", "schema_floor"))]
        for table in tables:
            connection.execute(sa.insert(table).values({column.name: _value(column) for column in table.columns}))
    return rows(engine, [table.name for table in tables])


def _value(column: sa.Column[Any]) -> object:
    return next(value for kind, value in _VALUES.items() if isinstance(column.type, kind))


def rows(engine: sa.Engine, names: Sequence[str]) -> Rows:
    with engine.connect() as connection:
        return {
            name: [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}").mappings()]
            for name in names
        }


def kept(before: Rows, after: Rows) -> Rows:
    """Of the rows after, what there was before: no more columns, no less."""
    return {
        name: [{column: row[column] for column in old} for old, row in zip(before[name], after[name], strict=True)]
        for name in before
    }


@pytest.mark.parametrize(("part", "head"), STARTS, ids=lambda value: getattr(value, "head", value))
def test_every_older_schema_comes_up_with_its_rows(database: Database, part: Schema, head: str) -> None:
    """The tables are those of the code then, and what was in them is there; a second time changes nothing."""
    for schema in PARTS[: PARTS.index(part)]:
        migrate(database.engine, schema)
    migrate(database.engine, replace(part, head=head))
    before = fill(database.engine)
    for schema in PARTS:
        migrate(database.engine, schema)
        schema.tables.create_all(database.other)
    assert kept(before, after := rows(database.engine, list(before))) == before
    migrated, created = database.shapes()
    assert migrated == created
    migrate(database.engine, part)
    assert rows(database.engine, list(before)) == after


def test_parts_of_a_new_database_note_how_old_a_program_may_be(database: Database) -> None:
    """From nothing to the tables of the code; each part has a floor of its own, which its head keeps."""
    for schema in PARTS:
        migrate(database.engine, schema)
        schema.tables.create_all(database.other)
    migrated, created = database.shapes()
    assert migrated == created
    with database.engine.connect() as connection:
        everything = sa.MetaData()
        for schema in PARTS:
            assert read_floor(connection, schema.part) == Steps(schema.scripts, schema.head).floor <= schema.head
            for table in schema.tables.sorted_tables:
                table.to_metadata(everything)
        assert differences(connection, everything) == []


@pytest.mark.parametrize("part", PARTS, ids=["aggregator", "report", "orchestrate"])
def test_processes_that_upgrade_at_once_do_it_once(database: Database, part: Schema) -> None:
    """Whoever comes second waits for the first and finds nothing to do; none fails, no row is lost."""
    oldest = revisions(part)[0]
    for schema in PARTS[: PARTS.index(part)]:
        migrate(database.engine, schema)
    migrate(database.engine, replace(part, head=oldest))
    before = fill(database.engine)
    program = (
        "import pathlib, sys\nimport alembic.command\n"
        "from aggregator.fleet_db import FLEET, migrate, open_fleet\n"
        "from orchestrate.schema import ORCHESTRATE\nfrom reports.schema import REPORT\n"
        f"schema = (FLEET, REPORT, ORCHESTRATE)[{PARTS.index(part)}]\n"
        f"engine = open_fleet({database.url!r}, pathlib.Path({str(database.folder / '0')!r}))\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nmigrate(engine, schema)\nengine.dispose()\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 2
    assert kept(before, rows(database.engine, list(before))) == before
    migrate(database.engine, part)


@pytest.mark.parametrize("part", [REPORT, ORCHESTRATE], ids=["report", "orchestrate"])
def test_each_part_has_a_floor_of_its_own(database: Database, part: Schema, tmp_path: Path) -> None:
    """Programs of two versions of one part side by side: the older goes on where the step says so, and not after one
    that says nothing; the floors of the others stay."""
    for schema in PARTS:
        migrate(database.engine, schema)
    steps = tmp_path / "later"
    shutil.copytree(part.scripts, steps, ignore=shutil.ignore_patterns("__pycache__"))
    before = part.head
    for head, floor in (("9998", f"floor = {part.head!r}\n"), ("9999", "")):
        (steps / "versions" / f"{head}_more.py").write_text(
            f"import sqlalchemy as sa\nfrom alembic import op\nrevision = {head!r}\ndown_revision = {before!r}\n{floor}"
            f"def upgrade():\n    op.create_table('more_{head}', sa.Column('id', sa.Text(), primary_key=True))\n",
            encoding="utf-8",
        )
        before = head
    migrate(database.engine, replace(part, scripts=steps, head="9998"))
    migrate(database.engine, part)
    with reading(database.engine) as connection:
        assert all(has_tables(connection, schema) for schema in PARTS)
        for schema in PARTS:
            floor = part.head if schema is part else Steps(schema.scripts, schema.head).floor
            assert read_floor(connection, schema.part) == floor
    migrate(database.engine, replace(part, scripts=steps, head="9999"))
    with pytest.raises(ConfigError, match=f"has {part.part} schema 9999, newer than the {part.head} of this program"):
        migrate(database.engine, part)
    migrate(database.engine)


@pytest.mark.real
def test_rows_that_are_overwritten_all_day_cost_postgresql_little(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """An older database that comes up is set as a new one: room on the pages of summaries, histograms packed fast."""
    for head in (FLEET.head, revisions(FLEET)[0]):
        with postgres_database(pytestconfig) as url, _opened(url, tmp_path) as engine:
            migrate(engine, replace(FLEET, head=head))
            migrate(engine)
            with engine.connect() as connection:
                options = connection.exec_driver_sql(
                    "SELECT relname, reloptions::text FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'"
                )
                assert sorted(map(tuple, options)) == [
                    ("vm_summary", "{fillfactor=85}"),
                    ("vm_window", "{fillfactor=85}"),
                ]
                packed = "SELECT attcompression::text FROM pg_attribute WHERE attrelid = 'vm_evidence'::regclass"
                assert connection.exec_driver_sql(f"{packed} AND attname = 'body'").scalar() in {"l", ""}
