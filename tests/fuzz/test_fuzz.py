"""The targets of the fuzzer on what was found before, and on bytes that hypothesis draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.settings import ConfigError, load_toml
from tests.fuzz.draw import Draw, changed
from tests.fuzz.targets import CORPUS, TARGETS, corpus_of

_KEPT = [pytest.param(name, path, id=f"{name}-{path.name}") for name in TARGETS for path in corpus_of(name)]
_MAX_CORPUS_BYTES = 200_000


@pytest.mark.parametrize(("name", "path"), _KEPT)
def test_what_was_found_once_stays_mended(name: str, path: Path) -> None:
    """Every kept input passes its target."""
    TARGETS[name](path.read_bytes())


@settings(max_examples=1500)
@given(st.sampled_from(sorted(TARGETS)), st.binary(max_size=400))
def test_any_bytes_keep_every_promise(name: str, data: bytes) -> None:
    """No target raises, whatever the bytes."""
    TARGETS[name](data)


@settings(max_examples=1000)
@given(st.sampled_from(_KEPT), st.integers(0, 5000), st.binary(max_size=8), st.integers(0, 8))
def test_kept_inputs_a_little_changed_keep_every_promise(kept: object, at: int, put: bytes, removed: int) -> None:
    """No target raises on an input that leads deep into the code, with bytes put in or taken out."""
    name, path = kept.values  # type: ignore[attr-defined]
    data = path.read_bytes()
    at %= len(data) + 1
    TARGETS[name](data[:at] + put + data[at + removed :])


@given(st.binary(max_size=60))
def test_a_change_leaves_the_original_alone(data: bytes) -> None:
    """Targets may change one example again and again."""
    document = {"a": {"b": [1, {"c": 2}]}, "d": "e"}
    changed(document, Draw(data))
    assert document == {"a": {"b": [1, {"c": 2}]}, "d": "e"}


def test_every_target_has_a_corpus_and_all_of_it_is_small() -> None:
    """A kept input for each target, 200 KB together."""
    assert [name for name in TARGETS if not corpus_of(name)] == []
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) <= _MAX_CORPUS_BYTES


def test_a_number_of_too_many_digits_in_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    """Python refuses to read it: the file is named, as with any other mistake."""
    path = tmp_path / "fallow.toml"
    path.write_text(f"top = {'9' * 5000}\n")
    with pytest.raises(ConfigError, match=r"fallow\.toml"):
        load_toml(path)
