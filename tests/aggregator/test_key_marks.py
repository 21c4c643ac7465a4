"""Whether nodes have the same keys: told by marks, right through every step of a rotation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire import is_vm_id
from aggregator.key_marks import KeyHolder, key_differences, mark_keys, parse_marks
from aggregator.tokens import TokenKeys

KIDS = ("k1", "k2", "k3")
Keys = dict[str, str]  # kid -> what its key is made of


def keys(found: Keys) -> TokenKeys:
    return TokenKeys({kid: letter.encode() * 32 for kid, letter in found.items()})


def holder(
    name: str, found: Keys | None, *, admin: str = "admin", started_s: float = 0.0, takes: bool = True
) -> KeyHolder:
    marks = () if found is None else parse_marks(mark_keys(keys(found), admin))
    return KeyHolder(name=name, started_s=started_s, takes_pushes=takes, marks=marks)


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


def test_the_one_that_started_last_with_keys_of_its_own_is_the_stranger() -> None:
    """Of two; of three whichever has no key of the first that takes pushes; told with that one's name."""
    first, late = holder("agg-1", {"k1": "a"}), holder("agg-2", {"k1": "b"}, started_s=5.0)
    found = key_differences([late, first])
    assert list(found) == ["agg-2"]
    assert found["agg-2"].is_stranger
    assert "token keys are not those of agg-1" in found["agg-2"].words
    same = holder("agg-3", {"k1": "b"}, started_s=9.0)
    assert set(key_differences([late, first, same])) == {"agg-2", "agg-3"}


def test_restarts_do_not_make_a_stranger_the_measure() -> None:
    """While it takes no pushes its age counts for nothing: the right ones may all restart, one after the other."""
    stranger = holder("bad", {"k1": "b"}, started_s=1.0, takes=False)
    right = [holder("agg-1", {"k1": "a"}, started_s=50.0), holder("agg-2", {"k1": "a"}, started_s=60.0, takes=False)]
    assert set(key_differences([stranger, *right])) == {"bad"}


def test_where_nobody_takes_pushes_nobody_is_a_stranger() -> None:
    """A fleet that is started as a whole must come up; one that starts beside a stranger is not sent there for keys."""
    fleet = [holder("agg-1", {"k1": "a"}, takes=False), holder("agg-2", {"k1": "b"}, started_s=5.0, takes=False)]
    assert key_differences(fleet) == {}


@pytest.mark.parametrize(
    "fleet",
    [
        [{"k1": "a"}, {"k1": "a"}, {"k1": "a"}],
        [{"k2": "b", "k1": "a"}, {"k1": "a"}, {"k1": "a"}],
        [{"k2": "b", "k1": "a"}, {"k2": "b", "k1": "a"}, {"k1": "a"}],
        # One is two steps behind another; a third has a key in common with both.
        [{"k2": "b"}, {"k2": "b", "k1": "a"}, {"k1": "a"}],
        [{"k2": "b"}, {"k2": "b"}, {"k2": "b", "k1": "a"}],
        [{"k1": "a"}, None, {"k1": "a"}],
    ],
)
@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_rotation_makes_no_node_differ(fleet: list[Keys | None], first: int) -> None:
    """Whoever started first, at every step: nor does a node of an older version, which tells of no keys."""
    told = [holder(f"agg-{number}", found, started_s=float(number != first)) for number, found in enumerate(fleet)]
    assert key_differences(told) == {}


def test_one_kid_with_two_keys_is_told_of_and_takes_pushes() -> None:
    """A new key was made on each instead of copied: tokens of the older one are still good everywhere."""
    one = holder("agg-1", {"k2": "b", "k1": "a"})
    other = holder("agg-2", {"k2": "c", "k1": "a"}, started_s=1.0)
    (words,) = [found.words for found in key_differences([one, other]).values() if not found.is_stranger]
    assert words == "its key k2 is another than that of agg-1: copy token.key from there"


def test_another_admin_token_is_told_of_and_takes_pushes() -> None:
    """Pushes have no use for it."""
    found = key_differences([holder("agg-1", {"k1": "a"}), holder("agg-2", {"k1": "a"}, admin="b", started_s=1.0)])
    assert list(found) == ["agg-2"]
    assert not found["agg-2"].is_stranger
    assert "admin.token is another than that of agg-1" in found["agg-2"].words


_KEYS = st.dictionaries(st.sampled_from(KIDS), st.sampled_from("ab"), min_size=1, max_size=2)
_FLEETS = st.lists(st.tuples(_KEYS, st.integers(0, 3), st.booleans()), min_size=1, max_size=5)


@given(_FLEETS)
def test_somebody_is_always_left_to_take_pushes(told: list[tuple[Keys, int, bool]]) -> None:
    """Whatever the keys: of those that take pushes the first is no stranger, and none that shares a key with it is."""
    fleet = [
        holder(f"agg-{number}", found, started_s=float(started_s), takes=takes)
        for number, (found, started_s, takes) in enumerate(told)
    ]
    found = key_differences(fleet)
    strangers = {name for name, one in found.items() if one.is_stranger}
    taking = sorted((one for one in fleet if one.takes_pushes), key=lambda one: (one.started_s, one.name))
    if not taking:
        assert not strangers
        return
    assert taking[0].name not in strangers
    shared = {mark[:2] for mark in taking[0].marks}
    assert not strangers & {one.name for one in fleet if shared & {mark[:2] for mark in one.marks}}
