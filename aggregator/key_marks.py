"""Marks of an aggregator's keys: they tell whether another has the same, and give nothing away. Pure.

A mark of a key is what it makes of a fixed text, as a token is what it makes of a VM: nobody gets from it to the key.
The mark of the admin token is made with a key of tokens, so that who only reads it cannot even try tokens out.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from aggregator.tokens import TokenKeys

_MARK = re.compile(r"([a-z0-9]{1,16}):([A-Za-z0-9_-]{16}):([A-Za-z0-9_-]{16})")


class KeyMark(NamedTuple):
    """Of one key of VM tokens. `admin`: of the admin token, made with that key."""

    kid: str
    key: str
    admin: str


def mark_keys(keys: TokenKeys, admin_token: str) -> str:
    """Marks as the table `node` has them."""
    own, admin = keys.fingerprints(), keys.fingerprints(admin_token)
    return " ".join(f"{kid}:{own[kid]}:{admin[kid]}" for kid in keys.kids)


def parse_marks(text: str | None) -> tuple[KeyMark, ...]:
    """What `mark_keys` wrote; empty for anything else."""
    found = [_MARK.fullmatch(word) for word in (text or "").split(" ")]
    return tuple(KeyMark(*match.groups()) for match in found if match is not None) if all(found) else ()
