"""All planners that relieve hosts, by name."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrate.planners.fallow import FallowPlanner
from orchestrate.planners.power_aware import PowerAwarePlanner
from orchestrate.planners.sandpiper import SandpiperPlanner
from orchestrate.planners.situation import Planner
from orchestrate.planners.static_shares import StaticSharesPlanner

PLANNERS: Mapping[str, Planner] = {
    one.name: one
    for one in (
        FallowPlanner(),
        SandpiperPlanner(),
        StaticSharesPlanner(),
        PowerAwarePlanner(name="bfd-mmt"),
        PowerAwarePlanner(name="bfd-mc", by_correlation=True),
    )
}
