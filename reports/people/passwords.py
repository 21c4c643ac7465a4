"""Passwords: which are refused, and their hashes by argon2."""

from __future__ import annotations

import threading
from typing import Final
from unicodedata import normalize

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from aggregator.problems import Problem, Refused

MIN_CHARS, MAX_CHARS = 12, 1_024
# Each takes 64 MiB while it runs.
HASHINGS_AT_ONCE = 2
_RETRY_S = 1
# Of those that people use most, the ones long enough to pass otherwise.
_COMMON: Final = frozenset(
    (
        *("123456789012", "1234567890123", "12345678901234", "123456123456", "123123123123", "111111111111"),
        *("000000000000", "qwertyuiop12", "qwertyuiop123", "qwertyuiop1234", "qwertyuiopasdf", "1q2w3e4r5t6y"),
        *("1qaz2wsx3edc", "qwertyqwerty", "password1234", "password12345", "password123456", "passwordpassword"),
        *("administrator", "changemechangeme", "letmeinletmein", "iloveyou1234", "welcome12345", "adminadminadmin"),
        *("correcthorsebatterystaple", "unknownpassword", "thisisapassword", "abcdefghijkl", "abcd1234efgh"),
    )
)


def check_password(password: str, account: str) -> None:
    """Raises: ValueError: it is too easily guessed; the text says why, and does not repeat it."""
    if len(password) < MIN_CHARS:
        raise ValueError(f"the password has {len(password)} characters: {MIN_CHARS} are the least")
    if len(password) > MAX_CHARS:
        raise ValueError(f"the password is longer than {MAX_CHARS} characters")
    plain = password.casefold().strip()
    if plain == account.casefold() or plain.replace(account.casefold(), "") == "":
        raise ValueError("the password is the account's name")
    if plain in _COMMON:
        raise ValueError("the password is one of those that are tried first")
    if len(set(plain)) < 4:
        raise ValueError("the password repeats one to three characters")


class Hasher:
    """Hashes of passwords, by argon2id with the library's parameters (the low-memory profile of RFC 9106).

    Blocks for some 50 ms. No more than HASHINGS_AT_ONCE run at a time, since each takes 64 MiB.

    Args: hasher: of argon2, with its own parameters unless told.
    """

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._room = threading.BoundedSemaphore(HASHINGS_AT_ONCE)
        self._nobody: str | None = None

    def hash(self, password: str) -> str:
        """A hash with a salt of its own. Raises: Refused, 503: too many at once."""
        with _Entered(self._room):
            return self._hasher.hash(_as_bytes(password))

    def verify(self, known: str | None, password: str) -> bool:
        """Whether `known` is a hash of this password; None is of no password, and takes as long.

        Raises: Refused, 503: too many at once.
        """
        with _Entered(self._room):
            # What an account that does not exist is held against. Whoever comes first pays for it, known or not.
            nobody = self._nobody = self._nobody or self._hasher.hash("nobody has this one")
            try:
                self._hasher.verify(known or nobody, _as_bytes(password))
            except (VerificationError, InvalidHashError):
                return False
        return known is not None

    def is_outdated(self, known: str) -> bool:
        """Whether it was made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(known)


class _Entered:
    """Room for one more hashing, or 503 at once: threads that queue here would be those that make pages."""

    def __init__(self, room: threading.BoundedSemaphore) -> None:
        self._room = room

    def __enter__(self) -> None:
        if not self._room.acquire(blocking=False):
            raise Refused(Problem(503, "busy", "too many passwords are checked at once", retry_after_s=_RETRY_S))

    def __exit__(self, *_: object) -> None:
        self._room.release()


def _as_bytes(password: str) -> bytes:
    # One letter may be one character or two, as keyboards and systems make it: the same letter, the same password.
    password = normalize("NFKC", password)
    # What a form sends may hold lone surrogates; argon2's own encoding would raise.
    return password.encode("utf-8", "surrogatepass")
