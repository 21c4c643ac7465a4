"""One VM's series from the nodes that hold its history, and what is said of those that do not answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from aggregator.series import Series
from reports.node_doors import ClosedDoor, NodeDoor
from reports.node_series import NodeSeries
from reports.nodes import Node, Part, Whereabouts
from reports.series import SeriesUnavailable, UnknownVm
from reports.web.giving_up import giving_up_on_each
from tests.reports.fleets import NOW_S
from tests.reports.test_series_merge import means, series

SPAN = (0, 6000, 100)


@dataclass
class Teller:
    """A node's or the disk's series: of VM `a`, or a problem."""

    name: str = "the store on this disk"
    told: Series | None = None
    problem: str | None = None
    asked: int = 0

    def read(self, vm_id: str, from_s: int, to_s: int, points: int = 1000) -> Series:
        self.asked += 1
        if self.problem is not None:
            raise SeriesUnavailable(self.problem)
        if self.told is None:
            raise UnknownVm(vm_id)
        return self.told


@dataclass
class Fleet:
    """Nodes by name with what they tell, and where VM `a` lies."""

    tellers: dict[str | None, Teller]
    where: Whereabouts = field(default_factory=Whereabouts)
    local: Teller = field(default_factory=Teller)
    away: tuple[str, ...] = ()
    looked_up: int = 0

    def doors(self) -> Sequence[NodeDoor]:
        return [
            NodeDoor(node=None if name is None else self.node(name), door=ClosedDoor(str(name), "asked elsewhere"))
            for name in self.tellers
        ]

    def node(self, name: str) -> Node:
        return Node(name=name, said="up", seen_s=NOW_S - (3600 if name in self.away else 5))

    def teller(self, one: NodeDoor) -> Teller:
        return self.tellers[None if one.node is None else one.node.name]

    def whereabouts(self, _vm_id: str) -> Whereabouts:
        self.looked_up += 1
        return self.where

    def source(self) -> NodeSeries:
        return NodeSeries(self.doors, self.whereabouts, local=self.local, clock=lambda: NOW_S, sources=self.teller)


def at(home: str, *parts: str, oldest_s: float = 60) -> Whereabouts:
    return Whereabouts(
        home=home,
        oldest_s=oldest_s,
        newest_s=6000,
        parts=tuple(
            Part(holder=Node(name=name), oldest_s=oldest_s, newest_s=3000, noted_s=NOW_S - 60) for name in parts
        ),
    )


HOME, PART = series(60, (120, 0.1), (240, 0.2)), series(60, (60, 0.5), (120, 0.9))


def test_the_home_alone_is_asked_where_it_has_all() -> None:
    """The other nodes hold nothing of it."""
    fleet = Fleet({"a": Teller(told=PART), "b": Teller(told=HOME)}, at("b"))
    found = fleet.source().find("a", *SPAN)
    assert (means(found.series), found.source, found.missing) == (means(HOME), "node b", ())
    assert fleet.tellers["a"].asked == 0


def test_gaps_are_filled_from_parts() -> None:
    """The home's figures stand where both have some."""
    fleet = Fleet({"a": Teller(told=PART), "b": Teller(told=HOME)}, at("b", "a"))
    found = fleet.source().find("a", *SPAN)
    assert means(found.series) == [(60, 0.5), (120, 0.1), (240, 0.2)]
    assert (found.source, found.missing) == ("node b, node a", ())
    assert fleet.source().read("a", *SPAN) == found.series


def test_a_part_of_later_than_the_span_is_not_asked_for() -> None:
    """It can add nothing."""
    fleet = Fleet({"a": Teller(problem="never asked"), "b": Teller(told=HOME)}, at("b", "a"))
    later = replace(fleet.where.parts[0], oldest_s=SPAN[1] + 1)
    fleet.where = replace(fleet.where, parts=(later,))
    assert fleet.source().find("a", *SPAN).missing == ()


def test_a_part_that_is_away_is_told_with_its_span() -> None:
    """What there is, is shown; who holds how much of the rest, and since when that is away, is said."""
    fleet = Fleet({"a": Teller(problem="no route"), "b": Teller(told=HOME)}, at("b", "a"), away=("a",))
    found = fleet.source().find("a", *SPAN)
    assert means(found.series) == means(HOME)
    assert found.missing == (
        "What node a holds, from 1970-01-01 00:01 UTC to 1970-01-01 00:50 UTC or later, is not shown: "
        "it is away since 2026-11-16 11:06 UTC",
    )


def test_a_home_that_is_away_leaves_what_parts_have() -> None:
    """The page does not go empty with it."""
    fleet = Fleet({"a": Teller(told=PART), "b": Teller(problem="it did not answer within 3 s")}, at("b", "a"))
    found = fleet.source().find("a", *SPAN)
    assert means(found.series) == means(PART)
    assert "What node b holds" in found.missing[0]
    assert found.missing[0].endswith("is not shown: it did not answer within 3 s")


def test_the_stores_on_this_disk_are_another_chance() -> None:
    """Where the node that is away kept them here; it is said all the same, for its last minutes are in its memory."""
    fleet = Fleet({"a": Teller(), "b": Teller(problem="off")}, at("b"), local=Teller(told=PART))
    found = fleet.source().find("a", *SPAN)
    assert (means(found.series), found.source) == (means(PART), "the store on this disk")
    assert len(found.missing) == 1


def test_nobody_can_tell() -> None:
    """Then there is a reason, with the node's name; where all know nothing of the VM, that."""
    fleet = Fleet({"a": Teller(), "b": Teller(problem="off")}, at("b", "gone"))
    with pytest.raises(
        SeriesUnavailable, match=r"What node b holds.*off; What node gone holds.*has never told of itself"
    ):
        fleet.source().find("a", *SPAN)
    with pytest.raises(UnknownVm):
        Fleet({"a": Teller(), "b": Teller()}, at("b", "a")).source().find("a", *SPAN)


def test_where_nobody_knows_the_home_all_that_are_there_are_asked() -> None:
    """As after a node was forgotten: whoever has something tells it."""
    fleet = Fleet({"a": Teller(told=PART), "b": Teller(), "c": Teller(problem="off")}, at(""), away=("c",))
    found = fleet.source().find("a", *SPAN)
    assert (means(found.series), found.missing) == (means(PART), ())
    assert fleet.tellers["c"].asked == 0


@pytest.mark.parametrize("name", [None, "a"])
def test_a_fleet_of_one_node_is_asked_as_ever(name: str | None) -> None:
    """That one, whatever summaries say of homes; else the stores on this disk, without a word on nodes."""
    fleet = Fleet({name: Teller(told=HOME)}, at("other"))
    assert means(fleet.source().find("a", *SPAN).series) == means(HOME)
    off = Fleet({name: Teller(name="it", problem="off")}, local=Teller(told=PART))
    found = off.source().find("a", *SPAN)
    assert (found.source, found.passed, found.missing) == ("the store on this disk", ("off",), ())


def test_a_node_that_hangs_costs_a_request_one_time_out() -> None:
    """For many VMs of one page; another request asks again."""
    fleet = Fleet({"a": Teller(problem="it did not answer"), "b": Teller(told=HOME)}, at("a"))
    for _ in range(2):
        source = NodeSeries(
            fleet.doors,
            fleet.whereabouts,
            local=fleet.local,
            clock=lambda: NOW_S,
            sources=giving_up_on_each(fleet.teller),
        )
        for _ in range(5):
            with pytest.raises(SeriesUnavailable, match="it did not answer"):
                source.read("a", *SPAN)
    assert fleet.tellers["a"].asked == 2
