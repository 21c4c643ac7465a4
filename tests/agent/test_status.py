"""The status file tells what is wrong, and is never half a file."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.status import Status, read_status, replace_file, verdict, write_status

STATUS = Status(
    updated_s=1000.0,
    started_s=500.0,
    pid=1,
    vm="vm-1",
    aggregator="https://fallow:8899",
    interval_s=60,
    boot="b",
    seq=7,
    sample_ts=960,
    last_ack_s=990.0,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """Every field survives, and the file is replaced, not appended to."""
    path = tmp_path / "status.json"
    write_status(path, STATUS)
    write_status(path, replace(STATUS, seq=8, trouble="x"))
    assert read_status(path) == replace(STATUS, seq=8, trouble="x")
    assert os.listdir(tmp_path) == ["status.json"]


def test_absent_or_damaged_is_none(tmp_path: Path) -> None:
    """A file cut off by a full disk, or of another version, starts the totals again."""
    path = tmp_path / "status.json"
    assert read_status(path) is None
    write_status(path, STATUS)
    whole = path.read_text()
    for text in ("", whole[:40], "[]", "null", whole.replace("500.0", '"x"'), whole.replace('"vm"', '"wm"')):
        path.write_text(text)
        assert read_status(path) is None, text
    path.write_text(json.dumps({**json.loads(whole), "of_a_newer_version": 1}))
    assert read_status(path) == STATUS


@given(content=st.binary(max_size=100))
def test_no_content_raises(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever lies there, the agent starts."""
    path = tmp_path_factory.getbasetemp() / "any-status.json"
    path.write_bytes(content)
    assert read_status(path) is None


@pytest.mark.parametrize(
    ("status", "now_s", "said"),
    [
        (STATUS, 1030.0, None),
        (STATUS, 1194.0, None),
        (STATUS, 1196.0, "not running"),
        (replace(STATUS, trouble="answer 401"), 1030.0, "answer 401"),
        (replace(STATUS, last_ack_s=None), 1030.0, "no sample has been acknowledged yet"),
        (replace(STATUS, last_ack_s=600.0), 1030.0, "430 s"),
    ],
    ids=["fine", "still fine", "silent", "trouble", "never", "stale"],
)
def test_the_verdict_names_what_is_wrong(status: Status, now_s: float, said: str | None) -> None:
    """An agent is well when it runs, is not in trouble, and was acknowledged lately."""
    found = verdict(status, now_s=now_s)
    assert (found is None) == (said is None)
    assert said is None or said in str(found)


def test_a_secret_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    """0600 whatever the umask says, also over a left-over of a killed process."""
    path = tmp_path / "token.json"
    (tmp_path / "token.json.new").write_text("left over")
    (tmp_path / "token.json.new").chmod(0o666)
    replace_file(path, "secret", mode=0o600, sync=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "secret"


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    """What cannot be put in place leaves nothing behind."""
    (tmp_path / "status.json").mkdir()
    with pytest.raises(OSError, match=r"status\.json"):
        replace_file(tmp_path / "status.json", "new", mode=0o600, sync=False)
    assert os.listdir(tmp_path) == ["status.json"]
