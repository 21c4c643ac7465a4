"""`fallow-report` without a command: what is asked reaches the report, and the form is the one wanted."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agent.settings import ConfigError
from reports.config import ReportConfig
from reports.events import Event, EventKind, record_event
from reports.fleet_report import ON_THE_SPOT_VMS
from reports.judging import store_verdicts
from reports.measures import Measure
from reports.policies import POLICIES
from reports.policy import Comparison, Policy, Rule
from reports.report import Sort
from reports.report_cli import add_options, run
from reports.schema import open_report_db
from reports.verdicts import Verdict
from tests.reports.fleets import NOW_S, VERDICTS_OF_EACH, Spec, one_of_each, write_fleet
from tests.reports.golden import POLICY, PRICES


@pytest.fixture(scope="module")
def fleet_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a VM of each kind; only read."""
    folder = tmp_path_factory.mktemp("data")
    write_fleet(folder, one_of_each())
    return folder


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser)
    return parser.parse_args(argv)


def answer(folder: Path, *argv: str, config: ReportConfig | None = None, width: int | None = None) -> str:
    """What one call prints."""
    out = io.StringIO()
    config = replace(config or ReportConfig(), data_dir=folder)
    assert run(parse(*argv), config, out=out, clock=lambda: NOW_S, width=width) == 0
    return out.getvalue()


def vms(folder: Path, *argv: str, **settings: Any) -> list[str]:
    """The ids of the VMs that are listed, in order."""
    return [vm["vm"] for vm in document(folder, *argv, **settings)["vms"]]


def document(folder: Path, *argv: str, **settings: Any) -> dict[str, Any]:
    found = json.loads(answer(folder, *argv, "--json", **settings))
    assert isinstance(found, dict)
    return found


