"""The ladder of one VM: what is due now, and whether it still belongs there. A pure state machine.

report → mark → notify → grace → suspend → stop_grace → stop. Nobody is taken past a rung, no wait is ever shorter than
it was said to be, and there is no rung that deletes.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrate.clauses import exempt, in_use
from orchestrate.driver import Verb
from orchestrate.groups import Group, ReclaimSettings
from orchestrate.inventory import Vm, VmState
from orchestrate.plan import Mark, Step
from orchestrate.records import RUNGS, Entry, Rung
from orchestrate.world import Scene
from reports.verdicts import Verdict
from reports.words import time_words

RUNG_OF: dict[Verb | Mark, Rung] = {
    Mark.MARK: Rung.MARK,
    Mark.NOTIFY: Rung.NOTIFY,
    Verb.SUSPEND: Rung.SUSPEND,
    # A suspended VM is woken only to be shut down in order: what its memory holds must not be thrown away.
    Verb.RESUME: Rung.STOP,
    Verb.STOP: Rung.STOP,
}
# What a VM is left as on each of these rungs; on the others it runs.
_STATE_ON = {Rung.SUSPEND: VmState.SUSPENDED, Rung.STOP: VmState.OFF}
# A task of the hypervisor is under way, or it does not tell: the next look knows more.
_UNSURE = frozenset({VmState.CHANGING, VmState.UNKNOWN})


def reaches(group: Group, rung: Rung) -> bool:
    """Whether VMs of the group may be taken so far."""
    return RUNGS.index(rung) <= RUNGS.index(group.up_to)


def due(entry: Entry | None, group: Group, *, now_s: float) -> tuple[Verb | Mark, ...]:
    """What may be done to a VM now, in this order; empty: nothing yet, or nothing more."""
    match entry.rung if entry is not None else Rung.REPORT:
        case Rung.REPORT:
            steps: tuple[Verb | Mark, ...] = (Mark.MARK, Mark.NOTIFY)
        case Rung.MARK:
            steps = (Mark.NOTIFY,)
        case Rung.NOTIFY:
            steps = (Verb.SUSPEND,) if _is_told(entry) else (Mark.NOTIFY,) if reaches(group, Rung.SUSPEND) else ()
        case Rung.SUSPEND:
            steps = (Verb.RESUME, Verb.STOP) if _is_told(entry) else ()
        case Rung.STOP:
            steps = ()
    allowed = tuple(verb for verb in steps if reaches(group, RUNG_OF[verb]))
    start_s = due_s(entry, group) if entry is not None else None
    return () if start_s is not None and not now_s >= start_s else allowed


def _is_told(entry: Entry | None) -> bool:
    """What follows the entry's rung was said when it came there: groups may go further now than they did then."""
    return entry is not None and entry.due_s is not None


def grace_s(verb: Verb | Mark, group: Group) -> float | None:
    """How long a VM stays as the step leaves it before the next one takes more; None: none follows."""
    if verb is Mark.NOTIFY and reaches(group, Rung.SUSPEND):
        return group.grace_s
    if verb is Verb.SUSPEND and reaches(group, Rung.STOP):
        return group.stop_grace_s
    return None


def due_s(entry: Entry, group: Group) -> float | None:
    """When the wait on the entry's rung is over; None: there is none, or nobody was told of it.

    What the owner was told holds even where the settings are shorter by now; where they are longer, they do.
    """
    if entry.due_s is None or entry.rung not in {Rung.NOTIFY, Rung.SUSPEND}:
        return None
    if entry.rung is Rung.SUSPEND:
        return max(entry.due_s, entry.since_s + group.stop_grace_s)
    notified_s = entry.since_s if entry.notified_s is None else max(entry.since_s, entry.notified_s)
    return max(entry.due_s, notified_s + group.grace_s)


