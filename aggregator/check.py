"""Verifies what is on disk: that each store agrees with itself, the fleet database with the stores, and that the
journal can be read. Changes nothing, and may run beside the daemon: a store is read as of one moment.

All that a store holds is held against the sums that were written with it: SQLite's own check passes most flipped bits.
What it derived is computed again besides, which shows a mistake of ours.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from aggregator import store_schema
from aggregator.check_content import content_problems
from aggregator.journal_format import JournalError, SegmentScanner, segment_number
from aggregator.record import RecordError, decode_record
from aggregator.store_files import as_store_error, connect_read_only, store_path
from aggregator.store_rows import count_rows, ends_of_rows
from aggregator.store_verify import has_checks, problems_of

_MOST_PROBLEMS = 20  # of one store; the rest is counted
_READ_BYTES = 1 << 20
_SELECT_FACTS = "SELECT (SELECT count(*) FROM hour), conflicts, replaced_s, vm_id FROM store WHERE id = 1"


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store holds.

    Attributes:
        size_bytes: of the file.
        first_s, newest_s: ts of the oldest and newest raw row, None without any.
        hours: rollups.
        conflicts: samples refused because another with their ts was first.
        replaced_s: when it took the place of a damaged store, None if it never did.
    """

    vm: str
    path: str
    size_bytes: int
    rows: int
    first_s: int | None
    newest_s: int | None
    hours: int
    conflicts: int
    replaced_s: int | None
    schema_version: int


@dataclass(slots=True)
class JournalFacts:
    """What the journal holds.

    Attributes:
        damaged: runs of bytes that are no record; each hides one record or more.
        torn_bytes: after the last record of the newest segment: a write under way, or cut off by a crash.
    """

    segments: int = 0
    records: int = 0
    samples: int = 0
    damaged: int = 0
    torn_bytes: int = 0
    problems: list[str] = field(default_factory=list)


def read_facts(path: Path, vm_id: str) -> StoreFacts:
    """Raises StoreError: absent, unreadable or not a store."""
    try:
        with closing(connect_read_only(path)) as connection:
            connection.execute("BEGIN")
            hours, conflicts, replaced_s, _ = _facts_row(connection)
            rows = count_rows(connection)
            first_s, newest_s = ends_of_rows(connection) or (None, None)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        size_bytes = path.stat().st_size
    except (sqlite3.Error, OSError, ValueError) as error:
        raise as_store_error(error) from error
    return StoreFacts(
        vm=vm_id,
        path=str(path),
        size_bytes=size_bytes,
        rows=rows,
        first_s=first_s,
        newest_s=newest_s,
        hours=hours,
        conflicts=conflicts,
        replaced_s=replaced_s,
        schema_version=version,
    )


def verify_store(path: Path, vm_id: str, *, quick: bool = False) -> list[str]:
    """What is wrong with a store, in words; empty if nothing is.

    Args:
        quick: leave out computing hours and windows again.
    """
    if not path.exists():
        return ["there is no store"]
    problems: list[str] = []
    try:
        with closing(connect_read_only(path)) as connection:
            connection.execute("BEGIN")
            problems.extend(_verify_file(connection, vm_id))
            # A store of schema 1 has no sums; the next flush of its VM brings it to this program's schema.
            if not problems and has_checks(connection):
                problems.extend(problems_of(connection))
                if not problems and not quick:
                    problems.extend(content_problems(connection, vm_id))
    except (sqlite3.Error, OSError, ValueError) as error:
        problems.append(f"cannot be read: {as_store_error(error)}")
    surplus = len(problems) - _MOST_PROBLEMS
    return problems if surplus <= 0 else [*problems[:_MOST_PROBLEMS], f"and {surplus} more problems"]


def _facts_row(connection: sqlite3.Connection) -> tuple[int, int, int | None, str | None]:
    found: tuple[int, int, int | None, str | None] | None = connection.execute(_SELECT_FACTS).fetchone()
    if found is None:
        raise ValueError("its table `store` is empty")
    return found


def _verify_file(connection: sqlite3.Connection, vm_id: str) -> Iterator[str]:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in store_schema.READABLE:
        yield f"has schema {version}; this program reads {store_schema.SCHEMA_VERSION}"
        return
    for (line,) in connection.execute("PRAGMA quick_check(5)"):
        if line != "ok":
            yield f"SQLite: {line}"
    owner = _facts_row(connection)[-1]
    if owner not in (None, vm_id):
        yield f"says that it belongs to {owner}"


def newest_in_store(path: Path) -> int | None:
    """`ts` of a store's newest row; None without rows or where the store cannot be read."""
    try:
        with closing(connect_read_only(path)) as connection:
            ends = ends_of_rows(connection)
            return None if ends is None else ends[1]
    except (sqlite3.Error, ValueError):
        return None


