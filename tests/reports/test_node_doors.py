"""Which door is asked for which node, how often the nodes are looked up, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aggregator.admin_client import AdminAnswer, AdminClient, AdminUnavailable
from reports.config import ReportConfig, ServeConfig
from reports.node_doors import KEEP_S, NodeDoor, NodeDoors, connector, doors_of, in_parallel
from reports.nodes import Node
from tests.aggregator.admin_door import TOKEN, open_door, token_file
from tests.reports.fleets import NOW_S

USUAL = ServeConfig().aggregator_url
TOLD = ServeConfig(aggregator_url="http://127.0.0.1:7000")


@dataclass(frozen=True, slots=True)
class AskedAt:
    """A door that says where it is, and whose address that is."""

    place: str
    node: str | None = None

    def get(self, target: str) -> AdminAnswer:
        return AdminAnswer(status=200, body=target.encode())

    def get_json(self, target: str) -> object:
        return target

    def decoded(self, answer: AdminAnswer) -> object:
        return answer.body


def node(name: str, admin_url: str | None = "https://x.example:8900", said: str = "up") -> Node:
    return Node(name=name, said=said, seen_s=NOW_S, admin_url=admin_url)


def places(nodes: Sequence[Node], serve: ServeConfig | None = None) -> list[tuple[str | None, str]]:
    found = doors_of(nodes, serve or ServeConfig(), AskedAt)
    return [(None if one.node is None else one.node.name, one.door.place) for one in found]


def test_a_fleet_without_nodes_is_asked_as_settings_say() -> None:
    """As ever: one aggregator, at the address of the settings."""
    assert places([]) == [(None, USUAL)]
    assert places([], TOLD) == [(None, "http://127.0.0.1:7000")]


@pytest.mark.parametrize(
    ("told", "serve", "asked"),
    [
        ("https://a.example:9000", None, "https://a.example:9000"),
        # Whoever sets an address means it, such as the end of a tunnel.
        ("https://a.example:9000", TOLD, "http://127.0.0.1:7000"),
        ("http://127.0.0.1:7001", None, "http://127.0.0.1:7001"),
        ("http://a.example:9000", None, USUAL),
        ("no address", None, USUAL),
        (None, None, USUAL),
    ],
)
def test_an_only_node_is_asked_where_it_says_unless_settings_say_otherwise(
    told: str | None, serve: ServeConfig | None, asked: str
) -> None:
    """An address that it cannot be asked at changes nothing."""
    assert places([node("a", told)], serve) == [("a", asked)]


def test_several_nodes_are_asked_where_each_says() -> None:
    """What settings say of an only aggregator is of none of them."""
    nodes = [node("a", "https://a.example:1"), node("b", "http://127.0.0.1:2")]
    assert places(nodes, TOLD) == [("a", "https://a.example:1"), ("b", "http://127.0.0.1:2")]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (None, "has told no address"),
        ("http://10.0.0.7:8900", "readable on the way: use https"),
        ("ftp://10.0.0.7", "cannot be asked at the address that it gave"),
        ("https://a.example:1/path", "cannot be asked at the address that it gave"),
        ("https://169.254.169.254", "nobody is asked at an address that is link-local"),
    ],
)
def test_a_node_without_a_usable_address_is_not_asked(told: str | None, words: str) -> None:
    """The token never goes over a network in plain text, whoever wrote the address; there is a reason instead."""
    closed, _ = doors_of([node("a", told), node("b")], ServeConfig(), AskedAt)
    for ask in (closed.door.get, closed.door.get_json):
        with pytest.raises(AdminUnavailable, match=words):
            ask("/metrics")
    assert closed.door.place == "node a"


@dataclass
class Book:
    """The nodes of a fleet database, and how often it was asked."""

    nodes: list[Node] = field(default_factory=list)
    now_s: float = NOW_S
    reads: int = 0

    def read(self) -> Sequence[Node]:
        self.reads += 1
        return tuple(self.nodes)

    def doors(self) -> NodeDoors:
        return NodeDoors(self.read, ServeConfig(), clock=lambda: self.now_s, connect=AskedAt)


def names(found: Sequence[NodeDoor]) -> list[str]:
    return [one.node.name for one in found if one.node is not None]


def test_addresses_are_remembered_for_some_seconds() -> None:
    """Not a look into the database for each chart; and a clock that goes back does not keep them for ever."""
    book = Book([node("a"), node("b")])
    doors = book.doors()
    for _ in range(5):
        assert names(doors.all()) == ["a", "b"]
    assert book.reads == 1
    book.nodes.append(node("c"))
    book.now_s += KEEP_S
    assert names(doors.all()) == ["a", "b", "c"]
    book.now_s -= 3600
    assert names(doors.all()) == ["a", "b", "c"]
    assert book.reads == 3


def test_nodes_that_stopped_are_not_to_be_asked() -> None:
    """One that is silent is: it may have lost the database alone. An only node is asked whatever it said."""
    silent = Node(name="b", said="up", seen_s=NOW_S - 3600, admin_url="https://b.example:1")
    book = Book([node("a"), silent, node("c", said="stopped")])
    assert names(book.doors().to_ask()) == ["a", "b"]
    assert names(Book([node("c", said="stopped")]).doors().to_ask()) == ["c"]
    assert len(Book().doors().to_ask()) == 1


def test_the_token_goes_to_addresses_of_the_settings_alone() -> None:
    """One that the fleet database gave is of a node, which is asked by its name; one of the settings is of nobody."""

    def whose(nodes: Sequence[Node], serve: ServeConfig | None = None) -> list[str | None]:
        return [one.door.node for one in doors_of(nodes, serve or ServeConfig(), AskedAt)]  # type: ignore[attr-defined]

    assert whose([]) == [None]
    assert whose([node("a")]) == ["a"]
    assert whose([node("a")], TOLD) == [None]
    # What it gave cannot be asked: the settings' own default is.
    assert whose([node("a", None)]) == [None]
    assert whose([node("a"), node("b")], TOLD) == ["a", "b"]


@pytest.mark.real
def test_a_node_is_asked_with_a_proof_and_the_settings_address_with_the_token(tmp_path: Path) -> None:
    """Whoever can write addresses into the fleet database is sent nothing that opens another door."""
    config = ReportConfig(data_dir=tmp_path)
    token_file(tmp_path)
    with open_door() as door:
        door.say(200, [])
        connect = connector(config, clock=lambda: NOW_S)
        assert connect(door.url, "a").get_json("/metrics") == []
        assert connect(door.url, None).get_json("/metrics") == []
        (_, proved), (_, plain) = door.asked
        assert proved.startswith(f"Fallow-Proof v1.{int(NOW_S)}.")
        assert TOKEN not in proved
        assert door.whom == [f"a {door.url}"]
        assert plain == f"Bearer {TOKEN}"
        # Somebody who has no token answers in the place of the node.
        door.proves = False
        with pytest.raises(AdminUnavailable, match="answered 200 without proof that it is node a"):
            connect(door.url, "a").get_json("/metrics")


def test_all_nodes_are_asked_with_one_token() -> None:
    """The doors are real ones."""
    door = connector(ReportConfig(data_dir=Path("/srv")), timeout_s=1.0)("https://a.example:1", "a")
    assert isinstance(door, AdminClient)
    assert "https://a.example:1" in door.place
    with pytest.raises(AdminUnavailable, match=r"/srv/admin\.token"):
        door.get("/metrics")


def test_one_that_is_slow_holds_up_none_of_the_others() -> None:
    """Each waits until all are under way, which they could not be one after the other; answers keep their order."""
    all_here = threading.Barrier(4, timeout=60)

    def ask(number: int) -> int:
        all_here.wait()
        return number * 10

    assert in_parallel(ask, range(4)) == [0, 10, 20, 30]
    assert in_parallel(lambda number: number, []) == []
