"""A plan that reclaims moves VMs down the ladder, with each step that is done and with no other."""

from __future__ import annotations

import pytest

from orchestrate.driver import Order, Verb
from orchestrate.inventory import VmState
from orchestrate.plan import Mark, PlanKind
from orchestrate.records import Outcome, Rung
from tests.orchestrate.fakes import (
    NOW_S,
    Fault,
    a_plan,
    a_step,
    a_vm,
    an_entry,
    ref,
)
from tests.orchestrate.house import House, outcomes, words


@pytest.fixture
def house() -> House:
    """Three VMs that run on hv1, and nothing done yet."""
    return House()


def test_a_vm_goes_down_the_ladder_step_by_step(house: House) -> None:
    """Marked, its owner told, suspended: each entry is written with its outcome, and says when and by which run."""
    result = house.apply(a_step(Mark.MARK), a_step(Mark.NOTIFY), kind=PlanKind.RECLAIM)
    assert outcomes(result) == [Outcome.DONE, Outcome.DONE]
    assert (house.notices, words(result)) == (["vm1"], "mail to ann@example.org")
    entry = house.records.find_entry(ref())
    assert entry is not None
    assert (entry.rung, entry.vm_id, entry.group, entry.run_id) == (Rung.NOTIFY, "agent-1", "dev", "r1")
    assert entry.marked_s == entry.notified_s == NOW_S
    house.clock.advance(1000)
    result = house.run(a_plan(a_step()))
    entry = house.records.find_entry(ref())
    assert entry is not None
    assert (entry.rung, entry.run_id, entry.marked_s) == (Rung.SUSPEND, "r2", NOW_S)
    assert entry.since_s == result.actions[0].settled_s


def test_a_notice_that_was_not_sent_leaves_the_vm_on_its_mark(house: House) -> None:
    """FAILED with the reason: the owner's time does not begin."""
    house.notice_error = OSError("mail server away")
    result = house.apply(a_step(Mark.MARK), a_step(Mark.NOTIFY), kind=PlanKind.RECLAIM)
    assert outcomes(result) == [Outcome.DONE, Outcome.FAILED]
    assert words(result) == "the notice could not be sent: OSError: mail server away"
    entry = house.records.find_entry(ref())
    assert entry is not None
    assert entry.rung is Rung.MARK


def test_a_suspended_vm_is_woken_to_be_shut_down(house: House) -> None:
    """Both steps of the last rung, one after the other in one run, although waking takes it off the ladder."""
    house.driver.vms[ref().uuid] = a_vm(state=VmState.SUSPENDED)
    house.records.put_entry(an_entry(rung=Rung.SUSPEND), by="ann", now_s=NOW_S)
    result = house.apply(a_step(Verb.RESUME), a_step(Verb.STOP), kind=PlanKind.RECLAIM)
    assert outcomes(result) == [Outcome.DONE, Outcome.DONE]
    entry = house.records.find_entry(ref())
    assert entry is not None
    assert (entry.rung, house.is_now()) == (Rung.STOP, VmState.OFF)


def test_a_vm_that_could_not_be_woken_is_not_shut_down(house: House) -> None:
    """The second of the two steps rests on the first; without it the VM stays as it is, on its rung."""
    house.driver.vms[ref().uuid] = a_vm(state=VmState.SUSPENDED)
    house.records.put_entry(an_entry(rung=Rung.SUSPEND), by="ann", now_s=NOW_S)
    house.driver.fail("begin", Fault.REFUSED)
    result = house.apply(a_step(Verb.RESUME), a_step(Verb.STOP), kind=PlanKind.RECLAIM)
    assert outcomes(result) == [Outcome.FAILED, Outcome.SKIPPED]
    assert house.is_now() is VmState.SUSPENDED
    assert house.records.find_entry(ref()) == an_entry(rung=Rung.SUSPEND)


def test_only_a_vm_that_this_run_woke_is_shut_down_off_the_ladder(house: House) -> None:
    """Waking it failed, somebody else woke it, and its owner took it off the ladder: it is left alone."""
    house.driver.vms[ref().uuid] = a_vm(state=VmState.SUSPENDED)
    house.records.put_entry(an_entry(rung=Rung.SUSPEND), by="ann", now_s=NOW_S)

    def refuse(call: str, _order: Order | None) -> None:
        if call == "begin":
            house.driver.vms[ref().uuid] = a_vm()
            house.records.drop_entry(ref(), by="owner", now_s=NOW_S, words="keep it")

    house.driver.watch = refuse
    result = house.apply(a_step(Verb.RESUME), a_step(Verb.STOP), kind=PlanKind.RECLAIM)
    assert outcomes(result) == [Outcome.FAILED, Outcome.SKIPPED]
    assert words(result) == "it is no longer on the ladder"


@pytest.mark.parametrize("verb", [Mark.NOTIFY, Verb.SUSPEND, Verb.STOP])
def test_what_an_owner_took_off_the_ladder_goes_no_further(house: House, verb: Verb | Mark) -> None:
    """The objection came after the plan: neither order nor notice."""
    result = house.apply(a_step(verb), kind=PlanKind.RECLAIM)
    assert outcomes(result) == [Outcome.SKIPPED]
    assert words(result) == "it is no longer on the ladder"
    assert (house.driver.orders, house.notices) == ([], [])


def test_undoing_takes_a_vm_off_the_ladder(house: House) -> None:
    """What is woken or unmarked begins anew; unmarking asks no hypervisor."""
    for number, rung in ((1, Rung.SUSPEND), (2, Rung.MARK)):
        house.records.put_entry(an_entry(number, rung), by="ann", now_s=NOW_S)
    house.driver.vms[ref().uuid] = a_vm(state=VmState.SUSPENDED)
    del house.driver.vms[ref(2).uuid]
    result = house.apply(a_step(Verb.RESUME), a_step(Mark.UNMARK, number=2), kind=PlanKind.UNDO)
    assert outcomes(result) == [Outcome.DONE, Outcome.DONE]
    assert house.records.entries() == {}
    assert house.checks.asked[-1] == (2, None)


def test_a_migration_says_nothing_of_the_ladder(house: House) -> None:
    """A VM that is moved stays on its rung."""
    house.records.put_entry(an_entry(), by="ann", now_s=NOW_S)
    house.apply(a_step(Verb.MIGRATE_LIVE))
    assert house.records.find_entry(ref()) == an_entry()


def test_words_of_others_are_made_fit_to_keep(house: House) -> None:
    """A message of a hypervisor with a NUL, line ends or half a character is one plain line."""
    house.notice_error = OSError("mail\x00 server\n\n  away\udc80")
    house.records.put_entry(an_entry(rung=Rung.MARK), by="ann", now_s=NOW_S)
    result = house.apply(a_step(Mark.NOTIFY), kind=PlanKind.RECLAIM)
    assert words(result) == "the notice could not be sent: OSError: mail server away?"
