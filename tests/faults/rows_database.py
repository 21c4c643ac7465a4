"""Row 36: the central database crashes under a running aggregator, also in the middle of a commit."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from http.client import HTTPException
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
from bench.postgres import postgres_server
from tests.faults.caller import metric, must
from tests.faults.scenario import Scenario, Surroundings
from tests.faults.tally import Tally, tally_of

_VMS = 20
_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.05


def crash_the_database(place: Surroundings) -> Tally:
    """Pushes and stores go on while the database is away; the summaries that it missed or cut off are written later."""
    # It loses no commit when it crashes.
    with postgres_server({"synchronous_commit": "on"}) as database, database.database() as url:
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
            database.stop(crash=True)
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
