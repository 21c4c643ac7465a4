"""Whom the pages refused, in the controller's audit log: there it cannot be taken back by whoever was refused."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrate.records import Records
from reports.people.identity import Identity
from reports.web.routes import Route

# Of one person at one address of ours: the log grows for good, and whoever is refused must not make it grow at will.
NOTED_EVERY_S = 60.0
_READS = ("GET", "HEAD")


class RefusalLog:
    """Notes each refusal of what would change something. Any thread may use it; it blocks.

    Args: records: gives those to use now.
    """

    def __init__(self, records: Callable[[], Records]) -> None:
        self._records = records
        self._noted: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def note_role(self, who: Identity, route: Route, address: str, now_s: float) -> None:
        """Somebody's role does not go so far. Looking at a page is no attempt at anything, and is not noted here."""
        if route.method in _READS:
            return
        why = f"needs the role {route.role}, and is {who.role}"
        self.note(who, f"{route.method} {route.path}", why, address, now_s)

    def note(self, who: Identity, asked: str, why: str, address: str, now_s: float, **more: object) -> None:
        """Args: asked: what for. why: it was refused. more: further fields, such as the plan."""
        key = (who.account, f"{asked} {more}")
        with self._lock:
            self._noted = {one: at_s for one, at_s in self._noted.items() if abs(now_s - at_s) < NOTED_EVERY_S}
            if key in self._noted:
                return
            self._noted[key] = now_s
        body = {"asked": asked, "why": why, "via": who.via.value, "address": address, **more}
        self._records().note("refused", body, who=who.account, now_s=now_s)
