"""A fleet moves to another database with all that its programs keep, or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.data_lock import lock_data_directory
from aggregator.fleet import schema_floor
from aggregator.fleet_db import FLEET, migrate, open_fleet, reading
from orchestrate.__main__ import main
from orchestrate.schema import ORCHESTRATE
from orchestrate.tables import audit, plan
from reports.schema import REPORT
from reports.tables import delivery
from tests.postgres import postgres_database

SCHEMAS = (FLEET, REPORT, ORCHESTRATE)
TABLES = [table for schema in SCHEMAS for table in schema.tables.sorted_tables if table is not schema_floor]


def row_of(table: sa.Table, number: int) -> dict[str, object]:
    """A value for every column, all different in two rows."""
    return {column.name: _value(column, number) for column in table.columns}


def _value(column: sa.Column[Any], number: int) -> object:
    match column.type:
        case sa.Boolean():
            return number % 2 == 0
        case sa.Double():
            return number + 0.1
        case sa.Integer():
            return number
        case sa.LargeBinary():
            return bytes([0, 255, number])
        case sa.String(length=length):
            return f"{column.name} ü' {number}"[-(length or 99) :]
    raise AssertionError(column)


def fill(engine: sa.Engine, *schemas: Any, rows: int = 2) -> None:
    """Makes the tables of some parts, and puts rows into each; of a lease there is one."""
    for schema in schemas:
        migrate(engine, schema)
    with engine.begin() as connection:
        for table in (table for schema in schemas for table in schema.tables.sorted_tables):
            if table is not schema_floor:
                many = 1 if table.name == "control_lease" else rows
                connection.execute(sa.insert(table), [row_of(table, number) for number in range(1, many + 1)])


def contents(engine: sa.Engine, tables: list[sa.Table]) -> dict[str, list[tuple[object, ...]]]:
    with reading(engine) as connection:
        rows = {each.name: connection.execute(sa.select(each).order_by(*each.primary_key.columns)) for each in tables}
        return {name: [tuple(row) for row in found] for name, found in rows.items()}


def copy(folder: Path, url: str) -> tuple[int, str, str]:
    """Exit code and what was said."""
    out, err = StringIO(), StringIO()
    code = main(["copy-fleet", "--data", str(folder), "--to", url], environ={}, out=out, err=err)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[sa.Engine]:
    made = open_fleet(None, tmp_path)
    yield made
    made.dispose()


@pytest.fixture
def url(pytestconfig: pytest.Config) -> Iterator[str]:
    with postgres_database(pytestconfig) as made:
        yield made


@pytest.mark.real
def test_every_row_of_every_table_is_there_after(source: sa.Engine, url: str, tmp_path: Path) -> None:
    """Of all three programs, to the last bit; what is numbered goes on from there, and the log stays append-only."""
    fill(source, *SCHEMAS)
    with source.begin() as connection:
        connection.execute(sa.delete(plan).where(plan.c.number == 2))
    code, out, err = copy(tmp_path, url)
    assert (code, err) == (0, "")
    assert "vm_summary: 2 rows" in out
    assert "control_lease: 1 row\n" in out
    target = open_fleet(url, tmp_path)
    assert contents(target, TABLES) == contents(source, TABLES)
    with target.begin() as connection:
        for table, number in ((plan, plan.c.number), (delivery, delivery.c.id)):
            values = {name: value for name, value in row_of(table, 9).items() if name != number.name}
            assert connection.scalar(sa.insert(table).values(values).returning(number)) == 3
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), target.begin() as connection:
        connection.execute(sa.delete(audit))
    target.dispose()


@pytest.mark.real
def test_a_database_that_holds_a_fleet_is_left_as_it_is(source: sa.Engine, url: str, tmp_path: Path) -> None:
    """Exit 2, and nothing is mixed; tables that an attempt before made and left empty are no hindrance."""
    fill(source, FLEET, rows=3)
    target = open_fleet(url, tmp_path)
    migrate(target)
    assert copy(tmp_path, url)[0] == 0
    before = contents(target, TABLES[:5])
    code, _, err = copy(tmp_path, url)
    assert code == 2
    assert "holds a fleet already" in err
    assert contents(target, TABLES[:5]) == before
    target.dispose()


@pytest.mark.real
def test_a_copy_that_fails_leaves_nothing(source: sa.Engine, url: str, tmp_path: Path) -> None:
    """What the new database cannot hold is an error; once it is mended the copy is made."""
    fill(source, FLEET, REPORT)
    with source.begin() as connection:
        connection.execute(sa.update(delivery).where(delivery.c.id == 2).values(subject="a\0b"))
    code, _, err = copy(tmp_path, url)
    assert code == 1, err
    target = open_fleet(url, tmp_path)
    assert not any(contents(target, [table for table in TABLES if table in set(FLEET.tables.sorted_tables)]).values())
    with source.begin() as connection:
        connection.execute(sa.update(delivery).values(subject=None))
    assert copy(tmp_path, url)[0] == 0
    assert len(contents(target, [delivery])["delivery"]) == 2
    target.dispose()


def test_another_file_will_do(source: sa.Engine, tmp_path: Path) -> None:
    """Parts that were never used are left out."""
    fill(source, FLEET)
    assert copy(tmp_path, f"sqlite:///{tmp_path}/other.db")[0] == 0
    target = open_fleet(f"sqlite:///{tmp_path}/other.db", tmp_path)
    tables = [table for table in FLEET.tables.sorted_tables if table is not schema_floor]
    assert contents(target, tables) == contents(source, tables)
    assert not sa.inspect(target).has_table(delivery.name)
    target.dispose()


def test_nothing_is_copied_under_an_aggregator_that_runs(source: sa.Engine, tmp_path: Path) -> None:
    """Exit 1: what it would write meanwhile would be lost."""
    fill(source, FLEET)
    lock = lock_data_directory(tmp_path)
    try:
        code, _, err = copy(tmp_path, f"sqlite:///{tmp_path}/other.db")
    finally:
        os.close(lock)
    assert (code, "stop it first" in err) == (1, True)
    assert not (tmp_path / "other.db").exists()


def test_no_fleet_is_exit_2(tmp_path: Path) -> None:
    """Neither is made."""
    code, _, err = copy(tmp_path, f"sqlite:///{tmp_path}/other.db")
    assert (code, "there is no fleet database" in err) == (2, True)
    assert not (tmp_path / "other.db").exists()
    assert not (tmp_path / "fleet.db").exists()
