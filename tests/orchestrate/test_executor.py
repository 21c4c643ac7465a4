"""A plan applied: each step re-checked, each order given once, each outcome read from the live state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from orchestrate.driver import AFTER, Capabilities, Order, Verb
from orchestrate.inventory import Vm, VmState
from orchestrate.plan import PlanKind
from orchestrate.records import Action, Outcome, StaleLease
from orchestrate.refusal import Refusal, Rule
from tests.orchestrate.fakes import (
    NOW_S,
    Fault,
    a_lease,
    a_plan,
    a_step,
    a_vm,
    ref,
)
from tests.orchestrate.house import House, outcomes, words


@pytest.fixture
def house() -> House:
    """Three VMs that run on hv1, and nothing done yet."""
    return House()


@pytest.mark.parametrize("verb", Verb)
def test_every_verb_is_done_once_and_seen_done(house: House, verb: Verb) -> None:
    """One order; the intent was on record before it, and DONE rests on a look after it."""
    step = a_step(verb)
    house.driver.vms[ref().uuid] = a_vm(state=step.expected.state)
    seen: list[str] = []
    house.driver.watch = lambda call, _order: seen.append(f"{call} {len(house.records.unsettled())}")
    result = house.apply(step)
    assert outcomes(result) == [Outcome.DONE]
    assert seen == ["find 0", "begin 1", "wait 1", "find 1"]
    assert house.driver.orders == [Order(verb=verb, uuid=ref().uuid, target_host_id=step.target_host_id)]
    assert house.is_now() is AFTER[verb]
    assert result.run == house.records.find_run("r1")
    assert result.run.ended_s is not None
    assert result.actions == tuple(house.records.actions("r1"))
    assert house.told() == ["lease taken", "plan", "run begun", "intent", "outcome", "run ended"]
    assert house.records.plans() == [a_plan(step, kind=PlanKind.RELIEF)]


def test_steps_come_in_order_and_each_is_told(house: House) -> None:
    """Whoever follows the run hears of each step once it is settled, and a failed one does not end the run."""
    house.driver.fail("begin", Fault.REFUSED)
    heard: list[Action] = []
    plan = a_plan(*(a_step(number=number) for number in (3, 1, 2)), kind=PlanKind.RELIEF)
    result = house.executor().apply(plan, a_lease(house.records), by="ann", on_step=heard.append)
    assert outcomes(result) == [Outcome.FAILED, Outcome.DONE, Outcome.DONE]
    assert [action.step.ref for action in heard] == [ref(3), ref(1), ref(2)]
    assert tuple(heard) == result.actions
    assert result.count(Outcome.DONE) == 2


def test_a_plan_that_is_refused_does_nothing_at_all(house: House) -> None:
    """Not one action: the run says why, so does the audit log, and the plan may be applied once that is cleared up."""
    refusal = Refusal(rule=Rule.OVER_LIMIT, words="12 VMs, and the limit is 10 a run", ref=None)
    house.checks.plan = [refusal]
    plan = a_plan(a_step(), kind=PlanKind.RELIEF)
    result = house.run(plan)
    assert (result.refusals, result.actions) == ((refusal,), ())
    assert "12 VMs, and the limit is 10 a run" in (result.run.words or "")
    assert house.records.find_run("r1") == result.run
    assert house.driver.orders == []
    assert house.driver.reads == 0
    assert house.told() == ["lease taken", "plan", "run begun", "refused", "run ended"]
    assert "exceeds a limit" in house.records.audit()[3].body
    house.checks.plan = []
    assert outcomes(house.run(plan)) == [Outcome.DONE]


def test_a_plan_runs_once(house: House) -> None:
    """A second apply is refused before anything is asked of a driver."""
    plan = a_plan(a_step(), kind=PlanKind.RELIEF)
    house.run(plan)
    reads = house.driver.reads
    with pytest.raises(ValueError, match="applied before, by run r1"):
        house.run(plan)
    assert (len(house.driver.orders), house.driver.reads) == (1, reads)


def test_a_stale_lease_begins_nothing(house: House) -> None:
    """Neither run nor read."""
    lease = a_lease(house.records)
    a_lease(house.records, "b", now_s=NOW_S + 60)
    house.clock.advance(60)
    with pytest.raises(StaleLease):
        house.run(a_plan(a_step()), lease=lease)
    assert house.records.runs() == []
    assert house.driver.reads == 0


CHANGES: dict[str, Callable[[Vm], Vm | None]] = {
    "it is off, not running": lambda vm: replace(vm, state=VmState.OFF),
    "it is changing, not running": lambda vm: replace(vm, state=VmState.CHANGING),
    "is on hv7, not on hv1": lambda vm: replace(vm, host_id="hv7"),
    "is another VM": lambda vm: replace(vm, ref=ref(9)),
    "no such VM": lambda _vm: None,
}


@pytest.mark.parametrize("why", CHANGES)
def test_a_vm_that_changed_is_left_alone(house: House, why: str) -> None:
    """SKIPPED with what is different; the other steps go on."""
    changed = CHANGES[why](a_vm())
    if changed is None:
        del house.driver.vms[ref().uuid]
    else:
        house.driver.vms[ref().uuid] = changed
    result = house.apply(a_step(), a_step(number=2))
    assert outcomes(result) == [Outcome.SKIPPED, Outcome.DONE]
    assert why.removeprefix("it ") in (result.actions[0].words or "")
    assert [order.uuid for order in house.driver.orders] == [ref(2).uuid]


def test_a_guest_made_anew_under_the_same_name_is_another(house: House) -> None:
    """The VM of the plan is gone; the new one of that name is not asked about, let alone touched."""
    del house.driver.vms[ref().uuid]
    newcomer = replace(a_vm(8), name="vm1")
    house.driver.vms[newcomer.ref.uuid] = newcomer
    result = house.apply(a_step())
    assert outcomes(result) == [Outcome.SKIPPED]
    assert house.driver.orders == []
    assert house.driver.vms[newcomer.ref.uuid] == newcomer


@pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.BUG_LOST])
def test_a_vm_that_cannot_be_read_is_left_alone(house: House, fault: Fault) -> None:
    """Whatever the driver's error is."""
    house.driver.fail("find", fault)
    result = house.apply(a_step())
    assert outcomes(result) == [Outcome.SKIPPED]
    assert "could not be read" in words(result)
    assert house.driver.orders == []


