"""The aggregator as a whole, in this process: ready or not, and nothing acknowledged is lost between start and stop."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from agent.settings import ConfigError, parse_host_port
from aggregator.data_lock import DataDirectoryBusyError, lock_data_directory
from aggregator.door_limits import raise_descriptor_limit
from aggregator.fleet_db import open_fleet
from aggregator.known_samples import samples_of
from aggregator.service import AGENTS_ADDRESS_FILE
from aggregator.store_files import read_samples, store_path
from tests.aggregator.door_fakes import TS
from tests.aggregator.flush_fakes import push as packed_push
from tests.aggregator.service_fakes import NOW_S, House, make_service, running

pytestmark = pytest.mark.real

PATIENCE_S = 120.0
VM = "web-1"
reactor: Any = the_reactor


def stored(data: Path, vm: str = VM) -> list[int]:
    """Times that a VM's store holds."""
    return [int(one["ts"] or 0) for one in read_samples(store_path(data, vm), 0, 2**32)]


async def reached(condition: Callable[[], object]) -> None:
    """Lets the reactor work until it is so. The time-out of pytest cannot end a test inside the reactor."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, "this never came"
        await deferLater(reactor, 0.02, lambda: None)


@pytest_twisted.ensureDeferred
async def test_ready_from_the_end_of_the_replay_to_the_stop(tmp_path: Path) -> None:
    """/readyz and pushes agree: 503 with the reason before and after, and while journal or stores fail; else 200."""
    service, _ = make_service(tmp_path)
    assert service.not_ready() == "the journal is being replayed"
    await service.stop()
    async with running(tmp_path) as house:
        assert (await house.agents("GET", "/readyz")).status == 200
        assert (await house.push(VM, TS)).status == 204
        service = house.service
        service._journal.healthy, service._journal.unhealthy_reason = False, "disk full"
        refused = await house.agents("GET", "/readyz")
        assert refused.status == 503
        assert b"the journal cannot be written: disk full" in refused.body
        assert (await house.push(VM, TS + 60)).status == 503
        assert (await house.agents("GET", "/healthz")).status == 200
        service._journal.healthy = True
        service._flusher.stores_failing, service._flusher.stores_failing_ratio = "3 stores cannot be written", 0.5
        assert b"3 stores cannot be written" in (await house.agents("GET", "/readyz")).body
        service._flusher.stores_failing_ratio = 0.49
        assert (await house.push(VM, TS + 60)).status == 204
    assert service.not_ready() == "the aggregator is stopping"


@pytest_twisted.ensureDeferred
async def test_what_was_acknowledged_survives_a_stop_without_a_flush(tmp_path: Path) -> None:
    """Stop does not flush; the next start replays, and the first flush stores each sample once."""
    async with running(tmp_path) as house:
        for minute in range(5):
            assert (await house.push(VM, TS - 60 * minute)).status == 204
    assert stored(tmp_path) == []
    assert not (tmp_path / AGENTS_ADDRESS_FILE).exists()
    async with running(tmp_path) as house:
        assert (await house.flush())["samples"] == 5
        assert (await house.flush())["samples"] == 0
    assert stored(tmp_path) == sorted(TS - 60 * minute for minute in range(5))


@pytest_twisted.ensureDeferred
async def test_a_journal_larger_than_the_buffer_is_replayed_in_several_flushes(tmp_path: Path) -> None:
    """A buffer of 4 samples and 40 in the journal: all are stored once, and segments go only then."""
    async with running(tmp_path, segment_bytes=1_000) as house:
        for minute in range(20):
            for vm in (VM, "db-1"):
                assert (await house.push(vm, TS - 60 * minute)).status == 204
    assert len(list((tmp_path / "journal").iterdir())) > 2
    async with running(tmp_path, segment_bytes=1_000, buffer_samples=4) as house:
        assert len(stored(tmp_path)) + len(stored(tmp_path, "db-1")) >= 36
        await house.flush()
        assert house.service._buffer.unstored_rows == 0
    wanted = sorted(TS - 60 * minute for minute in range(20))
    assert stored(tmp_path) == stored(tmp_path, "db-1") == wanted
    async with running(tmp_path) as house:
        assert house.service._recovery.segments[-1] - house.service._recovery.segments[0] <= 1
        assert (await house.flush())["samples"] == 0


@pytest_twisted.ensureDeferred
async def test_pressure_flushes_before_the_schedule_does(tmp_path: Path) -> None:
    """Half a buffer is stored without anybody asking."""
    async with running(tmp_path, buffer_samples=10) as house:
        await house.push(VM, *(TS - 60 * minute for minute in range(4)))
        house.service._schedule.look()
        assert house.service._flusher.totals.flushes == 0
        await house.push(VM, TS - 600)
        await reached(lambda: house.service._buffer.unstored_rows == 0)
        assert len(stored(tmp_path)) == 5


@pytest_twisted.ensureDeferred
async def test_stores_that_fail_are_not_hammered_under_pressure(tmp_path: Path) -> None:
    """A disk that stays full is tried now and then, not every second."""
    async with running(tmp_path, buffer_samples=4) as house:
        service = house.service
        service._flusher.stores_failing = "disk full"
        service._schedule._ticked_s = reactor.seconds()
        await house.push(VM, TS, TS - 60, TS - 120)
        for _ in range(3):
            service._schedule.look()
        assert not service._flusher.is_running
        service._schedule._ticked_s -= 31
        service._schedule.look()
        assert service._flusher.is_running
        await reached(lambda: not service._flusher.is_running)


@pytest_twisted.ensureDeferred
async def test_a_scheduler_that_is_late_is_not_waited_for(tmp_path: Path) -> None:
    """It counts on the wall clock: set back by a year, it would call in a year."""
    async with running(tmp_path, flush_interval_s=300.0) as house:
        house.service._schedule._ticked_s -= 590
        house.service._schedule.look()
        assert not house.service._flusher.is_running
        house.service._schedule._ticked_s -= 20
        house.service._schedule.look()
        assert house.service._flusher.is_running
        await reached(lambda: not house.service._flusher.is_running)
        house.service._schedule.look()
        assert not house.service._flusher.is_running


@pytest_twisted.ensureDeferred
async def test_the_scheduler_is_asked_for_one_flush_an_interval(tmp_path: Path) -> None:
    """A run that comes late is not dropped, and two never overlap; its job is to flush, on the reactor's thread."""
    async with running(tmp_path, flush_interval_s=300.0) as house:
        ((call, options),) = house.scheduler.jobs
        assert options["seconds"] == 300.0
        assert (options["max_instances"], options["coalesce"], options["misfire_grace_time"]) == (1, True, None)
        assert house.scheduler.running
        await house.push(VM, TS)
        call(*options["args"])
        await reached(lambda: stored(tmp_path) == [TS])
    assert not house.scheduler.running


