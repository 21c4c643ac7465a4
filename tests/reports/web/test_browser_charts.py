"""The charts in a real Chromium: that they are drawn, that gaps stay gaps, zoom, tables, and the report's file."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reports.html import to_html
from tests.reports import samples
from tests.reports.web.chromium import NARROW, SHOTS, WIDE, Visitor
from tests.reports.web.programs import Server

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.real


def drawn(page: Page, key: str, kind: str) -> list[str]:
    """The outlines of a chart that are seen: `js-line`, of which each run is one, or `js-fill`."""
    found: list[str] = page.eval_on_selector_all(
        f".chart[data-key={key}].drawn .scatterlayer path.{kind}",
        "(paths) => paths.filter((path) => path.style.strokeWidth !== '0px' || path.classList.contains('js-fill'))"
        ".map((path) => path.getAttribute('d') ?? '')",
    )
    return found


def summary(page: Page, key: str) -> str:
    return page.locator(f"#summary-{key}").inner_text()


def state(page: Page) -> str:
    return page.locator(".chart-state").inner_text()


def write_report(folder: Path) -> Path:
    file = folder / "report.html"
    file.write_text(to_html(samples.report(changes=samples.CHANGES), zone=samples.BERLIN), encoding="utf-8")
    return file


def test_a_vms_charts_are_drawn(visit: Visitor, server: Server) -> None:
    """Each measured metric has lines and bands with points; what was not measured says so instead."""
    with visit() as visited:
        page = visited.go(server.url + "vms/vm-scheduled")
        for key in ("cpu", "memory", "disk", "network", "users"):
            assert page.locator(f".chart[data-key={key}].drawn svg.main-svg").count() > 0
            assert drawn(page, key, "js-line")
            assert drawn(page, key, "js-fill")
            assert page.locator(f".chart[data-key={key}] [role=img]").get_attribute("aria-describedby")
        assert "disk space: not measured" in summary(page, "disk_space")
        assert page.locator(".chart[data-key=disk_space].drawn").count() == 0
        assert sum(path.count("L") for path in drawn(page, "cpu", "js-line")) > 50
        assert re.match(r"CPU: 9\.\d% on average, from 0\.3% to 40% \(", summary(page, "cpu"))


def test_a_gap_stays_a_gap(visit: Visitor, server: Server) -> None:
    """The line of a VM that was away is in two parts with a space between, the band too, and the text counts it."""
    with visit() as visited:
        page = visited.go(server.url + "vms/vm-active")
        (band,) = drawn(page, "memory", "js-fill")
        assert band.count("M") == 2
        xs = [[float(x) for x in re.findall(r"[ML]([\d.]+),", part)] for part in band.split("Z") if part]
        width = page.locator(".chart[data-key=memory] .nsewdrag").bounding_box()
        assert width is not None
        # A day and a half of a fortnight.
        assert min(xs[1]) - max(xs[0]) == pytest.approx(width["width"] * 1.5 / 14, rel=0.05)
        assert "1 gap without samples" in summary(page, "memory")


def test_a_span_is_chosen_and_zoomed(visit: Visitor, server: Server) -> None:
    """Buttons and the mouse choose a span; each time the server is asked for that span, and finer buckets come."""
    asked: list[str] = []
    with visit() as visited:
        visited.page.on("request", lambda request: asked.append(request.url) if "/series?" in request.url else None)
        page = visited.go(server.url + "vms/vm-oversized")
        assert "each 20 minutes" in state(page)
        with page.expect_response(re.compile("/series")):
            page.get_by_role("button", name="1 day").click()
        visited.until("document.querySelector('.chart-state').textContent.includes('5 minutes')")
        assert page.get_by_role("button", name="1 day").get_attribute("aria-pressed") == "true"
        for name in ("Zoom in", "Earlier", "Later", "Zoom out", "Reset zoom"):
            with page.expect_response(re.compile("/series")):
                page.get_by_role("button", name=name).click()
        visited.until("document.querySelector('.chart-state').textContent.includes('20 minutes')")
        surface = page.locator(".chart[data-key=cpu] .nsewdrag")
        surface.scroll_into_view_if_needed()
        box = surface.bounding_box()
        assert box is not None
        with page.expect_response(re.compile("/series")):
            page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 50)
            page.mouse.down()
            page.mouse.move(box["x"] + 0.35 * box["width"], box["y"] + 50, steps=5)
            page.mouse.up()
        visited.until("!document.querySelector('.chart-state').textContent.includes('20 minutes')")
        spans = [[int(part) for part in re.findall(r"(?:from|to)=(\d+)", address)] for address in asked]
        lengths_s = [to_s - from_s for from_s, to_s in spans]
        assert lengths_s[:7] == [14 * 86_400, 86_400, 43_200, 43_200, 43_200, 86_400, 14 * 86_400]
        assert lengths_s[7] == pytest.approx(0.1 * 14 * 86_400, rel=0.05)


def test_charts_end_with_the_newest_sample(visit: Visitor, server: Server) -> None:
    """Neither Later nor Zoom out runs into the future: the span stays as long as it is and ends where samples do."""
    asked: list[str] = []
    with visit() as visited:
        visited.page.on("request", lambda request: asked.append(request.url) if "/series?" in request.url else None)
        page = visited.go(server.url + "vms/vm-oversized")
        for name in ("Later", "Zoom out"):
            with page.expect_response(re.compile("/series")):
                page.get_by_role("button", name=name).click()
        spans = [[int(part) for part in re.findall(r"(?:from|to)=(\d+)", address)] for address in asked]
        newest_s = spans[0][1]
        assert [to_s for _, to_s in spans] == [newest_s] * 3
        assert [to_s - from_s for from_s, to_s in spans] == [14 * 86_400, 14 * 86_400, 28 * 86_400]


def test_a_chart_can_be_read_as_a_table(visit: Visitor, server: Server) -> None:
    """Every chart opens as a table with least, mean and largest value, whose largest is that of the samples."""
    with visit() as visited:
        page = visited.go(server.url + "vms/vm-scheduled")
        page.get_by_text("CPU as a table", exact=True).click()
        table = page.locator(".chart[data-key=cpu] table")
        table.wait_for()
        assert table.locator("thead th").all_inner_texts()[:4] == ["Until", "CPU, least", "mean", "largest"]
        rows = table.locator("tbody tr")
        assert 20 <= rows.count() <= 60
        largest = [float(text.rstrip("%")) for text in table.locator("tbody tr td:nth-child(4)").all_inner_texts()]
        assert max(largest) == 40.0
        visited.check()


def test_a_hosts_vms_are_stacked(visit: Visitor, server: Server) -> None:
    """A host's chart has an area for each VM with a line above all, in two parts where all were away."""
    with visit() as visited:
        page = visited.go(server.url + "hosts/h1")
        for key in ("cpu", "memory"):
            assert page.locator(f".chart[data-key={key}] .scatterlayer .trace").count() == 4
            areas = drawn(page, key, "js-fill")
            assert len(areas) == 3
            assert all(path.count("M") == 2 for path in areas)
        assert re.match(r"Together 3\.\d+ vCPU on average", summary(page, "cpu"))


