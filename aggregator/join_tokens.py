"""The table of join tokens: made, shown, used up and revoked. Functions over a connection; the caller commits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from aggregator.admission import Bound, Kind
from aggregator.fleet import join_token
from aggregator.problems import Problem, Refused

# An expired join token is named as such for this long, then it is unknown.
JOIN_TOKEN_KEPT_S = 30 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """What a join token gives to the VMs that enrol with it; None and no tags leave what is known."""

    name: str | None = None
    owner: str | None = None
    mail: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What is known of a join token; itself it was shown once and is kept nowhere. Times are Unix seconds.

    Attributes:
        id: first 8 digits of its SHA-256, to list and revoke it by.
        uses, uses_left: enrolments, at first and now.
    """

    id: str
    created_s: float
    created_by: str | None
    expires_s: float
    uses: int
    uses_left: int
    revoked_s: float | None
    bound: Bound | None
    labels: dict[str, Any]

    def state(self, now_s: float) -> str:
        """`good`, or the first reason why it lets nobody in."""
        if self.revoked_s is not None:
            return "revoked"
        if self.expires_s <= now_s:
            return "expired"
        return "good" if self.uses_left > 0 else "used up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """A new join token: the one moment at which its text is known."""

    token: str = field(repr=False)
    id: str
    expires_s: float


def insert(
    connection: sa.Connection,
    make_token: Callable[[], str],
    *,
    now_s: float,
    ttl_s: float,
    uses: int,
    labels: Labels,
    bound: Bound | None = None,
    created_by: str | None = None,
) -> Minted:
    """Makes a join token; those that expired long ago go. Raises ValueError: no life, or no use."""
    if ttl_s <= 0 or uses < 1:
        raise ValueError("a join token needs at least one use and a life of more than zero")
    connection.execute(sa.delete(join_token).where(join_token.c.expires_s < now_s - JOIN_TOKEN_KEPT_S))
    while True:
        token = make_token()
        digest = _digest(token)
        # An id must name one token: of a million tokens some two would begin alike.
        if connection.execute(sa.select(join_token.c.id).where(join_token.c.id == digest[:8])).first() is None:
            break
    given = {"name": labels.name, "owner": labels.owner, "mail": labels.mail, "tags": list(labels.tags)}
    connection.execute(
        sa.insert(join_token).values(
            secret_sha256=digest,
            id=digest[:8],
            created_s=now_s,
            created_by=created_by,
            expires_s=now_s + ttl_s,
            uses=uses,
            uses_left=uses,
            bound_to=None if bound is None else bound.kind.value,
            bound_value=None if bound is None else bound.value,
            labels=json.dumps({name: value for name, value in given.items() if value}),
        )
    )
    return Minted(token=token, id=digest[:8], expires_s=now_s + ttl_s)


def usable(connection: sa.Connection, token: str, now_s: float) -> JoinToken:
    """The join token, locked until the transaction ends, so that two enrolments never spend one use.

    Raises: Refused: 401, it is unknown, revoked, expired or used up.
    """
    return _good(connection.execute(_of(token).with_for_update()).first(), now_s)


def known(connection: sa.Connection, token: str, now_s: float) -> JoinToken:
    """The join token as it is just now, without a lock. Raises as `usable`."""
    return _good(connection.execute(_of(token)).first(), now_s)


def _of(token: str) -> sa.Select[Any]:
    return sa.select(join_token).where(join_token.c.secret_sha256 == _digest(token))


def _good(row: sa.Row[Any] | None, now_s: float) -> JoinToken:
    if row is None:
        raise Refused(Problem(401, "join-token-unknown", "join_token: is not known"))
    found = _join_token(row)
    state = found.state(now_s)
    if state != "good":
        said = {"revoked": "was revoked", "expired": "has expired"}.get(state, "is used up")
        raise Refused(Problem(401, f"join-token-{state.replace(' ', '-')}", f"join_token: {said}"))
    return found


def spend(connection: sa.Connection, token: str) -> None:
    """Takes one use of a token that `usable` has locked."""
    statement = sa.update(join_token).where(join_token.c.secret_sha256 == _digest(token), join_token.c.uses_left > 0)
    connection.execute(statement.values(uses_left=join_token.c.uses_left - 1))


def all_of_them(connection: sa.Connection) -> list[JoinToken]:
    """Every join token that is still known, the newest first."""
    rows = connection.execute(sa.select(join_token).order_by(join_token.c.created_s.desc(), join_token.c.id))
    return [_join_token(row) for row in rows]


def revoke(connection: sa.Connection, token_id: str, now_s: float) -> bool:
    """Lets nobody in with it any more; whether there is such a token."""
    known = connection.execute(sa.select(join_token.c.id).where(join_token.c.id == token_id)).first()
    statement = sa.update(join_token).where(join_token.c.id == token_id, join_token.c.revoked_s.is_(None))
    connection.execute(statement.values(revoked_s=now_s))
    return known is not None


def _join_token(row: sa.Row[Any]) -> JoinToken:
    return JoinToken(
        id=row.id,
        created_s=row.created_s,
        created_by=row.created_by,
        expires_s=row.expires_s,
        uses=row.uses,
        uses_left=row.uses_left,
        revoked_s=row.revoked_s,
        bound=None if row.bound_to is None else Bound(Kind(row.bound_to), row.bound_value),
        labels=json.loads(row.labels),
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
