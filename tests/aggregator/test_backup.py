"""Backup and restore: everything that was acknowledged comes back, and nothing that differs goes unnamed."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from aggregator.backup import MANIFEST_NAME, BackupError, Copied, back_up, read_manifest, restore
from aggregator.check import verify_store
from aggregator.data_lock import lock_data_directory
from aggregator.fleet_db import migrate, open_fleet
from aggregator.journal_format import segment_header, segment_name
from aggregator.store_files import list_stores, read_samples, store_path
from aggregator.worker import FlushWorker
from tests.aggregator.store_fakes import START_S, fill, flush, minutes, settings, share

VMS = ("vm-1", "vm-2")
NOW_S = 1_700_000_000.0


def silent(_done: int, _of_all: int) -> None:
    """Nobody watches."""


def make_backup(data_dir: Path, target: Path) -> Copied:
    return back_up(data_dir, target, now_s=NOW_S, progress=silent)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory as a daemon leaves it: stores, fleet database, journal, secrets, and what is not backed up."""
    directory = tmp_path / "data"
    for vm_id in VMS:
        fill(directory, vm_id, minutes(START_S + 60, 130))
    engine = open_fleet(None, directory)
    migrate(engine)
    engine.dispose()
    (directory / "journal").mkdir()
    for number in (3, 4):
        (directory / "journal" / segment_name(number)).write_bytes(segment_header() + b"torn" * number)
    for name in ("token.key", "admin.token"):
        (directory / name).write_text(f"secret of {name}")
        (directory / name).chmod(0o600)
    (directory / "summaries.pending").write_text("vm-9")
    (directory / "admin.address").write_text("127.0.0.1:1")
    (directory / "lock").touch()
    return directory


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backup"


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_backup_comes_back_whole(tmp_path: Path, data_dir: Path, target: Path) -> None:
    """Restored are stores that agree with themselves, the fleet database, every segment and the secrets."""
    copied = make_backup(data_dir, target)
    assert (copied.stores, copied.problems) == (2, [])
    restored = tmp_path / "restored"
    assert restore(target, restored, progress=silent).stores == 2
    for vm_id in VMS:
        assert verify_store(store_path(restored, vm_id), vm_id) == []
        assert read_samples(store_path(restored, vm_id), 0, 2 * START_S) == read_samples(
            store_path(data_dir, vm_id), 0, 2 * START_S
        )
    for name in ("token.key", "admin.token", *(f"journal/{segment_name(number)}" for number in (3, 4))):
        assert (restored / name).read_bytes() == (data_dir / name).read_bytes()
    with closing(sqlite3.connect(restored / "fleet.db")) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall()
    assert not (restored / "admin.address").exists()
    assert not (restored / "restore.partial").exists()


def test_a_restored_aggregator_owes_every_summary(tmp_path: Path, data_dir: Path, target: Path) -> None:
    """A flush may have come between a store and the fleet database, so all summaries are derived again."""
    make_backup(data_dir, target)
    restore(target, tmp_path / "restored", progress=silent)
    assert (tmp_path / "restored" / "summaries.pending").read_text().split() == ["vm-1", "vm-2", "vm-9"]


def test_a_backup_is_for_its_owner_alone(tmp_path: Path, data_dir: Path, target: Path) -> None:
    """Nobody else may read a backup, whatever the originals allowed; a restore brings back what they allowed."""
    store = store_path(data_dir, "vm-1")
    store.chmod(0o640)
    make_backup(data_dir, target)
    assert target.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_file()} == {0o600}
    restore(target, tmp_path / "restored", progress=silent)
    assert (tmp_path / "restored/token.key").stat().st_mode & 0o777 == 0o600
    assert store_path(tmp_path / "restored", "vm-1").stat().st_mode & 0o777 == 0o640


def test_a_backup_changes_nothing_in_the_data_directory(data_dir: Path, target: Path) -> None:
    """Copying only reads."""
    before = files(data_dir)
    make_backup(data_dir, target)
    assert files(data_dir) == before


