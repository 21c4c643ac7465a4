"""Stored verdicts: a page of them is the page of the same verdicts in memory, and runs leave nothing old behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import fleet
from aggregator.fleet_db import open_fleet_read_only
from reports.fleet import snapshot
from reports.judging import Chunk, judge_fleet, read_exemptions, scope_of, settings_sha256, store_verdicts
from reports.ranking import Page, rank
from reports.report import Question, Sort, Totals
from reports.savings import Prices
from reports.schema import open_report_db
from reports.tables import judging, verdict
from reports.tally import Tally
from reports.verdict_table import Run, RunClash, begin_run, end_run, read_page, read_stored, replace_verdicts
from reports.verdicts import Verdict
from tests.postgres import postgres_database
from tests.reports.fleets import BUSY, GIB, NOW_S, Spec, clear, one_of_each, question, specs, store, write_fleet


class Database(NamedTuple):
    """A fleet database of a file or a server."""

    reader: sa.Engine
    writer: sa.Engine

    def store_run(self, asked: Question, now_s: float = NOW_S) -> None:
        store_verdicts(self.reader, self.writer, asked.policy, asked.settings, now_s)

    def stored_page(self, asked: Question) -> Page:
        with snapshot(self.reader) as connection:
            found = read_stored(
                connection, scope_of(asked.policy, asked.settings), settings_sha256(asked.policy, asked.settings)
            )
            assert found is not None
            return read_page(connection, found, asked)

    def judged_page(self, asked: Question) -> Page:
        with snapshot(self.reader) as connection:
            exemptions = read_exemptions(connection, NOW_S)
            chunks = judge_fleet(connection, asked.policy, asked.settings, NOW_S, exemptions)
            return rank(((facts, judged) for facts, judged, _ in chunks), asked)

    def stored_ids(self) -> list[str]:
        with self.writer.connect() as connection:
            return list(connection.scalars(sa.select(verdict.c.vm_id).order_by(verdict.c.vm_id)))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Without a VM."""
    with ExitStack() as stack:
        url = None if request.param == "sqlite" else stack.enter_context(postgres_database(request.config))
        yield stack.enter_context(opened(tmp_path, url))


@contextmanager
def opened(folder: Path, url: str | None) -> Iterator[Database]:
    """A new fleet database in a folder, or at a URL."""
    write_fleet(folder, [], url=url)
    found = Database(open_fleet_read_only(url, folder), open_report_db(url, folder))
    try:
        yield found
    finally:
        found.reader.dispose()
        found.writer.dispose()


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """Anything that may be asked of a list."""
    return question(
        verdict=draw(st.none() | st.sampled_from(Verdict)),
        reclaimable=draw(st.booleans()),
        search=draw(st.sampled_from(["", "", "w", "WEB", "%", "_", "\\", "'", '"', "zürich", "größe", "vm-1"])),
        owner=draw(st.sampled_from([None, None, "ann", "Bob", "bob", "cleo %"])),
        sort=draw(st.sampled_from(Sort)),
        ascending=draw(st.booleans()),
        offset=draw(st.sampled_from([0, 0, 1, 3, 100])),
        top=draw(st.sampled_from([None, 1, 2, 50])),
    )


def test_stored_page_is_the_page_in_memory(database: Database) -> None:
    """Same VMs, same order, same number, whatever is asked of whatever fleet."""

    @settings(max_examples=25)
    @given(fleet=specs(), asked=st.lists(questions(), min_size=8, max_size=8))
    def check(fleet: list[Spec], asked: list[Question]) -> None:
        clear(database.writer)
        store(database.writer, fleet)
        database.store_run(asked[0])
        for each in asked:
            assert database.stored_page(each) == database.judged_page(each)

    check()


