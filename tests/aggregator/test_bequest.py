"""VMs of a node that leaves for good which push nowhere: another node becomes their home, and nothing is lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator.bequest_table import BequestTable
from aggregator.fleet import vm_part, vm_summary
from aggregator.fleet_db import migrate, open_fleet
from aggregator.heirs import choose_heir, find_heirs, why_kept
from aggregator.node_problems import node_problems
from aggregator.node_row import Node, NodeTable
from aggregator.node_state import NodeState
from aggregator.nodes import Nodes
from aggregator.summaries import SummaryWriter
from tests.aggregator.fleet_model import FleetModel
from tests.aggregator.flush_fakes import NOW_S, TS, summary
from tests.aggregator.node_fakes import node
from tests.aggregator.test_parts_fleet import NODES, told, until
from tests.aggregator.test_summaries_nodes import at_once
from tests.postgres import postgres_database

LATER_S = NOW_S + 3600.0  # than any VM was heard of


@pytest.fixture
def fleet(tmp_path: Path) -> FleetModel:
    return FleetModel(tmp_path, NODES)


@pytest.fixture
def postgres(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[sa.Engine]:
    with postgres_database(pytestconfig) as url, migrated(url, tmp_path) as made:
        yield made


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    if request.param == "postgres":
        yield request.getfixturevalue("postgres")
        return
    with migrated(None, tmp_path) as made:
        yield made


@contextmanager
def migrated(url: str | None, folder: Path) -> Iterator[sa.Engine]:
    made = open_fleet(url, folder)
    try:
        migrate(made)
        yield made
    finally:
        made.dispose()


def table(*nodes: Node) -> NodeTable:
    return NodeTable(nodes=nodes, now_s=NOW_S)


@pytest.mark.parametrize(
    "changed",
    [
        {"state": NodeState.DRAINING},
        {"state": NodeState.DRAINING, "is_leaving": True},
        {"state": NodeState.STOPPED},
        {"not_ready": "its keys are not those of the fleet"},
        {"seen_s": NOW_S - 31.0},
        {"revision": "0003"},
    ],
)
def test_heir_is_there_to_stay(changed: dict[str, object]) -> None:
    """Nobody inherits who goes himself, may be away, takes no pushes, or would miss the store at his next start."""
    leaving = node("a", state=NodeState.DRAINING, is_leaving=True, seen_s=NOW_S)
    good = replace(node("c"), seen_s=NOW_S)
    doubtful = replace(node("b"), **{"seen_s": NOW_S, **changed})  # type: ignore[arg-type]
    assert find_heirs(table(leaving, doubtful, good), "a") == ["c"]
    assert why_kept(table(leaving, good), "a") is None
    assert "no other aggregator" in str(why_kept(table(leaving, doubtful), "a"))
    assert "no other aggregator" in " ".join(node_problems(table(leaving, doubtful), {})["a"])
    assert "a" not in node_problems(table(leaving, good), {})


def test_who_cannot_be_asked_bequeaths_nothing() -> None:
    """His histories could not be fetched: their VMs would be without a verdict for nothing."""
    leaving = node("a", state=NodeState.DRAINING, is_leaving=True, admin_url=None, seen_s=NOW_S)
    assert "node.url" in str(why_kept(table(leaving, replace(node("b"), seen_s=NOW_S)), "a"))


def test_heirs_get_about_as_many() -> None:
    """Spread by the ids of VMs; each time the same, and one more heir takes from all, moving no VM between others."""
    vms = [f"vm-{number}" for number in range(3000)]
    before = {vm: choose_heir(vm, ["b", "c"]) for vm in vms}
    after = {vm: choose_heir(vm, ["b", "c", "d"]) for vm in vms}
    assert all(900 <= count <= 1100 for count in Counter(after.values()).values())
    assert {after[vm] for vm in vms if after[vm] != before[vm]} == {"d"}


def leave(engine: sa.Engine, *others: str) -> tuple[BequestTable, SummaryWriter]:
    """Node `a` leaves, the others are up."""
    nodes = Nodes(engine, machine=lambda: NOW_S)
    nodes.register(node("a", state=NodeState.DRAINING, is_leaving=True, seen_s=LATER_S), None)
    for other in others:
        nodes.register(node(other, seen_s=LATER_S), None)
    with engine.begin() as connection:
        # By the database's own clock they were seen whenever the test wants.
        connection.execute(sa.text("UPDATE node SET seen_s = :now"), {"now": 4e9})
    writer = SummaryWriter(engine, "a")
    return BequestTable(engine, "a", writer), writer


def rows(engine: sa.Engine) -> dict[str, tuple[object, ...]]:
    with engine.connect() as connection:
        return {row.vm_id: tuple(row)[1:] for row in connection.execute(sa.select(vm_summary))}


def notes(engine: sa.Engine) -> dict[tuple[str, str], tuple[int, int, float]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(vm_part)).all()
    return {(row.vm_id, row.node): (row.oldest_s, row.newest_s, row.noted_s) for row in found}


def test_bequest_changes_the_home_alone(engine: sa.Engine) -> None:
    """All else that the row says stays: the VM is as silent as before. What this node holds is noted as a part."""
    homes, writer = leave(engine, "b")
    writer.write([summary("vm-1"), summary("vm-2")], now_s=NOW_S)
    before = rows(engine)
    assert homes.look(now_s=LATER_S) == (["vm-1", "vm-2"], ["b"], None)
    assert homes.look(now_s=LATER_S, after="vm-1").vm_ids == ["vm-2"]
    assert homes.bequeath({"vm-1": "b"}, now_s=LATER_S) == 1
    after = rows(engine)
    assert after["vm-1"] == (*before["vm-1"][:-1], "b")
    assert after["vm-2"] == before["vm-2"]
    assert notes(engine) == {("vm-1", "a"): (TS - 3600, TS, LATER_S)}
    assert homes.look(now_s=LATER_S).vm_ids == ["vm-2"]


def test_vm_that_was_heard_of_meanwhile_stays(engine: sa.Engine) -> None:
    """Between the look and the bequest it pushed, here or elsewhere: that decides on its home."""
    homes, writer = leave(engine, "b", "c")
    writer.write([summary("vm-1"), summary("vm-2")], now_s=NOW_S)
    assert homes.look(now_s=NOW_S + 419.0).vm_ids == []
    assert homes.look(now_s=NOW_S + 421.0).vm_ids == ["vm-1", "vm-2"]
    writer.write([summary("vm-1", received_s=LATER_S, newest_s=TS + 60)], now_s=LATER_S)
    SummaryWriter(engine, "c").write([summary("vm-2", received_s=LATER_S, newest_s=TS + 60)], now_s=LATER_S)
    before = notes(engine)
    assert homes.bequeath({"vm-1": "b", "vm-2": "b"}, now_s=LATER_S) == 0
    assert {vm: row[-1] for vm, row in rows(engine).items()} == {"vm-1": "a", "vm-2": "c"}
    assert notes(engine) == before


def test_heir_that_holds_a_part_holds_none_any_more(engine: sa.Engine) -> None:
    """What the home has is no part; what a third holds stays noted, and is joined by the new home too."""
    homes, writer = leave(engine, "b", "c")
    writer.write([summary("vm-1", newest_s=TS + 60)], now_s=NOW_S)
    for other in ("b", "c"):
        SummaryWriter(engine, other).write([summary("vm-1")], now_s=NOW_S)
    assert homes.bequeath({"vm-1": "b"}, now_s=LATER_S) == 1
    assert sorted(notes(engine)) == [("vm-1", "a"), ("vm-1", "c")]


def test_heir_does_not_expect_the_store(engine: sa.Engine) -> None:
    """Until it has taken the part in, or has stored what is newer: else its next start would take it for lost."""
    homes, writer = leave(engine, "b")
    heir = SummaryWriter(engine, "b")
    writer.write([summary("vm-1"), summary("vm-2")], now_s=NOW_S)
    homes.bequeath({"vm-1": "b", "vm-2": "b"}, now_s=LATER_S)
    assert heir.known_vms() == []
    heir.write([summary("vm-1", newest_s=TS + 60)], now_s=LATER_S)
    assert heir.known_vms() == ["vm-1"]
    assert SummaryWriter(engine, "a").known_vms() == []


def test_no_more_are_under_way_than_can_be_joined_soon(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VM has no verdict meanwhile. Parts that cannot be taken in, and those of a node that went, hold up nobody."""
    monkeypatch.setattr("aggregator.bequest_table._UNDER_WAY", 2)
    homes, writer = leave(engine, "b", "c")
    writer.write([summary(f"vm-{number}") for number in range(4)], now_s=NOW_S)
    assert homes.look(now_s=LATER_S).vm_ids == ["vm-0", "vm-1"]
    homes.bequeath({"vm-0": "b", "vm-1": "c"}, now_s=LATER_S)
    assert homes.look(now_s=LATER_S).vm_ids == []
    with engine.begin() as connection:
        connection.execute(sa.update(vm_part).where(vm_part.c.vm_id == "vm-0").values(problem="damaged"))
    assert homes.look(now_s=LATER_S).vm_ids == ["vm-2"]
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE node SET state = 'stopped' WHERE node = 'c'"))
    assert homes.look(now_s=LATER_S).vm_ids == ["vm-2", "vm-3"]


