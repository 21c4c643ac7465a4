"""A store: what it keeps, in which bytes, and what it makes of damage and crashes."""

from __future__ import annotations

import itertools
import random
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.wire import VM_ID_PATTERN
from aggregator import store_schema
from aggregator.histogram import TOTAL_BINS, decode_bins, encode_bins
from aggregator.rollup import Hour, roll_up
from aggregator.store import Store, _runs
from aggregator.store_files import as_store_error, connect_read_only, read_samples, store_path
from aggregator.store_rows import packed_hours
from tests.aggregator.store_fakes import HOUR_S, START_S, Row, fill, minutes, packed_row, rows_at, table_of

FIRST_HOUR = START_S // HOUR_S
TEMPLATE = store_schema.template()
VM = "vm-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store_path(tmp_path, VM)


def open_store(path: Path) -> Store:
    return Store(path, VM, TEMPLATE)


def save(store: Store, hours: list[Hour], open_hour: int) -> None:
    """Writes hours into a store that has none; their raw rows do not matter."""
    store.save_hours(hours, {hour.number: 0 for hour in hours}, {}, was_open=None, open_hour=open_hour)


def rolled(rows: list[Row]) -> list[Hour]:
    return [hour for _, hour in roll_up(np.zeros(len(rows), np.int64), table_of(rows))]


