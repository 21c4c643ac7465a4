"""Summaries in the fleet database: written twice they change nothing, and what is newer stays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from aggregator.catalogue import Catalogue
from aggregator.fleet import node, vm_evidence, vm_part, vm_summary, vm_window
from aggregator.fleet_db import migrate, open_fleet
from aggregator.homes import Whole
from aggregator.summaries import SummaryWriter
from aggregator.summary import STATISTIC_COLUMNS, Heard
from tests.aggregator.flush_fakes import NOW_S, TS, summary
from tests.postgres import postgres_database


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[sa.Engine]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database(pytestconfig)) if request.param == "postgresql" else None
        fleet = open_fleet(url, tmp_path)
        stack.callback(fleet.dispose)
        migrate(fleet)
        yield fleet


def rows(engine: sa.Engine, table: sa.Table) -> list[Mapping[str, Any]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key.columns))
        return [dict(row._mapping) for row in found]


def everything(engine: sa.Engine) -> list[list[Mapping[str, Any]]]:
    return [rows(engine, table) for table in (vm_summary, vm_window, vm_evidence, vm_part)]


def test_every_figure_arrives_in_its_column(engine: sa.Engine) -> None:
    """One row a VM, one row a VM and window, and the evidence as it is."""
    statistics = tuple(float(number) for number in range(len(STATISTIC_COLUMNS)))
    one = summary("a", flags=["clock_skew"])
    one = one._replace(figures=[figures._replace(statistics=statistics) for figures in one.figures])
    SummaryWriter(engine).write([one, summary("b")], now_s=NOW_S + 1)
    first, second = rows(engine, vm_summary)
    assert second["vm_id"] == "b"
    assert json.loads(first.pop("flags")) == ["clock_skew"]  # type: ignore[attr-defined]
    assert first == {
        "vm_id": "a",
        "oldest_s": TS - 3600,
        "newest_s": TS,
        "received_s": NOW_S,
        "skew_s": 1.5,
        "interval_s": 60,
        "conflicts": 0,
        "cpu_count": 2,
        "mem_total_bytes": 8 << 30,
        "disk_total_bytes": None,
        "updated_s": NOW_S + 1,
        "node": "",
    }
    windows = [row for row in rows(engine, vm_window) if row["vm_id"] == "a"]
    assert [(row["window_days"], row["end_s"], row["covered_s"]) for row in windows] == [(1, TS, 60), (7, TS, 60)]
    assert tuple(windows[0][name] for name in STATISTIC_COLUMNS) == statistics
    assert rows(engine, vm_evidence)[0] == {"vm_id": "a", "hour_s": 3600, "body": b"evidence"}


def test_writing_again_changes_nothing(engine: sa.Engine) -> None:
    """Fault 36: a commit whose answer was lost is simply repeated."""
    writer = SummaryWriter(engine)
    batch = [summary("a"), summary("b", flags=["store_replaced"])]
    writer.write(batch, now_s=NOW_S)
    before = everything(engine)
    writer.write(batch, now_s=NOW_S)
    assert everything(engine) == before


def test_a_newer_summary_takes_the_place_of_the_old(engine: sa.Engine) -> None:
    """Figures follow; evidence that did not change is not sent and stays."""
    writer = SummaryWriter(engine)
    writer.write([summary("a", flags=["clock_skew"])], now_s=NOW_S)
    newer = summary("a", received_s=NOW_S + 900, newest_s=TS + 900)._replace(evidence=None, skew_s=0.1, conflicts=3)
    writer.write([newer], now_s=NOW_S + 900)
    (row,) = rows(engine, vm_summary)
    assert (row["received_s"], row["skew_s"], row["newest_s"], row["conflicts"]) == (NOW_S + 900, 0.1, TS + 900, 3)
    assert row["flags"] == "[]"
    assert rows(engine, vm_evidence)[0]["body"] == b"evidence"


def test_a_summary_owed_from_before_a_restart_keeps_what_it_does_not_know(engine: sa.Engine) -> None:
    """It has no time of receipt: the known one, its skew and the doubts of then stay; its figures are taken over."""
    writer = SummaryWriter(engine)
    writer.write([summary("a", flags=["clock_skew", "identity_conflict"])], now_s=NOW_S)
    owed = summary("a", received_s=0.0, newest_s=TS + 60)._replace(skew_s=0.0, conflicts=5)
    writer.write([owed], now_s=NOW_S + 60)
    (row,) = rows(engine, vm_summary)
    assert (row["received_s"], row["skew_s"], row["newest_s"], row["conflicts"]) == (NOW_S, 1.5, TS + 60, 5)
    assert json.loads(row["flags"]) == ["clock_skew", "identity_conflict"]


def test_an_owed_summary_of_a_vm_unknown_so_far_was_seen_at_its_newest_sample(engine: sa.Engine) -> None:
    """The best guess that cannot be too late."""
    SummaryWriter(engine).write([summary("a", received_s=0.0)], now_s=NOW_S)
    assert rows(engine, vm_summary)[0]["received_s"] == TS


def test_row_22_a_time_of_receipt_from_a_wrong_clock_does_not_stay(engine: sa.Engine) -> None:
    """Fault 22: after a year ahead by mistake, the VM is not 'seen just now' for a year."""
    writer = SummaryWriter(engine)
    year_s = 365 * 86_400.0
    writer.write([summary("a", received_s=NOW_S + year_s, flags=["clock_skew"])], now_s=NOW_S + year_s)
    writer.write([summary("a", received_s=NOW_S + 60)], now_s=NOW_S + 61)
    (row,) = rows(engine, vm_summary)
    assert (row["received_s"], row["flags"]) == (NOW_S + 60, "[]")


def test_a_batch_is_written_whole_or_not_at_all(engine: sa.Engine) -> None:
    """One bad row leaves nothing of the others behind, so that the whole batch stays owed."""
    bad = summary("b")._replace(oldest_s=None)  # type: ignore[arg-type]
    with pytest.raises(sa.exc.IntegrityError):
        SummaryWriter(engine).write([summary("a"), bad], now_s=NOW_S)
    assert everything(engine) == [[], [], [], []]


def test_nothing_to_write_does_not_need_the_database(tmp_path: Path) -> None:
    """Flushes without rows go on while it is away."""
    engine = open_fleet(f"sqlite:///{tmp_path}/never.db", tmp_path)
    SummaryWriter(engine).write([], now_s=NOW_S)
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


def test_windows_no_longer_configured_go(engine: sa.Engine) -> None:
    """No report reads figures that nobody updates."""
    writer = SummaryWriter(engine)
    writer.write([summary("a")], now_s=NOW_S)
    writer.keep_windows((7, 30))
    assert [row["window_days"] for row in rows(engine, vm_window)] == [7]


def homes(engine: sa.Engine) -> dict[str, tuple[str, int, int]]:
    """VM -> its home, and the span that its row tells."""
    return {row["vm_id"]: (row["node"], row["oldest_s"], row["newest_s"]) for row in rows(engine, vm_summary)}


def parts(engine: sa.Engine) -> list[tuple[object, ...]]:
    """(VM, node, newest, since when) of every part."""
    return [(row["vm_id"], row["node"], row["newest_s"], row["noted_s"]) for row in rows(engine, vm_part)]


def mark_of(engine: sa.Engine, node: str) -> int:
    """Of the note of the part that a node holds; there is but one."""
    (mark,) = (row["mark"] for row in rows(engine, vm_part) if row["node"] == node)
    return int(mark)


def figures_end(engine: sa.Engine) -> set[int]:
    """Where the windows end that stand."""
    return {row["end_s"] for row in rows(engine, vm_window)}


def test_a_vm_that_moves_is_counted_once(engine: sa.Engine) -> None:
    """One row; the new home is where it pushes to, and the figures stay those of the last whole history."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    a.write([summary("vm")], now_s=NOW_S)
    moved = summary("vm", newest_s=TS + 60)._replace(oldest_s=TS, evidence=b"of a part")
    b.write([moved], now_s=NOW_S + 60)
    assert homes(engine) == {"vm": ("b", TS - 3600, TS + 60)}
    assert parts(engine) == [("vm", "a", TS, NOW_S + 60)]
    assert figures_end(engine) == {TS}
    assert rows(engine, vm_evidence)[0]["body"] == b"evidence"
    before = everything(engine)
    b.write([moved], now_s=NOW_S + 60)
    assert everything(engine) == before


