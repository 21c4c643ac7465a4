"""`fallow-aggregator nodes` and `drain`: the aggregators of a fleet, and taking one out of it.

SQLAlchemy and the rest load when a command needs them, so that `--help` and the daemon's workers stay light.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from agent.settings import ConfigError
from aggregator.cli import (
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    add_command,
    add_fleet_url,
    complain,
    counted,
    existing_data_dir,
    say,
    say_table,
    time_text,
    typed,
)
from aggregator.node_name import parse_node_name
from aggregator.vms_cli import reading_engine, writing_engine

if TYPE_CHECKING:
    from aggregator.kept import Kept
    from aggregator.node_row import Node

_ANSWERED = frozenset({200})
_HEADER = ("NODE", "STATE", "SEEN", "VMS", "PARTS", "HEARD", "OWED", "FREE", "VERSION", "AT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One node of the list. `node`: None for one that summaries name and that never told of itself."""

    name: str
    node: Node | None
    state: str
    kept: Kept
    problems: tuple[str, ...]


def add_parsers(subparsers: Any) -> None:
    """Adds `nodes` and `drain` to what `argparse.ArgumentParser.add_subparsers` returned.

    Each leaf sets `command`: parsed options → exit code.
    """
    nodes = add_command(
        subparsers,
        "nodes",
        _list,
        "list the aggregators of the fleet, or forget one",
        "fallow-aggregator nodes --json",
        "fallow-aggregator nodes forget agg-2-5f1c --yes",
    )
    add_fleet_url(nodes)
    nodes.add_argument("--json", action="store_true", help="print a JSON list")
    inner = nodes.add_subparsers(dest="nodes_command", metavar="COMMAND")
    forget = add_command(
        inner,
        "forget",
        _forget,
        "forget an aggregator whose disk is lost, with all that it alone had",
        "fallow-aggregator nodes forget agg-2-5f1c --yes",
        is_inner=True,
    )
    add_fleet_url(forget, is_inner=True)
    forget.add_argument("name", metavar="NAME", type=typed(parse_node_name), help="as `nodes` shows it")
    forget.add_argument("--yes", action="store_true", help="mean it: histories that it alone had are lost")
    drain = add_command(
        subparsers,
        "drain",
        _drain,
        "have VMs sent to the other aggregators; pushes that come all the same are taken",
        "fallow-aggregator drain",
        "fallow-aggregator drain --for-good",
        "fallow-aggregator drain --undo",
    )
    how = drain.add_mutually_exclusive_group()
    how.add_argument("--undo", action="store_true", help="take it back")
    how.add_argument(
        "--for-good",
        action="store_true",
        help="and have the others take over at once what it keeps: it is not to come back",
    )


def _list(options: argparse.Namespace) -> int:
    from aggregator.kept import Kept  # noqa: PLC0415
    from aggregator.node_problems import node_problems  # noqa: PLC0415
    from aggregator.node_state import NOT_READY  # noqa: PLC0415
    from aggregator.nodes import Nodes  # noqa: PLC0415

    with reading_engine(options) as engine:
        nodes = Nodes(engine)
        table, kept = nodes.table(time.time()), nodes.kept()
    problems = node_problems(table, {name: one.vms for name, one in kept.items()})
    heard_of = {node.node: node for node in table.nodes}
    lines = [
        _Line(
            name=name,
            node=heard_of.get(name),
            state=_shown_state(heard_of.get(name), table.now_s),
            kept=kept.get(name, Kept()),
            problems=problems.get(name, ()),
        )
        for name in sorted(heard_of.keys() | kept.keys())
    ]
    if options.json:
        say(json.dumps([_object(line) for line in lines]))
        return 0
    say_table(_HEADER, [_cells(line) for line in lines])
    for line in lines:
        if line.node is not None and line.state == NOT_READY:
            say(f"{line.name}: it takes no pushes: {line.node.not_ready}")
        for words in line.problems:
            say(f"{line.name}: {words}")
    return 0


def _forget(options: argparse.Namespace) -> int:
    from aggregator.nodes import NodeRunsError, Nodes, UnknownNodeError  # noqa: PLC0415

    with writing_engine(options) as engine:
        nodes = Nodes(engine)
        if not options.yes:
            raise ConfigError(f"nodes forget: --yes is needed: {_loss(options.name, nodes.kept_by(options.name))}")
        try:
            vms = nodes.forget(options.name, time.time())
        except (UnknownNodeError, NodeRunsError) as error:
            complain(str(error))
            return EXIT_FAILED
    say(f"forgot {options.name}, which kept the history of {counted(vms, 'VM')}")
    return 0


def _drain(options: argparse.Namespace) -> int:
    from aggregator.daemon_door import ask_daemon  # noqa: PLC0415

    data_dir = existing_data_dir(options)
    target = "/v1/undrain" if options.undo else f"/v1/drain?for_good={int(options.for_good)}"
    if ask_daemon(data_dir, "POST", target, of=_ANSWERED) is None:
        complain(f"no aggregator runs on {data_dir}")
        return EXIT_UNREACHABLE
    say("up" if options.undo else "draining")
    return 0


def _loss(name: str, kept: Kept) -> str:
    if not (kept.vms or kept.parts):
        return f"{name} keeps nothing that the fleet database knows of"
    return (
        f"{name} keeps the history of {counted(kept.vms, 'VM')}, and {counted(kept.parts, 'part')} of histories of "
        f"other nodes' VMs: what no other aggregator has of them is lost"
    )


def _shown_state(node: Node | None, now_s: float) -> str:
    from aggregator.node_row import is_away  # noqa: PLC0415
    from aggregator.node_state import NodeState, state_word  # noqa: PLC0415

    if node is None:
        return "unknown"
    if node.state is not NodeState.STOPPED and is_away(node, now_s):
        return "away"
    return state_word(node.state, is_leaving=node.is_leaving, not_ready=node.not_ready)


def _object(line: _Line) -> dict[str, object]:
    from aggregator.node_row import Node  # noqa: PLC0415

    told = {item.name: getattr(line.node, item.name, None) for item in fields(Node)} | {"node": line.name}
    kept = {"home_vms": line.kept.vms, "parts": line.kept.parts}
    return told | kept | {"shown_as": line.state, "problems": list(line.problems)}


def _cells(line: _Line) -> tuple[str, ...]:
    node, kept = line.node, (str(line.kept.vms), str(line.kept.parts))
    if node is None:
        return (line.name, line.state, "-", *kept, "-", "-", "-", "-", "-")
    free = "-" if node.free_bytes is None else f"{node.free_bytes / (1 << 30):.1f} GiB"
    return (
        line.name,
        line.state,
        time_text(node.seen_s),
        *kept,
        str(node.vms),
        str(node.owed),
        free,
        node.version,
        node.admin_url or "-",
    )
