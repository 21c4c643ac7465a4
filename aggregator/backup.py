"""A consistent copy of a data directory while the daemon runs, and the way back.

The order of copying is what makes it consistent:

1. every journal segment that is there. The newest may end in the middle of a record; recovery cuts that off;
2. every store, by SQLite's online backup;
3. the fleet database likewise, the key files, and the note of summaries that are owed;
4. `MANIFEST.json`, with the size and SHA-256 of each file: a backup without it did not finish.

A segment goes only once the stores hold all of it, and the stores are copied after the segments. So everything that
was acknowledged before the start is in the copy: in a segment, or, if its segment went before or while it was copied,
in a store. What came later may be in it. A sample that is in both is stored once: replay is idempotent.

A flush may put rows into a store before the copy and their summary into the fleet database after it. Therefore the
copy owes the summary of every VM, and the first flush after a restore derives them again.

The copy holds secrets and is readable by its owner alone; a restore brings back the permissions of each file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from agent.settings import ConfigError
from aggregator.data_lock import DataDirectoryBusyError, lock_data_directory
from aggregator.fleet_db import BUSY_TIMEOUT_S, FILE_NAME
from aggregator.fleet_place import NOTE_FILE_NAME
from aggregator.journal_format import segment_number
from aggregator.node_name import NODE_FILE_NAME
from aggregator.store_files import connect_read_only
from aggregator.tokens import KEY_FILE_NAME, sync_directory

MANIFEST_NAME = "MANIFEST.json"
FORMAT = 1

_JOURNAL, _STORES, _OWED, _LOCK = "journal", "stores", "summaries.pending", "lock"
# Without its name a restored directory would be another node, and its VMs at home nowhere.
_KEPT_FILES = (KEY_FILE_NAME, "admin.token", NODE_FILE_NAME, NOTE_FILE_NAME)
_STAGING = "restore.partial"
_PIECE_BYTES = 1 << 20

Progress = Callable[[int, int], None]


class BackupError(Exception):
    """A backup or restore that cannot be done. `problems` names each file and what is wrong with it."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a backup: path below its directory, permissions of the original, contents."""

    path: str
    mode: int
    size_bytes: int
    sha256: str


@dataclass(slots=True)
class Copied:
    """What a backup or restore has done. `problems`: stores that could not be copied, and why."""

    files: list[Entry] = field(default_factory=list)
    stores: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.files)


def back_up(data_dir: Path, target: Path, *, now_s: float, progress: Progress) -> Copied:
    """Copies a data directory into `target`, durably.

    Args:
        target: absent or empty.
        progress: called with (stores copied, stores) now and then.

    Returns: what was copied; a store that cannot be read is among its problems, and everything else is there.

    Raises: BackupError: the target is not empty, or something that every restore needs cannot be copied.
    """
    _make_empty(target)
    copied = Copied()
    try:
        _copy_journal(data_dir, target, copied)
        _copy_stores(data_dir, target, copied, progress)
        if (data_dir / FILE_NAME).exists():
            # A reader that may not write would leave the files of the write-ahead log behind, its own.
            fleet = sqlite3.connect(data_dir / FILE_NAME, isolation_level=None, timeout=BUSY_TIMEOUT_S)
            copied.files.append(_copy_database(fleet, data_dir, target, FILE_NAME))
        for name in _KEPT_FILES:
            if (data_dir / name).exists():
                copied.files.append(_copy_file(data_dir, target, name))
        copied.files.append(_write_owed(data_dir, target, copied))
        _sync_directories(target)
        _write_manifest(target, copied, now_s)
    except (OSError, sqlite3.Error) as error:
        raise BackupError(f"{target}: the backup did not finish: {error}") from error
    return copied


