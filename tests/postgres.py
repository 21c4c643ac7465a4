"""A PostgreSQL server of the tests' own: one a session, a new empty database for each test that asks.

    @pytest.fixture
    def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
        with postgres_database(pytestconfig) as url:
            yield url

A test is skipped where Debian's programs or psycopg are absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bench.postgres import PostgresAbsent, PostgresServer, postgres_server

_SERVER = pytest.StashKey[PostgresServer]()


@contextmanager
def postgres_database(config: pytest.Config) -> Iterator[str]:
    """The SQLAlchemy URL of a new empty database on the session's server, which the first that asks starts."""
    if _SERVER not in config.stash:
        stack = ExitStack()
        try:
            config.stash[_SERVER] = stack.enter_context(postgres_server())
        except PostgresAbsent as absent:
            pytest.skip(str(absent))
        config.add_cleanup(stack.close)
    with config.stash[_SERVER].database() as url:
        yield url
