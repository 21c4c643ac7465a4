"""Whether aggregators of a fleet have the same keys, told by marks of them that give nothing away. Pure.

A mark of a key is what it makes of a fixed text, as a token is what it makes of a VM: nobody gets from it to the key.
The mark of the admin token is made with a key of tokens, so that who only reads it cannot even try tokens out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from aggregator.tokens import TokenKeys

_MARK = re.compile(r"([a-z0-9]{1,16}):([A-Za-z0-9_-]{16}):([A-Za-z0-9_-]{16})")


class KeyMark(NamedTuple):
    """Of one key of VM tokens. `admin`: of the admin token, made with that key."""

    kid: str
    key: str
    admin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
    """A node that is there.

    Attributes:
        started_s: Unix time. takes_pushes: it says so.
        marks: of its keys; none: it has not told, or told what cannot be read.
    """

    name: str
    started_s: float
    takes_pushes: bool
    marks: tuple[KeyMark, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDifference:
    """How the keys of one node differ from another's.

    Attributes:
        words: said of `it`, in a clause.
        is_stranger: it has no key in common with those that take pushes: none of their VMs' tokens is good there.
    """

    words: str
    is_stranger: bool = False


def mark_keys(keys: TokenKeys, admin_token: str) -> str:
    """Marks as the table `node` has them."""
    own, admin = keys.fingerprints(), keys.fingerprints(admin_token)
    return " ".join(f"{kid}:{own[kid]}:{admin[kid]}" for kid in keys.kids)


def parse_marks(text: str | None) -> tuple[KeyMark, ...]:
    """What `mark_keys` wrote; empty for anything else."""
    found = [_MARK.fullmatch(word) for word in (text or "").split(" ")]
    return tuple(KeyMark(*match.groups()) for match in found if match is not None) if all(found) else ()


def key_differences(nodes: Iterable[KeyHolder]) -> dict[str, KeyDifference]:
    """Nodes whose keys are not those of the fleet, by name.

    Those of the fleet are those of the node that has taken pushes for the longest time, and of all that share a key
    with it or with one that does: while keys are rotated a node has not heard of the newest one, or not let go
    of the oldest. While none takes pushes nobody is told that all of its keys are wrong.
    """
    told = sorted((one for one in nodes if one.marks), key=lambda one: (not one.takes_pushes, one.started_s, one.name))
    if not told:
        return {}
    first = told[0]
    fleet = _connected(first, told)
    found: dict[str, KeyDifference] = {}
    seen: dict[str, tuple[KeyMark, str]] = {}
    for one in told:
        if one.name not in fleet:
            if not first.takes_pushes:
                continue  # nobody can say which of them is right
            words = (
                f"its token keys are not those of {first.name}, so that VMs' tokens of one are refused by the other: "
                f"copy token.key and admin.token from there"
            )
            found[one.name] = KeyDifference(words=words, is_stranger=True)
            continue
        for mark in one.marks:
            other, holder = seen.setdefault(mark.kid, (mark, one.name))
            if other.key != mark.key:
                words = f"its key {mark.kid} is another than that of {holder}: copy token.key from there"
                found.setdefault(one.name, KeyDifference(words=words))
            elif other.admin != mark.admin:
                words = f"its admin.token is another than that of {holder}: neither can ask the other"
                found.setdefault(one.name, KeyDifference(words=words))
    return found


def _connected(first: KeyHolder, told: Sequence[KeyHolder]) -> set[str]:
    names, keys = {first.name}, {mark[:2] for mark in first.marks}
    grown = True
    while grown:
        joining = [one for one in told if one.name not in names and keys & {mark[:2] for mark in one.marks}]
        names |= {one.name for one in joining}
        keys |= {mark[:2] for one in joining for mark in one.marks}
        grown = bool(joining)
    return names
