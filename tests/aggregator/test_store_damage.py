"""Stores that were changed, lost or cannot be read: no verdict rests on them, and the others notice nothing."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from aggregator.check import verify_store
from aggregator.rows import NAN
from aggregator.store import Store
from aggregator.store_files import StoreError, connect_read_only, read_samples, store_path
from aggregator.summary import ChunkResult, LostStore
from aggregator.worker import FlushWorker
from tests.aggregator.store_fakes import (
    DAY_S,
    HOUR_S,
    START_S,
    change,
    contents_of,
    fill,
    flush,
    minutes,
    packed_row,
    settings,
    share,
)

VM = "vm-1"
FLIPS = 400
SEED = 17
TABLES = ("sample", "hour", "hour_histogram", "windows", "store")
HOURS = 20
END_S = START_S + HOURS * HOUR_S + 30 * 60
NEWS = packed_row(END_S + 60, cpu_busy_ratio=0.5)


def noisy(count: int, draw: random.Random) -> bytes:
    """Minutes of which each is another; some figures are missing now and then."""
    return b"".join(
        packed_row(
            START_S + 60 * (number + 1),
            cpu_busy_ratio=draw.random(),
            load1=draw.random() * 4,
            mem_used_bytes=float(draw.randrange(1 << 20) << 10),
            net_rx_bytes_per_s=float(draw.randrange(1 << 20)),
            net_tx_bytes_per_s=float(draw.randrange(1 << 10)),
            users=draw.randrange(2),
            disk_read_bytes_per_s=7.0 if draw.random() < 0.9 else NAN,
        )
        for number in range(count)
    )


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table that is ours."""
    return contents_of(path, TABLES)


@dataclass(frozen=True)
class History:
    """A store with a past, beside what it holds before and after one more flush."""

    body: bytes
    before: dict[str, list[tuple[object, ...]]]
    after: dict[str, list[tuple[object, ...]]]


