"""The benchmark of the report, at a small size."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from agent.settings import ConfigError
from aggregator.fleet_db import open_fleet_read_only
from bench import report as benchmark
from bench.outcome import Outcome
from bench.postgres import PostgresAbsent
from bench.report_fleet import build_fleet
from reports.fleet_report import make_report
from reports.policies import POLICIES
from reports.report import Question, Report
from reports.verdicts import Settings, Verdict
from tests.postgres import postgres_database

NOW_S = 1_795_000_020


def report_on(data: Path, url: str | None = None) -> Report:
    engine = open_fleet_read_only(url, data)
    asked = Question(policy=POLICIES["fallow-balanced"], settings=Settings(), now_s=NOW_S, reclaimable=False)
    try:
        return make_report(engine, asked)
    finally:
        engine.dispose()


def measured(*argv: str) -> Outcome:
    parser = argparse.ArgumentParser()
    benchmark.add_options(parser)
    return benchmark.run(parser.parse_args(["--vms", "60", "--rounds", "1", *argv]), lambda line: None)


def test_the_fleet_is_repeatable_and_holds_every_verdict(tmp_path: Path) -> None:
    """One seed makes one fleet, in which no verdict is missing and idle VMs are neither none nor all."""
    reports = []
    for name in ("a", "b"):
        data = tmp_path / name
        data.mkdir()
        build_fleet(data, vms=300, now_s=NOW_S, seed=3, histories=20)
        reports.append(report_on(data))
    assert reports[0] == reports[1]
    assert all(reports[0].totals.of(verdict) for verdict in Verdict)
    assert reports[0].totals.vms == 300


@pytest.mark.real
def test_the_fleet_is_the_same_on_postgresql(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Both databases are measured on the same VMs."""
    build_fleet(tmp_path, vms=100, now_s=NOW_S, seed=3, histories=10)
    with postgres_database(pytestconfig) as url:
        build_fleet(tmp_path, vms=100, now_s=NOW_S, seed=3, histories=10, url=url)
        assert report_on(tmp_path, url) == report_on(tmp_path)


@pytest.mark.real
def test_it_measures_and_holds_the_bars() -> None:
    """Figures have their units and the bars are those that were promised."""
    outcome = measured()
    assert (outcome.figures["vms"], outcome.figures["judged_vms"]) == (60, 60)
    on_sqlite = outcome.figures["sqlite"]
    assert isinstance(on_sqlite, dict)
    assert {"store_s", "command_s", "command_cpu_s", "report_s", "report_cpu_s"} <= on_sqlite.keys()
    assert [(bar.value, bar.limit, bar.at_least) for bar in outcome.bars] == [
        (outcome.figures["judge_all_s"], 5.0, False),
        (on_sqlite["command_s"], 1.0, False),
        (on_sqlite["report_s"], 0.3, False),
    ]


@pytest.mark.real
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before an hour of building, not after it."""

    def absent(*_arguments: object, **_options: object) -> object:
        raise PostgresAbsent("psycopg is not installed")

    monkeypatch.setattr(benchmark, "postgres_server", absent)
    with pytest.raises(ConfigError, match="--postgres: psycopg is not installed"):
        measured("--postgres")
    with pytest.raises(ConfigError, match=r"--vms: 1,000,000,000,000 VMs take .* choose --folder"):
        measured("--vms", str(10**12))


@pytest.mark.real
def test_several_nodes_are_measured_on_postgresql_alone(pytestconfig: pytest.Config) -> None:
    """The report over all nodes has its bars, and every summary was written as often as asked."""
    with postgres_database(pytestconfig):
        pass  # skips where there is no PostgreSQL
    outcome = measured("--nodes", "3", "--flushes", "2")
    assert outcome.figures["nodes"] == 3
    assert "sqlite" not in outcome.figures
    assert [bar.limit for bar in outcome.bars] == [1.0, 0.3]
    written = outcome.figures["writes"]
    assert isinstance(written, dict)
    assert 90 < written["summaries"] <= 120
    assert written["wal_bytes_per_summary"] > 0
    assert written["server_cpu_s_per_100k"] >= 0