def assert_same(found: list[Hour], expected: list[Hour]) -> None:
    assert [hour.number for hour in found] == [hour.number for hour in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.samples == other.samples
        for name in ("totals", "seconds", "maxima", "bins", "weights"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist(), name


@st.composite
def histograms(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Rising bins with gaps of any width, and weights up to the most that an hour can hold."""
    bins = sorted(draw(st.sets(st.integers(0, TOTAL_BINS - 1), min_size=1, max_size=40)))
    unit = draw(st.sampled_from([1, 60, 300, 3600]))
    weights = draw(st.lists(st.integers(1, 65_520 // unit), min_size=len(bins), max_size=len(bins)))
    return bins, [weight * unit for weight in weights]


@given(histograms())
def test_a_histogram_survives_its_bytes(pair: tuple[list[int], list[int]]) -> None:
    """Bins and weights come back as they were, also over gaps of more than 255 bins and with weights of 16 bits."""
    bins, weights = decode_bins(encode_bins(np.array(pair[0]), np.array(pair[1])))
    assert (bins.tolist(), weights.tolist()) == pair


@pytest.mark.parametrize("gap", [254, 255, 256, 510, 511, 2_000])
def test_a_gap_of_any_width_is_bridged(gap: int) -> None:
    """The widest step of a byte is no limit: bins on either side of it keep their numbers."""
    pair = ([3, 3 + gap], [60, 65_520])
    bins, weights = decode_bins(encode_bins(np.array(pair[0]), np.array(pair[1])))
    assert (bins.tolist(), weights.tolist()) == pair


@given(st.binary(max_size=40))
def test_bytes_that_are_no_histogram_are_refused(body: bytes) -> None:
    """Damage is a ValueError, which the worker knows, or a histogram whose bins exist."""
    try:
        bins, _ = decode_bins(body)
    except ValueError:
        return
    assert bins.max(initial=0) < TOTAL_BINS


def test_a_bin_that_does_not_exist_is_damage() -> None:
    """A histogram that points past the last bin is refused, since adding it to a window would break the flush."""
    with pytest.raises(ValueError, match="no bin"):
        decode_bins(encode_bins(np.array([5, TOTAL_BINS]), np.array([60, 60])))


@given(st.sets(st.integers(0, 60)))
def test_runs_cover_the_numbers_and_nothing_else(numbers: set[int]) -> None:
    """Consecutive numbers become ranges with a gap between them."""
    ranges = list(_runs(numbers))
    assert [number for first, last in ranges for number in range(first, last + 1)] == sorted(numbers)
    assert all(later[0] - earlier[1] > 1 for earlier, later in itertools.pairwise(ranges))


@given(st.from_regex(VM_ID_PATTERN, fullmatch=True))
def test_a_store_lies_below_the_data_directory(vm_id: str) -> None:
    """Whatever the id, its file is two folders below `stores` and names the VM."""
    path = store_path(Path("data"), vm_id)
    assert path.parts[:2] == ("data", "stores")
    assert [len(part) for part in path.parts[2:4]] == [2, 2]
    assert path.name == f"{vm_id}.db"
    assert len(path.parts) == 5


def test_a_store_lies_where_the_contract_says() -> None:
    """The folders are the first bytes of the SHA-256 of the id."""
    assert store_path(Path("d"), "abc") == Path("d/stores/ba/78/abc.db")


def test_an_empty_template_is_what_the_migrations_make(tmp_path: Path) -> None:
    """A store copied from the template has the tables of one that was migrated, all of them STRICT."""
    (tmp_path / "copied.db").write_bytes(TEMPLATE)
    schemas = []
    for name in ("copied.db", "migrated.db"):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            store_schema.migrate(connection)
            schemas.append(connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall())
            strict = dict(connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'"))
            ours = ("rows", "hour", "hour_histogram", "windows", "store")
            assert [strict[name] for name in ours] == [1] * len(ours)
    assert schemas[0] == schemas[1]


def test_a_newer_store_is_refused(path: Path) -> None:
    """A store of a later release is neither read nor changed."""
    open_store(path).commit()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {store_schema.SCHEMA_VERSION + 1}")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="newer than this program"):
        open_store(path)
    assert path.read_bytes() == before


def test_what_is_not_committed_is_not_there(path: Path) -> None:
    """Closing rolls back: a flush that fails midway leaves the store as it was."""
    store = open_store(path)
    store.save_rows(
        packed_hours(table_of([{"ts": START_S + 60, "interval_s": 60, "cpu_busy": 1, "mem_total": 2, "mem_used": 1}]))
    )
    store.close()
    assert read_samples(path, 0, 2 * START_S) == []


@given(st.data())
def test_hours_survive_the_store(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Hours with any figures missing read back as they were computed."""
    interval_s = data.draw(st.sampled_from([60, 300, 3600]))
    steps = data.draw(st.sets(st.integers(1, 3 * HOUR_S // interval_s), min_size=1, max_size=6))
    rows = [data.draw(rows_at(START_S + step * interval_s, interval_s)) for step in sorted(steps)]
    hours = rolled(rows)
    path = tmp_path_factory.mktemp("store") / "vm.db"
    store = open_store(path)
    save(store, hours, FIRST_HOUR + 100)
    assert_same(store.stored_hours(FIRST_HOUR, FIRST_HOUR + 100), hours)
    store.close()


@given(st.data())
def test_rows_survive_the_store(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """What was saved reads back the same, and so in all that hours are made of."""
    steps = data.draw(st.sets(st.integers(1, 120), min_size=1, max_size=6))
    table = table_of([data.draw(rows_at(START_S + step * 60, 60)) for step in sorted(steps)])
    store = open_store(tmp_path_factory.mktemp("store") / "vm.db")
    store.save_rows(packed_hours(table))
    again = store.rows_of_hours([FIRST_HOUR, FIRST_HOUR + 1])
    assert again.tolist() == table.tolist()
    owner = np.zeros(len(table), np.int64)
    assert_same([hour for _, hour in roll_up(owner, again)], [hour for _, hour in roll_up(owner, table)])
    store.close()


def test_only_closed_hours_have_a_histogram(path: Path) -> None:
    """The open hour is computed anew at every flush, so its histogram is not written."""
    base: Row = {"ts": START_S + 60, "interval_s": 60, "cpu_busy": 1, "mem_total": 2, "mem_used": 1}
    store = open_store(path)
    save(store, rolled([base, {**base, "ts": START_S + HOUR_S + 60}]), FIRST_HOUR + 1)
    assert [hour.number for hour in store.stored_hours(FIRST_HOUR, FIRST_HOUR + 1)] == [FIRST_HOUR]
    store.close()


def test_forgetting_takes_whole_hours_alone(path: Path) -> None:
    """Of each table what ended before its limit goes, nothing of an hour that the limit cuts."""
    rows: list[Row] = [
        {"ts": START_S + minute * 60, "interval_s": 60, "cpu_busy": 1, "mem_total": 2, "mem_used": 1}
        for minute in range(1, 6 * 60 + 1)
    ]
    store = open_store(path)
    store.save_rows(packed_hours(table_of(rows)))
    save(store, rolled(rows), FIRST_HOUR + 5)
    limit_s = START_S + 4 * HOUR_S + 1800.0
    store.forget_before(raw_s=limit_s, histograms_s=limit_s - HOUR_S, hours_s=limit_s - 2 * HOUR_S)
    left = store.rows_of_hours(range(FIRST_HOUR, FIRST_HOUR + 6))
    hours = (left[:, 0] - 1) // HOUR_S - FIRST_HOUR
    first_left = int(hours.min())
    assert np.bincount(hours)[first_left:].tolist() == [60] * (6 - first_left)
    # An hour later than due at the most, and never sooner.
    assert first_left in (3, 4)
    assert store.stored_hours(0, FIRST_HOUR + 6)[0].number - FIRST_HOUR == first_left - 1
    store.commit()
    again = open_store(path)
    facts = again.facts()
    assert facts.oldest_hour is not None
    assert facts.oldest_hour - FIRST_HOUR == first_left - 2
    assert facts.raw_from_s == (FIRST_HOUR + first_left) * HOUR_S
    again.close()


@pytest.fixture
def crashed(tmp_path: Path) -> tuple[Path, Path]:
    """A store whose writer was cut off in a transaction that had reached the file, and its journal."""
    draw = random.Random(1)
    rows = [
        packed_row(START_S + 60 * step, net_rx_bytes_per_s=float(draw.getrandbits(20))) for step in range(1, 10_001)
    ]
    whole = fill(tmp_path / "whole", VM, b"".join(rows))
    path = store_path(tmp_path / "crashed", VM)
    path.parent.mkdir(parents=True)
    journal = Path(f"{path}-journal")
    with closing(sqlite3.connect(whole, isolation_level=None)) as connection:
        connection.execute("PRAGMA cache_size = 2")
        connection.execute("BEGIN")
        connection.execute("UPDATE rows SET body = zeroblob(length(body))")
        shutil.copy(whole, path)
        shutil.copy(f"{whole}-journal", journal)
    assert whole.read_bytes() != path.read_bytes()
    return path, journal


def test_row_19_a_cut_off_transaction_is_rolled_back_by_the_next_reader(crashed: tuple[Path, Path]) -> None:
    """After a crash amid a commit, a reader sees the store as it was before."""
    path, _ = crashed
    samples = read_samples(path, 0, 2 * START_S)
    assert len(samples) == 10_000
    assert {sample["cpu_busy_ratio"] for sample in samples} == {0.1}


def test_row_19_a_cut_off_transaction_is_rolled_back_by_the_next_flush(crashed: tuple[Path, Path]) -> None:
    """After a crash amid a commit, the next writer finds the store as it was before."""
    path, _ = crashed
    store = open_store(path)
    assert set(store.rows_of_hours(range(FIRST_HOUR, FIRST_HOUR + 17))[:, 2].tolist()) == {10_000}
    store.close()


def test_a_new_store_is_not_touched_by_the_journal_of_one_that_is_gone(crashed: tuple[Path, Path]) -> None:
    """When a store was deleted amid a transaction, what is left of that is not rolled back into the new one."""
    path, journal = crashed
    path.unlink()
    assert journal.stat().st_size
    store = open_store(path)
    assert store.rows_of_hours(range(FIRST_HOUR, FIRST_HOUR + 17)).tolist() == []
    assert store.newest_row() is None
    store.close()


def test_a_reader_cannot_change_a_store(crashed: tuple[Path, Path]) -> None:
    """A connection for reading refuses to write, also when it had to roll back first."""
    with closing(connect_read_only(crashed[0])) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("DELETE FROM rows")


def test_a_path_is_not_read_as_a_url(tmp_path: Path) -> None:
    """Characters that mean something in a URL may stand in the data directory's name."""
    path = fill(tmp_path / "100%41?mode=rw#x", VM, minutes(START_S + 60, 3))
    assert len(read_samples(path, 0, 2 * START_S)) == 3


def test_a_store_that_is_not_there_has_no_samples(path: Path) -> None:
    """Reading a VM that never pushed makes no file."""
    assert read_samples(path, 0, 2 * START_S) == []
    assert not path.exists()


@pytest.mark.parametrize("content", [b"x" * 5000, TEMPLATE[:100] + b"\xff" * 4000])
def test_damage_is_told_from_what_waiting_cures(tmp_path: Path, content: bytes) -> None:
    """A file that is no database is damaged for good; a lock or a full disk is not."""
    path = tmp_path / "vm.db"
    path.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError) as caught:
        open_store(path)
    assert as_store_error(caught.value).corrupt
    (tmp_path / "folder").mkdir()
    with pytest.raises(sqlite3.OperationalError) as absent:
        sqlite3.connect(tmp_path / "folder").execute("SELECT 1 FROM sqlite_master")
    assert not as_store_error(absent.value).corrupt
    assert not as_store_error(OSError(28, "No space left on device")).corrupt


ROOT = Path(__file__).parents[2]
# Lines of docs/stores.md that read a store, and nothing else.
SHOWN = [
    line
    for line in (ROOT / "docs" / "stores.md").read_text(encoding="utf-8").splitlines()
    if line.startswith(("sqlite3 ", "sqlite-utils ")) and "$STORE" in line
]


def test_the_document_shows_both_tools() -> None:
    """There is something below to be tested."""
    assert {line.split()[0] for line in SHOWN} == {"sqlite3", "sqlite-utils"}


@pytest.mark.real
@pytest.mark.parametrize("line", SHOWN)
def test_what_the_document_shows_reads_a_store(tmp_path: Path, line: str) -> None:
    """Each command of docs/stores.md finds its tables and columns, and prints something."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 130, load1=0.5, users=1, procs=9, net_rx_bytes_per_s=7.0))
    program, *words = (word.replace("$STORE", str(path)) for word in shlex.split(line))
    if program == "sqlite3":
        # The shell may be absent; its library is the same.
        with closing(connect_read_only(path)) as connection:
            assert connection.execute(words[-1]).fetchall()
        return
    done = subprocess.run(
        [sys.executable, "-m", "sqlite_utils", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
