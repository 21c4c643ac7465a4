"""Is it the VMs that changed, or what watches them? When too many change at once, the whole run stops. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrate.driver import Verb
from orchestrate.groups import ReclaimSettings
from orchestrate.inventory import VmState
from orchestrate.records import Outcome, Rung, Seen
from orchestrate.refusal import Refusal, Rule
from orchestrate.world import World
from reports.words import count_words, number

# A VM that was not heard of for longer fell silent before, and a verdict that is older is no comparison.
MEMORY_S = 86_400.0
# What changes within this time changes at once, however often somebody looks meanwhile.
AT_ONCE_S = 1_800.0
_OURS = frozenset({Verb.SUSPEND, Verb.STOP})
_WAKE = frozenset({Verb.RESUME, Verb.START})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What a look at the fleet says of its own worth.

    Args:
        refusals: why nothing may be done; empty: there is no outage.
        seen: the verdicts to compare the next look with; None: this look is not to be believed.
    """

    refusals: tuple[Refusal, ...]
    seen: Mapping[str, Seen] | None


def look(world: World, settings: ReclaimSettings) -> Outage:
    """Compares the fleet with what it was within the last day.

    VMs that this controller itself put to sleep are left out of every count: that they are silent is its own doing.
    """
    words = tuple(_problems(world, settings))
    if words:
        return Outage(refusals=tuple(Refusal(rule=Rule.IN_OUTAGE, words=each) for each in words), seen=None)
    seen = {
        vm_id: _remembered(world.seen.get(vm_id), Seen(verdict=one.verdict, seen_s=world.now_s))
        for vm_id, one in world.fleet.sightings.items()
    }
    return Outage(refusals=(), seen=seen)


def _remembered(before: Seen | None, now: Seen) -> Seen:
    """A verdict that has just changed is compared with the one before for a while: looks that follow each other closely
    would each see a few that changed, and none would see them all.
    """
    if before is None or before.verdict is now.verdict or not 0 <= now.seen_s - before.seen_s < AT_ONCE_S:
        return now
    return before


def _problems(world: World, settings: ReclaimSettings) -> Iterator[str]:
    if not world.fleet.live:
        yield f"the aggregator tells no newest samples: {world.fleet.problem or 'it did not answer'}"
        return
    asleep = _put_to_sleep(world, settings)
    newest = {
        vm_id: one.newest_s
        for vm_id, one in world.fleet.sightings.items()
        if one.newest_s is not None and vm_id not in asleep
    }
    # A sample from after now is no fresh one either: this machine's clock may have gone back.
    reporting = {vm_id: at_s for vm_id, at_s in newest.items() if world.now_s - at_s <= MEMORY_S}
    silent = [
        vm_id
        for vm_id, at_s in reporting.items()
        if vm_id in world.fleet.unheard or not -settings.max_skew_s <= world.now_s - at_s < settings.fresh_s
    ]
    if world.fleet.sightings and not reporting:
        # Where all VMs sleep, nothing would show that this clock has jumped over somebody's grace.
        yield f"none of {count_words(len(world.fleet.sightings), 'VM')} has reported within a day"
    why = "" if world.fleet.problem is None else f" ({world.fleet.problem})"
    yield from _too_many(len(silent), len(reporting), f"that were reporting are silent now{why}", settings)
    known = {vm_id: one for vm_id, one in world.seen.items() if abs(world.now_s - one.seen_s) <= MEMORY_S}
    compared = {vm_id: one.verdict for vm_id, one in known.items() if vm_id not in asleep}
    changed = [
        vm_id
        for vm_id, verdict in compared.items()
        if (sighting := world.fleet.sightings.get(vm_id)) is None or sighting.verdict is not verdict
    ]
    yield from _too_many(len(changed), len(compared), "have another verdict than at the last look", settings)


def _too_many(count: int, of: int, what: str, settings: ReclaimSettings) -> Iterator[str]:
    if of and count / of > settings.outage_ratio:
        share, limit = number(count / of, "ratio", beside=settings.outage_ratio), number(settings.outage_ratio, "ratio")
        yield f"{count:,} of {of:,} VMs {what}: {share}, and more than {limit} at once is an outage of monitoring"


def _put_to_sleep(world: World, settings: ReclaimSettings) -> frozenset[str]:
    """Agents whose VM is off or suspended by its hypervisor's word and our records, or was until just now."""
    refs = {ref for ref, entry in world.entries.items() if entry.rung in {Rung.SUSPEND, Rung.STOP}}
    done = [action for action in world.actions if action.outcome is Outcome.DONE]
    refs |= {action.step.ref for action in done if action.step.verb in _OURS}
    # Woken a moment ago, as before a stop: its agent has had no time to tell of itself.
    woken = {
        action.step.ref
        for action in done
        if action.step.verb in _WAKE and abs(world.now_s - action.begun_s) < settings.fresh_s
    }
    return frozenset(
        found.vm_id
        for ref in refs | woken
        if (found := world.matches.by_ref.get(ref)) is not None
        and (ref in woken or world.vms[ref].state in {VmState.SUSPENDED, VmState.OFF})
    )
