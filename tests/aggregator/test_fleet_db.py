"""The fleet database opens as it must, and its migrations make the tables that the code uses."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

import aggregator
from agent.settings import ConfigError
from aggregator import fleet_db
from aggregator.catalogue import Catalogue
from aggregator.enrolment import Enrolment
from aggregator.fleet import metadata, vm
from aggregator.fleet_db import (
    FLEET,
    SCHEMA_REVISION,
    Schema,
    check_revision,
    migrate,
    open_fleet,
    open_fleet_read_only,
    reading,
)
from aggregator.problems import Refused
from tests.schemas import differences, sqlite_statements

SCRIPTS = Path(aggregator.__file__).parent / "migrations"
NEXT = f"{int(SCHEMA_REVISION) + 1:04}"


@contextmanager
def fleet(data_dir: Path) -> Iterator[sa.Engine]:
    engine = open_fleet(None, data_dir)
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def later(tmp_path: Path) -> Schema:
    """The migrations of a later version of the program: one more step."""
    scripts = tmp_path / "later"
    shutil.copytree(SCRIPTS, scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "versions" / f"{NEXT}_more.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision = {NEXT!r}\ndown_revision = {SCHEMA_REVISION!r}\n"
        "def upgrade():\n    op.add_column('vm', sa.Column('more', sa.Text()))\n",
        encoding="utf-8",
    )
    return replace(FLEET, scripts=scripts, head=NEXT)


def test_migrations_lead_to_the_tables_of_the_code(tmp_path: Path) -> None:
    """A migrated database has no difference to `fleet.metadata`, as Alembic and as SQLite itself see it."""
    (tmp_path / "made").mkdir()
    with fleet(tmp_path) as engine, engine.connect() as connection:
        assert differences(connection, metadata) == []
    created = open_fleet(None, tmp_path / "made")
    metadata.create_all(created)
    created.dispose()
    assert sqlite_statements(tmp_path / "fleet.db") == sqlite_statements(tmp_path / "made" / "fleet.db")


def test_join_tokens_of_an_older_database_stay_usable(tmp_path: Path) -> None:
    """A database of the first schema is brought up: its join tokens let VMs in, can be listed and revoked."""
    first = replace(FLEET, head="0001")
    engine = open_fleet(None, tmp_path)
    migrate(engine, first)
    token = "join-of-before"
    digest = hashlib.sha256(token.encode()).hexdigest()
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO join_token (secret_sha256, created_s, expires_s, uses_left, labels) VALUES (?, ?, ?, ?, ?)",
            (digest, 1.0, 1e10, 2, '{"owner": "web"}'),
        )
        connection.execute(sa.insert(vm).values(vm_id="kept"))
    migrate(engine)
    catalogue = Catalogue(engine)
    assert catalogue.enroll(Enrolment(join_token=token, vm="a"), now_s=5.0) == 1
    record = catalogue.vm("a")
    assert record is not None
    assert (record.owner, catalogue.vm("kept") is not None) == ("web", True)
    (known,) = catalogue.join_tokens()
    assert (known.id, known.uses, known.uses_left, known.bound) == (digest[:8], 2, 1, None)
    assert catalogue.revoke_join_token(known.id, now_s=6.0)
    with pytest.raises(Refused, match="was revoked"):
        catalogue.enroll(Enrolment(join_token=token, vm="b"), now_s=7.0)
    engine.dispose()
    assert (tmp_path / "fleet.db.0001.bak").exists()


def test_head_is_the_newest_step() -> None:
    """SCHEMA_REVISION, which spares readers Alembic, is the head of the one line of steps."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA_REVISION]


