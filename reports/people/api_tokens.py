"""API tokens: `fallow_<id>_<secret>`, of which the database keeps a hash. Within the caller's transaction."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from hmac import compare_digest

import sqlalchemy as sa

from reports.people.accounts import UnknownPerson
from reports.people.identity import Identity, Via
from reports.people.roles import Role, Scope, lesser
from reports.people.sessions import digest
from reports.tables import people_account, people_token

USED_EVERY_S = 600.0
_BEARER = re.compile(r"bearer +(fallow_([0-9a-f]{8})_([0-9a-f]{64}))\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """One token, without its secret. `used_s`: last, to some minutes; None is never."""

    id: str
    account: str
    label: str
    scope: Scope
    created_s: float
    created_by: str
    until_s: float
    used_s: float | None
    revoked_s: float | None

    def is_in_force(self, now_s: float) -> bool:
        """Whether it opens anything, as far as it goes itself."""
        return self.revoked_s is None and now_s < self.until_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The id and the secret of what an `Authorization` header holds."""

    id: str
    secret: str


def bearer_of(authorization: str | None) -> Shown | None:
    """What a program sent as its token; None where that cannot be one of ours."""
    found = _BEARER.match(authorization or "")
    return None if found is None else Shown(id=found[2].lower(), secret=found[3].lower())


def insert_token(
    connection: sa.Connection, account: str, label: str, scope: Scope, *, until_s: float, now_s: float, by: str
) -> tuple[ApiToken, str]:
    """Makes a token, and gives it with its text, which nobody can be told again."""
    while connection.scalar(sa.select(people_token.c.id).where(people_token.c.id == (made := secrets.token_hex(4)))):
        pass
    secret = secrets.token_hex(32)
    token = ApiToken(
        id=made,
        account=account,
        label=label,
        scope=scope,
        created_s=now_s,
        created_by=by,
        until_s=until_s,
        used_s=None,
        revoked_s=None,
    )
    connection.execute(
        sa.insert(people_token).values(
            id=made,
            account=account,
            label=label,
            scope=scope.value,
            secret_sha256=digest(secret),
            created_s=now_s,
            created_by=by,
            until_s=until_s,
        )
    )
    return token, f"fallow_{made}_{secret}"


def identify_token(connection: sa.Connection, shown: Shown, now_s: float) -> tuple[Identity, ApiToken] | None:
    """Whose it is, and what it may do now; None where it is wrong, over or revoked, or its account disabled."""
    wanted = (
        sa.select(people_token, people_account.c.role)
        .join(people_account, people_account.c.name == people_token.c.account)
        .where(people_token.c.id == shown.id, people_account.c.disabled_s.is_(None))
    )
    row = connection.execute(wanted).mappings().first()
    if row is None or not compare_digest(row["secret_sha256"], digest(shown.secret)):
        return None
    token = _token(row)
    if not token.is_in_force(now_s):
        return None
    role = lesser(Role(row["role"]), token.scope.role)
    return Identity(account=token.account, role=role, via=Via.API_TOKEN), token


def touch_token(connection: sa.Connection, token_id: str, now_s: float) -> None:
    """It was used."""
    connection.execute(sa.update(people_token).where(people_token.c.id == token_id).values(used_s=now_s))


def read_tokens(connection: sa.Connection, account: str | None = None) -> list[ApiToken]:
    """Those of one account or of all, the newest first."""
    wanted = sa.select(people_token).order_by(people_token.c.created_s.desc(), people_token.c.id)
    if account is not None:
        wanted = wanted.where(people_token.c.account == account)
    return [_token(row) for row in connection.execute(wanted).mappings()]


def count_tokens(connection: sa.Connection, account: str, now_s: float) -> int:
    """How many of an account are in force."""
    in_force = sa.and_(people_token.c.revoked_s.is_(None), people_token.c.until_s > now_s)
    wanted = sa.select(sa.func.count()).select_from(people_token).where(people_token.c.account == account, in_force)
    return connection.execute(wanted).scalar_one()


def revoke_token(connection: sa.Connection, token_id: str, now_s: float, *, account: str | None = None) -> ApiToken:
    """Args: account: whose it has to be. Raises: UnknownPerson: there is none, or it was revoked before."""
    found = [one for one in read_tokens(connection, account) if one.id == token_id and one.revoked_s is None]
    if not found:
        raise UnknownPerson(f"{token_id[:80]}: no such token, or it was revoked before")
    connection.execute(sa.update(people_token).where(people_token.c.id == token_id).values(revoked_s=now_s))
    return found[0]


def _token(row: sa.RowMapping) -> ApiToken:
    return ApiToken(
        id=row["id"],
        account=row["account"],
        label=row["label"],
        scope=Scope(row["scope"]),
        created_s=row["created_s"],
        created_by=row["created_by"],
        until_s=row["until_s"],
        used_s=row["used_s"],
        revoked_s=row["revoked_s"],
    )