def test_a_vm_that_goes_and_comes_back_is_where_it_pushes_to(engine: sa.Engine) -> None:
    """The last that it left has a part; whoever is the home has none."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    for step, writer in enumerate((a, b, a, b, a)):
        writer.write([summary("vm", newest_s=TS + 60 * step, received_s=NOW_S + 60 * step)], now_s=NOW_S + step)
    assert homes(engine) == {"vm": ("a", TS - 3600, TS + 240)}
    assert parts(engine) == [("vm", "b", TS + 180, NOW_S + 4)]
    assert (a.known_vms(), b.known_vms()) == (["vm"], [])
    assert SummaryWriter(engine, "c").known_vms() == []


def test_row_23_a_sample_from_the_future_does_not_keep_the_home(engine: sa.Engine) -> None:
    """Whoever was sent one of tomorrow is the home until the VM pushes elsewhere, and stays told of what is late."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    tomorrow = summary("vm", newest_s=TS + 20 * 3600)
    a.write([tomorrow], now_s=NOW_S)
    b.write([summary("vm", newest_s=TS + 60, received_s=NOW_S + 60)], now_s=NOW_S + 60)
    assert homes(engine)["vm"][0] == "b"
    # Told again, as after a crash: with the push that it came with, and without knowing that.
    for again in (tomorrow, tomorrow._replace(received_s=0.0)):
        a.write([again], now_s=NOW_S + 90)
        assert homes(engine)["vm"][::2] == ("b", TS + 60)
    assert [part[:2] for part in parts(engine)] == [("vm", "a")]
    a.write([tomorrow._replace(received_s=NOW_S + 120)], now_s=NOW_S + 120)
    assert homes(engine)["vm"][0] == "a"