def test_rules_are_asked_with_the_live_vm_just_before(house: House) -> None:
    """One that says no is obeyed and told; the VM that it is shown is that of the hypervisor, not of the plan."""
    house.checks.steps = {1: [Refusal(rule=Rule.EXEMPT, words="kept by bob until Friday", ref=ref())]}
    house.driver.vms[ref(2).uuid] = replace(a_vm(2), tags=("new",))
    result = house.apply(a_step(), a_step(number=2))
    assert outcomes(result) == [Outcome.SKIPPED, Outcome.DONE]
    assert result.actions[0].words == "touches the exempt: kept by bob until Friday"
    assert house.checks.asked == [(1, a_vm()), (2, replace(a_vm(2), tags=("new",)))]


def test_what_a_driver_cannot_is_not_asked_of_it(house: House) -> None:
    """By its capabilities; nor anything of a driver that there is not."""
    house.driver.capabilities = Capabilities(verbs=frozenset({Verb.STOP}))
    elsewhere = replace(a_step(), ref=replace(ref(), driver="moon"))
    result = house.apply(a_step(), elsewhere)
    assert [action.words for action in result.actions] == ["the driver lab cannot suspend", "there is no driver moon"]
    assert house.driver.orders == []


@pytest.mark.parametrize("outcome", [None, Outcome.UNKNOWN])
def test_a_vm_whose_last_action_is_open_is_left_alone(house: House, outcome: Outcome | None) -> None:
    """Until somebody has said what became of it."""
    house.apply(a_step(number=2))
    lease = a_lease(house.records, now_s=house.clock())
    left = house.records.intend("r1", a_step(Verb.STOP), lease, now_s=house.clock())
    if outcome is not None:
        house.records.settle(left, outcome, "who knows", by="ann", now_s=house.clock())
    result = house.run(a_plan(a_step(), a_step(number=3), kind=PlanKind.RELIEF))
    assert outcomes(result) == [Outcome.SKIPPED, Outcome.DONE]
    assert result.actions[0].words == f"what became of action {left.action_id} is not cleared up"


