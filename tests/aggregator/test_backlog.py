"""What waits for the fleet database is bounded, and keeps its order through failures."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.backlog import Backlog, size_bytes_of
from aggregator.summary import Summary
from tests.aggregator.flush_fakes import TS, summary

MAX_VMS = 3
MAX_BYTES = 20_000
VMS = [f"vm-{number}" for number in range(5)]


class Waiting(RuleBasedStateMachine):
    """Puts, writes and failures in any order, beside a database that says how new what it holds is."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(max_vms=MAX_VMS, max_bytes=MAX_BYTES)
        self.step = 0
        self.in_database: dict[str, int] = {}
        self.accepted: dict[str, int] = {}
        self.batch: list[Summary] | None = None

    @rule(vm=st.sampled_from(VMS), figures=st.booleans(), evidence=st.sampled_from([None, 10, 9_000]))
    def put(self, vm: str, figures: bool, evidence: int | None) -> None:
        """A flush has a newer summary."""
        self.step += 1
        one = summary(vm, newest_s=TS + self.step)
        one = one._replace(
            figures=one.figures if figures else [], evidence=None if evidence is None else b"x" * evidence
        )
        if self.backlog.put(one):
            self.accepted[vm] = one.newest_s

    @precondition(lambda self: self.batch is None)
    @rule(vms=st.integers(1, MAX_VMS))
    def take(self, vms: int) -> None:
        """A transaction begins."""
        self.batch = self.backlog.take(vms)

    @precondition(lambda self: self.batch is not None)
    @rule(fails=st.booleans(), committed=st.booleans())
    def end(self, fails: bool, committed: bool) -> None:
        """It ends: well, or badly, whether the database has it or not."""
        for one in self.batch or ():
            if committed or not fails:
                self.in_database[one.vm_id] = one.newest_s
        self.batch = None
        if fails:
            self.backlog.put_back()
        else:
            self.backlog.written()

    @rule(vm=st.sampled_from(VMS))
    def drop(self, vm: str) -> None:
        """A VM is forgotten."""
        self.backlog.drop(vm)
        self.accepted.pop(vm, None)
        self.in_database.pop(vm, None)
        self.batch = None if self.batch is None else [one for one in self.batch if one.vm_id != vm]

    @invariant()
    def is_bounded(self) -> None:
        """In VMs and in memory."""
        assert len(self.backlog.vm_ids) <= MAX_VMS
        assert 0 <= self.backlog.size_bytes <= MAX_BYTES

    @invariant()
    def nothing_accepted_is_lost(self) -> None:
        """The newest that was accepted of a VM is in the database or waits."""
        for vm, newest_s in self.accepted.items():
            assert self.in_database.get(vm, 0) == newest_s or vm in self.backlog.vm_ids

    def teardown(self) -> None:
        """Written to the end, the database has the newest of each that was accepted, and no room is taken."""
        if self.batch is not None:
            self.backlog.put_back()
        for one in self.backlog.take(len(VMS)):
            self.in_database[one.vm_id] = one.newest_s
        self.backlog.written()
        assert self.accepted.items() <= self.in_database.items()
        assert self.backlog.size_bytes == 0


TestWaiting = Waiting.TestCase


def test_a_vm_that_waits_may_have_news_though_no_other_fits() -> None:
    """Its summary takes the place of the one before."""
    backlog = Backlog(max_vms=1, max_bytes=MAX_BYTES)
    assert backlog.put(summary("a"))
    assert not backlog.put(summary("b"))
    assert backlog.put(summary("a", newest_s=TS + 60))
    assert backlog.size_bytes == size_bytes_of(summary("a"))
    assert [one.newest_s for one in backlog.take(5)] == [TS + 60]
