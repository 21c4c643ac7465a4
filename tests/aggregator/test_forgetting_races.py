"""A VM that is forgotten at the very moment at which a node tells of it for the first time, on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.catalogue import Catalogue
from aggregator.fleet import vm, vm_summary
from aggregator.fleet_db import migrate, open_fleet
from aggregator.summaries import SummaryWriter
from tests.aggregator.flush_fakes import NOW_S, summary
from tests.postgres import postgres_database

pytestmark = pytest.mark.real


@pytest.fixture
def engine(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[sa.Engine]:
    with postgres_database(pytestconfig) as url:
        fleet = open_fleet(url, tmp_path)
        migrate(fleet)
        with fleet.begin() as connection:
            connection.execute(sa.insert(vm).values(vm_id="vm", generation=1))
        try:
            yield fleet
        finally:
            fleet.dispose()


def held(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(vm_summary.c.vm_id)))


def waits_for_a_lock(engine: sa.Engine) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


@pytest.mark.parametrize("is_forgotten_first", [False, True])
def test_whichever_comes_first_no_row_of_before_stays(engine: sa.Engine, is_forgotten_first: bool) -> None:
    """The first stands still before its commit until the other waits for it: then both end, and no row is left."""
    waiting, done = threading.Event(), threading.Event()
    catalogue, writer = Catalogue(engine), SummaryWriter(engine, "a")

    def hold(_connection: sa.Connection) -> None:
        if threading.current_thread() is first and not waiting.is_set():
            waiting.set()
            done.wait(60.0)

    works = [lambda: writer.write([summary("vm")], now_s=NOW_S), lambda: catalogue.forget("vm", now_s=NOW_S)]
    if is_forgotten_first:
        works.reverse()
    sa.event.listen(engine, "commit", hold)
    first, second = (threading.Thread(target=work) for work in works)
    first.start()
    assert waiting.wait(60.0)
    second.start()
    while second.is_alive() and not waits_for_a_lock(engine):
        pass
    done.set()
    first.join()
    second.join()
    sa.event.remove(engine, "commit", hold)
    assert held(engine) == []
    writer.write([summary("vm")], now_s=NOW_S)
    assert held(engine) == []
    writer.write([summary("vm")._replace(life=1)], now_s=NOW_S)
    assert held(engine) == ["vm"]
