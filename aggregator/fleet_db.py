"""The fleet database: how it is opened, and how it comes to the schema of this program.

SQLite in the data directory by default, PostgreSQL by URL. Each program that writes has tables of its own here,
with a history of their own (a `Schema`), and alone migrates them; readers refuse a schema they were not written for.
A newer one is used as it is where its steps said that programs of this schema may (`aggregator.schema_steps`), so that
an upgrade can go from node to node.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.fleet import metadata
from aggregator.fleet_place import refuse_absent, refuse_elsewhere
from aggregator.schema_steps import Steps, nodes_below, note_floor, read_floor
from aggregator.tokens import sync_directory

# The newest file of migrations/versions. Here too, so that a start that has nothing to migrate and the
# report need no Alembic. Revisions are numbers of four digits: their order is that of the texts.
SCHEMA_REVISION = "0004"
FILE_NAME = "fleet.db"
BUSY_TIMEOUT_S = 10
# For a server of PostgreSQL that is silent, and for a connection of the pool when all are in use.
CONNECT_TIMEOUT_S = 5
SERVER_GONE_S = 15  # a server that acknowledges nothing for so long is away
POOL_TIMEOUT_S = 10

_POSTGRES = "postgresql+psycopg"
_READS = "fallow_reads"
# Any number will do that other users of the same database server are unlikely to lock too.
_MIGRATION_LOCK = int.from_bytes(b"fallow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The tables that one program owns in the fleet database, and the steps that make them.

    Args:
        tables: what the steps lead to.
        scripts: Alembic's directory of the steps.
        head: the newest step.
        version_table: where a database notes the step it stands at.
        part: tells it from the aggregator's in messages and names of copies; empty for the aggregator's own.
        brought_by: ends "an older schema: ..."; what brings it up.
    """

    tables: sa.MetaData
    scripts: Path
    head: str
    version_table: str
    part: str = ""
    brought_by: str

    @property
    def words(self) -> str:
        return f"{self.part} schema".lstrip()


FLEET = Schema(
    tables=metadata,
    scripts=Path(__file__).parent / "migrations",
    head=SCHEMA_REVISION,
    version_table="alembic_version",
    brought_by="start its fallow-aggregator run once",
)


def open_fleet(url: str | None, data_dir: Path, *, must_exist: bool = False) -> sa.Engine:
    """An engine for reading and writing; connects at its first use.

    On SQLite every transaction of the engine takes the write lock when it begins, so that two writers wait
    for each other instead of failing midway; `reading` does without the lock.

    Args:
        url: of SQLAlchemy; None is `fleet.db` in `data_dir`.
        must_exist: never makes the file of SQLite.

    Raises: ConfigError: neither a file of SQLite nor PostgreSQL, no driver, the file or its directory is absent, or a
        note in `data_dir` says that its fleet database is elsewhere.
    """
    parsed = _parse_url(url, data_dir)
    if parsed.get_backend_name() != "sqlite":
        return _create_engine(parsed)
    path = Path(parsed.database or "")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent}: is not a directory")
    if must_exist:
        refuse_absent(path)
    engine = _create_engine(parsed)
    _configure_sqlite(engine, read_only=False)
    return engine