@pytest.mark.real
def test_alembic_is_imported_only_for_an_upgrade(tmp_path: Path) -> None:
    """A start on an up-to-date database, and the report, do without Alembic."""
    with fleet(tmp_path):
        pass
    program = (
        "import sys, pathlib\n"
        "from aggregator.fleet_db import migrate, open_fleet, open_fleet_read_only\n"
        f"data = pathlib.Path({str(tmp_path)!r})\n"
        "engine = open_fleet(None, data)\nmigrate(engine)\nengine.dispose()\n"
        "open_fleet_read_only(None, data).dispose()\n"
        "print('alembic' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_connections_are_durable_and_patient(tmp_path: Path) -> None:
    """WAL, synchronous=FULL and a busy timeout of 10 s hold on every connection of the pool."""
    with fleet(tmp_path) as engine, engine.connect() as first, engine.connect() as second:
        # Only one of them may hold the write lock.
        for connection in (first, second):
            values = [
                connection.execution_options(fallow_reads=True).exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "busy_timeout")
            ]
            assert values == ["wal", 2, 10_000]


def test_two_writers_wait_for_each_other(tmp_path: Path) -> None:
    """A transaction that reads before it writes never fails because another wrote meanwhile."""
    with fleet(tmp_path) as engine:
        with engine.begin() as connection:
            connection.execute(sa.insert(vm).values(vm_id="a"))
        failures: list[BaseException] = []

        def count() -> None:
            try:
                for _ in range(25):
                    with engine.begin() as connection:
                        known = connection.scalar(sa.select(vm.c.generation)) or 0
                        connection.execute(sa.update(vm).values(generation=known + 1))
            except sa.exc.SQLAlchemyError as error:
                failures.append(error)

        threads = [threading.Thread(target=count) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        with reading(engine) as connection:
            assert connection.scalar(sa.select(vm.c.generation)) == 75


def test_a_reader_waits_for_no_writer(tmp_path: Path) -> None:
    """`reading` sees the last commit while another transaction writes."""
    with fleet(tmp_path) as engine, engine.begin() as writer:
        writer.execute(sa.insert(vm).values(vm_id="a"))
        with reading(engine) as connection:
            assert connection.scalars(sa.select(vm.c.vm_id)).all() == []


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    """The second migration leaves rows alone and makes no copy."""
    with fleet(tmp_path) as engine:
        with engine.begin() as connection:
            connection.execute(sa.insert(vm).values(vm_id="a"))
        migrate(engine)
        with reading(engine) as connection:
            assert connection.scalars(sa.select(vm.c.vm_id)).all() == ["a"]
    assert list(tmp_path.glob("*.bak")) == []


def test_an_upgrade_leaves_a_copy_of_what_was(tmp_path: Path, later: Schema) -> None:
    """Before an existing database changes, a private, readable copy of it is beside it; rows stay in both."""
    with fleet(tmp_path) as engine:
        with engine.begin() as connection:
            connection.execute(sa.insert(vm).values(vm_id="a"))
        migrate(engine, later)
        with reading(engine) as connection:
            assert connection.exec_driver_sql("SELECT vm_id, more FROM vm").all() == [("a", None)]
    copy = tmp_path / f"fleet.db.{SCHEMA_REVISION}.bak"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with sqlite3.connect(copy) as connection_before:
        assert connection_before.execute("SELECT vm_id FROM vm").fetchall() == [("a",)]
        assert connection_before.execute("SELECT version_num FROM alembic_version").fetchall() == [(SCHEMA_REVISION,)]
    connection_before.close()


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path, later: Schema) -> None:
    """A step that breaks off halfway leaves the schema and the revision of before."""
    step = later.scripts / "versions" / f"{NEXT}_more.py"
    step.write_text(step.read_text() + "    raise RuntimeError('halfway')\n", encoding="utf-8")
    with fleet(tmp_path) as engine:
        before = sqlite_statements(tmp_path / "fleet.db")
        with pytest.raises(RuntimeError, match="halfway"):
            migrate(engine, later)
        check_revision(engine)
    assert sqlite_statements(tmp_path / "fleet.db") == before


def test_a_newer_database_is_refused(tmp_path: Path, later: Schema) -> None:
    """Neither the daemon nor the report touches a database of a later version, and both say so."""
    with fleet(tmp_path) as engine:
        migrate(engine, later)
        with pytest.raises(ConfigError, match=rf"fleet\.db: has schema {NEXT}, newer than the {SCHEMA_REVISION}"):
            migrate(engine)
    with pytest.raises(ConfigError, match="newer"):
        open_fleet_read_only(None, tmp_path)


