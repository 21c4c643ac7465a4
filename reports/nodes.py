"""The aggregators of a fleet, and who holds the history of which VM. Pure; `reports.node_rows` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from aggregator.node_state import AWAY_AFTER_S, state_word
from reports.words import time_words

# Of a VM that has history elsewhere than at home. It is found when facts are read, and stored nowhere.
HISTORY_SPLIT_FLAG = "history_split"


class NodeState(StrEnum):
    """Of an aggregator. The first three are its own words."""

    UP = "up"
    DRAINING = "draining"
    STOPPED = "stopped"
    # It neither stopped nor said anything for a while.
    AWAY = "away"
    # Summaries name it, and it never said anything: nobody knows where it is.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One aggregator; what a node of the state UNKNOWN has not said is None.

    Attributes:
        said: the state in its own words: `up`, `draining` or `stopped`.
        admin_url: where the others and the report ask it; None: nowhere.
        listen: host and port of the agents' door.
        revision: of the schema that its program was written for.
        not_ready: why it takes no pushes; None: it does.
        seen_s: when it last wrote to the fleet database, Unix seconds by the clock of whoever read this.
        heard_vms: VMs it heard of within a day. owed: summaries it has still to write.
        free_bytes: room on the disk of its stores.
        ahead_s: its clock less that of the fleet database.
        is_leaving: it drains for good: others take over what it keeps.
    """

    name: str
    said: str | None = None
    admin_url: str | None = None
    listen: str | None = None
    version: str | None = None
    revision: str | None = None
    not_ready: str | None = None
    started_s: float | None = None
    seen_s: float | None = None
    heard_vms: int | None = None
    owed: int | None = None
    free_bytes: int | None = None
    ahead_s: float | None = None
    is_leaving: bool = False

    def state(self, now_s: float) -> NodeState:
        """As of `now_s`, Unix seconds."""
        if self.said is None or self.seen_s is None:
            return NodeState.UNKNOWN
        if self.said == NodeState.STOPPED:
            return NodeState.STOPPED
        if now_s - self.seen_s > AWAY_AFTER_S:
            return NodeState.AWAY
        return NodeState.DRAINING if self.said == NodeState.DRAINING else NodeState.UP

    def word(self, now_s: float) -> str:
        """The state as people are told it."""
        return state_word(self.state(now_s), is_leaving=self.is_leaving, not_ready=self.not_ready)

    def is_gone(self, now_s: float) -> bool:
        """Whether it is not there to be asked, by its own last words or its silence."""
        return self.state(now_s) not in {NodeState.UP, NodeState.DRAINING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some of a VM's history that lies on another node than its home.

    Attributes:
        oldest_s, newest_s: of its samples.
        noted_s: since when there are two.
        problem: why its home could not take it in at the last try; None: it was not tried, or nothing went wrong.
        holder: the node that has it.
    """

    holder: Node
    oldest_s: float
    newest_s: float
    noted_s: float
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where the history of one VM lies. `home`: empty where nobody has said yet, or who kept it was forgotten."""

    home: str = ""
    oldest_s: float | None = None
    newest_s: float | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a node keeps for the fleet.

    Attributes:
        home_vms: VMs whose history it keeps.
        parts: VMs of which it holds some history that their home has not taken in yet.
        problems: why not, those that most VMs have first, with how many have each; at most a few.
        troubles: what is wrong with its keys and its clock, in clauses.
    """

    node: Node
    home_vms: int = 0
    parts: int = 0
    problems: tuple[tuple[str, int], ...] = ()
    troubles: tuple[str, ...] = ()


def find_node(found: Sequence[Node], name: str) -> Node:
    """The node of that name; one of the state UNKNOWN where there is none."""
    return next((node for node in found if node.name == name), Node(name=name))


def gone_words(node: Node, now_s: float) -> str | None:
    """What keeps a node from being asked, such as `is away since 2026-11-20 03:00 UTC`; None: it is there."""
    match node.state(now_s):
        case NodeState.AWAY:
            return f"is away since {time_words(node.seen_s or 0.0)}"
        case NodeState.STOPPED:
            return f"was stopped at {time_words(node.seen_s or 0.0)}"
        case NodeState.UNKNOWN:
            return "has never told of itself"
        case _:
            return None


def part_words(part: Part, now_s: float) -> str:
    """One part in a clause: `part of its history lies on node b since ..., which is away since ...`."""
    gone = gone_words(part.holder, now_s)
    if gone is not None:
        state = f"which {gone}"
    elif part.problem is not None:
        state = f"and could not be taken in yet: {part.problem}"
    else:
        state = "and is being taken in"
    return f"part of its history lies on node {part.holder.name} since {time_words(part.noted_s)}, {state}"