@pytest_twisted.ensureDeferred
async def test_row_29_a_conflict_of_identity_is_flagged_and_stores_what_was_acknowledged(tmp_path: Path) -> None:
    """The flag is shown, and of both machines exactly what was acknowledged is stored."""
    async with running(tmp_path) as house:
        answers = [(await house.push(VM, TS - 300 + 60 * n, boot=boot)).status for n, boot in enumerate("ABA")]
        assert answers == [204, 204, 409]
        await house.flush()
        assert b"identity_conflict" in (await house.admin("GET", "/v1/live")).body
    assert stored(tmp_path) == [TS - 300, TS - 240]


@pytest_twisted.ensureDeferred
async def test_samples_of_store_and_memory_are_one(tmp_path: Path) -> None:
    """Each time once, by rising time, the store's before memory's; the range is kept to."""
    async with running(tmp_path) as house:
        await house.push(VM, TS - 120, TS - 60)
        await house.flush()
        await house.push(VM, TS)
        # Memory forgot what it has: only the store knows better.
        house.service._buffer.add(packed_push(VM, TS - 60, cpu=0.9), NOW_S)
        samples = samples_of(tmp_path, house.service._buffer)
        found = samples(VM, TS - 60, TS)
        assert [(one["ts"], one["cpu_busy_ratio"]) for one in found] == [(TS - 60, 0.03), (TS, 0.03)]
        assert samples("nobody", 0, TS) == []


def move_fleet(data: Path, *, away: bool) -> None:
    """Takes the fleet database away, with a folder in its place, or puts it back."""
    if not away:
        (data / "fleet.db").rmdir()
    for suffix in ("", "-wal", "-shm"):
        here, there = data / f"fleet.db{suffix}", data / f"away.db{suffix}"
        for source, target in ((here, there) if away else (there, here),):
            if source.exists():
                source.rename(target)
    if away:
        (data / "fleet.db").mkdir()


