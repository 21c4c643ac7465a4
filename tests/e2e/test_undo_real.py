"""Undoing on real hypervisors, after a sleep so long that the guest's clock shows it."""

from __future__ import annotations

import time

import pytest

from aggregator.summary import SKEW_LIMIT_S
from tests.e2e.cloud import Cloud
from tests.e2e.story import NAPPER, SLEEPER, Notices, Slept, state, wake
from tests.rig.shell import wait_for

pytestmark = pytest.mark.real


def test_an_undone_guest_goes_on_where_it_was_with_a_clock_that_stood_still(
    cloud: Cloud, pages: str, told: Notices, slept: Slept
) -> None:
    """Same boot, uptime without its sleep, samples again; its clock's lag is seen, and no verdict rests on it."""
    guest = cloud.guests[SLEEPER]
    # Its owner may have had the other one back before; that one is not undone, which somebody should know.
    wake(pages, told, NAPPER)
    least_s = SKEW_LIMIT_S + 5
    wait_for(lambda: time.monotonic() - slept.at_s > least_s, "a long sleep", within_s=2 * least_s)
    before_ts = cloud.newest_ts(guest)
    undone = cloud.read("undo", slept.run["run_id"], "--by", "ann", code=1)
    assert [(each["step"]["verb"], each["step"]["name"], each["outcome"]) for each in undone["actions"]] == [
        ("resume", SLEEPER, "done")
    ]
    assert state(cloud, SLEEPER) == "running, saved: no"
    cloud.wait_for_samples(guest, 2, after_ts=before_ts)
    assert len(guest.boots()) == 1
    up_s = guest.uptime_s()
    assert up_s is not None
    # It was up for some time before it was suspended and since it was resumed, and not for most of its sleep.
    assert 0 < up_s - slept.up_s[SLEEPER] < time.monotonic() - slept.asked_s - least_s / 2
    seen = cloud.live(guest)
    assert seen["skew_s"] > SKEW_LIMIT_S
    assert seen["flags"] == ["clock_skew"]
    cloud.aggregator.flush()
    verdict = cloud.verdict(guest)
    assert (verdict["verdict"], verdict["cause"]) == ("insufficient data", "clock_skew"), verdict
    assert not cloud.read("plan", "--vm", SLEEPER)["plan"]["steps"]
    assert "as written" in cloud.ok("audit", "verify")
