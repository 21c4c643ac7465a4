"""`python -m bench relief`: every planner's time and moves, and bars only for the promised sizes."""

from __future__ import annotations

import io
import json

from bench.__main__ import main
from bench.relief import make_fleet
from orchestrate.hotspots.planners.registry import PLANNERS


def test_every_planner_is_measured() -> None:
    """A small fleet: each planner has its row, most make moves, and there are no bars for a size of one's own."""
    out = io.StringIO()
    assert main(["relief", "--vms", "100", "--hot", "0.2", "--json"], out=out, err=io.StringIO()) == 0
    found = json.loads(out.getvalue())
    assert [row["planner"] for row in found["plans"]] == list(PLANNERS)
    assert found["bars"] == []
    assert all(row["cpu_s"] > 0 for row in found["plans"])
    assert sum(row["moves"] > 0 for row in found["plans"]) >= 3


def test_fleets_repeat() -> None:
    """The same seed makes the same world."""
    one, other = (make_fleet(50, 5, hot_ratio=0.2, seed=3) for _ in range(2))
    assert one == other
    assert len({vm.host_id for vm in one.vms.values()}) == 5
