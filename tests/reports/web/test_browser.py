"""The pages in a real Chromium, over the real server program: at two widths, in light and dark, by keyboard."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.reports.fleets import Spec, write_fleet
from tests.reports.placed import node_row, part_row, place_in
from tests.reports.web.chromium import EVIL, NARROW, STORED, WIDE, Visitor
from tests.reports.web.programs import Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.real

PAGES = {
    "fleet": "",
    "vms": "vms",
    "vms-all": "vms?verdict=all&sort=name",
    "vms-none": "vms?search=nothing+is+called+so",
    "vm-idle": "vms/vm-idle",
    "vm-scheduled": "vms/vm-scheduled",
    "vm-oversized": "vms/vm-oversized",
    "vm-active": "vms/vm-active",
    "vm-evil": "vms/vm-evil",
    "vm-long": "vms/vm-long",
    "vm-unsized": "vms/vm-unsized",
    "vm-bare": "vms/vm-bare",
    "hosts": "hosts",
    "host": "hosts/h1",
    "health": "health",
    "exemptions": "exemptions",
    "exemptions-all": "exemptions?all=1",
    "policies": "policies",
    "deliveries": "deliveries",
    "compare": "compare",
    "account": "account",
    "people": "people",
}
IN_DARK = ("fleet", "vms", "vm-scheduled", "host", "health", "compare", "account", "people")
FOCUSED = "document.activeElement"


@contextmanager
def fleet_of(data_dir: Path, *specs: Spec) -> Iterator[Server]:
    """The program over a fleet of these alone."""
    write_fleet(data_dir, specs)
    with serving(data_dir) as running:
        yield running


def next_month() -> str:
    return (datetime.now(UTC) + timedelta(days=30)).strftime("%Y-%m-%d")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_fit_to_read(visit: Visitor, server: Server, name: str) -> None:
    """At both widths no error, nothing that sticks out, one heading, texts that can be read; a picture stays."""
    # Of the other VMs there is no store, and no aggregator that could tell.
    is_storeless = name.startswith("vm-") and name not in STORED
    with visit(expected=[503] if is_storeless else []) as visited:
        for width in (NARROW, WIDE):
            visited.resize(width)
            visited.go(server.url + PAGES[name])
            visited.check()
            visited.shoot(name)


def test_the_aggregators_figures_are_read_on_a_telephone(visit: Visitor, server: Server) -> None:
    """Long names beside them leave the values room: none stands one character a line."""
    words = "pushes refused because the agent that sent them is not known"
    with visit(NARROW) as visited:
        page = visited.go(server.url + "health")
        value = page.evaluate(
            "(words) => { const list = document.createElement('dl'); list.className = 'facts live';"
            " list.innerHTML = `<dt>${words}</dt><dd>2026-10-25 02:30 CEST</dd>`;"
            " document.querySelector('.card').append(list); return list.lastChild.getBoundingClientRect().width; }",
            words,
        )
        assert value >= 6 * 16
        visited.check()
        visited.shoot("health-live")


@pytest.mark.parametrize("name", IN_DARK)
def test_a_page_is_fit_to_read_in_the_dark(visit: Visitor, server: Server, name: str) -> None:
    """Where a reader wants dark pages, they are dark, and every text can be read all the same."""
    with visit(scheme="dark") as visited:
        page = visited.go(server.url + PAGES[name])
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", ground))) < 3 * 60
        visited.check()
        visited.shoot(name)


def test_names_are_text(visit: Visitor, server: Server) -> None:
    """A VM and an owner named in HTML are shown as they are called, on every page that has them; nothing runs."""
    with visit() as visited:
        for address in ("vms?verdict=all&search=alert", "vms/vm-evil", "hosts/h1", "vms?search=%3Cscript%3E"):
            page = visited.go(server.url + address)
            assert page.get_by_text(EVIL).count() > 0
            assert page.locator("main img, main script").count() == 0


def test_lists_work_without_script(visit: Visitor, server: Server) -> None:
    """Searching, filtering, sorting, paging, a VM's evidence: all of it with JavaScript switched off."""
    with visit(script=False) as visited:
        page = visited.go(server.url + "vms")
        page.get_by_label("Search").fill("node-01")
        page.get_by_label("Sort by").select_option("name")
        page.get_by_role("button", name="Show").click()
        assert page.locator("tbody tr").count() == 10
        assert page.locator("tbody .name a").first.inner_text() == "node-010"
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        page.locator("th[aria-sort] a").click()
        assert page.locator("tbody .name a").first.inner_text() == "node-019"
        page.goto(server.url + "vms")
        page.get_by_role("link", name="Next").click()
        assert "Page 2 of 2" in page.locator("nav.pages").inner_text()
        page.goto(server.url + "vms?search=office")
        page.get_by_role("link", name="office").click()
        assert page.locator("h1").inner_text() == "office"
        assert page.locator("noscript p").is_visible()
        assert page.locator(".figures tbody tr").count() > 10
        assert page.locator(".heat tbody td").count() == 168
        assert page.locator(".distribution").count() >= 3


