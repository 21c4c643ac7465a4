"""`fallow-aggregator nodes` and `drain`: the aggregators of a fleet, and taking one out of it.

SQLAlchemy and the rest load when a command needs them, so that `--help` and the daemon's workers stay light.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent.settings import ConfigError
from aggregator.cli import (
    EXIT_FAILED,
    EXIT_UNREACHABLE,
    add_command,
    add_fleet_url,
    complain,
    existing_data_dir,
    say,
    say_table,
    time_text,
    typed,
)
from aggregator.node_name import parse_node_name
from aggregator.vms_cli import reading_engine, writing_engine

if TYPE_CHECKING:
    from aggregator.nodes import Node

_ANSWERED = frozenset({200})


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
        "fallow-aggregator drain --undo",
    )
    drain.add_argument("--undo", action="store_true", help="take it back")


def _list(options: argparse.Namespace) -> int:
    from aggregator.nodes import Nodes  # noqa: PLC0415

    with reading_engine(options) as engine:
        found = Nodes(engine).all()
    now_s = time.time()
    if options.json:
        say(json.dumps([asdict(node) | {"shown_as": _shown_state(node, now_s)} for node in found]))
    else:
        say_table(
            ("NODE", "STATE", "SEEN", "VMS", "OWED", "FREE", "VERSION", "AT"), [_cells(node, now_s) for node in found]
        )
    return 0


def _forget(options: argparse.Namespace) -> int:
    from aggregator.nodes import NodeRunsError, Nodes, UnknownNodeError  # noqa: PLC0415

    if not options.yes:
        raise ConfigError("nodes forget: --yes is needed: histories that this aggregator alone had are lost")
    with writing_engine(options) as engine:
        try:
            vms = Nodes(engine).forget(options.name, time.time())
        except (UnknownNodeError, NodeRunsError) as error:
            complain(str(error))
            return EXIT_FAILED
    say(f"forgot {options.name}, which kept the history of {vms} VMs")
    return 0


def _drain(options: argparse.Namespace) -> int:
    from aggregator.daemon_door import ask_daemon  # noqa: PLC0415

    data_dir = existing_data_dir(options)
    target = "/v1/undrain" if options.undo else "/v1/drain"
    if ask_daemon(data_dir, "POST", target, of=_ANSWERED) is None:
        complain(f"no aggregator runs on {data_dir}")
        return EXIT_UNREACHABLE
    say("up" if options.undo else "draining")
    return 0


def _shown_state(node: Node, now_s: float) -> str:
    from aggregator.nodes import NodeState, is_away  # noqa: PLC0415

    if node.state is not NodeState.STOPPED and is_away(node, now_s):
        return "away"
    return "not ready" if node.not_ready and node.state is NodeState.UP else node.state.value


def _cells(node: Node, now_s: float) -> tuple[str, ...]:
    free = "-" if node.free_bytes is None else f"{node.free_bytes / (1 << 30):.1f} GiB"
    return (
        node.node,
        _shown_state(node, now_s),
        time_text(node.seen_s),
        str(node.vms),
        str(node.owed),
        free,
        node.version,
        node.admin_url or "-",
    )