@pytest.mark.real
def test_bequest_and_pushes_elsewhere_at_once_agree(postgres: sa.Engine) -> None:
    """Whichever comes first, VM by VM: who got the newest sample is the home; what the one that leaves has is noted."""
    nodes = Nodes(postgres)
    now_s = time.time()
    for name in NODES:
        nodes.register(node(name, seen_s=now_s, is_leaving=name == "a"), None)
    batch = [summary(f"vm-{number:03d}", received_s=now_s - 3600.0) for number in range(200)]
    leaving, c = SummaryWriter(postgres, "a"), SummaryWriter(postgres, "c")
    leaving.write(batch, now_s=now_s)
    awake = [one._replace(newest_s=TS + 60, received_s=now_s) for one in batch[::2]]
    heir_of = {one.vm_id: "b" for one in batch}
    homes_of_a = BequestTable(postgres, "a", leaving)

    def give() -> None:
        homes_of_a.bequeath(heir_of, now_s=now_s)

    at_once([lambda: c.write(awake[::-1], now_s=now_s), give])
    with postgres.connect() as connection:
        homes = dict(connection.execute(sa.select(vm_summary.c.vm_id, vm_summary.c.node)).all())
        parts = set(connection.execute(sa.select(vm_part.c.vm_id, vm_part.c.node)).all())
    awake_ids = {one.vm_id for one in awake}
    assert homes == {one.vm_id: "c" if one.vm_id in awake_ids else "b" for one in batch}
    assert {vm for vm, holder in parts if holder == "a"} == set(homes)
    # The heir was the home for a moment, of some: it is asked too, and has nothing.
    assert {vm for vm, holder in parts if holder == "b"} <= awake_ids
    assert {holder for _, holder in parts} <= {"a", "b"}


