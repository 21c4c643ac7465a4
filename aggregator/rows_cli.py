"""`fallow-aggregator rows`: the raw rows of a store as text, from its file alone."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.sample import FIELDS
from agent.settings import ConfigError
from aggregator.cli import EXIT_FAILED, add_command, complain, existing_data_dir, parse_vm, say, typed

_LONGEST_S = 100 * 366 * 86_400
_COLUMNS = ("ts", "interval_s", *(field.name for field in FIELDS))


def add_parsers(subparsers: Any) -> None:
    """Adds `rows` to what `argparse.ArgumentParser.add_subparsers` returned; sets `command`: options → exit code."""
    rows = add_command(
        subparsers,
        "rows",
        _rows,
        "print the raw rows of a VM's store, in units of the wire, as CSV",
        "fallow-aggregator rows vm-17 --from 2026-11-20T08:00 --to 2026-11-20T09:00",
        "fallow-aggregator rows --file /srv/old/vm-17.db --json",
    )
    rows.add_argument("vm", metavar="VM", nargs="?", type=typed(parse_vm), help="whose store in the data directory")
    rows.add_argument(
        "--file", metavar="FILE", type=Path, help="a store anywhere else, one that was set aside included"
    )
    rows.add_argument(
        "--from",
        dest="from_s",
        metavar="TIME",
        type=typed(parse_time),
        help="samples that end after this: 2026-11-20T08:00, in UTC where it names no offset, or Unix seconds",
    )
    rows.add_argument("--to", dest="to_s", metavar="TIME", type=typed(parse_time), help="and not after this")
    form = rows.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="a line a row below one of names, the default")
    form.add_argument("--json", action="store_true", help="print a JSON object: rows, null for what was not measured")


def parse_time(text: str) -> int:
    """Unix seconds of a time as people write it. Raises: ValueError."""
    if text.isascii() and text.isdigit():
        return int(text[:20])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time such as 2026-11-20T08:00, nor Unix seconds") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _rows(options: argparse.Namespace) -> int:
    from aggregator.store_files import StoreError, read_samples, store_path  # noqa: PLC0415

    if (options.vm is None) == (options.file is None):
        raise ConfigError("VM: name either a VM or a --file")
    path: Path = options.file or store_path(existing_data_dir(options), options.vm)
    from_s, to_s = _span(options)
    if not path.is_file():
        complain(f"{path}: there is no store")
        return EXIT_FAILED
    try:
        rows = read_samples(path, from_s + 1, to_s)
    except StoreError as error:
        complain(f"{path}: {error}")
        return EXIT_FAILED
    if options.json:
        say(json.dumps({"rows": rows}))
        return 0
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([row[name] for name in _COLUMNS] for row in rows)
    return 0


def _span(options: argparse.Namespace) -> tuple[int, int]:
    """The span asked for; all there is without one. Raises: ConfigError."""
    from_s = 0 if options.from_s is None else options.from_s
    to_s = 1 << 40 if options.to_s is None else options.to_s
    if to_s <= from_s:
        raise ConfigError("--to: is not after --from")
    if options.from_s is not None and options.to_s is not None and to_s - from_s > _LONGEST_S:
        raise ConfigError("--to: is more than 100 years after --from")
    return from_s, to_s
