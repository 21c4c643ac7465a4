"""Plans are approved on the pages by people who log in: two for what is large, never by whoever made them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrate.driver import Verb
from orchestrate.inventory import VmState
from reports.people.roles import Role
from tests.orchestrate.control_house import IDLE, SETTINGS, house
from tests.orchestrate.pages.house import TWO, Pages, pages_of, plan_pages
from tests.orchestrate.watch_house import watched
from tests.postgres import postgres_database
from tests.reports.fleets import write_fleet


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Pages]:
    with plan_pages(tmp_path) as pages:
        yield pages


def refusals(made: Pages) -> list[dict[str, object]]:
    """What the audit log tells of refusals, with who was refused."""
    return [{**json.loads(line.body), "who": line.who} for line in made.lines if line.what == "refused"]


def test_two_people_approve_and_apply_does_it_one_alone_does_not(made: Pages) -> None:
    """After the first yes nothing is done to anybody; after the second the real apply suspends the VM."""
    sha256 = made.suspending()
    first, second = made.browser(Role.APPROVER, "eve"), made.browser(Role.APPROVER, "bob")
    got = made.approve(first, sha256, reason="it is idle since May")
    assert (got.status, got.headers["location"]) == (303, f"/plans/{sha256}?said=approved")
    page = first.get(f"/plans/{sha256}").text
    assert "one of two approvals" in page
    assert "1 of 2, so far eve" in page
    code, out, _ = made.cloud.call("apply", sha256)
    assert (code, made.cloud.state(IDLE)) == (1, VmState.RUNNING)
    assert "two people who log in" in out
    assert made.approve(second, sha256).status == 303
    assert "approved" in second.get("/").text
    made.cloud.ok("apply", sha256)
    assert made.cloud.state(IDLE) is VmState.SUSPENDED
    assert "applied by run" in second.get(f"/plans/{sha256}").text
    told = [json.loads(line.body) for line in made.lines if line.what == "approval told of"]
    assert [(one["plan"], one["reason"], one["address"], one["via"]) for one in told] == [
        (sha256, "it is idle since May", "127.0.0.1", "session"),
        (sha256, "", "127.0.0.1", "session"),
    ]


def test_two_people_approve_and_a_turn_of_the_watch_does_it(made: Pages) -> None:
    """The service leaves a plan with one yes alone, and applies it at the turn after the second."""
    sha256 = made.suspending()
    made.approve(made.browser(Role.APPROVER, "eve"), sha256)
    with watched(made.cloud) as seen:
        made.cloud.push()
        assert seen.watch.turn().runs == ()
        assert made.cloud.state(IDLE) is VmState.RUNNING
        made.approve(made.browser(Role.ADMIN, "bob"), sha256)
        made.cloud.pause(60.0)
        assert len(seen.watch.turn().runs) == 1
    assert made.cloud.state(IDLE) is VmState.SUSPENDED


def test_a_small_plan_needs_one_yes(made: Pages) -> None:
    """What takes nothing from anybody is applied after one."""
    sha256 = str(made.cloud.read("plan", "--by", "ann")["sha256"])
    browser = made.browser(Role.APPROVER)
    assert "It needs one approval, and has none." in browser.get(f"/plans/{sha256}").text
    made.approve(browser, sha256)
    assert "Approved by approver-ann." in browser.get(f"/plans/{sha256}").text
    made.cloud.ok("apply", sha256)


@pytest.mark.parametrize("maker", ["eve", "Eve"])
def test_approving_ones_own_request_403(made: Pages, maker: str) -> None:
    """Whoever asked for a plan cannot approve it, by page or API, and that they tried is written down."""
    sha256, browser = made.suspending(by=maker), made.browser(Role.ADMIN, "eve")
    page = browser.get(f"/plans/{sha256}").text
    assert "Approve this plan" not in page
    assert "somebody else has to approve it" in page
    got = made.approve(browser, sha256)
    assert got.status == 403
    assert "somebody else has to approve it" in got.text
    etag = browser.get(f"/v1/plans/{sha256}").headers["etag"]
    called = browser.call("POST", f"/v1/plans/{sha256}/approve", {}, f"If-Match: {etag}")
    assert (called.status, called.json["type"]) == (403, "urn:fallow:problem:own-plan")
    (told,) = refusals(made)
    assert (told["who"], told["asked"], told["plan"]) == ("eve", "approve", sha256)
    assert made.records.approvals(sha256) == []


@pytest.mark.parametrize("who", [Role.VIEWER, Role.OPERATOR])
def test_viewer_who_suspends_403_and_audited(made: Pages, who: Role) -> None:
    """Nobody below an approver gets a VM suspended: refused, with who, what and from where in the audit log."""
    sha256, browser = made.suspending(), made.browser(who)
    assert "Approvers may approve it." in browser.get(f"/plans/{sha256}").text
    got = made.approve(browser, sha256)
    assert got.status == 403
    assert "needs the role approver" in got.text
    assert browser.call("POST", f"/v1/plans/{sha256}/approve", {}, 'If-Match: "x"').status == 403
    asked = ["POST /plans/{hash}/approve", "POST /v1/plans/{hash}/approve"]
    assert [(one["who"], one["asked"], one["address"]) for one in refusals(made)] == [
        (f"{who.value}-ann", each, "127.0.0.1") for each in asked
    ]
    assert made.records.approvals(sha256) == []


def test_whoever_is_refused_over_and_over_does_not_fill_the_log(made: Pages) -> None:
    """Of the same try one a minute is written down."""
    sha256, browser = made.suspending(), made.browser(Role.VIEWER)
    for _ in range(5):
        made.approve(browser, sha256, seen="")
    assert len(refusals(made)) == 1
    made.cloud.now_s += 61.0
    made.approve(browser, sha256, seen="")
    assert len(refusals(made)) == 2


def test_own_plan_approved_over_and_over_does_not_fill_the_log(made: Pages) -> None:
    """A refusal that is not for the role counts once a minute, too, for each plan."""
    sha256 = made.suspending(by="eve")
    browser = made.browser(Role.APPROVER, "eve")
    for _ in range(5):
        assert made.approve(browser, sha256).status == 403
    assert [one["plan"] for one in refusals(made)] == [sha256]
    made.cloud.now_s += 61.0
    assert made.approve(browser, sha256).status == 403
    assert len(refusals(made)) == 2


def test_stale_page_412(made: Pages) -> None:
    """A form of before somebody else's yes, or of before the kill switch, approves nothing; a new page does."""
    sha256, eve = made.suspending(), made.browser(Role.APPROVER, "eve")
    seen = made.seen(sha256)
    made.approve(made.browser(Role.APPROVER, "bob"), sha256)
    got = made.approve(eve, sha256, seen=seen)
    assert got.status == 412
    assert "look again" in got.text
    etag = f'If-Match: "{seen}"'
    assert eve.call("POST", f"/v1/plans/{sha256}/approve", {}, etag).status == 412
    seen = made.seen(sha256)
    made.browser(Role.OPERATOR).call("PUT", "/v1/stop", {"reason": "maintenance"})
    assert made.approve(eve, sha256, seen=seen).status == 412
    assert [each.by for each in made.records.approvals(sha256)] == ["bob"]
    assert made.approve(eve, sha256).status == 303


