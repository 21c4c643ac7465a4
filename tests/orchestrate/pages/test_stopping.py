"""The kill switch by page and API: anybody who operates may stop everything, admins alone let go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrate.inventory import VmState
from orchestrate.pages.switch import KillSwitch, SwitchStuck
from reports.people.roles import Role
from tests.orchestrate.control_house import IDLE, idle_vms
from tests.orchestrate.pages.house import Pages, plan_pages
from tests.reports.deliver.servers import Request
from tests.reports.web.wire import Browser, Got


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Pages]:
    with plan_pages(tmp_path, more="") as pages:
        yield pages


def pull(browser: Browser, reason: str) -> Got:
    return browser.post("/stop", {"csrf": browser.csrf, "reason": reason})


def let_go(browser: Browser) -> Got:
    """What the form sends, as it stands there now."""
    _, _, after = browser.get("/stop").text.partition('name="seen" value="')
    return browser.post("/stop/release", {"csrf": browser.csrf, "seen": after.partition('"')[0]})


def told(made: Pages, what: str) -> list[tuple[str, object]]:
    return [(line.who, json.loads(line.body).get("reason")) for line in made.lines if line.what == what]


def test_kill_switch_by_page_stops_a_real_apply(made: Pages) -> None:
    """Pulled on the page, nothing of an approved plan is done; let go, all of it is."""
    sha256 = str(made.cloud.read("plan", "--by", "ann")["sha256"])
    made.approve(made.browser(Role.APPROVER), sha256)
    operator, admin = made.browser(Role.OPERATOR), made.browser(Role.ADMIN)
    assert pull(operator, "storage is being moved").headers["location"] == "/stop?said=pulled"
    code, out, _ = made.cloud.call("apply", sha256)
    assert code == 1
    assert "operator-ann: storage is being moved" in out
    assert made.cloud.hook.requests == []
    for page in ("/", f"/plans/{sha256}", "/runs", "/audit"):
        assert "storage is being moved" in operator.get(page).text, page
    assert let_go(admin).headers["location"] == "/stop?said=released"
    made.cloud.ok("apply", sha256)
    assert told(made, "kill switch pulled") == [("operator-ann", "storage is being moved")]
    assert told(made, "kill switch let go") == [("admin-ann", None)]


def test_kill_switch_by_page_stops_an_apply_under_way(tmp_path: Path) -> None:
    """Pulled while the first owner is told, it keeps every later step from being begun."""
    with plan_pages(tmp_path, idle_vms(3), more="") as made:
        sha256 = str(made.cloud.read("plan", "--by", "ann")["sha256"])
        made.approve(made.browser(Role.APPROVER), sha256)
        operator, hook = made.browser(Role.OPERATOR), made.cloud.hook
        answer = hook.answer

        def answered(request: Request) -> int:
            pull(operator, "wrong VMs")
            return answer(request)

        hook.answer = answered  # type: ignore[method-assign]
        run = made.cloud.read("apply", sha256, code=1)
        assert len(hook.requests) == 1
        done = [action["step"]["verb"] for action in run["actions"] if action["outcome"] == "done"]
        assert done.count("notify") == 1
        assert "wrong VMs" in made.browser(Role.VIEWER).get(f"/runs/{run['run_id']}").text


def test_a_pulled_switch_is_not_pulled_again(made: Pages) -> None:
    """Whoever is second is told so; the first one's words stay."""
    pull(made.browser(Role.OPERATOR), "first")
    again = made.browser(Role.ADMIN)
    assert pull(again, "second").headers["location"] == "/stop?said=on"
    got = again.call("PUT", "/v1/stop", {"reason": "third"})
    assert (got.status, got.json["new"]) == (200, False)
    assert "operator-ann: first" in got.json["words"]
    assert told(made, "kill switch pulled") == [("operator-ann", "first")]


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.APPROVER])
def test_only_admins_let_go(made: Pages, role: Role) -> None:
    """An operator stops everything and cannot start it; that it was tried is written down."""
    browser = made.browser(role)
    pull(browser, "maintenance")
    assert "Admins may let go of it." in browser.get("/stop").text
    assert let_go(browser).status == 403
    assert browser.call("DELETE", "/v1/stop", None, 'If-Match: "x"').status == 403
    assert made.backing.switch.read() is not None
    tried = [json.loads(line.body)["asked"] for line in made.lines if line.what == "refused"]
    assert tried == ["POST /stop/release", "DELETE /v1/stop"]