def restore(backup: Path, data_dir: Path, *, progress: Progress) -> Copied:
    """Puts a backup into a data directory, durably, after comparing each file with the manifest.

    Args:
        data_dir: absent or empty.
        progress: called with (files copied, files) now and then.

    Raises: BackupError: no whole backup (every file that is missing or changed is named), the data directory is not
        empty, a daemon holds it, or the disk fails. Nothing but the lock file is left in it then.
    """
    entries, problems = read_manifest(backup)
    try:
        lock = lock_data_directory(data_dir)
    except (DataDirectoryBusyError, ConfigError) as error:
        raise BackupError(str(error)) from error
    try:
        taken = sorted(path.name for path in data_dir.iterdir() if path.name != _LOCK)
        if taken:
            raise BackupError(f"{data_dir}: is not empty: {', '.join(taken[:5])}")
        _stage(backup, data_dir / _STAGING, entries, progress)
        for path in sorted((data_dir / _STAGING).iterdir()):
            path.rename(data_dir / path.name)
        (data_dir / _STAGING).rmdir()
        sync_directory(data_dir)
    except OSError as error:
        raise BackupError(f"{data_dir}: the restore did not finish: {error}") from error
    finally:
        os.close(lock)
    stores = sum(entry.path.startswith(f"{_STORES}/") for entry in entries)
    return Copied(entries, stores, problems)


def read_manifest(backup: Path) -> tuple[list[Entry], list[str]]:
    """The files of a backup, and the stores that it lacks. Raises BackupError: none, of another format, or unsafe."""
    path = backup / MANIFEST_NAME
    try:
        content: Any = json.loads(path.read_bytes())
        version = content["format"]
        if version != FORMAT:
            raise BackupError(f"{path}: has format {version}; this program reads {FORMAT}")
        entries = [
            Entry(str(item["path"]), int(item["mode"]), int(item["size_bytes"]), str(item["sha256"]))
            for item in content["files"]
        ]
        problems = [str(problem) for problem in content["problems"]]
    except FileNotFoundError as error:
        raise BackupError(f"{path}: is missing: not a backup, or one that did not finish") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{path}: cannot be read: {error!r}") from error
    unsafe = [entry.path for entry in entries if not _is_inside(entry.path)]
    if unsafe:
        raise BackupError([f"{path}: {name!r} is not a path inside a backup" for name in unsafe])
    return entries, problems


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _make_empty(target: Path) -> None:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = sorted(path.name for path in target.iterdir())
        target.chmod(0o700)
    except OSError as error:
        raise BackupError(f"{target}: {error}") from error
    if taken:
        raise BackupError(f"{target}: is not empty: {', '.join(taken[:5])}")


def _copy_journal(data_dir: Path, target: Path, copied: Copied) -> None:
    directory = data_dir / _JOURNAL
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    for name in names:
        if segment_number(name) is None:
            continue
        try:
            copied.files.append(_copy_file(data_dir, target, f"{_JOURNAL}/{name}"))
        except FileNotFoundError:
            continue  # dropped just now: the stores, which are copied later, hold it


def _copy_stores(data_dir: Path, target: Path, copied: Copied, progress: Progress) -> None:
    names = sorted(str(path.relative_to(data_dir)) for path in (data_dir / _STORES).glob("*/*/*.db"))
    for index, name in enumerate(names):
        progress(index, len(names))
        try:
            store = connect_read_only(data_dir / name)
            copied.files.append(_copy_database(store, data_dir, target, name))
            copied.stores += 1
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise
            (target / name).unlink(missing_ok=True)
            if (data_dir / name).exists():  # else its VM was forgotten just now
                copied.problems.append(f"{name}: {error}")
    progress(len(names), len(names))


def _copy_database(source: sqlite3.Connection, data_dir: Path, target: Path, name: str) -> Entry:
    """A copy as of one moment; closes the source. Raises sqlite3.Error: it cannot be read, or the copy not written."""
    to = target / name
    with closing(source):
        to.parent.mkdir(parents=True, exist_ok=True)
        to.touch(mode=0o600, exist_ok=False)
        mode = (data_dir / name).stat().st_mode & 0o777
        with closing(sqlite3.connect(to, isolation_level=None)) as copy:
            # A copy that was cut off is of no use, so it needs no journal; it is synced as a whole below.
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA journal_mode = OFF")
            source.backup(copy)
            if name == FILE_NAME:
                _note_stopped(copy)
    with to.open("rb+") as file:
        os.fsync(file.fileno())
        size_bytes, sha256 = _digest(_pieces(file))
    return Entry(name, mode, size_bytes, sha256)


