"""One house a test: whatever a test starts is stopped at its end, and a test that fails shows what it logged.

The cloud of real guests is one for all tests, as a guest takes long to boot and longer to have slept.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.programs import tail
from tests.e2e.house import House

if TYPE_CHECKING:
    from tests.e2e.cloud import Cloud
    from tests.e2e.story import Notices, Slept

LOG_LINES = 60


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """The real programs below a folder of the test's own."""
    made = House(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    made = getattr(item, "funcargs", {}).get("house")
    if report.failed and isinstance(made, House):
        for log in sorted(made.logs.glob("*.log")):
            report.sections.append((f"log of {log.stem}", tail(log, LOG_LINES)))
    return report


@pytest.fixture(scope="session")
def cloud(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Three idle guests and the controller's settings."""
    # Loaded once somebody asks: most tests here need none of it.
    from tests.e2e.story import three_guests
    from tests.rig.session import session_rig

    with three_guests(session_rig(pytestconfig), tmp_path_factory.mktemp("cloud")) as made:
        yield made


@pytest.fixture(scope="session")
def pages(cloud: Cloud) -> str:
    """Where owners' pages are: the service runs, and its first turn is over before anybody says yes to anything."""
    return cloud.watch()


@pytest.fixture(scope="session")
def told(cloud: Cloud, pages: str) -> Notices:  # after the service's first turn
    """What each owner was told."""
    from tests.e2e.story import tell_owners

    return tell_owners(cloud)


@pytest.fixture(scope="session")
def slept(cloud: Cloud, pages: str, told: Notices) -> Slept:
    """One guest is kept, two are suspended."""
    from tests.e2e.story import suspend

    return suspend(cloud, pages, told)
