"""The report's own tables: made as the code has them, and fit for what they are asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator import fleet
from aggregator.fleet_db import migrate, open_fleet
from reports.schema import REPORT, open_report_db
from reports.tables import delivery, metadata, reclaim_event, verdict
from tests.postgres import postgres_database
from tests.schemas import differences, postgres_shape, sqlite_statements


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """The fleet database in a file, with the report's tables."""
    made = open_fleet(None, tmp_path)
    migrate(made)
    migrate(made, REPORT)
    yield made
    made.dispose()


def test_migrations_lead_to_the_tables_of_the_code(engine: sa.Engine, tmp_path: Path) -> None:
    """A migrated database has no difference to `tables.metadata`, as Alembic and as SQLite itself see it."""
    with engine.connect() as connection:
        assert differences(connection, metadata, ignored=fleet.metadata.tables) == []
    (tmp_path / "made").mkdir()
    created = open_fleet(None, tmp_path / "made")
    fleet.metadata.create_all(created)
    metadata.create_all(created)
    created.dispose()
    assert sqlite_statements(tmp_path / "fleet.db") == sqlite_statements(tmp_path / "made" / "fleet.db")


@pytest.mark.real
def test_migrations_lead_to_the_tables_of_the_code_on_postgresql(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The same on a server: types, defaults, comments, keys and indexes are those of `tables.metadata`."""
    with postgres_database(pytestconfig) as url, postgres_database(pytestconfig) as other_url:
        migrated = open_fleet(url, tmp_path)
        migrate(migrated)
        migrated.dispose()
        migrated = open_report_db(url, tmp_path)
        created = open_fleet(other_url, tmp_path)
        fleet.metadata.create_all(created)
        metadata.create_all(created)
        with migrated.connect() as one, created.connect() as other:
            assert differences(one, metadata, ignored=fleet.metadata.tables) == []
            shape = postgres_shape(one)
            assert shape == postgres_shape(other)
        migrated.dispose()
        created.dispose()
    assert any("score DESC" in row[-1] for row in shape)


def test_no_name_is_taken_twice() -> None:
    """The two histories share a database: no table of one is a table of the other."""
    assert set(metadata.tables) & set(fleet.metadata.tables) == set()


def test_a_page_of_a_ranking_is_read_in_order(engine: sa.Engine) -> None:
    """The best of one verdict come from the index as they are: nothing is sorted, whatever the fleet's size."""
    page = (
        sa.select(verdict.c.vm_id)
        .where(verdict.c.scope == "s", verdict.c.verdict == "idle")
        .order_by(verdict.c.score.desc(), verdict.c.vm_id)
        .limit(20)
    )
    statement = str(page.compile(engine, compile_kwargs={"literal_binds": True}))
    with engine.connect() as connection:
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")]
    assert len(plan) == 1
    assert "verdict_rank" in plan[0]


def test_a_report_goes_out_once(engine: sa.Engine) -> None:
    """A second delivery of one name for one time it is due is refused by the database; another name's is not."""
    values = {"kind": "mail", "target": "ann", "due_s": 1.0, "attempt": 0, "state": "pending", "report_key": "k"}
    with engine.begin() as connection:
        connection.execute(sa.insert(delivery).values(name="a", **values))
        connection.execute(sa.insert(delivery).values(name="b", **values))
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.insert(delivery).values(name="a", **values))


def test_numbers_are_given_once(engine: sa.Engine) -> None:
    """The number of an event that was deleted is not given to another."""
    added = sa.insert(reclaim_event).values(at_s=1.0, vm_id="a", kind="kept", by="ann")
    with engine.begin() as connection:
        first = connection.execute(added).inserted_primary_key
        connection.execute(sa.delete(reclaim_event))
        assert connection.execute(added).inserted_primary_key != first
