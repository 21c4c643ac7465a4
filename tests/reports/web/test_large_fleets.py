"""Fleets that are judged beforehand: what pages read, what they have done, and what they say meanwhile.

A small fleet counts as a large one here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from reports.compare_fleet import compare_fleet
from reports.compare_render import to_json
from reports.judging import store_verdicts
from reports.policies import POLICIES
from reports.tables import judging, verdict
from reports.web.judging_runs import JudgingRuns
from tests.reports.fleets import Spec, one_of_each
from tests.reports.web.house import House, pages
from tests.reports.web.test_pages import listed, text_of

BALANCED = POLICIES["fallow-balanced"]
SPECS = [*one_of_each(), *(Spec(vm_id=f"more-{n}", owner=f"owner-{n % 13}", tags=("host:h2",)) for n in range(20))]
JUDGED = ("/", "/vms", "/vms?verdict=all&sort=name", "/hosts", "/report.csv", "/report.json", "/report.html")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with pages(tmp_path, SPECS, on_the_spot_vms=5) as made:
        yield made


def judge_now(house: House, policy: str = BALANCED.name, days: int = 14) -> None:
    """What the process does that the server starts."""
    settings = replace(house.config.settings, window_days=days)
    store_verdicts(house.fleet.reader, house.fleet.writer, POLICIES[policy], settings, house.now_s)


@pytest.mark.parametrize("target", JUDGED)
def test_page_that_is_not_ready_asks_again(house: House, target: str) -> None:
    """The first time the fleet is judged a page says so, at once, and comes back by itself; then it is there."""
    got = house.browser.get(target)
    assert got.status == 202
    assert got.headers["refresh"] == got.headers["retry-after"]
    assert "being judged by fallow-balanced over 14 days" in text_of(got.text)
    house.browser.get(target)
    (task,) = house.tasks.asked
    wanted = ("judge", "--store", "--policy", "fallow-balanced", "--window", "14d", "--data", str(house.data_dir))
    assert task.arguments == wanted
    judge_now(house)
    house.tasks.end(now_s=house.now_s)
    assert house.browser.get(target).status == 200
    assert len(house.tasks.asked) == 1


def test_other_policy_is_judged_when_it_is_asked_for(house: House) -> None:
    """Verdicts by a policy that nobody asked for yet are made then, and kept."""
    judge_now(house)
    assert house.browser.get("/vms").status == 200
    assert house.browser.get("/vms?policy=classic&window=7d").status == 202
    assert house.tasks.asked[-1].arguments[2:6] == ("--policy", "classic", "--window", "7d")
    judge_now(house, "classic", 7)
    house.tasks.end(now_s=house.now_s)
    assert house.browser.get("/vms?policy=classic&window=7d").status == 200


def test_large_fleet_reads_as_a_small_one(house: House) -> None:
    """Stored verdicts and verdicts made for the page give the same numbers, lists and hosts."""
    judge_now(house)
    with pages(house.data_dir, None, on_the_spot_vms=100) as small:
        for target in (
            *("/v1/report?verdict=all&top=1000", "/v1/hosts", "/v1/report?search=more&sort=owner"),
            *("/v1/report?verdict=insufficient-data&sort=name", "/v1/report?owner=ann&order=reverse"),
        ):
            assert house.browser.get(target).json == small.browser.get(target).json
        for target in ("/", "/vms?verdict=all"):
            one, other = (text_of(each.browser.get(target).text) for each in (house, small))
            assert "are of the judging run" in one
            assert "Judged for this page" in other
            # From the line that tells them apart on, it is the same page.
            assert one.partition("are of the judging run of")[2] == other.partition("Judged for this page,")[2]


def test_old_verdicts_are_shown_and_made_anew(house: House) -> None:
    """Old verdicts are better than none: they are shown as such, and the fleet is judged again, once."""
    judge_now(house)
    house.now_s += house.config.serve.fresh_for_s + 1
    for _ in range(2):
        text = text_of(house.browser.get("/vms").text)
        assert "which is old" in text
        assert "the fleet is being judged anew" in text
    assert len(house.tasks.asked) == 1
    house.tasks.end(now_s=house.now_s)
    judge_now(house)
    assert "which is old" not in text_of(house.browser.get("/vms").text)


def test_failed_judging_is_told(house: House) -> None:
    """Why there are no verdicts is on the page; a minute later they are tried again."""
    house.browser.get("/vms")
    house.tasks.end(now_s=house.now_s, problem="fallow-report: no space left on device")
    for target in ("/vms", "/v1/report"):
        got = house.browser.get(target)
        assert got.status == 503
        assert "no space left on device" in got.text
    assert len(house.tasks.asked) == 1
    house.now_s += 61
    assert house.browser.get("/vms").status == 202
    assert len(house.tasks.asked) == 2


def test_failure_is_told_beside_old_verdicts(house: House) -> None:
    """Verdicts that grow old because judging fails are shown with the reason."""
    judge_now(house)
    house.now_s += house.config.serve.fresh_for_s + 1
    house.browser.get("/vms")
    house.tasks.end(now_s=house.now_s, problem="fallow-report: out of memory")
    text = text_of(house.browser.get("/vms").text)
    assert "out of memory" in text
    assert "are of the judging run" in text


def test_vm_and_host_pages_need_no_run(house: House) -> None:
    """One VM, and those of one host, are judged as they are now."""
    assert house.browser.get("/vms/vm-idle").status == 200
    assert house.browser.get("/hosts/h2").status == 200
    assert house.tasks.asked == []


def test_keeping_a_vm_has_the_fleet_judged_again(house: House) -> None:
    """The list follows soon after an exemption; a small fleet needs nothing of the kind."""
    judge_now(house)
    new = {"kind": "vm", "subject": "vm-idle", "until": "30d", "reason": "closing", "owner": "ann"}
    assert house.browser.call("POST", "/v1/exemptions", new).status == 201
    assert [task.arguments[0] for task in house.tasks.asked] == ["judge"]
    assert "vm-idle" not in listed(house.browser.get("/vms").text)
    with pages(house.data_dir, None, on_the_spot_vms=100) as small:
        small.browser.call("POST", "/v1/exemptions", new)
        assert small.tasks.asked == []


def test_policies_of_a_large_fleet_are_compared_apart(house: House) -> None:
    """The comparison is made by a process, shown while it is fresh, and kept on show while the next one is made."""
    assert house.browser.get("/compare").status == 202
    (task,) = house.tasks.asked
    assert task.arguments[:6] == ("compare", "--window", "14d", "--top", "50", "--json")

    def output() -> bytes:
        policies = tuple(house.config.policies.values())
        settings = house.config.settings
        return to_json(compare_fleet(house.fleet.reader, policies, settings, now_s=house.now_s, top=50)).encode()

    house.tasks.end(now_s=house.now_s, output=output())
    assert "fallow-balanced" in house.browser.get("/compare").text
    assert len(house.tasks.asked) == 1
    first = house.browser.get("/v1/compare").json
    house.now_s += house.config.serve.fresh_for_s + 1
    assert house.browser.get("/v1/compare").json == first
    assert len(house.tasks.asked) == 2
    house.tasks.end(now_s=house.now_s, output=output())
    assert house.browser.get("/v1/compare").json["generated_at_s"] == house.now_s


def test_comparison_that_fails_says_why(house: House) -> None:
    """No page waits for ever for what does not come."""
    house.browser.get("/compare")
    house.tasks.end(now_s=house.now_s, problem="fallow-report: killed")
    got = house.browser.get("/compare")
    assert (got.status, "killed" in text_of(got.text)) == (503, True)


def test_judging_is_due_when_nothing_is_stored(house: House) -> None:
    """At once in a new fleet, else so long after the last run as the settings say."""
    runs = JudgingRuns(house.backing)
    assert runs.next_due_s() == house.now_s
    judge_now(house)
    assert runs.next_due_s() == house.now_s + house.config.serve.judge_every_s
    house.now_s += 10 * house.config.serve.judge_every_s
    assert runs.next_due_s() == house.now_s


def test_verdicts_that_nobody_asks_for_are_forgotten(house: House) -> None:
    """Those of other policies go after a week, rows and all; those of the settings stay however old."""
    judge_now(house)
    judge_now(house, "classic", 7)
    house.now_s += 8 * 86_400.0
    judge_now(house, "p95", 7)
    JudgingRuns(house.backing).judge_default()
    with house.fleet.reader.connect() as connection:
        for table in (judging, verdict):
            scopes = set(connection.scalars(sa.select(table.c.scope).distinct()))
            assert scopes == {"fallow-balanced/14d", "p95/7d"}
    assert house.tasks.asked[-1].arguments[3] == "fallow-balanced"


def test_verdicts_of_other_settings_are_told(house: House) -> None:
    """A configuration file that changed under the server is told; judging is tried again a minute later."""
    house.browser.get("/vms")
    limits = replace(house.config.settings.limits, min_coverage_ratio=0.123)
    settings = replace(house.config.settings, limits=limits)
    store_verdicts(house.fleet.reader, house.fleet.writer, BALANCED, settings, house.now_s)
    house.tasks.end(now_s=house.now_s)
    for target in ("/vms", "/hosts", "/v1/report"):
        got = house.browser.get(target)
        assert got.status == 503
        assert "stored with other settings" in got.text
        assert "Restart fallow-report serve" in got.text
    assert len(house.tasks.asked) == 1
    house.now_s += 61
    assert house.browser.get("/vms").status == 202
    assert len(house.tasks.asked) == 2


def test_change_during_a_run_asks_for_another(house: House) -> None:
    """An exemption that is made while the fleet is judged is not left out until the next run of the clock."""
    house.browser.get("/vms")
    assert house.tasks.anew == []
    new = {"kind": "vm", "subject": "vm-idle", "until": "30d", "reason": "closing", "owner": "ann"}
    assert house.browser.call("POST", "/v1/exemptions", new).status == 201
    assert house.tasks.anew == [house.tasks.asked[0].key]
