"""The notes of parts: which are due, who cannot be asked for them, and who the home is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.fleet import node, vm_part, vm_summary
from aggregator.fleet_db import SCHEMA_REVISION, migrate, open_fleet
from aggregator.parts import DuePart, Parts, Round
from tests.postgres import postgres_database

NOW_S = 1_790_000_000.0
HOUR_S = 3600
DAY_S = 86_400
AFTER_S = 3600.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    if request.param == "sqlite":
        found = open_fleet(None, tmp_path)
        migrate(found)
        yield found
        found.dispose()
        return
    with postgres_database(request.config) as url:
        found = open_fleet(url, tmp_path)
        migrate(found)
        yield found
        found.dispose()


class Table:
    """The fleet database under the test's hand, and `me` who looks at it."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.parts = Parts(engine, "me")

    def insert(self, table: sa.Table, **values: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.insert(table).values(**values))

    def vm(self, vm_id: str, home: str = "me", *, days: float = 14.0) -> None:
        fixed = {"received_s": NOW_S, "skew_s": 0.0, "interval_s": 60, "conflicts": 0, "updated_s": NOW_S}
        span = {"oldest_s": int(NOW_S - days * DAY_S), "newest_s": int(NOW_S)}
        self.insert(vm_summary, vm_id=vm_id, node=home, **span, **fixed)

    def part(
        self, vm_id: str, holder: str, *, hours: float = 1.0, noted_s: float = NOW_S, from_start: bool = True
    ) -> None:
        oldest_s = int(NOW_S - 14 * DAY_S) + (0 if from_start else HOUR_S)
        span = {"oldest_s": oldest_s, "newest_s": oldest_s + int(hours * HOUR_S)}
        self.insert(vm_part, vm_id=vm_id, node=holder, noted_s=noted_s, **span)

    def node(self, name: str, **changes: Any) -> None:
        fixed = {"version": "1", "revision": SCHEMA_REVISION, "vms": 0, "owed": 0}
        said = {"admin_url": f"http://127.0.0.1/{name}", "state": "up", "started_s": 0.0, "seen_s": NOW_S, **changes}
        self.insert(node, node=name, **fixed, **said)

    def look(self, **changes: Any) -> Round:
        return self.parts.look(**{"now_s": NOW_S, "after_s": AFTER_S, "limit": 100, **changes})

    def problems(self) -> dict[str, str | None]:
        with self.engine.connect() as connection:
            return {row.vm_id: row.problem for row in connection.execute(sa.select(vm_part))}


@pytest.fixture
def table(engine: sa.Engine) -> Table:
    return Table(engine)


def test_only_parts_of_own_vms_are_due(table: Table) -> None:
    """Each home looks for what others hold of its VMs, and for nothing else."""
    table.node("other")
    table.vm("mine")
    table.vm("theirs", "other")
    table.part("mine", "other")
    table.part("theirs", "me")
    found = table.look()
    assert found.due == [DuePart("mine", "other", "http://127.0.0.1/other", 0)]
    assert (found.waiting, found.away) == (1, {})


def test_large_parts_of_a_node_that_has_just_come_back_wait(table: Table) -> None:
    """However long it was away: its VMs return to it first, and what they left elsewhere is small."""
    table.node("other", started_s=NOW_S - AFTER_S + 1)
    for vm_id, hours in (("large", 300.0), ("small", 1.0)):
        table.vm(vm_id)
        table.part(vm_id, "other", hours=hours, noted_s=NOW_S - 10 * DAY_S)
    assert [part.vm_id for part in table.look().due] == ["small"]
    assert [part.vm_id for part in table.look(now_s=NOW_S + 1).due] == ["large", "small"]


