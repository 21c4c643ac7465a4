"""What pages and API show of a fleet with several nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from aggregator.series import SERIES
from reports.live import NodeLive, NotLive, parse_metrics, read_all
from reports.node_doors import NodeDoors, connector
from reports.nodes import Node
from reports.web.several_nodes import SeveralNodes
from tests.aggregator.admin_door import Door, open_door, token_file
from tests.reports.fleets import NEWEST_S, NOW_S, Spec, write_fleet
from tests.reports.placed import AWAY_S, node_row, part_row, place_in
from tests.reports.test_live import exposition
from tests.reports.web.house import House, pages
from tests.reports.web.programs import serving
from tests.reports.web.test_openapi import check
from tests.reports.web.test_pages import EVIL, text_of
from tests.reports.web.test_service import ask

SPECS = [Spec(vm_id="vm-whole"), Spec(vm_id="vm-split"), Spec(vm_id="vm-stuck"), Spec(vm_id="vm-away")]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("fleet")
    write_fleet(folder, SPECS)
    place_in(
        folder,
        [node_row("a"), node_row("b", seen_s=NOW_S - AWAY_S), node_row(EVIL, state="draining", not_ready="draining")],
        homes={"vm-whole": "a", "vm-split": "a", "vm-stuck": "a", "vm-away": "b"},
        parts=[part_row("vm-split", "b"), part_row("vm-stuck", EVIL, problem=f"no room {EVIL}")],
    )
    with pages(folder, None) as made:
        yield made


def test_nodes_are_shown_with_what_they_hold(house: House) -> None:
    """State, homes and parts of each; what is wrong in words, and nothing of it as markup."""
    page = house.browser.get("/nodes").text
    text = text_of(page)
    assert EVIL not in page
    assert EVIL in text
    for words in (
        "✓ up",
        "Trouble: away",
        "it is away since 2026-11-16 11:06 UTC",
        "it keeps the history of 1 VM",
        f"1 part could not be taken in: no room {EVIL}",
        "https://a.example:8900",
    ):
        assert words in text, words
    got = house.browser.get("/v1/nodes")
    check(got, "GET", "/v1/nodes")
    found = {one["name"]: (one["state"], one["home_vms"], one["parts"]) for one in got.json["nodes"]}
    assert found == {"a": ("up", 3, 0), "b": ("away", 1, 1), EVIL: ("draining", 0, 1)}


@pytest.mark.real
def test_the_navigation_has_nodes_where_there_are_several(tmp_path: Path) -> None:
    """Who runs one aggregator does not have to know of nodes; the page is there all the same."""
    write_fleet(tmp_path, [Spec(vm_id="vm-a")])
    link = '<a href="/nodes">Nodes</a>'
    place_in(tmp_path, [node_row("a")])
    with serving(tmp_path) as server:
        assert link not in ask(server, "/vms")[1].decode()
        assert ask(server, "/nodes")[0] == 200
    place_in(tmp_path, [node_row("b")])
    with serving(tmp_path) as server:
        assert link in ask(server, "/vms")[1].decode()
        assert '<a href="/nodes" aria-current="page">' in ask(server, "/nodes")[1].decode()
        assert link in ask(server, "/vms/no-such-vm")[1].decode()


def test_several_nodes_is_what_the_database_said_last() -> None:
    """To ask for it never waits; a database that does not answer changes nothing."""
    answers: list[object] = [("a",), ("a", "b"), OperationalError("SELECT", {}, Exception("away")), ("a",)]

    def read() -> tuple[str, ...]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    several = SeveralNodes(read)
    assert not several()
    seen = []
    for _ in range(4):
        several.look()
        seen.append(several())
    assert seen == [False, True, True, False]


def test_a_vm_whose_history_is_split_is_not_judged_and_says_why(house: House) -> None:
    """On its page, in lists, as JSON and CSV: insufficient data, with the node and what holds it up."""
    text = text_of(house.browser.get("/vms/vm-split").text)
    assert "insufficient data" in text
    assert "Flagged: part of its history lies on node b since 2026-11-16 11:06 UTC, which is away since" in text
    assert "Careful: Part of its history lies on node b" in text
    assert "(from 2026-11-13 12:00 UTC to 2026-11-14 12:00 UTC)" in text
    assert "history split" in text
    whole = text_of(house.browser.get("/vms/vm-whole").text)
    assert "Careful" not in whole
    assert "history split" not in whole
    got = house.browser.get("/v1/vms/vm-stuck")
    check(got, "GET", "/v1/vms/{vm}")
    (judgement,) = {one["cause"] for one in got.json["judgements"].values()}
    assert judgement == "flagged"
    assert got.json["history"]["home"] == "a"
    assert got.json["history"]["parts"] == [
        {
            "node": EVIL,
            "node_state": "draining",
            "oldest_s": NEWEST_S - 3 * 86_400,
            "newest_s": NEWEST_S - 2 * 86_400,
            "noted_s": NOW_S - 3600.0,
            "problem": f"no room {EVIL}",
        }
    ]
    listed = house.browser.get("/v1/report?verdict=all").json["vms"]
    flagged = {one["vm"] for one in listed if one["cause"] == "flagged"}
    assert flagged == {"vm-split", "vm-stuck"}
    assert "part of its history lies on node b" in house.browser.get("/report.csv?verdict=all").text
    assert "part of its history lies on node b" in text_of(house.browser.get("/report.html?verdict=all").text)


def test_a_vm_whose_home_is_away_says_so(house: House) -> None:
    """Its figures of the last flush still stand; its charts may be empty, and why is on the page."""
    text = text_of(house.browser.get("/vms/vm-away").text)
    assert "Its history is kept by node b, which is away since 2026-11-16 11:06 UTC" in text
    assert "Node b" in text


def test_what_is_missing_in_a_chart_is_told(house: House) -> None:
    """A sentence each, beside the figures that there are."""
    house.series.missing = ("What node b holds is not shown: it is away",)
    try:
        got = house.browser.get("/v1/vms/vm-split/series")
    finally:
        house.series.missing = ()
    check(got, "GET", "/v1/vms/{vm}/series")
    assert got.json["missing"] == ["What node b holds is not shown: it is away"]
    assert set(got.json["series"]) == set(SERIES)
    assert house.browser.get("/v1/vms/vm-whole/series").json["missing"] == []


def test_health_has_every_node_of_its_own(house: House) -> None:
    """One that does not answer says so in its place and breaks nothing; VMs in doubt are a group."""
    health = parse_metrics(exposition(), now_s=NOW_S)
    house.live = (
        NodeLive(node=Node(name="a"), health=health),
        NodeLive(node=Node(name=EVIL), health=NotLive(reason="it did not answer within 3 s")),
    )
    try:
        text = text_of(house.browser.get("/health").text)
        got = house.browser.get("/v1/health")
    finally:
        house.live = NotLive(reason="no aggregator runs in a test")
    assert f"Careful: Node {EVIL} does not answer: it did not answer within 3 s." in text
    assert "Node a takes pushes yes" in text
    assert "The nodes of this fleet" in text
    assert "History on several nodes 2" in text
    check(got, "GET", "/v1/health")
    assert got.json["troubles"]["split"]["vms"] == 2
    assert (got.json["aggregator"], got.json["aggregator_problem"] is None) == (None, False)
    assert [(one["node"], one["aggregator"] is None, one["aggregator_problem"]) for one in got.json["nodes"]] == [
        ("a", False, None),
        (EVIL, True, "it did not answer within 3 s"),
    ]


def test_an_only_node_is_called_the_aggregator(house: House) -> None:
    """Who runs one does not have to know of nodes; its figures stand where they stood."""
    house.live = (NodeLive(node=Node(name="a"), health=parse_metrics(exposition(), now_s=NOW_S)),)
    try:
        assert "The aggregator takes pushes yes" in text_of(house.browser.get("/health").text)
        document = house.browser.get("/v1/health").json
    finally:
        house.live = NotLive(reason="no aggregator runs in a test")
    assert document["aggregator"]["ready"] is True
    assert document["aggregator_problem"] is None


@pytest.mark.real
def test_all_nodes_are_asked_at_once(tmp_path: Path) -> None:
    """One that hangs costs its own time-out and nobody else's answer."""
    token_file(tmp_path)
    with open_door() as quick, open_door() as hung:
        _say_health(quick)
        hung.held.clear()
        nodes = [
            Node(name=name, said="up", seen_s=NOW_S, admin_url=one.url) for name, one in (("a", quick), ("b", hung))
        ]
        with pages(tmp_path, []) as made:
            connect = connector(made.config, timeout_s=0.3)
            doors = NodeDoors(lambda: nodes, made.config.serve, clock=lambda: NOW_S, connect=connect)
            found = {one.node.name: one.health for one in read_all(doors.to_ask()) if one.node is not None}
        hung.held.set()
        _say_health(hung)
    assert isinstance(found["b"], NotLive)
    assert "did not answer within 0.3 s" in found["b"].reason
    assert not isinstance(found["a"], NotLive)