def test_an_older_database_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report refuses a database that waits for its upgrade, and names what brings it."""
    with fleet(tmp_path):
        pass
    monkeypatch.setattr(fleet_db, "FLEET", replace(FLEET, head=NEXT))
    with pytest.raises(ConfigError, match="start its fallow-aggregator run once"):
        open_fleet_read_only(None, tmp_path)


def test_tables_of_another_program_are_refused(tmp_path: Path) -> None:
    """A database with a table `vm` that no migration of ours made is left alone."""
    with sqlite3.connect(tmp_path / "fleet.db") as connection:
        connection.execute("CREATE TABLE vm (id)")
    connection.close()
    engine = open_fleet(None, tmp_path)
    with pytest.raises(ConfigError, match="not made by this program"):
        migrate(engine)
    engine.dispose()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Garbage in place of the database is a ConfigError with the file's name, for writer and reader."""
    (tmp_path / "fleet.db").write_bytes(b"no database at all" * 100)
    engine = open_fleet(None, tmp_path)
    with pytest.raises(ConfigError, match=r"fleet\.db: file is not a database"):
        migrate(engine)
    engine.dispose()
    with pytest.raises(ConfigError, match=r"fleet\.db: file is not a database"):
        open_fleet_read_only(None, tmp_path)


def test_a_database_that_is_absent_is_not_made_by_a_reader(tmp_path: Path) -> None:
    """Reading where nothing is raises ConfigError and leaves the folder empty."""
    with pytest.raises(ConfigError, match="there is no fleet database"):
        open_fleet_read_only(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_holds_no_fleet(tmp_path: Path) -> None:
    """A file without tables is refused by a reader."""
    (tmp_path / "fleet.db").touch()
    with pytest.raises(ConfigError, match="holds no fleet"):
        open_fleet_read_only(None, tmp_path)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """The read-only engine refuses to write, also where the path needs quoting in a URL."""
    data_dir = tmp_path / "odd %20 ?#name"
    data_dir.mkdir()
    with fleet(data_dir):
        pass
    engine = open_fleet_read_only(None, data_dir)
    with pytest.raises(sa.exc.OperationalError, match="readonly"), engine.begin() as connection:
        connection.execute(sa.insert(vm).values(vm_id="a"))
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql+pg8000://u:secret@h/fallow", "is not supported"),
        ("mysql://h/fallow", "'mysql' is not supported"),
        ("nonsense", "is not a URL"),
        ("sqlite://", "needs the path of a file"),
        ("sqlite:///:memory:", "needs the path of a file"),
        ("sqlite:///x.db?mode=ro", "nothing after it"),
    ],
)
def test_databases_that_cannot_be_used_are_refused(tmp_path: Path, url: str, message: str) -> None:
    """A database that this program cannot work with is a ConfigError, without its password."""
    with pytest.raises(ConfigError, match=message) as caught:
        open_fleet(url, tmp_path)
    assert "secret" not in str(caught.value)


def test_a_data_directory_that_is_absent_is_named(tmp_path: Path) -> None:
    """The folder is never made here: a typing mistake must not start an empty fleet."""
    with pytest.raises(ConfigError, match="nowhere: is not a directory"):
        open_fleet(None, tmp_path / "nowhere")


@pytest.mark.parametrize(("query", "wanted_s"), [("", 5), ("?connect_timeout=30", "30")])
def test_silent_postgresql_is_given_up(tmp_path: Path, query: str, wanted_s: object) -> None:
    """A server that takes no connection costs seconds, unless the URL says otherwise; so does a pool in use."""
    engine = open_fleet(f"postgresql+psycopg://127.0.0.1:9/fallow{query}", tmp_path)
    given: list[Any] = []

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, _args: object, parameters: dict[str, object]) -> None:
        given.append(parameters["connect_timeout"])
        raise ConnectionError

    with pytest.raises(ConnectionError):
        engine.connect()
    assert given == [wanted_s]
    pool: Any = engine.pool
    assert pool.timeout() == 10
