"""Two real aggregators on one database: a VM that one of them forgets, and a node that was forgotten and comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as the_reactor
from twisted.internet.task import deferLater

from aggregator.node_state import NodeState
from aggregator.nodes import Nodes
from aggregator.store_files import store_path
from tests.aggregator.door_fakes import TS
from tests.aggregator.node_fakes import node
from tests.aggregator.service_fakes import House
from tests.aggregator.test_joining import PATIENCE_S, VM, Fleet, fleet_of_two
from tests.postgres import postgres_database

pytestmark = pytest.mark.real

reactor: Any = the_reactor


@pytest.fixture
def postgres_url(pytestconfig: pytest.Config) -> Iterator[str]:
    with postgres_database(pytestconfig) as url:
        yield url


async def reached(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, "this never came"
        await deferLater(reactor, 0.02, lambda: None)


async def forget(fleet: Fleet, name: str) -> None:
    assert (await fleet.nodes[name].admin("DELETE", f"/v1/vms/{VM}")).status == 204


async def reread(house: House) -> None:
    """What the timer does every 30 seconds, to its end."""
    before = house.service._identities.revocations.value
    house.service._identities.reread()
    await reached(lambda: house.service._identities.revocations.value is not before)


def has_store(fleet: Fleet, name: str) -> bool:
    return store_path(fleet.directory / name, VM).exists()


@pytest_twisted.ensureDeferred
async def test_a_vm_that_one_node_forgets_is_forgotten_by_all(postgres_url: str, tmp_path: Path) -> None:
    """Its home drops store and memory when it hears of it; no later flush brings the VM back."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0, 1)
        await fleet.nodes["b"].push(VM, TS + 120)
        await forget(fleet, "a")
        assert fleet.rows("SELECT vm_id FROM vm_summary") == []
        # Not heard of it yet: what it stores reaches nobody.
        await fleet.nodes["b"].flush()
        assert fleet.rows("SELECT vm_id FROM vm_summary") == []
        await reread(fleet.nodes["b"])
        await reached(lambda: not has_store(fleet, "b"))
        assert fleet.nodes["b"].service._buffer.live(0.0, vm=VM) == []
        refused = await fleet.nodes["b"].push(VM, TS + 180)
        assert (refused.status, refused.reason) == (401, "forgotten")
        await fleet.nodes["b"].flush()
        assert (fleet.rows("SELECT vm_id FROM vm_summary"), has_store(fleet, "b")) == ([], False)


@pytest.mark.parametrize("is_stored_first", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_vm_that_enrols_again_at_once_loses_nothing(
    postgres_url: str, tmp_path: Path, is_stored_first: bool
) -> None:
    """Its home hears of the forgetting after it took samples of the new token, and stored them: these stay, alone."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0, 1)
        await fleet.nodes["b"].push(VM, TS + 120)
        await forget(fleet, "a")
        await fleet.nodes["a"].enroll(VM)
        assert (await fleet.nodes["b"].push(VM, TS + 180)).status == 204
        if is_stored_first:
            await fleet.sent("b", 4)
        await reread(fleet.nodes["b"])
        await fleet.sent("b", 5)
        assert fleet.stored("b") == ([3, 4, 5] if is_stored_first else [3, 5])
        assert fleet.rows("SELECT node, newest_s, flags FROM vm_summary") == [("b", TS + 300, "[]")]
        await fleet.stop("b")
        await fleet.start("b")
        await fleet.sent("b", 6)
        assert fleet.stored("b") == ([3, 4, 5, 6] if is_stored_first else [3, 5, 6])


@pytest_twisted.ensureDeferred
async def test_a_node_that_was_away_forgets_at_its_start(postgres_url: str, tmp_path: Path) -> None:
    """Its journal and its store hold nothing of the VM any more, though nothing of it was pushed since."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0, 1)
        await fleet.nodes["b"].push(VM, TS + 120)
        await fleet.stop("b")
        await forget(fleet, "a")
        assert has_store(fleet, "b")
        house = await fleet.start("b")
        await reached(lambda: not has_store(fleet, "b"))
        assert house.service._buffer.live(0.0, vm=VM) == []
        await house.flush()
        assert (fleet.rows("SELECT vm_id FROM vm_summary"), has_store(fleet, "b")) == ([], False)


@pytest_twisted.ensureDeferred
async def test_row_35_a_forgotten_node_that_comes_back_tells_of_its_histories(
    postgres_url: str, tmp_path: Path
) -> None:
    """Nobody knew any more that it holds some of a VM; it says so, and the VM's home takes that in."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0)
        await fleet.stop("b")
        await fleet.sent("a", 1)
        assert [holder for holder, _ in fleet.parts()] == ["b"]
        Nodes(fleet.engine).forget("b", fleet.clock.now_s)
        assert fleet.parts() == []
        house = await fleet.start("b")
        await reached(lambda: house.service._flusher.summaries_owed)
        await house.flush()
        assert [holder for holder, _ in fleet.parts()] == ["b"]
        await fleet.joiner("a").round()
        assert (fleet.stored("a"), fleet.parts()) == ([0, 1], [])


@pytest_twisted.ensureDeferred
async def test_row_42_nothing_is_forgotten_beside_an_older_aggregator(postgres_url: str, tmp_path: Path) -> None:
    """409 that names it, from any node, and all stays; once it is gone from the table the VM is forgotten."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0)
        Nodes(fleet.engine).register(node("agg-old", revision="0003", state=NodeState.STOPPED), None)
        for name in ("a", "b"):
            refused = await fleet.nodes[name].admin("DELETE", f"/v1/vms/{VM}")
            assert (refused.status, refused.reason) == (409, "older-nodes")
        assert (has_store(fleet, "b"), fleet.rows("SELECT vm_id FROM vm_summary")) == (True, [(VM,)])
        Nodes(fleet.engine).forget("agg-old", fleet.clock.now_s)
        await forget(fleet, "a")
        assert (await fleet.nodes["a"].admin("DELETE", f"/v1/vms/{VM}")).status == 404


@pytest.mark.parametrize("asked", ["a", "b"])
@pytest_twisted.ensureDeferred
async def test_row_17_a_damaged_store_of_a_forgotten_vm_goes(postgres_url: str, tmp_path: Path, asked: str) -> None:
    """Its node deletes it where it is asked itself, and moves it aside where it hears of it later."""
    async with fleet_of_two(tmp_path, postgres_url) as fleet:
        await fleet.sent("b", 0)
        path = store_path(fleet.directory / "b", VM)
        path.write_bytes(bytes(100) + path.read_bytes()[100:])
        await forget(fleet, asked)
        await reread(fleet.nodes["b"])
        await reached(lambda: not path.exists())
        left = [one.name for one in path.parent.iterdir() if ".damaged-" in one.name and "-journal" not in one.name]
        assert len(left) == (asked == "a")
