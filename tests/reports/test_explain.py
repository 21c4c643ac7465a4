"""A verdict in figures and in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest

from reports.explain import explain
from reports.facts import DAY_S, Vm
from reports.judgement import Judgement
from reports.measures import Measure
from reports.policies import POLICIES
from reports.policy import All, Comparison, Either, Policy, Rule, at_most, below
from reports.savings import Prices
from reports.verdicts import Cause, Settings, judge
from tests.reports.columns import GIB, NOW_S, QUIET, evidence, facts
from tests.reports.test_verdicts import BUSY, OFFICE, ROOMY

TWO = Policy(
    name="two", summary="", source="", idle_when=All((at_most("cpu_busy.mean", 0.1), at_most("mem_used.mean", 0.1)))
)
EITHER = Policy(
    name="either",
    summary="",
    source="",
    idle_when=Either((below("cpu_busy.p95", 0.03, days=7), at_most("cpu_busy.mean", 0.05))),
)


def at_least(measure: str, limit: float) -> Rule:
    return Rule(measure=Measure.parse(measure), comparison=Comparison.AT_LEAST, limit=limit)


def explained(
    columns: Mapping[str, float] = QUIET,
    policy: Policy = TWO,
    *,
    settings: Settings | None = None,
    kept: Mapping[str, str] | None = None,
    **changes: Any,
) -> Judgement:
    one = facts(columns, **changes)
    settings = settings or Settings()
    judged = judge(one, policy, settings, now_s=NOW_S, exempt=frozenset(kept or ()))
    (found,) = explain(one, judged, policy, settings, now_s=NOW_S, kept=kept)
    return found


def test_idle_names_every_figure_beside_its_limit() -> None:
    """And what the samples cover."""
    assert explained().reason == (
        "Idle: mean CPU 0% (limit 10%) and mean memory 0% (limit 10%); samples cover 100% of 14 days "
        "(at least 95% needed)"
    )


def test_active_names_what_is_beyond_its_limit_alone() -> None:
    """With as many digits as it takes to see that."""
    reason = explained({**BUSY, "cpu_busy_mean_ratio": 0.10004}).reason
    assert reason.startswith("In use: mean CPU 10.004% (limit 10%); samples cover ")


def test_of_several_ways_the_first_that_holds_decides() -> None:
    """The others' figures are shown, but decide nothing; a window of the policy's own is named."""
    found = explained({**QUIET, "cpu_busy_p95_ratio": 0.04, "cpu_busy_mean_ratio": 0.01}, EITHER)
    assert found.reason.startswith("Idle: mean CPU 1% (limit 5%)")
    assert [(figure.ok, figure.decides) for figure in found.figures[:2]] == [(False, False), (True, True)]
    assert "CPU 0% or less for 95% of the last 7 days (limit: below 3%)" in explained(QUIET, EITHER).reason


def test_missing_figure_is_named() -> None:
    """So that somebody can find out why it is not measured."""
    found = explained({**QUIET, "mem_used_mean_ratio": math.nan})
    assert found.cause is Cause.MISSING_FIGURE
    assert found.reason == "Missing figure: mean memory not measured"


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("Excluded by tag fallow:keep", {"vm": Vm(vm_id="vm-a", tags=("fallow:keep",))}),
        ("Kept until 2027 by ann: audit", {"kept": {"vm-a": "until 2027 by ann: audit"}}),
        ("Powered off, as the inventory says", {"vm": Vm(vm_id="vm-a", power_state="off"), "newest_s": NOW_S - DAY_S}),
        ("Runs no agent", {"newest_s": math.nan, "vm": Vm(vm_id="vm-a")}),
        ("Never reported", {"newest_s": math.nan}),
        ("Silent since 2026-11-1", {"newest_s": NOW_S - 7 * DAY_S}),
        ("Clock skew: at the newest push the VM's clock was off by 5 min (limit 2 min)", {"skew_s": -300}),
        ("Clock skew: the aggregator flagged", {"vm": Vm(vm_id="vm-a", flags=("clock_skew",))}),
        ("Flagged: its history was damaged or lost", {"vm": Vm(vm_id="vm-a", flags=("store_replaced",))}),
        ("No figures yet", {"days": (1,)}),
        ("Too new: first seen 2026-11-", {"history_days": 3}),
        ("Gaps: samples cover 90% of 14 days (at least 95% needed)", {"coverage_ratio": 0.9}),
    ],
)
def test_sentences_of_vms_that_are_not_judged(words: str, changes: Mapping[str, Any]) -> None:
    """Each says what is wrong, and with which figure."""
    assert explained(**changes).reason.startswith(words)


def test_proposals_stand_in_the_sentence() -> None:
    """With the size that it has, and the hours it could be off."""
    sized = explained(ROOMY, cpu_count=8, mem_bytes=16 * GIB)
    assert sized.reason == (
        "Larger than it needs: 2 vCPU and 4.0 GiB of memory would do in place of 8 vCPU and 16.0 GiB, with CPU at 60% "
        "or less for 95% of the time and memory never above 80%"
    )
    scheduled = explained(BUSY, body=evidence(profile=OFFICE, weeks=2))
    assert scheduled.reason == (
        "Busy at regular hours only: needed Mon–Fri 08:00–17:00 UTC, it could be off for the other 123 of 168 hours a "
        "week (provisional: fewer than four weeks seen)"
    )


def test_hours_that_differ_from_day_to_day_are_all_said() -> None:
    """An owner must know when the VM would be off."""
    profile = [0.5 if hour % 24 < 4 + hour // 24 else 0.001 for hour in range(168)]
    found = explained(BUSY, body=evidence(profile=profile))
    assert found.reason.startswith(
        "Busy at regular hours only: needed Mon 23:00–05:00, Tue 23:00–06:00, Wed 23:00–07:00, "
    )
    assert re.search(r", it could be off for the other \d+ of 168 hours a week$", found.reason)


@pytest.mark.parametrize(
    ("rule", "columns", "words"),
    [
        (
            at_most("cpu_busy.p95", 0.05),
            {"cpu_busy_p95_ratio": 0.04},
            "Idle: CPU 4% or less for 95% of the time (limit 5%)",
        ),
        (
            below("cpu_busy.p95", 0.05, days=7),
            {"cpu_busy_p95_ratio": 0.05},
            "In use: CPU 5% or more for 5% of the last 7 days (limit: below 5%)",
        ),
        (below("cpu_busy.max", 0.05), {"cpu_busy_max_ratio": 0.9}, "In use: highest CPU 90% (limit: below 5%)"),
        (
            at_most("net_io.p95", 12.5e6),
            {"net_io_p95_bytes_per_s": 12_500_001.0},
            "In use: network traffic 12.500001 MB/s or more for 5% of the time (limit 12.5 MB/s)",
        ),
        (
            at_most("cpu_busy.mean", 0.0003, days=1),
            {"cpu_busy_mean_ratio": 0.0002},
            "Idle: mean CPU over the last day 0.02% (limit 0.03%)",
        ),
        (
            at_least("mem_used.p95", 0.5),
            {"mem_used_p95_ratio": 0.6},
            "Idle: memory 60% or more for 5% of the time (at least 50% needed)",
        ),
        (
            at_least("mem_used.p95", 0.5),
            {"mem_used_p95_ratio": 0.4},
            "In use: memory 40% or less for 95% of the time (at least 50% needed)",
        ),
    ],
)
def test_a_percentile_says_for_how_long(rule: Rule, columns: Mapping[str, float], words: str) -> None:
    """Low for most of the time, or high for the rest of it; limits in full, windows that are fixed named."""
    policy = Policy(name="one", summary="", source="", idle_when=rule)
    # Of a size that nothing can be taken from.
    found = explained({**QUIET, "mem_used_max_ratio": 0.9, **columns}, policy, cpu_count=1)
    assert found.reason.startswith(f"{words}; samples cover ")


@pytest.mark.parametrize(
    ("ratio", "words"),
    [(0.0, "Idle: nobody logged in (limit 2%)"), (0.01, "Idle: somebody logged in for 1% of the time (limit 2%)")],
)
def test_logins_are_told_as_people_would(ratio: float, words: str) -> None:
    """Nobody at all is not 0% of somebody."""
    policy = Policy(name="one", summary="", source="", idle_when=at_most("users.share", 0.02))
    assert explained(policy=policy, users_ratio=ratio).reason.startswith(f"{words};")


def test_a_busy_vm_is_not_blamed_for_what_was_not_measured() -> None:
    """A figure that is not known broke no limit."""
    columns = {**BUSY, "cpu_busy_mean_ratio": 0.5, "mem_used_mean_ratio": math.nan}
    found = explained(columns, TWO)
    assert found.cause is Cause.ACTIVE
    assert found.reason.startswith("In use: mean CPU 50% (limit 10%); samples cover ")
    either = Policy(
        name="e",
        summary="",
        source="",
        idle_when=Either((at_most("cpu_busy.mean", 0.1), All((at_most("cpu_busy.mean", 0.1), *TWO.rules())))),
    )
    assert "–" not in explained(columns, either).reason


def test_another_window_than_the_one_asked_for_may_be_the_trouble() -> None:
    """Coverage that is enough is not given as the reason."""
    old = Policy(name="old", summary="", source="", idle_when=TWO.idle_when, min_age_days=30)
    found = explained(policy=old, history_days=20)
    assert found.reason.startswith("Too new: first seen 2026-")
    assert found.reason.endswith("the policy looks further back")


def test_money_needs_prices() -> None:
    """Without a currency nobody knows what it saves."""
    assert explained().savings.money_per_month is None
    prices = Prices(currency="EUR", vcpu_hour=0.01, mem_gib_hour=0.001, disk_gib_month=0.1)
    priced = explained(settings=Settings(prices=prices))
    assert priced.savings.money_per_month == pytest.approx(730 * (4 * 0.01 + 8 * 0.001) + 40 * 0.1)
    assert priced.savings.kwh_per_month == pytest.approx(730 * (4 * 0.74 + 8 * 0.392) / 1000)


def test_windows_tell_how_long_it_was_awake() -> None:
    """Seconds above 2 % CPU, for each of the windows that are shown."""
    found = explained(body=evidence(cpu_s={0.01: 86_000, 0.3: 400}))
    assert [(line.days, line.awake_s) for line in found.windows] == [(days, 400) for days in (1, 7, 14, 30)]
    assert [line.awake_s for line in explained().windows] == [None] * 4


def test_spark_is_the_week_in_steps_of_six_hours() -> None:
    """Monday first; without a profile nothing is drawn."""
    spark = explained(body=evidence(profile=[0.5] * 6 + [0.1] * 162)).spark
    assert spark[0] == pytest.approx(0.5)
    assert spark[1:] == pytest.approx((0.1,) * 27)
    assert explained().spark == (None,) * 28


def test_every_policy_explains_every_verdict() -> None:
    """One line without a line break, whatever the VM is like."""
    for policy in POLICIES.values():
        for columns in ({}, QUIET, BUSY, ROOMY):
            reason = explained(columns, policy, body=evidence(cpu_s={0.01: 600}, daily_bytes=[5])).reason
            assert reason
            assert reason.isprintable()


def test_a_long_list_is_cut_where_one_stops_reading() -> None:
    """The figures that tell what the VM looks like come first; the rest are counted, and stand in the evidence."""
    found = explained(QUIET, POLICIES["fallow-balanced"], body=evidence(cpu_s={0.0: 600}, daily_bytes=[0] * 14))
    assert found.reason.startswith("Idle: highest CPU 0% (limit: below 5%), ")
    assert re.search(r" and \d more figures within their limits; samples cover ", found.reason)
    assert len([figure for figure in found.figures if figure.decides]) > 4
