"""The world → a plan that relieves hot hosts, or one that empties quiet ones. Pure.

A host that is hot only since VMs of which nothing is known count as busy is told of and left alone: nothing is moved
on doubt. Neither is a VM that moved a short while ago, nor one back to a host that it has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrate import clauses
from orchestrate.driver import Verb
from orchestrate.groups import ReclaimSettings
from orchestrate.hotspots.detectors import Detector, History, Hot, Sandpiper, look
from orchestrate.hotspots.host_loads import RESOURCES, Loads
from orchestrate.hotspots.hosts import HostSettings, Readings, Site, site_of
from orchestrate.hotspots.planners.fallow import FallowPlanner
from orchestrate.hotspots.planners.power_aware import Consolidation
from orchestrate.hotspots.planners.rooms import Rooms
from orchestrate.hotspots.planners.situation import Move, Planner, PlannerSettings, Proposal, Situation
from orchestrate.inventory import Counters, Inventory, VmRef, VmState
from orchestrate.limits import HOUR_S, counts
from orchestrate.plan import INVERSE, Expected, Plan, PlanKind, Step, renumbered
from orchestrate.records import Action, Hold, Outcome
from orchestrate.sighting import Figure
from orchestrate.world import World
from reports.words import count_words, duration_words, listed_words, number


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliefSettings:
    """How hot hosts are found and relieved.

    Args:
        life_s: a plan is not applied later than that: what was hot then may be cool now.
        cool_down_s: a VM that has moved stays for so long.
        no_return_s: it does not go back for so long to where it was; a day at most.
    """

    detector: Detector = field(default_factory=Sandpiper)
    planner: Planner = field(default_factory=FallowPlanner)
    planning: PlannerSettings = field(default_factory=PlannerSettings)
    hosts: HostSettings = field(default_factory=HostSettings)
    life_s: float = 3600.0
    cool_down_s: float = 3600.0
    no_return_s: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one driver counts of its hosts beside `World.outside`. Args: host_cores: busy cores, by host id."""

    counters: Counters | None = None
    host_cores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HotHost:
    """A hot host. Args: sure: it is hot even without the VMs of which nothing is known."""

    driver: str
    host_id: str
    figure: str
    value_ratio: float
    limit_ratio: float
    words: str
    sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """A plan, maybe without steps, and what it rests on.

    Args: loads: by driver; the next look is handed them as `past`.
    """

    plan: Plan
    hot: tuple[HotHost, ...]
    loads: Mapping[str, Loads]


def sites_of(
    world: World,
    settings: HostSettings,
    *,
    counted: Mapping[str, Counted] | None = None,
    holds: Iterable[Hold] = (),
    past: Mapping[str, Loads] | None = None,
) -> tuple[Site, ...]:
    """All drivers' sites, by name. Args: counted, past: by driver."""
    made, held = [], tuple(holds)
    for inventory in sorted(world.inventories, key=lambda one: one.driver):
        readings = _readings(world, inventory, (counted or {}).get(inventory.driver, Counted()))
        before = (past or {}).get(inventory.driver)
        made.append(site_of(inventory, readings, settings, now_s=world.now_s, holds=held, past=before))
    return tuple(made)


def plan_relief(
    world: World,
    settings: ReliefSettings,
    rules: ReclaimSettings,
    *,
    made_by: str,
    settings_sha256: str,
    counted: Mapping[str, Counted] | None = None,
    holds: Iterable[Hold] = (),
    past: Mapping[str, Loads] | None = None,
    kind: PlanKind = PlanKind.RELIEF,
) -> Relief:
    """Finds hot hosts and plans moves off them; of the kind CONSOLIDATE moves off hosts that can be emptied.

    Args:
        world: with the last minutes of every VM. rules: what may be moved, and how much at once.
        counted, past: by driver. holds: of `Records.holds`.
    """
    steps: list[Step] = []
    notes: list[str] = []
    hot: list[HotHost] = []
    sites = sites_of(world, settings.hosts, counted=counted, holds=holds, past=past)
    for site in sites:
        sure, doubted = find_hot(site, settings.detector)
        hot += [_told(site, one, sure=True) for one in sure] + [_told(site, one, sure=False) for one in doubted]
        notes += _doubts(site, doubted)
        if not sure and kind is PlanKind.RELIEF:
            continue
        problem = _cannot_move(world, site.driver)
        if problem is not None:
            notes.append(problem)
            continue
        situation = _situation(world, site, sure + doubted, settings, rules, len(steps))
        situation = replace(situation, hot=sure if kind is PlanKind.RELIEF else situation.hot)
        planner = settings.planner if kind is PlanKind.RELIEF else Consolidation()
        proposal = planner.plan(situation)
        steps += [_step(world, situation, move) for move in proposal.moves]
        notes += _unsolved(site, proposal)
    plan = Plan(
        kind=kind,
        made_s=world.now_s,
        expires_s=world.now_s + settings.life_s,
        made_by=made_by,
        settings_sha256=settings_sha256,
        steps=renumbered(tuple(steps)),
        notes=tuple(notes),
    )
    return Relief(plan=plan, hot=tuple(hot), loads={site.driver: site.loads for site in sites})


