"""What a controller left open when it died is found out before anything else is done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrate.driver import AFTER, Verb
from orchestrate.inventory import VmState
from orchestrate.memory import MemoryRecords
from orchestrate.orders import Timeouts
from orchestrate.plan import Mark, PlanKind
from orchestrate.reconcile import reconcile, resolve
from orchestrate.records import Action, Outcome, Run, Rung, StaleLease
from tests.orchestrate.fakes import NOW_S, Clock, FakeDriver, Fault, a_lease, a_step, a_vm, an_entry, ref


class Restarted:
    """A controller whose predecessor died right after its intent; the VM is as it was then."""

    def __init__(self, verb: Verb | Mark = Verb.SUSPEND, kind: PlanKind = PlanKind.RECLAIM) -> None:
        self.clock = Clock()
        self.records = MemoryRecords()
        self.driver = FakeDriver(clock=self.clock)
        step = a_step(verb)
        self.put(step.expected.state)
        first = a_lease(self.records)
        self.records.put_entry(an_entry(), by="ann", now_s=NOW_S)
        self.records.begin_run(
            Run(run_id="r1", plan_sha256="a" * 64, kind=kind, by="ann", begun_s=NOW_S), first, now_s=NOW_S
        )
        self.left = self.records.intend("r1", step, first, now_s=NOW_S + 1)
        self.clock.advance(100)
        self.lease = a_lease(self.records, "b", now_s=self.clock(), life_s=60)

    def put(self, state: VmState, host_id: str = "hv1") -> None:
        self.driver.vms[ref().uuid] = a_vm(state=state, host_id=host_id)

    def reconcile(self) -> tuple[Action, ...]:
        return reconcile(
            self.records,
            {"lab": self.driver},
            self.lease,
            by="watch",
            clock=self.clock,
            timeouts=Timeouts(),
            lease_life_s=60.0,
        )


@pytest.mark.parametrize("verb", Verb)
def test_what_was_done_is_found_done(verb: Verb) -> None:
    """The VM is as it was to be: DONE, without another order, and the ladder follows."""
    house = Restarted(verb)
    house.put(AFTER[verb], "hv2" if verb.is_migration else "hv1")
    (action,) = house.reconcile()
    assert action.outcome is Outcome.DONE
    assert (action.words or "").startswith("found done after a restart: ")
    assert house.driver.orders == []
    entry = house.records.find_entry(ref())
    rung = {Verb.SUSPEND: Rung.SUSPEND, Verb.STOP: Rung.STOP}.get(verb)
    if rung is not None:
        assert entry is not None
        assert (entry.rung, entry.run_id) == (rung, "r1")
    assert house.reconcile() == ()


@pytest.mark.parametrize("verb", Verb)
def test_what_was_not_done_is_not_done_now(verb: Verb) -> None:
    """The VM is as it was: FAILED, and the ladder stands; a plan made anew may try again."""
    house = Restarted(verb)
    (action,) = house.reconcile()
    assert action.outcome is Outcome.FAILED
    assert (action.words or "").startswith("was not done: ")
    assert house.driver.orders == []
    assert house.records.find_entry(ref()) == an_entry()
    assert house.records.unsettled() == []


@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.GONE, Fault.BUG_LOST])
def test_what_cannot_be_seen_goes_to_a_person(fault: Fault) -> None:
    """A VM that is gone or does not answer: UNKNOWN, and it stays so at the next restart."""
    house = Restarted()
    house.driver.fail("find", fault)
    (action,) = house.reconcile()
    assert action.outcome is Outcome.UNKNOWN
    assert house.records.unsettled() == [action]
    assert house.reconcile() == ()
    assert house.records.unsettled() == [action]


@pytest.mark.parametrize("state", [VmState.OFF, VmState.PAUSED, VmState.UNKNOWN])
def test_another_state_goes_to_a_person(state: VmState) -> None:
    """Neither as before nor as wanted: somebody else was there."""
    house = Restarted()
    house.put(state)
    (action,) = house.reconcile()
    assert action.outcome is Outcome.UNKNOWN
    assert str(state) in (action.words or "")


def test_another_vm_under_the_uuid_goes_to_a_person() -> None:
    """A driver that shows another VM, or the same at another host, proves nothing."""
    house = Restarted()
    house.driver.vms[ref().uuid] = replace(a_vm(2), state=VmState.SUSPENDED)
    (action,) = house.reconcile()
    assert action.outcome is Outcome.UNKNOWN


def test_an_order_under_way_is_waited_for() -> None:
    """While its time is not over it stays open, and its VM is left alone; after it, a person looks."""
    house = Restarted()
    house.put(VmState.CHANGING)
    assert house.reconcile() == ()
    assert house.records.unsettled() == [house.left]
    house.clock.advance(Timeouts().order_s[Verb.SUSPEND])
    house.lease = a_lease(house.records, "b", now_s=house.clock())
    (action,) = house.reconcile()
    assert action.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("mark", Mark)
def test_marks_and_notices_are_done_again(mark: Mark) -> None:
    """What was not recorded did not happen: a notice goes out twice rather than never."""
    house = Restarted(mark)
    (action,) = house.reconcile()
    assert action.outcome is Outcome.FAILED
    assert house.driver.reads == 0
    assert house.records.find_entry(ref()) == an_entry()


def test_a_driver_that_is_no_longer_there() -> None:
    """Nobody can be asked: a person says."""
    house = Restarted()
    settled = reconcile(
        house.records, {}, house.lease, by="watch", clock=house.clock, timeouts=Timeouts(), lease_life_s=60.0
    )
    assert [action.outcome for action in settled] == [Outcome.UNKNOWN]


def test_runs_that_were_cut_off_get_an_end() -> None:
    """With words that say so."""
    house = Restarted()
    house.reconcile()
    run = house.records.find_run("r1")
    assert run is not None
    assert run.ended_s == house.clock()
    assert "cut off" in (run.words or "")


def test_ones_own_action_is_left_alone() -> None:
    """An action under the present lease is being done, not left."""
    house = Restarted()
    house.reconcile()
    house.records.begin_run(
        Run(run_id="r2", plan_sha256="b" * 64, kind=PlanKind.RELIEF, by="ann", begun_s=NOW_S),
        house.lease,
        now_s=house.clock(),
    )
    own = house.records.intend("r2", a_step(), house.lease, now_s=house.clock())
    assert house.reconcile() == ()
    assert house.records.unsettled() == [own]


def test_only_the_leader_reconciles() -> None:
    """Who has lost the lease settles nothing."""
    house = Restarted()
    house.clock.advance(60)
    with pytest.raises(StaleLease):
        house.reconcile()
    assert house.records.unsettled() == [house.left]
    assert house.driver.reads == 0


def test_relief_leads_down_no_ladder() -> None:
    """A run of another kind moves no entry when its order is found done."""
    house = Restarted(Verb.SUSPEND, PlanKind.UNDO)
    house.put(VmState.SUSPENDED)
    house.reconcile()
    assert house.records.find_entry(ref()) == an_entry()


@pytest.mark.parametrize("outcome", [Outcome.DONE, Outcome.FAILED])
def test_a_person_says_what_became_of_it(outcome: Outcome) -> None:
    """The word is kept with its reason, the ladder follows DONE, and the VM is free again."""
    house = Restarted()
    house.driver.fail("find", Fault.GONE)
    house.reconcile()
    action = resolve(house.records, 1, outcome, by="bob", reason="I looked", now_s=house.clock())
    assert (action.outcome, action.words) == (outcome, "bob says so: I looked")
    entry = house.records.find_entry(ref())
    assert entry is not None
    assert (entry.rung is Rung.SUSPEND) is (outcome is Outcome.DONE)
    assert house.records.unsettled() == []
    assert house.records.audit()[-1].who == "bob"


def test_a_person_resolves_what_is_open_alone() -> None:
    """Not what is known, not what is not there, not what a leader is doing just now, and not as unknown."""
    house = Restarted()
    for outcome in (Outcome.UNKNOWN, Outcome.SKIPPED):
        with pytest.raises(ValueError, match="as done or failed"):
            resolve(house.records, 1, outcome, by="bob", reason="?", now_s=house.clock())
    with pytest.raises(ValueError, match="action 7: there is none"):
        resolve(house.records, 7, Outcome.DONE, by="bob", reason="?", now_s=house.clock())
    resolve(house.records, 1, Outcome.DONE, by="bob", reason="?", now_s=house.clock())
    with pytest.raises(ValueError, match="its outcome is known"):
        resolve(house.records, 1, Outcome.FAILED, by="bob", reason="?", now_s=house.clock())
    records = MemoryRecords()
    lease = a_lease(records)
    run = Run(run_id="r1", plan_sha256="a" * 64, kind=PlanKind.RELIEF, by="ann", begun_s=NOW_S)
    records.begin_run(run, lease, now_s=NOW_S)
    records.intend("r1", a_step(), lease, now_s=NOW_S)
    with pytest.raises(ValueError, match="a is doing it just now"):
        resolve(records, 1, Outcome.DONE, by="bob", reason="?", now_s=NOW_S + 1)
    resolve(records, 1, Outcome.DONE, by="bob", reason="it died", now_s=NOW_S + 60)
