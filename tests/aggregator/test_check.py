"""The check: silent about what is sound, and naming the VM and the hour of what is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.check import (
    CheckReport,
    JournalFacts,
    compare_summaries,
    newest_in_journal,
    read_facts,
    verify_journal,
    verify_store,
    verify_summaries,
)
from aggregator.decode import Push
from aggregator.journal_format import record_head, segment_header, segment_name
from aggregator.record import encode_record
from aggregator.rows import ROW_BYTES
from aggregator.store_files import StoreError, list_stores, store_path
from aggregator.worker import FlushWorker
from tests.aggregator.store_fakes import (
    DAY_S,
    HOUR_S,
    START_S,
    change,
    fill,
    flush,
    minutes,
    packed_row,
    settings,
    share,
)

VM = "vm-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store of five hours, the last of them open."""
    return fill(tmp_path, VM, minutes(START_S + 60, 270, users=1, net_rx_bytes_per_s=5.0))


def segment(*rows: bytes) -> bytes:
    """A whole segment with one record for each of these."""
    records = (
        encode_record(Push(VM, "boot", 1, 0.0, 60, body, len(body) // ROW_BYTES, START_S, START_S), 1.0)
        for body in rows
    )
    return segment_header() + b"".join(record_head(payload) + payload for payload in records)


def test_a_sound_store_has_no_problems(path: Path) -> None:
    """What the worker wrote agrees with itself."""
    assert verify_store(path, VM) == []


def test_a_store_that_lost_old_rows_to_retention_is_sound(tmp_path: Path) -> None:
    """Hours whose raw rows are gone are not held against them."""
    rows = minutes(START_S + 1800, 40 * 48, interval_s=1800)
    machine = FlushWorker(settings(tmp_path, raw_retention_s=2.0 * DAY_S))
    for _ in range(2):
        flush(machine, share(VM, rows[-ROW_BYTES * 10 :]), share("vm-2", rows), now_s=START_S + 40.0 * DAY_S)
    facts = read_facts(store_path(tmp_path, "vm-2"), "vm-2")
    assert facts.rows < 40 * 48
    assert verify_store(store_path(tmp_path, "vm-2"), "vm-2") == []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"DELETE FROM sample WHERE ts = {START_S + 600}", "2023-11-13T00:00Z: the rollup differs"),
        (f"UPDATE sample SET cpu_busy = 3 WHERE ts = {START_S + 600}", "differs from its raw rows in cpu_busy_sum"),
        (f"UPDATE sample SET users = NULL WHERE ts = {START_S + 600}", "in users_s"),
        (f"UPDATE sample SET net_rx = NULL WHERE ts = {START_S + 600}", "gaps"),
        (f"UPDATE hour SET samples = samples + 1 WHERE hour_s = {START_S}", "in samples"),
        (f"UPDATE hour SET net_rx_max = net_rx_max + 1 WHERE hour_s = {START_S}", "in net_rx_max"),
        (f"DELETE FROM sample WHERE ts > {START_S + HOUR_S} AND ts <= {START_S + 2 * HOUR_S}", "but no raw rows"),
        (f"DELETE FROM hour_histogram WHERE hour_s = {START_S}", "00:00Z: its histogram is missing"),
        (f"UPDATE sample SET cpu_busy = 3 WHERE ts = {START_S + 600}", "the histogram differs from its raw rows"),
        ("UPDATE hour_histogram SET body = x'00'", "a histogram is damaged"),
        (f"DELETE FROM sample WHERE ts > {START_S + 4 * HOUR_S}", "the window sums end before"),
    ],
)
def test_what_the_worker_derived_wrongly_is_named(path: Path, statement: str, words: str) -> None:
    """A store whose sums hold and whose hours or windows are not those of its rows: a mistake of ours is found."""
    change(path, statement, reseal=True)
    problems = verify_store(path, VM)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"DELETE FROM sample WHERE ts = {START_S + 600}", "rows: hour 2023-11-13T00:00Z: its rows are not those"),
        (
            f"UPDATE sample SET load1 = 3 WHERE ts = {START_S + 4020}",
            "rows: hour 2023-11-13T01:00Z: its rows are",
        ),
        (f"UPDATE sample SET ts = ts + 7230 WHERE ts = {START_S + 600}", "T02:00Z: its rows are not those"),
        (f"DELETE FROM sample WHERE ts <= {START_S + HOUR_S}", "rows: hour 2023-11-13T00:00Z: its rows are gone"),
        (f"DELETE FROM hour WHERE hour_s = {START_S + HOUR_S}", "T01:00Z: rows of an hour that is not there"),
        (f"DELETE FROM hour WHERE hour_s = {START_S + HOUR_S}", "hour: the hours are not those that were written"),
        (f"UPDATE hour SET cpu_busy_max = 7 WHERE hour_s = {START_S}", "hour: hour 2023-11-13T00:00Z: is not what was"),
        (f"UPDATE hour SET gaps = 'x' WHERE hour_s = {START_S}", "hour: hour 2023-11-13T00:00Z: is not what was"),
        (f"UPDATE hour SET rows_hash = 7 WHERE hour_s = {START_S}", "hour: hour 2023-11-13T00:00Z: is not what was"),
        (f"DELETE FROM hour WHERE hour_s = {START_S + 4 * HOUR_S}", "windows: the sums are not of the newest hour"),
        (f"DELETE FROM hour_histogram WHERE hour_s = {START_S}", "the histograms are not those that were written"),
        (f"UPDATE hour_histogram SET hour_s = 0 WHERE hour_s = {START_S}", "hour_histogram: hour 1970-01-01T00:00Z"),
        ("UPDATE windows SET body = x'00'", "windows: "),
        ("DELETE FROM windows", "windows: the sums are not of the newest hour"),
        ("UPDATE store SET conflicts = 9", "store: its row is not what was written"),
        ("UPDATE store SET replaced_s = 9", "store: its row is not what was written"),
        ("UPDATE store SET vm_id = 'vm-9'", "belongs to vm-9"),
        ("DELETE FROM store", "is empty"),
        ("PRAGMA user_version = 9", "has schema 9"),
        ("DROP TABLE hour", "no such table"),
    ],
)
def test_row_17_what_was_changed_is_named_by_table_and_hour(path: Path, statement: str, words: str) -> None:
    """Each way in which a store can differ from what was written is found and said in words, by `--quick` too."""
    change(path, statement)
    for quick in (False, True):
        problems = verify_store(path, VM, quick=quick)
        assert any(words in problem for problem in problems), problems


