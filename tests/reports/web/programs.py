"""`fallow-report serve` as a program of its own, as people run it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reports.people.gate import Gate, open_gate
from reports.people.roles import Role, Scope
from reports.schema import open_report_db
from tests.reports.people.persons import Entry, bearer, enter, quick_hasher

# Verdicts of a fleet whose newest samples are of a fixed day: without it every VM would be silent by now.
CONFIG = """\
[report]
data = "{data}"
silent_after = "36500d"
timezone = "Europe/Berlin"
[report.prices]
currency = "EUR"
vcpu_hour = 0.02
mem_gib_hour = 0.003
[report.serve]
aggregator = "http://{aggregator}"
"""
# Nothing listens there.
NO_AGGREGATOR = "127.0.0.1:9"
_ADDRESS = re.compile(r"pages on (https?://\S+/)")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. `url` ends in a slash; `cookie` and `token` are of admins who are logged in."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    cookie: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """Of a program that has a token."""
        return {"Authorization": self.token}

    @property
    def said(self) -> str:
        return self.log.read_text()


@contextmanager
def serving(
    data_dir: Path, *options: str, config: str = CONFIG, aggregator: str = NO_AGGREGATOR, admits: bool = True
) -> Iterator[Server]:
    """The program over the fleet in `data_dir`, on any free port; it is ended in the end.

    Args: admits: an admin has an account, and is logged in; else there is none, as at a first start.
    """
    file, log = data_dir / "report.toml", data_dir / "serve.log"
    file.write_text(config.format(data=data_dir, aggregator=aggregator))
    cookie = token = ""
    if admits:
        with _gate(data_dir) as gate:
            cookie = enter(gate, Role.ADMIN, time.time()).cookie
            token = bearer(gate, Role.ADMIN, Scope.ADMIN, time.time())
    command = [sys.executable, "-m", "reports", "serve", "--config", str(file), "--listen", "127.0.0.1:0", *options]
    with log.open("wb") as out, start(command, out) as process:
        while (found := _ADDRESS.search(log.read_text())) is None or not (admits or "/first/" in log.read_text()):
            assert process.poll() is None, log.read_text()
            time.sleep(_POLL_S)
        yield Server(found[1], process, log, cookie, token)


def admit(data_dir: Path, role: Role) -> Entry:
    """Somebody of this role logs in."""
    with _gate(data_dir) as gate:
        return enter(gate, role, time.time())


@contextmanager
def _gate(data_dir: Path) -> Iterator[Gate]:
    engine = open_report_db(None, data_dir)
    try:
        yield open_gate(engine, hasher=quick_hasher())
    finally:
        engine.dispose()


@contextmanager
def aggregating(data_dir: Path) -> Iterator[str]:
    """An aggregator over the same fleet; gives the address of its admin door."""
    doors = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    command = [sys.executable, "-m", "aggregator", "run", "--data", str(data_dir), *doors]
    address, log = data_dir / "admin.address", data_dir / "aggregator.log"
    with log.open("wb") as out, start(command, out) as process:
        while not (address.exists() and address.read_text().endswith("\n")):
            assert process.poll() is None, log.read_text()
            time.sleep(_POLL_S)
        yield address.read_text().strip()


@contextmanager
def start(command: Sequence[str], out: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed in the end if it still runs."""
    process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
