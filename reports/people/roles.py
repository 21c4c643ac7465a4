"""What people may do: roles, each of which holds those before it, and the scopes of API tokens. Pure."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """Rising.

    A viewer reads. An operator also changes what is exempt, makes plans, asks for wakes and pulls the kill switch. An
    approver also approves plans. An admin also keeps accounts and lets go of the kill switch.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """Whether who has this role may do what `needed` may."""
        return _RANKS[self] >= _RANKS[needed]


class Scope(StrEnum):
    """Up to what an API token goes; rising, as roles do."""

    READ = "read"
    WRITE = "write"
    APPROVE = "approve"
    ADMIN = "admin"

    @property
    def role(self) -> Role:
        """What a token of this scope may do at most."""
        return _SCOPE_ROLES[self]


_RANKS = {role: rank for rank, role in enumerate(Role)}
_SCOPE_ROLES = dict(zip(Scope, Role, strict=True))


def lesser(one: Role, other: Role) -> Role:
    """The one that may do less."""
    return other if one.covers(other) else one


def parse_role(text: object) -> Role:
    """Raises: ValueError: no such role; it names those that exist."""
    try:
        return Role(str(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a role ({', '.join(Role)})") from None


def parse_scope(text: object) -> Scope:
    """Raises: ValueError: no such scope; it names those that exist."""
    try:
        return Scope(str(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a scope ({', '.join(Scope)})") from None
