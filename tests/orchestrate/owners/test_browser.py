"""The owners' pages in a real Chromium, over the real program: on a telephone and a desk, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

from orchestrate.inventory import VmState
from orchestrate.owners.links import Purpose
from tests.orchestrate.control_house import BUSY_ID, IDLE, House, house
from tests.orchestrate.watch_process import Program, asleep, watching, write_links
from tests.reports.web.chromium import NARROW, WIDE, Visit, Visitor, chromium

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
    """Opens a page in a context of its own."""
    return partial(Visit, browser)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A cloud whose idle VM sleeps."""
    with house(tmp_path_factory.mktemp("owners")) as built:
        write_links(built)
        asleep(built)
        yield built


@pytest.fixture(scope="module")
def program(made: House) -> Iterator[Program]:
    with watching(made) as running:
        yield running


def looked_at(visited: Visit, address: str, name: str) -> Page:
    """Fit to read at both widths; a picture of each stays."""
    page = visited.go(address)
    for width in (NARROW, WIDE):
        visited.resize(width)
        visited.check()
        visited.shoot(name)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_fit_to_read(visit: Visitor, program: Program, scheme: str) -> None:
    """What a link leads to before anybody has done anything, and where it leads no more."""
    with visit(scheme=scheme, expected=[403, 404, 410]) as visited:
        looked_at(visited, program.link(IDLE, Purpose.KEEP), "owner-keep")
        page = looked_at(visited, program.link(IDLE, Purpose.RESUME), "owner-resume")
        assert "It has been suspended since" in page.inner_text("main")
        page = looked_at(visited, program.link(IDLE, Purpose.KEEP, days=-1), "owner-expired")
        assert page.inner_text("h1") == "This link has expired"
        assert looked_at(visited, f"{program.url}/keep/x", "owner-forged").inner_text("h1") == "Not one of our links"
        assert looked_at(visited, f"{program.url}/a/b", "owner-nothing").inner_text("h1") == "Nothing here"


@pytest.mark.parametrize("script", [True, False])
def test_a_vm_is_kept(visit: Visitor, program: Program, script: bool) -> None:
    """By the form alone, with a script and without one; the page then says until when."""
    with visit(script=script) as visited:
        page = visited.go(program.link(BUSY_ID, Purpose.KEEP))
        page.get_by_label("What for?").fill("the audit")
        page.get_by_label("Your name").fill("Ann")
        page.keyboard.press("Enter")
        page.wait_for_selector(".notice")
        assert "It is kept until" in page.inner_text("main")
        visited.shoot(f"owner-kept-{script}")


def test_a_mistake_stands_beside_its_field(visit: Visitor, program: Program) -> None:
    """Where the browser does not see it itself."""
    with visit(expected=[422]) as visited:
        page = visited.go(program.link(BUSY_ID, Purpose.KEEP))
        page.get_by_label("What for?").fill(" ")
        page.get_by_label("Your name").fill("Ann")
        page.keyboard.press("Enter")
        page.wait_for_selector(".problem")
        assert "Please say why" in page.inner_text("main")
        visited.check()
        visited.shoot("owner-mistake")


def test_a_vm_comes_back_before_ones_eyes(visit: Visitor, made: House, program: Program) -> None:
    """One click; the page tells how far it is by itself, to the time of the guest's next sample."""
    with visit() as visited:
        page = visited.go(program.link(IDLE, Purpose.RESUME))
        page.get_by_role("button").click()
        page.wait_for_selector("text=sign of life")
        visited.check()
        visited.shoot("owner-waking")
        assert made.state(IDLE) is VmState.RUNNING
        made.now_s += 30
        made.awake.add(IDLE)
        made.push()
        # The page loads itself anew at the end, and has its button again.
        page.wait_for_selector("button")
        assert "to its next sample" in page.inner_text("main")
        looked_at(visited, page.url, "owner-awake")
    with visit(script=False) as visited:
        page = visited.go(program.link(IDLE, Purpose.RESUME))
        assert "to its next sample" in page.inner_text("main")
