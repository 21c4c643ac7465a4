"""Plans that move VMs: what they rest on now, and the room on their targets, promised and asked for again.

A plan's room is promised when it is made; applying it renews the promise or is refused, and each migration looks once
more, since what else was begun meanwhile may have taken the room.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrate.hotspots.host_loads import Loads
from orchestrate.hotspots.hosts import Site, busy_cores
from orchestrate.hotspots.ledger import Ledger, StaleSite, hold_id_of
from orchestrate.hotspots.relief import Counted, Relief, plan_relief, sites_of, why_no_room
from orchestrate.plan import Plan, PlanKind, Step
from orchestrate.records import Hold
from orchestrate.refusal import Refusal, Rule
from orchestrate.sources import Sources
from orchestrate.world import World

MOVES = frozenset({PlanKind.RELIEF, PlanKind.CONSOLIDATE})


def sites_now(sources: Sources, world: World, holds: Sequence[Hold]) -> tuple[Site, ...]:
    """Hosts with their loads. Args: world: with the last minutes of every VM. holds: what is promised on them."""
    return sites_of(world, sources.config.hotspots.hosts, counted=counted(sources), holds=holds)


def counted(sources: Sources) -> Mapping[str, Counted]:
    """What the drivers' newest counters say of hosts, by driver; asks nobody."""
    found = {}
    for name in sources.sites.drivers:
        readings = sources.sites.readings(name)
        if readings is not None:
            before, after = readings
            hosts = {} if before is None else before.hosts
            cores = ((each, busy_cores(hosts[each], one)) for each, one in after.hosts.items() if each in hosts)
            busy = {host_id: value for host_id, value in cores if value is not None}
            found[name] = Counted(counters=after, host_cores=busy)
    return found


def plan_moves(
    sources: Sources, world: World, kind: PlanKind, *, made_by: str, past: Mapping[str, Loads] | None = None
) -> Relief:
    """Finds hot hosts and plans moves off them, or off hosts that can be emptied. Keeps and promises nothing.

    Args:
        world: with the last minutes of every VM.
        past: what the look before found, by driver: of VMs without an agent nothing else tells of earlier minutes.
    """
    config = sources.config
    return plan_relief(
        world,
        config.hotspots,
        config.reclaim,
        made_by=made_by,
        settings_sha256=config.settings_sha256,
        counted=counted(sources),
        holds=_ledger(sources, made_by).counting(),
        past=past,
        kind=kind,
    )


def promise_room(sources: Sources, world: World, plan: Plan, *, by: str) -> tuple[Refusal, ...]:
    """Promises room on every target, or renews that; why there is none any more."""
    sites = {site.driver: site for site in sites_now(sources, world, ())}
    try:
        words = _ledger(sources, by).promise_plan(plan, sites, life_s=sources.config.hotspots.life_s)
    except StaleSite as error:
        words = str(error)
    return () if words is None else (Refusal(rule=Rule.OVER_LIMIT, words=words),)


def no_room(sources: Sources, world: World, plan: Plan, step: Step, *, by: str) -> Iterator[Refusal]:
    """What the target of one migration lacks now. Args: world: of this moment."""
    own = hold_id_of(plan, step)
    holds = [hold for hold in _ledger(sources, by).counting() if hold.hold_id != own]
    for site in sites_now(sources, world, holds):
        if site.driver == step.ref.driver:
            words = why_no_room(step, site, sources.config.hotspots.planning, plan=plan)
            if words is not None:
                yield Refusal(rule=Rule.OVER_LIMIT, words=words, ref=step.ref)


def release_room(sources: Sources, plan: Plan, *, by: str) -> None:
    """The plan has run: what it moved shows in inventories, and what it did not needs no room."""
    ledger = _ledger(sources, by)
    for step in plan.steps:
        ledger.release(hold_id_of(plan, step))


def _ledger(sources: Sources, by: str) -> Ledger:
    return Ledger(sources.records, by=by, clock=sources.clock)
