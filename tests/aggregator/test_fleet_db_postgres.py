"""The fleet database on a real PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet import metadata, vm
from aggregator.fleet_db import check_revision, migrate, open_fleet, open_fleet_read_only, reading
from tests.postgres import postgres_database
from tests.schemas import differences, postgres_shape

pytestmark = pytest.mark.real


@pytest.fixture
def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
    with postgres_database(pytestconfig) as url:
        yield url


@contextmanager
def opened(url: str, data_dir: Path) -> Iterator[sa.Engine]:
    engine = open_fleet(url, data_dir)
    try:
        yield engine
    finally:
        engine.dispose()


def test_migrations_lead_to_the_tables_of_the_code(
    postgres_url: str, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """A migrated database has no difference to `fleet.metadata`, as Alembic and as the catalogue see it."""
    with opened(postgres_url, tmp_path) as engine, postgres_database(pytestconfig) as other_url:
        migrate(engine)
        with engine.connect() as connection:
            assert differences(connection, metadata) == []
            migrated = postgres_shape(connection)
        with opened(other_url, tmp_path) as other:
            metadata.create_all(other)
            with other.connect() as connection:
                assert postgres_shape(connection) == migrated
    assert {row[1] for row in migrated} == set(metadata.tables)


def test_processes_that_migrate_at_once_make_the_tables_once(postgres_url: str, tmp_path: Path) -> None:
    """Whoever comes second waits for the first and finds nothing to do; none fails."""
    program = (
        "import pathlib, sys\nimport alembic.command\n"
        "from aggregator.fleet_db import migrate, open_fleet\n"
        f"engine = open_fleet({postgres_url!r}, pathlib.Path('/'))\n"
        "print('ready', flush=True)\nsys.stdin.readline()\nmigrate(engine)\nengine.dispose()\n"
    )
    command = [sys.executable, "-c", program]
    starting = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in starting:
        assert process.stdout is not None
        process.stdout.readline()
    for process in starting:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [(process.communicate()[1], process.returncode) for process in starting] == [("", 0)] * 3
    with opened(postgres_url, tmp_path) as engine:
        check_revision(engine)


def test_a_reader_cannot_write(postgres_url: str, tmp_path: Path) -> None:
    """The read-only engine reads rows and refuses to write one."""
    with opened(postgres_url, tmp_path) as engine:
        migrate(engine)
        with engine.begin() as connection:
            connection.execute(sa.insert(vm).values(vm_id="a"))
    reader = open_fleet_read_only(postgres_url, tmp_path)
    try:
        with reading(reader) as connection:
            assert connection.scalars(sa.select(vm.c.vm_id)).all() == ["a"]
        with pytest.raises(sa.exc.InternalError, match="read-only"), reader.begin() as connection:
            connection.execute(sa.insert(vm).values(vm_id="b"))
    finally:
        reader.dispose()


def test_an_empty_database_holds_no_fleet(postgres_url: str, tmp_path: Path) -> None:
    """A reader refuses a database without tables, and its message holds no password."""
    with pytest.raises(ConfigError, match="holds no fleet") as caught:
        open_fleet_read_only(postgres_url, tmp_path)
    password = sa.make_url(postgres_url).password
    assert password
    assert password not in str(caught.value)