def _say_health(door: Door) -> None:
    door.say(200, {"now_s": NOW_S, "vms": []})
    door.answers.append((200, exposition().encode()))


@pytest.mark.real
def test_the_server_asks_the_node_that_keeps_a_vm(tmp_path: Path) -> None:
    """Its home by the address that it gave, then who holds a part; the aggregator of the settings is not asked."""
    write_fleet(tmp_path, [Spec(vm_id="vm-a"), Spec(vm_id="vm-b")])
    token_file(tmp_path)
    empty = {"vm": "vm-a", "from_s": 1, "to_s": 2, "step_s": 60, "ends_s": []}
    nothing: dict[str, object] = {name: {"min": [], "mean": [], "max": []} for name in SERIES}
    value = {name: {"min": [0.5], "mean": [0.5], "max": [0.5]} for name in SERIES}
    with open_door() as home, open_door() as other:
        home.say(200, {**empty, "series": nothing})
        other.say(200, {**empty, "ends_s": [2], "series": value})
        place_in(
            tmp_path,
            [node_row("a", admin_url=home.url), node_row("b", admin_url=other.url), node_row("c", admin_url=None)],
            homes={"vm-a": "a", "vm-b": "a"},
            parts=[part_row("vm-a", "b", oldest_s=1), part_row("vm-a", "c", oldest_s=1, newest_s=2)],
        )
        with serving(tmp_path) as server:
            status, body = ask(server, "/v1/vms/vm-a/series")
            found = json.loads(body)
            asked = len(other.asked)
            assert ask(server, "/v1/vms/vm-b/series")[0] == 200
        assert (status, found["ends_s"], found["series"]["users"]["mean"]) == (200, [2], [0.5])
        assert [target.partition("?")[0] for target, _ in home.asked] == [
            "/v1/vms/vm-a/series",
            "/v1/vms/vm-b/series",
        ]
        assert (asked, len(other.asked)) == (1, 1)
        (missing,) = found["missing"]
        assert missing.startswith("What node c holds")
