"""The hash chain of the audit log: how a line is sealed, and what shows that lines were changed afterwards. Pure.

Each line's hash is over the one before it, so that a line that was changed, removed, put in or moved breaks the chain
from there on. A log whose end was cut off is a chain too: that shows only against an `Anchor`, a line that somebody
noted elsewhere. Plans and runs remember theirs, and every command that writes prints the newest one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrate.records import Anchor, AuditEntry

# The line before the first.
GENESIS = Anchor(number=0, sha256="0" * 64)
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The first line that is not as it was written. `words`: how one sees it."""

    number: int
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What became of a check of the whole log.

    Args: lines: that are as they were written. head: the last of them. broken: None: all of them are.
    """

    lines: int
    head: Anchor
    broken: Broken | None


def canonical(body: Mapping[str, object]) -> str:
    """JSON with sorted keys, no blanks, ASCII. Raises: ValueError, TypeError: it cannot be written so."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def seal(previous: Anchor, *, at_s: float, who: str, what: str, body: str) -> AuditEntry:
    """The line after `previous`. Args: body: canonical JSON."""
    number = previous.number + 1
    return AuditEntry(
        number=number,
        at_s=at_s,
        who=who,
        what=what,
        body=body,
        sha256=_hash(previous.sha256, number, at_s, who, what, body),
    )


def anchor_of(entry: AuditEntry) -> Anchor:
    """What one notes of a line."""
    return Anchor(number=entry.number, sha256=entry.sha256)


def parse_anchor(text: str) -> Anchor:
    """`NUMBER:HASH`. Raises: ValueError: it is not that."""
    number, _, sha256 = text.strip().partition(":")
    is_hash = len(sha256) == 64 and set(sha256) <= set("0123456789abcdef")
    if not (number.isascii() and number.isdigit() and int(number) > 0 and is_hash):
        raise ValueError(f"{text!r} is not NUMBER:HASH, such as the last line of 'audit verify'")
    return Anchor(number=int(number), sha256=sha256)


def verify(entries: Iterable[AuditEntry], *, since: Anchor = GENESIS) -> Broken | None:
    """The first line that does not follow from those before it; None where all do.

    Args: entries: by number, rising. since: the line before the first of them.
    """
    last = since
    for entry in entries:
        broken = _check(entry, last)
        if broken is not None:
            return broken
        last = anchor_of(entry)
    return None


def verify_log(
    read: Callable[[int, int], Sequence[AuditEntry]], anchors: Iterable[Anchor] = (), *, page: int = _PAGE
) -> Verified:
    """Checks all of a log, a page at a time, and that every anchor is one of its lines.

    Args: read: (after, limit) -> lines whose number is above `after`, rising.
    """
    wanted: dict[int, list[Anchor]] = {}
    for anchor in anchors:
        wanted.setdefault(anchor.number, []).append(anchor)
    last = GENESIS
    while entries := read(last.number, page):
        for entry in entries:
            broken = _check(entry, last) or _compare(entry, wanted.pop(entry.number, ()))
            if broken is not None:
                return Verified(lines=last.number, head=last, broken=broken)
            last = anchor_of(entry)
    lost = min(wanted, default=None)
    if lost is None:
        return Verified(lines=last.number, head=last, broken=None)
    cut = f"is missing: it was noted, and the log ends at line {last.number}"
    return Verified(lines=last.number, head=last, broken=Broken(number=lost, words=cut))


def _check(entry: AuditEntry, last: Anchor) -> Broken | None:
    if entry.number != last.number + 1:
        words = f"stands after line {last.number}: lines are missing or were put in"
        return Broken(number=entry.number, words=words)
    if entry.sha256 != _hash(last.sha256, entry.number, entry.at_s, entry.who, entry.what, entry.body):
        return Broken(number=entry.number, words="its hash does not fit: it was changed, or a line before it")
    return None


def _compare(entry: AuditEntry, anchors: Iterable[Anchor]) -> Broken | None:
    if all(anchor.sha256 == entry.sha256 for anchor in anchors):
        return None
    return Broken(number=entry.number, words="another line was noted under this number: the log was written anew")


def _hash(previous: str, number: int, at_s: float, who: str, what: str, body: str) -> str:
    # JSON keeps the fields apart: no text of one can pass for the beginning of the next.
    sealed = json.dumps([previous, number, float(at_s), who, what, body], separators=(",", ":"))
    return hashlib.sha256(sealed.encode()).hexdigest()