def test_what_is_owed_with_a_sample_from_the_future_does_not_keep_the_home(engine: sa.Engine) -> None:
    """When its push came nobody knows: not later than now."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    a.write([summary("vm", newest_s=TS + 20 * 3600, received_s=0.0)], now_s=NOW_S)
    assert rows(engine, vm_summary)[0]["received_s"] == NOW_S
    b.write([summary("vm", newest_s=TS + 60, received_s=NOW_S + 60)], now_s=NOW_S + 60)
    assert homes(engine)["vm"][0] == "b"


def test_nothing_is_written_of_a_life_that_is_over(engine: sa.Engine) -> None:
    """A VM that was forgotten has no row until it pushes in its next life, whoever tells of the one before."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    a.write([summary("vm"), summary("other")], now_s=NOW_S)
    b.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S)
    assert Catalogue(engine).forget("vm", now_s=NOW_S) == 1
    gone = everything(engine)
    for writer in (a, b):
        writer.write([summary("vm", newest_s=TS + 90), summary("other")], now_s=NOW_S + 1)
        writer.joined([Whole(summary("vm", newest_s=TS + 90), {"a": 0})], now_s=NOW_S + 1)
    assert [row["vm_id"] for row in rows(engine, vm_summary)] == ["other"]
    assert [len(table) for table in everything(engine)][:3] == [len(table) for table in gone][:3]
    a.write([summary("vm", newest_s=TS + 30)._replace(life=1)], now_s=NOW_S + 2)
    after = everything(engine)
    b.write([summary("vm", newest_s=TS + 90)], now_s=NOW_S + 3)
    a.joined([Whole(summary("vm", newest_s=TS + 90), {"b": 0})], now_s=NOW_S + 3)
    assert everything(engine) == after
    assert homes(engine)["vm"][::2] == ("a", TS + 30)