def find_hot(site: Site, detector: Detector) -> tuple[tuple[Hot, ...], tuple[Hot, ...]]:
    """What is hot by what was measured; and what is only where VMs of which nothing is known count as busy."""
    found = look(detector, History(resources=RESOURCES, ratio=site.loads.used_ratio))
    if not found or not site.unknown.any():
        return found, ()
    measured = look(detector, History(resources=RESOURCES, ratio=site.loads.measured_ratio))
    known = {(one.row, one.figure) for one in measured}
    sure = tuple(one for one in found if (one.row, one.figure) in known)
    return sure, tuple(one for one in found if (one.row, one.figure) not in known)


def why_no_room(step: Step, site: Site, settings: PlannerSettings, *, plan: Plan | None = None) -> str | None:
    """Just before a migration: what its target lacks now, in words; None where there is room.

    Args:
        site: of now, without the hold that was made for this very step.
        plan: that the step is of. A host that the VM only passes through may be filled whole for that time.
    """
    vm = next((row for row, one in enumerate(site.vms) if one.ref == step.ref), None)
    target = next((row for row, one in enumerate(site.hosts) if one.host_id == step.target_host_id), None)
    if vm is None or target is None:
        return f"{step.name if vm is None else step.target_host_id} is not there now"
    passes = plan is not None and any(
        one.ref == step.ref and one.number > step.number and one.expected.host_id == step.target_host_id
        for one in plan.steps
    )
    rooms = Rooms(site, (1.0 if passes else settings.use_ratio) * site.capacity)
    return rooms.why_not(target, site.need[vm], float(site.vcpus[vm]), float(site.mem_bytes[vm]))


def _readings(world: World, inventory: Inventory, counted: Counted) -> Readings:
    minutes = {}
    for vm in inventory.vms:
        match = world.matches.by_ref.get(vm.ref)
        if match is not None and match.doubt is None and vm.ref not in world.matches.doubts:
            sighting = world.fleet.sightings.get(match.vm_id)
            if sighting is not None and sighting.minutes:
                minutes[vm.ref] = sighting.minutes
    return Readings(minutes=minutes, outside=world.outside, counters=counted.counters, host_cores=counted.host_cores)


def _situation(
    world: World, site: Site, hot: tuple[Hot, ...], settings: ReliefSettings, rules: ReclaimSettings, planned: int
) -> Situation:
    moves = [action for action in world.actions if action.step.ref.driver == site.driver and _moved(action)]
    lately: dict[VmRef, float] = {}
    rows = {host.host_id: row for row, host in enumerate(site.hosts)}
    left: dict[VmRef, set[int]] = {}
    for action in moves:
        lately[action.step.ref] = max(action.begun_s, lately.get(action.step.ref, action.begun_s))
        source = rows.get(action.step.expected.host_id)
        if source is not None and world.now_s - action.begun_s < settings.no_return_s:
            left.setdefault(action.step.ref, set()).add(source)
    places = {vm.ref: row for row, vm in enumerate(site.vms)} if left else {}
    known: dict[int, str | None] = {}

    def why_fixed(vm: int) -> str | None:
        if vm not in known:
            known[vm] = _why_fixed(world, site, vm, settings, rules, lately)
        return known[vm]

    return Situation(
        site=site,
        hot=hot,
        settings=_within(settings.planning, world, rules, planned),
        why_fixed=why_fixed,
        barred={places[ref]: frozenset(found) for ref, found in left.items() if ref in places},
    )


