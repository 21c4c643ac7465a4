"""One-time links: for the first admin, and for a new password. Within the caller's transaction."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from reports.people.accounts import UnknownPerson
from reports.people.sessions import digest
from reports.tables import people_link

LINK_LIFE_S = 86_400.0
_SECRET = re.compile(r"[A-Za-z0-9_-]{43}\Z")


class LinkKind(StrEnum):
    """What a link opens."""

    FIRST = "first"
    PASSWORD = "password"  # noqa: S105  # what it sets, no secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link that still opens. `account`: whose password it sets; None for the first admin."""

    kind: LinkKind
    account: str | None


def insert_link(connection: sa.Connection, link: Link, *, by: str, now_s: float) -> str:
    """Makes a link, and returns its secret. Others for the same purpose open nothing any more."""
    of_purpose = sa.and_(
        people_link.c.kind == link.kind.value, people_link.c.account.is_not_distinct_from(link.account)
    )
    connection.execute(sa.delete(people_link).where(of_purpose))
    secret = secrets.token_urlsafe(32)
    connection.execute(
        sa.insert(people_link).values(
            secret_sha256=digest(secret),
            kind=link.kind.value,
            account=link.account,
            made_by=by,
            until_s=now_s + LINK_LIFE_S,
        )
    )
    return secret


def delete_links(connection: sa.Connection, account: str) -> None:
    """Links for the password of an account open nothing any more."""
    connection.execute(sa.delete(people_link).where(people_link.c.account == account))


def find_link(connection: sa.Connection, secret: str, now_s: float) -> Link:
    """Raises: UnknownPerson: there is none, it was used, or its time is over."""
    row = None
    if _SECRET.match(secret):
        row = connection.execute(sa.select(people_link).where(_open(secret, now_s))).mappings().first()
    if row is None:
        raise UnknownPerson("this link was used, is older than a day, a newer one took its place, or it never was one")
    return Link(kind=LinkKind(row["kind"]), account=row["account"])


def use_link(connection: sa.Connection, secret: str, now_s: float) -> Link:
    """The link, which opens nothing after this transaction. Raises: UnknownPerson: as `find_link`."""
    link = find_link(connection, secret, now_s)
    used = connection.execute(sa.update(people_link).where(_open(secret, now_s)).values(used_s=now_s)).rowcount
    if not used:  # another transaction was faster
        raise UnknownPerson("this link was used")
    return link


def _open(secret: str, now_s: float) -> sa.ColumnElement[bool]:
    return sa.and_(
        people_link.c.secret_sha256 == digest(secret), people_link.c.used_s.is_(None), people_link.c.until_s > now_s
    )