def entry_after(step: Step, before: Entry | None, *, vm_id: str, at_s: float, run_id: str) -> Entry | None:
    """Where a VM stands once a step of a reclaim plan is done; None: nowhere, what gives back ends its climb.

    Args: before: where it stood; None: nowhere.
    """
    rung = RUNG_OF.get(step.verb)
    if rung is None or step.verb is Verb.RESUME:
        return None
    known = None if rung is Rung.MARK else before
    return Entry(
        ref=step.ref,
        vm_id=vm_id,
        rung=rung,
        since_s=at_s,
        group=step.group or "",
        marked_s=at_s if known is None else known.marked_s,
        notified_s=at_s if rung is Rung.NOTIFY else None if known is None else known.notified_s,
        due_s=None if step.grace_s is None else at_s + step.grace_s,
        boot=step.expected.boot if known is None else known.boot,
        # The step's owner is whom a notice went to; what takes leaves who was told as it is.
        owner=(step.owner or "") if known is None or rung is Rung.NOTIFY else known.owner,
        run_id=run_id,
    )


def drop_words(scene: Scene, group: Group | None, settings: ReclaimSettings) -> str | None:
    """Why the VM comes off the ladder, to begin anew some day; None: it stays where it is, or is not on it.

    A look that says too little to judge by leaves it where it is: nothing is taken from it meanwhile.
    """
    if (entry := scene.entry) is None:
        return None
    if (vm := scene.vm) is None:
        return "it is gone" if scene.readable else None
    return next(_reasons(scene, entry, vm, group, settings), None)


def _reasons(scene: Scene, entry: Entry, vm: Vm, group: Group | None, settings: ReclaimSettings) -> Iterator[str]:
    if vm.created_s is not None and entry.marked_s is not None and vm.created_s > entry.marked_s:
        yield "it was made anew since it was marked"
    if scene.match is not None and scene.match.vm_id != entry.vm_id:
        yield f"another agent runs in it: {scene.match.vm_id}"
    if scene.sighting is not None:
        yield from (one.words for one in exempt(scene, group, settings, lasting_only=True))
    if scene.sighting is not None and entry.owner is not None and (scene.owner or "") != entry.owner:
        whose = [owner or "nobody that is known" for owner in (scene.owner, entry.owner)]
        yield f"its owner is {whose[0]} now, and was {whose[1]} when the notice went out"
    left = _STATE_ON.get(entry.rung, VmState.RUNNING)
    if vm.state is not left and vm.state not in _UNSURE:
        yield f"it is {vm.state}, and was left {left}"
    if left is VmState.SUSPENDED:
        yield from _signs_of_life(scene, entry, settings)
    if left is VmState.RUNNING:
        yield from _signs_of_use(scene, entry, settings)
        if scene.sighting is not None and (group is None or group.name != entry.group):
            yield f"its group is {'none' if group is None else group.name} now, and was {entry.group}"


def _signs_of_life(scene: Scene, entry: Entry, settings: ReclaimSettings) -> Iterator[str]:
    """A VM that has told of itself since it was suspended was in use, and sleeps again by somebody else's will."""
    newest_s = scene.sighting.newest_s if scene.sighting is not None else None
    if newest_s is not None and newest_s > entry.since_s + settings.max_skew_s:
        yield f"it ran at {time_words(newest_s)}, after it was suspended"


def _signs_of_use(scene: Scene, entry: Entry, settings: ReclaimSettings) -> Iterator[str]:
    if (sighting := scene.sighting) is None:
        if scene.doubt is None:
            yield "no agent is known to run in it"
        return
    if sighting.verdict is not Verdict.IDLE:
        yield f"it is not idle: {sighting.verdict.value} ({sighting.cause})"
    if (use := in_use(sighting, settings)) is not None:
        yield use
    if sighting.boot is not None and entry.boot is None:
        yield "whether it started anew since it was marked is not known"
    elif sighting.boot is not None and sighting.boot != entry.boot:
        yield "it started anew since it was marked"
