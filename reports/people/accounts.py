"""The table `people_account`: within a transaction that the caller has begun."""

from __future__ import annotations

import re
from dataclasses import dataclass

import sqlalchemy as sa

from reports.people.roles import Role
from reports.tables import people_account

_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}\Z")


class PeopleRefused(Exception):
    """What was asked for cannot be; the text says why. `field`: of a form, where it is about what was typed there."""

    field = ""


class Unfit(PeopleRefused):
    """A name, a password or a label that cannot be one."""

    def __init__(self, text: str, *, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class UnknownPerson(PeopleRefused):
    """There is no such account, token or link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One person or program.

    Attributes:
        has_password: whether a password opens it.
        subject: of OpenID Connect, None for a local account.
        disabled_s: None while it is enabled.
    """

    name: str
    role: Role
    has_password: bool
    subject: str | None
    created_s: float
    created_by: str
    disabled_s: float | None

    @property
    def opens(self) -> bool:
        """Whether there is something to log in with: a password, or a provider that vouches."""
        return self.has_password or self.subject is not None


def normal_name(text: str) -> str | None:
    """The name of an account as it is kept, of one that was typed; None where no account can have it."""
    name = text.strip().lower()
    return name if _NAME.match(name) else None


def check_name(text: str) -> str:
    """The name as it is kept. Raises: Unfit."""
    name = normal_name(text)
    if name is None:
        shown = text.strip()[:80]
        raise Unfit(
            f"{shown!r} is no name for an account: that has 1 to 64 of a-z, 0-9, . _ @ + -, and begins with a-z or 0-9",
            field="account",
        )
    return name


def find_account(connection: sa.Connection, name: str, *, lock: bool = False) -> Account | None:
    """The account of this name, as it is kept. Args: lock: nobody changes it until this transaction ends."""
    if not _NAME.match(name):
        # Drivers refuse some texts, such as one with a NUL.
        return None
    wanted = sa.select(people_account).where(people_account.c.name == name)
    row = connection.execute(wanted.with_for_update() if lock else wanted).mappings().first()
    return None if row is None else _account(row)


def find_subject(connection: sa.Connection, subject: str) -> Account | None:
    """The account that somebody known elsewhere has."""
    row = connection.execute(sa.select(people_account).where(people_account.c.subject == subject)).mappings().first()
    return None if row is None else _account(row)


def need_account(connection: sa.Connection, name: str, *, lock: bool = False) -> Account:
    """As `find_account`. Raises: UnknownPerson."""
    found = find_account(connection, name, lock=lock)
    if found is None:
        raise UnknownPerson(f"{name}: no such account")
    return found


def password_hash_of(connection: sa.Connection, name: str) -> str | None:
    """None where there is no such account, it is disabled, or no password opens it."""
    wanted = sa.select(people_account.c.password_hash).where(
        people_account.c.name == name, people_account.c.disabled_s.is_(None)
    )
    known: str | None = connection.scalar(wanted)
    return known


def read_accounts(connection: sa.Connection) -> list[Account]:
    """All of them, by name."""
    rows = connection.execute(sa.select(people_account).order_by(people_account.c.name)).mappings()
    return [_account(row) for row in rows]


def has_accounts(connection: sa.Connection) -> bool:
    """Whether there is any."""
    return connection.scalar(sa.select(people_account.c.name).limit(1)) is not None


def insert_account(
    connection: sa.Connection,
    name: str,
    role: Role,
    *,
    password_hash: str | None,
    now_s: float,
    by: str,
    subject: str | None = None,
) -> None:
    """Adds an account. Raises: PeopleRefused: the name is taken."""
    if find_account(connection, name) is not None:
        raise PeopleRefused(f"{name}: there is such an account already")
    connection.execute(
        sa.insert(people_account).values(
            name=name,
            role=role.value,
            password_hash=password_hash,
            subject=subject,
            created_s=now_s,
            created_by=by,
        )
    )


def update_role(connection: sa.Connection, name: str, role: Role) -> None:
    """Raises: PeopleRefused: it is the last admin."""
    if role is not Role.ADMIN:
        _keep_an_admin(connection, name)
    _update(connection, name, role=role.value)


def update_password(connection: sa.Connection, name: str, password_hash: str, *, was: str | None = None) -> bool:
    """Gives it another password, and returns whether it did. Args: was: the hash that it has to have until now."""
    wanted = sa.update(people_account).where(people_account.c.name == name)
    if was is not None:
        wanted = wanted.where(people_account.c.password_hash == was)
    return connection.execute(wanted.values(password_hash=password_hash)).rowcount > 0


def disable(connection: sa.Connection, name: str, now_s: float) -> None:
    """Raises: PeopleRefused: it is the last admin."""
    _keep_an_admin(connection, name)
    _update(connection, name, disabled_s=now_s)


def enable(connection: sa.Connection, name: str) -> None:
    """Lets it in again."""
    _update(connection, name, disabled_s=None)


def _keep_an_admin(connection: sa.Connection, name: str) -> None:
    # Locked: of two admins who are disabled at once one must stay. SQLite has its write lock by now.
    wanted = (
        sa.select(people_account)
        .where(people_account.c.role == Role.ADMIN.value, people_account.c.disabled_s.is_(None))
        .order_by(people_account.c.name)
        .with_for_update()
    )
    admins = [_account(row) for row in connection.execute(wanted).mappings()]
    # One whose link for a password was not used yet keeps nobody in; where all are so, any of them may be the next.
    able = {one.name for one in admins if one.opens} or {one.name for one in admins}
    if able == {name}:
        raise PeopleRefused(f"{name}: is the last admin who can log in: make another one first, with a password")


def _update(connection: sa.Connection, name: str, **values: object) -> None:
    connection.execute(sa.update(people_account).where(people_account.c.name == name).values(**values))


def _account(row: sa.RowMapping) -> Account:
    return Account(
        name=row["name"],
        role=Role(row["role"]),
        has_password=row["password_hash"] is not None,
        subject=row["subject"],
        created_s=row["created_s"],
        created_by=row["created_by"],
        disabled_s=row["disabled_s"],
    )