def _within(planning: PlannerSettings, world: World, rules: ReclaimSettings, planned: int) -> PlannerSettings:
    """No plan is made larger than limits let pass. Over those of one host or owner it is refused whole, as any is."""
    done = sum(counts(action) and action.begun_s > world.now_s - HOUR_S for action in world.actions)
    most = max(min(rules.limits.run, rules.limits.hour - done) - planned, 0)
    of_host = rules.limits.host
    return replace(
        planning,
        max_moves=most if planning.max_moves is None else min(most, planning.max_moves),
        max_per_host=of_host if planning.max_per_host is None else min(of_host, planning.max_per_host),
    )


def _moved(action: Action) -> bool:
    """It has moved, or may have."""
    verb = action.step.verb
    return isinstance(verb, Verb) and verb.is_migration and action.outcome not in {Outcome.FAILED, Outcome.SKIPPED}


def _why_fixed(
    world: World, site: Site, row: int, settings: ReliefSettings, rules: ReclaimSettings, lately: Mapping[VmRef, float]
) -> str | None:
    vm = site.vms[row]
    if vm.state is not VmState.RUNNING:
        return f"{vm.state}, not running"
    if not site.known[row]:
        return "of unknown use"
    at_s = lately.get(vm.ref)
    if at_s is not None and world.now_s - at_s < settings.cool_down_s:
        return f"moved within {duration_words(settings.cool_down_s)}"
    scene = world.scene(vm.ref)
    if scene.doubt is not None:
        return scene.doubt
    if scene.unsettled is not None:
        return "with an action that is not settled"
    refusals = (*clauses.pinned(scene, rules), *clauses.stale_figures(scene, rules))
    return refusals[0].words if refusals else None


def _cannot_move(world: World, driver: str) -> str | None:
    can = world.capabilities.get(driver)
    if can is None or Verb.MIGRATE_LIVE not in can.verbs:
        return f"{driver}: its driver cannot move running VMs"
    return None


def _step(world: World, situation: Situation, move: Move) -> Step:
    site = situation.site
    vm = site.vms[move.vm]
    scene = world.scene(vm.ref)
    source, target = site.hosts[move.source], site.hosts[move.target]
    heat = [
        Figure(
            rule=f"{source.host_id} {one.figure}",
            value=number(one.value_ratio, "ratio", beside=one.limit_ratio),
            limit=number(one.limit_ratio, "ratio"),
            holds=False,
        )
        for one in situation.hot
        if one.row == move.source
    ]
    took = Figure(rule="transfer", value=duration_words(move.transfer_s), limit="", holds=None)
    return Step(
        number=1,
        verb=Verb.MIGRATE_LIVE,
        ref=vm.ref,
        name=scene.name,
        vm_id=scene.match.vm_id if scene.match is not None else None,
        owner=scene.owner,
        mail=scene.mail,
        expected=Expected(
            state=VmState.RUNNING,
            host_id=source.host_id,
            boot=scene.sighting.boot if scene.sighting is not None else None,
        ),
        target_host_id=target.host_id,
        inverse=INVERSE[Verb.MIGRATE_LIVE],
        reason=move.words,
        figures=(*heat, took),
    )


def _unsolved(site: Site, proposal: Proposal) -> list[str]:
    return [
        f"{site.driver if one.row is None else site.hosts[one.row].host_id}: {one.words}" for one in proposal.unsolved
    ]


def _told(site: Site, one: Hot, *, sure: bool) -> HotHost:
    return HotHost(
        driver=site.driver,
        host_id=site.hosts[one.row].host_id,
        figure=one.figure,
        value_ratio=one.value_ratio,
        limit_ratio=one.limit_ratio,
        words=one.words,
        sure=sure,
    )


def _doubts(site: Site, doubted: Iterable[Hot]) -> list[str]:
    figures: dict[int, list[str]] = {}
    for one in doubted:
        figures.setdefault(one.row, []).append(one.figure)
    return [
        f"{site.hosts[row].host_id}: hot on {listed_words(names)} only if"
        f" {count_words(int(site.unknown[row]), 'VM')} of unknown use would use all that may be used:"
        " nothing is moved on doubt"
        for row, names in figures.items()
    ]
