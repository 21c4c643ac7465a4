"""A PostgreSQL server of a benchmark's or a test's own, with new empty databases.

Debian's programs and psycopg are used. The server listens on a free port of 127.0.0.1, forgoes every promise about
power cuts, and ends with the program that started it, however that ends.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import sqlalchemy as sa

SUPERUSER = "fallow"
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


class PostgresAbsent(Exception):
    """What it takes to run a server is not installed; the text says what."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that runs. `url` is that of its maintenance database, as superuser, with the password."""

    url: sa.URL
    _process: _Process
    _numbers: Iterator[int] = field(default_factory=count)

    def stop(self, *, crash: bool = False) -> None:
        """Ends it; its data directory and its port stay. Ending one that does not run does nothing.

        Args: crash: all of its processes end at once. What was committed just before is gone too, unless the server
            has synchronous_commit.
        """
        self._process.end(signal.SIGQUIT if crash else signal.SIGINT)

    def start(self) -> None:
        """Starts it again on its data and its port, and waits until it answers; one that runs is left alone.

        Raises: OSError: it does not answer.
        """
        self._process.start()

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
def postgres_server(
    settings: Mapping[str, str] | None = None, *, parent: Path | None = None
) -> Iterator[PostgresServer]:
    """Starts a server in a directory of its own and ends both.

    Args:
        settings: of `postgresql.conf`, beside and instead of the usual ones of a small server.
        parent: where the directory is made; the server's user must be able to come there.

    Raises: PostgresAbsent: its programs or its driver are not installed.
    """
    if find_spec("psycopg") is None:
        raise PostgresAbsent("psycopg is not installed")
    initdb, postgres = _program("initdb"), _program("postgres")
    with tempfile.TemporaryDirectory(prefix="fallow-postgres-", dir=parent) as name:
        folder = Path(name)
        password = secrets.token_hex(16)
        password_file = folder / "password"
        password_file.write_text(password, encoding="ascii")
        as_user = _as_user(folder, password_file)
        options = ["--username", SUPERUSER, "--pwfile", str(password_file), "--auth", "scram-sha-256"]
        options += ["--pgdata", str(folder / "data"), "--encoding", "UTF8", "--locale", "C", "--no-sync"]
        made = subprocess.run([*as_user, initdb, *options], capture_output=True, text=True, check=False, cwd=folder)
        if made.returncode != 0:
            raise OSError(f"initdb failed: {made.stdout}{made.stderr}")
        process = _Process([*as_user, postgres], folder, {**_SETTINGS, **(settings or {})})
        try:
            _start_somewhere(process)
            url = sa.URL.create("postgresql+psycopg", SUPERUSER, password, "127.0.0.1", process.port, "postgres")
            yield PostgresServer(url, process)
        finally:
            process.end()


def _program(name: str) -> str:
    """A program's path; Debian keeps a server's own out of PATH."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = shutil.which(name) or (str(kept[-1]) if kept else None)
    if found is None:
        raise PostgresAbsent(f"{name} of PostgreSQL is not installed")
    return found


def _as_user(*paths: Path) -> list[str]:
    """The beginning of a command that may run as what root is not allowed to; `paths` become that user's."""
    # Whoever kills us takes the server along.
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() != 0:
        return prefix
    try:
        user = pwd.getpwnam(_USER)
    except KeyError:
        raise PostgresAbsent(f"there is no user {_USER} to run PostgreSQL as") from None
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)
    return [*prefix, "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]


class _PortTaken(OSError):
    """Somebody else listens on the port."""


class _Process:
    """The server as a process, which may end and begin again.

    Args:
        command: the program.
        folder: holds `data` and the log of the run at hand.
        settings: of `postgresql.conf`.
    Attributes:
        port: where it listens on 127.0.0.1.
    """

    def __init__(self, command: list[str], folder: Path, settings: Mapping[str, str]) -> None:
        self._command = command
        self._folder = folder
        self._settings = settings
        self._server: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        """Raises OSError: it did not start; _PortTaken: for that reason."""
        if self._server is not None and self._server.poll() is None:
            return
        settings = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self._folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = self._folder / "log"
        with log.open("w", encoding="utf-8") as stream:
            self._server = subprocess.Popen(
                [*self._command, "-D", str(self._folder / "data"), *options],
                stdout=stream,
                stderr=stream,
                cwd=self._folder,
            )
        while "ready to accept connections" not in (said := log.read_text(encoding="utf-8")):
            if self._server.poll() is not None:
                kind = _PortTaken if "Address already in use" in said else OSError
                raise kind(f"PostgreSQL did not start: {said}")
            time.sleep(_LOOK_EVERY_S)

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        """Args: number: SIGINT ("fast") closes connections and does not wait for them; SIGQUIT is a crash."""
        server, self._server = self._server, None
        if server is None:
            return
        if server.poll() is None:
            server.send_signal(number)
        try:
            server.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _start_somewhere(process: _Process) -> None:
    """Starts it on a port that is free."""
    while True:
        process.port = _free_port()
        try:
            process.start()
        except _PortTaken:  # meanwhile; nothing else is worth another try
            continue
        return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
