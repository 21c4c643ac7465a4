"""Row 36: the central database crashes under a running aggregator, also in the middle of a commit."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agent.settings import parse_host_port
from aggregator.check import verify_store
from aggregator.store_files import connect_read_only, store_path
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench.demo import Doors
from bench.kill_compare import Findings, compare_rows, compare_summary
from bench.kill_driver import INTERVAL_S, VmLedger
from bench.kill_lives import FLUSH_WITHIN_S, HISTORY_DAYS, OPTIONS, STOP_WITHIN_S, Lives, flush
from bench.postgres import PostgresServer, postgres_server
from tests.faults.caller import metric, must
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally, tally_of

_VMS = 20
_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.05


class _Crashing:
    """A PostgreSQL server that can be crashed and started again on its data.

    Args: server: as `bench.postgres` started it; from the first crash on its process is ours.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        with sa.create_engine(server.url, poolclass=sa.NullPool).connect() as connection:
            self._data = Path(str(connection.scalar(sa.text("SHOW data_directory"))))
        self._pid: int | None = int((self._data / "postmaster.pid").read_text().split()[0])
        # As it was called, quoted for a shell.
        self._argv = shlex.split((self._data / "postmaster.opts").read_text())

    def crash(self) -> None:
        """Ends all of its processes at once; what was not committed is gone."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGQUIT)
        os.waitpid(self._pid, 0)
        self._pid = None

    def start(self) -> None:
        """Starts it again, which recovers, and waits until it answers. Raises: FaultError: it does not."""
        owner = self._data.stat()
        user: dict[str, Any] = {}
        if os.geteuid() != owner.st_uid:
            user = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        with open(self._data.parent / "log", "ab") as log:
            server: subprocess.Popen[bytes] = subprocess.Popen(
                self._argv, stdout=log, stderr=log, cwd=self._data.parent, **user
            )
        self._pid = server.pid
        # It is waited for by its number alone, whoever started it.
        server.returncode = 0
        deadline_s = time.monotonic() + _WITHIN_S
        while True:
            with suppress(sa.exc.OperationalError):
                self._server.run("SELECT 1")
                return
            must(time.monotonic() < deadline_s, "the database does not come back")
            time.sleep(_LOOK_EVERY_S)

    def end(self) -> None:
        """Stops it in peace."""
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGINT)
                os.waitpid(self._pid, 0)


@contextmanager
def _database() -> Iterator[tuple[_Crashing, str]]:
    """A server that loses no commit when it crashes, and the URL of an empty database on it."""
    with postgres_server({"synchronous_commit": "on"}) as server:
        crashing = _Crashing(server)
        try:
            with server.database() as url:
                yield crashing, url
        finally:
            crashing.end()


def crash_the_database(place: Surroundings) -> Tally:
    """Pushes and stores go on while the database is away; the summaries that it missed or cut off are written later."""
    with _database() as (database, url):
        lives = Lives(place.programs, place.home / "data", place.home, place.draw)
        program, doors = lives.start((*OPTIONS, "--fleet-url", url))
        keys = TokenKeys.load_or_create(lives.data / KEY_FILE_NAME)
        last_minute = HISTORY_DAYS * 86_400 // INTERVAL_S
        start_s = int(time.time()) // INTERVAL_S * INTERVAL_S - HISTORY_DAYS * 86_400
        for salt in range(_VMS):
            vm = f"away-{salt:04d}"
            lives.ledgers.append(VmLedger(vm, keys.make(vm, 1), salt=salt, start_s=start_s, last_minute=last_minute))
        lives.driver.connect(parse_host_port(doors.agents))
        struck = 0
        while struck < place.injections:
            lives.driver.run(place.draw.uniform(0.1, 1.0))
            flushing = _begin_flush(doors) if struck % 2 else None
            lives.driver.run(place.draw.uniform(0.0, 0.15))
            database.crash()
            before = lives.driver.counts.acknowledged
            lives.driver.run(1.0)
            must(lives.driver.counts.acknowledged > before, "no push is acknowledged while the database is away")
            must(metric(doors, "fallow_ready") == 1, "not ready while the database is away")
            if flushing is not None:
                flushing.join(_WITHIN_S)
            database.start()
            struck += 1
            place.advance()
        lives.driver.settle(_WITHIN_S)
        failures = metric(doors, "fallow_summary_failures_total")
        must(failures, "the database was never missed")
        flush(doors)
        lives.driver.close()
        program.process.terminate()
        place.programs.finish(program, within_s=STOP_WITHIN_S)
        findings = _compare(lives, url)
    return tally_of(findings, injections=struck, notes=f"{failures:.0f} writes of summaries failed")


def _begin_flush(doors: Doors) -> threading.Thread:
    def ask() -> None:
        with suppress(OSError, HTTPException):
            doors.ask("/v1/flush", method="POST", within_s=FLUSH_WITHIN_S)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread


class _Fleet:
    """The central database as the comparison asks it, which writes its questions for SQLite."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: tuple[object, ...]) -> Any:
        return self._connection.exec_driver_sql(statement.replace("?", "%s"), values)


def _compare(lives: Lives, url: str) -> Findings:
    findings = Findings()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        fleet: Any = _Fleet(connection)
        for ledger in lives.ledgers:
            path = store_path(lives.data, ledger.vm)
            with closing(connect_read_only(path)) as store:
                compare_rows(store, ledger, findings)
                findings.summary_mismatches += compare_summary(store, fleet, ledger.vm)
            findings.rollup_mismatches += verify_store(path, ledger.vm)
    engine.dispose()
    return findings


SCENARIOS = (
    Scenario(
        rows=(36,), name="database-crashes", needs=("root", "pg_ctlcluster"), run=crash_the_database, quick=3, whole=40
    ),
)
