"""`fallow-aggregator join-token` and `vms`: what an admin does to the catalogue from a shell.

SQLAlchemy and the rest load when a command needs them, so that `--help` and the daemon's workers stay light.
"""

from __future__ import annotations

import argparse
import http.client
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.settings import ConfigError, parse_count, parse_duration_s, parse_host_port, read_secret
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
from aggregator.vms_csv import COLUMNS, parse_mail, parse_text

if TYPE_CHECKING:
    from aggregator.catalogue import Catalogue, VmRecord

MAX_TTL_S = 366 * 86_400.0
MAX_USES = 1_000_000
_PAGE = 1_000
_ANSWER_TIMEOUT_S = 60.0


def add_parsers(subparsers: Any) -> None:
    """Adds `join-token` and `vms` to what `argparse.ArgumentParser.add_subparsers` returned.

    Each leaf sets `command`: parsed options → exit code.
    """
    join = _add(
        subparsers,
        "join-token",
        _mint,
        "print a token that lets agents enrol",
        "fallow-aggregator join-token --uses 20 --ttl 2h --owner web-team --mail web@example.org --tag shop",
    )
    join.add_argument("--uses", type=typed(_parse_uses), default=1, metavar="N", help="enrolments it is good for (1)")
    join.add_argument("--ttl", type=typed(_parse_ttl_s), default="24h", help="how long it lives (24h)")
    join.add_argument("--name", type=typed(parse_text), help="display name of the VM that uses it")
    join.add_argument("--owner", type=typed(parse_text), help="owner of the VMs that use it")
    join.add_argument("--mail", type=typed(parse_mail), help="where their owner is written to")
    join.add_argument("--tag", type=typed(_parse_tag), action="append", default=[], help="a tag for them; may repeat")

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


def _mint(options: argparse.Namespace) -> int:
    from aggregator.catalogue import Labels  # noqa: PLC0415

    labels = Labels(name=options.name, owner=options.owner, mail=options.mail, tags=tuple(sorted(set(options.tag))))
    with _writable(options) as catalogue:
        say(catalogue.mint_join_token(now_s=time.time(), ttl_s=options.ttl, uses=options.uses, labels=labels))
    return 0


def _list(options: argparse.Namespace) -> int:
    with _readable(options) as catalogue:
        if options.json:
            _say_json_list(_all_vms(catalogue))
        else:
            say_table(
                ("VM", "NAME", "OWNER", "NEWEST SAMPLE", "FLAGS"), [_cells(record) for record in _all_vms(catalogue)]
            )
    return 0


def _show(options: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415

    with _readable(options) as catalogue:
        record = catalogue.vm(options.vm)
    if record is None:
        complain(f"{options.vm}: no such VM")
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
    with _writable(options) as catalogue:
        result = catalogue.import_csv(text, source=str(options.file))
    say(f"added {result.added}, updated {result.updated}")
    return 0


def _forget(options: argparse.Namespace) -> int:
    data_dir = existing_data_dir(options)
    if options.all != (options.vms == ["*"]):
        raise ConfigError("vms forget: '*' and --all go together, and no other VM beside them")
    if not options.all:
        for vm_id in options.vms:
            _check_vm(vm_id)
    code = 0
    with _writable(options) as catalogue:
        vm_ids = [record.vm for record in _all_vms(catalogue)] if options.all else list(dict.fromkeys(options.vms))
        for vm_id in vm_ids:
            known = _forget_through_daemon(data_dir, vm_id)
            if known is None:
                known = _forget_here(catalogue, data_dir, vm_id)
            if known:
                say(f"forgot {vm_id}")
            else:
                complain(f"{vm_id}: no such VM")
                code = EXIT_FAILED
    return code


def _forget_through_daemon(data_dir: Path, vm_id: str) -> bool | None:
    """Asks the aggregator that runs on this data directory. None: there is none; False: it does not know the VM."""
    from aggregator.problems import Problem, Refused  # noqa: PLC0415

    address_file = data_dir / "admin.address"
    try:
        address = address_file.read_text(encoding="ascii").strip()
        host, port = parse_host_port(address)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{address_file}: {error}") from error
    token = read_secret(data_dir / "admin.token")
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_TIMEOUT_S)
    try:
        connection.request("DELETE", f"/v1/vms/{vm_id}", headers={"Authorization": f"Bearer {token}"})
        status = connection.getresponse().status
    except ConnectionRefusedError:
        return None  # the address outlived a daemon that was killed
    except (OSError, http.client.HTTPException) as error:
        # It may be at work on this VM: two at once on one store is worse than an error.
        raise Refused(Problem(503, "no-answer", f"the aggregator at {address} did not answer: {error}")) from error
    finally:
        connection.close()
    if status not in {204, 404}:
        raise Refused(
            Problem(status, "refused", f"the aggregator at {address} answered {status} to forgetting {vm_id}")
        )
    return status == 204


def _forget_here(catalogue: Catalogue, data_dir: Path, vm_id: str) -> bool:
    from aggregator.catalogue import UnknownVmError, delete_store  # noqa: PLC0415
    from aggregator.store_files import store_path  # noqa: PLC0415

    try:
        catalogue.forget(vm_id, now_s=time.time())
    except UnknownVmError:
        return False
    delete_store(store_path(data_dir, vm_id))
    return True


@contextmanager
def _writable(options: argparse.Namespace) -> Iterator[Catalogue]:
    from aggregator.catalogue import Catalogue  # noqa: PLC0415
    from aggregator.fleet_db import migrate_if_new, open_fleet  # noqa: PLC0415

    engine = open_fleet(options.fleet_url, existing_data_dir(options))
    try:
        migrate_if_new(engine)
        yield Catalogue(engine)
    finally:
        engine.dispose()


@contextmanager
def _readable(options: argparse.Namespace) -> Iterator[Catalogue]:
    from aggregator.catalogue import Catalogue  # noqa: PLC0415
    from aggregator.fleet_db import open_fleet_read_only  # noqa: PLC0415

    engine = open_fleet_read_only(options.fleet_url, existing_data_dir(options))
    try:
        yield Catalogue(engine)
    finally:
        engine.dispose()


def _all_vms(catalogue: Catalogue) -> Iterator[VmRecord]:
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


def _parse_uses(text: str) -> int:
    uses = parse_count(text)
    if uses > MAX_USES:
        raise ValueError(f"{uses} is more than {MAX_USES}")
    return uses


def _parse_ttl_s(text: str) -> float:
    ttl_s = parse_duration_s(text)
    if ttl_s > MAX_TTL_S:
        raise ValueError(f"{text!r} is more than {MAX_TTL_S / 86_400:g}d")
    return ttl_s


def _parse_tag(text: str) -> str:
    tag = parse_text(text)
    if tag is None or ";" in tag:
        raise ValueError(f"{text!r} is not a tag")
    return tag


def _check_vm(text: str) -> None:
    try:
        parse_vm(text)
    except ValueError as error:
        raise ConfigError(f"vms forget: {error}") from error
