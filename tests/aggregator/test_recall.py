"""A fleet database that was restored from a backup of before VMs were forgotten, and what aggregators tell it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import sqlalchemy as sa
from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater

from aggregator.catalogue import Catalogue
from aggregator.fleet import node, revocation, vm, vm_evidence, vm_part, vm_summary, vm_window
from aggregator.fleet_db import migrate, open_fleet
from aggregator.lives import Lives, first_of, later_of
from aggregator.problems import Refused
from aggregator.recall import Recall, recall_lives
from aggregator.revocation_cache import CACHE_FILE_NAME
from aggregator.store_files import read_samples, store_path
from aggregator.summaries import SummaryWriter
from aggregator.tokens import Revocations
from tests.aggregator.door_fakes import TS
from tests.aggregator.flush_fakes import summary
from tests.aggregator.service_fakes import NOW_S, House, running
from tests.postgres import postgres_database

reactor: Any = the_reactor


# The database.


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def engine(request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[sa.Engine]:
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database(pytestconfig)) if request.param == "postgresql" else None
        fleet = open_fleet(url, tmp_path)
        stack.callback(fleet.dispose)
        migrate(fleet)
        yield fleet


def held(engine: sa.Engine, *tables: sa.Table) -> list[str]:
    with engine.connect() as connection:
        return [vm_id for table in tables for vm_id in connection.scalars(sa.select(table.c.vm_id))]


def test_database_is_told_once_and_forgets_what_the_backup_brought_back(engine: sa.Engine) -> None:
    """The next token is of the later life; labels stay, figures of the VM go, those of others do not; never back."""
    with engine.begin() as connection:
        connection.execute(sa.insert(vm).values(vm_id="a", generation=2, name="web"))
    SummaryWriter(engine, "one").write([summary("a"), summary("b")], now_s=NOW_S)
    assert recall_lives(engine, {"a": 2, "c": 1}, now_s=NOW_S) == ["a", "c"]
    assert recall_lives(engine, {"a": 1, "c": 1}, now_s=NOW_S) == []
    below = {vm_id: generation for vm_id, (generation, _) in Catalogue(engine).revocations().below.items()}
    assert below == {"a": first_of(2), "c": first_of(1)}
    assert set(held(engine, vm_summary, vm_window, vm_evidence, vm_part)) == {"b"}
    assert held(engine, vm) == ["a"]
    SummaryWriter(engine, "one").write([summary("a"), summary("a")._replace(life=1)], now_s=NOW_S)
    assert held(engine, vm_summary) == ["b"]
    SummaryWriter(engine, "one").write([summary("a")._replace(life=2)], now_s=NOW_S)
    assert sorted(held(engine, vm_summary)) == ["a", "b"]


def test_no_life_begins_beside_a_node_that_knows_none(engine: sa.Engine) -> None:
    """It would take what comes in the later life for what came before; nothing is changed then."""
    said = {"version": "1", "revision": "0003", "state": "up", "started_s": NOW_S, "seen_s": NOW_S, "vms": 0, "owed": 0}
    SummaryWriter(engine, "one").write([summary("a")], now_s=NOW_S)
    with engine.begin() as connection:
        connection.execute(sa.insert(node).values(node="old", **said))
    with pytest.raises(Refused):
        recall_lives(engine, {"a": 1}, now_s=NOW_S)
    assert (held(engine, revocation), held(engine, vm_summary)) == ([], ["a"])


# Who tells it.


class Bench:
    """A `Recall` with a database that the test answers for."""

    def __init__(self) -> None:
        self.lives = Lives()
        self.is_of_the_fleet = True
        self.told: list[dict[str, int]] = []
        self.owed: list[str] = []
        self.readings = 0
        self.answers: list[list[str] | Exception] = []
        self.recall = Recall(
            self.lives,
            write=self._write,
            may_write=lambda: self.is_of_the_fleet,
            owe=self._owe,
            refresh=self._refresh,
            in_thread=self._in_thread,
        )

    def _write(self, lives: Mapping[str, int]) -> list[str]:
        self.told.append(dict(lives))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _owe(self, vm_ids: Sequence[str]) -> None:
        self.owed += vm_ids

    def _refresh(self) -> None:
        self.readings += 1

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return maybeDeferred(work)


def test_only_what_the_database_does_not_know_is_told() -> None:
    """And again at each reading until it took it; then what it refuses is read at once, and the figures are owed."""
    bench = Bench()
    bench.lives.learn("a", 2)
    bench.lives.learn("b", 1)
    knows = {"b": (first_of(1) + 3, "rotated")}
    bench.answers = [ConnectionError("away"), ["a"]]
    bench.recall.read(Revocations(knows))
    assert (bench.told, bench.owed, bench.readings) == ([{"a": 2}], [], 0)
    bench.recall.read(Revocations(knows | {"a": (first_of(1), "forgotten")}))
    assert (bench.told, bench.owed, bench.readings) == ([{"a": 2}] * 2, ["a"], 1)
    bench.recall.read(Revocations(knows | {"a": (first_of(2), "forgotten")}))
    assert len(bench.told) == 2


def test_a_stranger_tells_the_database_nothing() -> None:
    """What one with the keys of another fleet remembers is of other VMs."""
    bench = Bench()
    bench.lives.learn("a", 1)
    bench.is_of_the_fleet = False
    bench.recall.read(Revocations())
    assert bench.told == []


def test_what_either_reading_refuses_is_refused() -> None:
    """Of a VM in both, what refuses more."""
    one, other = {"a": (1, "x"), "b": (9, "y")}, {"b": (2, "z"), "c": (3, "w")}
    assert later_of(one, other) == later_of(other, one) == {"a": (1, "x"), "b": (9, "y"), "c": (3, "w")}


# An aggregator.


def restore(house: House, vm_id: str) -> None:
    """As a backup of before the VM was forgotten has it."""
    engine = open_fleet(None, house.data)
    with engine.begin() as connection:
        connection.execute(sa.delete(revocation))
        connection.execute(sa.delete(vm))
        connection.execute(sa.delete(vm_summary))
        connection.execute(sa.insert(vm).values(vm_id=vm_id, generation=1))
    engine.dispose()
    SummaryWriter(engine, "gone").write([summary(vm_id)], now_s=NOW_S)
    engine.dispose()


def generation_of(house: House, vm_id: str) -> int:
    generation = house.service._identities.keys.value.verify(vm_id, house.tokens[vm_id].encode())
    assert generation is not None
    return generation


def times(house: House, vm_id: str) -> list[int]:
    return [int(one["ts"] or 0) for one in read_samples(store_path(house.data, vm_id), 0, 2**32)]


def below_of(house: House, vm_id: str) -> int:
    return house.service._identities.revocations.value.below.get(vm_id, (0, ""))[0]


async def until(is_so: Callable[[], bool]) -> None:
    tries = 0
    while not is_so():
        tries += 1
        assert tries < 10_000, "it never comes"
        await deferLater(reactor, 0.01, lambda: None)


async def forget_and_come_back(house: House, vm_id: str) -> None:
    """With a sample in the store of its next life."""
    await house.push(vm_id, TS)
    await house.flush()
    assert (await house.admin("DELETE", f"/v1/vms/{vm_id}")).status == 204
    await house.enroll(vm_id)
    assert (await house.push(vm_id, TS + 60)).status in {200, 204}
    await house.flush()
    assert times(house, vm_id) == [TS + 60]


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_samples_of_a_life_before_that_of_their_store_are_counted_and_the_next_token_counts(
    tmp_path: Path,
) -> None:
    """A node that only its store tells of the forgetting: what it acknowledged and drops is counted, the token refused,
    and who enrols again is stored."""
    async with running(tmp_path) as house:
        await forget_and_come_back(house, "vm-1")
        restore(house, "vm-1")
    (tmp_path / CACHE_FILE_NAME).unlink()
    async with running(tmp_path) as house:
        await house.enroll("vm-1")
        assert generation_of(house, "vm-1") == 2
        assert (await house.push("vm-1", TS + 120, TS + 180)).status in {200, 204}
        await house.flush()
        assert (await house.metrics())["fallow_forgotten_samples_total"] == 2
        await until(lambda: below_of(house, "vm-1") == first_of(1))
        assert (await house.push("vm-1", TS + 240)).status == 401
        await house.enroll("vm-1")
        assert generation_of(house, "vm-1") >= first_of(1)
        assert (await house.push("vm-1", TS + 300)).status in {200, 204}
        await house.flush()
        assert times(house, "vm-1") == [TS + 60, TS + 300]
        document = json.loads((await house.admin("GET", "/v1/vms/vm-1")).body)
        assert document["newest_s"] == TS + 300


@pytest.mark.real
@pytest.mark.parametrize("is_running", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_node_that_remembers_tells_the_database_before_it_takes_anything(
    tmp_path: Path, is_running: bool
) -> None:
    """Whether it ran while the database was restored or starts on it: nothing of the life that is over is taken."""
    async with running(tmp_path) as house:
        await forget_and_come_back(house, "vm-1")
        restore(house, "vm-1")
        if is_running:
            house.service._identities.reread()
            await until(lambda: below_of(house, "vm-1") == first_of(1))
            await house.enroll("vm-1")
            assert generation_of(house, "vm-1") == first_of(1)
            assert (await house.push("vm-1", TS + 120)).status in {200, 204}
            return
    async with running(tmp_path) as house:
        await until(lambda: below_of(house, "vm-1") == first_of(1))
        await house.enroll("vm-1")
        assert generation_of(house, "vm-1") == first_of(1)
        assert (await house.metrics())["fallow_forgotten_samples_total"] == 0


@pytest.mark.real
@pytest_twisted.ensureDeferred
async def test_a_vm_that_is_forgotten_while_a_node_starts_lost_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its reading of what is at home there and of what is refused: when the VM is back, nothing is missed."""
    async with running(tmp_path) as house:
        await house.push("vm-1", TS)
        await house.push("vm-2", TS)
        await house.flush()
    store_path(tmp_path, "vm-1").unlink()
    known_vms = SummaryWriter.known_vms

    def forget_after(writer: SummaryWriter, *among: Any) -> list[str]:
        found = known_vms(writer, *among)
        monkeypatch.setattr(SummaryWriter, "known_vms", known_vms)
        Catalogue(writer._engine).forget("vm-1", now_s=NOW_S)
        return found

    monkeypatch.setattr(SummaryWriter, "known_vms", forget_after)
    async with running(tmp_path) as house:
        assert house.service._flusher.knows("vm-2")
        assert not house.service._flusher.knows("vm-1")
        await house.push("vm-1", TS + 60)
        await house.flush()
        assert (await house.metrics())["fallow_stores_lost_total"] == 0
