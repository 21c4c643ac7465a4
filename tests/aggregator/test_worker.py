"""The flush worker: rows into stores, once each, whatever comes again, late, twice or damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agent.traces import read_trace
from aggregator.check import verify_store
from aggregator.check_content import compare_windows
from aggregator.store import Store
from aggregator.store_files import connect_read_only, read_samples, store_path
from aggregator.summary import STATISTIC_COLUMNS, Summary
from aggregator.windows import PROFILE_DAYS, Windows, rebuild
from aggregator.worker import FlushWorker
from tests.aggregator.store_fakes import (
    DAY_S,
    HOUR_S,
    START_S,
    WINDOWS,
    Row,
    contents_of,
    fill,
    flush,
    minutes,
    packed,
    packed_row,
    rows_at,
    settings,
    share,
)
from tests.aggregator.test_windows import assert_exact, rows_of
from tests.traces import trace

VM = "vm-1"
FIRST_HOUR = START_S // HOUR_S
NOW_S = float(START_S + 2 * DAY_S)
TABLES = ("sample", "hour", "hour_histogram", "windows")


def worker(data_dir: Path, **changes: object) -> FlushWorker:
    return FlushWorker(settings(data_dir, **changes))


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of the tables that samples make."""
    return contents_of(path, TABLES)


def counts(path: Path) -> tuple[int, int, int]:
    found = contents(path)
    return len(found["sample"]), len(found["hour"]), len(found["hour_histogram"])


def read_windows(path: Path) -> Windows:
    with closing(connect_read_only(path)) as connection:
        windows = Store.over(connection, VM).windows()
    assert windows is not None
    return windows


