"""Lists out of memory are those of the database, however they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from reports.judging import scope_of, settings_sha256, store_verdicts
from reports.policies import POLICIES
from reports.report import Question, Sort
from reports.savings import Prices
from reports.verdict_table import Stored, read_page, read_stored
from reports.verdicts import Settings, Verdict
from reports.web.ranked import Ranked, read_ranked
from reports.web.remembered import Remembered
from tests.reports.fleets import NOW_S, OVERSIZED, Spec, empty_fleet, one_of_each, store

POLICY = POLICIES["fallow-balanced"]
SETTINGS = Settings(prices=Prices(currency="EUR", vcpu_hour=0.02))
OWNERS = (None, "ann", "Ann", "ärger", "bob")
SPECS = [
    *one_of_each(),
    # Many that are alike, so that ties decide; and texts that order differently by letter and by case.
    *(
        Spec(
            vm_id=f"twin-{number:02}",
            name=(None, "Zeta", "alpha", "Ärger", "alpha")[number % 5],
            owner=OWNERS[number % len(OWNERS)],
            vcpus=(4, None, 8)[number % 3],
            tags=("100%_sure", "a\\b")[: number % 3],
            load=OVERSIZED if number % 4 == 0 else Spec().load,
        )
        for number in range(30)
    ),
]
QUESTIONS = st.builds(
    Question,
    policy=st.just(POLICY),
    settings=st.just(SETTINGS),
    now_s=st.just(NOW_S),
    verdict=st.none() | st.sampled_from(Verdict),
    reclaimable=st.booleans(),
    search=st.sampled_from(["", "twin", "TWIN-0", "%", "_", "\\", "Ä", "alpha", "nothing of the kind", "ann"]),
    owner=st.sampled_from([*OWNERS, "nobody"]),
    sort=st.sampled_from(Sort),
    ascending=st.booleans(),
    offset=st.integers(0, 45),
    top=st.none() | st.integers(1, 50),
)


@pytest.fixture(scope="module")
def connection() -> Iterator[sa.Connection]:
    engine = empty_fleet()
    store(engine, SPECS)
    store_verdicts(engine, engine, POLICY, SETTINGS, NOW_S)
    with engine.connect() as made:
        yield made
    engine.dispose()


@pytest.fixture(scope="module")
def stored(connection: sa.Connection) -> Stored:
    found = read_stored(connection, scope_of(POLICY, SETTINGS), settings_sha256(POLICY, SETTINGS))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def ranked(connection: sa.Connection, stored: Stored) -> Ranked:
    return read_ranked(connection, stored)


@given(question=QUESTIONS)
def test_page_is_that_of_the_database(
    connection: sa.Connection, stored: Stored, ranked: Ranked, question: Question
) -> None:
    """The same VMs, in the same order, and as many in all."""
    assert ranked.page(question) == read_page(connection, stored, question)


def test_every_vm_is_listed_once(ranked: Ranked) -> None:
    """Page by page the whole fleet comes, each VM once."""
    question = Question(policy=POLICY, settings=SETTINGS, now_s=NOW_S, reclaimable=False, sort=Sort.OWNER, top=7)
    pages = [ranked.page(replace(question, offset=offset)) for offset in range(0, len(SPECS) + 7, 7)]
    found = [vm_id for page in pages for vm_id in page.vm_ids]
    assert sorted(found) == sorted(spec.vm_id for spec in SPECS)
    assert {page.matching for page in pages} == {len(SPECS)}


def test_fleet_of_no_vm_is_a_list_of_none(tmp_path: Path) -> None:
    """An empty run is no special case."""
    engine = empty_fleet()
    store_verdicts(engine, engine, POLICY, SETTINGS, NOW_S)
    with engine.connect() as connection:
        found = read_stored(connection, scope_of(POLICY, SETTINGS), settings_sha256(POLICY, SETTINGS))
        assert found is not None
        ranked = read_ranked(connection, found)
    for sort in Sort:
        question = Question(policy=POLICY, settings=SETTINGS, now_s=NOW_S, search="a", owner="b", sort=sort, top=5)
        assert ranked.page(question) == ((), 0)
    engine.dispose()


def test_answers_are_kept_for_their_time() -> None:
    """One that is good is not made again; one that is old, or whose clock went back, is."""
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    remembered = Remembered[str, int](most=2)
    assert [remembered.find("a", now_s, 10.0, make) for now_s in (0.0, 9.0, 10.0, 25.0, 5.0)] == [0, 0, 1, 2, 3]


def test_oldest_question_makes_room() -> None:
    """Of three questions with room for two, the one asked for longest ago is answered anew."""
    made: list[str] = []

    def ask(key: str) -> None:
        remembered.find(key, 0.0, 10.0, lambda: made.append(key))

    remembered = Remembered[str, None](most=2)
    for key in ("a", "b", "a", "c", "a", "b"):
        ask(key)
    assert made == ["a", "b", "c", "b"]
