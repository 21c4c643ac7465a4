"""Pages of the audit log, the newest first, and a check of its newest lines that takes a bounded time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrate.audit import GENESIS, Broken, anchor_of, verify
from orchestrate.records import AuditEntry, Records

# So many lines are checked in about a second; the command checks all of them.
MOST_CHECKED = 20_000
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What became of a check of the newest lines.

    Args:
        first, last: numbers of the lines that were looked at; `last` 0: the log is empty.
        broken: the first that is not as it was written; None: all of them are.
    """

    first: int
    last: int
    broken: Broken | None

    @property
    def is_whole(self) -> bool:
        """Whether there was no line before."""
        return self.first <= 1


def newest_number(records: Records) -> int:
    """Of the last line, found without reading the log; 0: there is none."""
    low, high = 0, 1
    while records.audit(after=high - 1, limit=1):
        low, high = high, 2 * high
    # A line after `low - 1` was found, and none after `high - 1`.
    while high - low > 1:
        middle = (low + high) // 2
        if records.audit(after=middle - 1, limit=1):
            low = middle
        else:
            high = middle
    return low


def lines_before(records: Records, before: int, limit: int) -> Sequence[AuditEntry]:
    """Lines whose numbers are below `before`, the newest first. Args: limit: at most so many."""
    after = max(before - 1 - limit, 0)
    found = records.audit(after=after, limit=limit)
    return [entry for entry in reversed(found) if entry.number < before]


def check_newest(records: Records, *, most: int = MOST_CHECKED) -> Checked:
    """Whether the newest lines follow from one another, and those that plans and runs remember are among them."""
    head = newest_number(records)
    before_first = max(head - most, 0)
    last = GENESIS
    if before_first:
        before = records.audit(after=before_first - 1, limit=1)
        last = anchor_of(before[0])
    noted: defaultdict[int, set[str]] = defaultdict(set)
    for anchor in records.anchors():
        if anchor.number > before_first:
            noted[anchor.number].add(anchor.sha256)
    first = before_first + 1 if head else 0
    while page := records.audit(after=last.number, limit=_PAGE):
        broken = verify(page, since=last)
        if broken is None:
            broken = next((each for entry in page if (each := _forgotten(entry, noted.pop(entry.number, None)))), None)
        if broken is not None:
            return Checked(first=first, last=head, broken=broken)
        last = anchor_of(page[-1])
    lost = min(noted, default=None)
    words = f"is missing: a plan or a run remembers it, and the log ends at line {last.number}"
    return Checked(first=first, last=last.number, broken=None if lost is None else Broken(number=lost, words=words))


def _forgotten(entry: AuditEntry, noted: set[str] | None) -> Broken | None:
    if noted is None or noted == {entry.sha256}:
        return None
    return Broken(number=entry.number, words="a plan or a run remembers another line of this number")
