"""Which passwords are refused, and how they are kept."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher
from argon2.profiles import RFC_9106_LOW_MEMORY
from hypothesis import given
from hypothesis import strategies as st

from reports.people.passwords import MAX_CHARS, MIN_CHARS, Hasher, check_password
from reports.people.roles import Role, Scope, parse_role, parse_scope
from tests.reports.people.persons import quick_hasher


@pytest.mark.parametrize(
    ("password", "why"),
    [
        *(("", "characters"), ("x" * 11, "characters"), ("x" * 1025, "longer"), ("passwordpassword", "tried first")),
        *(("PasswordPassword", "tried first"), ("123456789012", "tried first"), ("abababababab", "repeats")),
        *(("administrator-1", "name"), ("Administrator-1", "name"), ("administrator-1administrator-1", "name")),
    ],
)
def test_weak_passwords_are_refused(password: str, why: str) -> None:
    """Too short, too long, well known, of a few characters, or the account's own name; never repeated in the reason."""
    with pytest.raises(ValueError, match=why) as refused:
        check_password(password, "administrator-1")
    assert not password or password not in str(refused.value)


@pytest.mark.parametrize("password", ["a" * 9 + "bcd", "it rains in May", "пароль с пробелами", "x" * 1000 + "yzw"])
def test_long_enough_is_good_enough(password: str) -> None:
    """Spaces, other alphabets, and no rules about digits."""
    check_password(password, "ann")
    assert MIN_CHARS <= len(password) <= MAX_CHARS


def test_parameters_are_those_of_the_library() -> None:
    """argon2id with 64 MiB, as RFC 9106 recommends where memory is not plenty."""
    made = Hasher().hash("twelve or more")
    wanted = RFC_9106_LOW_MEMORY
    assert made.startswith(f"$argon2id$v=19$m={wanted.memory_cost},t={wanted.time_cost},p={wanted.parallelism}$")


@given(password=st.text(max_size=40), other=st.text(max_size=40))
def test_a_hash_is_of_one_password(password: str, other: str) -> None:
    """Whatever was typed opens again, and nothing else does; lone surrogates break nothing."""
    hasher = quick_hasher()
    known = hasher.hash(password)
    assert hasher.verify(known, password)
    assert hasher.verify(known, other) is (password == other)
    assert not hasher.verify(None, password)


@pytest.mark.parametrize("known", ["", "x", "$argon2id$v=19$m=1", "twelve or more"])
def test_broken_hashes_open_nothing(known: str) -> None:
    """What stands in the database and is no hash is no password either."""
    assert not quick_hasher().verify(known, "twelve or more")


def test_outdated_hashes_are_told() -> None:
    """One made with other parameters is to be made again."""
    assert Hasher(PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)).is_outdated(quick_hasher().hash("x"))
    assert not quick_hasher().is_outdated(quick_hasher().hash("x"))


def test_roles_rise() -> None:
    """Each covers itself and those before it, and each scope stands for one of them."""
    for rank, role in enumerate(Role):
        assert [role.covers(needed) for needed in Role] == [other <= rank for other in range(len(Role))]
    assert [scope.role for scope in Scope] == list(Role)
    assert (parse_role("admin"), parse_scope("write")) == (Role.ADMIN, Scope.WRITE)
    with pytest.raises(ValueError, match="viewer, operator, approver, admin"):
        parse_role("root")
    with pytest.raises(ValueError, match="read, write, approve, admin"):
        parse_scope("all")