def wrong(capsys: pytest.CaptureFixture[str], argv: Sequence[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_the_reclaimable_vms_are_listed_by_default(fleet_dir: Path) -> None:
    """Ranked by what they free and how sure that is; totals count all."""
    found = document(fleet_dir)
    assert [vm["vm"] for vm in found["vms"]] == ["vm-oversized", "vm-idle", "vm-scheduled"]
    assert [vm["rank"] for vm in found["vms"]] == [1, 2, 3]
    assert found["totals"]["vms"] == 10


def test_all_gives_every_verdict(fleet_dir: Path) -> None:
    """Each VM of the catalogue, reclaimable ones first."""
    found = document(fleet_dir, "--all")["vms"]
    assert {vm["vm"]: vm["verdict"] for vm in found} == {
        vm_id: verdict.value for vm_id, verdict in VERDICTS_OF_EACH.items()
    }
    assert [vm["rank"] for vm in found] == [1, 2, 3, *[None] * 7]


@pytest.mark.parametrize("words", ["insufficient", "insufficient data", "insufficient-data", "Insufficient"])
def test_a_verdict_may_be_said_in_several_ways(fleet_dir: Path, words: str) -> None:
    """The verdict with a space in its name needs no quotes."""
    assert set(vms(fleet_dir, "--verdict", words)) == {"vm-silent", "vm-new", "vm-bare", "vm-mute", "vm-off"}


@pytest.mark.parametrize(
    ("argv", "listed"),
    [
        (["--owner", "ann"], ["vm-oversized", "vm-idle"]),
        (["--owner", "an"], []),
        (["--search", "WEB"], ["vm-idle"]),
        (["--search", "host:h1"], ["vm-oversized"]),
        (["--search", "production", "--all"], ["vm-active", "vm-kept"]),
        (["--verdict", "idle", "--owner", "bob"], []),
        (["--top", "1"], ["vm-oversized"]),
        (["--sort", "name"], ["vm-oversized", "vm-scheduled", "vm-idle"]),
        (["--sort", "disk"], ["vm-idle", "vm-oversized", "vm-scheduled"]),
    ],
)
def test_lists_are_filtered_and_ordered(fleet_dir: Path, argv: list[str], listed: list[str]) -> None:
    """By owner exactly, by a text whatever its case, by a key; never the totals."""
    found = document(fleet_dir, *argv)
    assert [vm["vm"] for vm in found["vms"]] == listed
    assert found["totals"]["vms"] == 10


def test_all_lifts_the_bound_of_the_list(tmp_path: Path) -> None:
    """20 VMs are listed unless another number is asked for, on the command line or in the configuration."""
    write_fleet(tmp_path, [Spec(vm_id=f"vm-{place:02}") for place in range(25)])
    assert len(vms(tmp_path)) == 20
    assert len(vms(tmp_path, "--top", "3")) == 3
    assert len(vms(tmp_path, config=replace(ReportConfig(), top=4))) == 4
    assert len(vms(tmp_path, "--all", "--verdict", "idle")) == 25
    assert document(tmp_path, "--top", "3")["matching"] == 25


@pytest.mark.parametrize(
    ("argv", "policy"),
    [
        ([], "golden"),
        (["--policy", "p95"], "p95"),
        (["--policy", "fallow"], "fallow-balanced"),
        (["--strictness", "cautious"], "fallow-cautious"),
        (["--policy", "golden"], "golden"),
    ],
)
def test_the_command_line_wins_over_the_configuration(fleet_dir: Path, argv: list[str], policy: str) -> None:
    """A policy of the file can be asked for by its name, as any other."""
    config = replace(ReportConfig(), policy=POLICY, own_policies={"golden": POLICY}, window_days=7)
    assert document(fleet_dir, *argv, config=config)["policy"] == policy
    assert document(fleet_dir, *argv, config=config)["window_days"] == 7
    assert document(fleet_dir, *argv, "--window", "30d", config=config)["window_days"] == 30


def test_silence_may_be_longer(fleet_dir: Path) -> None:
    """What was silent for an hour is judged by what it did before."""
    found = document(fleet_dir, "--all", "--silent-after", "3h")
    assert found["limits"]["silent_after_s"] == 10_800
    assert {vm["vm"]: vm["verdict"] for vm in found["vms"]}["vm-silent"] == "idle"


def test_each_form_is_printed(fleet_dir: Path) -> None:
    """Text, JSON, CSV, HTML and mail of the same VMs."""
    text = answer(fleet_dir, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "Proposed" not in text
    assert "Proposed" in answer(fleet_dir, "--why")
    rows = list(csv.DictReader(io.StringIO(answer(fleet_dir, "--csv"), newline="")))
    assert [row["vm"] for row in rows] == vms(fleet_dir)
    assert answer(fleet_dir, "--html").startswith("<!DOCTYPE html>")
    assert "Proposed: give it back." in answer(fleet_dir, "--mail")


def test_stored_verdicts_are_used_while_they_are_fresh(tmp_path: Path) -> None:
    """An hour later they give totals and order of a large fleet still; past `fresh_for` it is judged anew."""
    write_fleet(tmp_path, [Spec(vm_id=f"vm-{place}") for place in range(ON_THE_SPOT_VMS + 1)])
    engine = open_report_db(None, tmp_path)
    config = ReportConfig()
    store_verdicts(engine, engine, config.policy, config.settings, NOW_S - 3000)
    engine.dispose()
    assert document(tmp_path)["judged_at_s"] == NOW_S - 3000
    assert "Totals and order are of 2026-11-16 11:16 UTC" in answer(tmp_path)
    old = replace(config, serve=replace(config.serve, fresh_for_s=2999.0))
    assert document(tmp_path, config=old)["judged_at_s"] == NOW_S
    assert document(tmp_path, "--policy", "p95")["judged_at_s"] == NOW_S


def test_what_became_of_vms_is_told_on_demand(tmp_path: Path) -> None:
    """From so long ago on."""
    write_fleet(tmp_path, [Spec()])
    engine = open_report_db(None, tmp_path)
    with engine.begin() as connection:
        for days, vm_id in ((1, "vm-a"), (9, "vm-b")):
            event = Event(at_s=NOW_S - days * 86_400, vm_id=vm_id, kind=EventKind.KEPT, by="ann")
            record_event(connection, event)
    engine.dispose()
    assert document(tmp_path)["changes"] is None
    assert document(tmp_path, "--since", "7d")["changes"]["kept"] == 1
    assert document(tmp_path, "--since", "10d")["changes"]["kept"] == 2


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--window", "5 parsecs"], "argument --window: '5 parsecs' is not a duration"),
        (["--window", "0d"], "argument --window: '0d' is not more than zero"),
        (["--window", "36h"], "argument --window: '36h' is not a number of whole days"),
        (["--verdict", "bored"], "argument --verdict: 'bored' is not a verdict (idle, scheduled, oversized, "),
        (["--sort", "luck"], "argument --sort: 'luck' is not a key to order by (score, "),
        (["--top", "0"], "argument --top: 0 is not at least 1"),
        (["--top", "5", "--all"], "argument --all: not allowed with argument --top"),
        (["--json", "--csv"], "argument --csv: not allowed with argument --json"),
        (["--html", "--mail"], "argument --mail: not allowed with argument --html"),
        (["--strictness", "wild"], "argument --strictness: invalid choice: 'wild'"),
        (["--policy", "p95", "--strictness", "bold"], "argument --strictness: not allowed with argument --policy"),
        (["--silent-after", "60"], "argument --silent-after: '60' is not a duration"),
        (["--since", "yesterday"], "argument --since: 'yesterday' is not a duration"),
    ],
)
def test_a_wrong_option_is_named(capsys: pytest.CaptureFixture[str], argv: list[str], problem: str) -> None:
    """Exit code 2, the option and what is wrong with it."""
    assert problem in wrong(capsys, argv)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--policy", "best"], "--policy: 'best' is not a policy (fallow-cautious, "),
        (["--window", "9d"], "--window: the aggregator keeps no window of 9d (choose from 1d, 3d, 7d, 14d, 30d)"),
        (["--sort", "money"], "--sort: money needs prices, which the configuration has in [report.prices]"),
    ],
)
def test_what_the_fleet_cannot_answer_is_a_usage_error(fleet_dir: Path, argv: list[str], problem: str) -> None:
    """It names what there is; nothing is printed."""
    out = io.StringIO()
    with pytest.raises(ConfigError) as caught:
        run(parse(*argv), replace(ReportConfig(), data_dir=fleet_dir), out=out, clock=lambda: NOW_S)
    assert str(caught.value).startswith(problem)
    assert out.getvalue() == ""