@pytest.mark.parametrize("sort", [Sort.SCORE, Sort.VCPUS])
def test_pages_together_are_the_list(database: Database, sort: Sort) -> None:
    """No VM stands on two pages, and none on no page, whichever way the page is read."""
    store(database.writer, [Spec(vm_id=f"vm-{place}", vcpus=1 + place % 4) for place in range(11)])
    whole = question(reclaimable=True, sort=sort)
    database.store_run(whole)
    pages = [database.stored_page(replace(whole, offset=offset, top=3)).vm_ids for offset in range(0, 12, 3)]
    assert sum(pages, ()) == database.stored_page(whole).vm_ids
    assert [len(page) for page in pages] == [3, 3, 3, 2]


@pytest.mark.parametrize(
    ("sort", "ascending", "expected"),
    [
        (Sort.NAME, False, ["a", "ab", "b"]),
        (Sort.NAME, True, ["b", "ab", "a"]),
        (Sort.VCPUS, False, ["b", "ab", "a"]),
        (Sort.VCPUS, True, ["ab", "b", "a"]),
    ],
)
def test_order_of_all_vms(database: Database, sort: Sort, ascending: bool, expected: list[str]) -> None:
    """By name they stand together; by what they free, those that free nothing come last whichever way round."""
    store(
        database.writer,
        [
            Spec(vm_id="vm-1", name="a", load=BUSY, vcpus=1, mem_gib=2),
            Spec(vm_id="vm-2", name="ab", vcpus=2),
            Spec(vm_id="vm-3", name="b", vcpus=4),
        ],
    )
    asked = question(sort=sort, ascending=ascending)
    database.store_run(asked)
    names = {"vm-1": "a", "vm-2": "ab", "vm-3": "b"}
    for page in (database.stored_page(asked), database.judged_page(asked)):
        assert [names[vm_id] for vm_id in page.vm_ids] == expected


@pytest.mark.parametrize("currency", [None, "EUR"])
def test_row_of_a_verdict(database: Database, currency: str | None) -> None:
    """Other programs read the table too: what is not known, or has no price, is NULL."""
    settings_of = replace(question().settings, prices=Prices(currency=currency, vcpu_hour=1.0))
    idle = Spec(vm_id="vm-a", name="Web", owner="Ann", tags=("T",), vcpus=2, mem_gib=4, disk_gib=None)
    store(database.writer, [idle, Spec(vm_id="vm-b", load=None)])
    database.store_run(question(settings=settings_of))
    with database.writer.connect() as connection:
        one, other = connection.execute(sa.select(verdict).order_by(verdict.c.vm_id)).all()
    assert (one.verdict, one.cause, one.name, one.owner) == ("idle", "IDLE", "Web", "Ann")
    assert one.search == "vm-a\nweb\nann\nt"
    assert (one.vcpus, one.mem_bytes, one.disk_bytes, one.hours_per_week) == (2, 4 * GIB, None, None)
    assert one.money_per_month == (None if currency is None else pytest.approx(2 * 730))
    assert one.cpu_mean_ratio == pytest.approx(0.003)
    assert (other.verdict, other.cause, other.name) == ("insufficient data", "NEVER_REPORTED", "vm-b")
    assert (other.vcpus, other.score, other.cpu_mean_ratio) == (0, 0, None)


def test_run_replaces_the_one_before(database: Database) -> None:
    """A VM that is gone has no verdict any more, wherever its id lies; one that changed has its new one."""
    asked = question(reclaimable=True)
    store(database.writer, [Spec(vm_id=f"vm-{number}") for number in range(5)])
    database.store_run(asked)
    assert database.stored_ids() == [f"vm-{number}" for number in range(5)]
    clear_catalogue(database)
    store(database.writer, [Spec(vm_id="vm-1"), Spec(vm_id="vm-2", load=BUSY, vcpus=1, mem_gib=1)])
    database.store_run(asked)
    assert database.stored_ids() == ["vm-1", "vm-2"]
    assert database.stored_page(asked) == Page(("vm-1",), 1)


