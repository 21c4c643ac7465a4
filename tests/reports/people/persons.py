"""People for tests: accounts without slow passwords, logged in without a form."""

from __future__ import annotations

from dataclasses import dataclass

from argon2 import PasswordHasher

from reports.people.administration import Actor
from reports.people.gate import Gate
from reports.people.passwords import Hasher
from reports.people.roles import Role, Scope
from reports.people.sessions import SESSION_COOKIE, csrf_secret

PASSWORD = "twelve or more"
TESTER = "the test"


def quick_hasher() -> Hasher:
    """As the real one, but for its cost."""
    return Hasher(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@dataclass(frozen=True, slots=True)
class Entry:
    """How somebody's browser is let in. `cookie`: the header; `csrf`: what forms carry."""

    cookie: str
    csrf: str


def actor(now_s: float) -> Actor:
    """Who changes accounts in tests."""
    return Actor(name=TESTER, now_s=now_s)


def ensure(gate: Gate, role: Role, now_s: float) -> str:
    """The account of a role, named after it."""
    name = f"{role}-ann"
    if name not in {one.name for one in gate.people.accounts()}:
        gate.people.add(name, role, None, actor(now_s))
    return name


def enter(gate: Gate, role: Role, now_s: float) -> Entry:
    """Somebody of this role logs in."""
    session = gate.begin_session(ensure(gate, role, now_s), "192.0.2.1", now_s, how="test")
    return Entry(f"{SESSION_COOKIE}={session.token}", csrf_secret(session.token))


def bearer(gate: Gate, role: Role, scope: Scope, now_s: float) -> str:
    """The header of a program that has a token of somebody of this role."""
    _, text = gate.people.make_token(ensure(gate, role, now_s), "a test", scope, 3600.0, actor(now_s))
    return f"Bearer {text}"
