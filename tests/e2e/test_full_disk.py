"""A disk that is full is a 503 and a wait, never a loss; once there is room, all goes on by itself."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

import pytest

from tests.e2e.house import Aggregator, Answer, House, Load, holds_exactly

pytestmark = pytest.mark.real

BATCH = 100


def push_until_refused(aggregator: Aggregator, load: Load, begin: int) -> tuple[int, Answer]:
    """Batches from minute `begin` on, until one is not acknowledged; gives its first minute and its answer."""
    for start in count(begin, BATCH):
        answer = aggregator.push(load, range(start, start + BATCH))
        if not answer.acknowledged:
            return start, answer
        assert start < begin + 9_000, "the disk never became full"
    raise AssertionError


def assert_put_off(answer: Answer) -> None:
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_fault_09_a_full_journal_is_503_until_there_is_room(house: House) -> None:
    """ENOSPC on the journal: 503 with Retry-After, not ready; with room again it recovers unaided, nothing is lost."""
    (load,) = house.loads(1)
    journal = house.folder / "data" / "journal"
    house.tmpfs(journal, "size=1m")
    aggregator = house.aggregator()
    ballast = journal / "ballast"
    ballast.write_bytes(bytes(600_000))
    refused, answer = push_until_refused(aggregator, load, 0)
    assert_put_off(answer)
    assert refused > 0
    # Again and again: none of it may be half there afterwards.
    for _ in range(5):
        assert_put_off(aggregator.push(load, range(refused, refused + BATCH)))
    assert_put_off(aggregator.readiness())
    assert aggregator.request("GET", "/healthz").status == 200
    assert aggregator.metric("fallow_journal_healthy") == 0
    ballast.unlink()
    house.until(lambda: aggregator.readiness().status == 200, "recovery", running=[aggregator.program])
    assert aggregator.push(load, range(refused, refused + BATCH)).acknowledged
    aggregator.kill()
    after = house.aggregator()
    assert after.flush()["failures"] == {}
    holds_exactly(after, {load: range(refused + BATCH)})


def test_fault_09_a_flush_makes_the_room_that_a_full_journal_needs(house: House) -> None:
    """A journal that filled its disk is emptied by the scheduled flush; pushes are taken again though nobody helps."""
    (load,) = house.loads(1)
    journal = house.folder / "data" / "journal"
    house.tmpfs(journal, "size=1m")
    (journal / "ballast").write_bytes(bytes(700_000))
    aggregator = house.aggregator("--flush-interval", "2s")
    begin = 0
    for _ in range(2):
        begin, answer = push_until_refused(aggregator, load, begin)
        assert_put_off(answer)
        push_once_there_is_room(house, aggregator, load, begin)
        begin += BATCH
    aggregator.kill()
    after = house.aggregator()
    assert after.flush()["failures"] == {}
    holds_exactly(after, {load: range(begin)})


def push_once_there_is_room(house: House, aggregator: Aggregator, load: Load, begin: int) -> None:
    minutes = range(begin, begin + BATCH)
    house.until(lambda: aggregator.push(load, minutes).acknowledged, "recovery", running=[aggregator.program])


@pytest.mark.parametrize(
    ("little", "much"), [("size=400k", "size=64m"), ("size=64m,nr_inodes=12", "nr_inodes=10k")], ids=["bytes", "inodes"]
)
def test_fault_10_full_stores_keep_the_journal_and_tell(house: House, little: str, much: str) -> None:
    """ENOSPC on the stores alone: the journal stays, not ready and why; with room again all of it is stored."""
    loads = house.loads(40)
    house.tmpfs(house.folder / "data" / "stores", little)
    aggregator = house.aggregator()
    for load in loads:
        assert aggregator.push(load, range(300)).acknowledged
    journalled = aggregator.journal_bytes()
    report = aggregator.flush()
    assert len(report["failures"]) > len(loads) / 2
    assert aggregator.journal_bytes() >= journalled
    answer = aggregator.readiness()
    assert_put_off(answer)
    assert b"stores cannot be written" in answer.body
    assert aggregator.metric("fallow_ready") == 0
    assert aggregator.metric("fallow_store_failures_total") >= len(report["failures"])
    # A crash in that state must find everything again.
    aggregator.kill()
    again = house.aggregator("--flush-interval", "1s")
    house.until(lambda: again.metric("fallow_store_failures_total") > 0, "a flush", running=[again.program])
    house.remount(house.folder / "data" / "stores", much)
    house.until(lambda: recovered(again, loads), "recovery", running=[again.program])
    holds_exactly(again, dict.fromkeys(loads, range(300)))
    # Once every VM's turn to be stored has come.
    house.until(lambda: again.journal_bytes() < journalled, "the journal to go", running=[again.program])


def recovered(aggregator: Aggregator, loads: Iterable[Load]) -> bool:
    ready = aggregator.readiness().status == 200 and aggregator.metric("fallow_buffered_samples") == 0
    return ready and all(aggregator.stored(load.vm) for load in loads)
