"""The key file is changed whole, read again safely, and a new key signs only when everybody knows it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.settings import ConfigError
from aggregator.key_file import SIGNS_AFTER_S, add_key, drop_key, kids_of, read_keys
from aggregator.tokens import TokenKeys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "token.key"
    TokenKeys.load_or_create(made)
    return made


def written_s(path: Path) -> float:
    return path.stat().st_mtime


def test_a_new_key_is_accepted_at_once_and_signs_later(path: Path) -> None:
    """Until every aggregator has read it, the old key signs: whatever one of them gives, all of them take."""
    before = read_keys(path, now_s=written_s(path))
    assert add_key(path) == "k2"
    fresh = read_keys(path, now_s=written_s(path) + SIGNS_AFTER_S - 1)
    settled = read_keys(path, now_s=written_s(path) + SIGNS_AFTER_S)
    assert (fresh.signs_with, settled.signs_with) == ("k1", "k2")
    assert before.verify("a", fresh.make("a", 1).encode()) == 1
    assert fresh.verify("a", settled.make("a", 2).encode()) == 2
    assert settled.verify("a", before.make("a", 3).encode()) == 3


def test_nobody_is_sent_for_a_token_while_a_key_settles(path: Path) -> None:
    """Only a token of the key that is to go is outdated, and only once the new one signs."""
    old = read_keys(path, now_s=written_s(path)).make("a", 1).encode()
    add_key(path)
    fresh = read_keys(path, now_s=written_s(path))
    settled = read_keys(path, now_s=written_s(path) + SIGNS_AFTER_S)
    new = settled.make("a", 2).encode()
    assert [keys.is_outdated(token) for keys in (fresh, settled) for token in (old, new)] == [False, False, True, False]
    drop_key(path, "k2")
    alone = read_keys(path, now_s=written_s(path))
    assert (alone.signs_with, alone.is_outdated(old)) == ("k1", False)


def test_a_single_key_signs_at_once(path: Path) -> None:
    """A fleet that begins has nothing to wait for; nor has a clock that was set back."""
    assert read_keys(path, now_s=written_s(path)).signs_with == "k1"
    add_key(path)
    assert read_keys(path, now_s=written_s(path) - 1e6).signs_with == "k2"


def test_comments_and_mode_survive(path: Path) -> None:
    """Only the lines that are meant change, and the file stays its owner's alone."""
    path.write_text("# ours\n" + path.read_text() + "\n# end\n")
    add_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "# ours" in path.read_text()
    drop_key(path, "k1")
    assert "# ours" in path.read_text()
    assert "# end" in path.read_text()
    assert kids_of(path) == ("k2",)
    assert [found.name for found in path.parent.iterdir()] == ["token.key"]


def test_a_shared_file_stays_shared(path: Path, tmp_path: Path) -> None:
    """Aggregators of one host may share it through a link: the file changes, the link stays."""
    link = tmp_path / "link.key"
    link.symlink_to(path)
    assert add_key(link) == "k2"
    assert link.is_symlink()
    assert kids_of(path) == kids_of(link) == ("k2", "k1")


def test_a_kid_is_never_that_of_a_key_that_is_there(path: Path) -> None:
    """Numbers go on from the highest; other names do not count."""
    path.write_text(f"k41:{'ab' * 32}\n")
    assert add_key(path) == "k42"
    path.write_text(f"main:{'ab' * 32}\n")
    assert add_key(path) == "k1"


def test_what_would_shut_everybody_out_is_refused(path: Path) -> None:
    """The only key stays; a third is one too many; one that is not there cannot go."""
    with pytest.raises(ConfigError, match="the only key"):
        drop_key(path, "k1")
    with pytest.raises(ConfigError, match="holds no key k9"):
        drop_key(path, "k9")
    add_key(path)
    with pytest.raises(ConfigError, match="drop one first"):
        add_key(path)
    assert kids_of(path) == ("k2", "k1")


@pytest.mark.parametrize("text", ["", "k1\n", "k1:zz\n", f"k1:{'ab' * 32}\n" * 2])
def test_a_broken_file_is_named_and_never_written(path: Path, text: str) -> None:
    """Neither read nor changed: a ConfigError with the file's name and no key in it."""
    path.write_text(text)
    for work in (lambda: read_keys(path, now_s=0.0), lambda: add_key(path), lambda: drop_key(path, "k1")):
        with pytest.raises(ConfigError, match=r"token\.key") as caught:
            work()
        assert "abab" not in str(caught.value)
    assert path.read_text() == text


def test_a_file_that_others_may_read_is_refused(path: Path) -> None:
    """World-readable secret refused, while running too."""
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="readable by others"):
        read_keys(path, now_s=0.0)


def test_a_file_that_is_gone_is_not_made_anew(path: Path) -> None:
    """A running aggregator that made a new one would shut the whole fleet out."""
    os.unlink(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(path, now_s=0.0)
    assert not path.exists()
