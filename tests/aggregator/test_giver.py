"""Giving a part of a history away: shown whole, and deleted only when its home has all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred, execute

from aggregator.buffer import Buffer
from aggregator.catalogue import Catalogue
from aggregator.fleet_db import migrate, open_fleet
from aggregator.giver import Giver
from aggregator.part_file import Dropped, StorePart, drop_store
from aggregator.part_turns import PartTurns
from aggregator.problems import Problem, Refused
from aggregator.store_files import store_path
from tests.aggregator.admin_fakes import House
from tests.aggregator.flush_fakes import NOW_S, TS, push
from tests.aggregator.store_fakes import START_S, fill, minutes

T = TypeVar("T")
VM = "vm-1"


@dataclass
class Node:
    """A giver over a real buffer and real files; flusher, workers and database are under the test's hand.

    Attributes:
        home: the home of every VM; an exception: the database is away.
        known: VMs that have had rows here, as the flusher has it.
        before_drop: called when the worker's turn has come.
    """

    data_dir: Path
    home: str | Exception | None = "other"
    known: set[str] = field(default_factory=lambda: {VM})
    before_drop: Callable[[], object] = lambda: None
    worker_dies: bool = False
    turns: PartTurns = field(default_factory=PartTurns)
    hurried: list[str] = field(default_factory=list)
    owed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.buffer = Buffer(max_rows=1_000)
        self.giver = Giver(
            name="me",
            store_path=self.path,
            home_of=self.home_of,
            buffer=self.buffer,
            flusher=self,
            workers=self,
            turns=self.turns,
            in_thread=execute,
            call_in_reactor=lambda call, *arguments: call(*arguments),
        )

    def path(self, vm_id: str) -> Path:
        return store_path(self.data_dir, vm_id)

    def home_of(self, vm_id: str) -> str | None:
        if isinstance(self.home, Exception):
            raise self.home
        return self.home

    def know(self, vm_ids: Iterable[str]) -> None:
        self.known.update(vm_ids)

    def unknow(self, vm_id: str) -> None:
        self.known.discard(vm_id)

    forget = unknow

    def owes_summary(self, vm_id: str) -> bool:
        return vm_id in self.owed

    def hurry(self, vm_id: str) -> None:
        self.hurried.append(vm_id)

    def call(self, vm_id: str, work: Any, done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        assert self.known == set()
        self.before_drop()
        if self.worker_dies:
            failed("the worker was stopped")
        else:
            done(drop_store(self.path(vm_id), work.args[1]))

    def read(self, node: str = "me") -> StorePart:
        return outcome(Deferred.fromCoroutine(self.giver.read(VM, node)))

    def drop(self, mark: str, node: str = "me") -> None:
        outcome(Deferred.fromCoroutine(self.giver.drop(VM, node, mark)))

    def refusal(self, mark: str, node: str = "me") -> Problem:
        with pytest.raises(Refused) as caught:
            self.drop(mark, node)
        assert self.path(VM).exists()
        assert self.known == {VM}
        return caught.value.problem


def outcome(deferred: Deferred[T]) -> T:
    """What a deferred that has fired holds; raises what it failed with."""
    found: list[Any] = []
    deferred.addCallbacks(found.append, lambda failure: found.append(failure.value))
    (one,) = found
    if isinstance(one, Exception):
        raise one
    result: T = one
    return result


@pytest.fixture
def node(tmp_path: Path) -> Node:
    fill(tmp_path, VM, minutes(START_S + 60, 3))
    return Node(tmp_path)


def test_part_that_its_home_has_taken_in_goes(node: Node) -> None:
    """The store is gone, and the VM may return as a new one: no store of it is missed."""
    node.drop(node.read().mark)
    assert not node.path(VM).exists()
    assert node.known == set()
    with pytest.raises(Refused) as caught:
        node.read()
    assert (caught.value.problem.status, caught.value.problem.reason) == (404, "no-part")
    # Asked again, since the first answer was lost.
    node.drop("0" * 32)


def test_flush_that_came_first_keeps_the_store(node: Node) -> None:
    """Rows that a flush stored after the part was read are only here: 412."""
    mark = node.read().mark
    node.before_drop = lambda: fill(node.data_dir, VM, minutes(START_S + 600, 1))
    assert (node.refusal(mark).status, node.refusal(mark).reason) == (412, "changed")


def test_samples_in_memory_keep_the_store(node: Node) -> None:
    """While something acknowledged is in no store yet: 409; also if it came while the database was asked."""
    mark = node.read().mark
    node.buffer.add(push(VM, TS), NOW_S)
    assert (node.refusal(mark).status, node.refusal(mark).reason) == (409, "not-stored-yet")
    node.buffer.take()
    assert node.refusal(mark).reason == "not-stored-yet"
    node.buffer.stored(VM)
    # What stays in memory of it is for those who look at the present.
    assert node.buffer.live(0.0)
    node.home_of = lambda vm_id: node.buffer.add(push(VM, TS + 60), NOW_S) and "other"  # type: ignore[method-assign]
    node.giver._home_of = node.home_of
    assert node.refusal(mark).reason == "not-stored-yet"


def test_refused_samples_keep_the_store(node: Node) -> None:
    """A conflict that no store has counted yet is something that memory owes."""
    mark = node.read().mark
    node.buffer.add(push(VM, TS), NOW_S)
    node.buffer.take()
    node.buffer.stored(VM)
    node.buffer.add(push(VM, TS, cpu=0.5), NOW_S)
    assert node.refusal(mark).reason == "not-stored-yet"


def test_samples_that_are_asked_for_do_not_wait_for_their_turn(node: Node) -> None:
    """A VM that moved away may have its turn in an hour: the next flush stores what keeps its part here."""
    mark = node.read().mark
    assert node.hurried == []
    node.buffer.add(push(VM, TS), NOW_S)
    assert node.refusal(mark).reason == "not-stored-yet"
    assert node.hurried == [VM]


def test_store_that_the_database_has_not_heard_of_stays(node: Node) -> None:
    """What was stored last may make this node the home: until that is told, nobody knows whose the store is."""
    mark = node.read().mark
    node.owed.add(VM)
    assert node.refusal(mark).reason == "not-stored-yet"
    node.owed.clear()
    node.drop(mark)


def test_store_that_is_joined_into_is_not_given_away(node: Node) -> None:
    """409 while a round of this node works on it; once it was given, the round begins nothing with it any more."""
    mark = node.read().mark
    assert node.turns.begin_join(VM)
    assert (node.refusal(mark).status, node.refusal(mark).reason) == (409, "being-joined")
    node.turns.end_join(VM)
    node.drop(mark)
    assert not node.turns.begin_join(VM)
    node.turns.look()
    assert node.turns.begin_join(VM)


@pytest.mark.parametrize("home", ["me", None])
def test_home_gives_nothing_away(node: Node, home: str | None) -> None:
    """409 unless the fleet database names another node as the home."""
    node.home = home
    assert (node.refusal(node.read().mark).status, node.refusal(node.read().mark).reason) == (409, "home-here")


def test_row_36_nothing_goes_while_the_database_is_away(node: Node) -> None:
    """Nobody knows who the home is: 503, and the part stays."""
    node.home = ConnectionError("away")
    refusal = node.refusal(node.read().mark)
    assert (refusal.status, refusal.reason, refusal.retry_after_s) == (503, "database-unavailable", 60)


def test_worker_that_dies_leaves_it_open(node: Node) -> None:
    """503; the store is still known, so that it would be missed."""
    node.worker_dies = True
    assert node.refusal(node.read().mark).status == 503


def test_another_node_is_not_taken_for_this_one(node: Node) -> None:
    """Two nodes that both say they are at 127.0.0.1: 421, whether the part is read or deleted."""
    mark = node.read().mark
    assert (node.refusal(mark, "b").status, node.refusal(mark, "b").reason) == (421, "other-node")
    with pytest.raises(Refused) as caught:
        node.read("b")
    assert caught.value.problem.status == 421


def test_drop_that_fails_says_why(tmp_path: Path) -> None:
    """A store that cannot be read now is not deleted, and the reason is told."""
    path = fill(tmp_path, VM, minutes(START_S + 60, 3))
    path.write_bytes(b"no store")
    dropped = drop_store(path, "0" * 32)
    assert dropped != Dropped(is_gone=True)
    assert "DatabaseError" in str(dropped.problem)


# The routes.


class Source:
    """Notes what the routes ask of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def read(self, vm_id: str, node: str) -> StorePart:
        self.asked.append((vm_id, node))
        return StorePart(b"bytes of a store", "a" * 32)

    async def drop(self, vm_id: str, node: str, mark: str) -> None:
        self.asked.append((vm_id, node, mark))


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def house(tmp_path: Path, source: Source) -> Iterator[House]:
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    yield House(tmp_path, Catalogue(engine), parts=source)
    engine.dispose()


