"""The fleet database: a real SQLite file that can be away, or take a transaction and not say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from aggregator.fleet_db import FILE_NAME, migrate, open_fleet
from aggregator.summaries import SummaryWriter


def make_template(folder: Path) -> bytes:
    """An empty fleet database: copying it costs a hundredth of the migrations."""
    engine = open_fleet(None, folder)
    migrate(engine)
    # The last to close it puts what lies beside the file into it.
    engine.dispose()
    return (folder / FILE_NAME).read_bytes()


class Database:
    """One fleet database after the other in the same place: what SQLAlchemy has compiled serves them all.

    Args:
        folder: where its file lies.
        template: what it holds at the beginning of each history.
    Attributes:
        away: it does not answer. mute: so many of the next commits succeed and are told as lost.
        writer: of summaries.
    """

    def __init__(self, folder: Path, template: bytes) -> None:
        self._path = folder / FILE_NAME
        self._template = template
        self.engine = open_fleet(None, folder)
        self.renew()
        sa.event.listen(self.engine, "begin", self._begin)
        sa.event.listen(self.engine, "commit", self._commit)
        self.writer = SummaryWriter(self.engine, "aggregator")

    def renew(self) -> None:
        """As it was at the beginning."""
        self.away, self.mute = False, 0
        self.close()
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._path.write_bytes(self._template)

    def close(self) -> None:
        """Lets go of the file."""
        self.engine.dispose()

    @contextmanager
    def reachable(self) -> Iterator[sa.Engine]:
        """For whoever is no program under test: people, and the oracle."""
        away, mute, self.away, self.mute = self.away, self.mute, False, 0
        try:
            yield self.engine
        finally:
            self.away, self.mute = away, mute

    def _begin(self, _connection: sa.Connection) -> None:
        if self.away:
            raise lost("does not answer")

    def _commit(self, connection: sa.Connection) -> None:
        if self.mute:
            self.mute -= 1
            connection.exec_driver_sql("COMMIT")
            raise lost("went away during the commit")


def lost(words: str) -> sa.exc.OperationalError:
    """As the driver would say it."""
    return sa.exc.OperationalError("COMMIT", None, ConnectionError(f"the database {words}"))
