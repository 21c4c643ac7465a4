"""Which aggregator keeps a VM's history: what is written of a summary, by what the fleet database says so far. Pure.

The home is the node that holds the newest sample; one from the future counts as of when it came. Another that holds
some too has a part, which the home takes in later; until then the figures that stand are those of the last whole
history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aggregator.summary import SKEW_LIMIT_S, Summary


class Home(NamedTuple):
    """What the fleet database says of a VM.

    Attributes:
        node: empty where none has said so yet.
        received_s: when its newest push came.
    """

    node: str
    oldest_s: int
    newest_s: int
    received_s: float


class Part(NamedTuple):
    """What a node that is not the home holds of a VM."""

    vm_id: str
    node: str
    oldest_s: int
    newest_s: int


class Whole(NamedTuple):
    """A summary whose store took in parts; their nodes held nothing of the VM when they were asked last.

    Args: of: node -> mark that its note had before it was asked. One that was noted anew since has a part again.
    """

    summary: Summary
    of: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Placing:
    """What is written of a batch.

    Attributes:
        rows: summaries whose row is written.
        whole: VMs of these whose figures and evidence are those of their whole history.
        parts: to be noted.
        returned: VMs of which this node held a part and is now the home.
    """

    rows: list[Summary] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)
    parts: list[Part] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)


def place(
    summaries: Iterable[Summary],
    node: str,
    homes: Mapping[str, Home],
    parts: Mapping[str, Collection[str]],
    *,
    now_s: float,
) -> Placing:
    """Decides for each summary of `node`, at most one a VM.

    Args:
        homes: of the VMs that have a row.
        parts: VM -> nodes that are noted to hold a part.
    """
    placing = Placing()
    for summary in summaries:
        vm_id = summary.vm_id
        home = homes.get(vm_id)
        holders = parts.get(vm_id, ())
        is_split = any(holder != node for holder in holders)
        if home is not None and home.node not in {"", node}:
            if _as_of_s(summary, now_s) <= _as_of_s(home, now_s):
                placing.parts.append(Part(vm_id, node, summary.oldest_s, summary.newest_s))
                continue
            oldest_s = home.oldest_s
            if summary.oldest_s <= oldest_s:
                # Its row tells of our history too, which goes back as far: theirs began later.
                oldest_s = min(home.newest_s, summary.oldest_s + 3600)
            placing.parts.append(Part(vm_id, home.node, oldest_s, home.newest_s))
            is_split = True
        if node in holders:
            placing.returned.append(vm_id)
        if not is_split:
            placing.whole.add(vm_id)
        elif home is not None:
            summary = summary._replace(oldest_s=min(summary.oldest_s, home.oldest_s))  # noqa: PLW2901
        placing.rows.append(summary)
    return placing


def _as_of_s(one: Summary | Home, now_s: float) -> float:
    """When the newest sample was taken; of one that is from the future when it came, and 0 where that is not known.

    Without that, a node that was sent one sample of tomorrow would be the home until then.
    """
    return one.newest_s if one.newest_s <= (one.received_s or now_s) + SKEW_LIMIT_S else one.received_s


def fold(older: tuple[Summary, ...], newer: Summary) -> tuple[Summary, ...]:
    """Summaries of one VM in the order of their making, without what `newer` makes needless; it comes last.

    Kept of the older ones are the last figures and the last evidence where the newer has none.
    """
    if not older:
        return (newer,)
    if not newer.received_s:
        newer = with_push_of(older[-1], newer)
    has_figures, has_evidence = bool(newer.figures), newer.evidence is not None
    kept = [newer]
    for summary in reversed(older):
        if (summary.figures and not has_figures) or (summary.evidence is not None and not has_evidence):
            kept.append(summary)
            has_figures = has_figures or bool(summary.figures)
            has_evidence = has_evidence or summary.evidence is not None
    return tuple(reversed(kept))


def with_push_of(older: Summary, newer: Summary) -> Summary:
    """`newer`, which knows of no push, with what `older` knows of the last."""
    return newer._replace(received_s=older.received_s, skew_s=older.skew_s, flags=older.flags)
