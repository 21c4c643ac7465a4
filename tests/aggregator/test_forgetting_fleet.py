"""VMs that are forgotten while nodes push, flush, join, crash and hear late of it: what was goes, what is stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from tests.aggregator.fleet_model import FleetModel
from tests.aggregator.test_parts_fleet import NODES, VMS, PartsFleet


class ForgettingFleet(PartsFleet):
    """As `PartsFleet`, and an admin forgets VMs, which enrol again at once; a token of before is used for a while."""

    @rule(vm_id=st.sampled_from(VMS))
    def forget(self, vm_id: str) -> None:
        self.fleet.forget(vm_id)

    @rule(name=st.sampled_from(NODES))
    def reread(self, name: str) -> None:
        self.fleet.nodes[name].reread()

    @rule(name=st.sampled_from(NODES), vm_id=st.sampled_from(VMS))
    def push_with_a_former_token(self, name: str, vm_id: str) -> None:
        self.minute += 1
        self.fleet.push(name, vm_id, self.minute, life=max(0, self.fleet.lives.get(vm_id, 0) - 1))

    @invariant()
    def nothing_acknowledged_since_is_lost(self) -> None:
        assert self.fleet.lost() == []

    @invariant()
    def nothing_of_before_comes_back(self) -> None:
        assert self.fleet.undead() == []


TestForgettingFleet = ForgettingFleet.TestCase
TestForgettingFleet.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetModel:
    return FleetModel(tmp_path, NODES)


@pytest.mark.parametrize("is_heard_first", [False, True])
def test_vm_that_enrols_again_at_once_keeps_what_it_pushes_elsewhere(fleet: FleetModel, is_heard_first: bool) -> None:
    """Its home is another node, which hears of the forgetting after it took, and stored, samples of the new life."""
    fleet.push("a", "vm-1", 1)
    fleet.nodes["a"].flusher.flush()
    fleet.work()
    assert fleet.homes() == {"vm-1": "a"}
    fleet.push("a", "vm-1", 2)
    fleet.forget("vm-1")
    assert fleet.homes() == {}
    if is_heard_first:
        fleet.nodes["a"].reread()
        fleet.work()
        assert fleet.nodes["a"].stores == {}
    fleet.push("a", "vm-1", 3)
    fleet.nodes["a"].flusher.flush()
    fleet.work()
    fleet.come_to_rest()
    assert fleet.problems_at_rest() == []
    assert [len(times) for times in fleet.nodes["a"].stores.values()] == [1]


@pytest.mark.parametrize("is_stored", [False, True])
def test_node_that_was_away_forgets_when_it_comes_back(fleet: FleetModel, is_stored: bool) -> None:
    """What it had in its journal is not replayed into a new history, and its store goes, though nobody pushes again."""
    fleet.push("a", "vm-1", 1)
    for _ in range(2 if is_stored else 0):  # the second has nothing noted as owed
        fleet.nodes["a"].flusher.flush()
        fleet.work()
    fleet.forget("vm-1")
    fleet.nodes["a"].crash()
    fleet.work()
    fleet.come_to_rest()
    assert (fleet.problems_at_rest(), fleet.nodes["a"].stores, fleet.homes()) == ([], {}, {})


def test_start_keeps_what_was_stored_since_the_forgetting(fleet: FleetModel) -> None:
    """That a VM was forgotten stands in the database for ever, and each start reads it."""
    fleet.forget("vm-1")
    fleet.push("a", "vm-1", 1)
    for _ in range(2):
        fleet.nodes["a"].flusher.flush()
        fleet.work()
    fleet.nodes["a"].crash()
    fleet.work()
    assert (fleet.lost(), len(fleet.nodes["a"].stores["vm-1"])) == ([], 1)


def test_flush_that_ends_after_the_forgetting_is_heard_of_changes_nothing(fleet: FleetModel) -> None:
    """What it says of the store that went is not believed: when the VM is back, no store is missed."""
    node = fleet.nodes["a"]
    fleet.push("a", "vm-1", 1)
    node.flusher.flush()
    fleet.forget("vm-1")
    node.reread()
    reading = next(job for job in fleet.ready() if job not in node.workers)
    fleet.step(reading)
    fleet.step(reading)
    fleet.work()
    assert (node.stores, node.flusher.knows("vm-1"), node.flusher.summaries_owed) == ({}, False, 0)
    fleet.push("a", "vm-1", 2)
    fleet.come_to_rest()
    assert fleet.problems_at_rest() == []


def test_node_that_starts_without_the_database_forgets_once_that_answers(fleet: FleetModel) -> None:
    """It replays and stores what it does not know to be forgotten; nothing of that reaches the database."""
    fleet.push("a", "vm-1", 1)
    fleet.forget("vm-1")
    fleet.is_away = True
    fleet.nodes["a"].crash()
    fleet.nodes["a"].flusher.flush()
    fleet.work()
    assert fleet.nodes["a"].stores["vm-1"]
    fleet.is_away = False
    fleet.work()
    assert fleet.homes() == {}
    fleet.come_to_rest()
    assert (fleet.problems_at_rest(), fleet.nodes["a"].stores, fleet.homes()) == ([], {}, {})
