"""What is wrong with nodes as they tell of themselves, beside being away: keys, clocks, nobody to take over. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from aggregator.fleet_clock import MAX_AHEAD_S
from aggregator.heirs import why_kept
from aggregator.key_camps import KeyDifference, KeyHolder, key_differences, keys_differ
from aggregator.key_marks import parse_marks
from aggregator.node_row import Node, NodeTable, is_away


def do_keys_differ(nodes: Iterable[Node]) -> bool:
    """Whether keys of these nodes differ in any way, so that `compare_keys` needs to know the homes of VMs."""
    return keys_differ(parse_marks(node.key_marks) for node in nodes)


def compare_keys(
    nodes: Iterable[Node], *, there: Collection[str], home_vms: Mapping[str, int]
) -> dict[str, KeyDifference]:
    """How the keys of nodes differ from those of the fleet, by their names.

    Args:
        nodes: all.
        there: names of those that are not away.
        home_vms: of how many VMs each keeps the history; 0 for who is not in it.
    """
    return key_differences(
        KeyHolder(
            name=node.node,
            is_there=node.node in there,
            takes_pushes=node.not_ready is None,
            marks=parse_marks(node.key_marks),
            home_vms=home_vms.get(node.node, 0),
            heard_vms=node.vms,
        )
        for node in nodes
    )


def is_clock_wrong(ahead_s: float | None) -> bool:
    """Whether somebody has to look at a clock; None: nothing is known of it."""
    return ahead_s is not None and abs(ahead_s) > MAX_AHEAD_S


def clock_words(ahead_s: float) -> str:
    """Such as `its clock is 72 s behind that of the fleet database`."""
    return f"its clock is {abs(ahead_s):,.0f} s {'ahead of' if ahead_s > 0 else 'behind'} that of the fleet database"


def node_problems(table: NodeTable, home_vms: Mapping[str, int]) -> Mapping[str, tuple[str, ...]]:
    """In clauses, by the name of a node that is there; none for those without any.

    Args: home_vms: of how many VMs each keeps the history.
    """
    there = [node for node in table.nodes if not is_away(node, table.now_s)]
    keys = compare_keys(table.nodes, there={node.node for node in there}, home_vms=home_vms)
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
