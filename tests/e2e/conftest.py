"""One house a test: whatever a test starts is stopped at its end, and a test that fails shows what it logged."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from bench.programs import tail
from tests.e2e.house import House

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
