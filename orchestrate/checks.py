"""What the executor asks before a plan and before each of its steps: the guards, over a world read at that moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aggregator.admin_client import AdminUnavailable
from orchestrate import outage
from orchestrate.driver import Verb
from orchestrate.guards import check_plan, check_step
from orchestrate.inventory import Vm
from orchestrate.moves import MOVES, no_room, promise_room
from orchestrate.plan import Plan, Step
from orchestrate.refusal import Refusal, Rule
from orchestrate.sources import Sources
from orchestrate.step_rules import GIVES_BACK
from orchestrate.world import World


class FreshChecks:
    """The guards over fresh values. One object serves one run: its steps are checked beside the run's first look.

    Args: unattended: nobody asked for this very run, so that only groups that allow it are acted upon.
    """

    def __init__(self, sources: Sources, *, unattended: bool = False) -> None:
        self._sources = sources
        self._unattended = unattended
        self._world: World | None = None

    # Reading takes time: the clock is asked after it, and not before as the caller did.
    def of_plan(self, plan: Plan, *, now_s: float) -> Sequence[Refusal]:  # noqa: ARG002
        """Why nothing of the plan may be done; looks at everything."""
        sources, config = self._sources, self._sources.config
        # Nothing that agents could say stands against giving back.
        gives_back, moves = plan.kind in GIVES_BACK, plan.kind in MOVES
        world = sources.world_without_fleet() if gives_back else sources.world(all_minutes=moves)
        self._world = world
        refusals = check_plan(
            plan,
            world,
            config.reclaim,
            settings_sha256=config.settings_sha256,
            approvals=sources.records.approvals(plan.sha256),
            unattended=self._unattended,
        )
        # Room is promised only for what is otherwise allowed.
        return refusals or (promise_room(sources, world, plan, by=plan.made_by) if moves else ())

    def of_step(self, step: Step, plan: Plan, live: Vm | None, *, now_s: float) -> Sequence[Refusal]:  # noqa: ARG002
        """Why the step may not be done now; looks at its VM, and before each order at the fleet.

        Args: live: as its driver shows it just now.

        Raises: RuntimeError: `of_plan` was not asked before.
        """
        world, sources = self._world, self._sources
        if world is None:
            raise RuntimeError("a step is checked after its plan")
        try:
            if plan.kind not in GIVES_BACK and isinstance(step.verb, Verb):
                # A run takes minutes, and monitoring may fail meanwhile: then the rest of it is not to be done.
                self._world = world = sources.world(all_minutes=plan.kind in MOVES)
                if stopped := outage.look(world, sources.config.reclaim).refusals:
                    return stopped
            if plan.kind in GIVES_BACK:
                scene = sources.remembered(world.scene(step.ref))
                scene = scene if live is None else replace(scene, vm=live)
            else:
                scene = sources.scene(world, step.ref, live)
        except AdminUnavailable as error:
            return (Refusal(rule=Rule.IN_OUTAGE, words=error.reason, ref=step.ref),)
        refusals = check_step(step, plan, scene, sources.config.reclaim)
        if refusals or plan.kind not in MOVES:
            return refusals
        return tuple(no_room(sources, sources.again(world), plan, step, by=plan.made_by))
