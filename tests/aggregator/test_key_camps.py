"""Which keys are the fleet's: those of its VMs, whoever started first and whoever is there."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.key_camps import KeyHolder, key_differences, keys_differ
from aggregator.key_marks import mark_keys, parse_marks
from aggregator.tokens import TokenKeys

KIDS = ("k1", "k2", "k3")
Keys = dict[str, str]  # kid -> what its key is made of
OLD, NEW = {"k1": "a"}, {"k1": "b"}


def holder(
    name: str,
    found: Keys | None,
    *,
    admin: str = "admin",
    homes: int = 0,
    heard: int = 0,
    takes: bool = True,
    there: bool = True,
) -> KeyHolder:
    keys = None if found is None else TokenKeys({kid: letter.encode() * 32 for kid, letter in found.items()})
    return KeyHolder(
        name=name,
        is_there=there,
        takes_pushes=takes,
        marks=() if keys is None else parse_marks(mark_keys(keys, admin)),
        home_vms=homes,
        heard_vms=heard,
    )


def judged(*nodes: KeyHolder) -> tuple[set[str], set[str]]:
    """Names of strangers, and of those that are told something else of their keys."""
    found = key_differences(nodes)
    strangers = {name for name, one in found.items() if one.is_stranger}
    return strangers, found.keys() - strangers


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("strangers", [1, 3])
def test_who_has_no_vms_is_the_stranger(there: bool, takes: bool, strangers: int) -> None:
    """However many they are, whatever the others do: histories, or pushes where nobody has histories yet."""
    strange = [holder(f"a-{number}", NEW) for number in range(strangers)]
    names = {one.name for one in strange}
    assert judged(*strange, holder("b", OLD, homes=1, there=there, takes=takes)) == (names, set())
    assert judged(*strange, holder("b", OLD, heard=1, there=there, takes=takes)) == (names, set())


def test_keys_are_copied_from_a_home_of_vms_alone() -> None:
    """The one that is there before one that is away, which may have to be forgotten; else nobody is sent anywhere."""
    strange, empty = holder("a", NEW), holder("b", OLD)
    there, away = holder("d", OLD, homes=1), holder("c", OLD, homes=9, there=False)
    words = key_differences([strange, empty, there, away])["a"].words
    assert "not those of d," in words
    assert words.endswith("copy token.key and admin.token from there")
    words = key_differences([strange, empty, away])["a"].words
    assert "not those of c," in words
    assert words.endswith("from there, or forget what is gone for good (nodes forget)")
    words = key_differences([strange, empty, holder("c", OLD)])["a"].words
    assert "copy" not in words
    assert words.endswith("all aggregators need the same token.key and admin.token")


def test_one_of_many_whose_key_was_exchanged_gives_way_to_those_that_serve() -> None:
    """It has VMs, but fewer, and the others take theirs; while those do not, its own VMs are served."""
    changed = holder("a", NEW, homes=3)
    assert judged(changed, holder("b", OLD, homes=3), holder("c", OLD, homes=3)) == ({"a"}, set())
    for there, takes in ((False, True), (True, False)):
        others = [holder(name, OLD, homes=3, there=there, takes=takes) for name in "bc"]
        assert judged(changed, *others) == (set(), {"a"})
        assert judged(changed, others[0], holder("c", OLD, homes=3)) == ({"a"}, set())


@pytest.mark.parametrize(("homes", "others"), [(9, [3]), (3, [9]), (3, [3]), (9, [3, 3])])
def test_where_nobody_can_tell_all_go_on_and_say_so(homes: int, others: list[int]) -> None:
    """Two with VMs of which one has more of them, but not more nodes: neither may put the other's VMs out."""
    nodes = [holder("a", NEW, homes=homes), *(holder(f"b-{n}", OLD, homes=count) for n, count in enumerate(others))]
    assert judged(*nodes) == (set(), {one.name for one in nodes})
    assert "goes on with its own" in key_differences(nodes)["a"].words