def test_the_keyboard_reaches_everything(visit: Visitor, server: Server) -> None:
    """Tab finds the way past the navigation first, then the search; what is typed there is sought with Enter."""
    with visit() as visited:
        page = visited.go(server.url)
        page.keyboard.press("Tab")
        assert page.evaluate(f"{FOCUSED}.textContent") == "Skip to the content"
        page.keyboard.press("Enter")
        assert page.evaluate(f"{FOCUSED}.id") == "content"
        visited.go(server.url)
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate(f"{FOCUSED}.id") == "site-search":
                break
        style = page.evaluate(f"getComputedStyle({FOCUSED}).outlineStyle")
        assert style == "solid"
        page.keyboard.type("office")
        page.keyboard.press("Enter")
        page.wait_for_url("**/vms?*search=office*")
        assert page.locator("tbody .name").all_inner_texts() == ["office\nvm-scheduled"]


def test_every_control_is_reached_once_and_seen(visit: Visitor, server: Server) -> None:
    """Tab goes through every link, field and button of a VM's page that is in sight, none of them twice."""
    with visit() as visited:
        page = visited.go(server.url + "vms/vm-idle")
        kinds = "a[href], button, input:not([type=hidden]), select, summary, [tabindex='0']"
        controls = (
            f'[...document.querySelectorAll("{kinds}")]'
            ".filter((each) => each.checkVisibility() && !each.closest('.skip'))"
        )
        page.evaluate(f"{controls}.forEach((each, at) => each.dataset.at = at)")
        wanted = page.evaluate(f"{controls}.length")
        seen: list[str] = []
        for _ in range(3 * wanted):
            page.keyboard.press("Tab")
            at = page.evaluate(f"{FOCUSED}.dataset.at ?? null")
            if at is not None and (not seen or seen[-1] != at):
                seen.append(at)
            if len(set(seen)) == wanted:
                break
        assert sorted(map(int, seen)) == list(range(wanted))


def test_a_vm_is_kept_and_let_go(visit: Visitor, tmp_path: Path) -> None:
    """The form keeps a VM, its page and the list of exemptions say so, and ending it brings the VM back."""
    with (
        fleet_of(tmp_path, Spec(vm_id="vm-a", name="web", owner="ann")) as own,
        visit(expected=[503], cookie=own.cookie) as visited,
    ):
        page = visited.go(own.url + "vms/vm-a")
        assert page.locator("h1 + .verdict").inner_text() == "idle"
        assert page.get_by_label("Who asks for it").input_value() == "ann"
        page.get_by_label("Until").fill(next_month())
        page.get_by_label("Reason").fill(EVIL)
        page.get_by_role("button", name="Keep this VM").click()
        page.wait_for_selector("text=Kept until")
        assert page.locator("h1 + .verdict").inner_text() == "excluded"
        assert page.get_by_text(EVIL).count() >= 2
        assert page.locator("#events + .caption + .scroll td", has_text="kept").count() == 1
        visited.go(own.url + "exemptions")
        visited.check()
        visited.shoot("exemptions-kept")
        assert page.get_by_role("link", name="vm-a").count() == 1
        page.get_by_role("button", name="End now").click()
        page.wait_for_selector("text=None is in force")
        visited.go(own.url + "vms/vm-a")
        assert page.locator("h1 + .verdict").inner_text() == "idle"


def test_a_refused_form_says_why(visit: Visitor, server: Server) -> None:
    """A date that is past is refused: the reason stands at its field, and what was typed is still there."""
    with visit(NARROW, expected=[422, 503]) as visited:
        page = visited.go(server.url + "vms/vm-long")
        page.get_by_label("Until").fill("2020-01-01")
        page.get_by_label("Reason").fill("closing of the books")
        page.get_by_role("button", name="Keep this VM").click()
        problem = page.locator("#keep-until-problem")
        problem.wait_for()
        assert "past" in problem.inner_text()
        assert page.get_by_label("Until").get_attribute("aria-describedby") == "keep-until-problem"
        assert page.get_by_label("Reason").input_value() == "closing of the books"
        visited.check()
        visited.shoot("vm-refused")


def test_a_fleet_of_none_says_how_to_begin(visit: Visitor, tmp_path: Path) -> None:
    """No page of an empty fleet is broken, and the first one tells how to bring VMs in."""
    with fleet_of(tmp_path) as own, visit(cookie=own.cookie) as visited:
        for width in (NARROW, WIDE):
            visited.resize(width)
            for address in ("", "vms", "hosts", "health", "nodes", "exemptions", "policies", "deliveries", "compare"):
                page = visited.go(own.url + address)
                visited.check()
                visited.shoot(f"none-{address or 'fleet'}")
                if address in {"", "vms", "health"}:
                    assert "fallow-aggregator join-token" in page.locator("main").inner_text()