@pytest_twisted.ensureDeferred
async def test_row_36_a_lost_database_keeps_ingest_and_stores_going(tmp_path: Path) -> None:
    """Fault 36: pushes are taken and stored, summaries wait and are written later; enrolment answers 503 meanwhile."""
    async with running(tmp_path) as house:
        assert (await house.push(VM, TS)).status == 204
        house.service._fleet.engine.dispose()
        move_fleet(tmp_path, away=True)
        assert (await house.push(VM, TS + 60)).status == 204
        report = await house.flush()
        assert (report["samples"], report["failures"], report["summaries_owed"]) == (2, {}, 1)
        assert stored(tmp_path) == [TS, TS + 60]
        body = json.dumps({"join_token": house.join_token, "vm": "db-1"}).encode()
        assert (await house.agents("POST", "/v1/enroll", body, content_type="application/json")).status == 503
        assert (await house.agents("GET", "/readyz")).status == 200
        move_fleet(tmp_path, away=False)
        assert (await house.flush())["summaries_owed"] == 0
    engine = open_fleet(None, tmp_path)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT vm_id, newest_s FROM vm_summary").all() == [(VM, TS + 60)]
    engine.dispose()


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_no_peer(tmp_path: Path) -> None:
    """An idle connection and half a request do not hold up the end."""
    async with running(tmp_path) as house:
        address = parse_host_port((tmp_path / AGENTS_ADDRESS_FILE).read_text().strip())
        sockets = [socket.create_connection(address) for _ in range(2)]
        sockets[1].sendall(b"POST /v1/samples HTTP/1.1\r\nHost: a\r\nContent-Le")
        await reached(lambda: house.service._door.counters.connections_open == 2)
    for one in sockets:
        one.close()


@pytest_twisted.ensureDeferred
async def test_a_stop_during_the_replay_is_a_stop(tmp_path: Path) -> None:
    """SIGTERM while the stores fail and the buffer is full: nothing more starts, nothing is dropped."""
    async with running(tmp_path) as house:
        await house.push(VM, *(TS - 60 * minute for minute in range(6)))
        await house.push(VM, *(TS - 60 * minute for minute in range(10, 16)))
    (tmp_path / "stores").write_text("in the way")
    service, scheduler = make_service(tmp_path, buffer_samples=3)
    starting = Deferred.fromCoroutine(service.start())
    await reached(lambda: service._flusher.stores_failing is not None)
    assert service.not_ready() == "the journal is being replayed"
    await service.stop()
    await starting
    assert not scheduler.jobs
    (tmp_path / "stores").unlink()
    async with running(tmp_path) as house:
        assert (await house.flush())["samples"] == 12


@pytest_twisted.ensureDeferred
async def test_one_aggregator_a_data_directory(tmp_path: Path) -> None:
    """A second daemon on the same data directory is refused by a lock that ends with the first."""
    service, _ = make_service(tmp_path)
    with pytest.raises(DataDirectoryBusyError, match="in use by another"):
        make_service(tmp_path)
    await service.stop()
    again, _ = make_service(tmp_path)
    await again.stop()


def test_a_data_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    """A file in its place is a mistake in the settings."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="--data: "):
            lock_data_directory(place)


def test_the_descriptor_limit_is_raised_to_the_hard_one() -> None:
    """Thousands of connections need it; the hard limit is the administrator's."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert raise_descriptor_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("stopped", [False, True])
@pytest_twisted.ensureDeferred
async def test_row_18_a_store_that_vanishes_is_marked(tmp_path: Path, stopped: bool) -> None:
    """A store deleted under a running aggregator, or between two runs: the VM is stored on and flagged, others not."""
    async with running(tmp_path) as house:
        for vm in (VM, "web-2"):
            assert (await house.push(vm, TS)).status == 204
        assert (await house.flush())["samples"] == 2
        tokens = house.tokens
        if not stopped:
            await lose_and_push(tmp_path, house)
    if stopped:
        async with running(tmp_path) as house:
            house.tokens = tokens
            await lose_and_push(tmp_path, house)
    engine = open_fleet(None, tmp_path)
    with engine.connect() as connection:
        flags = {row[0]: row[1] for row in connection.exec_driver_sql("SELECT vm_id, flags FROM vm_summary")}
    engine.dispose()
    assert flags == {VM: '["store_replaced"]', "web-2": "[]"}


async def lose_and_push(data: Path, house: House) -> None:
    """The VM's store goes; both VMs push another minute, which is stored."""
    store_path(data, VM).unlink()
    for vm in (VM, "web-2"):
        assert (await house.push(vm, TS + 60)).status == 204
    report = await house.flush()
    assert (report["samples"], report["failures"]) == (2, {})
    assert stored(data) == [TS + 60]
    assert (await house.metrics())["fallow_stores_lost_total"] == 1
