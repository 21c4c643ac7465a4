"""What is wrong with nodes as they tell of themselves, beside being away: keys, clocks, nobody to take over. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aggregator.fleet_clock import MAX_AHEAD_S
from aggregator.heirs import why_kept
from aggregator.key_marks import KeyDifference, KeyHolder, key_differences, parse_marks
from aggregator.nodes import Node, NodeState, NodeTable, is_away

NOT_READY = "not ready"


def compare_keys(nodes: Iterable[Node]) -> dict[str, KeyDifference]:
    """How the keys of nodes differ from those of the fleet, by their names. Args: nodes: that are there."""
    return key_differences(
        KeyHolder(
            name=node.node,
            started_s=node.started_s,
            takes_pushes=node.not_ready is None,
            marks=parse_marks(node.key_marks),
        )
        for node in nodes
    )


def is_clock_wrong(ahead_s: float | None) -> bool:
    """Whether somebody has to look at a clock; None: nothing is known of it."""
    return ahead_s is not None and abs(ahead_s) > MAX_AHEAD_S


def clock_words(ahead_s: float) -> str:
    """Such as `its clock is 72 s behind that of the fleet database`."""
    return f"its clock is {abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} that of the fleet database"


def state_word(state: str, *, is_leaving: bool, not_ready: str | None) -> str:
    """A state as people are told it: `draining` may be for good, and who is `up` may take no pushes all the same."""
    if state == NodeState.DRAINING and is_leaving:
        return "leaving"
    return NOT_READY if state == NodeState.UP and not_ready is not None else state


def node_problems(table: NodeTable) -> Mapping[str, tuple[str, ...]]:
    """In clauses, by the name of a node that is there; none for those without any."""
    there = [node for node in table.nodes if not is_away(node, table.now_s)]
    keys = compare_keys(there)
    found = {}
    for node in there:
        words = [] if node.node not in keys or keys[node.node].words == node.not_ready else [keys[node.node].words]
        if node.ahead_s is not None and is_clock_wrong(node.ahead_s):
            words.append(clock_words(node.ahead_s))
        if node.is_leaving and (kept := why_kept(table, node.node)) is not None:
            words.append(kept)
        if words:
            found[node.node] = tuple(words)
    return found
