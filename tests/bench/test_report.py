"""The benchmark of the report, at a small size."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from aggregator.fleet_db import open_fleet_read_only
from bench.report import add_options, build_fleet, run
from reports.policies import P95
from reports.query import Question, Report, read_report, snapshot
from reports.verdicts import Limits, Verdict

NOW_S = 1_795_000_020


def report_on(data: Path) -> Report:
    engine = open_fleet_read_only(None, data)
    question = Question(policy=P95, limits=Limits(), window_days=14, now_s=NOW_S, verdict=None)
    try:
        with snapshot(engine) as connection:
            return read_report(connection, question)
    finally:
        engine.dispose()


def test_the_fleet_is_repeatable_and_holds_every_verdict(tmp_path: Path) -> None:
    """One seed makes one fleet, in which no verdict is missing and idle VMs are neither none nor all."""
    reports = []
    for name in ("a", "b"):
        data = tmp_path / name
        data.mkdir()
        build_fleet(data, vms=400, now_s=NOW_S, seed=3)
        reports.append(report_on(data))
    assert reports[0] == reports[1]
    assert all(reports[0].totals.of(verdict) for verdict in Verdict)
    assert reports[0].totals.vms == 400


@pytest.mark.real
def test_it_measures_and_holds_the_bar() -> None:
    """Figures have their units and the bar is the one that was promised."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    outcome = run(parser.parse_args(["--vms", "200", "--rounds", "1"]), lambda line: None)
    assert outcome.figures["vms"] == 200
    assert {"report_s", "cpu_s", "command_s"} <= outcome.figures.keys()
    (bar,) = outcome.bars
    assert (bar.value, bar.limit, bar.at_least) == (outcome.figures["report_s"], 0.3, False)