def compare_summaries(
    before: Mapping[str, int | None],
    summaries: Mapping[str, int],
    after: Mapping[str, int | None],
    owed: Collection[str],
    journal: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """VM → how its summary differs from its store.

    Args:
        before, after: newest row of each store, read before and after the summaries: a daemon may be at work.
        summaries: newest row as the fleet database has it.
        owed: VMs whose summary is known to be still unwritten, or is another node's.
        journal: newest row in the journal, read after the summaries: it waits for its VM's turn to be stored.
    """
    problems: dict[str, str] = {}
    for vm_id in sorted(before.keys() | summaries.keys()):
        earliest_s, latest_s, summary_s = before.get(vm_id), after.get(vm_id), summaries.get(vm_id)
        if vm_id in owed:
            continue
        if summary_s is None:
            if earliest_s is not None:
                problems[vm_id] = "has rows but no summary in the fleet database"
        elif latest_s is None and vm_id not in (journal or {}):
            problems[vm_id] = "has a summary in the fleet database but no readable rows"
        elif not (earliest_s or 0) <= summary_s <= max(latest_s or 0, (journal or {}).get(vm_id, 0)):
            problems[vm_id] = f"the newest row is of {latest_s}, the fleet database says {summary_s}"
    return problems


def verify_summaries(
    data_dir: Path,
    vm_ids: Collection[str],
    *,
    read_summaries: Callable[[], Mapping[str, int]],
    read_owed: Callable[[], Collection[str]],
    read_journal: Callable[[], Mapping[str, int]],
    pause: Callable[[], object],
) -> dict[str, str]:
    """VM → how its summary differs from its store; as `compare_summaries`, of `vm_ids` alone.

    Args:
        pause: called before doubtful VMs are looked at again, since a flush may be between store and summary.
    """

    def compare(wanted: Collection[str]) -> dict[str, str]:
        def newest() -> dict[str, int | None]:
            return {vm_id: newest_in_store(store_path(data_dir, vm_id)) for vm_id in wanted}

        before, owed = newest(), read_owed()
        summaries = {vm_id: newest_s for vm_id, newest_s in read_summaries().items() if vm_id in before}
        # The journal before the stores: rows go from the one to the others.
        journal = read_journal()
        return compare_summaries(before, summaries, newest(), owed, journal)

    problems = compare(vm_ids)
    if problems:
        pause()
        problems = compare(problems)
    return problems


def newest_in_journal(directory: Path) -> dict[str, int]:
    """VM → `ts` of its newest row in the journal; what cannot be read is left out."""
    newest: dict[str, int] = {}
    for _, path in _segments(directory):
        scanner = SegmentScanner(str(path))
        try:
            with path.open("rb") as file:
                for payload in chain(*map(scanner.feed, iter(lambda: file.read(_READ_BYTES), b"")), scanner.finish()):
                    push, _ = decode_record(payload)
                    newest[push.vm] = max(push.newest_ts, newest.get(push.vm, 0))
        except (OSError, JournalError, RecordError):
            continue
    return newest


def _segments(directory: Path) -> list[tuple[int, Path]]:
    numbered = ((segment_number(path.name), path) for path in (directory.iterdir() if directory.is_dir() else ()))
    return sorted((number, path) for number, path in numbered if number is not None)


def verify_journal(directory: Path) -> JournalFacts:
    """Reads every record of the journal, beside the daemon if need be; a segment that goes meanwhile is left out."""
    facts = JournalFacts()
    segments = _segments(directory)
    for number, path in segments:
        try:
            _verify_segment(path, facts, is_newest=number == segments[-1][0])
        except FileNotFoundError:
            continue
        except (OSError, JournalError) as error:
            facts.problems.append(f"{path.name}: {error}")
        facts.segments += 1
    return facts


def _verify_segment(path: Path, facts: JournalFacts, *, is_newest: bool) -> None:
    scanner = SegmentScanner(str(path))
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            _count_records(path, scanner.feed(data), facts)
    _count_records(path, scanner.finish(), facts)
    damaged = scanner.damaged
    if is_newest:
        facts.torn_bytes += scanner.tail_bytes
    else:
        damaged += scanner.tail_bytes > 0
    if damaged:
        facts.problems.append(f"{path.name}: {damaged} damaged places, each of one record or more")
    facts.damaged += damaged


def _count_records(path: Path, payloads: Sequence[bytes], facts: JournalFacts) -> None:
    for payload in payloads:
        try:
            push, _ = decode_record(payload)
        except RecordError as error:
            facts.problems.append(f"{path.name}: {error}")
            continue
        facts.records += 1
        facts.samples += push.count


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found. `problems`: VM → what is wrong with it, in words."""

    stores: int
    problems: Mapping[str, Sequence[str]]
    journal: JournalFacts

    @property
    def is_sound(self) -> bool:
        return not self.problems and not self.journal.problems
