"""Aggregators beside each other on a PostgreSQL server that goes away and comes back, and one taken out of service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import sqlalchemy as sa
from twisted.internet import reactor as the_reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from agent.settings import ConfigError
from aggregator.__main__ import build_parser
from aggregator.admin import TOKEN_FILE_NAME
from aggregator.catalogue import Catalogue
from aggregator.fleet import vm_summary
from aggregator.fleet_db import open_fleet
from aggregator.node_row import Node
from aggregator.node_state import NodeState
from aggregator.nodes import NodeNameTakenError, Nodes
from aggregator.revocation_cache import CACHE_FILE_NAME
from aggregator.tokens import KEY_FILE_NAME, create_secret
from bench.postgres import PostgresAbsent, PostgresServer, postgres_server
from tests.aggregator.door_fakes import TS
from tests.aggregator.service_fakes import NOW_S, Clock, House, make_service, running

pytestmark = pytest.mark.real

PATIENCE_S = 120.0
reactor: Any = the_reactor


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One of this file's own: it is stopped under those who use it."""
    try:
        with postgres_server() as made:
            yield made
    except PostgresAbsent as absent:
        pytest.skip(str(absent))


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    with server.database() as made:
        yield made


@contextmanager
def fleet(url: str | None, data: Path) -> Iterator[sa.Engine]:
    engine = open_fleet(url, data)
    try:
        yield engine
    finally:
        engine.dispose()


def nodes(url: str | None, data: Path) -> dict[str, Node]:
    """Rows of the table by name."""
    with fleet(url, data) as engine:
        return {one.node: one for one in Nodes(engine).all()}


async def reached(condition: Callable[[], object]) -> None:
    """Lets the reactor work until it is so; what is asked may block."""
    until_s = time.monotonic() + PATIENCE_S
    while not await deferToThread(condition):
        assert time.monotonic() < until_s, "this never came"
        await deferLater(reactor, 0.05, lambda: None)


async def enrol(house: House, vm: str) -> tuple[int, str]:
    """Status and reason of an enrolment."""
    body = json.dumps({"join_token": house.join_token, "vm": vm}).encode()
    answer = await house.agents("POST", "/v1/enroll", body, content_type="application/json")
    return answer.status, "" if answer.status == 201 else answer.reason


def summaries(url: str | None, data: Path) -> dict[str, str]:
    """VMs with a summary, and their home."""
    with fleet(url, data) as engine, engine.connect() as connection:
        return {row.vm_id: row.node for row in connection.execute(sa.select(vm_summary.c.vm_id, vm_summary.c.node))}


def share_keys(folder: Path, digits: str = "ab", admin_token: str = "the-token-of-the-fleet") -> None:
    """Gives a data directory the keys that all of a fleet have, or others."""
    folder.mkdir(exist_ok=True)
    for name, text in ((KEY_FILE_NAME, f"k1:{digits * 32}"), (TOKEN_FILE_NAME, admin_token)):
        (folder / name).unlink(missing_ok=True)
        create_secret(folder / name, f"{text}\n")


def name_of(house: House) -> str:
    """Of an aggregator."""
    return house.service._fleet.me.name