def test_a_fleet_of_several_nodes(visit: Visitor, tmp_path: Path) -> None:
    """Nodes, their health and a VM that lies on two of them can be read at both widths, whatever nodes say."""
    write_fleet(tmp_path, [Spec(vm_id="vm-split", name="build-7"), Spec(vm_id="vm-other")])
    now_s = time.time()
    long = "aggregator-of-the-second-hall-in-the-north.example.org-3f2a"
    place_in(
        tmp_path,
        [
            node_row("node-a", seen_s=now_s, admin_url="http://127.0.0.1:9"),
            node_row(long, seen_s=now_s - 7200, admin_url="https://127.0.0.1:9"),
            node_row(EVIL, seen_s=now_s, state="draining", not_ready="draining", admin_url=None),
        ],
        homes={"vm-split": "node-a", "vm-other": long},
        parts=[part_row("vm-split", long), part_row("vm-split", EVIL, problem="it answered 507: no room is left")],
    )
    with serving(tmp_path) as own:
        for name, address, expected in (
            ("nodes", "nodes", []),
            ("health-nodes", "health", []),
            ("vm-split", "vms/vm-split", [503]),
        ):
            with visit(expected=expected, cookie=own.cookie) as visited:
                for width in (NARROW, WIDE):
                    visited.resize(width)
                    page = visited.go(own.url + address)
                    visited.check()
                    visited.shoot(name)
                assert "node-a" in page.locator("main").inner_text()
        with visit(scheme="dark", cookie=own.cookie) as visited:
            visited.go(own.url + "nodes")
            visited.check()
            visited.shoot("nodes")


def test_a_fleet_of_one(visit: Visitor, tmp_path: Path) -> None:
    """One VM is one VM: on the fleet's page, in the list and on its own page."""
    with (
        fleet_of(tmp_path, Spec(vm_id="only", name="the-one")) as own,
        visit(expected=[503], cookie=own.cookie) as visited,
    ):
        page = visited.go(own.url)
        assert "1 of 1" in page.locator(".totals").inner_text()
        visited.check()
        visited.shoot("one-fleet")
        visited.go(own.url + "vms")
        visited.check()
        assert "1–1 of 1 VM" in page.locator("#list-words").inner_text()
        page.get_by_role("link", name="the-one").click()
        page.wait_for_selector("#charts-section[data-state=done]")
        visited.check()
        visited.shoot("one-vm")


def test_a_database_that_goes_away_mid_page(visit: Visitor, tmp_path: Path) -> None:
    """The page says that the fleet database is away, and works again as soon as it is back."""
    with fleet_of(tmp_path, Spec(vm_id="vm-a", name="web")) as own, visit(expected=[503], cookie=own.cookie) as visited:
        page = visited.go(own.url + "vms")
        (tmp_path / "fleet.db").rename(tmp_path / "away.db")
        page.get_by_role("link", name="web").click()
        page.wait_for_selector("[role=alert]")
        assert "fleet database" in page.locator("[role=alert]").inner_text()
        visited.check()
        visited.shoot("database-away")
        (tmp_path / "away.db").rename(tmp_path / "fleet.db")
        page.reload()
        assert page.locator("h1").inner_text() == "web"


def press(page: Page, selector: str) -> None:
    """What leads to another page, and all of that."""
    with page.expect_navigation():
        page.click(selector)


def test_somebody_logs_in_without_script(visit: Visitor, tmp_path: Path) -> None:
    """The first admin by the link that the program printed, a person added, a token made, out and in: at 390 pixels."""
    write_fleet(tmp_path, [Spec(vm_id="only")])
    password = "it rains in May"
    with serving(tmp_path, admits=False) as own, visit(NARROW, script=False, cookie="", expected=[401]) as visited:
        url = own.url
        page = visited.go(url + "vms?search=web")
        visited.check()
        visited.shoot("login-first")
        (link,) = re.findall(r"http://\S+/first/\S+", own.said)
        visited.go(link)
        visited.check()
        visited.shoot("first")
        page.fill("[name=account]", "ann")
        page.fill("[name=password]", password)
        page.fill("[name=again]", password)
        press(page, "main button")
        assert page.url == url
        visited.go(url + "people")
        page.fill("[name=name]", "bob")
        page.select_option("#add-role", "operator")
        press(page, "form[action='/people'] button")
        assert "/password/" in page.inner_text(".once")
        for width in (NARROW, WIDE):
            visited.resize(width)
            visited.check()
            visited.shoot("people-link")
        visited.go(url + "account")
        page.fill("[name=label]", "nightly export")
        press(page, "form[action='/account/tokens'] button")
        assert page.inner_text(".once").startswith("fallow_")
        for width in (NARROW, WIDE):
            visited.resize(width)
            visited.check()
            visited.shoot("account-token")
        visited.resize(NARROW)
        press(page, "text=Log out")
        page.fill("[name=account]", "ann")
        page.fill("[name=password]", "wrong")
        press(page, "main button")
        assert "wrong" in page.inner_text(".notice.error")
        for width in (NARROW, WIDE):
            visited.resize(width)
            visited.check()
            visited.shoot("login-wrong")
        page.fill("[name=password]", password)
        press(page, "main button")
        assert page.url == url
