"""The nodes of a fleet, what each holds, and the doubt about VMs whose history lies on several."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator import fleet
from aggregator.fleet_db import SCHEMA_REVISION, migrate, open_fleet
from aggregator.key_marks import mark_keys
from aggregator.node_state import AWAY_AFTER_S
from aggregator.tokens import TokenKeys
from reports.__main__ import main
from reports.facts import Vm
from reports.fleet import read_facts, snapshot
from reports.fleet_report import read_vm
from reports.node_rows import read_holdings, read_nodes, read_parts, read_whereabouts
from reports.node_words import holding_words, is_trouble, nodes_object
from reports.nodes import Holding, Node, NodeState, Part, part_words
from reports.policies import POLICIES
from reports.verdicts import Cause, Settings
from tests.postgres import postgres_database
from tests.reports.fleets import NEWEST_S, NOW_S, Spec, empty_fleet, store, stored, write_fleet
from tests.reports.placed import AWAY_S, node_row, part_row, place, place_in

NAMES = ("vm-a", "vm-b", "vm-c")


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    """Three VMs that would be idle, on three nodes, one of which is away."""
    made = stored([Spec(vm_id=name) for name in NAMES])
    rows = [node_row("a"), node_row("b", seen_s=NOW_S - AWAY_S), node_row("c", state="draining")]
    place(made, rows, homes={"vm-a": "a", "vm-b": "b", "vm-c": "c"})
    yield made
    made.dispose()


@pytest.mark.parametrize(
    ("said", "age_s", "state"),
    [
        ("up", 5.0, NodeState.UP),
        ("up", AWAY_AFTER_S, NodeState.UP),
        ("up", AWAY_AFTER_S + 1, NodeState.AWAY),
        ("draining", 5.0, NodeState.DRAINING),
        ("draining", AWAY_AFTER_S + 1, NodeState.AWAY),
        # Whoever stops says so, and says nothing after.
        ("stopped", 86_400.0, NodeState.STOPPED),
        # A clock that is ahead is no absence.
        ("up", -30.0, NodeState.UP),
        # A newer program may have more words.
        ("joining", 5.0, NodeState.UP),
        (None, None, NodeState.UNKNOWN),
    ],
)
def test_the_state_of_a_node(said: str | None, age_s: float | None, state: NodeState) -> None:
    """Its own words while they are young; silence is absence, unless it said that it stops."""
    node = Node(name="a", said=said, seen_s=None if age_s is None else NOW_S - age_s)
    assert node.state(NOW_S) is state
    assert node.is_gone(NOW_S) is (state in {NodeState.AWAY, NodeState.STOPPED, NodeState.UNKNOWN})


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({"said": "draining", "is_leaving": True}, "leaving"),
        ({"said": "draining"}, "draining"),
        ({"said": "up", "not_ready": "its disk is full"}, "not ready"),
        ({"said": "up", "is_leaving": True}, "up"),
        ({"said": "stopped", "is_leaving": True, "not_ready": "it stops"}, "stopped"),
    ],
)
def test_the_state_of_a_node_in_one_word(told: dict[str, Any], word: str) -> None:
    """Who leaves for good does not merely drain, and who takes no pushes is not simply up."""
    assert Node(name="a", seen_s=NOW_S, **told).word(NOW_S) == word


def test_nodes_are_told_with_what_they_hold(engine: sa.Engine) -> None:
    """Homes are counted, parts too, with the reasons that hold most of them up first; no node without a row is lost."""
    more = [Spec(vm_id=f"vm-{number}") for number in range(4)]
    store(engine, more)
    parts = [
        part_row("vm-a", "b", problem="it does not answer"),
        part_row("vm-0", "b", problem="it does not answer"),
        part_row("vm-1", "b", problem="no room"),
        part_row("vm-c", "b"),
        part_row("vm-c", "lost", problem="gone"),
    ]
    place(engine, homes={"vm-0": "a", "vm-1": "a", "vm-2": "unheard"}, parts=parts)
    with snapshot(engine) as connection:
        found = {held.node.name: held for held in read_holdings(connection, NOW_S)}
    assert list(found) == ["a", "b", "c", "lost", "unheard"]
    assert {name: (held.home_vms, held.parts) for name, held in found.items()} == {
        "a": (3, 0),
        "b": (1, 4),
        "c": (1, 0),
        "lost": (0, 1),
        "unheard": (1, 0),
    }
    assert found["b"].problems == (("it does not answer", 2), ("no room", 1))
    assert found["lost"].node.state(NOW_S) is NodeState.UNKNOWN
    assert (found["a"].node.admin_url, found["a"].node.heard_vms) == ("https://a.example:8900", 10)


def test_keys_and_clocks_of_nodes_are_compared(engine: sa.Engine) -> None:
    """Of those that are there; whoever has other keys than the VMs' or a wrong clock is trouble, and says why."""
    one, other = (mark_keys(TokenKeys({"k1": letter * 32}), "admin") for letter in (b"a", b"b"))
    rows = [
        node_row("a", key_marks=one, revision=SCHEMA_REVISION),
        node_row("b", key_marks=other, revision=SCHEMA_REVISION, seen_s=NOW_S - AWAY_S),
        node_row("c", key_marks=other, revision=SCHEMA_REVISION, started_s=NOW_S - 5, ahead_s=-11.0, is_leaving=True),
    ]
    place(engine, rows, homes={"vm-b": "a", "vm-c": "a"})
    with snapshot(engine) as connection:
        found = {held.node.name: held for held in read_holdings(connection, NOW_S)}
    assert (found["a"].troubles, found["b"].troubles) == ((), ())
    words = "; ".join(holding_words(found["c"], NOW_S))
    assert "its token keys are not those of a" in words
    assert "its clock is 11 s behind that of the fleet database" in words
    assert is_trouble(found["c"], NOW_S)
    (told,) = [node for node in nodes_object(list(found.values()), NOW_S)["nodes"] if node["name"] == "c"]  # type: ignore[attr-defined]
    assert (told["troubles"], told["ahead_s"]) == (list(found["c"].troubles), -11.0)


