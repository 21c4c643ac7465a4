"""The table `people_session` and the cookie: within a transaction that the caller has begun."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from hmac import new as hmac

import sqlalchemy as sa

from reports.people.life import Life
from reports.tables import people_account, people_session

SESSION_COOKIE = "fallow_session"
# A cookie's session is written to no oftener than this.
SEEN_EVERY_S = 600.0
MAX_SESSIONS = 20
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A session in the database, with the role that its account has now."""

    account: str
    role: str
    begun_s: float
    seen_s: float


def cookie_value(header: str | None, name: str, form: re.Pattern[str]) -> str | None:
    """The first value of this cookie that has this form, in the header Cookie; None without one."""
    # By hand: the standard library gives up at the first odd cookie, and other programs on localhost set such.
    for part in (header or "").split(";"):
        key, _, value = part.partition("=")
        if key.strip(" \t") == name and form.match(value.strip(" \t")):
            return value.strip(" \t")
    return None


def session_token(cookie_header: str | None) -> str | None:
    """What a browser sent as its session, None where that cannot be one of ours."""
    return cookie_value(cookie_header, SESSION_COOKIE, _TOKEN)


def make_session_token() -> str:
    """A new secret of 256 bits."""
    return secrets.token_urlsafe(32)


def set_session_cookie(token: str, *, secure: bool) -> str:
    """The header Set-Cookie of a session; the browser forgets it when it ends."""
    return f"{SESSION_COOKIE}={token}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"


def clear_session_cookie(*, secure: bool) -> str:
    """The header Set-Cookie that takes it back."""
    return f"{SESSION_COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{'; Secure' if secure else ''}"


def digest(token: str) -> str:
    """What the database keeps of a secret. It is random, so that a plain hash does."""
    return sha256(token.encode()).hexdigest()


def csrf_secret(token: str) -> str:
    """What each form of a session carries: of no use to find the session's own secret."""
    return hmac(token.encode(), b"fallow forms", sha256).hexdigest()


def insert_session(connection: sa.Connection, token: str, account: str, address: str, now_s: float, life: Life) -> None:
    """Begins a session, and forgets those that are over; of many of one account the oldest end."""
    table = people_session
    over = sa.or_(table.c.begun_s < now_s - life.most_s, table.c.seen_s < now_s - life.idle_s)
    connection.execute(sa.delete(table).where(over))
    newest = (
        sa.select(table.c.token_sha256)
        .where(table.c.account == account)
        .order_by(table.c.begun_s.desc())
        .limit(MAX_SESSIONS - 1)
    )
    kept = list(connection.scalars(newest))
    connection.execute(sa.delete(table).where(table.c.account == account, table.c.token_sha256.not_in(kept)))
    connection.execute(
        sa.insert(table).values(
            token_sha256=digest(token), account=account, begun_s=now_s, seen_s=now_s, address=address[:100]
        )
    )


def find_session(connection: sa.Connection, token: str, now_s: float, life: Life) -> Seen | None:
    """A session that is not over, of an account that is enabled."""
    table, account = people_session, people_account
    wanted = (
        sa.select(table.c.account, account.c.role, table.c.begun_s, table.c.seen_s)
        .join(account, account.c.name == table.c.account)
        .where(table.c.token_sha256 == digest(token), account.c.disabled_s.is_(None))
    )
    row = connection.execute(wanted).mappings().first()
    if row is None or now_s - row["begun_s"] > life.most_s or now_s - row["seen_s"] > life.idle_s:
        return None
    return Seen(**row)


def touch_session(connection: sa.Connection, token: str, now_s: float) -> None:
    """It was used."""
    connection.execute(
        sa.update(people_session).where(people_session.c.token_sha256 == digest(token)).values(seen_s=now_s)
    )


def delete_session(connection: sa.Connection, token: str) -> str | None:
    """Ends one; the name of its account, None where there was none."""
    of_token = people_session.c.token_sha256 == digest(token)
    account: str | None = connection.scalar(sa.select(people_session.c.account).where(of_token))
    connection.execute(sa.delete(people_session).where(of_token))
    return account


def delete_sessions(connection: sa.Connection, account: str, *, but: str | None = None) -> int:
    """Ends those of an account, and returns how many. Args: but: the secret of one that stays."""
    gone = sa.delete(people_session).where(people_session.c.account == account)
    if but is not None:
        gone = gone.where(people_session.c.token_sha256 != digest(but))
    return connection.execute(gone).rowcount


def count_sessions(connection: sa.Connection, account: str, now_s: float, life: Life) -> int:
    """Those of an account that are not over."""
    table = people_session
    wanted = sa.select(sa.func.count()).where(
        table.c.account == account, table.c.begun_s >= now_s - life.most_s, table.c.seen_s >= now_s - life.idle_s
    )
    return connection.scalar(wanted) or 0
