"""The controller's tables come into a fleet database of the aggregator, beside the report's, and into no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from agent.settings import ConfigError
from aggregator import fleet
from aggregator.fleet_db import has_tables, migrate, open_fleet, reading
from orchestrate.schema import ORCHESTRATE, open_orchestrate_db
from orchestrate.tables import metadata
from reports import tables as report_tables
from reports.schema import REPORT, open_report_db
from tests.orchestrate.databases import a_fleet
from tests.postgres import postgres_database
from tests.schemas import differences, postgres_shape, sqlite_statements

OTHERS = {**fleet.metadata.tables, **report_tables.metadata.tables}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory whose fleet database only an aggregator has seen."""
    a_fleet(None, tmp_path)
    return tmp_path


@pytest.fixture
def engine(data_dir: Path) -> Iterator[sa.Engine]:
    """Its database with the controller's tables."""
    made = open_orchestrate_db(None, data_dir)
    yield made
    made.dispose()


def created(url: str | None, folder: Path) -> sa.Engine:
    """A database whose tables were made by the code itself."""
    made = open_fleet(url, folder)
    fleet.metadata.create_all(made)
    metadata.create_all(made)
    return made


def test_migrations_lead_to_the_tables_of_the_code(engine: sa.Engine, data_dir: Path, tmp_path: Path) -> None:
    """A migrated database has no difference to `tables.metadata`, triggers included."""
    with engine.connect() as connection:
        assert differences(connection, metadata, ignored=OTHERS) == []
    (tmp_path / "made").mkdir()
    created(None, tmp_path / "made").dispose()
    statements = sqlite_statements(data_dir / "fleet.db")
    assert statements == sqlite_statements(tmp_path / "made" / "fleet.db")
    assert sum(statement.startswith("CREATE TRIGGER control_audit") for statement in statements) == 3


_TRIGGERS = "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY tgname"


@pytest.mark.real
def test_migrations_lead_to_the_tables_of_the_code_on_postgresql(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The same on a server: types, comments, keys, indexes and triggers are those of `tables.metadata`."""
    with postgres_database(pytestconfig) as url, postgres_database(pytestconfig) as other_url:
        a_fleet(url, tmp_path)
        migrated, made = open_orchestrate_db(url, tmp_path), created(other_url, tmp_path)
        with migrated.connect() as one, made.connect() as other:
            assert differences(one, metadata, ignored=OTHERS) == []
            assert postgres_shape(one) == postgres_shape(other)
            triggers = one.exec_driver_sql(_TRIGGERS).all()
            assert triggers == other.exec_driver_sql(_TRIGGERS).all()
        assert [name for name, _ in triggers] == ["control_audit_no_change", "control_audit_no_truncate"]
        migrated.dispose()
        made.dispose()
        # Opening again finds nothing to do.
        open_orchestrate_db(url, tmp_path).dispose()


def test_no_name_is_taken_twice() -> None:
    """The three histories share a database: no table of one is a table of another."""
    assert set(metadata.tables) & set(OTHERS) == set()
    assert ORCHESTRATE.version_table != REPORT.version_table


def test_three_programs_share_a_database(data_dir: Path) -> None:
    """In any order of coming, and a reader sees whether the controller has been there."""
    engine = open_report_db(None, data_dir)
    with reading(engine) as connection:
        assert not has_tables(connection, ORCHESTRATE)
    engine.dispose()
    open_orchestrate_db(None, data_dir).dispose()
    engine = open_report_db(None, data_dir)
    migrate(engine)
    with reading(engine) as connection:
        assert has_tables(connection, ORCHESTRATE)
    engine.dispose()
    assert list(data_dir.glob("*.bak")) == []


def test_head_is_the_newest_step() -> None:
    """ORCHESTRATE.head, which spares readers Alembic, is the head of the one line of steps."""
    config = Config()
    config.set_main_option("script_location", str(ORCHESTRATE.scripts))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [ORCHESTRATE.head]


def test_a_database_without_a_fleet_is_left_alone(tmp_path: Path) -> None:
    """A typing mistake starts no empty fleet, and a file without the aggregator's tables gets none of ours."""
    with pytest.raises(ConfigError, match=r"fleet\.db: there is no fleet database"):
        open_orchestrate_db(None, tmp_path)
    (tmp_path / "fleet.db").touch()
    with pytest.raises(ConfigError, match="holds no fleet"):
        open_orchestrate_db(None, tmp_path)


def test_open_actions_are_found_by_their_index(engine: sa.Engine) -> None:
    """They are asked for before every step: the database looks at them alone, whatever was done before."""
    statement = "SELECT * FROM control_action WHERE outcome IS NULL OR outcome = 'unknown' ORDER BY action_id"
    with engine.connect() as connection:
        plan = " ".join(row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}"))
    assert "control_action_unsettled" in plan
