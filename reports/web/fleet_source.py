"""The fleet database for a server that runs for months: files that are replaced, servers that restart."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from agent.settings import ConfigError
from aggregator.fleet_db import reading
from aggregator.problems import Problem, Refused

_RETRY_S = 10

T = TypeVar("T")


class FleetGone(Exception):
    """The file of the fleet database is not there any more."""


class FleetSource:
    """Engines for reading and for writing the report's tables. Any thread may use it.

    Args:
        reader: cannot write.
        writer: of `reports.schema.open_report_db`.
        path: of SQLite's file: a connection goes on reading a file that was deleted or replaced, so each use looks
            whether it is still the same one. None for a database server.
    """

    def __init__(self, reader: sa.Engine, writer: sa.Engine, path: Path | None) -> None:
        self._reader = reader
        self._writer = writer
        self._path = path
        self._seen = self._identity()
        self._lock = RLock()
        # `PRAGMA data_version` tells of other connections' commits since the same one was asked before.
        self._watch: sa.Connection | None = None
        self._watching = ExitStack()
        self._watches = 0

    @property
    def reader(self) -> sa.Engine:
        """Raises: FleetGone."""
        self._check()
        return self._reader

    @property
    def writer(self) -> sa.Engine:
        """Raises: FleetGone."""
        self._check()
        return self._writer

    def version(self) -> tuple[int, int] | None:
        """Another one after every commit to the database, whoever's; None: a database server, which does not tell.

        Raises: FleetGone.  sqlalchemy.exc.DBAPIError: it cannot be read.
        """
        if self._path is None:
            return None
        with self._lock:
            self._check()
            if self._watch is None:
                self._watch = self._watching.enter_context(reading(self._reader))
                self._watches += 1
            commits: int = self._watch.exec_driver_sql("PRAGMA data_version").scalar_one()
            self._watch.rollback()
            return self._watches, commits

    def close(self) -> None:
        """Closes every connection."""
        with self._lock:
            self._watch = None
            self._watching.close()
        self._reader.dispose()
        self._writer.dispose()

    def _check(self) -> None:
        now = self._identity()
        if now is None and self._path is not None:
            raise FleetGone(f"{self._path}: is not there any more")
        if now != self._seen:
            self._seen = now
            self.close()

    def _identity(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino


def refusing(work: Callable[[], T], *, again: bool) -> T:
    """What `work` returns; trouble with the fleet database as an answer of 503 or 500.

    Args: again: tries once more where a connection of the pool turns out dead, as after a restart of the server.

    Raises: Refused.
    """
    try:
        return work()
    except (FleetGone, ConfigError) as error:
        raise Refused(_away(str(error))) from error
    except PoolTimeout as error:
        raise Refused(_away("every connection to it is in use")) from error
    except (OperationalError, InterfaceError) as error:
        if again and error.connection_invalidated:
            return refusing(work, again=False)
        raise Refused(_away(_first_line(error))) from error
    except DBAPIError as error:
        problem = Problem(500, "database", f"the fleet database cannot be read: {_first_line(error)}")
        raise Refused(problem) from error


def _away(reason: str) -> Problem:
    detail = f"the fleet database does not answer: {reason}. This page works again as soon as it does."
    return Problem(503, "database-away", detail, retry_after_s=_RETRY_S)


def _first_line(error: DBAPIError) -> str:
    return next(iter(str(error.orig).splitlines()), "no reason given").rstrip(".")
