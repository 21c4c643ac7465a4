"""`fallow-aggregator inventory …`: what exists, for fleets without a controller that tells it."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.settings import ConfigError
from aggregator.cli import add_command, add_fleet_url, counted, existing_data_dir, say, say_table, time_text
from aggregator.vms_cli import reading_engine, writing_engine

_COLUMNS = "vm, macs (a;b), pool, host"


def add_parsers(subparsers: Any) -> None:
    """Adds `inventory` to what `argparse.ArgumentParser.add_subparsers` returned."""
    inventory = subparsers.add_parser("inventory", help="which VMs exist: enrolments are checked against it")
    commands = inventory.add_subparsers(dest="inventory_command", required=True, metavar="COMMAND")
    put = add_command(
        commands,
        "import",
        _import,
        "replace what one source knows by a CSV file",
        "fallow-aggregator inventory import vms.csv",
        "fallow-aggregator inventory import rack-7.csv --source rack-7",
    )
    put.add_argument("file", metavar="FILE.csv", type=Path, help=f"columns: {_COLUMNS}; vm is required")
    put.add_argument("--source", metavar="NAME", default="csv", help="whose rows it replaces (csv)")
    put.add_argument("--empty", action="store_true", help="take a file without a VM: the source knows none any more")
    listing = add_command(
        commands, "list", _list, "list every VM of every source", "fallow-aggregator inventory list --json"
    )
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    for parser in (put, listing):
        add_fleet_url(parser)


def _import(options: argparse.Namespace) -> int:
    from aggregator.inventory import Inventory, parse_inventory_csv, parse_source  # noqa: PLC0415

    existing_data_dir(options)
    source = parse_source(options.source)
    try:
        text = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{options.file}: {error}") from error
    rows = parse_inventory_csv(text, source=str(options.file))
    if not rows and not options.empty:
        # An export that went wrong would end the check of enrolments, and nobody would see it.
        raise ConfigError(f"{options.file}: names no VM: --empty where {source} is to know none any more")
    with writing_engine(options) as engine:
        put = Inventory(engine).put(source, rows, time.time())
    say(f"{source}: {counted(put, 'VM')}")
    return 0


def _list(options: argparse.Namespace) -> int:
    from aggregator.inventory import Inventory  # noqa: PLC0415

    with reading_engine(options) as engine:
        rows = Inventory(engine).rows()
    if options.json:
        say(json.dumps([asdict(row) for row in rows]))
    else:
        say_table(
            ("VM", "SOURCE", "POOL", "HOST", "MACS", "SEEN"),
            [
                (
                    row.vm,
                    row.source,
                    row.pool or "-",
                    row.host or "-",
                    ", ".join(row.macs) or "-",
                    time_text(row.seen_s),
                )
                for row in rows
            ],
        )
    return 0