def test_a_window_of_the_policy_that_is_not_kept_is_a_usage_error(fleet_dir: Path) -> None:
    """The policy, its window and those that are kept: else no VM could be judged, and nobody would know why."""
    rule = Rule(measure=Measure.parse("cpu_busy.p95", 9), comparison=Comparison.BELOW, limit=0.05)
    owls = Policy(name="owls", summary="x", source="y", idle_when=rule)
    with pytest.raises(ConfigError) as caught:
        answer(fleet_dir, config=replace(ReportConfig(), policy=owls, own_policies={"owls": owls}))
    assert str(caught.value) == "policy owls: the aggregator keeps no window of 9d (it keeps 1d, 3d, 7d, 14d, 30d)"


def test_the_database_is_left_closed(fleet_dir: Path) -> None:
    """Whatever comes of the report."""
    opened: list[sa.Engine] = []

    def opening(_url: str | None, _data: Path) -> sa.Engine:
        opened.append(sa.create_engine(f"sqlite:///{fleet_dir / 'fleet.db'}"))
        return opened[-1]

    for argv in (["--json"], ["--window", "9d"]):
        try:
            run(parse(*argv), ReportConfig(), out=io.StringIO(), clock=lambda: NOW_S, open_to_read=opening)
        except ConfigError:
            assert "9d" in argv
    assert [engine.pool.checkedin() for engine in opened] == [0, 0]  # type: ignore[attr-defined]


def test_money_orders_with_prices(fleet_dir: Path) -> None:
    """And every other key with or without them."""
    assert vms(fleet_dir, "--sort", "money", config=replace(ReportConfig(), prices=PRICES))[0] == "vm-oversized"
    for sort in Sort:
        if sort is not Sort.MONEY:
            assert len(vms(fleet_dir, "--sort", sort.value)) == 3


def test_help_names_what_can_be_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Every verdict, key and policy."""
    with pytest.raises(SystemExit):
        parse("--help")
    words = " ".join(capsys.readouterr().out.split())
    for name in (*(verdict.value.split()[0] for verdict in Verdict), *(sort.value for sort in Sort), *POLICIES):
        assert name in words


def test_the_settings_in_the_document_are_the_defaults() -> None:
    """docs/report.md shows a file that can be used: prices and zone apart it asks for what is asked anyway."""
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    table = tomllib.loads(block)
    config = ReportConfig.parse(table, source="docs/report.md")
    plain = ReportConfig()
    assert (
        replace(
            config,
            prices=plain.prices,
            zone=plain.zone,
            serve=replace(config.serve, admin_token_file=None),
        )
        == plain
    )
    assert config.prices == PRICES
    # Every key has its row, with the defaults that the file repeats.
    for key, value in table["report"].items():
        for name in (f"{key}.{inner}" for inner in value) if isinstance(value, dict) else (key,):
            assert f"`{name}`" in text, name
