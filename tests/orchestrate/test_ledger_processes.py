"""The ledger among real processes on real databases: what one was promised no other is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrate.audit import verify_log
from orchestrate.database import SqlRecords
from orchestrate.hotspots.ledger import Ledger
from orchestrate.schema import open_orchestrate_db
from tests.orchestrate.databases import a_fleet, open_copy
from tests.orchestrate.hotspots.hot_fleets import GIB
from tests.orchestrate.ledger_process import HOST_GIB, WISH_GIB, now_s
from tests.postgres import postgres_database

TIMES = 12


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path
) -> Iterator[tuple[sa.Engine, str | None]]:
    """An engine, and the URL for another process; None: the file in `tmp_path`."""
    if request.param == "sqlite":
        engine = open_copy(tmp_path)
        yield engine, None
        engine.dispose()
        return
    with postgres_database(pytestconfig) as url:
        a_fleet(url, tmp_path)
        engine = open_orchestrate_db(url, tmp_path)
        yield engine, url
        engine.dispose()


@pytest.mark.real
def test_processes_are_never_promised_the_same_room(database: tuple[sa.Engine, str | None], tmp_path: Path) -> None:
    """Two that ask at once: all that either was granted stands, fits the host, and is told in an unbroken log."""
    engine, url = database
    command = [sys.executable, "-m", "tests.orchestrate.ledger_process", str(tmp_path)]
    children = [
        subprocess.Popen(
            [*command, name, str(TIMES), *([] if url is None else [url])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b")
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", child.stderr and child.stderr.read()
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.communicate() for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0, 0], said
    granted = [hold_id for out, _ in said for hold_id in json.loads(out)]
    records = SqlRecords(engine)
    ledger = Ledger(records, by="ann", clock=now_s)
    assert sorted(granted) == [hold.hold_id for hold in ledger.counting()]
    assert sum(hold.mem_bytes for hold in ledger.counting()) <= HOST_GIB * GIB
    # Neither of two that are in each other's way may be granted; who asks alone gets what is left.
    assert len(granted) <= HOST_GIB // WISH_GIB
    assert verify_log(lambda after, limit: records.audit(after=after, limit=limit), records.anchors()).broken is None
