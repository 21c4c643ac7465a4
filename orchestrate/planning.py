"""Looks at the world and makes a plan of it, with what such a look leaves behind in the records."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from orchestrate.control import Control
from orchestrate.groups import Approve
from orchestrate.guards import check_plan
from orchestrate.hotspots.host_loads import Loads
from orchestrate.hotspots.relief import HotHost
from orchestrate.inventory import VmRef
from orchestrate.moves import plan_moves, promise_room
from orchestrate.plan import Plan, PlanKind
from orchestrate.reclaim import Reclaim, plan_reclaim
from orchestrate.records import Approval
from orchestrate.refusal import Refusal
from orchestrate.world import World

# A plan of everything that is due, whatever the batch is.
NO_END = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan of one kind, and what stands against applying it now beside that nobody has approved it.

    Args:
        reclaim: what else the look found; None for a plan that moves.
        hot: hosts, for one that moves.
        loads: by driver, for one that moves: the next look is handed them as `past`.
    """

    plan: Plan
    refusals: tuple[Refusal, ...] = ()
    reclaim: Reclaim | None = None
    hot: tuple[HotHost, ...] = ()
    loads: Mapping[str, Loads] = field(default_factory=dict)

    @property
    def stopped(self) -> tuple[Refusal, ...]:
        """Why the look is not to be believed."""
        return self.reclaim.stopped if self.reclaim is not None else ()


def plan_reclaiming(
    control: Control,
    world: World,
    *,
    made_by: str,
    top: int | None = None,
    only: Collection[VmRef] | None = None,
    approve: Approve | None = None,
) -> Planned:
    """Makes the plan and keeps it, drops VMs from the ladder that came into use, and remembers the verdicts seen.

    Nothing is asked of any hypervisor. A plan without steps is not kept.

    Args: as for `orchestrate.reclaim.plan_reclaim`.
    """
    settings, records = control.config.reclaim, control.records
    sha256 = control.config.settings_sha256
    made = plan_reclaim(
        world,
        settings,
        made_by=made_by,
        settings_sha256=sha256,
        top=top,
        only=only,
        approve=approve,
        evidence=control.sources.evidence,
    )
    for drop in made.drops:
        records.drop_entry(drop.ref, by=made_by, now_s=world.now_s, words=drop.words)
    if made.seen is not None:
        records.put_seen(made.seen)
    if not made.plan.steps:
        return Planned(plan=made.plan, reclaim=made, refusals=made.stopped)
    records.add_plan(made.plan)
    return Planned(plan=made.plan, reclaim=made, refusals=_against(control, world, made.plan))


def plan_moving(
    control: Control, world: World, kind: PlanKind, *, made_by: str, past: Mapping[str, Loads] | None = None
) -> Planned:
    """Makes a plan that moves VMs, keeps it and promises the room it needs. A plan without steps is not kept.

    Args:
        kind: RELIEF or CONSOLIDATE.
        world: with the last minutes of every VM.
        past: `loads` of the look before, where there was one.
    """
    made = plan_moves(control.sources, world, kind, made_by=made_by, past=past)
    if not made.plan.steps:
        return Planned(plan=made.plan, hot=made.hot, loads=made.loads)
    control.records.add_plan(made.plan)
    refusals = _against(control, world, made.plan)
    if not refusals:
        refusals = promise_room(control.sources, world, made.plan, by=made_by)
    return Planned(plan=made.plan, hot=made.hot, loads=made.loads, refusals=refusals)


def _against(control: Control, world: World, plan: Plan) -> tuple[Refusal, ...]:
    """As if somebody had said yes: what else stands against it?"""
    config = control.config
    yes = (Approval(plan_sha256=plan.sha256, by=plan.made_by, at_s=world.now_s),)
    return check_plan(plan, world, config.reclaim, settings_sha256=config.settings_sha256, approvals=yes)
