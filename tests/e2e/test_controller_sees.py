"""The controller's eyes on the real aggregator: what was acknowledged is seen at once, flushed or not."""

from __future__ import annotations

import time

import pytest

from aggregator.admin_client import AdminClient
from aggregator.fleet_db import open_fleet_read_only
from orchestrate.fleet_source import Judging, read_fleet, read_sighting
from orchestrate.live_source import LiveSource
from reports.policies import DEFAULT_POLICY, POLICIES
from reports.verdicts import Settings, Verdict
from tests.e2e.house import SEVEN_DAYS_S, House

pytestmark = pytest.mark.real

JUDGING = Judging(settings=Settings(), policies=(POLICIES[DEFAULT_POLICY],), choose=lambda sighting: sighting.policy)


def test_the_newest_samples_are_seen_before_any_flush(house: House) -> None:
    """Each VM's minutes and newest sample come out of memory; without an aggregator the fleet is not live."""
    aggregator = house.aggregator()
    loads = house.loads(3)
    # The last minutes of the week that a load counts from.
    newest = SEVEN_DAYS_S // 60 - 1
    for load in loads:
        assert aggregator.push(load, range(newest - 3, newest + 1)).acknowledged
    door = AdminClient(f"http://{aggregator.doors.admin}", aggregator.data / "admin.token")
    live = LiveSource(door, clock=time.time)
    engine = open_fleet_read_only(None, aggregator.data)
    try:
        fleet = read_fleet(engine, live, JUDGING, clock=time.time, all_minutes=True)
        assert fleet.live, fleet.problem
        assert fleet.sightings.keys() == {load.vm for load in loads}
        for load in loads:
            sighting = fleet.sightings[load.vm]
            assert sighting.newest_s == load.ts(newest)
            assert [minute.ts_s for minute in sighting.minutes] == [load.ts(newest - ago) for ago in (3, 2, 1, 0)]
            # Too new to be judged, and so never idle.
            assert sighting.verdict is Verdict.INSUFFICIENT
            alone = read_sighting(engine, live, load.vm, JUDGING, now_s=time.time())
            assert alone is not None
            assert alone.minutes == sighting.minutes
        aggregator.kill()
        after = read_fleet(engine, live, JUDGING, clock=time.time)
        assert not after.live
        assert "does not run" in (after.problem or "")
    finally:
        engine.dispose()
