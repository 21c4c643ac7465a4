"""Who asks, once that is known: a plain value that handlers are given. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from reports.people.roles import Role


class Via(StrEnum):
    """How somebody was recognised."""

    SESSION = "session"
    API_TOKEN = "api-token"  # noqa: S105  # a kind of proof, no secret
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks.

    Attributes:
        account: its name.
        role: what may be done now: of an API token never more than its scope and its account's role.
        via: LOCAL is a person at the command line of this machine.
        csrf_secret: what each form of this session carries; empty where no cookie was sent, which needs none.
    """

    account: str
    role: Role
    via: Via
    csrf_secret: str = field(default="", repr=False)