def test_without_any_vm_the_most_nodes_and_then_the_name_decide() -> None:
    """The same after any restart; who would come first gives way to nobody, and puts nobody out before it serves."""
    a, b, c = holder("a", NEW), holder("b", OLD), holder("c", OLD)
    assert judged(a, b, c) == ({"a"}, set())
    assert judged(a, b) == ({"b"}, set())
    assert judged(holder("a", NEW, takes=False), b) == (set(), set())
    assert judged(holder("a", NEW, there=False), b) == (set(), set())


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
@pytest.mark.parametrize("home", [0, 1, 2])
def test_a_rotation_makes_no_node_differ(fleet: list[Keys | None], home: int) -> None:
    """Whoever has the VMs, at every step: nor does a node of an older version, which tells of no keys."""
    told = [holder(f"agg-{number}", found, homes=9 * (number == home)) for number, found in enumerate(fleet)]
    assert key_differences(told) == {}
    assert not keys_differ([one.marks for one in told])


@given(
    st.lists(st.integers(0, 20), min_size=2, max_size=4),
    st.permutations(range(4)),
    st.sets(st.integers(0, 3), max_size=3),
)
def test_exchanged_keys_make_a_ready_fleet(homes: list[int], order: list[int], away: set[int]) -> None:
    """Copied to one after the other, in any order: at each step somebody goes on, at the end all that are there.

    Unless those that are away have all of the VMs: they, too, need the keys, or are to be forgotten.
    """
    numbers = range(len(homes))
    there = {f"agg-{number}" for number in numbers if number not in away}
    has_vms = not any(homes) or any(homes[number] for number in numbers if number not in away)
    keys = [OLD] * len(homes)
    assert judged(*_fleet(keys, homes, away)) == (set(), set())
    for number in (each for each in order if each in numbers and each not in away):
        keys = [NEW if each == number else found for each, found in enumerate(keys)]
        strangers, _ = judged(*_fleet(keys, homes, away))
        assert not has_vms or not there or there - strangers
    strangers, _ = judged(*_fleet(keys, homes, away))
    assert strangers & there == (set() if has_vms else there)


def _fleet(keys: list[Keys], homes: list[int], away: set[int]) -> list[KeyHolder]:
    return [
        holder(f"agg-{number}", found, homes=homes[number], there=number not in away)
        for number, found in enumerate(keys)
    ]


def test_one_kid_with_two_keys_is_told_of_and_takes_pushes() -> None:
    """A new key was made on each instead of copied: tokens of the older one are still good everywhere."""
    one, other = holder("agg-2", {"k2": "b", "k1": "a"}, homes=1), holder("agg-1", {"k2": "c", "k1": "a"})
    found = key_differences([one, other])
    assert {name: told.is_stranger for name, told in found.items()} == {"agg-1": False}
    assert found["agg-1"].words == "its key k2 is another than that of agg-2: copy token.key from there"
    gone = holder("agg-2", {"k2": "b", "k1": "a"}, homes=1, there=False)
    assert key_differences([gone, other]) == {}


def test_another_admin_token_is_told_of_and_takes_pushes() -> None:
    """Pushes have no use for it."""
    found = key_differences([holder("agg-1", OLD), holder("agg-2", OLD, admin="b")])
    assert list(found) == ["agg-2"]
    assert not found["agg-2"].is_stranger
    assert "admin.token is another than that of agg-1" in found["agg-2"].words


_KEYS = st.dictionaries(st.sampled_from(KIDS), st.sampled_from("ab"), min_size=1, max_size=2)
_NODES = st.tuples(_KEYS, st.integers(0, 3), st.integers(0, 3), st.booleans(), st.booleans())


@given(st.lists(_NODES, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_somebody_is_always_left_to_take_pushes(told: list[tuple[Keys, int, int, bool, bool]], chance: object) -> None:
    """Whatever the keys: the camp with the most VMs is never strange, no camp is torn, and order says nothing."""
    fleet = [
        holder(f"agg-{number}", found, homes=homes, heard=heard, takes=takes, there=there)
        for number, (found, homes, heard, takes, there) in enumerate(told)
    ]
    found = key_differences(fleet)
    chance.shuffle(fleet)  # type: ignore[attr-defined]
    assert key_differences(fleet) == found
    assert not found or keys_differ([one.marks for one in fleet])
    strangers = {name for name, one in found.items() if one.is_stranger}
    for one, other in permutations(fleet, 2):
        if {mark[:2] for mark in one.marks} & {mark[:2] for mark in other.marks}:
            assert (one.name in strangers) == (other.name in strangers)
    assert strangers != {one.name for one in fleet}