# On the fleet under the test's hand.


def bequeathed(fleet: FleetModel) -> str:
    """`a` has stored minutes 1 and 2 of vm-1, leaves, and another is the home; which."""
    told(fleet, "a", "vm-1", 1, 2)
    fleet.nodes["a"].leave(wanted=True)
    bequeath(fleet, "a")
    heir = fleet.homes()["vm-1"]
    assert heir in ("b", "c")
    assert fleet.notes() == {("vm-1", "a")}
    return heir


def bequeath(fleet: FleetModel, name: str) -> None:
    """A round, minutes later."""
    fleet.now_s += 600.0
    fleet.nodes[name].bequest.tick()
    fleet.work()


def join(fleet: FleetModel, name: str) -> None:
    fleet.now_s += 61.0
    fleet.nodes[name].joiner.tick()
    fleet.work()


def at_rest(fleet: FleetModel) -> list[str]:
    fleet.come_to_rest()
    return fleet.problems_at_rest() + fleet.lost()


def test_heir_has_all_of_it_in_the_end(fleet: FleetModel) -> None:
    """The store went over as a whole, nothing is left at the one that leaves, and the heir would miss the store."""
    heir = bequeathed(fleet)
    join(fleet, heir)
    assert fleet.notes() == set()
    assert [name for name, one in fleet.nodes.items() if "vm-1" in one.stores] == [heir]
    assert fleet.nodes[heir].flusher.knows("vm-1")
    assert fleet.nodes["a"].bequest.bequeathed == 1
    assert at_rest(fleet) == []


@pytest.mark.parametrize("where", ["a", "heir", "third"])
@pytest.mark.parametrize("is_joined", [False, True])
def test_vm_that_wakes_up_in_the_middle_is_counted_once(fleet: FleetModel, where: str, is_joined: bool) -> None:
    """Wherever it pushes: that is its home, and it gets all of the history."""
    heir = bequeathed(fleet)
    name = {"a": "a", "heir": heir, "third": ({"b", "c"} - {heir}).pop()}[where]
    if is_joined:
        join(fleet, heir)
    told(fleet, name, "vm-1", 3)
    assert fleet.homes() == {"vm-1": name}
    assert fleet.unnoted() == []
    assert at_rest(fleet) == []
    assert fleet.homes() == {"vm-1": name}
    if where == "a":
        bequeath(fleet, "a")
        assert fleet.homes()["vm-1"] != "a"
        assert at_rest(fleet) == []


@pytest.mark.parametrize("minute", [None, 0, 3])
def test_row_18_heir_that_starts_anew_misses_no_store(fleet: FleetModel, minute: int | None) -> None:
    """What it never had is not lost: not before it joins, and not where the VM pushed to it before it ended.

    Args: minute: pushed to it while a flush runs, so that the database hears of it before any store does.
    """
    heir = fleet.nodes[bequeathed(fleet)]
    if minute is not None:
        fleet.push(heir.name, "vm-2", 1)
        heir.flusher.flush_turn()
        fleet.push(heir.name, "vm-1", minute)
        fleet.work()
    heir.crash()
    if minute is not None:
        heir.flusher.flush()
        fleet.work()
    join(fleet, heir.name)
    assert heir.lost == set()
    assert at_rest(fleet) == []


