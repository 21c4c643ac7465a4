"""The name of an aggregator: made once, kept, and never another than is wanted."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from aggregator.node_name import (
    NODE_FILE_NAME,
    is_node_name,
    load_or_create_name,
    note_start,
    parse_node_name,
    parse_node_url,
)


def name_of(folder: Path, wanted: str | None = None, host: str = "db1.example.org") -> str:
    return load_or_create_name(
        folder / NODE_FILE_NAME, wanted, host_name=lambda: host, random_hex=lambda count: "5f1c"[: 2 * count]
    )


def test_a_name_is_made_of_host_and_chance_and_kept(tmp_path: Path) -> None:
    """A machine that is renamed keeps the name its data have in the fleet database."""
    assert name_of(tmp_path) == "db1-5f1c"
    assert name_of(tmp_path, host="other") == "db1-5f1c"
    assert (tmp_path / NODE_FILE_NAME).read_text() == "db1-5f1c\n"


def test_a_name_that_is_wanted_is_kept_too(tmp_path: Path) -> None:
    """It may be left out of the settings later."""
    assert name_of(tmp_path, "agg-1") == "agg-1"
    assert name_of(tmp_path, "agg-1") == name_of(tmp_path) == "agg-1"


def test_another_name_than_the_directory_has_is_refused(tmp_path: Path) -> None:
    """Its VMs would be nobody's."""
    name_of(tmp_path, "agg-1")
    with pytest.raises(ConfigError, match=r"node.name: is 'agg-2'.*'agg-1'"):
        name_of(tmp_path, "agg-2")


@pytest.mark.parametrize("content", [b"", b"A B\n", b"../x", b"a\nb", b"\xff\xfe"])
def test_a_file_without_a_name_is_refused(tmp_path: Path, content: bytes) -> None:
    """Half a name would be another node."""
    (tmp_path / NODE_FILE_NAME).write_bytes(content)
    with pytest.raises(ConfigError, match=r"node\.id"):
        name_of(tmp_path)


@given(host=st.text())
def test_any_host_name_gives_a_name(host: str) -> None:
    """Unicode, nothing at all, or far too long: what is made is always a name."""
    with TemporaryDirectory() as folder:
        assert is_node_name(name_of(Path(folder), host=host))


@given(text=st.text() | st.text("ab9._- \n", max_size=70))
def test_only_whole_names_are_taken(text: str) -> None:
    """What matches the rule whole is a name as it is; the rest, a line break at its end included, is a ValueError."""
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", text, re.ASCII):
        assert parse_node_name(text) == text
    else:
        with pytest.raises(ValueError, match=r"is not"):
            parse_node_name(text)


@pytest.mark.parametrize("text", ["Agg", "-a", ".a", "a b", "a/b", "a" * 65, "ä", 5, True, "a\n"])
def test_what_is_no_name(text: object) -> None:
    """Each is named in the error."""
    with pytest.raises(ValueError, match=r"is not"):
        parse_node_name(text)


def test_urls_of_other_machines_speak_tls() -> None:
    """Plain text only on this machine: elsewhere samples would be read on the way. No address is of no machine."""
    assert parse_node_url("https://agg1.example:8900/") == "https://agg1.example:8900"
    assert parse_node_url("http://127.0.0.1:8900") == "http://127.0.0.1:8900"
    with pytest.raises(ValueError, match="plain text to another machine"):
        parse_node_url("http://agg1.example:8900")
    for nowhere in ("https://169.254.169.254", "https://[fe80::1]:8900", "https://0.0.0.0:8900", "https://[ff02::1]"):
        with pytest.raises(ValueError, match="nobody is asked at an address that is"):
            parse_node_url(nowhere)
    for wrong in ("agg1:8900", "https://agg1/v1", "https://u:p@agg1", "ftp://agg1", "https://agg1:99999", 5):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_node_url(wrong)


def test_starts_are_kept_exactly_and_only_the_newest(tmp_path: Path) -> None:
    """A float comes back as it was: it is compared with what the fleet database has."""
    path = tmp_path / "node.starts"
    first = 1_790_000_000.123456789
    assert note_start(path, first) == {first}
    assert note_start(path, 2.5) == {first, 2.5}
    for number in range(20):
        known = note_start(path, float(number))
    assert known == {float(number) for number in range(4, 20)}


def test_starts_of_a_copied_directory_do_not_count(tmp_path: Path) -> None:
    """The original may still run under the name; one that was moved is the same."""
    original = tmp_path / "original"
    original.mkdir()
    note_start(original / "node.starts", 1.5)
    shutil.copytree(original, tmp_path / "copy")
    assert note_start(tmp_path / "copy" / "node.starts", 2.5) == {2.5}
    moved = original.rename(tmp_path / "moved")
    assert note_start(moved / "node.starts", 2.5) == {1.5, 2.5}


def test_starts_that_cannot_be_kept_cost_nothing_else(tmp_path: Path) -> None:
    """A full disk or a damaged file does not keep an aggregator from starting."""
    path = tmp_path / "node.starts"
    path.write_bytes(b"\xff what")
    assert note_start(path, 1.5) == {1.5}
    assert note_start(tmp_path / "absent" / "node.starts", 1.5) == {1.5}