def test_the_manifest_names_each_file_and_comes_last(data_dir: Path, target: Path) -> None:
    """Everything in a backup but the manifest stands in it."""
    make_backup(data_dir, target)
    entries, problems = read_manifest(target)
    assert {entry.path for entry in entries} | {MANIFEST_NAME} == set(files(target))
    assert {entry.path: entry.size_bytes for entry in entries} == {
        name: len(body) for name, body in files(target).items() if name != MANIFEST_NAME
    }
    assert problems == []


def test_segments_are_copied_before_stores_and_the_rest_after(data_dir: Path, target: Path) -> None:
    """A segment goes once the stores hold it: copied the other way round, what lay between would be in neither."""
    copied = make_backup(data_dir, target)
    kinds = [entry.path.split("/")[0] for entry in copied.files]
    assert kinds == [
        *["journal"] * 2,
        *["stores"] * 2,
        *["fleet.db", "token.key", "admin.token", "summaries.pending"],
    ]


def test_a_flush_amid_the_backup_loses_nothing(data_dir: Path, target: Path) -> None:
    """Rows that a flush moves from a segment into a store while the backup runs are in the copy."""
    later = minutes(START_S + 130 * 60 + 60, 10)
    machine = FlushWorker(settings(data_dir))

    def flush_first(done: int, _of_all: int) -> None:
        if done == 0:
            flush(machine, *(share(vm_id, later) for vm_id in VMS))
            for segment in (data_dir / "journal").iterdir():
                segment.unlink()

    copied = back_up(data_dir, target, now_s=NOW_S, progress=flush_first)
    assert sum(entry.path.startswith("journal/") for entry in copied.files) == 2
    for vm_id in VMS:
        assert len(read_samples(store_path(target, vm_id), 0, 2 * START_S)) == 140


def test_a_segment_that_goes_while_it_is_copied_is_left_out(data_dir: Path, target: Path) -> None:
    """A segment that is dropped between the listing and its turn is no error: the stores hold it."""
    # A link that leads nowhere is listed but cannot be opened, as a file that went in between.
    (data_dir / "journal" / segment_name(5)).symlink_to(data_dir / "dropped")
    copied = make_backup(data_dir, target)
    segments = [entry.path for entry in copied.files if entry.path.startswith("journal/")]
    assert segments == [f"journal/{segment_name(number)}" for number in (3, 4)]
    assert not (target / "journal" / segment_name(5)).is_symlink()


@pytest.mark.real
def test_stores_that_are_being_written_are_copied_as_of_one_moment(data_dir: Path, target: Path) -> None:
    """A worker that flushes all the while never leaves half a flush in a copy."""
    machine = FlushWorker(settings(data_dir))
    stop = threading.Event()
    flushed = []

    def work() -> None:
        step = 0
        while not stop.is_set():
            rows = minutes(START_S + (131 + 10 * step) * 60, 10)
            flushed.append(flush(machine, *(share(vm_id, rows) for vm_id in VMS)).failures)
            step += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(5):
            make_backup(data_dir, target / str(number))
    finally:
        stop.set()
        thread.join()
    assert flushed
    assert not any(flushed)
    for number in range(5):
        for vm_id, path in list_stores(target / str(number)).items():
            assert verify_store(path, vm_id) == []
            assert len(read_samples(path, 0, 2 * START_S)) % 10 == 0


def test_a_damaged_store_does_not_keep_the_others_from_being_copied(
    tmp_path: Path, data_dir: Path, target: Path
) -> None:
    """What cannot be read is named in the result, in the manifest and at the restore; the rest is there."""
    store_path(data_dir, "vm-1").write_bytes(b"no store" * 1000)
    copied = make_backup(data_dir, target)
    assert copied.stores == 1
    assert "vm-1.db" in copied.problems[0]
    assert list(list_stores(target)) == ["vm-2"]
    assert restore(target, tmp_path / "restored", progress=silent).problems == copied.problems


