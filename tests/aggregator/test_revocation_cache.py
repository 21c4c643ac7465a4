"""Revocations of the last run: whole or not at all, and for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.revocation_cache import CACHE_FILE_NAME, RevocationCache
from aggregator.tokens import MAX_GENERATION, Revocations

SOME = Revocations({"a": (3, "revoked"), "b": (2, "identity-conflict")}, clones=frozenset({"b"}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / CACHE_FILE_NAME


def test_nothing_was_kept(path: Path) -> None:
    """No file is no revocations: not even an empty set of them."""
    assert RevocationCache(path).read() is None


@given(
    below=st.dictionaries(
        st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True),
        st.tuples(st.integers(1, MAX_GENERATION), st.sampled_from(["revoked", "rotated", "identity-conflict"])),
    )
)
def test_what_is_kept_comes_back(tmp_path_factory: pytest.TempPathFactory, below: dict[str, tuple[int, str]]) -> None:
    """Every VM, generation and reason, and who was cloned; none at all is kept too."""
    path = tmp_path_factory.mktemp("data") / CACHE_FILE_NAME
    kept = Revocations(below, clones=frozenset(sorted(below)[:2]))
    assert RevocationCache(path).keep(kept) is kept
    assert RevocationCache(path).read() == kept


def test_only_its_owner_may_read_it(path: Path) -> None:
    """It names every VM; a file that others could read is replaced."""
    path.write_text("x")
    path.chmod(0o644)
    RevocationCache(path).keep(SOME)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_same_is_not_written_again(path: Path) -> None:
    """A reading every half minute that brings no news costs the disk nothing."""
    cache = RevocationCache(path)
    cache.keep(SOME)
    os.utime(path, (5, 5))
    cache.keep(Revocations(SOME.below, clones=SOME.clones))
    assert path.stat().st_mtime == 5
    cache.keep(Revocations(SOME.below))
    assert path.stat().st_mtime != 5


@pytest.mark.parametrize("content", [b"", b"{", b'{"below": {"a": ["x", 1]}, "clones": []}', b"[]", b"\xff"])
def test_a_damaged_file_is_no_file(path: Path, content: bytes) -> None:
    """Half of what was refused would let the other half in."""
    path.write_bytes(content)
    assert RevocationCache(path).read() is None


def test_a_disk_that_takes_nothing_leaves_the_old_ones(path: Path) -> None:
    """What was read counts all the same, and is tried again at the next reading."""
    cache = RevocationCache(path)
    cache.keep(SOME)
    blocked = path.with_name(f"{CACHE_FILE_NAME}.new")
    blocked.mkdir()
    more = Revocations({"c": (2, "revoked")})
    assert cache.keep(more) is more
    assert RevocationCache(path).read() == SOME
    blocked.rmdir()
    cache.keep(more)
    assert RevocationCache(path).read() == more
