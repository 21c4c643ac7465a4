"""What an aggregator learns of itself by looking at the others, and what it logs of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher

from aggregator.key_marks import mark_keys
from aggregator.node_doubts import NodeDoubts
from aggregator.node_row import Node, NodeTable
from aggregator.node_state import NodeState
from aggregator.tokens import TokenKeys
from tests.aggregator.node_fakes import NOW_S, node

OURS, THEIRS = (mark_keys(TokenKeys({"k1": letter * 32}), "admin") for letter in (b"a", b"b"))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        if event.get("log_namespace", "").startswith("aggregator.node_doubts"):
            lines.append(str(formatEvent(event)))

    observer = cast(ILogObserver, note)
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


def me(**changed: Any) -> Node:
    return node("me", **{"key_marks": OURS, "started_s": NOW_S, **changed})


def other(**changed: Any) -> Node:
    return node("other", **{"key_marks": THEIRS, **changed})


def table(*nodes: Node) -> NodeTable:
    return NodeTable(nodes=nodes, now_s=NOW_S)


THEIRS_ALONE = {"other": 3}


def test_strange_keys_are_refused_until_they_are_mended(logged: list[str]) -> None:
    """One line when it begins, one when it ends; what the table still says of this node does not count."""
    doubts = NodeDoubts()
    doubts.look(me(), table(other(), me(key_marks=THEIRS)), THEIRS_ALONE)
    assert "not those of other" in (doubts.refused or "")
    doubts.look(me(not_ready=doubts.refused), table(other()), THEIRS_ALONE)
    assert len(logged) == 1
    doubts.look(me(key_marks=THEIRS, not_ready=doubts.refused), table(other()), THEIRS_ALONE)
    assert (doubts.refused, doubts.keys) == (None, None)
    assert len(logged) == 2


@pytest.mark.parametrize(
    "gone", [{"state": NodeState.STOPPED}, {"seen_s": NOW_S - 100.0}, {"not_ready": "the journal is being replayed"}]
)
def test_a_stranger_that_starts_alone_does_not_take_the_fleet_over(gone: dict[str, Any]) -> None:
    """The others come back to a fleet that is still theirs; once they are forgotten it may have other keys."""
    doubts = NodeDoubts()
    doubts.look(me(), table(other(**gone)), THEIRS_ALONE)
    refused = doubts.refused
    assert refused is not None
    doubts.look(me(not_ready=refused), table(), {})
    assert doubts.refused is None


def test_who_has_the_vms_takes_pushes() -> None:
    """Whoever was there first: it is the other that has to be mended."""
    doubts = NodeDoubts()
    doubts.look(me(started_s=NOW_S), table(other(started_s=NOW_S - 600.0)), {"me": 1})
    assert doubts.keys is None


def test_nothing_is_judged_before_vms_are_counted() -> None:
    """Where keys differ; where all agree no count is needed."""
    doubts = NodeDoubts()
    assert not doubts.look(me(), table(other()), None)
    assert doubts.keys is None
    doubts.recall("its token keys were strange")
    assert not doubts.look(me(), table(other()), None)
    assert doubts.refused == "its token keys were strange"
    assert doubts.look(me(), table(other(key_marks=OURS)), None)
    assert doubts.refused is None


def test_a_wrong_clock_is_logged_when_it_begins_and_ends(logged: list[str]) -> None:
    """Not while it is within ten seconds, and nothing is refused for it: the database's clock counts."""
    doubts = NodeDoubts()
    for ahead_s in (None, 9.0, -12.0, -13.0, 0.0):
        doubts.look(me(ahead_s=ahead_s), table(other(key_marks=OURS)), None)
        assert (doubts.ahead_s, doubts.refused) == (ahead_s, None)
    assert [line.split(":")[0] for line in logged] == ["clock", "clock"]
    assert "its clock is 12 s behind that of the fleet database" in logged[0]


def test_a_wrong_clock_hides_no_keys() -> None:
    """This node is there, whatever its clock says of when."""
    doubts = NodeDoubts()
    doubts.look(me(seen_s=NOW_S - 3600.0), table(other()), THEIRS_ALONE)
    assert doubts.refused is not None