def execute(path: Path, statement: str, *values: object) -> None:
    """Changes a store behind the worker's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)


def only(summaries: list[Summary]) -> Summary:
    (summary,) = summaries
    return summary


def statistic(summary: Summary, window: int, column: str) -> float | None:
    return summary.figures[window].statistics[STATISTIC_COLUMNS.index(column)]


@st.composite
def flushes(draw: st.DrawFn) -> list[list[Row]]:
    """Flushes of one VM over five weeks: late rows, gaps, jumps, repeated times with other figures, mixed intervals."""
    number, result = FIRST_HOUR, []
    for _ in range(draw(st.integers(1, 5))):
        number += draw(st.sampled_from([0, 1, 2, 24, 25, 168, 680]))
        rows = []
        for _ in range(draw(st.integers(0, 4))):
            interval_s = draw(st.sampled_from([300, 900, 3600]))
            hour = max(number - draw(st.sampled_from([0, 0, 1, 24, 170])), FIRST_HOUR)
            step = draw(st.integers(1, HOUR_S // interval_s))
            rows.append(draw(rows_at(hour * HOUR_S + step * interval_s, interval_s)))
        result.append(rows)
    return result


@hypothesis_settings(max_examples=60)
@given(sequence=flushes(), again=st.booleans())
def test_a_store_agrees_with_itself_after_every_flush(
    tmp_path_factory: pytest.TempPathFactory, sequence: list[list[Row]], again: bool
) -> None:
    """Raw rows are the first of each time; hours, histograms and window sums are those of the raw rows."""
    data_dir = tmp_path_factory.mktemp("data")
    machine, path = worker(data_dir), store_path(data_dir, VM)
    expected: dict[int, Row] = {}
    refused = 0
    for rows in sequence:
        body = b"".join(map(packed, rows))
        for row in rows:
            refused += expected.setdefault(row["ts"], row) != row
        results = [flush(machine, share(VM, body), now_s=NOW_S) for _ in range(1 + again)]
        assert all(not result.failures for result in results)
        assert sum(result.inserted for result in results) <= len(rows)
        if expected:
            assert verify_store(path, VM) == []
    if not expected:
        assert not path.exists()
        return
    assert [row[0] for row in contents(path)["sample"]] == sorted(expected)
    stored = {sample["ts"]: sample["cpu_busy_ratio"] for sample in read_samples(path, 0, 2 * START_S)}
    assert stored == {ts: pytest.approx(row["cpu_busy"] * 1e-5) for ts, row in expected.items()}
    with closing(connect_read_only(path)) as connection:
        assert Store.over(connection, VM).facts().conflicts == refused * (1 + again)


def test_row_28_the_same_rows_again_change_nothing(tmp_path: Path) -> None:
    """A replay of a week leaves raw rows, hours, histograms and window sums byte for byte as they were."""
    machine = worker(tmp_path)
    weeks = [minutes(START_S + 300 + day * DAY_S, 288, interval_s=300, users=day) for day in range(8)]
    for day in weeks:
        flush(machine, share(VM, day), now_s=NOW_S)
    before = contents(store_path(tmp_path, VM))
    for day in weeks[1:]:
        result = flush(machine, share(VM, day), now_s=NOW_S)
        assert (result.inserted, result.duplicates, result.conflicts) == (0, 288, 0)
    assert contents(store_path(tmp_path, VM)) == before


@given(st.permutations(range(5)))
@hypothesis_settings(max_examples=10)
def test_row_26_batches_in_any_order_end_the_same(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    """Batches that come out of order end in the same raw rows, hours and window sums."""
    batches = [minutes(START_S + 60 + number * 5400, 90, users=number) for number in range(5)]
    stores = []
    for sequence in (range(5), order):
        data_dir = tmp_path_factory.mktemp("data")
        machine = worker(data_dir)
        for number in sequence:
            flush(machine, share(VM, batches[number]), now_s=NOW_S)
        stores.append(contents(store_path(data_dir, VM)))
    # The newest hour is open in one order and was closed in the other, so histograms may differ by its own.
    assert stores[0]["sample"] == stores[1]["sample"]
    assert stores[0]["hour"] == stores[1]["hour"]
    assert stores[0]["windows"] == stores[1]["windows"]


def test_row_27_of_two_samples_with_one_time_the_first_stays(tmp_path: Path) -> None:
    """A second, different sample of a time is counted and shown as a conflict; rollups agree with the raw row."""
    machine = worker(tmp_path)
    first, second = (packed_row(START_S + 60, cpu_busy_ratio=value) for value in (0.25, 0.75))
    flush(machine, share(VM, first), now_s=NOW_S)
    result = flush(machine, share(VM, second), now_s=NOW_S)
    assert (result.inserted, result.duplicates, result.conflicts) == (0, 0, 1)
    summary = only(result.summaries)
    assert summary.conflicts == 1
    assert statistic(summary, 0, "cpu_busy_mean_ratio") == 0.25
    assert statistic(summary, 0, "cpu_busy_max_ratio") == 0.25
    assert verify_store(store_path(tmp_path, VM), VM) == []


def test_conflicts_of_one_push_and_of_memory_are_counted(tmp_path: Path) -> None:
    """Two samples of one time in one flush are a conflict too, and those that memory refused are added."""
    rows = b"".join(packed_row(START_S + 60, cpu_busy_ratio=value) for value in (0.25, 0.75, 0.25))
    result = flush(worker(tmp_path), share(VM, rows, conflicts=4), now_s=NOW_S)
    assert (result.inserted, result.duplicates, result.conflicts) == (1, 1, 5)
    assert only(result.summaries).conflicts == 5


def test_a_late_row_computes_its_closed_hour_again(tmp_path: Path) -> None:
    """A row for an hour that closed long ago is in its rollup, its histogram and every window that holds the hour."""
    machine = worker(tmp_path)
    late_s = START_S + 30 * 60
    body = b"".join(packed_row(ts) for ts in range(START_S + 60, START_S + 5 * HOUR_S, 60) if ts != late_s)
    before = only(flush(machine, share(VM, body), now_s=NOW_S).summaries)
    after = only(flush(machine, share(VM, packed_row(late_s, cpu_busy_ratio=0.9)), now_s=NOW_S).summaries)
    assert [figures.covered_s - 60 for figures in after.figures] == [figures.covered_s for figures in before.figures]
    assert statistic(after, 0, "cpu_busy_max_ratio") == 0.9
    assert after.newest_s == before.newest_s
    assert verify_store(store_path(tmp_path, VM), VM) == []


def test_a_summary_alone_can_be_asked_for(tmp_path: Path) -> None:
    """A VM that owes a summary but brings no rows gets the same one from its store."""
    machine = worker(tmp_path)
    filled = flush(machine, share(VM, minutes(START_S + 60, 200)), now_s=NOW_S)
    asked = flush(machine, share(VM, b""), now_s=NOW_S)
    assert only(asked.summaries)._replace(evidence=None) == only(filled.summaries)._replace(evidence=None)
    assert asked.inserted == 0


def test_a_vm_that_never_had_a_row_has_no_summary(tmp_path: Path) -> None:
    """Nothing is said of a VM of which nothing is known, and it is no failure."""
    result = flush(worker(tmp_path), share(VM, b""), now_s=NOW_S)
    assert (result.summaries, result.failures) == ([], {})


def test_a_summary_says_what_the_newest_row_says(tmp_path: Path) -> None:
    """Times, sizes and doubts of a summary come from the newest row and the newest push; what is unknown stays so."""
    rows = packed_row(START_S + 300, interval_s=300, cpu_count=4, disk_total_bytes=1 << 40) + packed_row(
        START_S + 600, interval_s=300, cpu_count=8
    )
    taken = share(VM, rows, received_s=START_S + 601.0, skew_s=-121.0, identity_conflict=True)
    summary = only(flush(worker(tmp_path), taken, now_s=NOW_S).summaries)
    assert (summary.oldest_s, summary.newest_s, summary.interval_s) == (START_S, START_S + 600, 300)
    assert (summary.cpu_count, summary.mem_total_bytes, summary.disk_total_bytes) == (8, 1 << 30, None)
    assert summary.flags == ["clock_skew", "identity_conflict"]
    assert statistic(summary, 0, "disk_read_mean_bytes_per_s") is None


def test_many_vms_in_one_chunk_do_not_mix(tmp_path: Path) -> None:
    """Each VM of a chunk gets its own rows and its own figures."""
    machine = worker(tmp_path)
    shares = [share(f"vm-{n}", minutes(START_S + 60, 100 + n, cpu_busy_ratio=n / 100)) for n in range(20)]
    result = flush(machine, *shares, now_s=NOW_S)
    assert [summary.vm_id for summary in result.summaries] == [one.vm_id for one in shares]
    for number, summary in enumerate(result.summaries):
        assert summary.figures[0].covered_s == 60 * (100 + number)
        assert statistic(summary, 0, "cpu_busy_mean_ratio") == pytest.approx(number / 100)
        assert verify_store(store_path(tmp_path, summary.vm_id), summary.vm_id) == []


def overwrite(path: Path) -> None:
    path.write_bytes(b"this was a store" * 1000)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip_windows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        body = bytearray(connection.execute("SELECT body FROM windows").fetchone()[0])
    body[50] ^= 4
    execute(path, "UPDATE windows SET body = ?", bytes(body))


def break_histogram(path: Path) -> None:
    execute(path, "UPDATE hour_histogram SET body = x'0102' WHERE hour_s = ?", START_S)


def break_gaps(path: Path) -> None:
    execute(path, "UPDATE hour SET gaps = '{\"no such metric\": 60}' WHERE hour_s = ?", START_S)


@pytest.mark.parametrize("damage", [overwrite, cut, flip_windows, break_histogram, break_gaps])
def test_row_17_a_damaged_store_is_set_aside_and_begun_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Whenever the damage shows, the file is kept, the rows of this flush are stored, and the VM is flagged for good;
    the other VMs of the chunk notice nothing."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 300))
    damage(path)
    damaged = path.read_bytes()
    late = packed_row(START_S + 90, interval_s=30)
    machine = worker(tmp_path)
    result = flush(machine, share("vm-0", late), share(VM, late), share("vm-2", late), now_s=NOW_S)
    assert result.failures == {}
    assert [summary.flags for summary in result.summaries] == [[], ["store_replaced"], []]
    assert result.inserted == 3
    lost = result.lost_stores.pop(VM)
    assert result.lost_stores == {}
    assert lost.aside is not None
    aside = Path(lost.aside)
    assert aside.read_bytes() == damaged
    assert counts(path) == (1, 1, 0)
    assert only(flush(machine, share(VM, b""), now_s=NOW_S).summaries).flags == ["store_replaced"]


def test_the_journal_of_a_damaged_store_goes_aside_with_it(tmp_path: Path) -> None:
    """What is left of a transaction belongs to the damaged file: it is kept with it and never meets the new store."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 300))
    journal = Path(f"{path}-journal")
    overwrite(path)
    journal.write_bytes(bytes(512))  # SQLite leaves one that it cannot use
    result = flush(worker(tmp_path), share(VM, packed_row(START_S + 60)), now_s=NOW_S)
    assert Path(f"{result.lost_stores[VM].aside}-journal").read_bytes() == bytes(512)
    assert counts(path) == (1, 1, 0)
    assert verify_store(path, VM) == []