def open_fleet_read_only(url: str | None, data_dir: Path) -> sa.Engine:
    """An engine that cannot write, for the report. Connects once to check the schema.

    Raises:
        ConfigError: as `open_fleet`; the database does not exist or its schema is not SCHEMA_REVISION.
        sqlalchemy.exc.OperationalError: the server of the database does not answer.
    """
    parsed = _parse_url(url, data_dir)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        refuse_absent(path)
        file_url = sa.URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
        engine = _create_engine(file_url)
        _configure_sqlite(engine, read_only=True)
    else:
        engine = _create_engine(parsed).execution_options(postgresql_readonly=True)
    try:
        check_revision(engine)
    except ConfigError:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection whose transaction only reads: on SQLite it waits for no writer and holds up none."""
    with engine.connect() as connection:
        yield connection.execution_options(**{_READS: True})


def check_revision(engine: sa.Engine) -> None:
    """Raises ConfigError: the database holds no fleet, or one whose schema this program cannot use."""
    with _naming_file(engine) as name, reading(engine) as connection:
        if not has_tables(connection, FLEET):
            raise ConfigError(f"{name}: holds no fleet (start fallow-aggregator run first)")


def has_tables(connection: sa.Connection, schema: Schema) -> bool:
    """Whether the database holds the tables of `schema`.

    Raises: ConfigError: it does, but older ones than this program's, or newer ones that it must not use.
    """
    current = _revision(connection, schema)
    if current is None:
        return False
    name = _name(connection.engine)
    if current < schema.head:
        raise ConfigError(f"{name}: has {schema.words} {current}, this program {schema.head}: {schema.brought_by}")
    _refuse_newer(connection, current, schema, name)
    return True


def migrate_if_new(engine: sa.Engine) -> None:
    """Makes the tables of a database without any, and leaves upgrades to the daemon, whose older one may still run.

    Raises: ConfigError: as `migrate` and `check_revision`.
    """
    with _naming_file(engine), reading(engine) as connection:
        is_new = _revision(connection, FLEET) is None
    if is_new:
        migrate(engine)
    else:
        check_revision(engine)


def open_part(schema: Schema, url: str | None, data_dir: Path) -> sa.Engine:
    """An engine for reading and writing the tables of one part, which it makes or brings up where need be.

    The tables of the aggregator are for reading then: they are checked and left as they are. Connects.

    Args: url: of SQLAlchemy; None is `fleet.db` in `data_dir`.

    Raises:
        ConfigError: there is no such database, it holds no fleet, or either schema is of another version of the
            program and cannot be brought up here.
        sqlalchemy.exc.OperationalError: the server of the database does not answer.
    """
    engine = open_fleet(url, data_dir, must_exist=True)
    try:
        check_revision(engine)
        migrate(engine, schema)
    except BaseException:
        engine.dispose()
        raise
    return engine


def migrate(engine: sa.Engine, schema: Schema = FLEET, *, clock: Callable[[], float] = time.time) -> None:
    """Brings the tables of `schema` to its head in one transaction, two processes at once included.

    Newer ones that this program may use stay as they are. Before tables of an SQLite database are changed, a copy of
    it is left beside it as `<file>.<revision>.bak`, with the schema's part before the revision where it has one.

    Args: clock: Unix time; tells nodes that run from those that went without a word.

    Raises:
        ConfigError: the schema is newer and this program must not use it, a node runs that could not go on after the
            steps, the tables are not ours, or the copy failed.
    """
    with _naming_file(engine) as name, engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # SQLite has taken its write lock already; here the second of two would make the same tables and fail.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        current = _revision(connection, schema)
        if current is not None and current >= schema.head:
            _refuse_newer(connection, current, schema, name)
            return
        steps = Steps(schema.scripts, schema.head)
        if current is None:
            _refuse_foreign_tables(connection, schema, name)
        else:
            if schema.part == FLEET.part:
                _refuse_running(connection, steps.floor, name, clock())
            _back_up(engine, f"{schema.part}-{current}".lstrip("-"))
        steps.apply(connection, schema.version_table)
        note_floor(connection, schema.part, steps.floor)


def _parse_url(url: str | None, data_dir: Path) -> sa.URL:
    if url is None:
        refuse_elsewhere(data_dir)
        return sa.URL.create("sqlite", database=str(data_dir / FILE_NAME))
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        # The text may hold a password, so it is not repeated.
        raise ConfigError(
            "database: is not a URL such as sqlite:////path/fleet.db or postgresql+psycopg://host/fallow"
        ) from None
    if "password" in parsed.query:
        # There messages would repeat it, and nobody would look who may read the file of the URL.
        raise ConfigError("database: a password belongs before the host of a URL, or in a passfile, not after its '?'")
    backend = parsed.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise ConfigError(f"database: {backend!r} is not supported (sqlite or postgresql)")
    if backend == "sqlite" and (parsed.database in {None, "", ":memory:"} or parsed.query):
        raise ConfigError("database: sqlite needs the path of a file and nothing after it")
    if backend == "postgresql":
        # Summaries are copied in by what this driver alone offers.
        if parsed.drivername not in {"postgresql", _POSTGRES}:
            raise ConfigError(f"database: {parsed.drivername!r} is not supported ({_POSTGRES})")
        return parsed.set(drivername=_POSTGRES)
    return parsed


def _create_engine(url: sa.URL) -> sa.Engine:
    try:
        if url.drivername != _POSTGRES:
            return sa.create_engine(url)
        # Without them psycopg waits for minutes, for a connection and for a server that vanished; who sets one in the
        # URL means it.
        usual = {"connect_timeout": CONNECT_TIMEOUT_S, "tcp_user_timeout": SERVER_GONE_S * 1000}
        # The latter covers what was sent. While we wait for an answer only keepalives show that the machine vanished.
        usual |= {"keepalives_idle": SERVER_GONE_S, "keepalives_interval": 5, "keepalives_count": 3}
        limits = {name: value for name, value in usual.items() if name not in url.query}
        return sa.create_engine(url, connect_args=limits, pool_timeout=POOL_TIMEOUT_S)
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise ConfigError(f"database: {url.render_as_string()}: its driver is not installed ({error})") from error


def _configure_sqlite(engine: sa.Engine, *, read_only: bool) -> None:
    @sa.event.listens_for(engine, "connect")
    def _set_pragmas(connection: sqlite3.Connection, _record: object) -> None:
        # BEGIN is said below: sqlite3's own way leaves CREATE TABLE outside any transaction.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A transaction that reads and then writes fails at once, whatever the timeout, when another wrote meanwhile.
        reads = read_only or connection.get_execution_options().get(_READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def _naming_file(engine: sa.Engine) -> Iterator[str]:
    """Gives the database's name for messages. What SQLite says of a file becomes a ConfigError with that name."""
    name = _name(engine)
    try:
        yield name
    except sa.exc.DatabaseError as error:
        if _sqlite_path(engine) is None:
            raise
        raise ConfigError(f"{name}: {error.orig}") from error