def test_a_target_that_holds_something_is_refused(data_dir: Path, target: Path) -> None:
    """A backup never mixes with what is there, and names it."""
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(BackupError, match=r"mine\.txt"):
        make_backup(data_dir, target)
    assert list(files(target)) == ["mine.txt"]


def test_a_backup_that_did_not_finish_cannot_be_restored(tmp_path: Path, data_dir: Path, target: Path) -> None:
    """Without its manifest a backup is not one."""
    make_backup(data_dir, target)
    (target / MANIFEST_NAME).unlink()
    with pytest.raises(BackupError, match="did not finish"):
        restore(target, tmp_path / "restored", progress=silent)
    assert not (tmp_path / "restored").exists()


def test_every_missing_and_changed_file_is_named(tmp_path: Path, data_dir: Path, target: Path) -> None:
    """A restore compares all files, names each that differs, and leaves nothing of itself behind."""
    make_backup(data_dir, target)
    (target / "token.key").unlink()
    store = store_path(target, "vm-2")
    body = bytearray(store.read_bytes())
    body[5000] ^= 1
    store.write_bytes(body)
    restored = tmp_path / "restored"
    with pytest.raises(BackupError) as caught:
        restore(target, restored, progress=silent)
    assert [Path(problem.partition(":")[0]).name for problem in caught.value.problems] == ["vm-2.db", "token.key"]
    assert list(files(restored)) == ["lock"]


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "stores/../../outside", ""])
def test_a_manifest_cannot_lead_outside(tmp_path: Path, data_dir: Path, target: Path, name: str) -> None:
    """A manifest that was tampered with writes nowhere but into the data directory."""
    make_backup(data_dir, target)
    manifest = json.loads((target / MANIFEST_NAME).read_text())
    manifest["files"][0]["path"] = name
    (target / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BackupError, match="not a path inside"):
        restore(target, tmp_path / "restored", progress=silent)
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "files": [{}], "problems": []}', "\xff"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, target: Path, text: str) -> None:
    """Garbage in place of a manifest is said, not raised through."""
    target.mkdir()
    (target / MANIFEST_NAME).write_text(text)
    with pytest.raises(BackupError, match=MANIFEST_NAME):
        restore(target, tmp_path / "restored", progress=silent)


def test_a_newer_format_is_refused(tmp_path: Path, target: Path) -> None:
    """A backup of a later release is not half understood."""
    target.mkdir()
    (target / MANIFEST_NAME).write_text('{"format": 2}')
    with pytest.raises(BackupError, match="format 2"):
        restore(target, tmp_path / "restored", progress=silent)


def test_a_data_directory_that_holds_something_is_refused(data_dir: Path, target: Path) -> None:
    """A restore never mixes with a fleet that is there."""
    make_backup(data_dir, target)
    before = files(data_dir)
    with pytest.raises(BackupError, match="not empty"):
        restore(target, data_dir, progress=silent)
    assert files(data_dir) == before


def test_a_data_directory_that_a_daemon_holds_is_refused(tmp_path: Path, data_dir: Path, target: Path) -> None:
    """While a daemon holds the lock, nothing is put under it; a lock file that nobody holds is no hindrance."""
    make_backup(data_dir, target)
    restored = tmp_path / "restored"
    descriptor = lock_data_directory(restored)
    with pytest.raises(BackupError, match="in use"):
        restore(target, restored, progress=silent)
    os.close(descriptor)
    assert restore(target, restored, progress=silent).stores == 2


def test_a_file_where_a_folder_should_be_is_an_error(data_dir: Path, tmp_path: Path, target: Path) -> None:
    """A target or data directory that is a file is named."""
    make_backup(data_dir, target)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(BackupError, match="file"):
        make_backup(data_dir, tmp_path / "file")
    with pytest.raises(BackupError, match="file"):
        restore(target, tmp_path / "file", progress=silent)
