"""`fallow-report judge`: recorded VMs judged, and verdicts stored for later reports."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from agent.traces import Recording, read_trace
from aggregator.summary import WINDOWS_DAYS
from reports.config import ReportConfig
from reports.judge_cli import add_options, run
from reports.policies import DEFAULT_POLICY, POLICIES
from reports.recorded import adapt, facts_of, recorded_vms, unrecorded
from reports.report import RECLAIMABLE, Question
from reports.savings import Prices
from reports.tables import verdict
from reports.trace_report import report_of
from reports.verdict_table import RunClash
from reports.verdicts import Settings, Verdict, judge
from tests.reports.fleets import NOW_S, one_of_each, write_fleet
from tests.reports.recordings import DAY_S, GIB, START_S, flushed, recording, write_bitbrains
from tests.traces import trace


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def judged(*argv: str, config: ReportConfig | None = None, **changes: Any) -> Ended:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    out, err = io.StringIO(), io.StringIO()
    code = run(
        parser.parse_args(argv), config or ReportConfig(), out=out, err=err, clock=lambda: float(NOW_S), **changes
    )
    return Ended(code, out.getvalue(), err.getvalue())


QUIET = {"disk_read": 0.0, "disk_write": 0.0, "net_rx": 0.0, "net_tx": 0.0, "mem_used": 0.3 * GIB}
SAMPLES = 30 * 288


def vms() -> list[Recording]:
    """One asleep, one at work, one too large, one that fell silent, one that is new."""
    asleep, half = np.full(SAMPLES, 0.001), np.full(SAMPLES // 2, 0.001)
    wide = {**QUIET, "net_rx": 2e5, "mem_total": 64 * GIB, "mem_used": 7 * GIB}
    kinds: dict[str, dict[str, Any]] = {
        "1": {"cpu": asleep, **QUIET},
        "2": {"cpu": np.full(SAMPLES, 0.6), **QUIET, "mem_used": 3.5 * GIB, "net_rx": 2e6},
        "3": {"cpu": np.full(SAMPLES, 0.12), "cpu_count": 16, **wide},
        "4": {"cpu": half, **QUIET},
        "5": {"cpu": np.full(288, 0.001), "start_s": START_S + 29 * DAY_S, **QUIET},
    }
    return [recording(name, interval_s=300, **kind) for name, kind in kinds.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_bitbrains(tmp_path_factory.mktemp("trace"), vms()))


def verdicts_of(ended: Ended) -> dict[str, str]:
    return {vm["vm"]: vm["verdict"] for vm in json.loads(ended.out)["vms"]}


def test_every_recorded_vm_gets_a_verdict(folder: str) -> None:
    """The idle and the oversized come first with what they free; silence and youth are not idleness."""
    ended = judged("--trace", folder, "--json")
    assert ended.code == 0
    assert verdicts_of(ended) == {
        "bb-1": "idle",
        "bb-3": "oversized",
        "bb-2": "active",
        "bb-4": "insufficient data",
        "bb-5": "insufficient data",
    }
    found = json.loads(ended.out)
    assert found["generated_at_s"] == START_S + 30 * DAY_S
    ranks = {vm["vm"]: vm["rank"] for vm in found["vms"]}
    assert (ranks["bb-2"], ranks["bb-4"], ranks["bb-5"]) == (None, None, None)
    assert {ranks["bb-1"], ranks["bb-3"]} == {1, 2}
    causes = {vm["vm"]: vm["cause"] for vm in found["vms"]}
    assert (causes["bb-4"], causes["bb-5"]) == ("silent", "too_new")
    assert found["totals"]["vms"] == 5


def test_text_has_the_table_and_a_sentence_on_demand(folder: str) -> None:
    """The usual text: a line a VM, totals below; `--why` adds why."""
    text = judged("--trace", folder).out
    assert "2023-12-13 00:00 UTC" in text.splitlines()[0]
    assert "fallow-balanced" in text
    assert all(f"bb-{number}" in text for number in range(1, 6))
    assert len(judged("--trace", folder, "--why").out.splitlines()) > len(text.splitlines()) + 4


def test_top_lists_the_most_worthwhile_alone(folder: str) -> None:
    """With `--top` only VMs that give something back are listed, the totals still count all."""
    found = json.loads(judged("--trace", folder, "--top", "1", "--json").out)
    assert [vm["vm"] for vm in found["vms"]] == ["bb-3"]
    assert (found["matching"], found["totals"]["vms"]) == (2, 5)


def test_csv_has_a_row_a_vm(folder: str) -> None:
    """Under the usual header."""
    rows = list(csv.DictReader(io.StringIO(judged("--trace", folder, "--csv").out)))
    assert {row["vm"]: row["verdict"] for row in rows} == verdicts_of(judged("--trace", folder, "--json"))


def test_until_judges_as_of_a_day(folder: str) -> None:
    """At the end of the 15th day the one that fell silent then was idle still, and the new one was not there."""
    found = verdicts_of(judged("--trace", folder, "--until", "2023-11-27", "--json"))
    assert found == {"bb-1": "idle", "bb-2": "active", "bb-3": "oversized", "bb-4": "idle"}
    text = judged("--trace", folder, "--until", "2023-11-27").out
    assert "2023-11-28 00:00 UTC" in text.splitlines()[0]
    by_time = verdicts_of(judged("--trace", folder, "--until", "2023-11-28T00:00", "--json"))
    assert by_time == found


def test_window_and_policy_are_those_asked_for(folder: str) -> None:
    """A window that no aggregator keeps can be asked of a trace; strictness is short for one of ours."""
    found = json.loads(judged("--trace", folder, "--window", "5d", "--strictness", "cautious", "--json").out)
    assert (found["window_days"], found["policy"]) == (5, "fallow-cautious")
    assert json.loads(judged("--trace", folder, "--policy", "p95", "--json").out)["policy"] == "p95"


def test_prices_of_the_configuration_count(folder: str) -> None:
    """Savings are in its currency."""
    config = replace(ReportConfig(), prices=Prices(currency="EUR", vcpu_hour=0.02))
    found = json.loads(judged("--trace", folder, "--json", config=config).out)
    saved = {vm["vm"]: vm["savings"]["money_per_month"] for vm in found["vms"]}
    assert saved["bb-1"] == pytest.approx(2 * 0.02 * 730)


def test_what_the_trace_lacks_is_said(folder: str) -> None:
    """On stderr for people, and the rules are not among those of the report."""
    ended = judged("--trace", folder, "--policy", "classic", "--json")
    assert "classic: judged without disk space, not recorded in the trace" in ended.err
    rules = [rule["name"] for rule in json.loads(ended.out)["limits"]["rules"]]
    assert rules == ["cpu_busy.mean", "mem_used.mean"]


def test_all_policies_side_by_side(folder: str) -> None:
    """`--policy all` compares, in each form."""
    found = json.loads(judged("--trace", folder, "--policy", "all", "--json").out)
    assert [policy["name"] for policy in found["policies"]] == list(POLICIES)
    rows = list(csv.DictReader(io.StringIO(judged("--trace", folder, "--policy", "all", "--csv").out)))
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert "judged by" in judged("--trace", folder, "--policy", "all").out


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--trace", "/absent"], "--trace: /absent"),
        (["--trace", "TRACE", "--until", "noon"], "--until: 'noon' is not a date"),
        (["--trace", "TRACE", "--until", "2001-01-01"], "no VM has a sample until then"),
        (["--trace", "TRACE", "--policy", "mine"], "--policy: 'mine' is not a policy"),
    ],
)
def test_mistakes_are_named(folder: str, argv: list[str], named: str) -> None:
    """Each is a mistake of usage, and the message says which option and what."""
    with pytest.raises(ConfigError) as raised:
        judged(*(folder if word == "TRACE" else word for word in argv))
    assert named in str(raised.value)


@pytest.mark.parametrize("argv", [[], ["--store", "--trace", "x"]])
def test_a_trace_or_the_fleet(argv: list[str]) -> None:
    """One of the two has to be asked for."""
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        judged(*argv)


def report_verdicts(recordings: Sequence[Recording], policy: str) -> dict[str, Verdict]:
    recorded = list(recorded_vms(recordings, WINDOWS_DAYS))
    adapted = adapt(POLICIES[policy], unrecorded(recorded))
    assert adapted is not None
    facts = facts_of(recordings, WINDOWS_DAYS)
    question = Question(
        policy=adapted.policy, settings=Settings(), now_s=float(facts.newest_s.max()), reclaimable=False
    )
    return {one.judgement.vm.vm_id: one.judgement.verdict for one in report_of(facts, question).listed}


def test_a_trace_gives_the_verdicts_of_the_fleet(tmp_path: Path) -> None:
    """What is told of recorded VMs is what a report tells after an aggregator took the same samples."""
    recordings = [*vms(), *read_trace(trace("bitbrains/raw-sample-4vms.tar.xz"))]
    recordings = [replace(one, vm=f"vm-{place:02}") for place, one in enumerate(recordings)]
    with flushed(tmp_path, recordings) as facts:
        for name in POLICIES:
            adapted = adapt(POLICIES[name], frozenset({"disk_used", "cpu_max", "users"}))
            assert adapted is not None
            theirs = judge(facts, adapted.policy, Settings(), now_s=float(facts.newest_s.max()))
            expected = {vm.vm_id: theirs.cause(row).verdict for row, vm in enumerate(facts.vms)}
            assert report_verdicts(recordings, name) == expected, name


def test_a_report_counts_each_vm_once(folder: str) -> None:
    """Totals are the sums of the listed VMs, and nothing is listed twice."""
    facts = facts_of(vms(), WINDOWS_DAYS)
    question = Question(
        policy=POLICIES[DEFAULT_POLICY], settings=Settings(), now_s=float(facts.newest_s.max()), reclaimable=False
    )
    report = report_of(facts, question)
    listed = [one.judgement for one in report.listed]
    assert len({one.vm.vm_id for one in listed}) == len(listed) == report.totals.vms == report.matching
    for name in RECLAIMABLE:
        assert report.totals.of(name) == sum(one.verdict is name for one in listed)
        assert report.totals.freed[name].vcpus == pytest.approx(
            sum(one.savings.vcpus for one in listed if one.verdict is name)
        )


def test_verdicts_of_the_fleet_are_stored(tmp_path: Path) -> None:
    """A row a VM for the reports to come, and a line of what was found."""
    specs = one_of_each()
    write_fleet(tmp_path, specs)
    ended = judged("--store", config=ReportConfig(data_dir=tmp_path))
    assert ended.code == 0
    assert ended.out.startswith(f"fallow-balanced: {len(specs)} VMs judged: ")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'fleet.db'}")
    try:
        with engine.connect() as connection:
            assert connection.scalar(sa.select(sa.func.count()).select_from(verdict)) == len(specs)
    finally:
        engine.dispose()


def test_verdicts_of_every_policy_are_stored(tmp_path: Path) -> None:
    """With `--policy all`, a line and a set of rows each."""
    write_fleet(tmp_path, one_of_each())
    ended = judged("--store", "--policy", "all", config=ReportConfig(data_dir=tmp_path))
    assert [line.partition(":")[0] for line in ended.out.splitlines()] == list(POLICIES)


@pytest.mark.parametrize(
    ("option", "words"),
    [("until", ["2013-08-15"]), ("top", ["3"]), ("why", []), ("json", []), ("csv", [])],
)
def test_options_of_a_trace_do_not_go_with_the_fleet(tmp_path: Path, option: str, words: list[str]) -> None:
    """Each is named, and nothing is judged."""
    with pytest.raises(ConfigError) as raised:
        judged("--store", f"--{option}", *words, config=ReportConfig(data_dir=tmp_path / "absent"))
    assert raised.value.problems == [f"judge: --{option} goes with --trace, not with --store"]


def test_another_run_meanwhile_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the exit code is 1: the rows are those of the other run."""

    def clash(*_: object) -> None:
        raise RunClash("another run wrote to fallow-balanced/14d")

    write_fleet(tmp_path, one_of_each())
    monkeypatch.setattr("reports.judging.store_verdicts", clash)
    ended = judged("--store", config=ReportConfig(data_dir=tmp_path))
    assert (ended.code, ended.out) == (1, "")
    assert "another run wrote to fallow-balanced/14d" in ended.err


def test_no_fleet_is_a_mistake_of_usage(tmp_path: Path) -> None:
    """Nothing is made where no aggregator keeps its data."""
    with pytest.raises(ConfigError):
        judged("--store", config=ReportConfig(data_dir=tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()
