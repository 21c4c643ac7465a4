"""The report's tables come into a fleet database of the aggregator, and into no other."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from agent.settings import ConfigError
from aggregator import fleet_db
from aggregator.fleet_db import FLEET, Schema, migrate, open_fleet, open_fleet_read_only, reading
from reports import schema
from reports.schema import REPORT, has_report_tables, open_report_db
from reports.tables import exemption, metadata
from tests.postgres import postgres_database


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory whose fleet database only an aggregator has seen."""
    made = open_fleet(None, tmp_path)
    migrate(made)
    made.dispose()
    return tmp_path


@pytest.fixture
def later(tmp_path: Path) -> Schema:
    """The report's schema in a later version of the program: one more step."""
    scripts = tmp_path / "later"
    shutil.copytree(REPORT.scripts, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / "9999_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = '9999'\ndown_revision = '{REPORT.head}'\n"
        "def upgrade():\n    op.add_column('exemption', sa.Column('more', sa.Text()))\n",
        encoding="utf-8",
    )
    return replace(REPORT, scripts=scripts, head="9999")


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def has_tables(data_dir: Path) -> bool:
    reader = open_fleet_read_only(None, data_dir)
    try:
        with reading(reader) as connection:
            return has_report_tables(connection)
    finally:
        reader.dispose()


def stamps(data_dir: Path) -> Iterator[tuple[str, str]]:
    """What each history notes in the database."""
    connection = sqlite3.connect(data_dir / "fleet.db")
    for schema_ in (FLEET, REPORT):
        yield schema_.version_table, connection.execute(f"SELECT * FROM {schema_.version_table}").fetchone()[0]
    connection.close()


def test_the_tables_come_at_the_first_opening(data_dir: Path) -> None:
    """Before it a reader finds none, after it all; each history notes its own revision; no copy is made."""
    assert not has_tables(data_dir)
    engine = open_report_db(None, data_dir)
    assert tables(engine) >= set(metadata.tables)
    engine.dispose()
    assert has_tables(data_dir)
    assert dict(stamps(data_dir)) == {FLEET.version_table: FLEET.head, REPORT.version_table: REPORT.head}
    assert list(data_dir.glob("*.bak")) == []


def test_opening_again_leaves_rows_alone(data_dir: Path) -> None:
    """What was written is there at the next opening."""
    values = {"kind": "tag", "subject": "x", "reason": "y", "owner": "z", "created_s": 1.0, "until_s": 2.0}
    for number in range(2):
        engine = open_report_db(None, data_dir)
        with engine.begin() as connection:
            connection.execute(sa.insert(exemption).values(id=str(number), **values))
        engine.dispose()
    engine = open_report_db(None, data_dir)
    with reading(engine) as connection:
        assert connection.scalars(sa.select(exemption.c.id)).all() == ["0", "1"]
    engine.dispose()


def test_the_aggregator_goes_on_beside_it(data_dir: Path) -> None:
    """The aggregator's own migration and check take no notice of the report's tables."""
    open_report_db(None, data_dir).dispose()
    engine = open_fleet(None, data_dir)
    migrate(engine)
    fleet_db.check_revision(engine)
    engine.dispose()


def test_head_is_the_newest_step() -> None:
    """REPORT.head, which spares readers Alembic, is the head of the one line of steps."""
    config = Config()
    config.set_main_option("script_location", str(REPORT.scripts))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [REPORT.head]


def test_newer_tables_are_refused(data_dir: Path, later: Schema) -> None:
    """Neither writer nor reader touches tables of a later version, and both say whose they are."""
    engine = open_report_db(None, data_dir)
    migrate(engine, later)
    engine.dispose()
    message = rf"fleet\.db: has report schema 9999, newer than the {REPORT.head} of this program"
    with pytest.raises(ConfigError, match=message):
        open_report_db(None, data_dir)
    with pytest.raises(ConfigError, match=message):
        has_tables(data_dir)


def test_older_tables_are_brought_up_by_a_writer_alone(
    data_dir: Path, later: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader says what brings them up; the upgrade leaves a copy whose name is not the aggregator's."""
    open_report_db(None, data_dir).dispose()
    monkeypatch.setattr(schema, "REPORT", later)
    with pytest.raises(ConfigError, match=r"fleet\.db: has report schema .*: a command of its fallow-report"):
        has_tables(data_dir)
    open_report_db(None, data_dir).dispose()
    assert has_tables(data_dir)
    assert [copy.name for copy in data_dir.glob("*.bak")] == [f"fleet.db.report-{REPORT.head}.bak"]


def test_a_database_that_is_absent_is_not_made(tmp_path: Path) -> None:
    """A typing mistake starts no empty fleet: the error names the file, and the folder stays empty."""
    with pytest.raises(ConfigError, match=r"fleet\.db: there is no fleet database"):
        open_report_db(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_a_fleet_is_left_alone(tmp_path: Path) -> None:
    """Without the aggregator's tables the report's are not made."""
    (tmp_path / "fleet.db").touch()
    with pytest.raises(ConfigError, match="holds no fleet"):
        open_report_db(None, tmp_path)
    engine = open_fleet(None, tmp_path)
    assert tables(engine) == set()
    engine.dispose()


def test_a_fleet_of_another_version_is_left_alone(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report does not migrate the aggregator's tables, and makes none beside older ones."""
    monkeypatch.setattr(fleet_db, "FLEET", replace(FLEET, head="9999"))
    with pytest.raises(ConfigError, match="start its fallow-aggregator run once"):
        open_report_db(None, data_dir)
    engine = open_fleet(None, data_dir)
    assert not tables(engine) & set(metadata.tables)
    engine.dispose()


def test_tables_of_another_program_are_refused(data_dir: Path) -> None:
    """A table `verdict` that no migration of ours made is left alone."""
    connection = sqlite3.connect(data_dir / "fleet.db")
    connection.execute("CREATE TABLE verdict (id)")
    connection.close()
    with pytest.raises(ConfigError, match="has tables verdict but no alembic_version_report"):
        open_report_db(None, data_dir)


@pytest.mark.real
def test_postgresql_is_opened_the_same_way(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """On a server: refused without a fleet, made beside one, opened again, seen by a reader that cannot write."""
    with postgres_database(pytestconfig) as url:
        with pytest.raises(ConfigError, match="holds no fleet"):
            open_report_db(url, tmp_path)
        engine = open_fleet(url, tmp_path)
        migrate(engine)
        engine.dispose()
        for is_there in (False, True):
            reader = open_fleet_read_only(url, tmp_path)
            with reading(reader) as connection:
                assert has_report_tables(connection) is is_there
            reader.dispose()
            open_report_db(url, tmp_path).dispose()
