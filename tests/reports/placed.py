"""Rows of a fleet with several nodes: who there is, which VM is at home where, and parts that lie elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator import fleet
from aggregator.fleet_db import open_fleet
from tests.reports.fleets import NEWEST_S, NOW_S

AWAY_S = 3600.0


def node_row(name: str, **changes: Any) -> dict[str, Any]:
    """A node that is up."""
    row: dict[str, Any] = {
        "node": name,
        "admin_url": f"https://{name}.example:8900",
        "listen": "0.0.0.0:8899",
        "version": "1.0",
        "revision": "0003",
        "state": "up",
        "not_ready": None,
        "started_s": NOW_S - 86_400.0,
        "seen_s": NOW_S - 5.0,
        "vms": 10,
        "owed": 0,
        "free_bytes": 2**40,
    }
    return {**row, **changes}


def part_row(vm_id: str, node: str, **changes: Any) -> dict[str, Any]:
    """A day of history, noted an hour ago."""
    row = {
        "vm_id": vm_id,
        "node": node,
        "oldest_s": NEWEST_S - 3 * 86_400,
        "newest_s": NEWEST_S - 2 * 86_400,
        "noted_s": NOW_S - 3600.0,
        "problem": None,
    }
    return {**row, **changes}


def place(
    engine: sa.Engine,
    nodes: Iterable[dict[str, Any]] = (),
    *,
    homes: Mapping[str, str] | None = None,
    parts: Iterable[dict[str, Any]] = (),
) -> None:
    """Writes them. Args: homes: node by id of a VM that has a summary."""
    with engine.begin() as connection:
        for row in nodes:
            connection.execute(sa.delete(fleet.node).where(fleet.node.c.node == row["node"]))
            connection.execute(sa.insert(fleet.node).values(row))
        for vm_id, home in (homes or {}).items():
            connection.execute(sa.update(fleet.vm_summary).where(fleet.vm_summary.c.vm_id == vm_id).values(node=home))
        for row in parts:
            connection.execute(sa.insert(fleet.vm_part).values(row))


def place_in(folder: Path, nodes: Iterable[dict[str, Any]] = (), **others: Any) -> None:
    """The same in the fleet database of a data directory."""
    engine = open_fleet(None, folder)
    try:
        place(engine, nodes, **others)
    finally:
        engine.dispose()
