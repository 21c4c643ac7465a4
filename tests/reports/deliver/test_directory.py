"""A directory of reports: whole files, as many as told, and nobody else's touched."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.deliver.directory import deliver
from reports.deliver.document import Form, report_of_file
from reports.deliver.targets import DeliveryError, DirectoryTarget
from tests.reports.deliver.values import DUE_S, document

DAY_S = 86_400.0


def target(path: Path, keep: int = 2, forms: tuple[Form, ...] = tuple(Form)) -> DirectoryTarget:
    return DirectoryTarget(path=path, forms=forms, keep=keep)


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def test_a_report_is_a_file_a_form(tmp_path: Path) -> None:
    """Named by its time, with the bytes of the report, and nothing else."""
    deliver(document(), target(tmp_path))
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == {
        document().file_name(form): document().body(form) for form in Form
    }


def test_only_the_forms_asked_for(tmp_path: Path) -> None:
    """One form, one file, readable as the umask has it."""
    former = os.umask(0o027)
    try:
        deliver(document(), target(tmp_path, forms=(Form.CSV,)))
    finally:
        os.umask(former)
    assert names(tmp_path) == ["fallow-2026-11-21T070000Z.csv"]
    assert stat.S_IMODE((tmp_path / names(tmp_path)[0]).stat().st_mode) == 0o640


def test_the_oldest_make_room(tmp_path: Path) -> None:
    """`keep` counts reports, not files, and the newest stay."""
    for day in range(5):
        deliver(document(DUE_S + day * DAY_S), target(tmp_path, keep=2))
    assert {report_of_file(name) for name in names(tmp_path)} == {
        "fallow-2026-11-24T070000Z",
        "fallow-2026-11-25T070000Z",
    }
    assert len(names(tmp_path)) == 6


def test_other_files_stay(tmp_path: Path) -> None:
    """Only regular files with names of ours go: no other names, no links, no directories."""
    others = ["notes.txt", "fallow-2020-01-01T000000Z.pdf", "xfallow-2020-01-01T000000Z.html", "fallow-2020.html"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / "fallow-2020-01-01T000000Z.html").symlink_to(tmp_path / "notes.txt")
    (tmp_path / "fallow-2020-01-01T000000Z.csv").mkdir()
    before = set(names(tmp_path))
    for day in range(3):
        deliver(document(DUE_S + day * DAY_S), target(tmp_path, keep=1, forms=(Form.HTML,)))
    assert set(names(tmp_path)) == before | {"fallow-2026-11-23T070000Z.html"}


def test_the_report_just_written_stays_whatever_the_clock_said_before(tmp_path: Path) -> None:
    """Reports from a clock that was ahead do not push out today's."""
    for year in (2040, 2041):
        deliver(document(datetime(year, 1, 1, tzinfo=UTC).timestamp()), target(tmp_path, keep=2, forms=(Form.CSV,)))
    deliver(document(), target(tmp_path, keep=2, forms=(Form.CSV,)))
    assert "fallow-2026-11-21T070000Z.csv" in names(tmp_path)


def test_an_absent_directory_is_told_and_tried_again(tmp_path: Path) -> None:
    """It may be mounted later; it is never made, or the disk below would fill up unseen."""
    with pytest.raises(DeliveryError, match="gone: No such file or directory") as raised:
        deliver(document(), target(tmp_path / "gone"))
    assert raised.value.retry
    assert names(tmp_path) == []


def test_a_full_disk_leaves_no_half_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file does not fit: the first is not there either, and older reports still are."""
    deliver(document(DUE_S - DAY_S), target(tmp_path, keep=1))
    before, calls = names(tmp_path), 0

    def full(_descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DeliveryError, match="No space left on device") as raised:
        deliver(document(), target(tmp_path, keep=1))
    assert raised.value.retry
    assert calls == 2
    assert names(tmp_path) == before


def test_what_a_killed_writer_left_goes_in_time(tmp_path: Path) -> None:
    """Its half files are ours by name; one that may still be written stays."""
    old, new = (tmp_path / f".{document().file_name(Form.HTML)}.{end}.partial" for end in ("0badcafe", "1badcafe"))
    for path in (old, new):
        path.touch()
    foreign = tmp_path / ".something.0badcafe.partial"
    foreign.touch()
    now_s = DUE_S
    os.utime(old, (now_s - 7200, now_s - 7200))
    os.utime(new, (now_s - 60, now_s - 60))
    os.utime(foreign, (now_s - 7200, now_s - 7200))
    deliver(document(), target(tmp_path, forms=(Form.CSV,)), clock=lambda: now_s)
    assert set(names(tmp_path)) == {new.name, foreign.name, "fallow-2026-11-21T070000Z.csv"}


def test_older_reports_that_cannot_be_deleted_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is there, so it is not written again; that the disk fills up must not go unseen."""
    deliver(document(DUE_S - DAY_S), target(tmp_path, keep=1, forms=(Form.CSV,)))

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DeliveryError, match="is there, but older ones cannot be deleted") as raised:
        deliver(document(), target(tmp_path, keep=1, forms=(Form.CSV,)))
    assert not raised.value.retry
    assert "fallow-2026-11-21T070000Z.csv" in names(tmp_path)


@given(days=st.lists(st.integers(-400, 400), min_size=1, max_size=12), keep=st.integers(1, 5))
def test_there_are_never_more_than_were_asked_for(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], keep: int
) -> None:
    """In any order of times: the newest `keep`, and the one just written."""
    folder = tmp_path_factory.mktemp("reports")
    for day in days:
        deliver(document(DUE_S + day * DAY_S), target(folder, keep=keep, forms=(Form.CSV,)))
        newest = document(DUE_S + day * DAY_S).file_name(Form.CSV)
        assert newest in names(folder)
        assert len(names(folder)) <= keep + 1
    seen = {document(DUE_S + day * DAY_S).file_name(Form.CSV) for day in days}
    assert set(sorted(seen, reverse=True)[:keep]) <= set(names(folder))
