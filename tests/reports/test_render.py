"""JSON and CSV of a report."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.facts import Vm
from reports.fleet_report import make_report
from reports.policies import POLICIES
from reports.policy import Either, Policy, at_most
from reports.render import to_csv, to_json
from reports.report import RECLAIMABLE, Report
from reports.verdicts import Cause, Settings, Verdict
from tests.reports import columns, samples
from tests.reports.fleets import NEWEST_S, NOW_S, VERDICTS_OF_EACH, Spec, one_of_each, question, stored
from tests.reports.golden import PRICES

DOCUMENT = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
PRICED = Settings(prices=PRICES)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def report(specs: list[Spec], **changes: Any) -> Report:
    return make_report(stored(specs), question(**changes))


def as_json(specs: list[Spec], **changes: Any) -> dict[str, Any]:
    return parsed(to_json(report(specs, **changes)))


def parsed(text: str) -> dict[str, Any]:
    """Refuses NaN and infinity, which are not JSON."""
    document = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert isinstance(document, dict)
    return document


def as_rows(found: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(found), newline=""), strict=True))


def named(name: str, owner: str = "ann", tags: tuple[str, ...] = ()) -> Report:
    """Of one VM, without a database."""
    vm = Vm(vm_id="vm-a", name=name, owner=owner, tags=tags, enrolled_s=samples.ENROLLED_S)
    return samples.report([columns.facts(vm=vm)])


def keys(value: object) -> set[str]:
    """Every key of an object and of those within it."""
    if isinstance(value, dict):
        return {*value, *(key for each in value.values() for key in keys(each))}
    return {key for each in value for key in keys(each)} if isinstance(value, list) else set()


def test_json_says_what_was_asked_and_counts_the_fleet() -> None:
    """The head holds time, policy, limits and totals, all of them values that add up."""
    document = as_json(one_of_each(), top=2, settings=PRICED)
    assert (document["generated_at_s"], document["generated_at"]) == (NOW_S, "2026-11-16T12:06:40Z")
    assert (document["policy"], document["window_days"], document["currency"]) == ("fallow-balanced", 14, "EUR")
    assert (document["list"]["top"], document["list"]["sort"], document["list"]["verdict"]) == (2, "score", None)
    assert document["limits"]["silent_after_s"] == 3600
    assert document["limits"]["sizing"]["cpu_p95_ratio"] == 0.6
    assert {
        "name": "cpu_busy.p95/7d",
        "comparison": "<",
        "limit": 0.03,
        "unit": "ratio",
        "days": 7,
        "optional": False,
    } in document["limits"]["rules"]
    totals = document["totals"]
    assert [totals[verdict.value] for verdict in Verdict] == [1, 1, 1, 1, 5, 1]
    assert totals["vms"] == sum(totals["causes"].values()) == 10
    assert (document["listed"], document["matching"]) == (2, 10)


def test_totals_are_the_sums_of_the_vms() -> None:
    """Each VM counts once, under its one verdict."""
    document = as_json(one_of_each(), settings=PRICED)
    for verdict in RECLAIMABLE:
        vms = [vm["savings"] for vm in document["vms"] if vm["verdict"] == verdict.value]
        for name, total in document["totals"]["freed"][verdict.value].items():
            assert total == pytest.approx(sum(saved[name] for saved in vms))
    for name, total in document["totals"]["reclaimable"].items():
        assert total == pytest.approx(sum(freed[name] for freed in document["totals"]["freed"].values()))


def test_json_gives_each_vm_its_evidence() -> None:
    """A VM carries verdict, reason, every figure beside its limit, proposals, windows, week and statistics."""
    vm = next(vm for vm in as_json(one_of_each(), settings=PRICED)["vms"] if vm["vm"] == "vm-idle")
    assert {name: vm[name] for name in ("rank", "name", "hostname", "owner", "verdict", "cause")} == {
        "rank": 2,
        "name": "web",
        "hostname": "web.example",
        "owner": "ann",
        "verdict": "idle",
        "cause": "idle",
    }
    assert vm["reason"].startswith("Idle: ")
    mean = next(figure for figure in vm["figures"] if figure["name"] == "cpu_busy.mean/3d")
    assert mean == {
        "name": "cpu_busy.mean/3d",
        "words": "mean CPU over the last 3 days",
        "value": pytest.approx(0.003),
        "limit": 0.02,
        "unit": "ratio",
        "comparison": "<=",
        "days": 3,
        "optional": False,
        "decides": False,
        "ok": True,
    }
    assert [figure["name"] for figure in vm["figures"][-3:]] == ["coverage", "newest_age_s", "clock_skew_s"]
    assert any(figure["decides"] for figure in vm["figures"])
    assert (vm["coverage_ratio"], vm["newest_s"], vm["cpu_count"]) == (1.0, NEWEST_S, 8)
    assert vm["savings"]["vcpus"] == 8
    assert vm["savings"]["money_per_month"] == pytest.approx(137.57, abs=0.01)
    assert [window["days"] for window in vm["windows"]] == [1, 7, 14, 30]
    assert len(vm["week_cpu_ratio"]) == 28
    assert vm["statistics"]["covered_s"] == 14 * 86_400
    assert vm["statistics"]["cpu_busy_p95_ratio"] == pytest.approx(0.003)


def test_proposals_are_given_in_numbers() -> None:
    """A smaller size, and the hours of the week in which it could be off."""
    vms = {vm["vm"]: vm for vm in as_json(one_of_each())["vms"]}
    assert vms["vm-oversized"]["proposal"] == {"vcpus": 6, "mem_bytes": 12 * 2**30}
    timetable = vms["vm-scheduled"]["timetable"]
    assert timetable["off_h_per_week"] == sum(hours["until_h"] - hours["from_h"] for hours in timetable["off"])
    assert {"from_h": 17, "until_h": 32} in timetable["off"]
    assert (vms["vm-active"]["proposal"], vms["vm-active"]["timetable"]) == (None, None)


def test_json_of_a_vm_without_samples_has_nulls_and_no_zeros() -> None:
    """What is not known is null, never 0."""
    (vm,) = as_json([Spec(load=None, vcpus=None, mem_gib=None, disk_gib=None)])["vms"]
    names = ("rank", "coverage_ratio", "newest_s", "cpu_count", "mem_total_bytes", "disk_total_bytes", "proposal")
    assert [vm[name] for name in names] == [None] * 7
    assert vm["statistics"] == {}
    assert vm["windows"] == []
    assert set(vm["week_cpu_ratio"]) == {None}
    assert {figure["value"] for figure in vm["figures"]} == {None}
    assert not any(figure["ok"] for figure in vm["figures"] if not figure["optional"])


def test_an_idle_vm_of_unknown_size_frees_null() -> None:
    """In JSON and CSV; money of it is not known either."""
    found = report([Spec(vcpus=None, mem_gib=None, disk_gib=None)], settings=PRICED)
    (vm,) = parsed(to_json(found))["vms"]
    assert vm["verdict"] == "idle"
    assert set(vm["savings"].values()) == {None}
    (row,) = as_rows(found)
    assert {row[name] for name in ("freed_vcpus", "freed_mem_bytes", "freed_disk_bytes", "money_per_month")} == {""}


def test_money_is_null_without_prices() -> None:
    """And the currency too."""
    document = as_json(one_of_each())
    assert document["currency"] is None
    assert document["totals"]["reclaimable"]["money_per_month"] is None
    assert {vm["savings"]["money_per_month"] for vm in document["vms"]} == {None}


def test_json_holds_verdicts_of_all_vms() -> None:
    """Listed whole, the document answers verdict by VM; each VM has a line."""
    text = to_json(report(one_of_each()))
    assert {vm["vm"]: Verdict(vm["verdict"]) for vm in parsed(text)["vms"]} == VERDICTS_OF_EACH
    assert sum(line.startswith('{"rank"') for line in text.splitlines()) == 10


def test_what_became_of_vms_is_told() -> None:
    """Null where nobody asked."""
    assert as_json([Spec()])["changes"] is None
    changes = parsed(to_json(samples.report(changes=samples.CHANGES)))["changes"]
    assert (changes["reclaimed"], changes["kept"], changes["realised"]["vcpus"]) == (3, 2, 12)


@pytest.mark.parametrize("specs", [[], [Spec()]])
def test_json_of_any_fleet_is_whole(specs: list[Spec]) -> None:
    """A program that reads the document needs no special case."""
    document = as_json(specs)
    assert document["totals"]["vms"] == len(document["vms"]) == len(specs)
    assert keys(document) >= {"totals", "limits", "reclaimable", "freed", "changes", "vms"}


def test_every_key_and_cause_is_documented() -> None:
    """docs/report.md names each key of the JSON, each column of the CSV and each cause."""
    found = samples.report(changes=samples.CHANGES)
    document = parsed(to_json(found))
    statistics = {key for vm in document["vms"] for key in vm["statistics"]}
    columns_of_csv = {name for name in to_csv(found).split("\r\n")[0].split(",") if "." not in name} - statistics
    causes = {cause.name.lower() for cause in Cause}
    names = (keys(document) - statistics - causes - {verdict.value for verdict in Verdict}) | columns_of_csv
    assert {name for name in names if f"`{name}`" not in DOCUMENT} == set()
    assert {cause for cause in causes if f"| `{cause}` |" not in DOCUMENT} == set()


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_csv_runs_no_formula(start: str) -> None:
    """A text from people that a spreadsheet would run gets an apostrophe, and is otherwise whole."""
    text = f"{start}HYPERLINK(1)"
    (row,) = as_rows(named(text, text, (text,)))
    assert (row["name"], row["owner"], row["tags"]) == (f"'{text}", f"'{text}", f"'{text}")
    (row,) = as_rows(named(f"a{text}"))
    assert row["name"] == f"a{text}"


@settings(max_examples=50)
@given(name=st.text(max_size=40), owner=st.text(max_size=40))
def test_csv_survives_whatever_people_write(name: str, owner: str) -> None:
    """It is one cell of one row, and no cell begins as a formula does."""
    found = named(name, owner)
    header, row = csv.reader(io.StringIO(to_csv(found), newline=""), strict=True)
    cells = dict(zip(header, row, strict=True))
    assert cells["name"].removeprefix("'") == name.removeprefix("'")
    assert cells["owner"].removeprefix("'") == owner.removeprefix("'")
    assert not [name for name, cell in cells.items() if cell.startswith(FORMULA_STARTS) and not _is_number(cell)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_csv_lines_end_as_the_standard_has_it() -> None:
    """With CR LF, the last one too; nothing else breaks a line where names have no breaks."""
    text = to_csv(report(one_of_each()))
    assert text.endswith("\r\n")
    assert text.count("\n") == text.count("\r\n") == 11


@pytest.mark.parametrize("policy", POLICIES)
def test_csv_shows_each_figure_beside_its_limit(policy: str) -> None:
    """A limit's column follows its figure's, coverage included; every row has a cell for every column."""
    header, *rows = csv.reader(io.StringIO(to_csv(report(one_of_each(), policy=policy)), newline=""))
    assert len(set(header)) == len(header)
    for name in (*{rule.measure.name for rule in POLICIES[policy].rules()}, "coverage"):
        assert header[header.index(name) + 1] == f"{name}_limit"
    assert len(rows) == 10
    assert {len(row) for row in rows} == {len(header)}
    limits = [place for place, name in enumerate(header) if name.endswith("_limit")]
    assert {tuple(row[place] for place in limits) for row in rows} == {tuple(rows[0][place] for place in limits)}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_header_of_csv_depends_on_the_policy_alone(policy: str) -> None:
    """A fleet of none, of one and of all kinds have the same columns."""
    headers = {to_csv(report(specs, policy=policy)).split("\r\n")[0] for specs in ([], [Spec()], one_of_each())}
    assert len(headers) == 1


def test_limits_have_all_their_digits() -> None:
    """12,500,001 is not written as 1.25e+07, and one figure may have two limits."""
    policy = Policy(
        name="two",
        summary="",
        source="",
        idle_when=Either((at_most("net_io.p95", 12_500_001.0), at_most("net_io.p95", 0.1 + 0.2))),
    )
    found = replace(samples.question(), policy=policy)
    (row,) = as_rows(samples.report([columns.facts()], found))
    assert row["net_io.p95_limit"] == "<= 12500001"
    assert row["net_io.p95#2_limit"] == "<= 0.30000000000000004"


def test_csv_leaves_unknown_cells_empty() -> None:
    """Zero and unknown differ: one is a number, the other nothing."""
    one = columns.facts({"cpu_busy_p95_ratio": 0.0, "mem_used_mean_ratio": math.nan})
    (row,) = as_rows(samples.report([one], replace(samples.question(), policy=POLICIES["p95"])))
    assert float(row["cpu_busy.p95"]) == 0.0
    assert row["cpu_busy.p95_limit"] == "<= 0.05"
    assert float(row["cpu_busy_p95_ratio"]) == 0.0
    assert row["mem_used_mean_ratio"] == ""
    assert row["off_h_per_week"] == ""
