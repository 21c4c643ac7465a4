"""Joining a VM's history: whatever several nodes hold of it, in the end one store holds what one node would have."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator import store_schema
from aggregator.part_file import Dropped, Joined, StorePart, drop_store, read_part
from aggregator.store_files import connect_read_only, delete_store, store_path
from aggregator.store_verify import problems_of
from aggregator.summary import Summary
from aggregator.worker import FlushWorker
from aggregator.worker_join import PartJoiner
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
TABLES = ("sample", "hour", "hour_histogram", "windows")
NOW_S = float(START_S + 300 * DAY_S)
HOME, ELSEWHERE, ALSO = "home", "elsewhere", "also"


@pytest.fixture(autouse=True, scope="module")
def one_template() -> Iterator[None]:
    """Every worker makes the same empty store for itself, which takes longer than all else here."""
    template = store_schema.template()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_schema, "template", lambda: template)
        yield


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of the tables that samples make, and the names of all tables."""
    with closing(connect_read_only(path)) as connection:
        assert list(problems_of(connection)) == []
        found = contents_of(path, TABLES)
        found["tables"] = connection.execute("SELECT name FROM sqlite_master ORDER BY 1").fetchall()
        return found


def part_of(data_dir: Path) -> StorePart:
    """The store of VM below a data directory."""
    part = read_part(store_path(data_dir, VM))
    assert part is not None
    return part


def join(home: Path, part: Path, **changes: object) -> Joined:
    """Joins the store of one data directory into another's."""
    joiner = PartJoiner(settings(home, **changes))
    return joiner.join(VM, ELSEWHERE, part_of(part).body, had_history=store_path(home, VM).exists())


def flushed(data_dir: Path, *batches: bytes, **changes: object) -> Summary:
    """Flushes each batch; the last summary, with figures."""
    worker = FlushWorker(settings(data_dir, **changes))
    for batch in batches:
        result = flush(worker, share(VM, batch, wants_figures=True), now_s=NOW_S, may_forget=False)
        assert not result.failures
        assert not result.lost_stores
    (summary,) = result.summaries
    return summary


def sample(minute: int, variant: int = 0) -> bytes:
    """A row of its own for each minute from START_S and variant; some figures are not measured."""
    figures: dict[str, Any] = {"cpu_busy_ratio": (minute * 7 + variant * 31) % 100 / 100}
    if minute % 3:
        figures["net_rx_bytes_per_s"] = 1000.0 * (minute % 17)
    return packed_row(START_S + minute * 60, **figures)


@dataclass
class Node:
    """What one node was given: batches, and of its store the rows that came first."""

    data_dir: Path
    worker: FlushWorker = field(init=False)
    first: dict[int, int] = field(default_factory=dict)  # minute -> variant
    conflicts: int = 0
    unjoined: list[bytes] = field(default_factory=list)  # since its part was joined last

    def __post_init__(self) -> None:
        self.worker = FlushWorker(settings(self.data_dir))

    def take(self, batch: list[tuple[int, int]]) -> None:
        rows = b"".join(sample(*one) for one in batch)
        result = flush(self.worker, share(VM, rows), now_s=NOW_S, may_forget=False)
        assert not result.failures
        for minute, variant in batch:
            self.conflicts += self.first.setdefault(minute, variant) != variant
        self.unjoined.append(rows)