def _name(engine: sa.Engine) -> str:
    path = _sqlite_path(engine)
    return engine.url.render_as_string() if path is None else str(path)


def _sqlite_path(engine: sa.Engine) -> Path | None:
    if engine.dialect.name != "sqlite":
        return None
    database = engine.url.database or ""
    return Path(unquote(database.removeprefix("file:")) if "uri" in engine.url.query else database)


def _revision(connection: sa.Connection, schema: Schema) -> str | None:
    if not sa.inspect(connection).has_table(schema.version_table):
        return None
    version_num: sa.ColumnClause[str] = sa.column("version_num")
    revision: str | None = connection.scalar(sa.select(version_num).select_from(sa.table(schema.version_table)))
    return revision


def _refuse_newer(connection: sa.Connection, current: str, schema: Schema, name: str) -> None:
    if current <= schema.head:
        return
    floor = read_floor(connection, schema.part)
    if floor is None or floor > schema.head:
        raise ConfigError(
            f"{name}: has {schema.words} {current}, newer than the {schema.head} of this program: install the newer one"
        )


def _refuse_running(connection: sa.Connection, floor: str, name: str, now_s: float) -> None:
    running = ", ".join(nodes_below(connection, floor, now_s))
    if running:
        raise ConfigError(
            f"{name}: the upgrade would leave nodes that run with tables they cannot use: {running}; only those for"
            f" schema {floor} or newer can go on: stop them first"
        )


def _refuse_foreign_tables(connection: sa.Connection, schema: Schema, name: str) -> None:
    taken = sorted(set(sa.inspect(connection).get_table_names()) & set(schema.tables.tables))
    if taken:
        raise ConfigError(
            f"{name}: has tables {', '.join(taken)} but no {schema.version_table}: not made by this program"
        )


def _back_up(engine: sa.Engine, label: str) -> None:
    path = _sqlite_path(engine)
    if path is None:
        return
    copy = path.with_name(f"{path.name}.{label}.bak")
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        source, target = sqlite3.connect(path), sqlite3.connect(partial)
        try:
            source.backup(target)
        finally:
            source.close()
            target.close()
        partial.replace(copy)
        sync_directory(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{copy}: the copy before the upgrade failed: {error}") from error