def test_a_home_that_another_node_made_does_not_tell_of_a_life_that_is_over(engine: sa.Engine) -> None:
    """This node never wrote the row, and may not have heard of the forgetting: what counts is what is refused."""
    heir = SummaryWriter(engine, "heir")
    assert Catalogue(engine).revocations().below == {}
    heir.write([summary("vm")], now_s=NOW_S)
    Catalogue(engine).forget("vm", now_s=NOW_S)
    SummaryWriter(engine, "a").write([summary("vm")._replace(life=1)], now_s=NOW_S)
    with engine.begin() as connection:
        connection.execute(sa.update(vm_summary).values(node="heir"))
    before = everything(engine)
    heir.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S + 1)
    assert everything(engine) == before
    heir.write([summary("vm", newest_s=TS + 60)._replace(life=1)], now_s=NOW_S + 1)
    assert homes(engine)["vm"][::2] == ("heir", TS + 60)


def test_those_at_home_here_among_some(engine: sa.Engine) -> None:
    """As of all, however many are asked for."""
    SummaryWriter(engine, "a").write([summary("vm-1"), summary("vm-2")], now_s=NOW_S)
    SummaryWriter(engine, "b").write([summary("vm-3")], now_s=NOW_S)
    names = [f"vm-{number}" for number in range(2, 2_500)]
    assert (SummaryWriter(engine, "a").known_vms(names), SummaryWriter(engine, "a").known_vms([])) == (["vm-2"], [])


def test_a_late_flush_of_a_former_home_is_a_part(engine: sa.Engine) -> None:
    """Nothing but its span is written, and the problem that was noted of it stays."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    b.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S)
    a.write([summary("vm")._replace(conflicts=7)], now_s=NOW_S + 1)
    with engine.begin() as connection:
        connection.execute(sa.update(vm_part).values(problem="away"))
    a.write([summary("vm", newest_s=TS + 30)._replace(evidence=b"of a part")], now_s=NOW_S + 2)
    assert homes(engine) == {"vm": ("b", TS - 3600, TS + 60)}
    assert parts(engine) == [("vm", "a", TS + 30, NOW_S + 1)]
    assert rows(engine, vm_part)[0]["problem"] == "away"
    assert figures_end(engine) == {TS + 60}
    assert rows(engine, vm_summary)[0]["conflicts"] == 0


def test_a_joined_history_is_written_whole(engine: sa.Engine) -> None:
    """Figures and evidence of both, and no part of those nodes any more; one of a third still keeps them back."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    a.write([summary("vm")], now_s=NOW_S)
    b.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S)
    whole = summary("vm", newest_s=TS + 60, received_s=0.0)._replace(evidence=b"of both", conflicts=2)
    mark = mark_of(engine, "a")
    b.joined([Whole(whole, {"a": mark})], now_s=NOW_S + 1)
    assert parts(engine) == []
    assert figures_end(engine) == {TS + 60}
    assert rows(engine, vm_evidence)[0]["body"] == b"of both"
    assert (rows(engine, vm_summary)[0]["conflicts"], rows(engine, vm_summary)[0]["received_s"]) == (2, NOW_S)
    before = everything(engine)
    b.joined([Whole(whole, {"a": mark})], now_s=NOW_S + 1)
    assert everything(engine) == before
    SummaryWriter(engine, "c").write([summary("vm")], now_s=NOW_S + 2)
    b.joined([Whole(whole._replace(newest_s=TS + 120), {"a": mark})], now_s=NOW_S + 3)
    assert figures_end(engine) == {TS + 60}
    assert homes(engine)["vm"][2] == TS + 120
    assert [part[:2] for part in parts(engine)] == [("vm", "c")]


