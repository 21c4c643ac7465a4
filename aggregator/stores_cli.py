"""`fallow-aggregator stores`, `check`, `backup` and `restore`: looking after what is on disk.

What does the work loads when a command needs it, so that `--help` and the daemon's workers stay light.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.settings import ConfigError
from aggregator.cli import (
    EXIT_FAILED,
    add_command,
    add_fleet_url,
    complain,
    counted,
    existing_data_dir,
    parse_vm,
    say,
    say_table,
    time_text,
    typed,
)

if TYPE_CHECKING:
    from aggregator.backup import Copied
    from aggregator.check import CheckReport

_PROGRESS_EVERY_S = 0.2
_LOOK_AGAIN_S = 1.0  # longer than a flush takes from the stores of a chunk to their summaries
_ONE = {"stores": "store", "size_bytes": "byte", "rows": "row", "hours": "hour", "conflicts": "conflict"}
_STORE_COLUMNS = ("VM", "BYTES", "ROWS", "FIRST", "NEWEST", "HOURS", "CONFLICTS", "SCHEMA", "PATH")


def add_parsers(subparsers: Any) -> None:
    """Adds `stores`, `check`, `backup` and `restore` to what `argparse.ArgumentParser.add_subparsers` returned.

    Each sets `command`: parsed options → exit code.
    """
    stores = add_command(
        subparsers, "stores", _stores, "list the stores and what they hold", "fallow-aggregator stores --json"
    )
    stores.add_argument("--json", action="store_true", help="print a JSON object: stores, unreadable, totals")
    stores.add_argument("--vm", type=typed(parse_vm), action="append", metavar="ID", help="this VM only; may repeat")
    stores.add_argument(
        "--accept",
        action="store_true",
        help="with --vm: its store was lost and begun anew, you know why, and its figures count again (clears the flag "
        "store_replaced with its next samples)",
    )

    check = add_command(
        subparsers,
        "check",
        _check,
        "verify stores, summaries and journal; changes nothing; exit 1 if anything is wrong",
        "fallow-aggregator check --quick",
        "fallow-aggregator check 6f9c2b1e-0c52-4bd5-a8f5-7cbb1d7f5a01",
    )
    check.add_argument("vms", metavar="VM", nargs="*", type=typed(parse_vm), help="these VMs only; default all")
    check.add_argument("--json", action="store_true", help="print a JSON object")
    add_fleet_url(check)
    check.add_argument(
        "--quick", action="store_true", help="do not recompute hours and windows from raw rows; sums are verified"
    )

    backup = add_command(
        subparsers,
        "backup",
        _backup,
        "copy the data directory while the daemon may run",
        "fallow-aggregator backup /srv/backup/fallow-2026-11-21",
    )
    backup.add_argument("target", metavar="DIR", type=Path, help="absent or empty; gets secrets, so mode 0700")

    restore = add_command(
        subparsers,
        "restore",
        _restore,
        "put a backup into an empty data directory",
        "fallow-aggregator restore /srv/backup/fallow-2026-11-21 --data /var/lib/fallow",
    )
    restore.add_argument("backup", metavar="BACKUP", type=Path, help="what `backup` made")


def _stores(options: argparse.Namespace) -> int:
    from aggregator.check import read_facts  # noqa: PLC0415
    from aggregator.store_files import StoreError, list_stores, store_path  # noqa: PLC0415

    data_dir = existing_data_dir(options)
    if options.accept and not options.vm:
        raise ConfigError("--accept: name each VM with --vm")
    if options.accept and not _accepted(data_dir, options.vm):
        return EXIT_FAILED
    paths = {vm_id: store_path(data_dir, vm_id) for vm_id in options.vm} if options.vm else list_stores(data_dir)
    found, unreadable = [], {}
    with _progress("stores read") as progress:
        for index, (vm_id, path) in enumerate(paths.items()):
            progress(index, len(paths))
            try:
                found.append(read_facts(path, vm_id))
            except StoreError as error:
                unreadable[vm_id] = str(error)
    totals = {
        "stores": len(found),
        "size_bytes": sum(facts.size_bytes for facts in found),
        "rows": sum(facts.rows for facts in found),
        "hours": sum(facts.hours for facts in found),
        "conflicts": sum(facts.conflicts for facts in found),
    }
    if options.json:
        say(json.dumps({"stores": [asdict(facts) for facts in found], "unreadable": unreadable, "totals": totals}))
    else:
        cells: list[tuple[str, ...]] = [
            (
                *(facts.vm, str(facts.size_bytes), str(facts.rows), time_text(facts.first_s)),
                *(time_text(facts.newest_s), str(facts.hours), str(facts.conflicts), str(facts.schema_version)),
                facts.path,
            )
            for facts in found
        ]
        say_table(_STORE_COLUMNS, cells)
        say("total: " + ", ".join(counted(count, _ONE[name]) for name, count in totals.items()))
        complain(*(f"{vm_id}: {why}" for vm_id, why in unreadable.items()))
    return EXIT_FAILED if unreadable else 0


def _accepted(data_dir: Path, vm_ids: list[str]) -> bool:
    from aggregator.store import accept  # noqa: PLC0415
    from aggregator.store_files import StoreError, store_path  # noqa: PLC0415

    for vm_id in vm_ids:
        try:
            was_replaced = accept(store_path(data_dir, vm_id), vm_id)
        except StoreError as error:
            complain(f"{vm_id}: {error}")
            return False
        if not was_replaced:
            complain(f"{vm_id}: its store was never lost: nothing to accept")
    return True


def _check(options: argparse.Namespace) -> int:
    from aggregator.check import CheckReport, verify_journal, verify_store  # noqa: PLC0415
    from aggregator.fleet_place import HOW_TO_NAME_IT  # noqa: PLC0415
    from aggregator.store_files import list_stores, store_path  # noqa: PLC0415

    data_dir = existing_data_dir(options)
    summaries = _summaries(data_dir, options.fleet_url)
    paths = list_stores(data_dir)
    mine = summaries()[0] if summaries else {}
    vm_ids = options.vms or sorted(paths.keys() | mine.keys())
    problems: dict[str, list[str]] = {}
    with _progress("stores checked") as progress:
        for index, vm_id in enumerate(vm_ids):
            progress(index, len(vm_ids))
            found = verify_store(store_path(data_dir, vm_id), vm_id, quick=options.quick)
            lies_at = paths.get(vm_id, store_path(data_dir, vm_id))
            if lies_at != store_path(data_dir, vm_id):
                found.append(f"lies at {lies_at}, where nothing looks for it")
            if found:
                problems[vm_id] = found
    if summaries is None:
        complain(f"{data_dir}: {_no_database(data_dir)}, so summaries were not compared: {HOW_TO_NAME_IT}")
    else:
        for vm_id, problem in _summary_problems(data_dir, vm_ids, summaries).items():
            problems.setdefault(vm_id, []).append(problem)
    report = CheckReport(len(vm_ids), problems, verify_journal(data_dir / "journal"))
    _say_report(report, as_json=options.json)
    return 0 if report.is_sound else EXIT_FAILED


_Summaries = Callable[[], tuple[dict[str, int], set[str]]]


def _summaries(data_dir: Path, fleet_url: str | None) -> _Summaries | None:
    """Reads what the fleet database has: the newest row of each VM at home here, and the VMs at home elsewhere.

    A VM without a home is at home here if its store here has rows, or as long as there is no node. One whose history
    another node may still have as a whole counts as at home there. None where there is no such database.
    """
    import sqlalchemy as sa  # noqa: PLC0415

    from aggregator.check import newest_in_store  # noqa: PLC0415
    from aggregator.fleet import node as nodes  # noqa: PLC0415
    from aggregator.fleet import vm_summary  # noqa: PLC0415
    from aggregator.fleet_db import FILE_NAME, open_fleet_read_only, reading  # noqa: PLC0415
    from aggregator.fleet_place import elsewhere  # noqa: PLC0415
    from aggregator.node_name import NODE_FILE_NAME  # noqa: PLC0415
    from aggregator.parts import may_be_elsewhere  # noqa: PLC0415
    from aggregator.store_files import store_path  # noqa: PLC0415

    if fleet_url is None and (elsewhere(data_dir) or not (data_dir / FILE_NAME).exists()):
        return None
    engine = open_fleet_read_only(fleet_url, data_dir)
    name = data_dir / NODE_FILE_NAME
    here = name.read_text(encoding="utf-8").strip() if name.exists() else ""

    def read() -> tuple[dict[str, int], set[str]]:
        columns = (vm_summary.c.vm_id, vm_summary.c.newest_s, vm_summary.c.node, may_be_elsewhere())
        with reading(engine) as connection:
            rows = connection.execute(sa.select(*columns)).all()
            has_nodes = connection.scalar(sa.select(nodes.c.node).limit(1)) is not None
        engine.dispose()

        def is_here(vm_id: str, home: str) -> bool:
            return home == here if home else not has_nodes or newest_in_store(store_path(data_dir, vm_id)) is not None

        mine = {vm_id: newest_s for vm_id, newest_s, home, is_split in rows if not is_split and is_here(vm_id, home)}
        return mine, {row.vm_id for row in rows} - mine.keys()

    return read


def _no_database(data_dir: Path) -> str:
    """Why there is nothing to read of a fleet database that nobody named."""
    from aggregator.fleet_place import elsewhere  # noqa: PLC0415

    place = elsewhere(data_dir)
    return "holds no fleet database" if place is None else f"its fleet database is elsewhere ({place})"


def _summary_problems(data_dir: Path, vm_ids: list[str], read: _Summaries) -> dict[str, str]:
    from aggregator.check import newest_in_journal, verify_summaries  # noqa: PLC0415
    from aggregator.pending import PendingSummaries  # noqa: PLC0415

    return verify_summaries(
        data_dir,
        vm_ids,
        read_summaries=lambda: read()[0],
        read_owed=lambda: PendingSummaries(data_dir / "summaries.pending").vm_ids | read()[1],
        read_journal=lambda: newest_in_journal(data_dir / "journal"),
        pause=lambda: time.sleep(_LOOK_AGAIN_S),
    )


def _say_report(report: CheckReport, *, as_json: bool) -> None:
    if as_json:
        say(json.dumps({"sound": report.is_sound, **asdict(report)}))
        return
    for vm_id, problems in report.problems.items():
        for problem in problems:
            say(f"{vm_id}: {problem}")
    journal = report.journal
    for problem in journal.problems:
        say(f"journal: {problem}")
    say(
        f"checked {counted(report.stores, 'store')}, {len(report.problems)} with problems; "
        f"journal: {counted(journal.segments, 'segment')}, {counted(journal.records, 'record')}, "
        f"{counted(journal.samples, 'sample')}, {counted(journal.damaged, 'damaged place')}"
    )


def _backup(options: argparse.Namespace) -> int:
    from aggregator.backup import BackupError, back_up  # noqa: PLC0415
    from aggregator.fleet_db import FILE_NAME  # noqa: PLC0415
    from aggregator.fleet_place import elsewhere  # noqa: PLC0415

    data_dir = existing_data_dir(options)
    try:
        with _progress("stores copied") as progress:
            copied = back_up(data_dir, options.target, now_s=time.time(), progress=progress)
    except BackupError as error:
        complain(*error.problems)
        return EXIT_FAILED
    if elsewhere(data_dir) or not (data_dir / FILE_NAME).exists():
        complain(f"{data_dir}: {_no_database(data_dir)}; where it lies elsewhere, back it up there")
    damaged = _damaged(options.target)
    complain(*copied.problems, *damaged)
    say(f"copied {_amount(copied)} to {options.target}")
    return EXIT_FAILED if copied.problems or damaged else 0


def _damaged(target: Path) -> list[str]:
    """Stores of a fresh backup that hold what was not written so: the copy is only as good as they were."""
    from aggregator.check import verify_store  # noqa: PLC0415
    from aggregator.store_files import list_stores  # noqa: PLC0415

    paths = list_stores(target)
    problems = []
    with _progress("copies verified") as progress:
        for index, (vm_id, path) in enumerate(paths.items()):
            progress(index, len(paths))
            problems += [
                f"{vm_id}: copied, but damaged: {problem}" for problem in verify_store(path, vm_id, quick=True)
            ]
    return problems


def _restore(options: argparse.Namespace) -> int:
    from aggregator.backup import BackupError, restore  # noqa: PLC0415

    data_dir: Path = options.data
    if data_dir.exists() and not data_dir.is_dir():
        raise ConfigError(f"--data: {data_dir} is not a directory")
    try:
        with _progress("files restored") as progress:
            copied = restore(options.backup, data_dir, progress=progress)
    except BackupError as error:
        complain(*error.problems)
        return EXIT_FAILED
    complain(*(f"the backup lacks {problem}" for problem in copied.problems))
    say(f"restored {_amount(copied)} to {data_dir}")
    return 0


def _amount(copied: Copied) -> str:
    parts = {"store": copied.stores, "file": len(copied.files), "byte": copied.size_bytes}
    return ", ".join(counted(count, noun) for noun, count in parts.items())


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A line on a terminal that counts: called with (done, of all); gone when the work is."""
    stream, shown_s = sys.stderr, 0.0

    def show(done: int, of_all: int) -> None:
        nonlocal shown_s
        if stream.isatty() and time.monotonic() - shown_s >= _PROGRESS_EVERY_S:
            shown_s = time.monotonic()
            stream.write(f"\r{done} of {of_all} {what}\x1b[K")
            stream.flush()

    try:
        yield show
    finally:
        if shown_s:
            stream.write("\r\x1b[K")
