"""Rules of the house for every test: a skip is a failure where everything should be there.

`.ci/run` sets FALLOW_CI=1 on a machine that it has made complete. A test that still skips itself
there, for want of a service, root or a trace, would be a promise that nobody checked.
"""

from __future__ import annotations

import os

import hypothesis
import pytest

# A slow machine is no counter-example: examples have no time bar of their own. `.ci/run` judges a change and not luck:
# its examples follow from the tests alone. Runs by hand go on searching, and find what is rare.
hypothesis.settings.register_profile("fallow", deadline=None)
hypothesis.settings.register_profile("fallow-ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fallow-ci" if os.environ.get("FALLOW_CI") == "1" else "fallow")


class SkipsFail:
    """Collects what was skipped, whole files too, and fails the session if anything was."""

    def __init__(self) -> None:
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # An expected failure is reported as skipped too, but it did run.
        if report.skipped and not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._note(report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.skipped and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            terminalreporter.section("skipped, which FALLOW_CI=1 forbids", red=True, bold=True)
            for line in self.skipped:
                terminalreporter.line(line)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        self.skipped.append(f"{report.nodeid}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("FALLOW_CI") == "1":
        config.pluginmanager.register(SkipsFail(), "fallow-skips-fail")