@pytest.mark.parametrize(
    ("part", "is_due"),
    [
        ({"hours": 6.0}, True),
        ({"hours": 6.1}, False),
        ({"hours": 300.0, "noted_s": NOW_S - AFTER_S + 1}, False),
        ({"hours": 300.0, "noted_s": NOW_S - AFTER_S}, True),
        ({"hours": 300.0, "from_start": False}, True),
        # Noted while a clock was wrong.
        ({"hours": 300.0, "noted_s": NOW_S + DAY_S}, True),
    ],
)
def test_large_parts_wait(table: Table, part: dict[str, Any], is_due: bool) -> None:
    """A part larger than its home's own may be wanted back soon: it is left where it is for a while."""
    table.node("other")
    table.vm("mine")
    table.part("mine", "other", **part)
    found = table.look()
    assert bool(found.due) == is_due
    assert found.waiting == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"state": "stopped"}, "node other is away"),
        ({"seen_s": NOW_S - 61}, "node other is away"),
        ({"admin_url": None}, "node other has no address to be asked at (node.url)"),
        (None, "node other is not known: if its disk is lost, forget it (nodes forget)"),
    ],
)
def test_parts_of_who_cannot_be_asked_wait(table: Table, said: dict[str, Any] | None, why: str) -> None:
    """Such parts are not due, and each says why until the node is there again."""
    if said is not None:
        table.node("other", **said)
    table.vm("mine")
    table.vm("also")
    table.part("mine", "other")
    table.part("also", "other")
    table.parts.note("also", "other", "it was not sound")
    found = table.look()
    assert (found.due, found.waiting, found.away) == ([], 2, {"other": why})
    assert table.problems() == {"mine": why, "also": why}
    with table.engine.begin() as connection:
        connection.execute(sa.delete(node))
    table.node("other")
    assert len(table.look().due) == 2
    assert table.problems() == {"mine": None, "also": None}


def test_other_problems_stay(table: Table) -> None:
    """Why a part was not taken in is told until it is, or its node goes away."""
    table.node("other")
    table.vm("mine")
    table.part("mine", "other")
    table.parts.note("mine", "other", "x" * 10_000)
    table.look()
    assert table.problems() == {"mine": "x" * 500}
    table.parts.note("mine", "other", None)
    assert table.problems() == {"mine": None}


@pytest.mark.parametrize(
    ("said", "is_due"),
    [
        ({"state": "draining", "is_leaving": True}, True),
        ({"state": "draining", "is_leaving": None}, False),
        # A node of an older version leaves the column as it was.
        ({"state": "up", "is_leaving": True}, False),
    ],
)
def test_parts_of_a_node_that_leaves_for_good_do_not_wait(table: Table, said: dict[str, Any], is_due: bool) -> None:
    """Nobody is to come back to it, however large they are and however lately it drains."""
    table.node("other", started_s=NOW_S - 1, **said)
    table.vm("mine")
    table.part("mine", "other", hours=300.0)
    assert bool(table.look().due) == is_due


def test_silence_is_measured_by_the_clock_of_the_database(engine: sa.Engine) -> None:
    """Where this machine's clock is wrong a node that was seen just now is asked all the same."""
    slow = 70.0 if engine.dialect.name == "postgresql" else 0.0
    table = Table(engine)
    table.parts = Parts(engine, "me", machine=lambda: time.time() - slow)
    table.node("other", seen_s=time.time())
    table.node("gone", seen_s=time.time() - 65.0)
    for vm_id, holder in (("a", "other"), ("b", "gone")):
        table.vm(vm_id)
        table.part(vm_id, holder)
    found = table.look(now_s=time.time() - slow)
    assert [part.vm_id for part in found.due] == ["a"]
    assert list(found.away) == ["gone"]


def test_oldest_notes_come_first_within_the_limit(table: Table) -> None:
    """A fleet that moved at once is joined a round at a time, and nodes that fail are left out."""
    table.node("other")
    table.node("third")
    for number in range(5):
        table.vm(f"vm-{number}")
        table.part(f"vm-{number}", "other", noted_s=NOW_S - number)
    table.part("vm-0", "third", noted_s=NOW_S - 100)
    assert [part.vm_id for part in table.look(limit=3).due] == ["vm-0", "vm-4", "vm-3"]
    assert {part.node for part in table.look(but=["third"]).due} == {"other"}
    assert table.look(but=["third", "other"]).due == []


def test_home_is_what_the_summary_says(table: Table) -> None:
    """None where there is no row, or one that names nobody."""
    table.vm("mine")
    table.vm("nobodys", "")
    assert [table.parts.home_of(vm_id) for vm_id in ("mine", "nobodys", "absent")] == ["me", None, None]
