"""What ends a run before its plan is done: the kill switch, and a lease that is lost."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrate.driver import Order
from orchestrate.plan import Mark, Plan, PlanKind, Step
from orchestrate.records import Action, Outcome, Rung
from orchestrate.refusal import Rule
from tests.orchestrate.fakes import (
    NOW_S,
    Fault,
    a_lease,
    a_step,
    an_entry,
)
from tests.orchestrate.house import LIFE_S, House, outcomes, words


@pytest.fixture
def house() -> House:
    """Three VMs that run on hv1, and nothing done yet."""
    return House()


def test_the_kill_switch_at_the_start_refuses_the_plan(house: House) -> None:
    """Nothing is read and nothing is done."""
    house.stop = "STOP by bob"
    result = house.apply(a_step())
    assert [refusal.rule for refusal in result.refusals] == [Rule.IRREVERSIBLE]
    assert "STOP by bob" in (result.run.words or "")
    assert (result.actions, house.driver.reads) == ((), 0)


def test_no_notice_goes_out_while_the_kill_switch_is_set(house: House) -> None:
    """Set while the rules were being read: the owner hears nothing."""
    house.records.put_entry(an_entry(rung=Rung.MARK), by="ann", now_s=NOW_S)
    house.driver.watch = lambda _call, _order: setattr(house, "stop", "STOP")
    result = house.apply(a_step(Mark.NOTIFY), kind=PlanKind.RECLAIM)
    assert (outcomes(result), house.notices) == ([Outcome.SKIPPED], [])


@pytest.mark.parametrize("when", ["find", "of_step", "begin", "wait"])
def test_the_kill_switch_holds_from_the_next_call_on(house: House, when: str) -> None:
    """An order that is under way is followed to its end; no other is given, and no owner is told anything."""

    def set_switch(call: str, _order: Order | None = None) -> None:
        if call == when:
            house.stop = "STOP"

    def of_step(*_: object, **__: object) -> tuple[()]:
        set_switch("of_step")
        return ()

    house.driver.watch = set_switch
    house.checks.of_step = of_step  # type: ignore[method-assign]
    reads = {"find": 1, "of_step": 1, "begin": 2, "wait": 2}[when]
    result = house.apply(a_step(), a_step(Mark.NOTIFY, number=2), a_step(number=3))
    was_given = when in {"begin", "wait"}
    assert outcomes(result) == [Outcome.DONE if was_given else Outcome.SKIPPED, Outcome.SKIPPED, Outcome.SKIPPED]
    assert (len(house.driver.orders), house.driver.reads) == (was_given, reads)
    assert house.notices == []
    assert result.run.words == words(result) == "the kill switch is set: STOP"


def test_the_kill_switch_leaves_a_late_task_alone(house: House) -> None:
    """It is not even asked to be given up: that is an order, too."""
    calls: list[str] = []

    def watch(call: str, _order: Order | None) -> None:
        calls.append(call)
        if call == "wait":
            house.stop = "STOP"

    house.driver.watch = watch
    house.driver.fail("wait", Fault.STUCK)
    result = house.apply(a_step())
    assert outcomes(result) == [Outcome.UNKNOWN]
    assert "cancel" not in calls


def test_the_lease_is_renewed_while_a_task_takes_its_time(house: House) -> None:
    """An order of many lease lives ends well, and nobody else gets in between."""
    others: list[object] = []
    house.driver.watch = lambda _call, _order: others.append(
        house.records.acquire("b", now_s=house.clock(), life_s=LIFE_S)
    )
    house.driver.fail("wait", Fault.STUCK)
    result = house.apply(a_step(), a_step(number=2))
    assert house.clock() > NOW_S + 10 * LIFE_S
    assert outcomes(result) == [Outcome.FAILED, Outcome.DONE]
    assert set(others) == {None}


def test_a_leader_that_was_stopped_past_its_lease_asks_for_nothing_more(house: House) -> None:
    """Its order stays open for the successor, who finds it; the run has no end yet; one order in all."""
    house.driver.fail("wait", Fault.SLOW)
    calls: list[str] = []

    def stand_still(call: str, _order: Order | None) -> None:
        calls.append(call)
        if call == "wait":
            house.clock.advance(LIFE_S)
            a_lease(house.records, "b", now_s=house.clock())

    house.driver.watch = stand_still
    result = house.apply(a_step(), a_step(number=2))
    assert calls == ["find", "begin", "wait"]
    assert outcomes(result) == [None]
    assert result.run.ended_s is None
    assert "followed by 2 of b" in (result.run.words or "")
    assert house.records.unsettled() == list(result.actions)
    assert house.told()[-1] == "lease lost"


def test_a_lease_that_is_lost_before_the_order_means_no_order(house: House) -> None:
    """While the rules were being read, another took over: not even an intent is written."""

    def take_over(*_: object, **__: object) -> tuple[()]:
        house.clock.advance(LIFE_S)
        a_lease(house.records, "b", now_s=house.clock())
        return ()

    house.checks.of_step = take_over  # type: ignore[method-assign]
    result = house.apply(a_step())
    assert (result.actions, house.driver.orders, house.records.actions("r1")) == ((), [], [])


def test_a_lease_that_is_lost_between_intent_and_order_means_no_order(house: House) -> None:
    """The disk took so long over the intent that the lease ran out: SKIPPED, for nothing was asked."""
    intend = house.records.intend

    def slowly(*arguments: Any, **named: Any) -> Action:
        action = intend(*arguments, **named)
        house.clock.advance(LIFE_S)
        return action

    house.records.intend = slowly  # type: ignore[method-assign]
    result = house.apply(a_step())
    assert outcomes(result) == [Outcome.SKIPPED]
    assert house.driver.orders == []
    assert house.records.unsettled() == []


def test_a_notice_that_took_longer_than_the_lease_is_the_last(house: House) -> None:
    """It went out and is recorded so; then another leads, and the next VM is not even read."""

    def slowly(step: Step, _plan: Plan) -> str:
        house.clock.advance(LIFE_S)
        a_lease(house.records, "b", now_s=house.clock())
        return f"told {step.name}"

    house._notify = slowly  # type: ignore[method-assign]
    for number in (1, 2):
        house.records.put_entry(an_entry(number), by="ann", now_s=NOW_S)
    result = house.apply(a_step(Mark.NOTIFY), a_step(number=2), kind=PlanKind.RECLAIM)
    assert outcomes(result) == [Outcome.DONE]
    assert house.driver.reads == 1


@pytest.mark.parametrize(
    ("call", "fault", "calls"),
    [
        ("begin", Fault.NONE, ["find", "begin"]),
        ("begin", Fault.TIMEOUT_ACTED, ["find", "begin"]),
        ("find", Fault.NONE, ["find", "begin", "wait", "find"]),
    ],
)
def test_a_call_that_took_longer_than_the_lease_is_the_last(
    house: House, call: str, fault: Fault, calls: list[str]
) -> None:
    """Whatever a driver makes of its deadlines: the order stays open, and nothing more is asked."""
    seen: list[str] = []

    def slowly(name: str, _order: Order | None) -> None:
        seen.append(name)
        if name == call and house.driver.orders:
            house.clock.advance(LIFE_S)

    house.driver.watch = slowly
    house.driver.fail("begin", fault)
    house.driver.fail("find", Fault.NONE, Fault.UNREACHABLE)
    result = house.apply(a_step())
    assert outcomes(result) == [None]
    assert seen == calls


def test_a_task_is_not_given_up_without_a_lease(house: House) -> None:
    """It was lost in the last moment of waiting: the task is the successor's."""
    seen: list[str] = []

    def slowly(name: str, _order: Order | None) -> None:
        seen.append(name)
        if seen.count("wait") == 45:
            house.clock.advance(LIFE_S)

    house.driver.watch = slowly
    house.driver.fail("wait", Fault.STUCK)
    assert outcomes(house.apply(a_step())) == [None]
    assert (seen.count("wait"), "cancel" in seen) == (45, False)


def test_no_order_outlasts_its_lease() -> None:
    """A lease shorter than a call is refused when the controller is put together."""
    with pytest.raises(ValueError, match="not longer than a call"):
        House().executor(life_s=20.0, begin_s=20.0)
