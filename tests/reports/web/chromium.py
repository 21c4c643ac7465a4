"""Debian's Chromium, driven by Playwright, over the real server program; and what every visit to a page must hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest

from tests.aggregator.store_fakes import DAY_S, fill, packed_row
from tests.reports.fleets import INTERVAL_S, Load, Spec, one_of_each

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

SHOTS = Path(__file__).parents[3] / "build" / "screenshots"
EVIL = "<script>alert(1)</script>"
NARROW, WIDE = 390, 1440
POLLS, POLL_MS = 300, 100
_BROKEN_OFF = "net::ERR_ABORTED"  # by the browser, when what it asked for is no longer wanted
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
STORED = ("vm-idle", "vm-scheduled", "vm-oversized", "vm-active", "vm-evil")
STORED_DAYS = 20
GAP_DAYS = (3.0, 4.5)  # before the newest sample

# The contrast of every text that is seen with what lies behind it, worst first: [ratio, text, colour, ground].
CONTRASTS = """() => {
  const parse = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return found.length < 4 ? [...found, 1] : found;
  };
  const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = parse(getComputedStyle(at).backgroundColor);
      if (found[3] === 1) return found;
    }
    return [255, 255, 255, 1];
  };
  const unseen = "script,style,noscript,svg,.visually-hidden,.skip";
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.closest(unseen)) continue;
    const [over, under] = [parse(getComputedStyle(element).color), ground(element)];
    const [most, least] = [light(over), light(under)].sort((one, other) => other - one);
    found.push([(most + 0.05) / (least + 0.05), text.slice(0, 40), over.join(), under.join()]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser. Skips where Playwright or Chromium is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One page in a context of its own, which takes note of all that goes wrong in it.

    Attributes:
        problems: console errors, exceptions, requests that failed, answers of 400 and above. Not a request that the
            browser itself broke off: it does so with an icon that has not come when the next page is asked for.
        expected: statuses of answers that are no problem.
        cookie: `name=value` of a session on 127.0.0.1; empty for nobody.
    """

    browser: Browser
    width: int = WIDE
    scheme: str = "light"
    script: bool = True
    expected: Sequence[int] = ()
    cookie: str = field(default="", repr=False)
    problems: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.context = self.browser.new_context(
            viewport={"width": self.width, "height": 900},
            color_scheme="dark" if self.scheme == "dark" else "light",
            java_script_enabled=self.script,
        )
        if self.cookie:
            name, _, value = self.cookie.partition("=")
            self.context.add_cookies([{"name": name, "value": value, "url": "http://127.0.0.1/"}])
        self.page: Page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()
        if error is None:
            assert self.problems == []

    def resize(self, width: int) -> None:
        """Makes the window so wide."""
        self.width = width
        self.page.set_viewport_size({"width": width, "height": 900})

    def go(self, address: str) -> Page:
        """Opens a page, asks again while its answer is being made, and waits until its charts, if any, are drawn."""
        for _ in range(POLLS):
            answer = self.page.goto(address)
            if answer is None or answer.status != 202:
                break
            self.page.wait_for_timeout(POLL_MS)
        if self.script and self.page.locator("#charts-section").count():
            self.page.wait_for_selector("#charts-section[data-state=done]")
        return self.page

    def until(self, expression: str) -> None:
        """Waits until this holds in the page. Playwright's own wait would need `eval`, which no page of ours allows."""
        for _ in range(POLLS):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(POLL_MS)
        pytest.fail(f"it never held: {expression}")

    def shoot(self, name: str) -> None:
        """Leaves a picture of the whole page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        suffix = "" if self.scheme == "light" else f"-{self.scheme}"
        self.page.screenshot(path=SHOTS / f"{name}-{self.width}{suffix}.png", full_page=True)

    def check(self) -> None:
        """What holds for every page: nothing sticks out sideways, one heading, every text can be read."""
        page = self.page
        sizes = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert sizes[0] <= sizes[1]
        assert page.locator("h1").count() == 1
        assert page.locator("main").count() == 1
        assert page.locator("main script").count() == 0
        too_faint = [each for each in page.evaluate(CONTRASTS) if each[0] < 4.5]
        assert too_faint == []

    def _console(self, message: ConsoleMessage) -> None:
        # An answer of 400 and above is told of here too; `_answered` knows which are expected.
        if message.type in {"error", "warning"} and "the server responded with a status" not in message.text:
            self.problems.append(f"console: {message.text}")

    def _failed(self, request: Request) -> None:
        # A server that closes too early or is not there makes other errors, and so does a policy that forbids.
        if request.failure == _BROKEN_OFF:
            return
        self.problems.append(f"request failed: {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.expected:
            self.problems.append(f"{response.status} {response.url}")


Visitor = Callable[..., Visit]


def fleet() -> list[Spec]:
    """One VM of each verdict and more, some with names that try a page."""
    extra = [
        Spec(vm_id="vm-evil", name=EVIL, owner='"><img src=x onerror=alert(2)>', tags=("<b>x</b>", "host:h1")),
        Spec(vm_id="vm-long", name="n" * 200, owner="o" * 120, hostname="h" * 63 + ".example", mem_gib=512.0),
        Spec(vm_id="vm-unsized", vcpus=None, mem_gib=None, disk_gib=None, owner="ann"),
        Spec(vm_id="vm-skew", name="clock", skew_s=-500.0, identity_conflict=True, conflicts=12),
    ]
    more = [Spec(vm_id=f"vm-{number:03}", name=f"node-{number:03}", owner=f"team-{number % 7}") for number in range(60)]
    return [*one_of_each(), *extra, *more]


def fill_stores(data_dir: Path, specs: Sequence[Spec], vm_ids: Sequence[str]) -> None:
    """Stores with the last days of these VMs' samples, and a gap in them."""
    by_id: Mapping[str, Spec] = {spec.vm_id: spec for spec in specs}
    for vm_id in vm_ids:
        spec = by_id[vm_id]
        assert spec.load is not None
        fill(data_dir, vm_id, _rows(spec.load, spec.newest_s))


def _rows(load: Load, newest_s: int) -> bytes:
    ts = newest_s - INTERVAL_S * np.arange(STORED_DAYS * DAY_S // INTERVAL_S - 1, -1, -1)
    age_days = (newest_s - ts) / DAY_S
    ts = ts[(age_days < GAP_DAYS[0]) | (age_days > GAP_DAYS[1])]
    shapes: dict[str, Any] = {
        "cpu_busy_ratio": load.cpu,
        "cpu_max_ratio": load.burst,
        "disk_read_bytes_per_s": load.disk_read,
        "disk_write_bytes_per_s": load.disk_write,
        "net_rx_bytes_per_s": load.net_rx,
        "net_tx_bytes_per_s": load.net_tx,
        "users": load.users,
    }
    figures = {name: shape.at(ts.astype(float)) for name, shape in shapes.items() if shape is not None}
    figures["mem_used_bytes"] = load.mem.at(ts.astype(float)) * (1 << 30)
    columns = {name: values.tolist() for name, values in figures.items()}
    return b"".join(
        packed_row(at, interval_s=INTERVAL_S, **{name: values[row] for name, values in columns.items()})
        for row, at in enumerate(ts.tolist())
    )