def test_row_42_a_newer_store_is_left_alone(tmp_path: Path) -> None:
    """A store that a later release wrote is a failure of that VM, not damage: it is neither moved nor changed."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 3))
    execute(path, "PRAGMA user_version = 99")
    before = path.read_bytes()
    result = flush(worker(tmp_path), share(VM, packed_row(START_S + 3600)), now_s=NOW_S)
    assert "newer than this program" in result.failures[VM]
    assert path.read_bytes() == before
    assert result.lost_stores == {}


def test_row_12_a_store_that_cannot_be_written_is_a_failure_of_its_vm_alone(tmp_path: Path) -> None:
    """Where a folder cannot be made, that VM's rows stay owed; the others of the chunk are stored."""
    blocked = store_path(tmp_path, VM).parent
    blocked.parent.mkdir(parents=True)
    blocked.write_text("in the way")
    result = flush(worker(tmp_path), share("vm-0", packed_row(START_S + 60)), share(VM, packed_row(START_S + 60)))
    assert list(result.failures) == [VM]
    assert [summary.vm_id for summary in result.summaries] == ["vm-0"]
    assert result.lost_stores == {}
    blocked.unlink()
    assert flush(worker(tmp_path), share(VM, packed_row(START_S + 60))).failures == {}


def days_of_rows(days: int) -> bytes:
    """A row every half hour; the last ends the last day."""
    return minutes(START_S + 1800, days * 48, interval_s=1800)


