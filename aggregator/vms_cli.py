"""`fallow-aggregator vms`: what an admin does to the catalogue from a shell.

SQLAlchemy and the rest load when a command needs them, so that `--help` and the daemon's workers stay light.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.settings import ConfigError
from aggregator.cli import (
    EXIT_FAILED,
    Command,
    add_command,
    add_fleet_url,
    complain,
    existing_data_dir,
    parse_vm,
    say,
    say_table,
    time_text,
    typed,
)
from aggregator.vms_csv import COLUMNS

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from aggregator.catalogue import Catalogue, VmRecord

_PAGE = 1_000
_UNKNOWN = "no such VM"
_FORGET_ANSWERS = frozenset({202, 204, 404})


def add_parsers(subparsers: Any) -> None:
    """Adds `vms` to what `argparse.ArgumentParser.add_subparsers` returned.

    Each leaf sets `command`: parsed options → exit code.
    """
    vms = subparsers.add_parser("vms", help="list, show, label and forget VMs").add_subparsers(
        dest="vms_command", required=True, metavar="COMMAND"
    )
    listing = _add(vms, "list", _list, "list every VM", "fallow-aggregator vms list --json")
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    show = _add(vms, "show", _show, "show one VM", "fallow-aggregator vms show 6f9c2b1e-0c52-4bd5-a8f5-7cbb1d7f5a01")
    show.add_argument("vm", metavar="VM", type=typed(parse_vm))
    show.add_argument("--json", action="store_true", help="print a JSON object")
    labels = _add(vms, "import", _import, "take over labels from a CSV file", "fallow-aggregator vms import fleet.csv")
    labels.add_argument("file", metavar="FILE.csv", type=Path, help=f"columns: {', '.join(COLUMNS)}; tags as a;b")
    forget = _add(vms, "forget", _forget, "delete VMs with all their samples", "fallow-aggregator vms forget vm-17")
    forget.add_argument("vms", metavar="VM", nargs="+", help="ids; '*' with --all is every VM")
    forget.add_argument("--all", action="store_true", help="mean it: '*' is every VM")


def _add(subparsers: Any, name: str, command: Command, summary: str, example: str) -> argparse.ArgumentParser:
    parser = add_command(subparsers, name, command, summary, example)
    add_fleet_url(parser)
    return parser


def _list(options: argparse.Namespace) -> int:
    with readable(options) as catalogue:
        if options.json:
            _say_json_list(all_vms(catalogue))
        else:
            say_table(
                ("VM", "NAME", "OWNER", "NEWEST SAMPLE", "FLAGS"), [_cells(record) for record in all_vms(catalogue)]
            )
    return 0


def _show(options: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415

    with readable(options) as catalogue:
        record = catalogue.vm(options.vm)
    if record is None:
        complain(f"{options.vm}: {_UNKNOWN}")
        return EXIT_FAILED
    if options.json:
        say(msgspec.json.encode(record).decode())
        return 0
    for name, value in msgspec.to_builtins(record).items():
        say(f"{name}: {_readable_value(name, value)}")
    return 0


def _import(options: argparse.Namespace) -> int:
    existing_data_dir(options)
    try:
        text = options.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{options.file}: {error}") from error
    with writable(options) as catalogue:
        result = catalogue.import_csv(text, source=str(options.file))
    say(f"added {result.added}, updated {result.updated}")
    return 0


def _forget(options: argparse.Namespace) -> int:
    data_dir = existing_data_dir(options)
    chosen = chosen_vms("vms forget", options.vms, everything=options.all)
    code = 0
    with writable(options) as catalogue:
        for vm_id in [record.vm for record in all_vms(catalogue)] if chosen is None else chosen:
            problem = _forget_one(catalogue, data_dir, vm_id)
            if problem is None:
                say(f"forgot {vm_id}")
            else:
                complain(f"{vm_id}: {problem}")
                code = EXIT_FAILED
    return code


def _forget_one(catalogue: Catalogue, data_dir: Path, vm_id: str) -> str | None:
    """Through the aggregator that runs on this data directory, if one does. None: forgotten; else what is not."""
    from aggregator.daemon_door import ask_daemon  # noqa: PLC0415

    # Two at once on one store is worse than an error: one that does not answer may be at work on this VM.
    status = ask_daemon(data_dir, "DELETE", f"/v1/vms/{vm_id}", of=_FORGET_ANSWERS)
    if status is None:
        return _forget_here(catalogue, data_dir, vm_id)
    stays = "forgotten, but its store here could not be deleted: the aggregator's log says why, and it tries again"
    return {202: stays, 404: _UNKNOWN}.get(status)


def _forget_here(catalogue: Catalogue, data_dir: Path, vm_id: str) -> str | None:
    from aggregator.catalogue import UnknownVmError  # noqa: PLC0415
    from aggregator.store_files import store_path  # noqa: PLC0415
    from aggregator.store_life import drop_life  # noqa: PLC0415

    try:
        life = catalogue.forget(vm_id, now_s=time.time())
    except UnknownVmError:
        return _UNKNOWN
    problem = drop_life(store_path(data_dir, vm_id), life).problem
    return problem and f"forgotten, but the aggregator must delete its store, which it does when it starts: {problem}"


def chosen_vms(command: str, vms: list[str], *, everything: bool) -> list[str] | None:
    """The VMs that a command line names, each once; None: all there are.

    Raises: ConfigError: '*' without --all, or --all without it; or not an id.
    """
    if everything != (vms == ["*"]):
        raise ConfigError(f"{command}: '*' and --all go together, and no other VM beside them")
    if everything:
        return None
    for vm_id in vms:
        try:
            parse_vm(vm_id)
        except ValueError as error:
            raise ConfigError(f"{command}: {error}") from error
    return list(dict.fromkeys(vms))


@contextmanager
def writing_engine(options: argparse.Namespace) -> Iterator[Engine]:
    """The fleet database of a command line, made where there is none and no aggregator ran yet."""
    from aggregator.fleet_db import migrate_if_new, open_fleet  # noqa: PLC0415
    from aggregator.fleet_place import has_run  # noqa: PLC0415

    data_dir = existing_data_dir(options)
    # Before the first start of an aggregator its database may be made here; after it, it would be one more.
    engine = open_fleet(options.fleet_url, data_dir, must_exist=options.fleet_url is None and has_run(data_dir))
    try:
        migrate_if_new(engine)
        yield engine
    finally:
        engine.dispose()


@contextmanager
def reading_engine(options: argparse.Namespace) -> Iterator[Engine]:
    """The fleet database of a command line, which cannot be written through this."""
    from aggregator.fleet_db import open_fleet_read_only  # noqa: PLC0415

    engine = open_fleet_read_only(options.fleet_url, existing_data_dir(options))
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def writable(options: argparse.Namespace) -> Iterator[Catalogue]:
    """The catalogue on `writing_engine`."""
    from aggregator.catalogue import Catalogue  # noqa: PLC0415

    with writing_engine(options) as engine:
        yield Catalogue(engine)


@contextmanager
def readable(options: argparse.Namespace) -> Iterator[Catalogue]:
    """The catalogue on `reading_engine`."""
    from aggregator.catalogue import Catalogue  # noqa: PLC0415

    with reading_engine(options) as engine:
        yield Catalogue(engine)


def all_vms(catalogue: Catalogue) -> Iterator[VmRecord]:
    """Every VM by id, read a page at a time."""
    page = catalogue.vms(limit=_PAGE)
    while page:
        yield from page
        page = catalogue.vms(after=page[-1].vm, limit=_PAGE)


def _cells(record: VmRecord) -> tuple[str, ...]:
    name = record.name or record.hostname or "-"
    return record.vm, name, record.owner or "-", time_text(record.newest_s), ",".join(record.flags) or "-"


def _readable_value(name: str, value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key}={part}" for key, part in value.items()) or "-"
    if isinstance(value, int | float) and name in {"enrolled_s", "oldest_s", "newest_s", "received_s"}:
        return f"{value} ({time_text(value)})"
    return "-" if value is None else str(value)


def _say_json_list(records: Iterable[VmRecord]) -> None:
    import msgspec  # noqa: PLC0415

    separator = "["
    for record in records:
        say(separator + msgspec.json.encode(record).decode(), end="")
        separator = ",\n"
    say("]" if separator != "[" else "[]")
