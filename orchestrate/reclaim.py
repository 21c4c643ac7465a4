"""A world → the plan that takes every idle VM one rung further, and why the others are left as they are. Pure.

A plan is made of what stands in the world and the evidence of what is in it alone, and the same of both makes the same
plan, with the same hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrate import ladder, outage
from orchestrate.driver import Verb
from orchestrate.groups import Approve, Group, ReclaimSettings, group_of
from orchestrate.guards import why_left_out
from orchestrate.inventory import VmRef, VmState
from orchestrate.plan import INVERSE, LIFE_S, Expected, Mark, Plan, PlanKind, Step, renumbered
from orchestrate.records import Entry, Rung, Seen
from orchestrate.refusal import Refusal, Rule
from orchestrate.sighting import Sighting
from orchestrate.world import Scene, World
from reports.verdicts import Verdict
from reports.words import count_words, time_words

Evidence = Callable[[Collection[Sighting]], Mapping[str, Sighting]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An idle VM that the plan does not touch, and every reason. Args: ref: None: no VM is known for its agent."""

    vm_id: str
    name: str
    ref: VmRef | None
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A VM whose grace is not over. Args: next_verb: what is due at `due_s`."""

    ref: VmRef
    name: str
    next_verb: Verb | Mark
    due_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A VM that comes off the ladder. Its next climb begins with a new mark and a new notice."""

    ref: VmRef
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaim:
    """What a look at the world leads to.

    Args:
        plan: without steps where nothing is due, or where the look was stopped.
        stopped: why nothing of this look is believed: nothing is dropped either.
        later: due and allowed, and beyond `batch` or `top`.
        drops: to be made whether the plan is applied or not.
        seen: to be kept for the next look; None: the old one holds.
    """

    plan: Plan
    stopped: tuple[Refusal, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    later: tuple[VmRef, ...] = ()
    drops: tuple[Drop, ...] = ()
    seen: Mapping[str, Seen] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A VM of which something is due. Args: verbs: in this order."""

    scene: Scene
    sighting: Sighting
    expected: Expected
    group: Group
    verbs: tuple[Verb | Mark, ...]

    @property
    def is_harmless(self) -> bool:
        """Nothing of it reaches a hypervisor."""
        return all(isinstance(verb, Mark) for verb in self.verbs)

    @property
    def rank(self) -> tuple[float, VmRef]:
        """The best first."""
        return (-self.sighting.score, self.scene.ref)


def plan_reclaim(
    world: World,
    settings: ReclaimSettings,
    *,
    made_by: str,
    settings_sha256: str,
    top: int | None = None,
    only: Collection[VmRef] | None = None,
    approve: Approve | None = None,
    evidence: Evidence | None = None,
) -> Reclaim:
    """One rung for every VM that is idle, allowed and due; marks and notices first, each the best-ranked first.

    A plan that exceeds a limit is made all the same: `guards.check_plan` refuses it whole.

    Args:
        top: instead of `settings.batch`. only: these VMs and no others. approve: only of groups that ask for this.
        evidence: VMs of the plan → the same with what their verdicts rest on; None: the world has that already.
    """
    seen = outage.look(world, settings)
    if seen.refusals:
        notes = tuple(f"stopped: {one.words}" for one in seen.refusals)
        plan = _plan(world, (), notes, made_by=made_by, settings_sha256=settings_sha256)
        return Reclaim(plan=plan, stopped=seen.refusals)
    drops = tuple(_drops(world, settings))
    dropped = {drop.ref for drop in drops}
    candidates: list[_Candidate] = []
    left_out: list[LeftOut] = []
    waiting: list[Waiting] = []
    for scene, sighting in _climbers(world, only):
        if scene.ref in dropped:
            continue
        group = _group(scene, settings)
        if approve is not None and (group is None or group.approve is not approve):
            continue
        found = _look(scene, sighting, group, settings)
        if isinstance(found, LeftOut):
            left_out.append(found)
        elif isinstance(found, Waiting):
            waiting.append(found)
        elif found is not None:
            candidates.append(found)
    left_out += _unmatched(world) if only is None and approve is None else ()
    chosen, later = _choose(candidates, settings.batch if top is None else top)
    chosen = chosen if evidence is None else _with_evidence(chosen, evidence)
    steps = renumbered(tuple(step for one in chosen for step in _steps(one)))
    notes = tuple(_notes(left_out, waiting, later, drops))
    return Reclaim(
        plan=_plan(world, steps, notes, made_by=made_by, settings_sha256=settings_sha256),
        left_out=tuple(left_out),
        waiting=tuple(waiting),
        later=later,
        drops=drops,
        seen=seen.seen,
    )


def _plan(world: World, steps: tuple[Step, ...], notes: tuple[str, ...], *, made_by: str, settings_sha256: str) -> Plan:
    return Plan(
        kind=PlanKind.RECLAIM,
        made_s=world.now_s,
        expires_s=world.now_s + LIFE_S,
        made_by=made_by,
        settings_sha256=settings_sha256,
        steps=steps,
        notes=notes,
    )


def _drops(world: World, settings: ReclaimSettings) -> Iterator[Drop]:
    for ref in sorted(world.entries):
        scene = world.scene(ref)
        if (words := ladder.drop_words(scene, _group(scene, settings), settings)) is not None:
            yield Drop(ref=ref, words=words)


def _group(scene: Scene, settings: ReclaimSettings) -> Group | None:
    if scene.vm is None or scene.sighting is None:
        return None
    return group_of(scene.vm, scene.sighting, settings.groups)


def _climbers(world: World, only: Collection[VmRef] | None) -> Iterator[tuple[Scene, Sighting]]:
    """VMs that are idle, and those that sleep on the ladder, of which no agent can say so."""
    for ref, match in sorted(world.matches.by_ref.items()):
        sighting, entry = world.fleet.sightings[match.vm_id], world.entries.get(ref)
        sleeps = entry is not None and entry.rung is Rung.SUSPEND
        if (sighting.verdict is Verdict.IDLE or sleeps) and (only is None or ref in only):
            yield world.scene(ref), sighting


def _look(
    scene: Scene, sighting: Sighting, group: Group | None, settings: ReclaimSettings
) -> _Candidate | LeftOut | Waiting | None:
    """What is to be done with one VM; None: it has come as far as it may."""
    verbs = ladder.due(scene.entry, group, now_s=scene.now_s) if group is not None else ()
    if not verbs and group is not None and scene.entry is not None:
        return _waiting(scene, scene.entry, group)
    refusals = why_left_out(scene, group, settings, verbs)
    if scene.vm is None or group is None or refusals:
        return LeftOut(vm_id=sighting.vm_id, name=scene.name, ref=scene.ref, refusals=refusals)
    boot = sighting.boot if scene.vm.state is VmState.RUNNING else None
    expected = Expected(state=scene.vm.state, host_id=scene.vm.host_id, boot=boot)
    return _Candidate(scene=scene, sighting=sighting, expected=expected, group=group, verbs=verbs)


def _waiting(scene: Scene, entry: Entry, group: Group) -> Waiting | None:
    due_s = ladder.due_s(entry, group)
    later = ladder.due(entry, group, now_s=due_s) if due_s is not None else ()
    if due_s is None or not later:
        return None
    return Waiting(ref=scene.ref, name=scene.name, next_verb=later[-1], due_s=due_s)


def _unmatched(world: World) -> Iterator[LeftOut]:
    """Idle VMs whose agent stands alone."""
    doubts = {ref.uuid: (ref, words) for ref, words in sorted(world.matches.doubts.items(), reverse=True)}
    for vm_id, sighting in sorted(world.fleet.sightings.items()):
        if sighting.verdict is not Verdict.IDLE or vm_id in world.matches.by_vm_id:
            continue
        ref, words = doubts.get(vm_id.lower(), (None, "no hypervisor shows a VM that its agent runs in"))
        refusal = Refusal(rule=Rule.ON_DOUBT, words=words, ref=ref)
        yield LeftOut(vm_id=vm_id, name=sighting.name or vm_id, ref=ref, refusals=(refusal,))


def _choose(candidates: Iterable[_Candidate], most: int | None) -> tuple[Sequence[_Candidate], tuple[VmRef, ...]]:
    """What comes into the plan, in its order, and who has to wait for the next.

    What reaches no hypervisor comes first: if a later step ends the run, the notices are out.
    """
    ranked = sorted(candidates, key=lambda one: one.rank)
    harmless = [one for one in ranked if one.is_harmless]
    taking = [one for one in ranked if not one.is_harmless]
    later = [*harmless[most:], *taking[most:]] if most is not None else []
    return [*harmless[:most], *taking[:most]], tuple(one.scene.ref for one in later)


def _with_evidence(chosen: Sequence[_Candidate], evidence: Evidence) -> Sequence[_Candidate]:
    """The same; a VM whose verdict changed just now is none of them any more: the next look tells of it."""
    told = evidence([one.sighting for one in chosen])
    found = (replace(one, sighting=told.get(one.sighting.vm_id, one.sighting)) for one in chosen)
    return [now for now, before in zip(found, chosen, strict=True) if now.sighting.verdict is before.sighting.verdict]


def _steps(one: _Candidate) -> Iterator[Step]:
    for verb in one.verbs:
        takes = verb is Verb.SUSPEND
        # It was suspended, and runs for as long as it takes to shut down.
        expected = Expected(state=VmState.RUNNING, host_id=one.expected.host_id) if verb is Verb.STOP else one.expected
        yield Step(
            number=0,
            verb=verb,
            ref=one.scene.ref,
            name=one.scene.name,
            vm_id=one.sighting.vm_id,
            owner=one.scene.owner,
            mail=one.scene.mail,
            expected=expected,
            inverse=INVERSE[verb],
            reason=_reason(verb, one),
            figures=one.sighting.figures,
            policy=one.sighting.policy,
            group=one.group.name,
            grace_s=ladder.grace_s(verb, one.group),
            freed_vcpus=one.sighting.freed_vcpus if takes else None,
            freed_mem_bytes=one.sighting.freed_mem_bytes if takes else None,
            money_per_month=one.sighting.money_per_month if takes else None,
        )


def _reason(verb: Verb | Mark, one: _Candidate) -> str:
    entry, sentence = one.scene.entry, one.sighting.sentence.rstrip(".")
    match verb:
        case Verb.SUSPEND if entry is not None and entry.notified_s is not None:
            return f"{sentence}; its owner was told at {time_words(entry.notified_s)} and did not object."
        case Verb.RESUME if entry is not None:
            return f"Suspended since {time_words(entry.since_s)}; woken only to be shut down in order."
        case Verb.STOP if entry is not None:
            return f"Suspended since {time_words(entry.since_s)}, and nobody asked for it."
        case _:
            return f"{sentence}."


def _notes(
    left_out: Sequence[LeftOut], waiting: Sequence[Waiting], later: Sequence[VmRef], drops: Sequence[Drop]
) -> Iterator[str]:
    for rule, count in counted(left_out).items():
        yield f"{count_words(count, 'idle VM')} left out: it never {rule}"
    if waiting:
        first = min(waiting, key=lambda one: (one.due_s, one.ref))
        yield f"{count_words(len(waiting), 'VM')} in grace: the first is due at {time_words(first.due_s)}"
    if later:
        yield f"{count_words(len(later), 'VM')} more due: a plan of their own comes later"
    if drops:
        yield f"{count_words(len(drops), 'VM')} taken off the ladder"


def counted(left_out: Iterable[LeftOut]) -> Mapping[Rule, int]:
    """How many VMs are left out by each rule; one that several rules keep counts under its first."""
    firsts = Counter(one.refusals[0].rule for one in left_out)
    return {rule: firsts[rule] for rule in Rule if firsts[rule]}