def test_a_part_that_is_noted_anew_outlives_its_joining(engine: sa.Engine) -> None:
    """Its node gave the part away, and then stored a minute that was sent again: the note is of another part now."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    a.write([summary("vm")], now_s=NOW_S)
    b.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S + 1)
    looked_at = mark_of(engine, "a")
    a.write([summary("vm")], now_s=NOW_S + 2)
    whole = summary("vm", newest_s=TS + 60)._replace(evidence=b"of both")
    b.joined([Whole(whole, {"a": looked_at})], now_s=NOW_S + 3)
    assert parts(engine) == [("vm", "a", TS, NOW_S + 1)]
    assert rows(engine, vm_evidence)[0]["body"] == b"evidence"
    b.joined([Whole(whole, {"a": mark_of(engine, "a")})], now_s=NOW_S + 4)
    assert parts(engine) == []
    assert rows(engine, vm_evidence)[0]["body"] == b"of both"


def test_a_note_that_went_and_came_back_is_another(engine: sa.Engine) -> None:
    """A round that a newer home overtook deletes nothing of what was noted since."""
    a, b, c = (SummaryWriter(engine, name) for name in "abc")
    a.write([summary("vm")], now_s=NOW_S)
    b.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S)
    looked_at = mark_of(engine, "a")
    c.write([summary("vm", newest_s=TS + 120)], now_s=NOW_S)
    c.joined([Whole(summary("vm", newest_s=TS + 120), {"a": looked_at})], now_s=NOW_S)
    assert [part[:2] for part in parts(engine)] == [("vm", "b")]
    a.write([summary("vm")], now_s=NOW_S)
    b.joined([Whole(summary("vm", newest_s=TS + 60), {"a": looked_at})], now_s=NOW_S)
    assert [part[:2] for part in parts(engine)] == [("vm", "a"), ("vm", "b")]


def test_joined_histories_are_written_together(engine: sa.Engine) -> None:
    """Several in one transaction, as one after the other: each loses its own note and no other."""
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    a.write([summary("one"), summary("two"), summary("three")], now_s=NOW_S)
    newer = [summary(vm, newest_s=TS + 60)._replace(evidence=vm.encode()) for vm in ("two", "one", "three")]
    b.write(newer, now_s=NOW_S)
    marks = {row["vm_id"]: row["mark"] for row in rows(engine, vm_part)}
    assert len(set(marks.values())) == 3
    b.joined([Whole(one, {"a": marks[one.vm_id]}) for one in newer[:2]], now_s=NOW_S)
    assert [part[:2] for part in parts(engine)] == [("three", "a")]
    bodies = {row["vm_id"]: row["body"] for row in rows(engine, vm_evidence)}
    assert bodies == {"one": b"one", "two": b"two", "three": b"evidence"}


def test_a_joined_history_of_a_vm_that_has_moved_on_is_a_part(engine: sa.Engine) -> None:
    """Whoever became the home meanwhile takes it in, with what was joined."""
    a, b, c = (SummaryWriter(engine, name) for name in "abc")
    a.write([summary("vm")], now_s=NOW_S)
    b.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S)
    c.write([summary("vm", newest_s=TS + 120)], now_s=NOW_S)
    b.joined([Whole(summary("vm", newest_s=TS + 60), {"a": mark_of(engine, "a")})], now_s=NOW_S + 1)
    assert homes(engine) == {"vm": ("c", TS - 3600, TS + 120)}
    assert [part[:2] for part in parts(engine)] == [("vm", "b")]
    assert figures_end(engine) == {TS}


def test_a_vm_without_a_home_goes_to_whoever_writes_next(engine: sa.Engine) -> None:
    """As after an upgrade, or where a node was forgotten: older or not."""
    SummaryWriter(engine).write([summary("vm", newest_s=TS + 60)], now_s=NOW_S)
    assert SummaryWriter(engine, "b").known_vms() == ["vm"]
    SummaryWriter(engine, "b").write([summary("vm")], now_s=NOW_S)
    assert homes(engine) == {"vm": ("b", TS - 3600, TS)}
    assert parts(engine) == []


def test_several_summaries_of_one_vm_in_a_batch_count_as_one_after_the_other(engine: sa.Engine) -> None:
    """The row is that of the last; figures and evidence are the last that there are, with their own end."""
    last = summary("vm", newest_s=TS + 60, received_s=0.0)._replace(figures=[], evidence=None, skew_s=0.0)
    SummaryWriter(engine, "a").write([summary("vm"), last], now_s=NOW_S)
    (row,) = rows(engine, vm_summary)
    assert (row["newest_s"], row["received_s"], row["skew_s"]) == (TS + 60, NOW_S, 1.5)
    assert figures_end(engine) == {TS}
    assert rows(engine, vm_evidence)[0]["body"] == b"evidence"


def test_what_was_not_measured_is_null(engine: sa.Engine) -> None:
    """In figures of any kind, and whole numbers where fractions may stand are taken too."""
    statistics = (None, 1, *(None for _ in STATISTIC_COLUMNS[2:]))
    one = summary("vm")
    one = one._replace(figures=[one.figures[0]._replace(statistics=statistics)], cpu_count=None, mem_total_bytes=None)
    SummaryWriter(engine, "a").write([one], now_s=int(NOW_S))
    (window,) = rows(engine, vm_window)
    assert [window[name] for name in STATISTIC_COLUMNS[:3]] == [None, 1.0, None]
    assert rows(engine, vm_summary)[0]["cpu_count"] is None


def test_a_large_batch_arrives_whole(engine: sa.Engine) -> None:
    """More VMs than one statement could name one by one."""
    batch = [summary(f"vm-{number:05d}")._replace(figures=[], evidence=None) for number in range(3_000)]
    writer = SummaryWriter(engine, "a")
    for newest_s in (TS, TS + 60):
        writer.write([one._replace(newest_s=newest_s) for one in batch], now_s=NOW_S)
        assert homes(engine) == {one.vm_id: ("a", TS - 3600, newest_s) for one in batch}
    assert len(writer.known_vms()) == 3_000


def test_a_vm_that_was_heard_of_is_not_silent(engine: sa.Engine) -> None:
    """Only what tells of its newest push changes, only forwards, and only of VMs at home here."""
    SummaryWriter(engine, "one").write([summary("a"), summary("b")], now_s=NOW_S)
    SummaryWriter(engine, "two").write([summary("c")], now_s=NOW_S)
    before = everything(engine)
    told = [Heard(vm, TS + 600, NOW_S + 600, 2.5) for vm in ("c", "a", "unknown")]
    told.append(Heard("b", TS - 60, NOW_S - 60, 9.0))
    assert SummaryWriter(engine, "one").heard(told, now_s=NOW_S + 601) == ["c", "unknown"]
    first, second, third = rows(engine, vm_summary)
    changed = {"newest_s": TS + 600, "received_s": NOW_S + 600, "skew_s": 2.5, "updated_s": NOW_S + 601}
    assert first == {**before[0][0], **changed}
    assert [second, third] == before[0][1:]
    assert everything(engine)[1:] == before[1:]
    assert SummaryWriter(engine, "one").heard([], now_s=NOW_S) == []
    assert SummaryWriter(engine, "one").heard([told[1]], now_s=NOW_S) == []


def test_what_a_node_that_was_given_up_had_is_nobodys(engine: sa.Engine) -> None:
    """A VM without a home is known to the first node of a fleet alone: to any other its store would seem lost."""
    SummaryWriter(engine).write([summary("a")], now_s=NOW_S)
    writer = SummaryWriter(engine, "one")
    assert writer.known_vms() == ["a"]
    said = {"version": "1", "revision": "0003", "state": "up", "started_s": NOW_S, "seen_s": NOW_S, "vms": 0, "owed": 0}
    with engine.begin() as connection:
        connection.execute(sa.insert(node).values(node="two", **said))
    assert writer.known_vms() == []
