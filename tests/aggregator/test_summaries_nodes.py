"""Several nodes write summaries into one PostgreSQL at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import pytest_twisted
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.fleet import vm_evidence, vm_part, vm_summary, vm_window
from aggregator.fleet_db import migrate, open_fleet
from aggregator.summaries import SummaryWriter
from bench.postgres import PostgresAbsent, postgres_server
from tests.aggregator.flush_fakes import NOW_S, TS, summary
from tests.aggregator.service_fakes import running
from tests.postgres import postgres_database

pytestmark = pytest.mark.real

NODES = ("a", "b", "c")
_WITHIN_S = 60.0


@pytest.fixture
def engine(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[sa.Engine]:
    with postgres_database(pytestconfig) as url:
        fleet = open_fleet(url, tmp_path)
        migrate(fleet)
        yield fleet
        fleet.dispose()


def at_once(works: Sequence[Callable[[], None]]) -> None:
    """Runs them in threads that begin together; raises the first error."""
    errors: list[BaseException] = []
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        gate.wait(_WITHIN_S)
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_WITHIN_S)
        assert not thread.is_alive()
    for error in errors:
        raise error


# For each node, its batches: VM number -> minute of its newest sample.
batches = st.lists(st.dictionaries(st.integers(0, 9), st.integers(0, 99), min_size=1, max_size=10), max_size=4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=st.tuples(batches, batches, batches))
def test_nodes_that_write_the_same_vms_at_once_agree_on_one_home(
    engine: sa.Engine, writes: tuple[list[dict[int, int]], ...]
) -> None:
    """One row a VM; its home holds the newest sample; whoever else holds some has a part, which tells how much."""
    with engine.begin() as connection:
        for table in (vm_summary, vm_window, vm_evidence, vm_part):
            connection.execute(sa.delete(table))

    def write(node: str, todo: list[dict[int, int]]) -> None:
        writer = SummaryWriter(engine, node)
        newest: dict[int, int] = {}
        for batch in todo:
            for vm, minute in batch.items():
                newest[vm] = max(minute, newest.get(vm, 0))
            # The order of a batch is whatever the flush made it.
            told = [
                summary(f"vm-{vm}", newest_s=TS + 60 * newest[vm], received_s=NOW_S + 6_000.0 + newest[vm])
                for vm in batch
            ]
            writer.write(told, now_s=NOW_S)

    at_once([lambda node=node, todo=todo: write(node, todo) for node, todo in zip(NODES, writes, strict=True)])  # type: ignore[misc]
    held = {
        (f"vm-{vm}", node): TS + 60 * max(batch[vm] for batch in todo if vm in batch)
        for node, todo in zip(NODES, writes, strict=True)
        for vm in {vm for batch in todo for vm in batch}
    }
    with engine.connect() as connection:
        homes = {row.vm_id: (row.node, row.newest_s) for row in connection.execute(sa.select(vm_summary))}
        parts = {(row.vm_id, row.node): row.newest_s for row in connection.execute(sa.select(vm_part))}
    assert set(homes) == {vm for vm, _ in held}
    for vm, (node, newest_s) in homes.items():
        assert held[vm, node] == newest_s == max(at for (other, _), at in held.items() if other == vm)
    assert parts == {key: newest_s for key, newest_s in held.items() if homes[key[0]][0] != key[1]}


def test_vms_that_are_new_to_two_nodes_at_once_get_one_row_each(engine: sa.Engine) -> None:
    """Neither has seen a row when it begins: the second sees it when it inserts, and looks again."""
    batch = [summary(f"vm-{number:03d}") for number in range(300)]
    a, b = SummaryWriter(engine, "a"), SummaryWriter(engine, "b")
    at_once([lambda: a.write(batch, now_s=NOW_S), lambda: b.write(batch[::-1], now_s=NOW_S)])
    with engine.connect() as connection:
        homes = connection.execute(sa.select(vm_summary.c.node, sa.func.count()).group_by(vm_summary.c.node)).all()
        parts = connection.execute(sa.select(vm_part.c.node, sa.func.count()).group_by(vm_part.c.node)).all()
    ((home, count),) = homes
    assert count == 300
    assert parts == [("b" if home == "a" else "a", 300)]


def test_row_36_a_lock_that_another_holds_is_an_error_and_not_for_ever(engine: sa.Engine) -> None:
    """Fault 36: the write fails in its time, has written nothing, and succeeds once the other has let go."""
    writer = SummaryWriter(engine, "a", statement_s=0.2)
    writer.write([summary("vm")], now_s=NOW_S)
    newer = [summary("other"), summary("vm", newest_s=TS + 60)]
    with engine.begin() as other:
        other.execute(sa.select(vm_summary).with_for_update())
        with pytest.raises(sa.exc.OperationalError):
            writer.write(newer, now_s=NOW_S)
    with engine.connect() as connection:
        assert connection.scalars(sa.select(vm_summary.c.newest_s)).all() == [TS]
    writer.write(newer, now_s=NOW_S)
    with engine.connect() as connection:
        assert set(connection.scalars(sa.select(vm_summary.c.newest_s))) == {TS, TS + 60}
    # The limit is the transaction's own: it does not stay with the connection.
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "0"


def test_a_row_that_cannot_be_staged_leaves_nothing(engine: sa.Engine) -> None:
    """What the server says during COPY comes as SQLAlchemy would say it, and the connection is good afterwards."""
    writer = SummaryWriter(engine, "a")
    with pytest.raises(OverflowError):
        writer.write([summary("a"), summary("b")._replace(conflicts=1 << 70)], now_s=NOW_S)
    with pytest.raises(sa.exc.DataError):
        writer.write([summary("a"), summary("c\0")], now_s=NOW_S)
    writer.write([summary("a")], now_s=NOW_S)
    with engine.connect() as connection:
        assert connection.scalars(sa.select(vm_summary.c.vm_id)).all() == ["a"]


def test_row_36_writes_go_on_after_the_database_was_started_anew(tmp_path: Path) -> None:
    """Fault 36: while it is down a write fails at once; after a crash or a stop the first one succeeds."""
    try:
        server = postgres_server()
        with server as running, running.database() as url:
            engine = open_fleet(url, tmp_path)
            migrate(engine)
            writer = SummaryWriter(engine, "a")
            writer.write([summary("vm")], now_s=NOW_S)
            for step, crash in enumerate((False, True), 1):
                running.stop(crash=crash)
                if step == 2:
                    with pytest.raises(sa.exc.OperationalError):
                        writer.write([summary("vm", newest_s=TS + 60)], now_s=NOW_S)
                running.start()
                writer.write([summary("vm", newest_s=TS + 60 * step)], now_s=NOW_S)
                with engine.connect() as connection:
                    assert connection.scalars(sa.select(vm_summary.c.newest_s)).all() == [TS + 60 * step]
            engine.dispose()
    except PostgresAbsent as absent:
        pytest.skip(str(absent))


@pytest_twisted.ensureDeferred
async def test_row_36_a_database_that_hangs_holds_up_neither_ingest_nor_flush(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Fault 36: while another session holds the table, pushes are stored; then every summary is written."""
    with postgres_database(pytestconfig) as url:
        async with running(tmp_path / "data", fleet_url=url) as house:
            await house.push("vm", TS)
            assert (await house.flush())["summaries_owed"] == 0
            engine = open_fleet(url, tmp_path)
            with engine.begin() as other:
                other.exec_driver_sql("LOCK TABLE vm_summary IN ACCESS EXCLUSIVE MODE")
                for step in (1, 2):
                    assert (await house.push("vm", TS + 60 * step)).status == 204
                    report = await house.service._flusher.flush(all_figures=False)
                    assert (report.rows, report.failures, report.summaries_owed) == (1, {}, 1)
                    assert "vm" in (house.data / "summaries.pending").read_text()
            assert (await house.flush())["summaries_owed"] == 0
            with engine.connect() as connection:
                assert connection.scalars(sa.select(vm_summary.c.newest_s)).all() == [TS + 120]
            engine.dispose()
