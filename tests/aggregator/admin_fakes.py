"""The admin door over fakes, spoken to through a transport in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from aggregator.admin import make_admin_site
from aggregator.admin_routes import AdminSources, PartSource
from aggregator.catalogue import Catalogue
from aggregator.proof_check import ProofCheck

TOKEN = "0123456789abcdef"
NOW_S = 1_790_000_000
AUTHORISED = f"Authorization: Bearer {TOKEN}"


# Twisted's own are not typed.
new_transport: Any = StringTransport
new_failure: Any = Failure


@dataclass
class Me:
    """The node whose door it is."""

    name: str = "agg-1"
    admin_url: str | None = "http://127.0.0.1:8900"


class InlineReactor(Clock):
    """A clock whose thread pool works at once, in the thread that asks."""

    def getThreadPool(self) -> InlineReactor:
        return self

    def callInThreadWithCallback(self, on_result: Callable[..., object], work: Callable[[], object]) -> None:
        try:
            result = work()
        except Exception:
            on_result(False, new_failure())
        else:
            on_result(True, result)

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        call(*args)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class House:
    """The door over fakes, spoken to through a transport in memory."""

    data_dir: Path
    catalogue: Catalogue
    clock: InlineReactor = field(default_factory=InlineReactor)
    samples: list[dict[str, object]] = field(default_factory=list)
    buffered: list[dict[str, float | int | None]] = field(default_factory=list)
    fetched: list[tuple[str, int, int]] = field(default_factory=list)
    since: list[float] = field(default_factory=list)
    pages: list[dict[str, object]] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    store_stays: bool = False
    flush: Callable[[], Deferred[Mapping[str, object]]] = lambda: succeed({"vms": 3})
    failure: Exception | None = None
    parts: PartSource | None = None

    def __post_init__(self) -> None:
        # As in the daemon: the reactor counts from anywhere.
        self.clock.advance(5.0)
        self.sources = AdminSources(
            catalogue=self.catalogue,
            live=self._live,
            samples=self._samples,
            buffered=lambda _vm_id: self.buffered,
            flush=self._flush,
            metrics=lambda: b"fallow_pushes_total 1.0\n",
            clock=lambda: NOW_S,
            store_path=lambda vm_id: self.data_dir / f"{vm_id}.db",
            forgotten=self._forgotten,
            parts=self.parts,
        )
        proofs = ProofCheck(TOKEN, me=Me(), clock=lambda: NOW_S)
        self.site = make_admin_site(self.sources, token=TOKEN, reactor=self.clock, proofs=proofs)

    def _forgotten(self, vm_id: str, life: int) -> Deferred[bool]:
        self.forgotten.append(vm_id)
        assert life > 0
        return succeed(not self.store_stays)

    def _flush(self, _all_figures: bool) -> Deferred[Mapping[str, object]]:
        return self.flush()

    def _live(self, since_s: float, **page: object) -> list[dict[str, object]]:
        self.since.append(since_s)
        self.pages.append(page)
        return [{"vm": "a", "last_seen_s": 5.0, "skew_s": 0.1, "flags": [], "samples": []}]

    def _samples(self, vm_id: str, from_s: int, to_s: int) -> list[dict[str, object]]:
        self.fetched.append((vm_id, from_s, to_s))
        if self.failure is not None:
            raise self.failure
        return [sample for sample in self.samples if from_s <= int(str(sample["ts"])) <= to_s]

    def connect(self) -> tuple[Any, Any]:
        """A new connection: its protocol and its transport."""
        site: Any = self.site
        channel, transport = site.buildProtocol(None), new_transport()
        channel.makeConnection(transport)
        return channel, transport

    def ask(self, method: str, target: str, *headers: str, body: bytes = b"") -> Answer:
        """One request with the token, unless `headers` has an Authorization."""
        if not any(header.lower().startswith("authorization") for header in headers):
            headers = (*headers, AUTHORISED)
        if body:
            headers = (*headers, f"Content-Length: {len(body)}")
        head = "\r\n".join((f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", *headers))
        channel, transport = self.connect()
        channel.dataReceived(head.encode("latin-1") + b"\r\n\r\n" + body)
        return parse(transport.value())


def parse(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert headers.get("transfer-encoding") is None
    return Answer(int(first.split()[1]), headers, body)
