"""What the live state says of a step. Pure.

The executor asks it right after an order, reconciling asks it after a restart, and both kinds of records ask it what
stands when an outcome is told twice.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrate.driver import AFTER, Verb
from orchestrate.inventory import Vm, VmState
from orchestrate.plan import Mark, Step
from orchestrate.records import Action, Outcome

# They end the VM's way down the ladder.
GIVES_BACK: frozenset[Verb | Mark] = frozenset({Mark.UNMARK, Verb.RESUME, Verb.START})


def mismatch(step: Step, live: Vm) -> str | None:
    """How the VM differs from what the step expects of it; None where it does not."""
    if live.ref != step.ref:
        return f"is another VM: {live.ref}, not {step.ref}"
    if live.state is not step.expected.state:
        return f"is {live.state}, not {step.expected.state}"
    if live.host_id != step.expected.host_id:
        return f"is on {live.host_id}, not on {step.expected.host_id}"
    return None


def is_done(step: Step, live: Vm) -> bool:
    """Whether the VM is as the step is to leave it."""
    if isinstance(step.verb, Mark) or live.ref != step.ref or live.state is not AFTER[step.verb]:
        return False
    return not step.verb.is_migration or live.host_id == step.target_host_id


def is_order(action: Action) -> bool:
    """Whether it reached a hypervisor, or may have."""
    return isinstance(action.step.verb, Verb) and action.outcome not in {Outcome.FAILED, Outcome.SKIPPED}


def judge(step: Step, live: Vm, *, ended: bool) -> tuple[Outcome, str]:
    """What became of an order, by the VM as it is now.

    Args: ended: nothing that was begun can still be under way.
    """
    if is_done(step, live):
        return Outcome.DONE, f"{live.state} on {live.host_id}"
    problem = mismatch(step, live)
    if problem is None:
        if ended:
            return Outcome.FAILED, f"{live.state} on {live.host_id} as before"
        return Outcome.UNKNOWN, f"{live.state} on {live.host_id} as before, and the order may still be under way"
    if live.state is VmState.CHANGING:
        return Outcome.UNKNOWN, "a task of the hypervisor is under way"
    return Outcome.UNKNOWN, f"neither as before nor as wanted: {problem}"


def resettled(known: Action, outcome: Outcome, words: str, *, now_s: float) -> Action:
    """An action once an outcome was told of it, be it the second time: two controllers may tell of the same one.

    Returns: `known` itself where nothing is learned.
    """
    if known.outcome in {None, Outcome.UNKNOWN}:
        return replace(known, outcome=outcome, settled_s=now_s, words=words)
    if outcome is Outcome.UNKNOWN or (known.outcome is Outcome.DONE) is (outcome is Outcome.DONE):
        return known
    doubt = f"was told {known.outcome} ({known.words}), then {outcome} ({words})"
    return replace(known, outcome=Outcome.UNKNOWN, settled_s=now_s, words=doubt)