def test_a_viewer_pulls_nothing(made: Pages) -> None:
    """403, no file, and it is written down."""
    browser = made.browser(Role.VIEWER)
    assert "Stop everything" not in browser.get("/stop").text
    assert pull(browser, "why not").status == 403
    assert browser.call("PUT", "/v1/stop", {"reason": "why not"}).status == 403
    assert made.backing.switch.read() is None
    assert [line.who for line in made.lines if line.what == "refused"] == ["viewer-ann"] * 2


def test_letting_go_of_another_stop_412(made: Pages) -> None:
    """What somebody pulled since the page was made stays pulled."""
    admin = made.browser(Role.ADMIN)
    pull(admin, "mine")
    _, _, after = admin.get("/stop").text.partition('name="seen" value="')
    etag = admin.get("/v1/stop").headers["etag"]
    made.backing.switch.let_go()
    pull(made.browser(Role.OPERATOR), "theirs")
    got = admin.post("/stop/release", {"csrf": admin.csrf, "seen": after.partition('"')[0]})
    assert got.status == 412
    assert "theirs" in got.text
    assert admin.call("DELETE", "/v1/stop", None, f"If-Match: {etag}").status == 412
    assert admin.call("DELETE", "/v1/stop").status == 428
    newest = admin.get("/v1/stop").headers["etag"]
    assert admin.call("DELETE", "/v1/stop", None, f"If-Match: {newest}").json == {
        "on": False,
        "words": None,
        "new": True,
    }
    assert admin.call("DELETE", "/v1/stop", None, f"If-Match: {newest}").json["new"] is False


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "two\nlines"])
def test_a_stop_has_a_reason(made: Pages, reason: str) -> None:
    """Without one that can be told nothing is stopped, and the form says why."""
    browser = made.browser(Role.OPERATOR)
    got = pull(browser, reason)
    assert got.status == 422
    assert 'id="pull-reason-problem"' in got.text
    assert browser.call("PUT", "/v1/stop", {"reason": reason}).status == 422
    assert made.backing.switch.read() is None


@pytest.mark.parametrize("body", [[], "stop", {"reason": 5}, {"reason": "x", "more": 1}, None])
def test_a_body_that_is_no_reason_is_refused(made: Pages, body: object) -> None:
    """422, and nothing is stopped."""
    browser = made.browser(Role.OPERATOR)
    sent = ("Content-Type: application/json", f"Fallow-Csrf: {browser.csrf}")
    assert browser.ask("PUT", "/v1/stop", *sent, body=json.dumps(body).encode()).status == 422
    assert made.backing.switch.read() is None


def test_a_switch_pulled_by_hand_is_let_go_by_page(made: Pages) -> None:
    """It is one file, whoever made it."""
    path = made.backing.switch.path
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch()
    admin = made.browser(Role.ADMIN)
    assert "On: nothing is done" in admin.get("/stop").text
    let_go(admin)
    assert not path.exists()


def test_a_switch_that_cannot_be_moved_says_so(made: Pages) -> None:
    """A folder of that name stops everything, and no page removes it."""
    path = made.backing.switch.path
    path.mkdir(parents=True)
    admin = made.browser(Role.ADMIN)
    got = let_go(admin)
    assert got.status == 409
    assert "Remove it by hand" in got.text
    assert "On: nothing is done" in admin.get("/stop").text


def test_a_folder_of_another_machine_is_not_made(tmp_path: Path) -> None:
    """Where the switch lies elsewhere and that is not mounted, it counts as on and cannot be pulled."""
    switch = KillSwitch(path=tmp_path / "share" / "STOP", makes_folder=False)
    assert switch.read() is not None
    with pytest.raises(SwitchStuck, match="cannot be made"):
        switch.pull("ann: x")
    assert not (tmp_path / "share").exists()
    own = KillSwitch(path=tmp_path / "own" / "STOP", makes_folder=True)
    assert own.pull("ann: x")
    assert str(own.read()).endswith("ann: x")
    assert own.let_go()
    assert not own.let_go()


def test_the_vm_goes_on_while_all_is_stopped(made: Pages) -> None:
    """Nothing is taken from anybody by stopping."""
    pull(made.browser(Role.OPERATOR), "maintenance")
    assert made.cloud.state(IDLE) is VmState.RUNNING