def test_a_plan_that_was_applied_is_approved_no_more(made: Pages) -> None:
    """409 with the run, whatever was seen."""
    sha256 = made.suspending()
    for name in ("bob", "eve"):
        made.approve(made.browser(Role.APPROVER, name), sha256)
    made.cloud.ok("apply", sha256)
    browser = made.browser(Role.APPROVER, "kim")
    got = made.approve(browser, sha256)
    assert got.status == 409
    assert "it was applied, by run" in got.text


def test_an_expired_plan_is_approved_no_more(made: Pages) -> None:
    """409 with words, and the page has no form."""
    sha256 = made.suspending()
    made.cloud.now_s += 86_400.0
    browser = made.browser(Role.APPROVER)
    got = made.approve(browser, sha256)
    assert got.status == 409
    assert "make a new plan" in got.text
    assert "Approve this plan" not in browser.get(f"/plans/{sha256}").text


def test_a_plan_that_gives_back_needs_nobody(made: Pages) -> None:
    """What an undo did is shown, and cannot be approved."""
    sha256 = made.suspending()
    for name in ("bob", "eve"):
        made.approve(made.browser(Role.APPROVER, name), sha256)
    suspended = made.cloud.read("apply", sha256)["run_id"]
    made.cloud.ok("undo", suspended)
    browser = made.browser(Role.APPROVER)
    undo = browser.get("/v1/plans").json["plans"][0]
    assert (undo["kind"], undo["approvals_needed"]) == ("undo", 0)
    got = made.approve(browser, undo["sha256"])
    assert got.status == 409
    assert "needs no approval" in got.text


