"""A node as tests need it."""

from __future__ import annotations

from typing import Any

from aggregator.fleet_db import SCHEMA_REVISION
from aggregator.node_row import Node
from aggregator.node_state import NodeState

NOW_S = 1_790_000_000.0


def node(name: str = "agg-1", **changed: Any) -> Node:
    """One that started a minute ago and was seen just now."""
    values: dict[str, Any] = {
        "admin_url": f"https://{name}:8900",
        "listen": f"{name}:8899",
        "version": "1.0",
        "revision": SCHEMA_REVISION,
        "state": NodeState.UP,
        "not_ready": None,
        "started_s": NOW_S - 60.0,
        "seen_s": NOW_S,
        "vms": 7,
        "owed": 0,
        "free_bytes": 5 << 30,
        "ahead_s": 0.0,
    }
    return Node(node=name, **values | changed)
