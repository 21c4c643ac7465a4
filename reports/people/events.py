"""What people did and were refused: the table `people_event`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from aggregator.fleet_db import reading
from reports.tables import people_event
from reports.words import printable

MAX_TEXT_CHARS = 300
KEPT_S = 400 * 86_400.0
# The newest stay however old they seem: a clock that is a year ahead must not empty the record.
KEPT_AT_LEAST = 100_000


class What(StrEnum):
    """Kinds of events."""

    LOGGED_IN = "logged in"
    LOG_IN_FAILED = "log-in failed"
    LOG_IN_THROTTLED = "log-in throttled"
    LOGGED_OUT = "logged out"
    REFUSED = "refused"
    FIRST_LINK = "first link made"
    ACCOUNT_ADDED = "account added"
    ROLE_CHANGED = "role changed"
    PASSWORD_CHANGED = "password changed"  # noqa: S105  # what happened, no secret
    PASSWORD_LINK = "password link made"  # noqa: S105
    DISABLED = "disabled"
    ENABLED = "enabled"
    SESSIONS_ENDED = "sessions ended"
    TOKEN_MADE = "token made"  # noqa: S105
    TOKEN_REVOKED = "token revoked"  # noqa: S105
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the record. `address` is empty at the command line."""

    at_s: float
    who: str
    what: str
    detail: str
    address: str


def write_event(connection: sa.Connection, event: Event) -> None:
    """Adds a line, within the transaction of what it tells of. Texts are cut and made printable."""
    connection.execute(
        sa.insert(people_event).values(
            at_s=event.at_s,
            who=_shown(event.who),
            what=str(event.what),
            detail=_shown(event.detail),
            address=_shown(event.address),
        )
    )


def read_events(engine: sa.Engine, *, limit: int, who: str | None = None) -> list[Event]:
    """The newest first. Args: who: of this account alone."""
    columns = [people_event.c[name] for name in ("at_s", "who", "what", "detail", "address")]
    wanted = sa.select(*columns).order_by(people_event.c.id.desc()).limit(limit)
    if who is not None:
        wanted = wanted.where(people_event.c.who == _shown(who))
    with reading(engine) as connection:
        return [Event(**row) for row in connection.execute(wanted).mappings()]


def forget_events(connection: sa.Connection, now_s: float) -> None:
    """Removes what is older than KEPT_S, but for the newest KEPT_AT_LEAST."""
    newest = sa.select(sa.func.max(people_event.c.id)).scalar_subquery()
    connection.execute(
        sa.delete(people_event).where(people_event.c.at_s < now_s - KEPT_S, people_event.c.id <= newest - KEPT_AT_LEAST)
    )


def _shown(text: str) -> str:
    # What people typed may hold anything, also what a database refuses.
    return printable(text[:MAX_TEXT_CHARS])