def test_fleet_that_became_empty_has_no_verdicts(database: Database) -> None:
    """And the run of an empty fleet counts: nothing is listed from it."""
    asked = question()
    store(database.writer, one_of_each())
    database.store_run(asked)
    clear_catalogue(database)
    database.store_run(asked)
    assert database.stored_ids() == []
    assert database.stored_page(asked) == Page((), 0)


def clear_catalogue(database: Database) -> None:
    with database.writer.begin() as connection:
        for table in (fleet.vm, fleet.vm_summary, fleet.vm_window, fleet.vm_evidence):
            connection.execute(sa.delete(table))


def test_runs_of_other_scopes_stay(database: Database) -> None:
    """Each policy and window has verdicts of its own."""
    store(database.writer, one_of_each())
    one, other = question(), question("p95")
    database.store_run(one)
    before = database.stored_page(one)
    database.store_run(other)
    clear_catalogue(database)
    database.store_run(other)
    assert database.stored_page(one) == before
    assert database.stored_page(other).matching == 0


def test_other_settings_are_another_run(database: Database) -> None:
    """What was stored with other limits is not read, and a run that began later ends the one before."""
    store(database.writer, one_of_each())
    asked = question()
    database.store_run(asked)
    changed = replace(asked.settings, limits=replace(asked.settings.limits, min_coverage_ratio=0.5))
    scope = scope_of(asked.policy, changed)
    with snapshot(database.reader) as connection:
        assert read_stored(connection, scope, settings_sha256(asked.policy, changed)) is None
    other = Run(scope=scope, settings_sha256=settings_sha256(asked.policy, changed), judged_s=NOW_S)
    with database.writer.begin() as connection:
        begin_run(connection, other)
    with snapshot(database.reader) as connection:
        assert read_stored(connection, scope, settings_sha256(asked.policy, asked.settings)) is None


def test_two_runs_with_other_settings_do_not_mix(database: Database) -> None:
    """The one that began first can neither write nor end any more."""
    store(database.writer, one_of_each())
    asked = question()
    first, second = (Run(scope="a", settings_sha256=name, judged_s=NOW_S) for name in ("first", "second"))
    with snapshot(database.reader) as connection:
        (chunk,) = judge_fleet(connection, asked.policy, asked.settings, NOW_S, read_exemptions(connection, NOW_S))
    with database.writer.begin() as connection:
        begin_run(connection, first)
        replace_verdicts(connection, first, chunk.facts, chunk.judged, asked.settings, after="", last="vm-z")
    with database.writer.begin() as connection:
        begin_run(connection, second)
    with pytest.raises(RunClash, match="a: "), database.writer.begin() as connection:
        replace_verdicts(connection, first, chunk.facts, chunk.judged, asked.settings, after="", last="vm-z")
    totals = tally_of(chunk)
    with pytest.raises(RunClash, match="a: "), database.writer.begin() as connection:
        end_run(connection, first, totals, after="vm-z")
    with database.writer.begin() as connection:
        end_run(connection, second, totals, after="vm-z")
    with snapshot(database.reader) as connection:
        assert read_stored(connection, "a", "first") is None
        assert read_stored(connection, "a", "second") is not None


def test_the_slower_of_two_runs_ends(database: Database) -> None:
    """What a newer one has stored stays; a run that begins after a clock was set back starts afresh."""
    store(database.writer, one_of_each())
    asked = question()
    slow, newer = (Run(scope="a", settings_sha256="s", judged_s=judged_s) for judged_s in (NOW_S - 60, NOW_S))
    with snapshot(database.reader) as connection:
        (chunk,) = judge_fleet(connection, asked.policy, asked.settings, NOW_S, read_exemptions(connection, NOW_S))
    totals = tally_of(chunk)
    with database.writer.begin() as connection:
        begin_run(connection, slow)
        begin_run(connection, newer)
        end_run(connection, newer, totals, after="vm-z")
    with pytest.raises(RunClash, match="a: was judged by a newer run"), database.writer.begin() as connection:
        replace_verdicts(connection, slow, chunk.facts, chunk.judged, asked.settings, after="", last="vm-z")
    with pytest.raises(RunClash, match="a: was judged by a newer run"), database.writer.begin() as connection:
        end_run(connection, slow, totals, after="vm-z")
    with snapshot(database.reader) as connection:
        found = read_stored(connection, "a", "s")
    assert found is not None
    assert found.run == newer
    with database.writer.begin() as connection:
        begin_run(connection, slow)
        end_run(connection, slow, totals, after="vm-z")
    with snapshot(database.reader) as connection:
        found = read_stored(connection, "a", "s")
    assert found is not None
    assert found.run == slow


