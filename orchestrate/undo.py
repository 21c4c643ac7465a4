"""Plans that give back: what a run took, and one VM to whoever asks for it. Pure.

An undo takes nothing from anybody: a VM that the run woke stays awake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrate.driver import AFTER, Verb
from orchestrate.inventory import Vm, VmRef, VmState
from orchestrate.outcomes import is_order
from orchestrate.plan import INVERSE, LIFE_S, Expected, Mark, Plan, PlanKind, Step, renumbered
from orchestrate.records import Action, Outcome
from reports.words import count_words, printable

_WAKES: Mapping[VmState, Verb] = {VmState.SUSPENDED: Verb.RESUME, VmState.OFF: Verb.START}


def plan_undo(
    actions: Sequence[Action],
    live: Mapping[VmRef, Vm],
    *,
    run_id: str,
    now_s: float,
    made_by: str,
    settings_sha256: str,
    later: Sequence[Action] = (),
) -> Plan:
    """The inverse of everything that a run did, the last first; what is not as the run left it is told in a note.

    Args:
        live: the VMs of the run as they are now; one that is not there could not be found.
        later: of other runs, since: what became of a VM then is no longer this run's.
    """
    steps: list[Step] = []
    notes: list[str] = []
    places = dict(live)
    for action in reversed(actions):
        if action.outcome is not Outcome.DONE:
            continue
        since = next((one for one in later if _follows(one, action)), None)
        if since is not None:
            found: Step | str | None = f"{since.step.verb} of the run {since.run_id} came after it"
        else:
            found = _undone(action.step, places.get(action.step.ref), run_id)
        if isinstance(found, str):
            notes.append(f"{printable(action.step.name)}: {action.step.verb} is not undone: {found}")
        elif found is not None:
            steps.append(found)
            places = _moved(places, found)
    open_ones = [action for action in actions if action.outcome in {None, Outcome.UNKNOWN}]
    if open_ones:
        notes.append(f"what became of {count_words(len(open_ones), 'action')} is not settled: not undone")
    return Plan(
        kind=PlanKind.UNDO,
        made_s=now_s,
        expires_s=now_s + LIFE_S,
        made_by=made_by,
        settings_sha256=settings_sha256,
        steps=renumbered(tuple(steps)),
        undoes=run_id,
        notes=tuple(notes),
    )


def plan_wake(
    vm: Vm,
    *,
    now_s: float,
    made_by: str,
    settings_sha256: str,
    vm_id: str | None = None,
    owner: str | None = None,
    mail: str | None = None,
) -> Plan:
    """Resumes or starts one VM. Raises: ValueError: it neither sleeps nor is off."""
    verb = _WAKES.get(vm.state)
    if verb is None:
        raise ValueError(f"{printable(vm.name)} is {vm.state}: there is nothing to wake")
    step = Step(
        number=1,
        verb=verb,
        ref=vm.ref,
        name=vm.name,
        vm_id=vm_id,
        owner=owner or vm.owner,
        mail=mail or vm.mail,
        expected=Expected(state=vm.state, host_id=vm.host_id),
        inverse=INVERSE[verb],
        reason=f"{made_by} asked for it.",
    )
    return Plan(
        kind=PlanKind.WAKE,
        made_s=now_s,
        expires_s=now_s + LIFE_S,
        made_by=made_by,
        settings_sha256=settings_sha256,
        steps=(step,),
    )


def _follows(later: Action, action: Action) -> bool:
    """Whether the VM is as another run left it, or may have: a new mark, or anything that reached its hypervisor."""
    return (
        later.step.ref == action.step.ref
        and later.action_id > action.action_id
        and (is_order(later) or (later.step.verb is action.step.verb is Mark.MARK and later.outcome is Outcome.DONE))
    )


def _undone(step: Step, vm: Vm | None, run_id: str) -> Step | str | None:
    """The step that undoes one; why there is none, in words; None where there is nothing to undo."""
    inverse = step.inverse
    if inverse is None:
        return None
    if inverse in {Verb.SUSPEND, Verb.STOP}:
        # It was woken for the step after it, which an undo takes back by itself.
        return None
    if vm is None:
        if inverse is not Mark.UNMARK:
            return "the VM was not found"
        expected = step.expected
    else:
        if (changed := _changed(step, vm)) is not None:
            return changed
        expected = Expected(state=vm.state, host_id=vm.host_id)
    return replace(
        step,
        verb=inverse,
        expected=expected,
        target_host_id=None if step.target_host_id is None else step.expected.host_id,
        inverse=INVERSE[inverse],
        reason=f"Undoes {step.verb} of the run {run_id}.",
        figures=(),
        grace_s=None,
        freed_vcpus=None,
        freed_mem_bytes=None,
        money_per_month=None,
    )


def _changed(step: Step, vm: Vm) -> str | None:
    """How the VM differs from what the step left; None where it does not."""
    left = step.expected.state if isinstance(step.verb, Mark) else AFTER[step.verb]
    if vm.state is not left:
        return f"it is {vm.state} now, and was left {left}"
    if step.target_host_id is not None and vm.host_id != step.target_host_id:
        return f"it is on {vm.host_id} now, and was left on {step.target_host_id}"
    return None


def _moved(places: Mapping[VmRef, Vm], step: Step) -> dict[VmRef, Vm]:
    """The VMs once the step is done: what an undo of several steps of one VM goes on from."""
    vm = places.get(step.ref)
    if vm is None or isinstance(step.verb, Mark):
        return dict(places)
    return {
        **places,
        step.ref: replace(vm, state=AFTER[step.verb], host_id=step.target_host_id or vm.host_id),
    }
