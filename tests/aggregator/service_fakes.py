"""An aggregator in this process, on the reactor of the tests: real journal, stores, database and doors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from agent.settings import parse_host_port
from agent.wire import encode_batch, encode_sample
from aggregator.admission import Bound, Kind
from aggregator.catalogue import Catalogue, Labels
from aggregator.config import AggregatorConfig
from aggregator.fleet_db import open_fleet
from aggregator.service import ADMIN_ADDRESS_FILE, AGENTS_ADDRESS_FILE, AggregatorService
from tests.aggregator.door_fakes import sample

NOW_S = 1_790_000_000.0
ANY_PORT = ("127.0.0.1", 0)


class Answer(NamedTuple):
    """One response."""

    status: int
    body: bytes

    @property
    def reason(self) -> str:
        """Last part of a problem's type."""
        return str(json.loads(self.body)["type"]).rpartition(":")[2]


@dataclass
class FakeScheduler:
    """Notes its jobs; a test calls them."""

    running: bool = False
    jobs: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def add_job(self, call: Any, trigger: str, **options: Any) -> None:
        assert trigger == "interval"
        self.jobs.append((call, options))

    def start(self) -> None:
        self.running = True

    def shutdown(self, *, wait: bool) -> None:
        assert not wait
        self.running = False


@dataclass
class Clock:
    """Unix time under the test's hand."""

    now_s: float = NOW_S

    def __call__(self) -> float:
        return self.now_s


class House:
    """A running aggregator and the little that is needed to talk to it."""

    def __init__(
        self,
        data: Path,
        service: AggregatorService,
        scheduler: FakeScheduler,
        clock: Clock,
        fleet_url: str | None = None,
    ) -> None:
        self.data = data
        self.service = service
        self.scheduler = scheduler
        self.clock = clock
        self.fleet_url = fleet_url
        self.tokens: dict[str, str] = {}
        self.join_token = ""

    async def agents(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Asks the agents' door; `fallow_vm="x"` sets `Fallow-VM`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self._ask(AGENTS_ADDRESS_FILE, method, path, body, named)

    async def admin(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Asks the admin door, with the token unless there are other `headers`."""
        token = (self.data / "admin.token").read_text().strip()
        shown = {"Authorization": f"Bearer {token}"} if headers is None else headers
        return await self._ask(ADMIN_ADDRESS_FILE, method, path, b"", shown)

    async def enroll(self, vm: str) -> None:
        """Makes `vm` known; its pushes carry the new token from here on. As often as wanted: an admin means it."""
        body = json.dumps({"join_token": self.bound_token(vm), "vm": vm}).encode()
        answer = await self.agents("POST", "/v1/enroll", body, content_type="application/json")
        assert answer.status == 201, answer
        self.tokens[vm] = json.loads(answer.body)["token"]

    def bound_token(self, vm: str) -> str:
        """A new join token for exactly this VM."""
        engine = open_fleet(self.fleet_url, self.data)
        try:
            bound = Bound(Kind.VM, vm)
            labels = Labels(owner="team")
            return (
                Catalogue(engine).mint(now_s=self.clock.now_s, ttl_s=3600.0, uses=1, labels=labels, bound=bound).token
            )
        finally:
            engine.dispose()

    async def push(self, vm: str, *times: int, boot: str = "a", cpu: float = 0.03, body: bytes | None = None) -> Answer:
        """Pushes a sample for each time; enrols the VM at its first push."""
        if vm not in self.tokens:
            await self.enroll(vm)
        texts = [encode_sample(sample(ts, cpu_busy_ratio=cpu)) for ts in times]
        encoded = encode_batch(vm=vm, boot=boot, seq=1, sent_s=self.clock.now_s, interval_s=60, samples=texts)
        return await self.agents(
            "POST",
            "/v1/samples",
            encoded if body is None else body,
            authorization=f"Bearer {self.tokens[vm]}",
            fallow_vm=vm,
            content_type="application/json",
        )

    async def flush(self) -> dict[str, Any]:
        """Flushes, and says what came of it."""
        answer = await self.admin("POST", "/v1/flush")
        assert answer.status == 200, answer
        document: dict[str, Any] = json.loads(answer.body)
        return document

    async def metrics(self) -> dict[str, float]:
        """Every sample of `/metrics`; labels behind the name."""
        text = (await self.admin("GET", "/metrics")).body.decode()
        return {
            one.name + "".join(f"{{{value}}}" for value in one.labels.values()): one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
        }

    async def _ask(self, door: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        host, port = parse_host_port((self.data / door).read_text().strip())

        def ask() -> Answer:
            connection = HTTPConnection(host, port, timeout=60)
            try:
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
                return Answer(response.status, response.read())
            finally:
                connection.close()

        return await deferToThread(ask)


def make_service(data: Path, clock: Clock | None = None, **settings: Any) -> tuple[AggregatorService, FakeScheduler]:
    """An aggregator that has not started."""
    config = AggregatorConfig(data_dir=data, listen=ANY_PORT, admin=ANY_PORT, flush_workers=1, **settings)
    scheduler = FakeScheduler()
    made = AggregatorService(config, reactor=reactor, scheduler=scheduler, clock=clock or Clock(), descriptors=1_000)
    return made, scheduler


@asynccontextmanager
async def running(
    data: Path, clock: Clock | None = None, *, has_database: bool = True, **settings: Any
) -> AsyncIterator[House]:
    """An aggregator on `data` that is stopped at the end. Without its database it has no join token."""
    clock = clock or Clock()
    service, scheduler = make_service(data, clock, **settings)
    fleet_url = settings.get("fleet_url")
    house = House(data, service, scheduler, clock, fleet_url)
    if has_database:
        engine = open_fleet(fleet_url, data)
        labels = Labels(owner="team")
        house.join_token = Catalogue(engine).mint_join_token(now_s=clock.now_s, ttl_s=3600.0, uses=100, labels=labels)
        engine.dispose()
    try:
        await service.start()
        yield house
    finally:
        await service.stop()
