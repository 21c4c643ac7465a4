"""Marks of keys: the same for the same keys alone, and no use for anything else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from agent.wire import is_vm_id
from aggregator.key_marks import mark_keys, parse_marks
from aggregator.tokens import TokenKeys

Keys = dict[str, str]  # kid -> what its key is made of


def keys(found: Keys) -> TokenKeys:
    return TokenKeys({kid: letter.encode() * 32 for kid, letter in found.items()})


def test_marks_are_the_same_for_the_same_keys_alone() -> None:
    """Of token keys and of the admin token, which no mark and no part of one contains."""
    first, second = keys({"k1": "a", "k2": "b"}), keys({"k1": "a", "k2": "b"})
    text = mark_keys(first, "admin")
    assert text == mark_keys(second, "admin")
    assert [mark.kid for mark in parse_marks(text)] == ["k1", "k2"]
    for other in (mark_keys(first, "Admin"), mark_keys(keys({"k1": "c", "k2": "b"}), "admin")):
        assert other != text
    assert parse_marks(mark_keys(first, "other"))[0].key == parse_marks(text)[0].key
    assert "admin" not in text
    assert (b"a" * 32).hex() not in text


def test_a_mark_is_no_token() -> None:
    """What a key makes of the text of a mark it makes of no VM: no id begins so."""
    assert not is_vm_id("fallow fingerprint\0")
    assert not is_vm_id("fallow fingerprint")
    made = keys({"k1": "a"})
    mark = made.fingerprints("web-1|k1|1")["k1"]
    assert made.verify("web-1", f"k1.1.{mark}".encode()) is None
    assert mark not in made.make("web-1", 1)


@given(st.text())
def test_what_is_no_list_of_marks_is_nothing(text: str) -> None:
    """Another version may write something else: that is not known then, and no error."""
    found = parse_marks(text)
    assert not found or re.fullmatch(r"(\S+:\S+:\S+)( \S+:\S+:\S+)*", text)
    assert parse_marks(None) == parse_marks("") == parse_marks("k1:x:y") == ()
