"""The server of benchmarks and tests can be away for a while and come back as it was."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from bench.postgres import PostgresAbsent, PostgresServer, postgres_server

pytestmark = pytest.mark.real


def rows(url: str) -> int | None:
    """How many rows the table of the test has; None: the server does not answer."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            return int(connection.scalar(sa.text("SELECT count(*) FROM kept")) or 0)
    except sa.exc.OperationalError:
        return None


@pytest.mark.parametrize("crash", [False, True])
def test_comes_back_with_its_data_on_its_port(crash: bool) -> None:
    """Stopped or crashed it answers nobody; started again it holds what was committed, at the same URL."""
    try:
        with postgres_server({"synchronous_commit": "on"}) as server, server.database() as url:
            check_it_comes_back(server, url, crash=crash)
    except PostgresAbsent as absent:
        pytest.skip(str(absent))


def check_it_comes_back(server: PostgresServer, url: str, *, crash: bool) -> None:
    """The body of the test above."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE kept AS SELECT 1 AS one")
    server.stop(crash=crash)
    assert rows(url) is None
    server.stop()
    server.start()
    assert rows(url) == 1
    server.start()
    assert rows(url) == 1
