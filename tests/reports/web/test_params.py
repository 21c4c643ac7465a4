"""Addresses of lists: what they ask for, and that a page's links ask for the same again."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.problems import Refused
from reports.policies import POLICIES
from reports.ranking import is_falling
from reports.report import Sort
from reports.verdicts import Settings, Verdict
from reports.web.params import (
    EVERY,
    PAGE_VMS,
    RECLAIMABLE,
    Choosing,
    ListAsked,
    check_names,
    host_path,
    href,
    read_list,
    read_whole,
    verdict_key,
    vm_path,
)

CHOOSING = Choosing(policies=POLICIES, windows_days=(1, 7, 14, 30), default_policy="fallow-balanced", default_days=14)
TEXTS = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=40)
ASKED = st.builds(
    ListAsked,
    policy=st.sampled_from(list(POLICIES.values())),
    window_days=st.sampled_from(CHOOSING.windows_days),
    search=TEXTS,
    verdict=st.sampled_from([RECLAIMABLE, EVERY, *map(verdict_key, Verdict)]),
    owner=st.none() | TEXTS.filter(bool),
    sort=st.sampled_from(Sort),
    is_reversed=st.booleans(),
    page=st.integers(1, 10_000),
)


@given(asked=ASKED)
def test_link_asks_for_the_same_again(asked: ListAsked) -> None:
    """Whatever was asked for, its address leads back to it, and says nothing that is usual."""
    address = href("/vms", asked.parameters(CHOOSING))
    query = dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
    assert read_list(query, CHOOSING) == asked
    assert all(query.values())


def test_plain_address_asks_for_what_is_usual() -> None:
    """Without parameters: the reclaimable VMs by the policy and window of the settings, the best first."""
    asked = read_list({}, CHOOSING)
    assert asked.parameters(CHOOSING) == {}
    assert not asked.is_filtered
    question = asked.question(Settings(), 5.0)
    assert (question.verdict, question.reclaimable, question.offset, question.top) == (None, True, 0, PAGE_VMS)


@given(asked=ASKED)
def test_direction_is_that_of_the_database(asked: ListAsked) -> None:
    """What a heading says of the order is what the list does."""
    assert asked.is_ascending is not is_falling(asked.question(Settings(), 0.0))


def test_question_has_the_window_and_the_place() -> None:
    """The window asked for goes into the settings, the page into the offset."""
    asked = replace(read_list({}, CHOOSING), window_days=7, page=3, verdict="insufficient-data")
    question = asked.question(Settings(), 5.0)
    assert (question.settings.window_days, question.offset) == (7, 2 * PAGE_VMS)
    assert (question.verdict, question.reclaimable) == (Verdict.INSUFFICIENT, False)
    assert read_list({"verdict": "all"}, CHOOSING).question(Settings(), 5.0).reclaimable is False


@pytest.mark.parametrize(
    ("query", "named"),
    [
        *(({"policy": "luck"}, "policy"), ({"window": "5d"}, "window"), ({"window": "36h"}, "window")),
        *(({"verdict": "lazy"}, "verdict"), ({"sort": "luck"}, "sort"), ({"order": "up"}, "order")),
        *(({"page": "0"}, "page"), ({"page": "-1"}, "page"), ({"page": "1e3"}, "page"), ({"page": "٣"}, "page")),
        *(({"search": "a" * 201}, "search"), ({"search": "a\x00b"}, "search"), ({"owner": "\ud800"}, "owner")),
        ({"page": "9" * 30}, "page"),
    ],
)
def test_what_cannot_be_is_named(query: dict[str, str], named: str) -> None:
    """Each refusal says which parameter, and what it may be."""
    with pytest.raises(Refused) as refused:
        read_list(query, CHOOSING)
    assert refused.value.problem.status == 422
    assert refused.value.problem.detail.startswith(f"{named}: ")


def test_unknown_parameters_of_the_api_are_refused() -> None:
    """A parameter that would do nothing is a mistake in the program that sends it."""
    check_names({"a": "1"}, "a", "b")
    with pytest.raises(Refused, match="'c' is not a parameter here"):
        check_names({"c": "1"}, "a", "b")


@given(text=st.text(max_size=12))
def test_numbers_are_plain_digits(text: str) -> None:
    """Any text is a number in its bounds or refused."""
    try:
        value = read_whole({"n": text}, "n", 5, 2, 2000)
    except Refused:
        return
    assert 2 <= value <= 2000
    assert int(text) == value


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_paths_hold_any_name(name: str) -> None:
    """A name is one segment of a path, whatever is in it."""
    for path in (vm_path(name), host_path(name)):
        assert path.count("/") == 2
        assert urlsplit(path).path == path
        assert path.isascii()