@pytest.mark.real
def test_silence_is_measured_by_the_clock_of_the_database(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """A report on a machine with a wrong clock takes no node that runs for one that is away, nor the other way."""
    with postgres_database(pytestconfig) as url:
        made = open_fleet(url, tmp_path)
        migrate(made)
        now_s = time.time()
        store(made, [Spec(vm_id="vm-a")])
        rows = [node_row("a", seen_s=now_s), node_row("b", seen_s=now_s - AWAY_AFTER_S - 10)]
        place(made, rows, homes={"vm-a": "a"}, parts=[part_row("vm-a", "b")])
        for apart_s in (-3600.0, 0.0, 3600.0):
            machine = partial(_apart, apart_s)
            with snapshot(made) as connection:
                nodes = read_nodes(connection, machine)
                ((part,),) = read_parts(connection, sa.true(), machine).values()
            assert [node.state(machine()) for node in (*nodes, part.holder)] == [
                NodeState.UP,
                NodeState.AWAY,
                NodeState.AWAY,
            ]
        made.dispose()


def _apart(by_s: float) -> float:
    return time.time() + by_s


def test_a_fleet_without_nodes_has_none() -> None:
    """Nothing is made up of summaries that nobody signed."""
    made = stored([Spec()])
    with snapshot(made) as connection:
        assert (read_nodes(connection), read_holdings(connection, NOW_S)) == ((), ())
        where = read_whereabouts(connection, "vm-a")
        assert (where.home, where.parts, where.newest_s) == ("", (), NEWEST_S)
        assert read_whereabouts(connection, "vm-z").newest_s is None
    made.dispose()


def test_only_parts_that_lie_elsewhere_count(engine: sa.Engine) -> None:
    """A part at home is none, whatever a crash left behind; one of a VM whose home was forgotten is."""
    place(engine, homes={"vm-c": ""}, parts=[part_row("vm-a", "a"), part_row("vm-b", "a"), part_row("vm-c", "a")])
    with snapshot(engine) as connection:
        found = read_parts(connection, sa.true())
    assert {vm_id: [part.holder.name for part in told] for vm_id, told in found.items()} == {
        "vm-b": ["a"],
        "vm-c": ["a"],
    }


def test_history_on_two_nodes_is_doubt(engine: sa.Engine) -> None:
    """The flag is there when facts are read, and stored nowhere; without the part the VM is idle as before."""
    policy, settings = POLICIES["fallow-balanced"], Settings()

    def judged(vm_id: str) -> tuple[Cause, str, tuple[str, ...]]:
        report = read_vm(engine, vm_id, (policy,), settings, NOW_S)
        assert report is not None
        one = report.judgements[policy.name]
        return one.cause, one.reason, one.vm.flags

    assert judged("vm-a")[0] is Cause.IDLE
    place(engine, parts=[part_row("vm-a", "b"), part_row("vm-b", "c", problem="it answered 507: no room")])
    assert judged("vm-a") == (
        Cause.FLAGGED,
        "Flagged: part of its history lies on node b since 2026-11-16 11:06 UTC, "
        "which is away since 2026-11-16 11:06 UTC",
        ("history_split",),
    )
    assert judged("vm-b")[1].endswith(
        "on node c since 2026-11-16 11:06 UTC, and could not be taken in yet: it answered 507: no room"
    )
    assert judged("vm-c")[0] is Cause.IDLE
    with engine.connect() as connection:
        assert set(connection.scalars(sa.select(fleet.vm_summary.c.flags))) == {"[]"}


def test_every_vm_of_every_chunk_has_its_flag(engine: sa.Engine) -> None:
    """By list of ids and over the whole fleet alike; other flags stay beside it."""
    with engine.begin() as connection:
        connection.execute(sa.update(fleet.vm_summary).values(flags='["store_replaced"]'))
    place(engine, parts=[part_row("vm-b", "a"), part_row("vm-b", "c"), part_row("vm-gone", "a")])
    expected = {
        "vm-a": (("store_replaced",), 0),
        "vm-b": (("store_replaced", "history_split"), 2),
        "vm-c": (("store_replaced",), 0),
    }
    with snapshot(engine) as connection:
        for vm_ids in (None, NAMES):
            (facts,) = read_facts(connection, (14,), vm_ids=vm_ids)
            assert {vm.vm_id: (vm.flags, len(vm.parts)) for vm in facts.vms} == expected


@pytest.mark.parametrize(
    ("holder", "problem", "words"),
    [
        ({}, None, "and is being taken in"),
        ({}, "too large", "and could not be taken in yet: too large"),
        ({"seen_s": NOW_S - AWAY_S}, "x", "which is away since 2026-11-16 11:06 UTC"),
        ({"said": "stopped"}, None, "which was stopped at 2026-11-16 12:06 UTC"),
        ({"said": None}, None, "which has never told of itself"),
    ],
)
def test_a_part_is_told_in_plain_words(holder: dict[str, Any], problem: str | None, words: str) -> None:
    """Where, since when, and what keeps it from being taken in."""
    node = replace(Node(name="b", said="up", seen_s=NOW_S - 5), **holder)
    part = Part(holder=node, oldest_s=0, newest_s=60, noted_s=NOW_S - 86_400, problem=problem)
    assert part_words(part, NOW_S) == f"part of its history lies on node b since 2026-11-15 12:06 UTC, {words}"


@pytest.mark.parametrize(
    ("held", "trouble", "words"),
    [
        ({}, False, ""),
        ({"home_vms": 3, "seen_s": NOW_S - AWAY_S}, True, "it keeps the history of 3 VMs"),
        ({"not_ready": "the journal is full"}, True, "it takes no pushes: the journal is full"),
        # It is to take none.
        ({"not_ready": "draining", "said": "draining"}, False, "it takes no pushes: draining"),
        ({"said": "stopped"}, False, "it was stopped"),
        ({"said": "stopped", "home_vms": 1}, True, "it keeps the history of 1 VM"),
        ({"parts": 2, "problems": (("no room", 2),)}, True, "2 parts could not be taken in: no room"),
        ({"parts": 2}, False, ""),
        ({"said": None, "home_vms": 1}, True, "has never told of itself"),
        ({"said": "draining", "is_leaving": True, "parts": 1}, False, "the others take over what it keeps"),
        ({"said": "draining", "is_leaving": True}, False, "it keeps nothing any more: stop it, then forget it"),
    ],
)
def test_what_somebody_has_to_look_at(held: dict[str, Any], trouble: bool, words: str) -> None:
    """A node that is away, takes nothing, or holds up what others wait for; not one that is stopped or drained."""
    of_node = {name: held[name] for name in held.keys() & {"seen_s", "not_ready", "said", "is_leaving"}}
    node = replace(Node(name="b", said="up", seen_s=NOW_S - 5), **of_node)
    holding = Holding(node=node, **{name: held[name] for name in held.keys() - of_node.keys()})
    assert is_trouble(holding, NOW_S) is trouble
    assert words in "; ".join(holding_words(holding, NOW_S))


def _said(folder: Path, *arguments: str) -> str:
    out = StringIO()
    assert main(["nodes", "--data", str(folder), *arguments], clock=lambda: NOW_S, environ={}, out=out) == 0
    return out.getvalue()


def test_the_command_lists_nodes(tmp_path: Path) -> None:
    """A table for people, and the same as JSON for programs; what comes from a database moves no cursor."""
    write_fleet(tmp_path, [Spec(vm_id="vm-a"), Spec(vm_id="vm-b")])
    assert "No aggregator has told of itself" in _said(tmp_path)
    assert json.loads(_said(tmp_path, "--json")) == {"generated_at_s": NOW_S, "nodes": []}
    place_in(
        tmp_path,
        [node_row("a", version="1\x1b[31m"), node_row("b", seen_s=NOW_S - AWAY_S)],
        homes={"vm-a": "a", "vm-b": "b"},
        parts=[part_row("vm-a", "b", problem="it does not answer")],
    )
    text = _said(tmp_path)
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines()]
    assert [row[:2] for row in rows[1:3]] == [["a", "up"], ["b", "away"]]
    assert "b: it is away since 2026-11-16 11:06 UTC" in text
    assert "b: 1 part could not be taken in: it does not answer" in text
    document = json.loads(_said(tmp_path, "--json"))
    assert [(one["name"], one["state"], one["home_vms"], one["parts"]) for one in document["nodes"]] == [
        ("a", "up", 1, 0),
        ("b", "away", 1, 1),
    ]
    assert document["nodes"][1]["problems"] == [{"problem": "it does not answer", "parts": 1}]


def test_a_vm_is_as_it_was_where_nothing_is_split() -> None:
    """No part, no flag: fleets of one node are judged as ever."""
    made = empty_fleet()
    store(made, [Spec()])
    with snapshot(made) as connection:
        (facts,) = read_facts(connection, (14,))
    assert [(vm.flags, vm.parts) for vm in facts.vms] == [((), ())]
    assert facts.vms[0] == Vm(vm_id="vm-a", enrolled_s=facts.vms[0].enrolled_s)
    made.dispose()