def _note_stopped(fleet: sqlite3.Connection) -> None:
    """The aggregator that runs on the original does not run on the copy: there it may start under its name at once."""
    if fleet.execute("SELECT 1 FROM sqlite_master WHERE name = 'node'").fetchone():
        fleet.execute("UPDATE node SET state = 'stopped'")


def _copy_file(data_dir: Path, target: Path, name: str) -> Entry:
    with (data_dir / name).open("rb") as source, _create(target / name) as copy:
        mode = os.fstat(source.fileno()).st_mode & 0o777
        size_bytes, sha256 = _digest(_written(_pieces(source), copy))
    return Entry(name, mode, size_bytes, sha256)


def _write_owed(data_dir: Path, target: Path, copied: Copied) -> Entry:
    vm_ids = {Path(entry.path).name.removesuffix(".db") for entry in copied.files if entry.path.startswith(_STORES)}
    if (data_dir / _OWED).exists():
        vm_ids.update((data_dir / _OWED).read_text(encoding="utf-8").split())
    with _create(target / _OWED) as file:
        size_bytes, sha256 = _digest(_written(["\n".join(sorted(vm_ids)).encode()], file))
    return Entry(_OWED, 0o640, size_bytes, sha256)


def _write_manifest(target: Path, copied: Copied, now_s: float) -> None:
    content = {
        "format": FORMAT,
        "created_s": round(now_s),
        "problems": copied.problems,
        "files": [
            {"path": entry.path, "mode": entry.mode, "size_bytes": entry.size_bytes, "sha256": entry.sha256}
            for entry in copied.files
        ],
    }
    with _create(target / MANIFEST_NAME) as file:
        _digest(_written([json.dumps(content, indent=1).encode()], file))
    sync_directory(target)
    sync_directory(target.absolute().parent)


def _stage(backup: Path, staging: Path, entries: Sequence[Entry], progress: Progress) -> None:
    """Copies and compares; leaves nothing behind if anything differs."""
    staging.mkdir()
    try:
        problems = _copy_entries(backup, staging, entries, progress)
        if problems:
            raise BackupError(problems)
        _sync_directories(staging)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _copy_entries(backup: Path, staging: Path, entries: Sequence[Entry], progress: Progress) -> list[str]:
    """Returns what is missing or differs from the manifest."""
    problems: list[str] = []
    for index, entry in enumerate(entries):
        progress(index, len(entries))
        try:
            with (backup / entry.path).open("rb") as source, _create(staging / entry.path) as copy:
                size_bytes, sha256 = _digest(_written(_pieces(source), copy))
                os.fchmod(copy.fileno(), entry.mode)
        except FileNotFoundError:
            problems.append(f"{backup / entry.path}: is missing")
            continue
        if (size_bytes, sha256) != (entry.size_bytes, entry.sha256):
            problems.append(f"{backup / entry.path}: is not what the manifest says ({size_bytes} bytes)")
    progress(len(entries), len(entries))
    return problems


@contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    """A new file of its owner alone, on disk when the block ends; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece


def _written(pieces: Iterable[bytes], file: BinaryIO) -> Iterator[bytes]:
    for piece in pieces:
        file.write(piece)
        yield piece


def _digest(pieces: Iterable[bytes]) -> tuple[int, str]:
    size_bytes, digest = 0, hashlib.sha256()
    for piece in pieces:
        size_bytes += len(piece)
        digest.update(piece)
    return size_bytes, digest.hexdigest()


def _sync_directories(root: Path) -> None:
    for directory, _, _ in os.walk(root, topdown=False):
        sync_directory(Path(directory))
