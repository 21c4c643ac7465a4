"""What several aggregators have in memory becomes one, and what some of them cannot tell is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.admin_client import AdminAnswer, AdminUnavailable
from orchestrate.live_nodes import LiveNodes
from orchestrate.live_source import LiveVm, PartlyUnavailable
from reports.node_doors import NodeDoor
from reports.nodes import Node
from tests.orchestrate.test_live_source import NOW_S, FakeDoor, sample, seen


class NodesDoor(FakeDoor):
    """Of a node; `is_away`: it does not answer. `pages`: how many it answers before it goes away."""

    def __init__(self, *vms: dict[str, Any], is_away: bool = False, answers: int | None = None, **others: Any) -> None:
        super().__init__(*vms, **others)
        self._left = 0 if is_away else answers

    def get(self, target: str) -> AdminAnswer:
        if self._left is not None:
            if self._left == 0:
                raise AdminUnavailable("it does not run")
            self._left -= 1
        return super().get(target)

    def get_json(self, target: str) -> object:
        return self.decoded(self.get(target))


def node_door(name: str, *vms: dict[str, Any], **others: Any) -> NodeDoor:
    node = Node(name=name, said="up", seen_s=NOW_S)
    return NodeDoor(node=node, door=NodesDoor(*vms, **others))


def nodes(*doors: NodeDoor, now_s: float = NOW_S) -> LiveNodes:
    return LiveNodes(lambda: doors, clock=lambda: now_s)


def read(source: LiveNodes) -> tuple[list[tuple[str, LiveVm]], str | None]:
    """What was told, and why that is not all."""
    found: list[tuple[str, LiveVm]] = []
    try:
        found.extend(source.read())
    except PartlyUnavailable as error:
        return found, error.reason
    return found, None


def test_vms_of_all_nodes_come_once_each_by_id() -> None:
    """Each node pages by itself; the result is in one order."""
    first = node_door("a", *(seen(f"vm-{number}", sample(60)) for number in (0, 3, 4, 7)))
    second = node_door("b", *(seen(f"vm-{number}", sample(60)) for number in (1, 2, 5)))
    found, problem = read(nodes(first, second))
    assert ([vm_id for vm_id, _ in found], problem) == ([f"vm-{number}" for number in (0, 1, 2, 3, 4, 5, 7)], None)


@pytest.mark.parametrize("newer", ["a", "b"])
@pytest.mark.parametrize("ask", [lambda each: dict(each.read())["vm"], lambda each: each.read_one("vm")])
def test_the_newest_push_of_a_vm_wins(newer: str, ask: Callable[[LiveNodes], LiveVm]) -> None:
    """Its boot and clock are those of that push; what makes it doubtful or shows its use stays, whoever knows of it."""
    pushes = {
        "a": seen("vm", sample(60, users=0), sample(120, users=2), boot="b1", flags=["clock_skew"]),
        "b": seen("vm", sample(120, users=0), sample(180, users=0), boot="b2", skew_s=3.0),
    }
    pushes["a" if newer == "b" else "b"]["last_seen_s"] = NOW_S - 200
    one = ask(nodes(*(node_door(name, push) for name, push in pushes.items())))
    assert one.boot == {"a": "b1", "b": "b2"}[newer]
    assert one.skew_s == {"a": 0.2, "b": 3.0}[newer]
    assert (one.newest_s, one.flags) == (180.0, ("clock_skew",))
    # Of a minute that both have, the newer push's is taken.
    middle = {"a": 2, "b": 0}[newer]
    assert [(minute.ts_s, minute.users) for minute in one.minutes] == [(60.0, 0), (120.0, middle), (180.0, 0)]


def test_a_node_that_is_away_leaves_its_vms_out_and_is_named() -> None:
    """The others' are all there; the reason comes at the end, once."""
    found, problem = read(nodes(node_door("a", seen("x")), node_door("b", seen("y"), is_away=True)))
    assert ([vm_id for vm_id, _ in found], problem) == (["x"], "node b: it does not run")


def test_a_node_that_goes_away_between_pages_has_told_what_it_told() -> None:
    """Its later VMs are silent, and that is said."""
    leaving = node_door("b", *(seen(f"b-{number}") for number in range(5)), answers=1)
    found, problem = read(nodes(node_door("a", seen("a")), leaving))
    assert ([vm_id for vm_id, _ in found], problem) == (["a", "b-0", "b-1"], "node b: it does not run")


def test_nobody_answers() -> None:
    """That is no partial answer: nothing was told at all."""
    with pytest.raises(AdminUnavailable, match="node a: it does not run; node b: it does not run") as caught:
        list(nodes(node_door("a", is_away=True), node_door("b", is_away=True)).read())
    assert not isinstance(caught.value, PartlyUnavailable)


def test_each_nodes_clock_is_compared() -> None:
    """A node whose clock is off is not believed; the others are."""
    found, problem = read(nodes(node_door("a", seen("x")), node_door("b", seen("y"), now_s=NOW_S + 90)))
    assert [vm_id for vm_id, _ in found] == ["x"]
    assert problem is not None
    assert problem.startswith("node b: the clock of the aggregator at there is 1.5 min ahead")


def test_a_node_whose_vms_come_out_of_order_is_not_believed() -> None:
    """A VM told twice could not be put together: better none than an old one that overwrites a new one."""
    odd = node_door("b", seen("y"), seen("x"))
    assert isinstance(odd.door, NodesDoor)
    odd.door.vms.reverse()
    found, problem = read(nodes(node_door("a", seen("z")), odd))
    assert "out of their order" in str(problem)
    assert {vm_id for vm_id, _ in found} == {"y", "z"}


def test_one_vm_is_asked_of_all_and_doubt_is_told() -> None:
    """None is believed only where everybody could say so."""
    known, unknown, away = node_door("a", seen("x", sample(60))), node_door("b"), node_door("c", is_away=True)
    assert nodes(known, unknown).read_one("x") is not None
    assert nodes(known, away).read_one("x") is not None
    assert nodes(known, unknown).read_one("y") is None
    with pytest.raises(AdminUnavailable, match="node c: it does not run"):
        nodes(known, away).read_one("y")


def test_one_node_is_asked_as_ever() -> None:
    """Its reasons stand without a name, and an older one without pages is understood."""
    door = NodeDoor(node=None, door=NodesDoor(seen("b"), seen("a"), pages=False))
    assert [vm_id for vm_id, _ in nodes(door).read()] == ["a", "b"]
    with pytest.raises(AdminUnavailable, match=r"^it does not run$"):
        nodes(NodeDoor(node=None, door=NodesDoor(is_away=True))).read_one("a")


@given(data=st.data())
def test_every_vm_that_a_node_told_is_there_once(data: st.DataObject) -> None:
    """Whoever knows a VM, and wherever else it was: nothing is lost or comes twice, and the newest push counts."""
    pushes = data.draw(
        st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 1000), max_size=8), min_size=2, max_size=4)
    )
    doors = [
        node_door(f"n{place}", *(seen(vm, last_seen_s=NOW_S - age) for vm, age in each.items()))
        for place, each in enumerate(pushes)
    ]
    found, problem = read(nodes(*doors))
    assert problem is None
    youngest = {vm: min(each[vm] for each in pushes if vm in each) for vm in set().union(*pushes)}
    assert [(vm, NOW_S - one.received_s) for vm, one in found] == sorted(youngest.items())