@pytest_twisted.ensureDeferred
async def test_row_36_an_aggregator_starts_while_its_database_is_away(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    """Pushes are taken and stored, revoked tokens stay refused, nobody enrols; all is made good once it answers."""
    async with running(tmp_path, fleet_url=url) as house:
        await house.enroll("web-1")
        await house.enroll("bad-1")
        with fleet(url, tmp_path) as engine:
            Catalogue(engine).revoke("bad-1", "revoked", now_s=NOW_S)
        house.service._identities.reread()
        await reached(lambda: house.service._identities.revocations.value.refuses("bad-1", 1))
        tokens, join_token = house.tokens, house.join_token
    assert nodes(url, tmp_path)[name_of(house)].state is NodeState.STOPPED
    server.stop()
    try:
        async with running(tmp_path, has_database=False, fleet_url=url) as house:
            house.tokens, house.join_token = tokens, join_token
            assert (await house.agents("GET", "/readyz")).status == 200
            assert (await house.push("web-1", TS)).status == 204
            refused = await house.push("bad-1", TS)
            assert (refused.status, refused.reason) == (401, "revoked")
            assert await enrol(house, "new-1") == (503, "database-unavailable")
            flushed = await house.flush()
            assert (flushed["samples"], flushed["failures"], flushed["summaries_owed"]) == (1, {}, 1)
            assert (await house.metrics())["fallow_fleet_database_up"] == 0
            server.start()
            await reached(lambda: nodes(url, tmp_path)[name_of(house)].state is NodeState.UP)
            assert await enrol(house, "new-1") == (201, "")
            assert (await house.metrics())["fallow_fleet_database_up"] == 1
            await reached(lambda: summaries(url, tmp_path) == {"web-1": name_of(house)})
            # What vanishes from here on is known to have had rows, though the database was away at the start.
            assert "web-1" in house.service._flusher._known
    finally:
        server.start()


@pytest_twisted.ensureDeferred
async def test_row_36_a_database_that_goes_away_is_told_and_holds_up_no_stop(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    """The metrics say so within seconds, and say when it is back; SIGTERM in between ends as ever."""
    try:
        async with running(tmp_path, fleet_url=url) as house:
            await reached(lambda: nodes(url, tmp_path))
            server.stop()
            house.service._fleet.link.tell()
            await reached(lambda: house.service._fleet.link.trouble)
            assert (await house.metrics())["fallow_fleet_database_up"] == 0
            assert (await house.agents("GET", "/readyz")).status == 200
            server.start()
            await reached(lambda: house.service._fleet.link.trouble is None)
            server.stop()
    finally:
        server.start()


@pytest_twisted.ensureDeferred
async def test_row_36_a_first_start_without_its_database_is_refused(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    """Nothing tells which tokens are refused: better no door than one that lets them in."""
    server.stop()
    try:
        with pytest.raises(sa.exc.OperationalError):
            make_service(tmp_path, fleet_url=url)
        assert not (tmp_path / CACHE_FILE_NAME).exists()
    finally:
        server.start()


@pytest_twisted.ensureDeferred
async def test_two_aggregators_tell_of_themselves(url: str, tmp_path: Path) -> None:
    """Each has its row, with where it is asked; a push to one makes that one the home of the VM."""
    one_dir, two_dir = tmp_path / "one", tmp_path / "two"
    for folder in (one_dir, two_dir):
        share_keys(folder)
    async with (
        running(one_dir, fleet_url=url, node_name="agg-1") as one,
        running(two_dir, fleet_url=url, node_name="agg-2", node_url="https://agg2.example:8900") as two,
    ):
        # Told as soon as the journals are replayed, not ten seconds later.
        await reached(lambda: [one.not_ready for one in nodes(url, tmp_path).values()] == [None, None])
        found = nodes(url, tmp_path)
        assert found["agg-1"].listen == (one_dir / "agents.address").read_text().strip()
        assert found["agg-1"].admin_url == f"http://{(one_dir / 'admin.address').read_text().strip()}"
        assert found["agg-2"].admin_url == "https://agg2.example:8900"
        assert (found["agg-1"].state, found["agg-1"].not_ready) == (NodeState.UP, None)
        await one.push("web-1", TS)
        await two.push("db-1", TS)
        await one.flush()
        await two.flush()
        await reached(lambda: summaries(url, tmp_path) == {"web-1": "agg-1", "db-1": "agg-2"})
    assert {node.state for node in nodes(url, tmp_path).values()} == {NodeState.STOPPED}


@pytest_twisted.ensureDeferred
async def test_an_aggregator_of_a_fleet_makes_no_keys_of_its_own(url: str, tmp_path: Path) -> None:
    """What it lacks it names, whichever of the two files; the first of a fleet makes both, and so does an only one."""
    async with running(tmp_path / "one", fleet_url=url, node_name="agg-1"):
        await reached(lambda: nodes(url, tmp_path))
        two = tmp_path / "two"
        with pytest.raises(ConfigError) as refused:
            make_service(two, fleet_url=url, node_name="agg-2")
        assert [two / name for name in (KEY_FILE_NAME, TOKEN_FILE_NAME) if (two / name).exists()] == []
        assert f"{two / KEY_FILE_NAME}: is absent" in str(refused.value)
        assert "copy it from another aggregator of the fleet (agg-1), mode 0600" in str(refused.value)
        three = tmp_path / "three"
        share_keys(three)
        (three / TOKEN_FILE_NAME).unlink()
        with pytest.raises(ConfigError, match=f"{TOKEN_FILE_NAME}: is absent"):
            make_service(three, fleet_url=url, node_name="agg-3")
    for name in (KEY_FILE_NAME, TOKEN_FILE_NAME):
        (tmp_path / "one" / name).unlink()
    async with running(tmp_path / "one", fleet_url=url, node_name="agg-1"):
        assert (tmp_path / "one" / KEY_FILE_NAME).exists()


@pytest_twisted.ensureDeferred
async def test_row_36_no_keys_are_made_while_the_database_is_away(
    server: PostgresServer, url: str, tmp_path: Path
) -> None:
    """It alone tells whether others have them; revocations of an earlier run do not help."""
    async with running(tmp_path, fleet_url=url):
        pass
    (tmp_path / KEY_FILE_NAME).unlink()
    server.stop()
    try:
        with pytest.raises(sa.exc.OperationalError):
            make_service(tmp_path, fleet_url=url)
        assert not (tmp_path / KEY_FILE_NAME).exists()
    finally:
        server.start()


@pytest_twisted.ensureDeferred
async def test_an_aggregator_with_other_keys_takes_no_vms(url: str, tmp_path: Path) -> None:
    """Not ready and no enrolments, told with the other's name; who has the VMs goes on; mended by the copy."""
    one_dir, two_dir = tmp_path / "one", tmp_path / "two"
    share_keys(one_dir)
    share_keys(two_dir, "cd")
    async with running(one_dir, fleet_url=url, node_name="agg-1") as one:
        await one.push("web-1", TS)
        await one.flush()
        await reached(lambda: summaries(url, tmp_path) == {"web-1": "agg-1"})
        async with running(two_dir, Clock(NOW_S + 1), fleet_url=url, node_name="agg-0") as two:
            refused = await two.agents("GET", "/readyz")
            assert (refused.status, refused.reason) == (503, "not-ready")
            assert "its token keys are not those of agg-1" in refused.body.decode()
            assert "copy token.key and admin.token from there" in refused.body.decode()
            assert await enrol(two, "new-1") == (503, "not-ready")
            assert (await two.metrics())["fallow_node_keys_differ"] == 1
            await reached(lambda: "token keys" in (nodes(url, tmp_path)["agg-0"].not_ready or ""))
            one.service._fleet.link.tell()
            await reached(lambda: one.service._fleet._homes.known is not None)
            assert (await one.agents("GET", "/readyz")).status == 200
            assert (await one.metrics())["fallow_node_keys_differ"] == 0
            share_keys(two_dir)
            two.service._identities.keys.refresh()
            await reached(lambda: two.service._identities.keys.value.verify("new-1", _token(one, "new-1")))
            two.service._fleet.link.tell()
            await reached(lambda: two.service.not_ready() is None)
            assert await enrol(two, "new-1") == (201, "")


@pytest_twisted.ensureDeferred
async def test_a_stranger_that_starts_first_puts_nobody_out(server: PostgresServer, url: str, tmp_path: Path) -> None:
    """All were stopped; it starts alone, and once while the database is away: not ready, unlike the fleet's node."""
    one_dir, two_dir = tmp_path / "one", tmp_path / "two"
    share_keys(one_dir)
    share_keys(two_dir, "cd")
    async with running(one_dir, fleet_url=url, node_name="agg-1") as one:
        await one.push("web-1", TS)
        await one.flush()
        await reached(lambda: summaries(url, tmp_path) == {"web-1": "agg-1"})
    async with running(two_dir, fleet_url=url, node_name="agg-0") as two:
        assert (await two.agents("GET", "/readyz")).status == 503
        async with running(one_dir, Clock(NOW_S + 5), fleet_url=url, node_name="agg-1") as one:
            assert (await one.agents("GET", "/readyz")).status == 200
            one.service._fleet.link.tell()
            await reached(lambda: one.service._fleet.doubts.ahead_s is not None)
            assert (await one.agents("GET", "/readyz")).status == 200
            assert (await two.agents("GET", "/readyz")).status == 503
    server.stop()
    try:
        async with running(two_dir, has_database=False, fleet_url=url, node_name="agg-0") as two:
            assert (await two.agents("GET", "/readyz")).status == 503
        async with running(one_dir, has_database=False, fleet_url=url, node_name="agg-1") as one:
            assert (await one.agents("GET", "/readyz")).status == 200
    finally:
        server.start()


def _token(house: House, vm: str) -> bytes:
    return house.service._identities.keys.value.make(vm, 1).encode()


@pytest_twisted.ensureDeferred
async def test_a_name_that_another_runs_under_is_refused(url: str, tmp_path: Path) -> None:
    """On a data directory of its own it may not start; the one that runs is not disturbed."""
    clock = Clock()
    async with running(tmp_path / "one", clock, fleet_url=url, node_name="agg-1"):
        await reached(lambda: nodes(url, tmp_path))
        with pytest.raises(NodeNameTakenError, match="another aggregator runs as agg-1"):
            make_service(tmp_path / "two", Clock(NOW_S + 5.0), fleet_url=url, node_name="agg-1")
        assert nodes(url, tmp_path)["agg-1"].started_s == NOW_S


@pytest_twisted.ensureDeferred
async def test_row_35_draining_sends_vms_elsewhere_and_takes_what_comes(tmp_path: Path) -> None:
    """/readyz is 503 `draining`, pushes are stored, the row says so and a flush begins; it can be taken back."""
    async with running(tmp_path) as house:
        assert (await house.push("web-1", TS)).status == 204
        flushes = house.service._flusher.totals.flushes
        answer = await house.admin("POST", "/v1/drain")
        assert (answer.status, json.loads(answer.body)) == (200, {"state": "draining"})
        refused = await house.agents("GET", "/readyz")
        assert (refused.status, refused.reason) == (503, "draining")
        assert house.service.not_ready() is not None
        assert (await house.push("web-1", TS + 60)).status == 204
        await reached(lambda: house.service._flusher.totals.flushes > flushes)
        await reached(lambda: [one.state for one in nodes(None, tmp_path).values()] == [NodeState.DRAINING])
        figures = await house.metrics()
        assert (figures["fallow_draining"], figures["fallow_ready"]) == (1, 1)
        answer = await house.admin("POST", "/v1/undrain")
        assert (answer.status, json.loads(answer.body)) == (200, {"state": "up"})
        assert (await house.agents("GET", "/readyz")).status == 200
        await reached(lambda: [one.state for one in nodes(None, tmp_path).values()] == [NodeState.UP])
        assert (await house.admin("POST", "/v1/drain")).status == 200
    async with running(tmp_path) as house:
        assert (await house.agents("GET", "/readyz")).status == 200


@pytest_twisted.ensureDeferred
async def test_draining_from_the_shell(tmp_path: Path) -> None:
    """`drain` and `drain --undo` ask the aggregator that runs on the data directory."""

    def drain(*words: str) -> int:
        options = build_parser().parse_args(["drain", *words, "--data", str(tmp_path)])
        status: int = options.command(options)
        return status

    async with running(tmp_path) as house:
        me = house.service._fleet.me
        assert await deferToThread(drain) == 0
        assert (me.is_draining, me.is_leaving) == (True, False)
        assert await deferToThread(drain, "--for-good") == 0
        await reached(lambda: [one.is_leaving for one in nodes(None, tmp_path).values()] == [True])
        # Who says it again without the word does not take it back.
        assert await deferToThread(drain) == 0
        assert (me.is_draining, me.is_leaving) == (True, True)
        assert (await house.admin("POST", "/v1/drain?for_good=yes")).status == 422
        assert await deferToThread(drain, "--undo") == 0
        assert (me.is_draining, me.is_leaving) == (False, False)
        await reached(lambda: [one.is_leaving for one in nodes(None, tmp_path).values()] == [False])
    assert await deferToThread(drain) == 69
