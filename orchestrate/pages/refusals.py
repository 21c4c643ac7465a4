"""Whom the pages refused, in the controller's audit log: there it cannot be taken back by whoever was refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrate.records import Records
from reports.people.identity import Identity
from reports.people.throttle import Seldom
from reports.web.routes import Route

# Of one person and one try: the log grows for good, and whoever is refused must not make it grow at will.
NOTED_EVERY_S = 60.0
_READS = ("GET", "HEAD")


class RefusalLog:
    """Notes each refusal of what would change something. Any thread may use it; it blocks.

    Args: records: gives those to use now.
    """

    def __init__(self, records: Callable[[], Records]) -> None:
        self._records = records
        self._noted = Seldom(NOTED_EVERY_S)

    def note_role(self, who: Identity, route: Route, address: str, now_s: float) -> None:
        """Somebody's role does not go so far. Looking at a page is no attempt at anything, and is not noted here.

        The door tells of one try once a minute at most, so that nothing is counted here.
        """
        if route.method in _READS:
            return
        why = f"needs the role {route.role}, and is {who.role}"
        self._write(who, f"{route.method} {route.path}", why, address, now_s, {})

    def note(self, who: Identity, asked: str, why: str, address: str, now_s: float, **more: object) -> None:
        """A deed is refused for what it is asked of, whatever the role; one try is noted once a minute.

        Args: asked: what for. why: it was refused. more: further fields, such as the plan.
        """
        if self._noted.is_due(f"{who.account} {asked} {more}", now_s):
            self._write(who, asked, why, address, now_s, more)

    def _write(
        self, who: Identity, asked: str, why: str, address: str, now_s: float, more: Mapping[str, object]
    ) -> None:
        body = {"asked": asked, "why": why, "via": who.via.value, "address": address, **more}
        self._records().note("refused", body, who=who.account, now_s=now_s)