def test_changed_window_sums_are_found(tmp_path: Path, path: Path) -> None:
    """Sums of another store are not the sums of this one's hours."""
    other = fill(tmp_path, "vm-2", minutes(START_S + 60, 270, users=1, net_rx_bytes_per_s=9.0))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ATTACH ? AS other", (str(other),))
        connection.execute("UPDATE main.windows SET body = (SELECT body FROM other.windows)")
        connection.commit()
    problems = verify_store(path, VM)
    for words in ("1 d: the sums", "7 d: the histogram", "3 d: the maximum differs", "daily totals"):
        assert any(words in problem for problem in problems), problems


@hypothesis_settings(max_examples=50)
@given(at=st.integers(100, 40_000), bit=st.integers(0, 7))
def test_a_flipped_bit_never_breaks_the_check(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    """Whatever a disk does to a store, the answer is a list of problems, never an exception."""
    path = fill(tmp_path_factory.mktemp("data"), VM, minutes(START_S + 60, 130))
    body = bytearray(path.read_bytes())
    body[at % len(body)] ^= 1 << bit
    path.write_bytes(body)
    assert all(isinstance(problem, str) for problem in verify_store(path, VM))


def test_a_store_that_is_not_there_or_no_store_is_a_problem(tmp_path: Path) -> None:
    """Absence and garbage are said, not raised."""
    assert verify_store(tmp_path / "none.db", VM) == ["there is no store"]
    (tmp_path / "garbage.db").write_bytes(b"garbage" * 1000)
    (problem,) = verify_store(tmp_path / "garbage.db", VM)
    assert "not a database" in problem


def test_a_store_with_many_problems_names_some_and_counts_the_rest(path: Path) -> None:
    """A store that is wrong all over does not flood the terminal."""
    change(
        path,
        f"WITH RECURSIVE n(i) AS (SELECT 5 UNION ALL SELECT i + 1 FROM n WHERE i < 44) INSERT INTO sample "
        f"(ts, interval_s, cpu_busy, mem_total, mem_used) SELECT {START_S} + i * 3600, 60, 1, 2, 1 FROM n",
    )
    problems = verify_store(path, VM)
    assert len(problems) == 21
    assert "more problems" in problems[-1]


def test_checking_changes_no_file(path: Path) -> None:
    """A store is only read."""
    before = path.read_bytes()
    verify_store(path, VM)
    assert path.read_bytes() == before


def test_facts_of_a_store(tmp_path: Path, path: Path) -> None:
    """Rows, times and hours are those of the store."""
    facts = read_facts(path, VM)
    assert (facts.rows, facts.first_s, facts.newest_s, facts.hours) == (270, START_S + 60, START_S + 270 * 60, 5)
    assert (facts.conflicts, facts.replaced_s, facts.schema_version) == (0, None, 3)
    assert facts.size_bytes == path.stat().st_size
    assert list_stores(tmp_path) == {VM: path}


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"x" * 900)])
def test_facts_of_what_is_no_store_are_an_error(path: Path, spoil: Callable[[Path], object]) -> None:
    """An absent or broken store is a StoreError, and reading it makes no file."""
    spoil(path)
    with pytest.raises(StoreError):
        read_facts(path, VM)