def news(machine: FlushWorker) -> ChunkResult:
    """One more minute; the store's time to be verified has come."""
    return flush(machine, share(VM, NEWS, had_history=True, verify=True), now_s=float(END_S + 61))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    data_dir = tmp_path_factory.mktemp("history")
    rows = noisy((END_S - START_S) // 60, random.Random(SEED))
    path = fill(data_dir, VM, rows)
    body, before = path.read_bytes(), contents(path)
    assert news(FlushWorker(settings(data_dir))).lost_stores == {}
    return History(body, before, contents(path))


def passes_sqlite(path: Path) -> bool:
    try:
        with closing(connect_read_only(path)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except (sqlite3.Error, UnicodeDecodeError):
        return False


def test_row_17_a_flipped_bit_is_caught_or_harmless(
    tmp_path: Path, history: History, record_property: Callable[[str, object], None]
) -> None:
    """Of 400 bits anywhere in a store, flush and check find each, or it leaves all that the store holds as it was."""
    draw = random.Random(SEED)
    machine = FlushWorker(settings(tmp_path))
    path = store_path(tmp_path, VM)
    path.parent.mkdir(parents=True)
    tally: Counter[str] = Counter()
    for bit in draw.sample(range(8 * len(history.body)), FLIPS):
        flipped = bytearray(history.body)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        sqlite = "passed" if passes_sqlite(path) else "caught"
        is_sound = not verify_store(path, VM, quick=True)
        assert not is_sound or contents(path) == history.before, f"bit {bit}: the check passed what was changed"
        result = news(machine)
        caught = bool(result.lost_stores or result.failures)
        assert caught or contents(path) == history.after, f"bit {bit}: the flush took what was changed"
        tally[f"{'caught' if caught else 'harmless'}, integrity_check {sqlite}"] += 1
        shutil.rmtree(path.parent)
        path.parent.mkdir()
    record_property("flips", dict(tally))
    assert sum(tally.values()) == FLIPS
    # Most of a store is data: a test that flips nothing that matters would prove nothing.
    assert sum(count for name, count in tally.items() if name.startswith("caught")) > FLIPS // 2


def set_cell(path: Path) -> None:
    change(path, "UPDATE sample SET mem_used = mem_used + 1 WHERE ts = ?", START_S + 600)


def swap_rows(path: Path) -> None:
    times = (START_S + 600, START_S + 660)
    change(path, "UPDATE sample SET cpu_busy = cpu_busy + iif(ts = ?, 1, -1) WHERE ts IN (?, ?)", times[0], *times)


def lose_a_row(path: Path) -> None:
    change(path, "DELETE FROM sample WHERE ts = ?", START_S + 600)


def lose_the_first_rows(path: Path) -> None:
    change(path, "DELETE FROM sample WHERE ts <= ?", START_S + HOUR_S)


def lose_a_histogram(path: Path) -> None:
    change(path, "DELETE FROM hour_histogram WHERE hour_s = ?", START_S)


def lose_an_hour(path: Path) -> None:
    change(path, "DELETE FROM hour WHERE hour_s = ?", START_S)


@pytest.mark.parametrize(
    "damage", [set_cell, swap_rows, lose_a_row, lose_the_first_rows, lose_a_histogram, lose_an_hour]
)
def test_row_17_what_no_flush_reads_is_found_when_its_time_comes(
    tmp_path: Path, history: History, damage: Callable[[Path], None]
) -> None:
    """Old rows are verified once in a while; then the VM is flagged, its store kept, and its new rows are stored."""
    path = store_path(tmp_path, VM)
    path.parent.mkdir(parents=True)
    path.write_bytes(history.body)
    damage(path)
    damaged = path.read_bytes()
    (summary,) = (result := news(FlushWorker(settings(tmp_path)))).summaries
    assert summary.flags == ["store_replaced"]
    assert result.inserted == 1
    lost = result.lost_stores[VM]
    assert "2023-11-13T0" in lost.why or "not those that were written" in lost.why
    assert lost.aside is not None
    assert Path(lost.aside).read_bytes() == damaged
    assert verify_store(path, VM) == []


def test_row_17_rows_that_a_flush_reads_are_verified_at_once(tmp_path: Path) -> None:
    """A changed row of the open hour, or of an hour that a late row opens again, never enters a figure."""
    for late_s in (START_S + 5 * HOUR_S, START_S + 90):
        data_dir = tmp_path / str(late_s)
        path = fill(data_dir, VM, minutes(START_S + 60, 290))
        victim_s = START_S + 600 if late_s == START_S + 90 else START_S + 285 * 60
        change(path, "UPDATE sample SET cpu_busy = cpu_busy + 1 WHERE ts = ?", victim_s)
        result = flush(FlushWorker(settings(data_dir)), share(VM, packed_row(late_s, interval_s=30)))
        assert "its rows are not those that were written" in result.lost_stores[VM].why
        assert result.summaries[0].flags == ["store_replaced"]


OLD_HOURS = 30
OLD_S = START_S + OLD_HOURS * HOUR_S


def old_vm(data_dir: Path) -> Path:
    """A VM of more than a day, so that a flush that only adds to its open hour reads no figures; half past an hour."""
    return fill(data_dir, VM, noisy(OLD_HOURS * 60 + 30, random.Random(SEED)))


def later(first: int, count: int = 15) -> bytes:
    """Minutes of the open hour of `old_vm`."""
    return minutes(OLD_S + first * 60, count, cpu_busy_ratio=0.5)


def test_row_17_rows_of_an_hour_that_grows_are_verified_before_they_are_packed_anew(tmp_path: Path) -> None:
    """A changed row of an open hour is found by the next flush: it is never written again as if it were right."""
    machine, path = FlushWorker(settings(tmp_path)), old_vm(tmp_path)
    change(path, "UPDATE sample SET cpu_busy = cpu_busy + 1 WHERE ts = ?", OLD_S + 600)
    grown = flush(machine, share(VM, later(31)))
    assert "hour 2023-11-14T06:00Z: its rows are not those" in grown.lost_stores[VM].why
    assert grown.summaries[0].flags == ["store_replaced"]


def damaged_bodies() -> dict[str, str]:
    """What rows of an hour can be after damage, as SQL."""
    return {
        "cut off": "substr(body, 1, length(body) - 1)",
        "longer": "CAST(body || x'00' AS BLOB)",
        "empty": "x''",
        "of another kind": "CAST(x'09' || substr(body, 2) AS BLOB)",
        "said to be deflated": "CAST(x'02' || substr(body, 2) AS BLOB)",
        "zeros": "zeroblob(length(body))",
    }


@pytest.mark.parametrize("kind", damaged_bodies())
def test_row_17_rows_that_cannot_be_unpacked_harm_their_vm_alone(tmp_path: Path, kind: str) -> None:
    """Its store is set aside with the hour named, and the other VMs of the chunk are stored as ever."""
    machine, path = FlushWorker(settings(tmp_path)), old_vm(tmp_path)
    others = [share(name, minutes(OLD_S + 60, 90)) for name in ("vm-0", "vm-2")]
    change(path, f"UPDATE rows SET body = {damaged_bodies()[kind]} WHERE hour_s = ?", OLD_S)
    assert any("rows: hour 2023-11-14T06:00Z" in problem for problem in verify_store(path, VM))
    with pytest.raises(StoreError, match="2023-11-14T06:00Z"):
        read_samples(path, OLD_S + 60, OLD_S + 120)
    result = flush(machine, others[0], share(VM, later(31)), others[1])
    assert "rows: hour 2023-11-14T06:00Z" in result.lost_stores[VM].why
    assert {one.vm_id: one.flags for one in result.summaries} == {"vm-0": [], VM: ["store_replaced"], "vm-2": []}
    assert (result.failures, result.inserted) == ({}, 2 * 90 + 15)


@pytest.mark.parametrize("shift_s", [1, HOUR_S, -HOUR_S, 40 * HOUR_S])
def test_row_17_rows_under_the_key_of_another_hour_are_found(tmp_path: Path, shift_s: int) -> None:
    """What a key says must agree with what lies under it, whichever hour that is."""
    path = fill(tmp_path, VM, noisy(3 * 60, random.Random(SEED)))
    change(path, "DELETE FROM rows WHERE hour_s = ?", START_S + HOUR_S + shift_s)
    change(path, "UPDATE rows SET hour_s = hour_s + ? WHERE hour_s = ?", shift_s, START_S + HOUR_S)
    assert verify_store(path, VM, quick=True)
    assert VM in news(FlushWorker(settings(tmp_path))).lost_stores


@pytest.mark.parametrize("column", ["samples", "covered_s", "cpu_busy_sum", "net_io_max", "rows_hash", "crc", "gaps"])
def test_row_17_an_open_hour_is_verified_before_it_is_added_to(tmp_path: Path, column: str) -> None:
    """Whatever changed in an hour that takes new rows: the hour is not built upon."""
    machine, path = FlushWorker(settings(tmp_path)), old_vm(tmp_path)
    new = "'{}'" if column == "gaps" else f"{column} + 1"
    change(path, f"UPDATE hour SET {column} = {new} WHERE hour_s = ?", OLD_S)
    result = flush(machine, share(VM, later(31)))
    assert "hour 2023-11-14T06:00Z" in result.lost_stores[VM].why
    assert verify_store(path, VM) == []


def test_an_hour_that_grows_unread_is_as_if_it_had_come_at_once(tmp_path: Path) -> None:
    """Rows, hours and sums are the same in however many flushes rows come, with figures missing and rows again."""
    parts = [
        later(31, 5),
        b"".join(packed_row(OLD_S + (36 + step) * 60, disk_read_bytes_per_s=9.0, users=1) for step in range(5)),
        later(38, 7),  # the first three are again, with other values
        later(45, 10),
        packed_row(OLD_S + 2000, interval_s=20),  # late
        packed_row(OLD_S + 3600, cpu_max_ratio=1.0),
    ]
    machine = FlushWorker(settings(tmp_path))
    path = old_vm(tmp_path)
    for part in parts:
        assert flush(machine, share(VM, part)).lost_stores == {}
        assert verify_store(path, VM) == []
    twin = old_vm(tmp_path / "twin")
    flush(FlushWorker(settings(tmp_path / "twin")), share(VM, b"".join(parts)))
    assert contents(path) == contents(twin)


def test_row_17_nobody_is_shown_what_was_changed(tmp_path: Path, history: History) -> None:
    """Samples of an hour with a changed row are an error that names the hour; those of other hours are there."""
    path = store_path(tmp_path, VM)
    path.parent.mkdir(parents=True)
    path.write_bytes(history.body)
    set_cell(path)
    with pytest.raises(StoreError, match="2023-11-13T00:00Z") as raised:
        read_samples(path, START_S + 60, START_S + 120)
    assert raised.value.corrupt
    assert len(read_samples(path, START_S + HOUR_S + 1, START_S + 2 * HOUR_S)) == 60


def test_row_17_retention_leaves_sound_stores_sound(tmp_path: Path) -> None:
    """Hours, histograms and rows that go by age leave sums that hold, also when rows come late and again."""
    machine = FlushWorker(settings(tmp_path, raw_retention_s=2.0 * DAY_S, hour_retention_s=34.0 * DAY_S))
    path = store_path(tmp_path, VM)
    for day in range(40):
        end_s = START_S + (day + 1) * DAY_S
        rows = minutes(end_s - DAY_S + 1800, 48, interval_s=1800)
        late = packed_row(end_s - DAY_S - 900, interval_s=900)
        result = flush(machine, share(VM, rows + late, had_history=day > 0, verify=True), now_s=float(end_s))
        assert (result.failures, result.lost_stores) == ({}, {})
        assert verify_store(path, VM) == []
    assert len(contents(path)["hour"]) < 36 * 24
    assert len(contents(path)["sample"]) < 4 * 50


GONE = LostStore("it was gone, or held nothing", None)


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_row_18_a_store_that_is_gone_is_begun_anew_and_marked(tmp_path: Path, lose: Callable[[Path], object]) -> None:
    """Deleted or of no length: new rows are stored, and the VM is flagged from then on, after a restart too."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 300))
    lose(path)
    now_s = float(START_S + 301 * 60)
    result = flush(FlushWorker(settings(tmp_path)), share(VM, packed_row(int(now_s)), had_history=True), now_s=now_s)
    assert (result.failures, result.inserted, result.lost_stores) == ({}, 1, {VM: GONE})
    assert result.summaries[0].flags == ["store_replaced"]
    assert contents(path)["store"][0][3] == int(now_s)
    again = flush(FlushWorker(settings(tmp_path)), share(VM, packed_row(int(now_s) + 60), had_history=True))
    assert again.summaries[0].flags == ["store_replaced"]
    assert again.lost_stores == {}


def test_row_18_a_crash_right_after_the_new_file_does_not_hide_the_loss(tmp_path: Path) -> None:
    """A store that is there and empty, of a VM that had a history, has lost it."""
    fill(tmp_path, VM, b"")
    result = flush(FlushWorker(settings(tmp_path)), share(VM, packed_row(START_S + 60), had_history=True))
    assert result.lost_stores == {VM: GONE}


def test_row_18_a_new_vm_has_lost_nothing(tmp_path: Path) -> None:
    """The first store of a VM is not a replaced one."""
    result = flush(FlushWorker(settings(tmp_path)), share(VM, packed_row(START_S + 60)))
    assert result.lost_stores == {}
    assert result.summaries[0].flags == []


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_FULL, None])
def test_row_12_a_store_that_cannot_be_read_harms_its_vm_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """An I/O error is a failure of that VM, not damage: the others are served, and it goes on when the disk is well."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 300))
    before = path.read_bytes()
    machine = FlushWorker(settings(tmp_path))
    late = packed_row(START_S + 90, interval_s=30)

    def fails(*_arguments: object, **_options: object) -> object:
        if code is None:
            raise OSError(5, "Input/output error")
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    with monkeypatch.context() as patched:
        whole = Store.packed_rows
        patched.setattr(Store, "packed_rows", lambda one, hours: fails() if one._vm_id == VM else whole(one, hours))
        result = flush(machine, share("vm-0", late), share(VM, late), share("vm-2", late))
    assert list(result.failures) == [VM]
    assert "error" in result.failures[VM]
    assert [summary.vm_id for summary in result.summaries] == ["vm-0", "vm-2"]
    assert (result.lost_stores, path.read_bytes()) == ({}, before)
    recovered = flush(machine, share(VM, late))
    assert (recovered.failures, recovered.inserted, recovered.lost_stores) == ({}, 1, {})
    assert verify_store(path, VM) == []
