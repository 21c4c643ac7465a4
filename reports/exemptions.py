"""VMs that somebody asked to leave alone: by id, by tag, or by a pattern over names. Every exemption expires. Pure.

`reports.exemption_table` keeps them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, tzinfo
from enum import StrEnum
from fnmatch import translate

from agent.settings import parse_duration_s
from aggregator.vms_csv import parse_text
from reports.words import time_words

# Ten years are longer than machines live, and a slip of the finger in a year is found out.
MAX_AHEAD_S = 3653 * 86_400
_IDS_NAMED = 10


class ExemptionKind(StrEnum):
    """What an exemption's subject is. The nearest to one VM comes first and wins."""

    VM = "vm"
    TAG = "tag"
    NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemption:
    """One row of the table `exemption`. Times are Unix seconds.

    Attributes:
        subject: a VM id; a tag; or a glob pattern that a name, a host name or a VM id fits, whatever the case.
        owner: who asked for it.
        until_s: from then on it is not in force.
        ended_s: when somebody ended it before that; None: nobody did.
    """

    id: str
    kind: ExemptionKind
    subject: str
    reason: str
    owner: str
    created_s: float
    until_s: float
    ended_s: float | None = None
    ended_by: str | None = None

    def is_in_force(self, now_s: float) -> bool:
        return self.ended_s is None and now_s < self.until_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of a request. `is_renewal`: the subject had one in force, and that is the one."""

    exemption: Exemption
    is_renewal: bool


class ExemptionRefused(ValueError):
    """An exemption that may not be: the text says what is wrong with what was asked."""


class NotFound(LookupError):
    """What was named is not there: a VM or an exemption."""


class UnknownVm(NotFound):
    """The fleet database knows no such VM."""

    def __init__(self, text: str) -> None:
        super().__init__(f"{text}: no such VM")


class AmbiguousVm(NotFound):
    """A name that several VMs have."""

    def __init__(self, text: str, vm_ids: Collection[str]) -> None:
        self.vm_ids = tuple(sorted(vm_ids))
        named = ", ".join(self.vm_ids[:_IDS_NAMED])
        more = f" and {len(self.vm_ids) - _IDS_NAMED:,} more" if len(self.vm_ids) > _IDS_NAMED else ""
        super().__init__(f"{text}: is the name of {len(self.vm_ids):,} VMs ({named}{more}): say which by its id")


class ExemptionIndex:
    """Which exemption, if any, holds for a VM: quick for a fleet. Pure.

    Of several that hold, the kind that stands first in `ExemptionKind` wins, then the one that lasts longest.

    Args: exemptions: those in force.
    """

    __slots__ = ("_any_name", "_names", "_tags", "_vms")

    def __init__(self, exemptions: Iterable[Exemption]) -> None:
        self._vms: dict[str, Exemption] = {}
        self._tags: dict[str, Exemption] = {}
        patterns: dict[str, Exemption] = {}
        by_kind = {ExemptionKind.VM: self._vms, ExemptionKind.TAG: self._tags, ExemptionKind.NAME: patterns}
        for one in sorted(exemptions, key=_longest_first):
            subject = one.subject.casefold() if one.kind is ExemptionKind.NAME else one.subject
            by_kind[one.kind].setdefault(subject, one)
        self._names = [(re.compile(translate(pattern)), one) for pattern, one in patterns.items()]
        # Most VMs fit no pattern, which one search finds out.
        self._any_name = re.compile("|".join(map(translate, patterns))) if patterns else None

    def match(self, vm_id: str, name: str | None, hostname: str | None, tags: Iterable[str]) -> Exemption | None:
        """The exemption that holds for the VM; None: it may be reclaimed."""
        if (by_id := self._vms.get(vm_id)) is not None:
            return by_id
        if self._tags:
            tagged = [self._tags[tag] for tag in tags if tag in self._tags]
            if tagged:
                return min(tagged, key=_longest_first)
        if self._any_name is None:
            return None
        texts = {text.casefold() for text in (vm_id, name, hostname) if text}
        if not any(map(self._any_name.match, texts)):
            return None
        return next(one for pattern, one in self._names if any(map(pattern.match, texts)))


def parse_until(text: str, *, now_s: float, zone: tzinfo = UTC) -> float:
    """Unix seconds of a day's last second (`2026-12-31`), of a time (`2026-12-31T18:00`) or of `30d` from now.

    Args: zone: of days, and of times that do not say theirs.

    Raises: ValueError: anything else.
    """
    with suppress(ValueError):
        # Where the clocks are put back at the end of a day it has two last seconds: `fold` means the second.
        return datetime.combine(date.fromisoformat(text), time(23, 59, 59, fold=1), zone).timestamp()
    with suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
    with suppress(ValueError):
        return now_s + parse_duration_s(text)
    raise ValueError(f"{text!r} is not a date (2026-12-31), a time (2026-12-31T18:00) or a duration (30d)")


def _longest_first(one: Exemption) -> tuple[float, str]:
    return -one.until_s, one.id


def checked_text(words: str, text: str) -> str:
    """`text` without space around it. Raises ExemptionRefused: empty, too long or not printable; `words` names it."""
    try:
        parsed = parse_text(text)
    except ValueError as error:
        raise ExemptionRefused(f"{words}: {error}") from error
    if parsed is None:
        raise ExemptionRefused(f"{words}: is empty")
    return parsed


def check_until(until_s: float, now_s: float) -> None:
    """Raises ExemptionRefused: not after `now_s`, or over ten years ahead."""
    if not until_s > now_s:
        raise ExemptionRefused(f"until: {time_words(until_s)} is past")
    if until_s - now_s > MAX_AHEAD_S:
        raise ExemptionRefused(f"until: {time_words(until_s)} is more than ten years ahead")
