"""What a node says of itself, as its row of the table `node` holds it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregator.node_state import AWAY_AFTER_S, NodeState

if TYPE_CHECKING:
    import sqlalchemy as sa

# A node that was seen so lately still runs, as far as a start can tell.
SURELY_RUNS_S = 30.0
# Programs for an older schema leave what later ones wrote there as it was.
_COMPARED_SINCE = "0004"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One aggregator as it last said. `started_s` is Unix time of its own clock, `seen_s` of the fleet database's.

    Attributes:
        node: its name.
        admin_url: where the others and the report ask it; None: nowhere.
        listen: host:port of the agents' door.
        version: of the program.
        revision: of the schema that the program was written for.
        not_ready: why it takes no pushes; None: it does.
        seen_s: when it last said so.
        vms: those it heard of within a day.
        owed: summaries that it has still to write.
        free_bytes: room on the disk of its stores; None: it could not tell.
        ahead_s: its clock less that of the fleet database; None: it has not told.
        key_marks: of its keys, as `key_marks.mark_keys` writes them; None: it has not told.
        is_leaving: it drains for good: others take over what it keeps.
    """

    node: str
    admin_url: str | None
    listen: str | None
    version: str
    revision: str
    state: NodeState
    not_ready: str | None
    started_s: float
    seen_s: float
    vms: int
    owed: int
    free_bytes: int | None
    ahead_s: float | None = None
    key_marks: str | None = None
    is_leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTable:
    """All nodes, by name, and what time it is by the clock that `seen_s` is of."""

    nodes: tuple[Node, ...]
    now_s: float


def is_away(node: Node, now_s: float) -> bool:
    """Whether nobody need ask it: it stopped, or has said nothing for AWAY_AFTER_S.

    Args: now_s: by the clock of the fleet database.
    """
    return node.state is NodeState.STOPPED or now_s - node.seen_s > AWAY_AFTER_S


def node_of(row: sa.Row[Any]) -> Node:
    """A row of the table, which a program of another version may have written."""
    values = dict(row._mapping)
    if values["revision"] < _COMPARED_SINCE:
        values |= {"ahead_s": None, "key_marks": None, "is_leaving": None}
    return Node(**values | {"state": _state(values["state"]), "is_leaving": bool(values["is_leaving"])})


def _state(word: str) -> NodeState:
    # A newer program may have more words, for nodes that are there.
    return NodeState(word) if word in list(NodeState) else NodeState.UP