def tally_of(chunk: Chunk) -> Totals:
    tally = Tally()
    tally.add(chunk.facts, chunk.judged)
    return tally.totals(priced=False)


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "a\nb", "x" * 100_000, "%", "_m-", "[a-z]", "*"])
def test_search_takes_any_text(database: Database, text: str) -> None:
    """No character has a meaning of its own, and what no database can hold is found nowhere."""
    store(database.writer, one_of_each())
    asked = question(search=text)
    database.store_run(asked)
    assert database.stored_page(asked) == database.judged_page(asked) == Page((), 0)
    asked = question(owner=text)
    assert database.stored_page(asked) == database.judged_page(asked) == Page((), 0)


def test_totals_of_another_version_are_no_run(database: Database) -> None:
    """They are judged anew rather than half understood."""
    asked = question()
    database.store_run(asked)
    with database.writer.begin() as connection:
        connection.execute(sa.update(judging).values(totals='{"by_cause": {}}'))
    with snapshot(database.reader) as connection:
        scope, sha256 = scope_of(asked.policy, asked.settings), settings_sha256(asked.policy, asked.settings)
        assert read_stored(connection, scope, sha256) is None


def test_ranked_list_is_read_off_the_index(tmp_path: Path) -> None:
    """The first of a million are found without ordering the others."""
    statements: list[tuple[str, object]] = []
    asked = question(reclaimable=True, top=50)
    with opened(tmp_path, None) as database:
        database.store_run(asked)
        listen(database.reader, statements)
        database.stored_page(asked)
        ((statement, parameters),) = statements
        with database.writer.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()  # type: ignore[arg-type]
    steps = [row.detail for row in plan if "verdict" in row.detail]
    assert len(steps) == 3
    assert all("verdict_rank (scope=? AND verdict=?)" in step for step in steps)


@pytest.mark.real
def test_postgres_reads_the_ranked_list_off_the_index_in_one_query(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """However many VMs of however many nodes are judged, the list is a stretch of the index for each verdict."""
    statements: list[tuple[str, object]] = []
    asked = question(reclaimable=True, top=50)
    with postgres_database(pytestconfig) as url, opened(tmp_path, url) as database:
        store(database.writer, one_of_each())
        database.store_run(asked)
        columns = ", ".join(column.name for column in verdict.c)
        copied = ", ".join({"vm_id": "vm_id || number"}.get(column.name, column.name) for column in verdict.c)
        with database.writer.begin() as connection:
            connection.exec_driver_sql(
                f"INSERT INTO verdict ({columns}) SELECT {copied} FROM verdict, generate_series(1, 3000) AS number"
            )
        with database.writer.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("ANALYZE verdict")
        listen(database.reader, statements)
        assert len(database.stored_page(asked).vm_ids) == 50
        ((statement, parameters),) = statements
        with database.writer.connect() as connection:
            plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)]  # type: ignore[arg-type]
    scans = [line for line in plan if " on verdict" in line or "Scan" in line]
    assert sum("verdict_rank" in line for line in scans) == 3, plan
    assert not any("Seq Scan on verdict" in line for line in scans), plan


def listen(engine: sa.Engine, statements: list[tuple[str, object]]) -> None:
    """Notes what is read from the verdicts."""

    @sa.event.listens_for(engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_rest: object) -> None:
        if "FROM verdict" in statement:
            statements.append((statement, parameters))
