"""All planners that relieve hosts, by name."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrate.hotspots.planners.fallow import FallowPlanner
from orchestrate.hotspots.planners.power_aware import PowerAwarePlanner
from orchestrate.hotspots.planners.sandpiper import SandpiperPlanner
from orchestrate.hotspots.planners.situation import Planner
from orchestrate.hotspots.planners.static_shares import StaticSharesPlanner

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