# What goes wrong at the order, what was asked to happen, and what has to be said of it.
ENDINGS: list[tuple[str, Fault, bool, Outcome, str]] = [
    ("begin", Fault.REFUSED, False, Outcome.FAILED, "not allowed"),
    ("begin", Fault.GONE, False, Outcome.FAILED, "no such VM"),
    ("begin", Fault.TIMEOUT_ACTED, True, Outcome.DONE, "no answer within 20 s; found suspended on hv1"),
    ("begin", Fault.TIMEOUT_LOST, False, Outcome.UNKNOWN, "may still be under way"),
    ("begin", Fault.BUG_ACTED, True, Outcome.DONE, "RuntimeError: a bug; found suspended on hv1"),
    ("begin", Fault.BUG_LOST, False, Outcome.UNKNOWN, "may still be under way"),
    ("wait", Fault.REFUSED, False, Outcome.FAILED, "not allowed; found running on hv1 as before"),
    ("wait", Fault.UNREACHABLE, False, Outcome.UNKNOWN, "no answer; found running"),
    ("wait", Fault.TIMEOUT_ACTED, True, Outcome.DONE, "found suspended on hv1"),
    ("wait", Fault.TIMEOUT_LOST, False, Outcome.UNKNOWN, "may still be under way"),
    ("wait", Fault.BUG_ACTED, True, Outcome.DONE, "found suspended on hv1"),
    ("wait", Fault.BUG_LOST, False, Outcome.UNKNOWN, "may still be under way"),
    ("wait", Fault.LIES, False, Outcome.FAILED, "running on hv1 as before"),
    ("wait", Fault.SLOW, True, Outcome.DONE, "suspended on hv1"),
    # Given up at its deadline: the guest stays as it was.
    (
        "wait",
        Fault.STUCK,
        False,
        Outcome.FAILED,
        "not done within 900 s; cancelled; found running on hv1 as before",
    ),
    ("wait", Fault.ENDLESS, False, Outcome.UNKNOWN, "was not done within 900 s; found running"),
]


@pytest.mark.parametrize(("call", "fault", "is_changed", "outcome", "text"), ENDINGS)
def test_row_38_the_live_state_says_what_became_of_an_order(
    house: House, call: str, fault: Fault, is_changed: bool, outcome: Outcome, text: str
) -> None:
    """However it went, it was given once; DONE and FAILED are said where the VM and the task leave no doubt."""
    house.driver.fail(call, fault)
    result = house.apply(a_step())
    assert outcomes(result) == [outcome]
    assert text in words(result)
    assert len(house.driver.orders) == 1
    assert (house.is_now() is VmState.SUSPENDED) is is_changed


def test_an_unknown_outcome_ends_the_run(house: House) -> None:
    """Every further step is SKIPPED with the reason, and nothing more is asked of the driver."""
    house.driver.fail("begin", Fault.NONE, Fault.TIMEOUT_LOST)
    result = house.apply(*(a_step(number=number) for number in (1, 2, 3)))
    assert outcomes(result) == [Outcome.DONE, Outcome.UNKNOWN, Outcome.SKIPPED]
    assert words(result) == result.run.words == "nothing more was done after step 2, whose outcome is not known"
    assert len(house.driver.orders) == 2
    assert house.records.unsettled() == [result.actions[1]]


@pytest.mark.parametrize("fault", [Fault.BUSY, Fault.UNREACHABLE])
def test_a_refusal_that_passes_is_tried_again(house: House, fault: Fault) -> None:
    """With a look and an intent of its own, every rule asked again, and not for ever."""
    house.driver.fail("begin", fault)
    result = house.apply(a_step())
    assert outcomes(result) == [Outcome.FAILED, Outcome.DONE]
    assert len(house.checks.asked) == 2
    house.driver.fail("begin", *[fault] * 9)
    result = house.run(a_plan(a_step(number=2), a_step(number=3), kind=PlanKind.RELIEF))
    assert outcomes(result) == [Outcome.FAILED] * 4


@pytest.mark.parametrize(
    ("faults", "outcome"),
    [
        ([Fault.UNREACHABLE], Outcome.DONE),
        ([Fault.UNREACHABLE] * 3, Outcome.UNKNOWN),
        ([Fault.REFUSED], Outcome.UNKNOWN),
        ([Fault.BUG_LOST], Outcome.UNKNOWN),
        ([Fault.GONE], Outcome.UNKNOWN),
    ],
)
def test_done_is_said_after_a_look_alone(house: House, faults: list[Fault], outcome: Outcome) -> None:
    """A task that ended well proves nothing while the VM cannot be read; reading is tried again, never the order."""
    house.driver.fail("find", Fault.NONE, *faults)
    result = house.apply(a_step())
    assert outcomes(result) == [outcome]
    assert len(house.driver.orders) == 1


def test_a_migration_is_done_where_the_vm_runs_at_its_target(house: House) -> None:
    """It ran before and it runs now: the host tells the two apart."""
    house.driver.fail("wait", Fault.LIES)
    result = house.apply(a_step(Verb.MIGRATE_LIVE), a_step(Verb.MIGRATE_LIVE, number=2))
    assert outcomes(result) == [Outcome.FAILED, Outcome.DONE]
    assert house.driver.vms[ref(2).uuid].host_id == "hv2"
