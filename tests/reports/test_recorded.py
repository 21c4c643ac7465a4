"""Recorded samples → facts: the same as the aggregator would have them, with the last hour closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.traces import Recording, read_trace
from aggregator.histogram import SLICES
from aggregator.rollup import hours_of, quantise, roll_up
from aggregator.store import Store
from aggregator.store_files import connect_read_only, store_path
from aggregator.summary import STATISTIC_COLUMNS, WINDOWS_DAYS
from aggregator.windows import Windows
from reports.facts import Facts
from reports.measures import NAMES
from reports.policies import POLICIES
from reports.policy import All, Policy, at_most
from reports.recorded import (
    adapt,
    began_s,
    between,
    catalogued,
    facts_of,
    join,
    record,
    recorded_vms,
    table_of,
    unrecorded,
)
from reports.verdicts import Settings, judge
from tests.reports.recordings import DAY_S, START_S, flushed, packed_rows, recording
from tests.traces import trace

WEEKS_2 = 14 * 48  # samples of half an hour


@pytest.fixture(scope="module")
def raw_vms() -> Sequence[Recording]:
    return list(read_trace(trace("bitbrains/raw-sample-4vms.tar.xz")))


@settings(max_examples=60)
@given(
    cpu=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    steal=st.floats(0, 1) | st.just(np.nan),
    bytes_=st.floats(1, 2.0**53),
    rate=st.integers(0, 10**12).map(lambda tenths: tenths / 10) | st.just(np.nan),
    count=st.integers(0, 10**5) | st.just(np.nan),
)
def test_a_table_is_what_a_store_holds_of_the_same_pushes(
    cpu: list[float], steal: float, bytes_: float, rate: float, count: float
) -> None:
    """Text, decoder and packing, which cost a hundred times as much, give the same integers."""
    one = recording(
        "vm",
        cpu,
        cpu_steal=steal,
        mem_total=bytes_,
        mem_used=bytes_ * cpu[0],
        disk_read=rate,
        net_tx=rate,
        users=count,
        load1=1.25,
        agent_cpu=0.125,
    )
    assert (table_of(one) == quantise(packed_rows(one))).all()


def test_a_table_of_published_rows_is_exact(raw_vms: Sequence[Recording]) -> None:
    """So it is for real figures of full precision, dirt and all."""
    for one in raw_vms:
        assert (table_of(one) == quantise(packed_rows(one))).all()


def noisy(seed: int, samples: int, *, interval_s: int = 1800, start_s: int = START_S) -> Recording:
    """A VM with every figure, some of them absent at times."""
    draw = np.random.default_rng(seed)
    gappy = np.where(draw.random(samples) < 0.1, np.nan, draw.random(samples) * 1e6)
    return recording(
        f"vm-{seed}",
        draw.random(samples) ** 4,
        interval_s=interval_s,
        start_s=start_s,
        cpu_max=draw.random(samples) ** 2,
        mem_used=draw.random(samples) * 4e9,
        disk_total=40e9,
        disk_used=draw.random(samples) * 4e9,
        disk_read=gappy,
        disk_write=draw.random(samples) * 1e5,
        net_rx=draw.random(samples) * 1e5,
        net_tx=gappy,
        users=(draw.random(samples) < 0.1).astype(float),
    )


def assert_same_columns(found: Facts, expected: Facts) -> None:
    """All but the evidence."""
    for name in ("oldest_s", "newest_s", "cpu_count", "mem_total_bytes", "disk_total_bytes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert set(found.windows) == set(expected.windows)
    for days, window in found.windows.items():
        for name in ("start_s", "end_s", "covered_s", "users_s"):
            np.testing.assert_array_equal(getattr(window, name), getattr(expected.windows[days], name))
        for name in STATISTIC_COLUMNS:
            np.testing.assert_array_equal(window.columns[name], expected.windows[days].columns[name])


@pytest.mark.parametrize("samples", [1, 47, 5 * 48 + 1, 35 * 48 - 1])
def test_facts_are_those_of_the_fleet_database(tmp_path: Path, samples: int) -> None:
    """Worker, writer and reader give the same sizes, times, windows and statistics of the same samples."""
    vms = [noisy(1, samples), noisy(2, samples)]
    with flushed(tmp_path, vms) as expected:
        assert_same_columns(facts_of(vms, WINDOWS_DAYS), expected)


def test_facts_of_real_vms_are_those_of_the_fleet_database(tmp_path: Path, raw_vms: Sequence[Recording]) -> None:
    """So they are of a month of real VMs, and every policy gives them the same verdicts by either way."""
    found = facts_of(raw_vms, WINDOWS_DAYS)
    with flushed(tmp_path, raw_vms) as expected:
        assert_same_columns(found, expected)
        assert_same_verdicts(found, expected)


def assert_same_verdicts(found: Facts, expected: Facts) -> None:
    now_s = float(np.nanmax(expected.newest_s))
    for policy in POLICIES.values():
        for days in (1, 7, 14):
            ours, theirs = (
                judge(facts, policy, Settings(window_days=days), now_s=now_s) for facts in (found, expected)
            )
            assert ours.codes.tolist() == theirs.codes.tolist(), policy.name


def test_verdicts_are_those_of_the_fleet(tmp_path: Path) -> None:
    """VMs of many kinds through stores and fleet database, and straight from the recording: the same verdicts."""
    samples = 30 * 48
    hours = np.arange(samples) // 2
    at_work = (hours // 24 % 7 < 5) & (hours % 24 >= 8) & (hours % 24 < 18)
    day = np.arange(samples) // 48
    quiet: dict[str, Any] = {
        "net_rx": 30.0,
        "net_tx": 10.0,
        "disk_read": 0.0,
        "disk_write": 900.0,
        "users": 0.0,
        "disk_total": 4e10,
    }
    kinds = {
        "asleep": recording("asleep", np.full(samples, 0.0001), **quiet, mem_used=2e8, disk_used=1e9),
        "noisy": recording("noisy", np.full(samples, 0.004), **quiet, disk_used=1e10),
        "office": recording("office", np.where(at_work, 0.4, 0.001), **quiet, disk_used=1e10),
        "busy": recording("busy", np.full(samples, 0.7), mem_used=3.9e9, net_rx=1e6, net_tx=1e6),
        "wide": recording("wide", np.full(samples, 0.09), cpu_count=16, mem_used=1e9, **quiet, disk_used=1e10),
        "new": recording("new", np.full(5 * 48, 0.001), start_s=START_S + 25 * DAY_S),
        "ended": recording("ended", np.full(20 * 48, 0.001)),
        "late": recording("late", np.where(day < 25, 0.0005, 0.5), **quiet),
    }
    vms = [kinds[name] for name in sorted(kinds)]
    with flushed(tmp_path, vms) as expected:
        assert_same_verdicts(facts_of(vms, WINDOWS_DAYS), expected)
        judged = judge(expected, POLICIES["fallow-balanced"], Settings(), now_s=float(np.nanmax(expected.newest_s)))
    verdicts = {vm.vm_id: judged.cause(row).verdict.value for row, vm in enumerate(expected.vms)}
    assert set(verdicts.values()) >= {"idle", "scheduled", "oversized", "active", "insufficient data"}


def test_evidence_is_that_of_the_store_and_the_open_hour(tmp_path: Path) -> None:
    """The blob is the store's with the hour that it still held open taken in, and nothing else."""
    one = noisy(3, 20 * 48 - 1)
    table = table_of(one)
    with flushed(tmp_path, [one]):
        connection = connect_read_only(store_path(tmp_path, one.vm))
        try:
            windows = Store.over(connection, one.vm).windows()
        finally:
            connection.close()
    assert windows is not None
    last = table[hours_of(table) == windows.open_hour]
    ((_, hour),) = roll_up(np.zeros(len(last), np.int64), last)
    windows.advance(windows.open_hour, {}, (), [hour])
    assert record(catalogued(one, table), table, WINDOWS_DAYS).evidence == windows.encode()


