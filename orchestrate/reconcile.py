"""Actions that a controller left open when it died or lost its lease: what became of them, and a person's word on it.

The live state decides, as it does right after an order. What it cannot tell is UNKNOWN and waits for a person.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrate.driver import Driver
from orchestrate.inventory import VmState
from orchestrate.orders import Timeouts, error_words
from orchestrate.outcomes import judge
from orchestrate.plan import Mark
from orchestrate.records import Action, Lease, Outcome, Records
from orchestrate.settling import settle

# Runs are applied one at a time: one that was cut off is among the newest.
_RUNS = 50


def reconcile(
    records: Records,
    drivers: Mapping[str, Driver],
    lease: Lease,
    *,
    by: str,
    clock: Callable[[], float],
    timeouts: Timeouts,
    lease_life_s: float,
) -> tuple[Action, ...]:
    """Settles every action that was intended under an earlier lease, and ends the runs that were cut off.

    Only reads at hypervisors. To be called under a fresh lease, before anything else is done under it: orders of
    earlier leases have then been given or never will be, as each was given well within its lease.

    An order that a hypervisor is still carrying out stays open until its time is over; its VM is left alone till then.

    Returns: those that have an outcome now.
    Raises: StaleLease.
    """
    settled = []
    for action in records.unsettled():
        if action.outcome is not None or action.lease_token >= lease.token:
            continue
        records.renew(lease, now_s=clock(), life_s=lease_life_s)
        found = _look(action, drivers, timeouts, now_s=clock())
        if found is None:
            continue
        outcome, words = found
        run = records.find_run(action.run_id)
        kind = "" if run is None else run.kind
        settled.append(settle(records, action, outcome, words, kind=kind, by=by, now_s=clock()))
    for run in records.runs(limit=_RUNS):
        if run.ended_s is None:
            records.end_run(run.run_id, lease, now_s=clock(), words="cut off: its controller died or lost its lease")
    return tuple(settled)


def resolve(records: Records, action_id: int, outcome: Outcome, *, by: str, reason: str, now_s: float) -> Action:
    """A person's word on an action that nobody else can tell the outcome of.

    Args: outcome: DONE or FAILED.

    Raises: ValueError: another outcome, no such open action, or one that is under way just now.
    """
    if outcome not in {Outcome.DONE, Outcome.FAILED}:
        raise ValueError(f"an action is resolved as done or failed, not {outcome}")
    action = next((each for each in records.unsettled() if each.action_id == action_id), None)
    if action is None:
        raise ValueError(f"action {action_id}: there is none, or its outcome is known")
    leader = records.leader()
    is_led = leader is not None and leader.token == action.lease_token and now_s < leader.expires_s
    if action.outcome is None and is_led:
        raise ValueError(f"action {action_id}: {leader and leader.holder} is doing it just now")
    run = records.find_run(action.run_id)
    kind = "" if run is None else run.kind
    return settle(records, action, outcome, f"{by} says so: {reason}", kind=kind, by=by, now_s=now_s)


def _look(
    action: Action, drivers: Mapping[str, Driver], timeouts: Timeouts, *, now_s: float
) -> tuple[Outcome, str] | None:
    """None: the hypervisor is at it, and still has time: the next look tells."""
    step = action.step
    if step.verb is Mark.NOTIFY:
        # The owner's time runs from a notice that is known to have gone out, so that a second one does no harm.
        return Outcome.FAILED, "cut off: the notice may have gone out, and goes out again"
    if isinstance(step.verb, Mark):
        return Outcome.FAILED, "cut off before it was written down"
    driver = drivers.get(step.ref.driver)
    if driver is None:
        return Outcome.UNKNOWN, f"there is no driver {step.ref.driver} to ask"
    try:
        live = driver.find(step.ref.uuid, timeouts.find_s)
    except Exception as error:  # a driver's bug is no reason to leave the other actions open
        return Outcome.UNKNOWN, f"could not be read after a restart: {error_words(error)}"
    if live.state is VmState.CHANGING and now_s - action.begun_s < timeouts.order_s[step.verb]:
        return None
    outcome, found = judge(step, live, ended=True)
    words = {Outcome.DONE: "found done after a restart", Outcome.FAILED: "was not done"}.get(outcome, "after a restart")
    return outcome, f"{words}: {found}"
