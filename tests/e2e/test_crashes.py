"""What is acknowledged survives the death of the aggregator and of its workers, once and unchanged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time

import pytest

from aggregator.store_files import store_path
from tests.e2e.house import Aggregator, House, Load, holds_exactly

pytestmark = pytest.mark.real


def push_some(aggregator: Aggregator, loads: list[Load]) -> dict[Load, range]:
    """Singles and batches for every VM; gives what was acknowledged, which must be all."""
    for load in loads:
        for minute in range(5):
            assert aggregator.push(load, [minute]).status == 204
        assert aggregator.push(load, range(5, 95)).status == 204
    return {load: range(95) for load in loads}


def test_fault_01_kill_9_between_ack_and_flush_loses_nothing(house: House) -> None:
    """Samples acknowledged before any flush are in the stores after kill -9, a restart and a flush."""
    loads = house.loads(8)
    before = house.aggregator()
    sent = push_some(before, loads)
    assert not any(store_path(before.data, load.vm).exists() for load in loads)
    before.kill()
    after = house.aggregator()
    report = after.flush()
    assert (report["samples"], report["failures"]) == (95 * 8, {})
    holds_exactly(after, sent)


def test_fault_06_kill_9_after_the_stores_committed_is_an_idempotent_replay(house: House) -> None:
    """A journal whose rows the stores hold already is replayed without a second row, hour or conflict."""
    loads = house.loads(8)
    before = house.aggregator()
    sent = push_some(before, loads)
    kept = house.folder / "kept"
    shutil.copytree(before.data / "journal", kept)
    assert before.flush()["samples"] == 95 * 8
    before.kill()
    # The moment between the last commit of a store and the deletion of the segment, however short it is in a real run.
    shutil.copytree(kept, before.data / "journal", dirs_exist_ok=True)
    after = house.aggregator()
    report = after.flush()
    assert (report["samples"], report["duplicates"], report["conflicts"]) == (0, 95 * 8, 0)
    holds_exactly(after, sent)


def test_fault_28_a_replayed_batch_changes_nothing_also_after_a_restart(house: House) -> None:
    """A batch sent again is answered as a success, before the flush, after it, and by the next life of the daemon."""
    (load,) = house.loads(1)
    before = house.aggregator()
    assert before.push(load, range(50)).status == 204
    assert json.loads(before.push(load, range(50)).body)["duplicate"] == 50
    before.flush()
    assert before.push(load, range(50)).acknowledged
    before.flush()
    before.kill()
    after = house.aggregator()
    assert after.push(load, range(50)).acknowledged
    assert after.flush()["samples"] == 0
    holds_exactly(after, {load: range(50)})


def test_fault_05_a_worker_killed_in_the_middle_of_a_flush_is_replaced(house: House) -> None:
    """SIGKILL for every worker while a large flush runs: the flush still stores everything, once."""
    loads = house.loads(160)
    aggregator = house.aggregator()
    sent = {load: range(500) for load in loads}
    for load, minutes in sent.items():
        assert aggregator.push(load, minutes).status == 204
    reports = []
    flushing = threading.Thread(target=lambda: reports.append(aggregator.flush()))
    flushing.start()
    try:
        # Some stores are there and most are not: the workers are in the middle of it.
        stores = aggregator.data / "stores"
        house.until(lambda: any(stores.rglob("*.db")), "the first store", running=[aggregator.program])
        killed = aggregator.workers()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        unfinished = sum(not store_path(aggregator.data, load.vm).exists() for load in loads)
    finally:
        flushing.join(120)
    (report,) = reports
    assert killed
    assert unfinished
    assert report["failures"] == {}
    assert aggregator.metric("fallow_flush_workers_replaced_total") >= 1
    assert not set(killed) & set(aggregator.workers())
    holds_exactly(aggregator, sent)


def test_fault_07_a_stopped_worker_fills_the_buffer_and_no_more(house: House) -> None:
    """While flushes hang in stopped workers, pushes are taken until the buffer is full, then put off with 503."""
    room = 1_000
    loads = house.loads(20)
    aggregator = house.aggregator("--buffer-samples", str(room))
    for load in loads:
        assert aggregator.push(load, range(5)).acknowledged
    aggregator.flush()
    stopped = aggregator.workers()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        taken = 0
        while (answer := aggregator.push(loads[taken % 20], tens(taken // 20))).acknowledged:
            taken += 1
            assert taken * 10 <= room
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert b"buffer-full" in answer.body
        assert aggregator.request("GET", "/healthz").status == 200
        assert aggregator.metric("fallow_buffered_samples") == taken * 10
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    turn = tens(taken // 20)
    house.until(lambda: aggregator.push(loads[taken % 20], turn).acknowledged, "room", running=[aggregator.program])
    aggregator.flush()
    sent = {load: {*range(5)} for load in loads}
    for push in range(taken + 1):
        sent[loads[push % 20]].update(tens(push // 20))
    holds_exactly(aggregator, sent)


def tens(turn: int) -> range:
    return range(5 + turn * 10, 15 + turn * 10)


def test_sigterm_exits_at_once_and_the_next_start_replays(house: House) -> None:
    """SIGTERM ends the aggregator with 0 and without a full flush; what was buffered is stored by the next one."""
    loads = house.loads(8)
    before = house.aggregator()
    sent = push_some(before, loads)
    assert before.stop(within_s=5) == 0
    assert not any(store_path(before.data, load.vm).exists() for load in loads)
    after = house.aggregator()
    assert after.metric("fallow_buffered_samples") == 95 * 8
    after.flush()
    holds_exactly(after, sent)


def test_sigterm_in_the_middle_of_a_flush_loses_nothing(house: House) -> None:
    """SIGTERM while workers write ends the aggregator with 0; the next start completes the stores."""
    loads = house.loads(150)
    before = house.aggregator("--flush-interval", "1s")
    sent = {load: range(400) for load in loads}
    for load, minutes in sent.items():
        assert before.push(load, minutes).status == 204
    stores = before.data / "stores"
    house.until(lambda: any(stores.rglob("*.db")), "the first store", running=[before.program])
    assert before.stop(within_s=10) == 0
    after = house.aggregator()
    assert after.flush()["failures"] == {}
    holds_exactly(after, sent)


def test_a_second_daemon_on_the_same_data_directory_exits_1(house: House) -> None:
    """The second one says who holds the directory and leaves the first one alone."""
    first = house.aggregator()
    second = house.run("fallow-aggregator", "run", "--data", str(first.data), "--listen", "127.0.0.1:0")
    assert second.returncode == 1
    assert "in use by another fallow-aggregator" in second.stderr
    assert "Traceback" not in second.stderr
    (load,) = house.loads(1)
    assert first.push(load, [0]).status == 204


def test_the_lock_dies_with_its_holder(house: House) -> None:
    """After kill -9 of the aggregator alone, with its workers still there, the next one starts at once."""
    loads = house.loads(4)
    before = house.aggregator()
    sent = push_some(before, loads)
    before.flush()
    orphans = before.workers()
    os.kill(before.pid, signal.SIGKILL)
    after = house.aggregator()
    after.flush()
    holds_exactly(after, sent)
    # Left without an aggregator, workers end by themselves.
    house.until(lambda: not any(alive(pid) for pid in orphans), "the end of the orphaned workers")


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_pushes_during_a_restart_are_refused_or_kept(house: House) -> None:
    """From the first moment the new daemon listens, each push is either refused with 503 or stored."""
    loads = house.loads(30)
    before = house.aggregator()
    for load in loads:
        for start in range(0, 3600, 900):
            assert before.push(load, range(start, start + 900)).acknowledged
    before.kill()
    address = before.data / "agents.address"
    address.unlink()
    after_program = house.programs.start(
        [
            *("fallow-aggregator", "run", "--data", str(before.data), "--flush-interval", "1h"),
            *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
        ]
    )
    listening = house.until(
        lambda: address.read_text().strip() if address.exists() else None, "a listener", running=[after_program]
    )
    before.doors = type(before.doors)(listening, before.doors.admin, before.doors.admin_token)
    late = 3600
    deadline_s = time.monotonic() + 60
    while not (answer := before.push(loads[0], [late])).acknowledged:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert time.monotonic() < deadline_s
    address = before.data / "admin.address"
    admin = house.until(lambda: address.read_text().strip(), "the admin door", running=[after_program])
    before.doors = type(before.doors)(listening, admin, before.doors.admin_token)
    assert before.flush()["failures"] == {}
    holds_exactly(before, {loads[0]: range(3601)} | {load: range(3600) for load in loads[1:]})
