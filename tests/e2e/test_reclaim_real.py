"""The ladder on real hypervisors: owners are told, one keeps hers, one has hers back; nothing ever boots again."""

from __future__ import annotations

import json
import time

import pytest

from reports.deliver.webhook import verify
from tests.e2e.cloud import SECRET, Cloud
from tests.e2e.story import KEPT, NAPPER, OWNER, SLEEPER, TAGS, WHY_KEPT, Notices, Slept, follow, state, wake

pytestmark = pytest.mark.real


def test_agents_are_matched_to_vms_and_judged(cloud: Cloud) -> None:
    """By UUID, MAC and address agreeing; report and controller come to the same verdict."""
    told = {vm["name"]: vm for vm in cloud.read("inventory")["vms"]}
    for name, guest in cloud.guests.items():
        seen = told[name]
        assert (seen["agent"], seen["matched_by"], seen["verdict"]) == (guest.uuid, "uuid", "idle")
        assert (seen["owner"], seen["tags"], seen["state"], seen["doubt"]) == (OWNER, list(TAGS), "running", None)
        assert "mac" in seen["agrees"]
        assert cloud.verdict(guest)["verdict"] == "idle"


def test_owners_are_told_before_anything_is_taken(cloud: Cloud, told: Notices) -> None:
    """A signed notice for each guest, with the figures that its verdict rests on; all of them run on."""
    assert set(told) == set(cloud.guests)
    for request in cloud.hook.requests:
        assert verify(SECRET, request.headers, request.body, time.time(), tolerance_s=3600)
    for name, guest in cloud.guests.items():
        assert told[name]["vm"]["uuid"] == guest.uuid
        assert told[name]["figures"]
        assert guest.boots() == [cloud.rig.record(guest, aggregator=cloud.aggregator)["boot"]]


def test_idle_guests_are_suspended_with_their_memory(cloud: Cloud, slept: Slept) -> None:
    """Done by the run, as the hypervisor itself says."""
    outcomes = {action["step"]["name"]: action["outcome"] for action in slept.run["actions"]}
    assert outcomes == {SLEEPER: "done", NAPPER: "done"}, slept.run
    assert state(cloud, SLEEPER) == "shut off, saved: yes"


def test_a_guest_that_its_owner_keeps_is_left_alone(cloud: Cloud, slept: Slept) -> None:
    """Its owner followed the link: no plan has it, the report says why, and it runs."""
    assert KEPT not in {action["step"]["name"] for action in slept.run["actions"]}
    verdict = cloud.verdict(cloud.guests[KEPT])
    assert (verdict["verdict"], verdict["cause"]) == ("excluded", "exempt"), verdict
    assert WHY_KEPT in verdict["reason"]
    assert state(cloud, KEPT) == "running, saved: no"


def test_an_owner_has_a_guest_back_and_reads_how_long_it_took(
    cloud: Cloud, pages: str, told: Notices, slept: Slept
) -> None:
    """Looking at the link changes nothing; its form resumes the guest, and the time to its next sample is told."""
    guest = cloud.guests[NAPPER]
    assert "suspended" in follow(pages, told[NAPPER]["resume_url"])
    assert state(cloud, NAPPER) == "shut off, saved: yes"
    before_ts, began_s = cloud.newest_ts(guest), time.monotonic()
    back = wake(pages, told, NAPPER)
    assert back["state"] == "heard", back
    assert 0 < back["heard_after_s"] <= time.monotonic() - began_s
    assert cloud.newest_ts(guest) > before_ts
    assert len(guest.boots()) == 1
    assert (guest.uptime_s() or 0.0) > slept.up_s[NAPPER]


def test_every_step_is_in_the_audit_log(cloud: Cloud, slept: Slept) -> None:
    """Who did what to which guest, in a chain that holds; nothing is left open."""
    assert "as written" in cloud.ok("audit", "verify")
    entries = cloud.read("audit", "--limit", "500")["entries"]
    assert slept.run["run_id"] in json.dumps(entries)
    assert not cloud.read("status")["unsettled"]