class Fleet:
    """A home and two other nodes beside one node that is given all: in the end they must agree."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.nodes = {name: Node(directory / name) for name in (HOME, ELSEWHERE, ALSO)}
        self.joiner = PartJoiner(settings(directory / HOME))
        self.single = FlushWorker(settings(directory / "single"))
        self.counted: dict[str, int] = {}
        self.of_parts = 0

    @property
    def home(self) -> Node:
        return self.nodes[HOME]

    def give(self, name: str, batch: list[tuple[int, int]]) -> None:
        self.nodes[name].take(batch)
        if name == HOME:
            flush(self.single, share(VM, self.home.unjoined.pop()), now_s=NOW_S, may_forget=False)

    def join(self, name: str, until: str) -> Joined | None:
        """The steps of a join, as far as they come; None where the node holds nothing and the home neither."""
        node = self.nodes[name]
        path = store_path(node.data_dir, VM)
        part = read_part(path)
        had_history = bool(self.home.first)
        if part is not None:
            joined = self.joiner.join(VM, name, part.body, had_history=had_history)
            assert joined.problem is None
            for rows in node.unjoined:
                flush(self.single, share(VM, rows), now_s=NOW_S, may_forget=False)
            node.unjoined.clear()
            differing = sum(
                self.home.first.setdefault(minute, variant) != variant for minute, variant in node.first.items()
            )
            self.counted[name] = node.conflicts + differing
            if until == "joined":
                return joined
            assert drop_store(path, part.mark).is_gone
            self.of_parts += self.counted.pop(name)
            node.first, node.conflicts = {}, 0
            if until == "dropped":
                return joined
        elif until != "settled":
            return None
        settled = self.joiner.settle(VM, name, had_history=bool(self.home.first))
        assert settled.problem is None
        return settled


MINUTES = st.sampled_from([hour * 60 + minute for hour in (0, 1, 2, 25, 26, 100, 190) for minute in (1, 2, 60)])
BATCHES = st.lists(st.tuples(MINUTES, st.integers(0, 1)), min_size=1, max_size=6)
GIVEN = st.tuples(st.sampled_from([HOME, ELSEWHERE, ALSO]), BATCHES)
JOINS = st.tuples(st.sampled_from([ELSEWHERE, ALSO]), st.sampled_from(["joined", "dropped", "settled"]))


@given(st.lists(GIVEN | JOINS, max_size=12))
@hypothesis_settings(max_examples=40, deadline=None)
def test_joined_history_is_that_of_one_node(steps: list[tuple[str, list[tuple[int, int]] | str]]) -> None:
    """Rows, hours, histograms, sums, figures, evidence: as if one node had had it all; conflicts count once."""
    with TemporaryDirectory() as directory:
        fleet = Fleet(Path(directory))
        for name, step in steps:
            if isinstance(step, str):
                fleet.join(name, step)
            else:
                fleet.give(name, step)
        ends = [fleet.join(name, "settled") for name in (ELSEWHERE, ALSO)]
        if not fleet.home.first:
            return
        last = ends[-1]
        assert last is not None
        expected = flush(fleet.single, share(VM, b"", wants_figures=True), now_s=NOW_S).summaries[0]
        conflicts = fleet.home.conflicts + fleet.of_parts
        assert last.summary == expected._replace(conflicts=conflicts)
        assert contents(store_path(Path(directory, HOME), VM)) == contents(store_path(Path(directory, "single"), VM))


def test_same_part_again_changes_nothing(tmp_path: Path) -> None:
    """A join that is repeated after a crash neither adds a row nor counts a conflict twice."""
    home, part = tmp_path / "home", tmp_path / "part"
    flushed(home, sample(1), sample(70))
    flushed(part, sample(1, 1) + sample(2), sample(2, 1), sample(65))
    first = join(home, part)
    after = contents(store_path(home, VM))
    again = join(home, part)
    assert first.summary is not None
    assert again.summary == first.summary
    assert (first.inserted, first.conflicts, first.summary.conflicts) == (2, 1, 2)
    assert (again.inserted, again.duplicates) == (0, 2)
    assert contents(store_path(home, VM)) == after


# Hours whose raw rows are gone.

DAYS_OF_RAW = 2


def old_part(data_dir: Path, *, first_day: int = 0, days: int = 6, late_s: int = 0) -> bytes:
    """A store of several days of which the raw rows of the first are gone; returns all that was pushed."""
    first_s, step_s = START_S + first_day * DAY_S + late_s, 600
    rows = minutes(first_s + step_s, (days * DAY_S - late_s) // step_s, interval_s=step_s, users=1)
    worker = FlushWorker(settings(data_dir, raw_retention_s=float(DAYS_OF_RAW * DAY_S)))
    result = flush(worker, share(VM, rows), now_s=START_S + (first_day + days) * DAY_S)
    assert not result.failures
    return rows


def hours_without_rows(data_dir: Path) -> int:
    found = contents(store_path(data_dir, VM))
    with_rows = {(int(str(row[0])) - 1) // HOUR_S for row in found["sample"]}
    return sum(int(str(row[0])) // HOUR_S not in with_rows for row in found["hour"])


def test_hours_without_raw_rows_are_taken_over(tmp_path: Path) -> None:
    """What a part only knows by the hour comes with it, its histograms too: the figures are those of one node."""
    home, part, single = (tmp_path / name for name in ("home", "part", "single"))
    limits = {"raw_retention_s": float(DAYS_OF_RAW * DAY_S)}
    elsewhere, later = old_part(part), minutes(START_S + 6 * DAY_S + 60, 90)
    assert hours_without_rows(part) > 24 * (6 - DAYS_OF_RAW - 1)
    flushed(home, later, **limits)
    expected = flushed(single, elsewhere, later, **limits)
    joined = join(home, part, **limits)
    assert joined.summary == expected
    ours, theirs = contents(store_path(home, VM)), contents(store_path(single, VM))
    for table in ("hour", "hour_histogram", "windows"):
        assert ours[table] == theirs[table]
    assert join(home, part, **limits).summary == expected
    assert contents(store_path(home, VM)) == ours
    # Each of these hours is one day subtracted: none may be missing then.
    for days in (7, 8, 31, 45):
        assert flushed(home, minutes(START_S + days * DAY_S + 60, 2), **limits) == flushed(
            single, minutes(START_S + days * DAY_S + 60, 2), **limits
        )


def test_raw_rows_over_age_are_not_kept(tmp_path: Path) -> None:
    """Where our raw rows of that time are gone, those of a part make its hours and go, like ours."""
    home, part, single = (tmp_path / name for name in ("home", "part", "single"))
    limits = {"raw_retention_s": float(DAYS_OF_RAW * DAY_S)}
    early = minutes(START_S + 60, 90)
    ours = old_part(home, first_day=1)
    flushed(part, early)
    expected = flushed(single, early, ours)
    before = contents(store_path(home, VM))["sample"]
    joined = join(home, part, **limits)
    assert joined.summary == expected
    after = contents(store_path(home, VM))
    assert after["sample"] == before
    assert after["hour"] == contents(store_path(single, VM))["hour"]
    assert join(home, part, **limits).summary == expected


@pytest.mark.parametrize("home_covers_more", [True, False])
@pytest.mark.parametrize("home_has_rows", [True, False])
def test_hour_that_covers_more_stands(tmp_path: Path, home_covers_more: bool, home_has_rows: bool) -> None:
    """Of two hours that cannot be added up since one has no raw rows any more, the one that covers more stays."""
    home, part = tmp_path / "home", tmp_path / "part"
    without, with_rows = (part, home) if home_has_rows else (home, part)
    old_part(without, late_s=1800)
    flushed(with_rows, minutes(START_S + 60, 50 if home_has_rows == home_covers_more else 10, cpu_busy_ratio=0.5))
    if home_has_rows:
        flushed(home, minutes(START_S + 6 * DAY_S + 60, 2))
    covered = {
        name: contents(store_path(data_dir, VM))["hour"][0][2] for name, data_dir in (("home", home), ("part", part))
    }
    wanted = max(covered.values(), key=lambda seconds: int(str(seconds)))
    assert (covered["home"] == wanted) == home_covers_more
    joined = join(home, part, raw_retention_s=float(DAYS_OF_RAW * DAY_S))
    assert joined.problem is None
    after = contents(store_path(home, VM))
    assert after["hour"][0][2] == wanted
    assert join(home, part).summary == joined.summary
    assert contents(store_path(home, VM)) == after


def test_many_hours_come_in_pieces(tmp_path: Path) -> None:
    """A part of more hours than are joined at a time is joined whole."""
    home, part, single = (tmp_path / name for name in ("home", "part", "single"))
    early = minutes(START_S + 3600, 700, interval_s=3600)
    late = minutes(START_S + 400 * 3600 + 60, 30)
    flushed(home, late)
    flushed(part, early)
    expected = flushed(single, late, early)
    assert join(home, part).summary == expected
    assert contents(store_path(home, VM)) == contents(store_path(single, VM))


# What is not joined.


def flipped(data_dir: Path, statement: str) -> bytes:
    change(store_path(data_dir, VM), statement)
    return part_of(data_dir).body


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("UPDATE sample SET cpu_busy = cpu_busy + 1 WHERE ts = (SELECT min(ts) FROM sample)", "rows"),
        ("UPDATE hour SET covered_s = covered_s + 1", "hour"),
        ("DELETE FROM hour_histogram", "hour_histogram"),
        ("UPDATE store SET conflicts = 7", "store"),
        ("PRAGMA user_version = 99", "newer than this program"),
        ("DROP TABLE windows", "windows"),
    ],
)
def test_damaged_part_is_not_joined(tmp_path: Path, statement: str, word: str) -> None:
    """A part that is not what was written, or that nobody here can read, changes nothing; the reason says what."""
    home, part = tmp_path / "home", tmp_path / "part"
    flushed(home, sample(100))
    flushed(part, sample(1), sample(70))
    before = store_path(home, VM).read_bytes()
    body = flipped(part, statement)
    joined = PartJoiner(settings(home)).join(VM, ELSEWHERE, body, had_history=True)
    assert joined.summary is None
    assert joined.problem is not None
    assert word in joined.problem
    assert store_path(home, VM).read_bytes() == before


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=30)
def test_anything_else_is_no_part(body: bytes) -> None:
    """Bytes that are no store are refused with a reason, whatever they are."""
    with TemporaryDirectory() as directory:
        joined = PartJoiner(settings(Path(directory))).join(VM, ELSEWHERE, body, had_history=False)
        assert joined.problem is not None
        assert joined.summary is None


def test_damage_here_stops_a_join(tmp_path: Path) -> None:
    """Rows of ours that are not what was written are not made part of a new sum."""
    home, part = tmp_path / "home", tmp_path / "part"
    flushed(home, sample(1), sample(70))
    flushed(part, sample(2))
    change(store_path(home, VM), "UPDATE sample SET cpu_busy = cpu_busy + 1 WHERE ts = (SELECT min(ts) FROM sample)")
    before = store_path(home, VM).read_bytes()
    joined = join(home, part)
    assert joined.problem is not None
    assert "its rows are not those that were written" in joined.problem
    assert store_path(home, VM).read_bytes() == before


def test_row_18_lost_store_is_not_hidden_by_a_part(tmp_path: Path) -> None:
    """A store that had rows and is gone waits for a flush, which marks the new one; only then parts are joined."""
    home, part = tmp_path / "home", tmp_path / "part"
    flushed(home, sample(100))
    flushed(part, sample(1))
    delete_store(store_path(home, VM))
    joiner = PartJoiner(settings(home))
    body = part_of(part).body
    assert "is gone here" in str(joiner.join(VM, ELSEWHERE, body, had_history=True).problem)
    assert "is gone here" in str(joiner.settle(VM, ELSEWHERE, had_history=True).problem)
    result = flush(FlushWorker(settings(home)), share(VM, sample(101), had_history=True))
    assert list(result.lost_stores) == [VM]
    joined = joiner.join(VM, ELSEWHERE, body, had_history=True)
    assert joined.summary is not None
    assert joined.summary.flags == ["store_replaced"]


def test_mark_of_a_lost_store_comes_with_its_part(tmp_path: Path) -> None:
    """What a part had lost is missing in the whole: the mark stays until a person has looked."""
    home, part = tmp_path / "home", tmp_path / "part"
    flushed(home, sample(100))
    flush(FlushWorker(settings(part)), share(VM, sample(1), had_history=True))
    joined = join(home, part)
    assert joined.summary is not None
    assert joined.summary.flags == ["store_replaced"]


def test_part_of_another_vm_is_refused(tmp_path: Path) -> None:
    """Where a store says whose it is, it is joined to nobody else."""
    home, part = tmp_path / "home", tmp_path / "part"
    flushed(part, sample(1), sample(1, 1))
    body = part_of(part).body
    assert "is of vm-1" in str(PartJoiner(settings(home)).join("vm-2", ELSEWHERE, body, had_history=False).problem)


def test_nothing_to_settle_makes_no_store(tmp_path: Path) -> None:
    """A node that never stored anything of a VM has no store of it after settling either."""
    assert PartJoiner(settings(tmp_path)).settle(VM, ELSEWHERE, had_history=False) == Joined()
    assert not store_path(tmp_path, VM).exists()


# Letting go.


def test_store_that_changed_is_not_dropped(tmp_path: Path) -> None:
    """Only the very store that was read goes; one that took a row since, or is another of the same rows, stays."""
    path = fill(tmp_path, VM, sample(1))
    mark = part_of(tmp_path).mark
    fill(tmp_path, VM, sample(2))
    assert drop_store(path, mark) == Dropped(is_gone=False)
    assert path.exists()
    now = part_of(tmp_path).mark
    assert now != mark
    assert drop_store(path, now).is_gone
    assert list(path.parent.iterdir()) == []
    # The answer was lost: asked again, there is nothing to do.
    assert drop_store(path, now).is_gone
    assert read_part(path) is None


def crash_in_a_commit(path: Path) -> None:
    """Leaves the file as a crash does that comes when some pages are written and the commit is not."""
    half, journal = path.with_name("half.db"), Path(f"{path}-journal")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # So small that pages go to the file before the commit.
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE hour SET samples = 99")
        connection.execute(
            "CREATE TABLE more AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n "
            "LIMIT 5000) SELECT x FROM n"
        )
        shutil.copy(path, half)
        shutil.copy(journal, f"{half}-journal")
    half.rename(path)
    Path(f"{half}-journal").rename(journal)
    assert journal.stat().st_size


def test_row_19_part_of_a_crashed_store_is_its_last_commit(tmp_path: Path) -> None:
    """A hot journal is rolled back before a part is read."""
    path = fill(tmp_path, VM, sample(1))
    whole = part_of(tmp_path)
    crash_in_a_commit(path)
    assert part_of(tmp_path).body == whole.body


# The sums of windows.


def test_late_row_behind_all_histograms_is_stored(tmp_path: Path) -> None:
    """Where raw rows are kept for longer than histograms, a late row of an old hour changes that hour, and no more."""
    worker = FlushWorker(settings(tmp_path, raw_retention_s=40.0 * DAY_S))
    old_s, last_s = START_S + 22 * DAY_S, START_S + 60 * DAY_S
    for first_s in (START_S, old_s, last_s):
        assert not flush(worker, share(VM, minutes(first_s + 60, 2)), now_s=last_s + 600).failures
    before = contents(store_path(tmp_path, VM))
    assert (len(before["sample"]), len(before["hour"]), len(before["hour_histogram"])) == (4, 3, 0)
    result = flush(worker, share(VM, packed_row(old_s + 600), wants_figures=True), now_s=last_s + 600)
    assert (result.failures, result.lost_stores) == ({}, {})
    after = contents(store_path(tmp_path, VM))
    assert [row[1] for row in after["hour"]] == [2, 3, 2]
    assert after["windows"] == before["windows"]
