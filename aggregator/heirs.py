"""Which aggregators take over what one that leaves for good keeps. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from aggregator.node_row import SURELY_RUNS_S, Node, NodeTable
from aggregator.node_state import NodeState

# An older program that starts before it has joined such a history takes it for one that it has lost.
_KNOWS_BEQUESTS_SINCE = "0004"


def find_heirs(table: NodeTable, name: str) -> list[str]:
    """Nodes that may become the home of what node `name` keeps, by name.

    They take pushes, do not leave themselves, and were seen so lately that nobody can forget them meanwhile.
    """
    return [node.node for node in table.nodes if node.node != name and _may_inherit(node, table.now_s)]


def choose_heir(vm_id: str, heirs: Sequence[str]) -> str:
    """One of `heirs`, of which there is at least one: the same at each time, and all of them get about as many VMs."""
    return max(heirs, key=lambda heir: hashlib.sha256(f"{heir}\0{vm_id}".encode()).digest())


def why_kept(table: NodeTable, name: str) -> str | None:
    """Why nobody can take over what a node keeps; None: they can."""
    if not any(node.node == name and node.admin_url is not None for node in table.nodes):
        return "nobody can take over what it keeps: it has no address to be asked at (node.url)"
    if not find_heirs(table, name):
        return "nobody can take over what it keeps: no other aggregator is up, ready and of this version"
    return None


def _may_inherit(node: Node, now_s: float) -> bool:
    return (
        node.state is NodeState.UP
        and not node.is_leaving
        and node.not_ready is None
        and now_s - node.seen_s <= SURELY_RUNS_S
        and node.revision >= _KNOWS_BEQUESTS_SINCE
    )