def test_summaries_are_compared_with_stores() -> None:
    """A summary must exist, for a store that exists, and be of the store's newest row."""
    newest = {"same": 60, "behind": 120, "missing": 60, "empty": None, "owed": 60}
    summaries = {"same": 60, "behind": 60, "gone": 60}
    problems = compare_summaries(newest, summaries, newest, owed={"owed"})
    assert sorted(problems) == ["behind", "gone", "missing"]
    assert "120" in problems["behind"]
    assert "60" in problems["behind"]


def test_a_flush_between_two_looks_is_no_problem() -> None:
    """A summary that is newer than the store was before, and not newer than it is after, agrees."""
    assert compare_summaries({VM: 60}, {VM: 120}, {VM: 180}, owed=()) == {}
    assert VM in compare_summaries({VM: 60}, {VM: 240}, {VM: 180}, owed=())


def test_a_row_that_waits_in_the_journal_is_no_problem() -> None:
    """The fleet database may know of a row whose turn to be stored has not come; of none that is nowhere."""
    assert compare_summaries({VM: 60}, {VM: 240}, {VM: 180}, owed=(), journal={VM: 240}) == {}
    assert compare_summaries({VM: None}, {VM: 240}, {VM: None}, owed=(), journal={VM: 240}) == {}
    assert VM in compare_summaries({VM: 60}, {VM: 300}, {VM: 180}, owed=(), journal={VM: 240})


def test_the_newest_row_of_each_vm_in_the_journal(tmp_path: Path) -> None:
    """Of all segments; a damaged one tells what it can, and no journal tells nothing."""
    (tmp_path / segment_name(1)).write_bytes(segment(packed_row(START_S), packed_row(START_S + 120)))
    (tmp_path / segment_name(2)).write_bytes(segment(packed_row(START_S + 60)) + b"torn")
    assert newest_in_journal(tmp_path) == {VM: START_S + 120}
    assert newest_in_journal(tmp_path / "journal") == {}


def test_a_doubtful_summary_is_looked_at_again(tmp_path: Path, path: Path) -> None:
    """A flush that has written the store but not yet the summary is given its time; what stays wrong is named."""
    newest_s = START_S + 270 * 60
    summaries = {VM: newest_s - 60, "vm-9": 60}
    paused = []

    def pause() -> None:
        paused.append(1)
        summaries[VM] = newest_s

    def verify() -> dict[str, str]:
        return verify_summaries(
            tmp_path,
            [VM, "vm-9"],
            read_summaries=lambda: summaries,
            read_owed=frozenset,
            read_journal=dict,
            pause=pause,
        )

    assert list(verify()) == ["vm-9"]
    del summaries["vm-9"]
    assert verify() == {}
    assert len(paused) == 1


def test_records_and_samples_of_the_journal_are_counted(tmp_path: Path) -> None:
    """Every record of every segment is read; other files are left alone."""
    (tmp_path / segment_name(1)).write_bytes(segment(packed_row(START_S), packed_row(START_S) * 3))
    (tmp_path / segment_name(2)).write_bytes(segment(packed_row(START_S)))
    (tmp_path / "notes.txt").write_text("no segment")
    assert verify_journal(tmp_path) == JournalFacts(segments=2, records=3, samples=5)


def test_no_journal_is_no_problem(tmp_path: Path) -> None:
    """A data directory that was never used has no journal."""
    assert verify_journal(tmp_path / "journal") == JournalFacts()


def test_a_torn_tail_is_normal_in_the_newest_segment_alone(tmp_path: Path) -> None:
    """The newest segment may end amid a write; in an older one that is damage."""
    torn = segment(packed_row(START_S)) + b"\xfa\x11\x0f\xfe1234"
    (tmp_path / segment_name(2)).write_bytes(torn)
    facts = verify_journal(tmp_path)
    assert (facts.records, facts.damaged, facts.torn_bytes, facts.problems) == (1, 0, 8, [])
    (tmp_path / segment_name(3)).write_bytes(segment_header())
    facts = verify_journal(tmp_path)
    assert facts.damaged == 1
    assert segment_name(2) in facts.problems[0]


def test_damage_in_the_journal_is_named(tmp_path: Path) -> None:
    """A flipped bit, a segment of another version and a record of another layout each name their file."""
    flipped = bytearray(segment(packed_row(START_S), packed_row(START_S)))
    flipped[60] ^= 1
    (tmp_path / segment_name(1)).write_bytes(flipped)
    payload = b"\x09" + bytes(200)
    (tmp_path / segment_name(2)).write_bytes(segment_header() + record_head(payload) + payload)
    facts = verify_journal(tmp_path)
    assert facts.records == 1
    assert facts.damaged == 1
    assert [problem.partition(":")[0] for problem in facts.problems] == [segment_name(1), segment_name(2)]
    assert not CheckReport(0, {}, facts).is_sound
    assert CheckReport(0, {}, JournalFacts()).is_sound
