"""Several nodes that push, flush, join and crash in any order: no part of a history is ever out of sight."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.aggregator.fleet_model import FleetModel, Job

NODES = "abc"
VMS = ["vm-1", "vm-2"]


class PartsFleet(RuleBasedStateMachine):
    """Rules are what may happen to a fleet; every job of it may come late, or never."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.fleet = FleetModel(Path(self.directory.name), NODES)
        self.minute = 0

    def teardown(self) -> None:
        try:
            self.fleet.come_to_rest()
            assert self.fleet.problems_at_rest() == []
        finally:
            self.fleet.engine.dispose()
            self.directory.cleanup()

    @rule(name=st.sampled_from(NODES), vm_id=st.sampled_from(VMS))
    def push(self, name: str, vm_id: str) -> None:
        """A new minute, to any node."""
        self.minute += 1
        self.fleet.push(name, vm_id, self.minute)

    @precondition(lambda self: self.minute > 0)
    @rule(name=st.sampled_from(NODES), vm_id=st.sampled_from(VMS), back=st.integers(0, 8))
    def push_again(self, name: str, vm_id: str, back: int) -> None:
        """A minute that some node may have had before, or that was kept in a spool."""
        self.fleet.push(name, vm_id, max(1, self.minute - back))

    @rule(name=st.sampled_from(NODES), everybody=st.booleans())
    def flush(self, name: str, everybody: bool) -> None:
        flusher = self.fleet.nodes[name].flusher
        if everybody:
            flusher.flush()
        else:
            flusher.tick()

    @rule(name=st.sampled_from(NODES))
    def round(self, name: str) -> None:
        self.fleet.now_s += 61.0
        self.fleet.nodes[name].joiner.tick()

    @precondition(lambda self: self.fleet.jobs)
    @rule(data=st.data(), name=st.sampled_from(NODES), steps=st.integers(1, 12))
    def step(self, data: st.DataObject, name: str, steps: int) -> None:
        """One node goes on while the others stand still; its jobs in any order."""
        for _ in range(steps):
            ready = [job for job in self.fleet.ready() if job.node.name == name]
            if not ready:
                return
            self.fleet.step(ready[data.draw(st.integers(0, len(ready) - 1))])

    @precondition(lambda self: self.fleet.jobs)
    @rule()
    def work(self) -> None:
        self.fleet.work()

    @rule(name=st.sampled_from(NODES))
    def crash(self, name: str) -> None:
        self.fleet.nodes[name].crash()

    @rule(name=st.sampled_from(NODES), wanted=st.booleans())
    def leave(self, name: str, wanted: bool) -> None:
        """Any of them, all at once too."""
        self.fleet.nodes[name].leave(wanted=wanted)

    @rule(name=st.sampled_from(NODES))
    def bequeath(self, name: str) -> None:
        """A round of one that leaves; what was pushed before is of VMs that are silent by then."""
        self.fleet.now_s += 600.0
        self.fleet.nodes[name].bequest.tick()

    @rule(is_away=st.booleans())
    def database(self, is_away: bool) -> None:
        self.fleet.is_away = is_away

    @invariant()
    def every_part_is_noted_or_owed(self) -> None:
        assert self.fleet.unnoted() == []


TestPartsFleet = PartsFleet.TestCase
TestPartsFleet.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture
def fleet(tmp_path: Path) -> FleetModel:
    return FleetModel(tmp_path, NODES)


def told(fleet: FleetModel, name: str, vm_id: str, *minutes: int) -> None:
    """Minutes that a node takes, stores and tells of."""
    for minute in minutes:
        fleet.push(name, vm_id, minute)
    fleet.nodes[name].flusher.flush()
    fleet.work()


def until(fleet: FleetModel, what: str) -> Job:
    """Works until a job is ready whose work, or whose node's work, has this in its name."""
    for _ in range(1_000):
        for job in fleet.ready():
            if what in repr(job.work) and not job.is_worked:
                return job
        fleet.step(fleet.ready()[0])
    raise AssertionError(f"{what} never came")


@pytest.mark.parametrize("crashes", [False, True])
def test_row_35_minute_that_comes_between_deletion_and_telling_is_not_lost(fleet: FleetModel, crashes: bool) -> None:
    """The part was given, its node stored one more minute and noted it: the note is not that of the part that went."""
    told(fleet, "a", "vm-1", 1, 2)
    told(fleet, "b", "vm-1", 3)
    assert fleet.notes() == {("vm-1", "a")}
    fleet.nodes["b"].joiner.tick()
    until(fleet, "_settle")
    assert "vm-1" not in fleet.nodes["a"].stores
    late = [job for job in fleet.jobs if job.node.name == "b"]
    fleet.jobs = []
    told(fleet, "a", "vm-1", 0)
    assert fleet.nodes["a"].stores["vm-1"]
    if crashes:
        fleet.nodes["b"].crash()
    else:
        fleet.jobs = late
    fleet.work()
    assert fleet.unnoted() == []
    fleet.come_to_rest()
    assert fleet.problems_at_rest() == []
