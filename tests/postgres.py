"""A PostgreSQL server of the tests' own: one a session, a new empty database for each test that asks.

    @pytest.fixture
    def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
        with postgres_database(pytestconfig) as url:
            yield url

Debian's programs and psycopg are used; a test is skipped where they are absent. The server listens on a free port
of 127.0.0.1, forgoes every promise about power cuts, and ends with the session, however that ends.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

SUPERUSER = "fallow_tests"
# It refuses to run as root. Debian's package brings a user for it.
_USER = "postgres"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "autovacuum": "off",
}
_LOOK_EVERY_S = 0.02
_ENDS_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that runs. `url` is that of its maintenance database, as superuser, with the password."""

    url: sa.URL
    _numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new empty database, dropped at the end under whoever is still connected."""
        name = f"fallow_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name}")
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def run(self, statement: str) -> None:
        """Runs a statement in the maintenance database, outside any transaction."""
        engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


@contextmanager
def postgres_database(config: pytest.Config) -> Iterator[str]:
    """The SQLAlchemy URL of a new empty database on the session's server, which the first that asks starts."""
    if _SERVER not in config.stash:
        stack = ExitStack()
        config.stash[_SERVER] = stack.enter_context(postgres_server())
        config.add_cleanup(stack.close)
    with config.stash[_SERVER].database() as url:
        yield url


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Starts a server in a directory of its own and ends both. Skips the test where its programs are absent."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    initdb, postgres = _program("initdb"), _program("postgres")
    # A folder of pytest's would do but for root's, which are closed to the user that the server runs as.
    with tempfile.TemporaryDirectory(prefix="fallow-postgres-") as name:
        folder = Path(name)
        password = secrets.token_hex(16)
        password_file = folder / "password"
        password_file.write_text(password, encoding="ascii")
        as_user = _as_user(folder, password_file)
        options = ["--username", SUPERUSER, "--pwfile", str(password_file), "--auth", "scram-sha-256"]
        options += ["--pgdata", str(folder / "data"), "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        made = subprocess.run([*as_user, initdb, *options], capture_output=True, text=True, check=False, cwd=folder)
        assert made.returncode == 0, made.stdout + made.stderr
        with _running([*as_user, postgres], folder) as port:
            yield PostgresServer(
                sa.URL.create("postgresql+psycopg", SUPERUSER, password, "127.0.0.1", port, "postgres")
            )


_SERVER = pytest.StashKey[PostgresServer]()


def _program(name: str) -> str:
    """A program's path; Debian keeps a server's own out of PATH."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = shutil.which(name) or (str(kept[-1]) if kept else None)
    if found is None:
        pytest.skip(f"{name} of PostgreSQL is not installed")
    return found


def _as_user(*paths: Path) -> list[str]:
    """The beginning of a command that may run as what root is not allowed to; `paths` become that user's."""
    # Whoever kills the tests takes the server along.
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return prefix
    try:
        user = pwd.getpwnam(_USER)
    except KeyError:
        pytest.skip(f"there is no user {_USER} to run PostgreSQL as")
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)
    return [*prefix, "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[int]:
    """The port of a server on the data directory in `folder`."""
    log = folder / "log"
    while True:
        port = _free_port()
        settings = {**_SETTINGS, "port": str(port), "unix_socket_directories": str(folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("w", encoding="utf-8") as stream:
            server = subprocess.Popen(
                [*command, "-D", str(folder / "data"), *options], stdout=stream, stderr=stream, cwd=folder
            )
        try:
            while "ready to accept connections" not in (said := log.read_text(encoding="utf-8")):
                if server.poll() is not None:
                    break
                time.sleep(_LOOK_EVERY_S)
            else:
                yield port
                return
        finally:
            _end(server)
        # Somebody else may have taken the port meanwhile; nothing else is worth another try.
        assert "Address already in use" in said, said


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGINT)  # "fast": it closes connections and does not wait for them
    try:
        server.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
