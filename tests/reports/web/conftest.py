"""What tests in a browser share. One browser and one server a file: other files run without either."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest
from twisted.internet.process import reapAllProcesses
from twisted.internet.task import LoopingCall

from tests.reports.fleets import write_fleet
from tests.reports.web.chromium import STORED, Visit, Visitor, chromium, fill_stores, fleet
from tests.reports.web.programs import Server, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def visit(browser: Browser, server: Server) -> Visitor:
    """Opens a page in a context of its own, where an admin of `server` is logged in unless told otherwise."""
    return partial(Visit, browser, cookie=server.cookie)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The program over a fleet of every verdict, with stores for some VMs. Its tests change nothing."""
    data_dir = tmp_path_factory.mktemp("pages")
    specs = fleet()
    write_fleet(data_dir, specs)
    fill_stores(data_dir, specs, STORED)
    with serving(data_dir) as running:
        yield running


@pytest.fixture(autouse=True)
def reaped() -> Iterator[None]:
    """Ended child processes are noticed here even where another test of the run took Twisted's signals away."""
    looking = LoopingCall(reapAllProcesses)
    looking.start(0.05)
    yield
    looking.stop()
