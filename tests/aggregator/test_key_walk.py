"""Three nodes of which one has other keys, started, stopped, killed and left alone in every order there is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest

from aggregator.key_marks import mark_keys
from aggregator.node_doubts import NodeDoubts
from aggregator.node_row import Node, NodeTable
from aggregator.node_state import NodeState
from aggregator.tokens import TokenKeys
from tests.aggregator.node_fakes import NOW_S, node

NAMES = ("a-strange", "b", "c")
STRANGE = NAMES[0]
AWAY_S = 100.0
REPLAYING = "the journal is being replayed"
FLEET_MARKS, STRANGE_MARKS = (mark_keys(TokenKeys({"k1": letter * 32}), "admin") for letter in (b"a", b"b"))


class Row(NamedTuple):
    """A row of the table: what it says, and whether that is old."""

    state: NodeState
    not_ready: str | None
    is_old: bool


class Program(NamedTuple):
    """A node that runs. `refused`: by its own judgement; `has_looked`: it was judged, as each is before it is ready."""

    is_replaying: bool
    refused: str | None


@dataclass(frozen=True)
class World:
    """All that any node can go by."""

    rows: tuple[Row | None, ...] = (None,) * 3
    programs: tuple[Program | None, ...] = (None,) * 3

    def steps(self, homes: dict[str, int]) -> list[World]:
        """Every world that comes next."""
        found = []
        for number, program in enumerate(self.programs):
            if program is None:
                started = self._with(number, program=Program(True, None))
                found.append(started._looked(number, homes))
                continue
            found.append(self._looked(number, homes))
            found.append(self._with(number, program=program._replace(is_replaying=False))._looked(number, homes))
            stopped = Row(NodeState.STOPPED, "the aggregator is stopping", False)
            found.append(self._with(number, row=stopped, program=None, changes_row=True))
            found.append(self._with(number, program=None))
        # Rows grow old where nobody writes them; a database or a clock that stood still has them all do so.
        found.append(replace(self, rows=tuple(row and row._replace(is_old=True) for row in self.rows)))
        return found

    def ready(self, name: str) -> bool:
        """Whether a node takes pushes."""
        program = self.programs[NAMES.index(name)]
        return program is not None and not program.is_replaying and program.refused is None

    def _with(
        self, number: int, *, program: Program | None, row: Row | None = None, changes_row: bool = False
    ) -> World:
        rows, programs = list(self.rows), list(self.programs)
        programs[number] = program
        if changes_row:
            rows[number] = row
        return World(tuple(rows), tuple(programs))

    def _looked(self, number: int, homes: dict[str, int]) -> World:
        """The node tells of itself and then judges itself by the table."""
        program = self.programs[number]
        assert program is not None
        doubts = NodeDoubts()
        doubts.recall(program.refused)
        row = Row(NodeState.UP, REPLAYING if program.is_replaying else program.refused, False)
        told = self._with(number, program=program, row=row, changes_row=True)
        table = NodeTable(
            nodes=tuple(_node(name, row) for name, row in zip(NAMES, told.rows, strict=True) if row is not None),
            now_s=NOW_S,
        )
        doubts.look(_node(NAMES[number], row), table, homes)
        judged = program._replace(refused="strange" if doubts.refused else None)
        return told._with(number, program=judged)


def _node(name: str, row: Row) -> Node:
    return node(
        name,
        state=row.state,
        not_ready=row.not_ready,
        seen_s=NOW_S - AWAY_S if row.is_old else NOW_S,
        key_marks=STRANGE_MARKS if name == STRANGE else FLEET_MARKS,
        vms=0,
    )


def walk(first: World, homes: dict[str, int]) -> set[World]:
    """Every world that can ever come of one."""
    found, fresh = {first}, [first]
    while fresh:
        for each in fresh.pop().steps(homes):
            if each not in found:
                found.add(each)
                fresh.append(each)
    return found


STOPPED = Row(NodeState.STOPPED, None, False)


@pytest.mark.parametrize("homes", [{"b": 1}, {"b": 5, "c": 1}])
@pytest.mark.parametrize("has_met", [False, True])
def test_no_order_of_starts_stops_and_kills_puts_the_fleet_out(homes: dict[str, int], *, has_met: bool) -> None:
    """Nodes with the VMs' keys are never refused, and the stranger is never ready: it was met before, or is new."""
    rows = (STOPPED if has_met else None, STOPPED, STOPPED)
    worlds = walk(World(rows=rows), homes)
    assert len(worlds) > 1000
    assert not [world for world in worlds if world.ready(STRANGE)]
    right = [program for world in worlds for program in world.programs[1:] if program is not None]
    assert {program.refused for program in right} == {None}
    assert any(world.ready("b") and world.ready("c") for world in worlds)


def test_one_whose_key_was_exchanged_puts_nobody_else_out() -> None:
    """It keeps most of the VMs' histories: it may go on where it is alone, and never at the others' expense."""
    worlds = walk(World(rows=(STOPPED,) * 3), {STRANGE: 9, "b": 1, "c": 1})
    right = [program for world in worlds for program in world.programs[1:] if program is not None]
    assert {program.refused for program in right} == {None}


def test_a_fleet_without_vms_comes_up() -> None:
    """Whoever starts first: once all three run and have looked, the two with the same keys are ready and it is not."""
    for world in walk(World(), {}):
        if None in world.programs:
            continue
        settled = world
        for number in (0, 1, 2, 0, 1, 2):
            program = settled.programs[number]
            assert program is not None
            settled = settled._with(number, program=program._replace(is_replaying=False))._looked(number, {})
        for number in (0, 1, 2):
            settled = settled._looked(number, {})
        assert [settled.ready(name) for name in NAMES] == [False, True, True]
