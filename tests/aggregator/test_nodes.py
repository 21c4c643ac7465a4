"""The nodes of a fleet in its database: one row each, one node a name, and one forgotten leaves no VM homeless."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from aggregator import fleet
from aggregator.fleet import vm_part, vm_summary
from aggregator.fleet_db import FLEET, check_revision, migrate, open_fleet
from aggregator.kept import Kept
from aggregator.node_row import is_away
from aggregator.node_state import NodeState
from aggregator.nodes import NodeNameTakenError, NodeRunsError, Nodes, UnknownNodeError
from tests.aggregator.node_fakes import NOW_S, node
from tests.postgres import postgres_database

NEVER: frozenset[float] = frozenset()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[sa.Engine]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database(pytestconfig)) if request.param == "postgresql" else None
        made = open_fleet(url, tmp_path)
        stack.callback(made.dispose)
        migrate(made, replace(FLEET, head="0003"))
        with made.begin() as connection:
            values = {"version": "1", "revision": "0003", "state": "up", "started_s": 1.0, "seen_s": 2.0, "vms": 3}
            connection.execute(sa.insert(fleet.node).values(node="before", owed=4, **values))
        migrate(made)
        check_revision(made)
        with made.begin() as connection:
            (row,) = connection.execute(sa.select(fleet.node)).all()
            assert (row.node, row.vms, row.ahead_s, row.key_marks, row.is_leaving) == ("before", 3, None, None, None)
            connection.execute(sa.delete(fleet.node))
        yield made


@pytest.fixture
def nodes(engine: sa.Engine) -> Nodes:
    return Nodes(engine)


def add_vm(engine: sa.Engine, vm_id: str, home: str, **parts: int) -> None:
    """A VM with a summary at `home`, and a part up to the given time at each other node (`_` is `-`)."""
    times = {"oldest_s": 0, "newest_s": 100, "received_s": 0.0, "skew_s": 0.0, "updated_s": 0.0}
    with engine.begin() as connection:
        connection.execute(
            sa.insert(vm_summary).values(vm_id=vm_id, node=home, interval_s=60, conflicts=0, flags="[]", **times)
        )
        for name, newest_s in parts.items():
            part = {"oldest_s": 0, "newest_s": newest_s, "noted_s": 0.0}
            connection.execute(sa.insert(vm_part).values(vm_id=vm_id, node=name.replace("_", "-"), **part))


def homes(engine: sa.Engine) -> dict[str, str]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(vm_summary.c.vm_id, vm_summary.c.node))
        return {row.vm_id: row.node for row in rows}


def parts(engine: sa.Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.select(vm_part.c.vm_id, vm_part.c.node).order_by(vm_part.c.vm_id, vm_part.c.node))
        return [(vm_id, name) for vm_id, name in rows]


def test_a_node_is_there_as_it_last_said(nodes: Nodes) -> None:
    """Every figure comes back; a beat replaces all of them."""
    first, other = node(), node("agg-2", admin_url=None, listen=None, free_bytes=None)
    nodes.register(first, NEVER)
    nodes.register(other, NEVER)
    assert nodes.all() == [first, other]
    later = replace(first, seen_s=NOW_S + 10, state=NodeState.DRAINING, not_ready="full", vms=9, owed=3, free_bytes=1)
    nodes.beat(later)
    assert nodes.one("agg-1") == later
    assert nodes.one("nobody") is None


@pytest.mark.parametrize(
    ("state", "silent_s", "away"),
    [
        (NodeState.UP, 60.0, False),
        (NodeState.UP, 60.1, True),
        (NodeState.DRAINING, 0.0, False),
        (NodeState.STOPPED, 0.0, True),
        (NodeState.UP, -500.0, False),
    ],
)
def test_who_is_away(state: NodeState, silent_s: float, away: bool) -> None:
    """A minute of silence, or a goodbye; a clock that is ahead is no silence."""
    assert is_away(node(state=state, seen_s=NOW_S - silent_s), NOW_S) is away


def test_a_name_belongs_to_one_that_runs(nodes: Nodes) -> None:
    """A second aggregator under it may not start, and a start writes nothing then."""
    nodes.register(node(), NEVER)
    late = node(started_s=NOW_S, seen_s=NOW_S + 29.0, admin_url="https://elsewhere:8900")
    with pytest.raises(NodeNameTakenError, match=r"another aggregator runs as agg-1, at https://agg-1:8900"):
        nodes.check_name("agg-1", frozenset({NOW_S}), NOW_S + 29.0)
    with pytest.raises(NodeNameTakenError):
        nodes.register(late, frozenset({NOW_S}))
    assert nodes.one("agg-1") == node()
    nodes.check_name("agg-2", NEVER, NOW_S)


def test_a_restart_has_its_name_at_once(nodes: Nodes) -> None:
    """After kill -9 the row is of an earlier start of the same data directory, wherever it listened."""
    nodes.register(node(), NEVER)
    again = node(started_s=NOW_S, admin_url="https://new-address:1")
    nodes.check_name("agg-1", frozenset({NOW_S - 60.0, NOW_S}), NOW_S)
    assert nodes.register(again, frozenset({NOW_S - 60.0, NOW_S})).claimed == 0
    assert nodes.one("agg-1") == again


@pytest.mark.parametrize("left", [node(seen_s=NOW_S - 31.0), node(state=NodeState.STOPPED)])
def test_a_name_that_was_left_is_free(nodes: Nodes, left: object) -> None:
    """Half a minute of silence, or a goodbye: a new data directory may take the name over."""
    nodes.register(left, NEVER)  # type: ignore[arg-type]
    nodes.check_name("agg-1", NEVER, NOW_S)
    nodes.register(node(started_s=NOW_S), NEVER)
    found = nodes.one("agg-1")
    assert found is not None
    assert found.started_s == NOW_S


def test_of_two_under_one_name_the_later_start_stays(nodes: Nodes) -> None:
    """The earlier finds out when it next tells of itself, and has the row again once the other is away."""
    early, late = node(), node(started_s=NOW_S - 5.0, admin_url="https://elsewhere:8900")
    nodes.register(late, NEVER)
    with pytest.raises(NodeNameTakenError, match="https://elsewhere:8900"):
        nodes.beat(early)
    assert nodes.one("agg-1") == late
    nodes.beat(replace(late, seen_s=NOW_S + 1.0))
    again = replace(early, seen_s=NOW_S + 62.0)
    nodes.beat(again)
    assert nodes.one("agg-1") == again


def test_the_first_node_of_a_fleet_has_all_that_nobody_has(engine: sa.Engine, nodes: Nodes) -> None:
    """They were pushed to it before there were names; to a later node they are left as they are."""
    for vm_id, home in (("a", ""), ("b", ""), ("c", "agg-9")):
        add_vm(engine, vm_id, home)
    assert nodes.register(node(), NEVER).claimed == 2
    assert homes(engine) == {"a": "agg-1", "b": "agg-1", "c": "agg-9"}
    add_vm(engine, "d", "")
    assert nodes.register(node("agg-2"), NEVER).claimed == 0
    assert homes(engine)["d"] == ""


def test_a_node_that_was_forgotten_while_it_ran_is_there_again(nodes: Nodes) -> None:
    """It says so itself at its next beat."""
    nodes.register(node(seen_s=NOW_S - 100.0), NEVER)
    nodes.forget("agg-1", NOW_S)
    nodes.beat(node())
    assert nodes.all() == [node()]


def test_row_35_a_forgotten_node_leaves_no_vm_without_what_is_left(engine: sa.Engine, nodes: Nodes) -> None:
    """Its VMs go to the node with the newest other part, else to nobody; other nodes' VMs stay as they were."""
    nodes.register(node("lost", seen_s=NOW_S - 61.0), NEVER)
    nodes.register(node(), NEVER)
    add_vm(engine, "alone", "lost")
    add_vm(engine, "moved", "lost", agg_1=50, agg_2=70)
    add_vm(engine, "tied", "lost", agg_2=50, agg_1=50)
    add_vm(engine, "elsewhere", "agg-1", lost=60, agg_2=40)
    assert nodes.forget("lost", NOW_S) == 3
    assert homes(engine) == {"alone": "", "moved": "agg-2", "tied": "agg-1", "elsewhere": "agg-1"}
    assert parts(engine) == [("elsewhere", "agg-2"), ("moved", "agg-1"), ("tied", "agg-2")]
    assert [one.node for one in nodes.all()] == ["agg-1"]