def test_row_35_who_leaves_is_killed_at_any_step(fleet: FleetModel) -> None:
    """Before the bequest, between bequest and the news of it, and while its store is taken in."""
    fleet.push("a", "vm-1", 1)
    for is_done in (False, True):
        # After a start it may owe a summary.
        fleet.nodes["a"].flusher.flush()
        fleet.work()
        fleet.nodes["a"].leave(wanted=True)
        fleet.now_s += 600.0
        fleet.nodes["a"].bequest.tick()
        job = until(fleet, "_give")
        if is_done:
            fleet.step(job)
        fleet.nodes["a"].crash()
        assert (fleet.homes()["vm-1"] == "a") != is_done
        assert fleet.unnoted() == []
    fleet.nodes["a"].flusher.flush()
    fleet.work()
    heir = fleet.homes()["vm-1"]
    assert heir != "a"
    fleet.nodes[heir].joiner.tick()
    until(fleet, "_drop")
    fleet.nodes["a"].crash()
    fleet.work()
    assert fleet.unnoted() == []
    assert at_rest(fleet) == []


def test_two_that_leave_do_not_play_ping_pong(fleet: FleetModel) -> None:
    """Both give to the one that stays; where all leave nothing moves."""
    for name in ("a", "b"):
        told(fleet, name, f"vm-{name}", 1)
        fleet.nodes[name].leave(wanted=True)
    for name in ("a", "b", "a", "b"):
        bequeath(fleet, name)
    assert fleet.homes() == {"vm-a": "c", "vm-b": "c"}
    fleet.nodes["c"].leave(wanted=True)
    join(fleet, "c")
    bequeath(fleet, "c")
    assert fleet.homes() == {"vm-a": "c", "vm-b": "c"}
    assert at_rest(fleet) == []


def test_heir_that_leaves_too_gives_on_what_it_has_alone(fleet: FleetModel) -> None:
    """What it has not taken in yet it cannot give: its part would be empty."""
    heir = bequeathed(fleet)
    fleet.nodes[heir].leave(wanted=True)
    bequeath(fleet, heir)
    assert fleet.homes() == {"vm-1": heir}
    join(fleet, heir)
    bequeath(fleet, heir)
    assert fleet.homes()["vm-1"] not in ("a", heir)
    assert at_rest(fleet) == []


def test_what_is_not_stored_yet_is_not_given_away(fleet: FleetModel) -> None:
    """A minute still in memory is stored by the next flush, whosever turn it is; then the VM goes."""
    told(fleet, "a", "vm-1", 1)
    fleet.push("a", "vm-1", 2)
    fleet.nodes["a"].leave(wanted=True)
    bequeath(fleet, "a")
    assert fleet.homes() == {"vm-1": "a"}
    fleet.nodes["a"].flusher.flush_turn()
    fleet.work()
    bequeath(fleet, "a")
    heir = fleet.homes()["vm-1"]
    assert heir != "a"
    join(fleet, heir)
    assert len(fleet.nodes[heir].stores["vm-1"]) == 2
    assert at_rest(fleet) == []


def test_what_was_undone_stops_and_stays(fleet: FleetModel) -> None:
    """No more goes; what went stays with the heir, and a round of one that does not leave does nothing."""
    heir = bequeathed(fleet)
    fleet.nodes["a"].leave(wanted=False)
    told(fleet, "a", "vm-2", 1)
    bequeath(fleet, "a")
    assert fleet.homes() == {"vm-1": heir, "vm-2": "a"}
    assert at_rest(fleet) == []


def test_vm_without_a_store_here_is_not_given_away(fleet: FleetModel) -> None:
    """There is nothing to be taken in: its new home would wait for it for ever."""
    told(fleet, "a", "vm-1", 1)
    del fleet.nodes["a"].stores["vm-1"]
    fleet.nodes["a"].leave(wanted=True)
    bequeath(fleet, "a")
    assert fleet.homes() == {"vm-1": "a"}


def test_rounds_do_not_overlap(fleet: FleetModel) -> None:
    """A round that waits for the database is the only one, however often it is time."""
    told(fleet, "a", "vm-1", 1)
    fleet.nodes["a"].leave(wanted=True)
    fleet.now_s += 600.0
    tick: Callable[[], None] = fleet.nodes["a"].bequest.tick
    tick()
    tick()
    assert len(fleet.jobs) == 1
    fleet.work()
    assert fleet.nodes["a"].bequest.bequeathed == 1
