"""What an aggregator that starts while its database is away knows of its keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.key_marks import mark_keys
from aggregator.key_memory import KeyMemory
from aggregator.tokens import TokenKeys


def marks(**letters: str) -> str:
    return mark_keys(TokenKeys({kid: letter.encode() * 32 for kid, letter in letters.items()}), "admin")


ONE, LATER, OTHER = marks(k1="a"), marks(k2="c", k1="a"), marks(k1="b")


@pytest.mark.parametrize(
    ("kept", "is_stranger", "now", "doubt"),
    [
        (ONE, False, ONE, None),
        (ONE, False, LATER, None),
        (LATER, False, ONE, None),
        (ONE, False, OTHER, "none of those that it had"),
        (ONE, True, ONE, "were not those of the fleet"),
        (ONE, True, OTHER, None),
    ],
)
def test_keys_are_doubted_by_the_last_judgement(
    tmp_path: Path, kept: str, is_stranger: bool, now: str, doubt: str | None
) -> None:
    """Others than those of the fleet, or those that were strange; not in a rotation, nor where they were mended."""
    path = tmp_path / "keys.judged"
    KeyMemory(path).keep(OTHER, is_stranger=True)
    KeyMemory(path).keep(kept, is_stranger=is_stranger)
    found = KeyMemory(path).doubt(now)
    assert found is None if doubt is None else doubt in (found or "")
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "\n", "fleet\n", "strange k1:x:y\n", "perhaps " + ONE, "\xff"])
def test_what_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    """Nor does what is not there: a first start, a file that a power cut left empty."""
    memory = KeyMemory(tmp_path / "keys.judged")
    assert memory.doubt(ONE) is None
    (tmp_path / "keys.judged").write_text(text, encoding="latin-1")
    assert memory.doubt(ONE) is None


def test_a_disk_that_takes_nothing_costs_only_the_memory(tmp_path: Path) -> None:
    """It is tried again at the next judgement; one that is no news is not written."""
    folder = tmp_path / "data"
    memory = KeyMemory(folder / "keys.judged")
    memory.keep(ONE, is_stranger=True)
    folder.mkdir()
    memory.keep(ONE, is_stranger=True)
    assert memory.doubt(ONE) is not None
    (folder / "keys.judged").unlink()
    memory.keep(ONE, is_stranger=True)
    assert memory.doubt(ONE) is None
