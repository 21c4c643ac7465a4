"""Two aggregators of one fleet, real but in this process: a VM that moves between them keeps one history."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import sqlalchemy as sa
from twisted.internet import reactor as the_reactor
from twisted.internet.task import deferLater

from aggregator.catalogue import Catalogue, Labels
from aggregator.fleet import node
from aggregator.fleet_db import migrate, open_fleet
from aggregator.joiner import Joiner
from aggregator.store_files import read_samples, store_path
from tests.aggregator.admin_door import open_door
from tests.aggregator.door_fakes import TS
from tests.aggregator.service_fakes import Clock, House, make_service
from tests.postgres import postgres_database

pytestmark = pytest.mark.real

reactor: Any = the_reactor
VM = "web-1"
PATIENCE_S = 120.0


@pytest.fixture
def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
    with postgres_database(pytestconfig) as url:
        yield url


class Fleet:
    """Two nodes, `a` and `b`, that share a database, the key of tokens and the admin token."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        # After every minute that is sent: none is of the future.
        self.clock = Clock(TS + 900.0)
        self.tokens: dict[str, str] = {}
        self.engine = open_fleet(url, directory)
        migrate(self.engine)
        join_token = Catalogue(self.engine).mint_join_token(
            now_s=self.clock.now_s, ttl_s=3600.0, uses=100, labels=Labels(owner="team")
        )
        self.join_token = join_token
        self._stack = AsyncExitStack()
        self.nodes: dict[str, House] = {}

    async def start(self, name: str, **settings: Any) -> House:
        """A node on its own directory."""
        data = self.directory / name
        data.mkdir(exist_ok=True)
        for secret in ("token.key", "admin.token"):
            other = next((node.data / secret for node in self.nodes.values()), None)
            if other is not None and not (data / secret).exists():
                (data / secret).touch(mode=0o600)
                (data / secret).write_text(other.read_text())
        service, scheduler = make_service(data, self.clock, fleet_url=self.url, node_name=name, **settings)
        house = self.nodes[name] = House(data, service, scheduler, self.clock)
        house.tokens = self.tokens
        house.bound_token = lambda vm: self.join_token  # type: ignore[method-assign]
        await service.start()
        await self._reached(lambda: self.rows("SELECT 1 FROM node WHERE node = :name", name=name))
        return house

    async def stop(self, name: str) -> None:
        await self.nodes[name].service.stop()

    async def sent(self, name: str, *minutes: int, **push: Any) -> None:
        """Pushes samples to a node and flushes it."""
        answer = await self.nodes[name].push(VM, *(TS + 60 * minute for minute in minutes), **push)
        assert answer.status in (200, 204), answer
        report = await self.nodes[name].flush()
        assert not report["failures"]
        assert not report["summaries_owed"]

    async def tell(self) -> None:
        """Has every node say that it is there: the clock has moved on."""
        for name, house in self.nodes.items():
            house.service._fleet.link.tell()
            now_s = self.clock.now_s
            await self._reached(
                lambda name=name, now_s=now_s: self.rows(
                    "SELECT 1 FROM node WHERE node = :name AND seen_s >= :now AND state = 'up'", name=name, now=now_s
                )
            )

    def joiner(self, name: str) -> Joiner:
        return self.nodes[name].service._joining.joiner

    def rows(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement), values)]

    def home(self) -> str:
        ((node,),) = self.rows("SELECT node FROM vm_summary")
        return str(node)

    def parts(self) -> list[tuple[str, str | None]]:
        """Holders of parts, and what ails each."""
        return [(node, problem) for node, problem in self.rows("SELECT node, problem FROM vm_part ORDER BY node")]

    def stored(self, name: str) -> list[int]:
        """Minutes that a node's store holds."""
        found = read_samples(store_path(self.directory / name, VM), 0, 2**32)
        return [(int(one["ts"] or 0) - TS) // 60 for one in found]

    async def _reached(self, condition: Any) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, "this never came"
            await deferLater(reactor, 0.02, lambda: None)


@asynccontextmanager
async def fleet_of_two(directory: Path, url: str) -> AsyncIterator[Fleet]:
    fleet = Fleet(directory, url)
    try:
        for name in ("a", "b"):
            # Rounds begin when a test says so.
            await fleet.start(name, join_interval_s=86_400.0)
        yield fleet
    finally:
        for name in fleet.nodes:
            await fleet.stop(name)
        fleet.engine.dispose()


@pytest_twisted.ensureDeferred
async def test_a_vm_that_comes_and_goes_keeps_one_history(postgres_url: str, tmp_path: Path) -> None:
    """One row, every sample exactly once, and nothing of it left at the node that gave it."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("a", 0, 1, 2)
        # The ack of minute 2 was lost: it was sent again, elsewhere.
        await fleet.sent("b", 2, 3, 4)
        assert (fleet.home(), fleet.parts()) == ("b", [("a", None)])
        await fleet.sent("a", 5, 6)
        assert (fleet.home(), fleet.parts()) == ("a", [("b", None)])
        await fleet.joiner("b").round()
        assert fleet.parts() == [("b", None)]
        await fleet.joiner("a").round()
        assert (fleet.home(), fleet.parts()) == ("a", [])
        assert fleet.stored("a") == [0, 1, 2, 3, 4, 5, 6]
        assert not store_path(tmp_path / "b", VM).exists()
        assert fleet.rows("SELECT count(*) FROM vm_summary") == [(1,)]
        assert fleet.rows("SELECT conflicts, flags FROM vm_summary") == [(0, "[]")]
        ((covered_s,),) = fleet.rows("SELECT covered_s FROM vm_window WHERE window_days = 7")
        assert covered_s == 7 * 60
        assert (await fleet.nodes["a"].metrics())["fallow_parts_joined_total"] == 1.0
        # Back once more: what was given away is no store that was lost.
        await fleet.sent("b", 7)
        await fleet.joiner("b").round()
        assert fleet.stored("b") == list(range(8))
        assert fleet.rows("SELECT node, flags FROM vm_summary") == [("b", "[]")]
        assert fleet.parts() == []


@pytest_twisted.ensureDeferred
async def test_samples_in_memory_keep_a_part_where_it_is(postgres_url: str, tmp_path: Path) -> None:
    """A part is taken in while its node still has samples of the VM in memory: it goes when those are stored too."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0, 1)
        await fleet.sent("a", 5, 6)
        assert (await fleet.nodes["b"].push(VM, TS + 120)).status == 204
        await fleet.joiner("a").round()
        ((holder, problem),) = fleet.parts()
        assert holder == "b"
        assert "not-stored-yet" in str(problem)
        assert fleet.stored("a") == [0, 1, 5, 6]
        assert not (await fleet.nodes["b"].flush())["failures"]
        fleet.clock.now_s += 61
        await fleet.tell()
        await fleet.joiner("a").round()
        assert (fleet.home(), fleet.parts()) == ("a", [])
        assert fleet.stored("a") == [0, 1, 2, 5, 6]
        assert not store_path(tmp_path / "b", VM).exists()


@pytest_twisted.ensureDeferred
async def test_row_35_parts_of_a_node_that_is_away_wait(postgres_url: str, tmp_path: Path) -> None:
    """What a stopped node holds is noted and waits; the node comes back, and nothing is missing or twice."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("a", 0, 1, 2)
        await fleet.stop("a")
        await fleet.sent("b", 2, 3)
        figures = "SELECT count(*) FROM vm_window WHERE end_s = :end"
        await fleet.joiner("b").round()
        assert fleet.parts() == [("a", "node a is away")]
        # The figures that stand are those of the last whole history.
        assert fleet.rows(figures, end=TS + 180) == [(0,)]
        await fleet.start("a", join_interval_s=86_400.0)
        await fleet.tell()
        await fleet.joiner("b").round()
        assert (fleet.home(), fleet.parts()) == ("b", [])
        assert fleet.stored("b") == [0, 1, 2, 3]
        assert fleet.rows(figures, end=TS + 180) != [(0,)]


@pytest_twisted.ensureDeferred
async def test_nodes_of_different_tokens_say_so(postgres_url: str, tmp_path: Path) -> None:
    """All nodes of a fleet share admin.token: where they do not, the note of the part tells."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0)
        await fleet.sent("a", 1)
        (tmp_path / "a" / "admin.token").write_text("another-token-than-theirs\n")
        await fleet.joiner("a").round()
        ((_, problem),) = fleet.parts()
        assert "refused the proof made with" in str(problem)
        assert "which all nodes share" in str(problem)
        assert fleet.stored("b") == [0]


@pytest_twisted.ensureDeferred
async def test_address_of_another_node_is_noticed(postgres_url: str, tmp_path: Path) -> None:
    """Where two nodes give one address, a node that is asked in the other's place gives nothing and loses nothing."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0)
        await fleet.sent("a", 1)
        with fleet.engine.begin() as connection:
            own = sa.select(node.c.admin_url).where(node.c.node == "a").scalar_subquery()
            connection.execute(sa.update(node).where(node.c.node == "b").values(admin_url=own))
        await fleet.joiner("a").round()
        ((_, problem),) = fleet.parts()
        assert "is not node b" in str(problem)
        assert (fleet.stored("a"), fleet.stored("b")) == ([1], [0])


@pytest_twisted.ensureDeferred
async def test_writer_of_the_database_does_not_get_the_token(postgres_url: str, tmp_path: Path) -> None:
    """An address that somebody put in another's place is sent no secret, what it answers does not count, and its proof
    opens no other door: not that of the node it was made for either."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0)
        await fleet.sent("a", 1)
        ((url,),) = fleet.rows("SELECT admin_url FROM node WHERE node = 'b'")
        token = (tmp_path / "a" / "admin.token").read_text().strip()
        with open_door() as listener:
            # As `no-part` would, this has the home believe that there is nothing left to be taken in.
            listener.say(404, {"type": "urn:fallow:problem:no-part", "detail": "nothing here"})
            listener.token = token
            listener.proves = False
            with fleet.engine.begin() as connection:
                connection.execute(sa.update(node).where(node.c.node == "b").values(admin_url=listener.url))
            await fleet.joiner("a").round()
            ((target, shown),) = listener.asked
            ((_, problem),) = fleet.parts()
        assert token not in shown
        assert listener.whom == [f"b {listener.url}"]
        assert "without proof that it is node b: nothing here" in str(problem)
        for whom in (f"b {listener.url}", f"b {url}"):
            answer = await fleet.nodes["b"].admin("GET", target, {"Authorization": shown, "Fallow-Node": whom})
            assert answer.status in (401, 421)
        assert (fleet.stored("a"), fleet.stored("b")) == ([1], [0])


@pytest_twisted.ensureDeferred
async def test_forgotten_vm_has_no_parts(postgres_url: str, tmp_path: Path) -> None:
    """Forgetting a VM forgets the notes of its parts: nobody fetches what is to be forgotten."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0)
        await fleet.sent("a", 1)
        assert (await fleet.nodes["a"].admin("DELETE", f"/v1/vms/{VM}")).status == 204
        assert fleet.parts() == []
        await fleet.joiner("a").round()
        assert not store_path(tmp_path / "a", VM).exists()