def kept_hours(path: Path) -> dict[str, list[int]]:
    found = contents(path)
    hours = sorted({(int(str(row[0])) - 1) // HOUR_S - FIRST_HOUR for row in found["sample"]})
    named = {name: [int(str(row[0])) // HOUR_S - FIRST_HOUR for row in found[name]] for name in TABLES[1:3]}
    return {"sample": hours, **named}


def test_retention_takes_whole_hours_that_are_older(tmp_path: Path) -> None:
    """Raw rows go by whole hours once they are older than their retention, and no later than they have to."""
    end_s = START_S + 10 * DAY_S
    path = fill(tmp_path, VM, days_of_rows(10))
    flush(worker(tmp_path, raw_retention_s=4.0 * DAY_S), share(VM, packed_row(end_s + 1800)), now_s=end_s + 1800.0)
    kept = kept_hours(path)["sample"]
    limit = 6 * 24
    assert limit - 2 <= kept[0] <= limit
    assert kept == list(range(kept[0], 10 * 24 + 1))
    per_hour = [
        sum((int(str(row[0])) - 1) // HOUR_S == FIRST_HOUR + hour for row in contents(path)["sample"]) for hour in kept
    ]
    assert per_hour == [2] * (len(kept) - 1) + [1]
    assert kept_hours(path)["hour"] == list(range(10 * 24 + 1))
    assert verify_store(path, VM) == []


def test_retention_of_hours_outlasts_what_the_sums_need(tmp_path: Path) -> None:
    """Rollups go at their own, later limit; histograms stay as long as windows, profile or daily totals need them."""
    end_s = START_S + 60 * DAY_S
    path = fill(tmp_path, VM, days_of_rows(60))
    machine = worker(tmp_path, raw_retention_s=4.0 * DAY_S, hour_retention_s=40.0 * DAY_S)
    flush(machine, share(VM, packed_row(end_s + 1800)), now_s=end_s + 1800.0)
    kept = kept_hours(path)
    assert 20 * 24 - 2 <= kept["hour"][0] <= 20 * 24
    assert 27 * 24 - 2 <= kept["hour_histogram"][0] <= 27 * 24
    assert verify_store(path, VM) == []


@pytest.mark.parametrize(
    ("now_s", "may_forget"),
    [
        pytest.param(START_S + 375.0 * DAY_S, True, id="our clock is a year ahead"),
        pytest.param(START_S - 355.0 * DAY_S, True, id="our clock is a year behind"),
        pytest.param(START_S + 10.0 * DAY_S, False, id="the clock is in doubt"),
    ],
)
def test_row_22_retention_never_acts_on_a_clock_that_jumped(tmp_path: Path, now_s: float, may_forget: bool) -> None:
    """Nothing is deleted that is not older than its retention by the newest sample and by the clock as well."""
    path = fill(tmp_path, VM, days_of_rows(10))
    before = kept_hours(path)
    late = packed_row(START_S + 10 * DAY_S - 900, interval_s=900)
    retention = 20.0 * DAY_S if may_forget else 4.0 * DAY_S
    flush(worker(tmp_path, raw_retention_s=retention), share(VM, late), now_s=now_s, may_forget=may_forget)
    assert kept_hours(path) == before


def test_a_silent_vm_keeps_its_last_days(tmp_path: Path) -> None:
    """Of a VM that fell silent long ago, the days before its newest sample stay."""
    path = fill(tmp_path, VM, days_of_rows(3))
    flush(worker(tmp_path, raw_retention_s=4.0 * DAY_S), share(VM, b""), now_s=START_S + 90.0 * DAY_S)
    assert counts(path)[0] == 3 * 48


@pytest.mark.parametrize("after", [(1,), (1, 2, 30), (5, 40)])
def test_changed_windows_are_rebuilt(tmp_path: Path, after: tuple[int, ...]) -> None:
    """When the setting changes, the sums are what they would have been with it from the beginning."""
    rows, more = days_of_rows(35), packed_row(START_S + 35 * DAY_S + 1800)
    fill(tmp_path / "changed", VM, rows)
    results = []
    for name, before in (("changed", WINDOWS), ("always", after)):
        if name == "always":
            fill(tmp_path / name, VM, rows, windows_days=before)
        results.append(flush(worker(tmp_path / name, windows_days=after), share(VM, more), now_s=NOW_S))
    assert only(results[0].summaries).figures == only(results[1].summaries).figures
    changed, always = (read_windows(store_path(tmp_path / name, VM)) for name in ("changed", "always"))
    assert changed.days == after
    assert list(compare_windows(changed, always)) == []


def test_the_profile_stays_exact_after_windows_became_shorter(tmp_path: Path) -> None:
    """Hours leave the hour-of-week profile as they came in, also when the windows reach back less far than it."""
    path = fill(tmp_path, VM, days_of_rows(PROFILE_DAYS + 1), windows_days=(1, 40))
    machine = worker(tmp_path, windows_days=(1,))
    for step in range(1, 4):
        ts = START_S + (PROFILE_DAYS + 1) * DAY_S + step * HOUR_S
        flush(machine, share(VM, packed_row(ts, interval_s=1800)), now_s=NOW_S)
        assert verify_store(path, VM) == []
        assert 0 <= read_windows(path).profile_s.min() <= read_windows(path).profile_s.max() <= 4 * HOUR_S


def test_the_profile_stays_exact_when_hours_are_kept_for_a_short_time(tmp_path: Path) -> None:
    """However short the retention of hours, one is there until it has left the profile."""
    path = store_path(tmp_path, VM)
    machine = worker(tmp_path, windows_days=(1,), raw_retention_s=1.0 * DAY_S, hour_retention_s=1.0 * DAY_S)
    for day in range(PROFILE_DAYS + 4):
        body = minutes(START_S + day * DAY_S + 1800, 48, interval_s=1800)
        flush(machine, share(VM, body), now_s=float(START_S + (day + 1) * DAY_S))
    with closing(connect_read_only(path)) as connection:
        store = Store.over(connection, VM)
        windows = store.windows()
        assert windows is not None
        reference = rebuild((1,), windows.open_hour, store.stored_hours(0, windows.open_hour - 1))
    assert list(compare_windows(windows, reference)) == []


def test_summaries_of_a_recorded_vm_are_exact(tmp_path: Path) -> None:
    """A recorded month through the worker, a day a flush, ends in the figures of its samples."""
    recording = next(iter(read_trace(trace("bitbrains/raw-sample-4vms.tar.xz"))))
    machine = worker(tmp_path, windows_days=(1, 3, 7, 14, 30))
    rows = rows_of(recording)
    for begin in range(0, len(rows), 288):
        body = b"".join(map(packed, rows[begin : begin + 288]))
        result = flush(machine, share(VM, body), now_s=NOW_S)
    for figures in only(result.summaries).figures:
        assert_exact(figures, [row for row in rows if row["ts"] > figures.start_s])
    assert verify_store(store_path(tmp_path, VM), VM) == []