def test_a_second_yes_of_the_same_account_is_nothing_new(made: Pages) -> None:
    """Told so, by page and API, and neither the approvals nor the log grow."""
    sha256, eve = made.suspending(), made.browser(Role.APPROVER, "eve")
    seen = made.seen(sha256)
    made.approve(eve, sha256, seen=seen)
    count = len(made.lines)
    got = made.approve(eve, sha256, seen=seen)
    assert (got.status, got.headers["location"]) == (303, f"/plans/{sha256}?said=before")
    assert "nothing new was noted" in eve.get(got.headers["location"]).text
    again = eve.call("POST", f"/v1/plans/{sha256}/approve", {}, 'If-Match: "whatever"')
    assert (again.status, again.json["new"], again.json["approvals_counting"]) == (200, False, ["eve"])
    assert len(made.lines) == count


def test_an_unchecked_yes_does_not_count_where_two_are_needed(made: Pages) -> None:
    """A name from the command line is shown as such, and one who logs in under it counts once."""
    sha256 = made.suspending()
    out = made.cloud.ok("approve", sha256, "--by", "eve")
    assert "0 of 2, so far nobody" in out
    assert "does not count" in out
    assert "Next:" not in out
    eve = made.browser(Role.APPROVER, "eve")
    assert "a name that nobody checked" in eve.get(f"/plans/{sha256}").text
    made.approve(eve, sha256)
    assert eve.get(f"/v1/plans/{sha256}").json["approvals_counting"] == ["eve"]


def test_only_the_whole_hash_is_approved(made: Pages) -> None:
    """A plan is looked up by its beginning, and approved by all of it."""
    sha256, browser = made.suspending(), made.browser(Role.APPROVER)
    assert browser.get(f"/plans/{sha256[:8]}").headers["location"] == f"/plans/{sha256}"
    assert browser.get(f"/v1/plans/{sha256[:8]}").json["sha256"] == sha256
    seen = made.seen(sha256)
    for wrong in (sha256[:8], "0" * 64, "nonsense"):
        fields = {"csrf": browser.csrf, "seen": seen}
        assert browser.post(f"/plans/{wrong}/approve", fields).status == 404, wrong


@pytest.mark.parametrize("reason", ["two\nlines", "x" * 201, "\x1b[31m"])
def test_a_reason_that_cannot_be_is_refused(made: Pages, reason: str) -> None:
    """422, and nothing was approved."""
    sha256, browser = made.suspending(), made.browser(Role.APPROVER)
    got = made.approve(browser, sha256, reason=reason)
    assert got.status == 422
    assert "reason" in got.text
    assert made.records.approvals(sha256) == []


@pytest.mark.real
def test_two_people_approve_on_postgresql(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Accounts, approvals and the log on a database server: the second yes is enough, and the log holds."""
    with postgres_database(pytestconfig) as url, house(tmp_path) as cloud:
        with pages_of(cloud) as small:
            cloud.ok("plan", "--by", "ann")
            (plan,) = small.records.plans()
        write_fleet(tmp_path, cloud.specs, url=url)
        cloud.settings.chmod(0o600)
        cloud.write_settings(text=SETTINGS.replace('[report]\ndata = "{data}"', f'[report]\nfleet = "{url}"'), more=TWO)
        with pages_of(cloud) as made:
            sha256 = made.keep(plan, verb=Verb.SUSPEND, inverse=Verb.RESUME)
            states = []
            for name in ("eve", "bob"):
                browser = made.browser(Role.APPROVER, name)
                assert made.approve(browser, sha256).status == 303
                states.append(browser.get(f"/v1/plans/{sha256}").json["state"])
            assert states == ["one of two approvals", "approved"]
            assert made.approve(made.browser(Role.VIEWER), sha256).status == 403
            assert [one["who"] for one in refusals(made)] == ["viewer-ann"]
            assert "As it was written" in made.browser(Role.VIEWER).get("/audit?check=1").text