def test_the_judged_part_fills_its_window() -> None:
    """Of a VM that began on the hour, the first 14 days are a window without a second too few or too many."""
    one = noisy(4, 20 * 48)
    table = table_of(one)
    judged = between(table, began_s(table), began_s(table) + 14 * DAY_S)
    recorded = record(catalogued(one, judged), judged, (14,))
    facts = join([recorded])
    window = facts.windows[14]
    assert (window.start_s[0], window.end_s[0]) == (START_S, START_S + 14 * DAY_S)
    assert (window.covered_s[0], window.coverage_ratio[0]) == (14 * DAY_S, 1.0)
    values = np.array([row[1][one.fields.index("cpu_busy_ratio")] for row in one.rows[:WEEKS_2]], float)
    assert window.columns["cpu_busy_mean_ratio"][0] == pytest.approx(values.mean(), abs=1e-6)
    # The last hour too is in the evidence.
    cpu = SLICES[0]
    assert Windows.decode(recorded.evidence).counts[0, cpu.start : cpu.stop].sum() == 14 * DAY_S
    assert facts.evidence.daily_bytes(14).shape == (1, 14)
    assert not np.isnan(facts.evidence.daily_bytes(14)).any()


@pytest.mark.parametrize("minutes", [5, 25, 55])
def test_a_start_within_an_hour_costs_no_coverage(minutes: int) -> None:
    """A first sample at any minute of an hour leaves the window covered as far as it reaches."""
    one = noisy(5, 15 * 288, interval_s=300, start_s=START_S + minutes * 60)
    table = table_of(one)
    judged = between(table, began_s(table), began_s(table) + 14 * DAY_S)
    window = join([record(catalogued(one, judged), judged, (14,))]).windows[14]
    assert window.coverage_ratio[0] == 1.0
    assert 14 * DAY_S - 3600 < window.covered_s[0] <= 14 * DAY_S