def test_charts_follow_the_theme(visit: Visitor, server: Server) -> None:
    """When the reader's system turns dark, the charts that are there turn dark too."""
    with visit() as visited:
        page = visited.go(server.url + "vms/vm-idle")
        ground = "getComputedStyle(document.querySelector('.plot .bg')).fill"
        assert page.evaluate(ground) == "rgb(255, 255, 255)"
        page.emulate_media(color_scheme="dark")
        visited.until(f"{ground} !== 'rgb(255, 255, 255)'")


def test_times_of_charts_are_right_across_a_change_of_the_clocks(visit: Visitor, server: Server) -> None:
    """The hour that happens twice has two names, and the ticks of days are at midnights, 25 hours apart that day."""
    with visit() as visited:
        page = visited.go(server.url + "vms/vm-idle")
        first_s = 1_792_888_200  # 2026-10-25 02:30 in Berlin, for the first time
        words = page.evaluate("(at) => [0, 3600].map((s) => fallow.clock('Europe/Berlin').words(at + s))", first_s)
        assert words == ["2026-10-25 02:30 CEST", "2026-10-25 02:30 CET"]
        ticks = page.evaluate(
            "(at) => fallow.ticks(at - 3 * 86400, at + 3 * 86400, 'Europe/Berlin', 9).values", first_s
        )
        assert [after - before for before, after in pairwise(ticks)].count(25 * 3600) == 1
        assert page.evaluate("(at) => fallow.clock('Europe/Berlin').words(at).slice(11, 16)", ticks[0]) == "00:00"


def test_charts_say_when_they_cannot_be_drawn(visit: Visitor, server: Server) -> None:
    """Without store and aggregator a page is whole and says why it has no charts; so does one whose server went."""
    with visit(expected=[503]) as visited:
        page = visited.go(server.url + "vms/vm-long")
        assert "The charts cannot be drawn" in state(page)
        assert page.locator(".figures").first.is_visible()
    with visit() as visited:
        page = visited.go(server.url + "vms/vm-idle")
        page.route("**/series?*", lambda route: route.abort())
        page.get_by_role("button", name="7 days").click()
        visited.until("document.querySelector('.chart-state').textContent.includes('does not answer')")
        assert drawn(page, "cpu", "js-line")
        visited.problems = [problem for problem in visited.problems if "ERR_FAILED" not in problem]


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_in_one_file(visit: Visitor, tmp_path: Path, width: int, scheme: str) -> None:
    """Opened from a disk it is whole: nothing loaded, nothing that sticks out, every text readable."""
    file = write_report(tmp_path)
    with visit(width, scheme, script=False) as visited:
        loaded: list[str] = []
        visited.page.on("request", lambda request: loaded.append(request.url))
        page = visited.go(file.as_uri())
        assert loaded == [file.as_uri()]
        visited.shoot("report")
        assert page.locator("article").count() == 9
    with visit(width, scheme) as visited:
        visited.go(file.as_uri())
        visited.check()


def test_the_report_prints_on_paper(visit: Visitor, tmp_path: Path) -> None:
    """Printed on A4 it is light whatever the screen was, breaks between VMs, and loses nothing at the right edge."""
    file = write_report(tmp_path)
    with visit(scheme="dark") as visited:
        page = visited.go(file.as_uri())
        page.emulate_media(media="print", color_scheme="dark")
        # The width of A4 less its margins, at 96 dots an inch.
        page.set_viewport_size({"width": round((210 - 24) / 25.4 * 96), "height": 1000})
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(
            "[...document.querySelectorAll('.scroll')].every((each) => each.scrollWidth <= innerWidth)"
        )
        SHOTS.mkdir(parents=True, exist_ok=True)
        assert page.pdf(path=SHOTS / "report.pdf", prefer_css_page_size=True).startswith(b"%PDF")
