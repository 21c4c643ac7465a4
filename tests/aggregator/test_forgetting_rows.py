"""Forgetting a VM in the fleet database, on SQLite and on PostgreSQL: what is told, and who else must know of lives."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from aggregator.catalogue import Catalogue, UnknownVmError
from aggregator.fleet import revocation, vm, vm_summary
from aggregator.fleet_db import FLEET, migrate, open_fleet, reading
from aggregator.generations import below
from aggregator.lives import MAX_LIFE, first_of
from aggregator.node_state import NodeState
from aggregator.nodes import Nodes
from aggregator.problems import Refused
from aggregator.schema_steps import note_floor, read_floor
from aggregator.summaries import SummaryWriter
from tests.aggregator.flush_fakes import NOW_S, summary
from tests.aggregator.node_fakes import node
from tests.postgres import postgres_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[sa.Engine]:
    if request.param == "sqlite":
        yield from _migrated(None, tmp_path)
        return
    with postgres_database(pytestconfig) as url:
        yield from _migrated(url, tmp_path)


def _migrated(url: str | None, tmp_path: Path) -> Iterator[sa.Engine]:
    fleet = open_fleet(url, tmp_path)
    try:
        migrate(fleet)
        yield fleet
    finally:
        fleet.dispose()


def known(engine: sa.Engine, *vm_ids: str) -> Catalogue:
    """A catalogue in which these are enrolled."""
    with engine.begin() as connection:
        for vm_id in vm_ids:
            connection.execute(sa.insert(vm).values(vm_id=vm_id, generation=1))
    return Catalogue(engine)


def refused(engine: sa.Engine) -> dict[str, int]:
    """The first generation that counts of each VM that has one."""
    with reading(engine) as connection:
        rows = connection.execute(sa.select(revocation.c.vm_id, revocation.c.below_generation))
        return {row[0]: row[1] for row in rows}


def floor(engine: sa.Engine) -> str | None:
    with reading(engine) as connection:
        return read_floor(connection, FLEET.part)


# What is told.


def test_a_vm_that_nobody_knows_is_not_forgotten(engine: sa.Engine) -> None:
    """However often it is asked: no row of it is written, and the second time of a VM that was there is the same."""
    catalogue = known(engine, "a")
    for _ in range(2):
        with pytest.raises(UnknownVmError):
            catalogue.forget("nosuch", now_s=NOW_S)
    assert refused(engine) == {}
    assert catalogue.forget("a", now_s=NOW_S) == 1
    with pytest.raises(UnknownVmError):
        catalogue.forget("a", now_s=NOW_S)
    assert refused(engine) == {"a": first_of(1)}
    with reading(engine) as connection:
        assert connection.scalars(sa.select(vm_summary.c.vm_id)).all() == []


@pytest.mark.parametrize("is_enrolled", [False, True])
@pytest.mark.parametrize("has_summary", [False, True])
def test_whatever_is_held_of_a_vm_is_enough(engine: sa.Engine, is_enrolled: bool, has_summary: bool) -> None:
    """Its own row, its summary, or both; with neither there is nothing to forget."""
    catalogue = known(engine, *(["a"] if is_enrolled else []))
    if has_summary:
        SummaryWriter(engine, "agg-1").write([summary("a")], now_s=NOW_S)
    if is_enrolled or has_summary:
        assert catalogue.forget("a", now_s=NOW_S) == 1
    else:
        with pytest.raises(UnknownVmError):
            catalogue.forget("a", now_s=NOW_S)
    assert catalogue.vm("a") is None


@pytest.mark.parametrize("is_enrolled", [False, True])
def test_several_at_once_end_one_life(engine: sa.Engine, is_enrolled: bool) -> None:
    """One forgets the VM, the others hear that there is none."""
    catalogue = known(engine, *(["a"] if is_enrolled else []))
    SummaryWriter(engine, "agg-1").write([summary("a")], now_s=NOW_S)
    together = threading.Barrier(3)
    outcomes: list[int | None] = []

    def forget() -> None:
        together.wait(60.0)
        try:
            outcomes.append(catalogue.forget("a", now_s=NOW_S))
        except UnknownVmError:
            outcomes.append(None)

    threads = [threading.Thread(target=forget) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [1, None, None]
    assert refused(engine) == {"a": first_of(1)}


def test_the_last_life_is_not_ended(engine: sa.Engine) -> None:
    """409, and the VM stays as it is."""
    catalogue = known(engine, "a")
    with engine.begin() as connection:
        values = {"below_generation": first_of(MAX_LIFE), "reason": "forgotten", "created_s": NOW_S}
        connection.execute(sa.insert(revocation).values(vm_id="a", **values))
    with pytest.raises(Refused) as caught:
        catalogue.forget("a", now_s=NOW_S)
    assert (caught.value.problem.status, caught.value.problem.reason) == (409, "lives-spent")
    assert catalogue.vm("a") is not None


# Aggregators that know no lives.


@pytest.mark.parametrize(
    ("state", "age_s"), [(NodeState.UP, 0.0), (NodeState.UP, 1e6), (NodeState.DRAINING, 0.0), (NodeState.STOPPED, 0.0)]
)
def test_row_42_an_older_aggregator_holds_a_forgetting_up(engine: sa.Engine, state: NodeState, age_s: float) -> None:
    """Up, draining, silent for days or stopped: it may take pushes of the VM, until it is new or forgotten itself."""
    catalogue, nodes = known(engine, "a", "b"), Nodes(engine)
    nodes.register(node("agg-1"), None)
    for name, revision in (("agg-2", "0003"), ("agg-3", "0002")):
        nodes.register(node(name, revision=revision, state=state, seen_s=NOW_S - age_s), None)
    with pytest.raises(Refused) as caught:
        catalogue.forget("a", now_s=NOW_S)
    problem = caught.value.problem
    assert (problem.status, problem.reason) == (409, "older-nodes")
    assert "agg-2 (0003), agg-3 (0002)." in problem.detail
    assert "nodes forget" in problem.detail
    assert (catalogue.vm("a") is not None, refused(engine), floor(engine)) == (True, {}, "0003")
    nodes.register(node("agg-2"), None)
    with pytest.raises(Refused, match=r": agg-3 \(0002\)\. "):
        catalogue.forget("a", now_s=NOW_S)
    nodes.register(node("agg-3", state=NodeState.STOPPED), None)
    assert catalogue.forget("a", now_s=NOW_S) == 1
    with pytest.raises(UnknownVmError):
        catalogue.forget("nosuch", now_s=NOW_S)


def test_row_42_no_older_aggregator_starts_after_a_forgetting(engine: sa.Engine) -> None:
    """One that was downgraded would lose what the VM pushes from then on: it refuses; until then it may start."""
    catalogue = known(engine, "a", "b")
    older = replace(FLEET, head="0003")
    migrate(engine, older)
    assert catalogue.forget("a", now_s=NOW_S) == 1
    assert catalogue.forget("b", now_s=NOW_S) == 1
    with pytest.raises(ConfigError, match="newer than the 0003 of this program"):
        migrate(engine, older)
    migrate(engine)


def test_a_floor_that_was_raised_does_not_sink(engine: sa.Engine) -> None:
    """A later step that would let older programs go on does not let in whom a forgetting kept out."""
    known(engine, "a").forget("a", now_s=NOW_S)
    with engine.begin() as connection:
        note_floor(connection, FLEET.part, "0003")
    assert floor(engine) == "0004"
    with engine.begin() as connection:
        note_floor(connection, FLEET.part, "0005")
        assert below(connection, "a") == first_of(1)
    assert floor(engine) == "0005"
