"""Whether the fleet has several aggregators, for pages that must not wait for the database to say so."""

from __future__ import annotations

from collections.abc import Callable, Sized

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from reports.web.fleet_source import FleetGone

LOOK_EVERY_S = 60.0


class SeveralNodes:
    """What was so at the last look. Called, it tells; it does not block then.

    Args: read: every node that has told of itself; blocks, and may raise what a fleet database does.
    """

    def __init__(self, read: Callable[[], Sized]) -> None:
        self._read = read
        self._are_several = False

    def __call__(self) -> bool:
        return self._are_several

    def look(self) -> None:
        """Asks the database; what it does not answer leaves all as it was. Blocks."""
        try:
            self._are_several = len(self._read()) > 1
        except (DBAPIError, PoolTimeout, FleetGone):
            return
