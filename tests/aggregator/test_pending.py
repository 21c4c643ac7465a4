"""The set of owed summaries is on disk whole, or as it was before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from agent.wire import VM_ID_PATTERN
from aggregator.pending import PendingSummaries

ids = st.from_regex(VM_ID_PATTERN, fullmatch=True)


@given(sets=st.lists(st.sets(ids, max_size=5), max_size=4))
def test_what_was_noted_survives_a_restart(tmp_path_factory: pytest.TempPathFactory, sets: list[set[str]]) -> None:
    """Each set replaces the one before, in memory and on disk."""
    path = tmp_path_factory.mktemp("pending") / "summaries.pending"
    pending = PendingSummaries(path)
    assert pending.vm_ids == frozenset()
    for wanted in sets:
        pending.replace(wanted)
        assert pending.vm_ids == wanted
        assert PendingSummaries(path).vm_ids == wanted


def test_a_set_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Neither the file nor memory changes: the caller still owes what it owed."""
    path = tmp_path / "summaries.pending"
    pending = PendingSummaries(path)
    pending.replace(["a", "b"])
    (tmp_path / "summaries.new").mkdir()  # where the new set would be written
    with pytest.raises(OSError, match="directory"):
        pending.replace(["c"])
    assert pending.vm_ids == {"a", "b"}
    assert PendingSummaries(path).vm_ids == {"a", "b"}
    (tmp_path / "summaries.new").rmdir()
    pending.replace(["c"])
    assert PendingSummaries(path).vm_ids == {"c"}


def test_a_crash_before_the_rename_leaves_the_old_set(tmp_path: Path) -> None:
    """A half-written new file is never read."""
    path = tmp_path / "summaries.pending"
    PendingSummaries(path).replace(["a"])
    (tmp_path / "summaries.new").write_text("b\nhal")
    pending = PendingSummaries(path)
    assert pending.vm_ids == {"a"}
    pending.replace(["a", "c"])
    assert PendingSummaries(path).vm_ids == {"a", "c"}


def test_an_unchanged_set_costs_no_write(tmp_path: Path) -> None:
    """Nearly every flush owes nothing before and after: it must not cost two syncs on the reactor's thread."""
    path = tmp_path / "summaries.pending"
    pending = PendingSummaries(path)
    pending.replace([])
    assert not path.exists()
    pending.replace(["a"])
    inode = path.stat().st_ino
    os.link(path, tmp_path / "keeps-the-inode")
    pending.replace(["a"])
    assert path.stat().st_ino == inode


@pytest.mark.parametrize("spoil", [Path.mkdir, lambda path: path.write_bytes(b"\xff\xfe")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, spoil: object) -> None:
    """At the start: an error with the path in it, not a traceback, and not silently an empty set."""
    path = tmp_path / "summaries.pending"
    assert callable(spoil)
    spoil(path)
    with pytest.raises(ConfigError, match=r"summaries\.pending"):
        PendingSummaries(path)
