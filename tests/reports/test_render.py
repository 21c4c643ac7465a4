"""JSON and CSV of a report."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from reports.candidates import Candidate
from reports.policies import CLASSIC, P95, POLICIES, Policy
from reports.query import read_report, snapshot
from reports.render import to_csv, to_json
from reports.verdicts import Cause, Verdict
from tests.reports.fleets import (
    LOW,
    NEWEST_S,
    NOW_S,
    START_S,
    VERDICTS_OF_EACH,
    candidate,
    one_of_each,
    question,
    stored,
    window,
)

DOCUMENT = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")


def as_json(vms: list[Candidate], policy: Policy = CLASSIC, **changes: Any) -> dict[str, Any]:
    with snapshot(stored(vms)) as connection:
        document = json.loads(to_json(read_report(connection, question(policy, **changes))))
    assert isinstance(document, dict)
    return document


def as_rows(vms: list[Candidate], policy: Policy = CLASSIC) -> list[dict[str, str]]:
    with snapshot(stored(vms)) as connection:
        text = to_csv(read_report(connection, question(policy)))
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_json_says_what_was_asked_and_counts_the_fleet() -> None:
    """The head holds time, policy, limits and totals, all of them values that add up."""
    document = as_json(one_of_each(), top=2)
    assert (document["generated_at_s"], document["generated_at"]) == (NOW_S, "2026-11-18T11:06:40Z")
    assert (document["policy"], document["window_days"]) == ("classic", 14)
    assert document["limits"]["rules"][0] == {
        "name": "cpu_busy_mean_ratio",
        "comparison": "<=",
        "limit": 0.1,
        "unit": "ratio",
    }
    assert document["limits"]["silent_after_s"] == 3600
    totals = document["totals"]
    assert [totals[verdict.value] for verdict in Verdict] == [1, 1, 2, 1]
    assert totals["vms"] == sum(totals["causes"].values()) == 5
    assert (totals["reclaimable_vcpus"], totals["reclaimable_mem_bytes"]) == (4, 8 * 2**30)
    assert (document["listed"], document["matching"]) == (2, 5)


def test_json_gives_each_vm_its_evidence() -> None:
    """A VM carries verdict, reason, every figure beside its limit, and the statistics that exist."""
    vm = as_json(one_of_each())["vms"][0]
    assert {name: vm[name] for name in ("rank", "vm", "name", "hostname", "owner", "verdict", "cause")} == {
        "rank": 1,
        "vm": "vm-idle",
        "name": "web",
        "hostname": None,
        "owner": "ann",
        "verdict": "idle",
        "cause": "idle",
    }
    assert vm["reason"].startswith("idle: mean CPU 2% (at most 10%)")
    assert vm["figures"][0] == {
        "name": "cpu_busy_mean_ratio",
        "value": 0.02,
        "limit": 0.1,
        "unit": "ratio",
        "comparison": "<=",
        "ok": True,
    }
    assert (vm["coverage_ratio"], vm["newest_s"], vm["cpu_count"]) == (1.0, NEWEST_S, 4)
    covered = {"start_s": START_S, "end_s": NEWEST_S, "covered_s": NEWEST_S - START_S, "users_s": 0}
    assert vm["statistics"] == {**covered, **LOW}


def test_json_of_a_vm_without_samples_has_nulls_and_no_zeros() -> None:
    """What is not known is null, never 0."""
    (vm,) = as_json([candidate(summary=None, window=None)])["vms"]
    assert [vm[name] for name in ("rank", "coverage_ratio", "newest_s", "cpu_count", "mem_total_bytes")] == [None] * 5
    assert vm["statistics"] == {}
    assert {figure["value"] for figure in vm["figures"]} == {None}
    assert {figure["ok"] for figure in vm["figures"]} == {False}


def test_json_holds_verdicts_of_all_vms() -> None:
    """Listed whole, the document answers verdict by VM."""
    document = as_json(one_of_each())
    assert {vm["vm"]: Verdict(vm["verdict"]) for vm in document["vms"]} == VERDICTS_OF_EACH


def test_json_of_an_empty_fleet_is_whole() -> None:
    """A program that reads the document needs no special case."""
    document = as_json([])
    assert document["vms"] == []
    assert document["totals"]["vms"] == 0


def test_every_key_and_cause_is_documented() -> None:
    """docs/report.md names each key of the JSON and each cause."""
    document = as_json(one_of_each())
    keys = {*document, *document["limits"], *document["totals"], *document["vms"][0], *document["vms"][0]["figures"][0]}
    assert {key for key in keys if f"`{key}`" not in DOCUMENT} == set()
    assert {cause.name.lower() for cause in Cause if f"| `{cause.name.lower()}` |" not in DOCUMENT} == set()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx"])
def test_csv_runs_no_formula(text: str) -> None:
    """A name that a spreadsheet would run gets an apostrophe, and is otherwise whole."""
    (row,) = as_rows([candidate(name=text, owner=f"a{text}")])
    assert row["name"] == f"'{text}"
    assert row["owner"] == f"a{text}"


def test_csv_survives_quotes_commas_and_line_breaks() -> None:
    """Whatever a name holds, it is one cell of one row."""
    name = 'a "b", c\nd\r\ne <script>'
    (row,) = as_rows([candidate(name=name)])
    assert row["name"] == name


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_csv_shows_each_figure_beside_its_limit(policy: Policy) -> None:
    """The limit's column follows its figure's, coverage included; no figure stands twice."""
    with snapshot(stored(one_of_each())) as connection:
        header, *rows = csv.reader(io.StringIO(to_csv(read_report(connection, question(policy)))))
    assert len(set(header)) == len(header)
    for name in (*(rule.column for rule in policy.rules), "coverage_ratio"):
        assert header[header.index(name) + 1] == f"{name}_limit"
    assert len(rows) == 5
    assert {len(row) for row in rows} == {len(header)}


def test_csv_leaves_unknown_cells_empty() -> None:
    """Zero and unknown differ: one is 0.0, the other nothing."""
    figures = {"cpu_busy_p95_ratio": 0.0}
    (row,) = as_rows([candidate(window=window(figures))], P95)
    assert row["cpu_busy_p95_ratio"] == "0.0"
    assert row["cpu_busy_p95_ratio_limit"] == "<= 0.05"
    assert row["mem_used_mean_ratio"] == ""
