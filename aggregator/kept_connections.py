"""Connections to one server that outlive a request, so that the next need not begin with a handshake."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Final

# The admin door closes what is idle for a minute.
IDLE_S: Final = 30.0


class KeptConnections:
    """Those that are idle now. Any thread may ask.

    Args:
        make: a connection that is not open yet.
        most: idle at once; 0: none is kept.
        clock: seconds that never go back.
    """

    def __init__(self, make: Callable[[], HTTPConnection], *, most: int, clock: Callable[[], float]) -> None:
        self._make = make
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[tuple[float, HTTPConnection]] = []

    def take(self) -> tuple[HTTPConnection, bool]:
        """A connection for one request, and whether it was kept: then its other end may have closed it."""
        with self._lock:
            oldest_s = self._clock() - IDLE_S
            stale = [connection for since_s, connection in self._idle if since_s < oldest_s]
            self._idle = [one for one in self._idle if one[0] >= oldest_s]
            found = self._idle.pop()[1] if self._idle else None
        for connection in stale:
            connection.close()
        return (self._make(), False) if found is None else (found, True)

    def give_back(self, connection: HTTPConnection) -> None:
        """Keeps a connection whose last answer was read to its end, or closes it where there are enough."""
        with self._lock:
            is_kept = len(self._idle) < self._most
            if is_kept:
                self._idle.append((self._clock(), connection))
        if not is_kept:
            connection.close()

    def close(self) -> None:
        """Closes all that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()
