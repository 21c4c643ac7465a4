"""The controller's pages in a real Chromium, over the real program: on a telephone and a desk, without any script."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrate.inventory import VmState
from reports.people.roles import Role
from tests.orchestrate.control_house import IDLE, House, house
from tests.orchestrate.pages.house import TWO, pages_of
from tests.orchestrate.pages.programs import serving_plans
from tests.reports.fleets import Spec
from tests.reports.web.chromium import EVIL, NARROW, WIDE, Visit, Visitor, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def visit(browser: Browser) -> Visitor:
    """Opens a page in a context of its own, without script."""
    return partial(Visit, browser, script=False)


@dataclass(frozen=True)
class Town:
    """The program over a cloud whose idle VM may be suspended: `sha256`. `cookies`: of people who are logged in."""

    cloud: House
    url: str
    sha256: str
    cookies: dict[str, str]


@contextmanager
def town_of(folder: Path, specs: list[Spec] | None = None) -> Iterator[Town]:
    """Its clock is the machine's, as the program's is."""
    with house(folder, specs, more=TWO) as cloud:
        with pages_of(cloud) as made:
            made.suspending(by="root")
            (plan,) = made.records.plans(limit=1)
            # The same once more, made now: by the program's clock the other has expired.
            cloud.now_s = time.time()
            now = replace(plan, made_s=cloud.now_s, expires_s=cloud.now_s + 86_400.0, made_by="ann")
            sha256 = made.records.add_plan(now)
            people = {"eve": Role.APPROVER, "bob": Role.APPROVER, "kim": Role.VIEWER, "ada": Role.ADMIN}
            cookies = {name: str(made.browser(role, name).cookie) for name, role in people.items()}
        with serving_plans(cloud) as server:
            yield Town(cloud, server.url, sha256, cookies)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    specs = [
        Spec(vm_id=IDLE, name="build-7", owner="ann", mail="ann@example.org", vcpus=4),
        Spec(vm_id="dddddddd-0000-4000-8000-000000000000", name=EVIL, owner="o" * 60),
        Spec(vm_id="eeeeeeee-0000-4000-8000-000000000000", name="n" * 120, owner=EVIL),
    ]
    with town_of(tmp_path_factory.mktemp("town"), specs) as made:
        yield made


def looked_at(visited: Visit, address: str, name: str) -> Page:
    """Fit to read at both widths; a picture of each stays."""
    page = visited.go(address)
    settled(page)
    for width in (NARROW, WIDE):
        visited.resize(width)
        visited.check()
        visited.shoot(f"control-{name}")
    return page


def press(page: Page, name: str) -> None:
    with page.expect_navigation():
        page.get_by_role("button", name=name).click()
    settled(page)


def settled(page: Page) -> None:
    """All is loaded, the icon too: whoever leaves a page before breaks off what it still fetches."""
    page.wait_for_load_state("networkidle")


def test_two_people_look_and_approve(visit: Visitor, town: Town) -> None:
    """Each page on the way of two approvers; names that would be script are text."""
    plan = f"{town.url}plans/{town.sha256}"
    with visit(cookie=town.cookies["eve"]) as visited:
        looked_at(visited, town.url, "plans")
        page = looked_at(visited, plan, "plan")
        page.get_by_label("Reason").fill("idle since May")
        press(page, "Approve this plan")
        assert "one of two approvals" in page.inner_text(".vm-head")
        assert page.get_by_role("button", name="Approve this plan").count() == 0
        looked_at(visited, page.url, "plan-one-of-two")
        page.locator("summary").first.click()
        visited.shoot("control-plan-evidence")
    with visit(NARROW, cookie=town.cookies["bob"]) as visited:
        page = visited.go(plan)
        settled(page)
        press(page, "Approve this plan")
        assert page.inner_text(".vm-head .mark") == "approved"
        looked_at(visited, town.url + "audit?check=1", "audit")
        page = looked_at(visited, town.url + "runs", "runs")
        with page.expect_navigation():
            page.locator("tbody a").first.click()
        settled(page)
        looked_at(visited, page.url, "run")
    with visit(cookie=town.cookies["kim"], scheme="dark") as visited:
        looked_at(visited, plan, "plan-viewer")
        looked_at(visited, town.url, "plans")


def test_everything_is_stopped_and_let_go(visit: Visitor, town: Town) -> None:
    """An admin pulls the switch, every page says so, and lets go of it; a refused form says why."""
    with visit(cookie=town.cookies["ada"], expected=[422, 404]) as visited:
        page = looked_at(visited, town.url + "stop", "stop-off")
        page.get_by_label("Reason").fill("x" * 10)
        press(page, "Stop everything")
        looked_at(visited, page.url, "stop-on")
        assert "Nothing is done at present" in visited.go(town.url).inner_text(".notice.warning")
        settled(page)
        looked_at(visited, f"{town.url}plans/{town.sha256}", "plan-stopped")
        settled(page)
        visited.go(town.url + "stop")
        settled(page)
        press(page, "Let go of it")
        assert "Off: what is approved is done" in page.inner_text("main")
        looked_at(visited, town.url + "plans/abcdef", "error")
        looked_at(visited, town.url + "people", "people")
        looked_at(visited, town.url + "account", "account")


def test_whoever_is_outside_logs_in(visit: Visitor, town: Town) -> None:
    """The log-in is the report's, and leads back."""
    with visit() as visited:
        page = looked_at(visited, town.url + "stop", "login")
        assert page.url == town.url + "login?next=%2Fstop"


def test_a_controller_that_has_done_nothing(visit: Visitor, tmp_path: Path) -> None:
    """Empty lists say what brings something into them."""
    with house(tmp_path) as cloud:
        with pages_of(cloud) as made:
            cloud.now_s = time.time()
            cookie = str(made.browser(Role.VIEWER).cookie)
        with serving_plans(cloud) as server, visit(cookie=cookie) as visited:
            for name in ("", "runs", "audit", "stop"):
                looked_at(visited, server.url + name, f"none-{name or 'plans'}")
        assert cloud.state(IDLE) is VmState.RUNNING