class Deadlock(Exception):
    """As the driver of PostgreSQL tells of one."""

    sqlstate = "40P01"


@pytest.mark.parametrize(("deadlocks", "is_forgotten"), [(1, True), (4, True), (5, False)])
def test_forgetting_a_node_is_tried_again_after_a_deadlock(
    engine: sa.Engine, nodes: Nodes, deadlocks: int, is_forgotten: bool
) -> None:
    """Writers of summaries lock parts in another order, and one of both is chosen to fail; each try is whole."""
    nodes.register(node("lost", seen_s=NOW_S - 61.0), NEVER)
    add_vm(engine, "moved", "lost", agg_2=70)
    left = [sa.exc.OperationalError("DELETE", {}, Deadlock())] * deadlocks

    def fail(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if left and statement.startswith("DELETE FROM node"):
            raise left.pop()

    sa.event.listen(engine, "before_cursor_execute", fail)
    if is_forgotten:
        assert nodes.forget("lost", NOW_S) == 1
    else:
        with pytest.raises(sa.exc.OperationalError):
            nodes.forget("lost", NOW_S)
    assert homes(engine) == {"moved": "agg-2" if is_forgotten else "lost"}
    assert [one.node for one in nodes.all()] == ([] if is_forgotten else ["lost"])


@pytest.mark.parametrize("engine", [pytest.param("postgresql", marks=pytest.mark.real)], indirect=True)
@pytest.mark.parametrize("slow_s", [70.0, -70.0])
def test_a_node_whose_clock_is_wrong_is_there_while_it_runs(engine: sa.Engine, slow_s: float) -> None:
    """One clock counts, the database's: it is not away, cannot be forgotten, and how wrong its clock is is told."""

    def wrong() -> float:
        return time.time() - slow_s

    there = Nodes(engine, machine=wrong)
    there.register(node(seen_s=wrong()), NEVER)
    told = there.beat(node(seen_s=wrong()))
    table = Nodes(engine).table(time.time())
    assert not is_away(table.nodes[0], table.now_s)
    assert not is_away(told.node, told.table.now_s)
    for forgetful, now_s in ((Nodes(engine), time.time()), (there, wrong())):
        with pytest.raises(NodeRunsError, match=r"seen \d s ago"):
            forgetful.forget("agg-1", now_s)
    assert told.node.ahead_s == pytest.approx(-slow_s, abs=5.0)
    assert abs(table.nodes[0].seen_s - time.time()) < 30.0


def test_who_tells_learns_who_else_there_is(nodes: Nodes) -> None:
    """The whole table at each beat, and whether its own row was there: it is not after it was forgotten."""
    assert nodes.register(node(), NEVER).is_new
    told = nodes.register(node("agg-2"), NEVER)
    assert ([one.node for one in told.table.nodes], told.table.now_s) == (["agg-1", "agg-2"], NOW_S)
    assert not nodes.beat(node()).is_new
    assert not nodes.register(node(started_s=NOW_S), frozenset({NOW_S - 60.0})).is_new
    nodes.forget("agg-1", NOW_S + 100.0)
    assert nodes.beat(node()).is_new


def test_what_nodes_keep_is_counted(engine: sa.Engine, nodes: Nodes) -> None:
    """Homes and parts of every node that has some; VMs that are nobody's are nobody's."""
    for vm_id, home, held in (("a", "agg-1", {"agg_2": 5}), ("b", "agg-1", {}), ("c", "", {"agg_2": 5, "agg_3": 5})):
        add_vm(engine, vm_id, home, **held)
    kept = {"agg-1": Kept(vms=2), "agg-2": Kept(parts=2), "agg-3": Kept(parts=1)}
    assert nodes.kept() == kept
    assert {name: nodes.kept_by(name) for name in kept} == kept
    assert nodes.kept_by("nobody") == Kept()


def test_what_an_older_program_left_is_not_its_word(engine: sa.Engine, nodes: Nodes) -> None:
    """One that went back to the version before does not know the newer columns, and leaves in them what was there."""
    newest = node(key_marks="k1:aaaaaaaaaaaaaaaa:bbbbbbbbbbbbbbbb", is_leaving=True, state=NodeState.DRAINING)
    nodes.register(newest, NEVER)
    assert nodes.one("agg-1") == newest
    with engine.begin() as connection:
        connection.execute(sa.update(fleet.node).values(revision="0003", state="joining"))
    older = nodes.one("agg-1")
    assert older == replace(newest, revision="0003", state=NodeState.UP, key_marks=None, ahead_s=None, is_leaving=False)


def test_what_runs_or_never_was_is_not_forgotten(engine: sa.Engine, nodes: Nodes) -> None:
    """Nothing changes; one that only VMs know of may be forgotten, and so may one that said goodbye."""
    nodes.register(node(), NEVER)
    nodes.register(node("stopped", state=NodeState.STOPPED), NEVER)
    add_vm(engine, "a", "agg-1")
    add_vm(engine, "b", "unlisted")
    with pytest.raises(NodeRunsError, match="seen 5 s ago"):
        nodes.forget("agg-1", NOW_S + 5.0)
    with pytest.raises(UnknownNodeError, match="nobody: no such node"):
        nodes.forget("nobody", NOW_S)
    assert nodes.forget("unlisted", NOW_S) == 1
    assert nodes.forget("stopped", NOW_S) == 0
    assert homes(engine) == {"a": "agg-1", "b": ""}
