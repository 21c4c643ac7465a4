"""One clock for a fleet: that of its database. By it nodes say when they were seen, and readers judge who is away.

A file of SQLite has no clock but that of the machine on which it is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa

# Clocks that differ by more than this are an error of the fleet: a time service keeps them within a fraction of it.
MAX_AHEAD_S = 10.0


def ahead_s(connection: sa.Connection, machine: Callable[[], float] = time.time) -> float:
    """How far this machine's clock is ahead of that of the fleet database, in seconds; below 0: behind.

    A time of this machine less this is that of the database. The answer is on its way for a moment: of all that the
    moment allows it is what is nearest to 0, so that a slow answer makes no clock look wrong.

    Args: machine: its clock, Unix seconds.
    """
    if connection.dialect.name == "sqlite":
        return 0.0
    before_s = machine()
    there_s = float(connection.execute(sa.select(sa.extract("epoch", sa.func.clock_timestamp()))).scalar_one())
    after_s = machine()
    return max(before_s - there_s, min(after_s - there_s, 0.0))