def test_route_shows_a_part_with_its_mark(house: House, source: Source) -> None:
    """The store's bytes as they are, and the mark as ETag."""
    answer = house.ask("GET", "/v1/vms/vm-1/part?node=me")
    assert (answer.status, answer.body) == (200, b"bytes of a store")
    assert answer.headers["etag"] == f'"{"a" * 32}"'
    assert answer.headers["content-type"] == "application/vnd.sqlite3"
    assert source.asked == [("vm-1", "me")]


def test_route_deletes_only_what_is_named(house: House, source: Source) -> None:
    """Without the mark of what was taken in 428, and nothing is asked; `*` is no mark."""
    target = "/v1/vms/vm-1/part?node=me"
    for header in ((), ("If-Match: *",), ("If-Match: abc",), (f'If-Match: W/"{"a" * 32}"',)):
        assert house.ask("DELETE", target, *header).status == 428
    assert source.asked == []
    assert house.ask("DELETE", target, f'If-Match: "{"a" * 32}"').status == 204
    assert source.asked == [("vm-1", "me", "a" * 32)]


@pytest.mark.parametrize("query", ["", "?node=me&x=1", "?node=me&node=me"])
def test_route_needs_to_know_who_is_meant(house: House, source: Source, query: str) -> None:
    """422 without a node's name, with it twice, or with more."""
    assert house.ask("GET", f"/v1/vms/vm-1/part{query}").status == 422
    assert house.ask("DELETE", f"/v1/vms/vm-1/part{query}", f'If-Match: "{"a" * 32}"').status == 422
    assert source.asked == []


def test_route_without_parts_is_no_absent_part(tmp_path: Path) -> None:
    """404, but not the one that means that the part is gone."""
    engine = open_fleet(None, tmp_path)
    migrate(engine)
    answer = House(tmp_path, Catalogue(engine)).ask("GET", "/v1/vms/vm-1/part?node=me")
    engine.dispose()
    assert answer.status == 404
    assert not answer.json["type"].endswith("no-part")
