"""How far a machine's clock is from that of the fleet database."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.fleet_clock import ahead_s
from aggregator.fleet_db import open_fleet
from tests.postgres import postgres_database


def test_a_file_has_no_clock_of_its_own(tmp_path: Path) -> None:
    """SQLite is where the program is: whatever time it is there counts."""
    engine = open_fleet(None, tmp_path)
    with engine.connect() as connection:
        assert ahead_s(connection, lambda: 5.0) == 0.0
    engine.dispose()


@pytest.mark.real
def test_a_clock_is_held_against_that_of_the_server(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """Nothing for one that agrees, its sign says who is ahead; it is the server's time now, not of its transaction."""
    with postgres_database(pytestconfig) as url:
        engine = open_fleet(url, tmp_path)
        with engine.connect() as connection:
            assert ahead_s(connection) == 0.0
            for apart_s in (-7200.0, 70.0):
                assert ahead_s(connection, partial(_apart, apart_s)) == pytest.approx(apart_s, abs=5.0)
            connection.execute(sa.select(sa.func.pg_sleep(0.3)))
            assert ahead_s(connection) == 0.0
        engine.dispose()


def _apart(by_s: float) -> float:
    return time.time() + by_s


@pytest.mark.real
def test_a_slow_answer_makes_no_clock_look_wrong(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """The server may have looked at its clock at any moment of it."""
    with postgres_database(pytestconfig) as url:
        engine = open_fleet(url, tmp_path)
        with engine.connect() as connection:
            moments = iter([time.time() - 40.0, time.time() + 40.0])
            assert ahead_s(connection, lambda: next(moments)) == 0.0
        engine.dispose()
