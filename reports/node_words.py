"""The nodes of a fleet as a table and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from reports.nodes import Holding, NodeState, Whereabouts, gone_words
from reports.terminal import open_console
from reports.words import NOT_MEASURED, count_words, gib, printable, time_words


def holding_words(held: Holding, now_s: float) -> tuple[str, ...]:
    """What there is to know of a node beside its figures, in clauses; none where all is well."""
    node = held.node
    gone = gone_words(node, now_s)
    found = [] if gone is None else [f"it {gone}"]
    if gone is not None and held.home_vms:
        found.append(f"it keeps the history of {count_words(held.home_vms, 'VM')}")
    if gone is None and node.not_ready is not None:
        found.append(f"it takes no pushes: {node.not_ready}")
    if gone is None and node.is_leaving:
        empty = not (held.home_vms or held.parts)
        then = "it keeps nothing any more: stop it, then forget it" if empty else "the others take over what it keeps"
        found.append(f"it leaves for good: {then}")
    return (*found, *held.troubles, *waiting_words(held))


def waiting_words(held: Holding) -> tuple[str, ...]:
    """Why parts that a node holds were not taken in by their homes."""
    return tuple(f"{count_words(count, 'part')} could not be taken in: {problem}" for problem, count in held.problems)


def is_trouble(held: Holding, now_s: float) -> bool:
    """Whether somebody has to look at a node."""
    match held.node.state(now_s):
        case NodeState.AWAY | NodeState.UNKNOWN:
            return True
        case NodeState.STOPPED:
            return held.home_vms > 0 or held.parts > 0
        case state:
            return bool(held.problems or held.troubles) or (state is NodeState.UP and held.node.not_ready is not None)


def nodes_object(found: Sequence[Holding], now_s: float) -> dict[str, object]:
    """For JSON. Times are Unix seconds."""
    return {"generated_at_s": now_s, "nodes": [_object(held, now_s) for held in found]}


def history_object(history: Whereabouts, now_s: float) -> dict[str, object]:
    """For JSON: where the history of a VM lies."""
    return {
        "home": history.home or None,
        "parts": [
            {
                "node": part.holder.name,
                "node_state": part.holder.state(now_s).value,
                "oldest_s": part.oldest_s,
                "newest_s": part.newest_s,
                "noted_s": part.noted_s,
                "problem": part.problem,
            }
            for part in history.parts
        ],
    }


def nodes_json(found: Sequence[Holding], now_s: float) -> str:
    """One object."""
    return json.dumps(nodes_object(found, now_s), indent=2) + "\n"


def _object(held: Holding, now_s: float) -> dict[str, object]:
    node = asdict(held.node)
    del node["said"]
    return {
        **node,
        "state": held.node.state(now_s).value,
        "home_vms": held.home_vms,
        "parts": held.parts,
        "problems": [{"problem": problem, "parts": count} for problem, count in held.problems],
        "troubles": list(held.troubles),
    }


def nodes_text(found: Sequence[Holding], now_s: float, *, width: int | None, colour: bool) -> str:
    """A table of nodes, and below it what there is to know of them."""
    if not found:
        return "No aggregator has told of itself yet: start fallow-aggregator run.\n"
    buffer, console = open_console(width=width, colour=colour)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for head in ("node", "state", "seen", "version", "VMs", "parts", "owed", "free", "asked at"):
        table.add_column(head, overflow="fold")
    for held in found:
        node = held.node
        cells = (
            node.name,
            node.word(now_s),
            NOT_MEASURED if node.seen_s is None else time_words(node.seen_s),
            node.version or NOT_MEASURED,
            f"{held.home_vms:,}",
            f"{held.parts:,}",
            NOT_MEASURED if node.owed is None else f"{node.owed:,}",
            NOT_MEASURED if node.free_bytes is None else gib(node.free_bytes),
            node.admin_url or NOT_MEASURED,
        )
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
    for held in found:
        for words in holding_words(held, now_s):
            console.print(Text(printable(f"{held.node.name}: {words}")), soft_wrap=True)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