def test_from_and_until_cut_by_the_end_of_intervals() -> None:
    """A sample belongs to the span in which its interval ends; a VM without any is left out."""
    vms = [noisy(6, 48), noisy(7, 48, start_s=START_S + 10 * DAY_S)]
    facts = facts_of(vms, (1,), from_s=START_S + 3600, until_s=START_S + 7200)
    assert [vm.vm_id for vm in facts.vms] == ["vm-6"]
    assert facts.windows[1].covered_s[0] == 3600
    assert facts.newest_s[0] == START_S + 7200
    assert len(facts_of(vms, (1,), from_s=START_S + 20 * DAY_S)) == 0


def test_a_trace_without_a_column_names_the_figures_it_lacks(raw_vms: Sequence[Recording]) -> None:
    """Those made from an absent column are named; peak CPU is not, the busiest interval stands in for it."""
    assert unrecorded(recorded_vms(raw_vms, (1,))) == {"disk_used", "cpu_max", "users"}
    assert unrecorded(recorded_vms([noisy(8, 3)], (1,))) == frozenset()
    bare = recording("bare", [0.5], cpu_count=np.nan)
    assert unrecorded(recorded_vms([bare], (1,))) == NAMES.keys() - {"cpu_busy", "cpu_peak", "mem_used"}


def test_a_figure_that_one_vm_measured_is_not_left_out() -> None:
    """Only what no VM of the trace measured is missing from the trace; elsewhere it is missing of that VM."""
    vms = [recording("a", [0.5], users=1.0), recording("b", [0.5])]
    assert "users" not in unrecorded(recorded_vms(vms, (1,)))


def test_rules_on_what_is_not_recorded_are_left_out_and_named() -> None:
    """Classic is judged without disk space and says so; a policy that has all its figures stays what it is."""
    missing = frozenset({"disk_used", "cpu_max", "users"})
    adapted = adapt(POLICIES["classic"], missing)
    assert adapted is not None
    assert adapted.left_out == ("disk space",)
    assert "disk space" in adapted.policy.summary
    assert [rule.measure.name for rule in adapted.policy.rules()] == ["cpu_busy.mean", "mem_used.mean"]
    assert adapted.policy.name == "classic"
    whole = adapt(POLICIES["p95"], missing)
    assert whole is not None
    assert whole.policy == POLICIES["p95"]


def test_a_policy_of_nothing_but_missing_figures_is_not_asked() -> None:
    """Nothing is left of it, and nothing is not an answer."""
    policy = Policy(name="x", summary="", source="", idle_when=All((at_most("users.share", 0.0),)))
    assert adapt(policy, frozenset({"users"})) is None


def test_a_recorded_vm_has_the_name_of_its_source() -> None:
    """Where the id was made from another name, people see that name; a file is no name."""
    one = noisy(9, 2)
    assert catalogued(one, table_of(one)).name is None
    assert catalogued(replace(one, source="Web 1"), table_of(one)).name == "Web 1"
    assert catalogued(replace(one, source="rnd/2013-8/9.csv"), table_of(one)).name is None


def test_windows_of_old_samples_hold_only_what_lies_in_them() -> None:
    """After a long gap, short windows hold the last samples alone, and long ones both."""
    first, last = noisy(10, 48), noisy(10, 48, start_s=START_S + 10 * DAY_S)
    table = np.concatenate([table_of(first), table_of(last)])
    one = record(catalogued(first, table), table, (1, 14))
    assert [figures.covered_s for figures in one.figures] == [DAY_S, 2 * DAY_S]
    assert isinstance(Windows.decode(one.evidence), Windows)
