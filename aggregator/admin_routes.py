"""What the admin door answers, route by route: query → Answer, or Refused. openapi.json describes every route."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from agent.wire import is_vm_id
from aggregator.catalogue import Catalogue, UnknownVmError
from aggregator.downsample import between, bucket_means
from aggregator.own_node import Drain
from aggregator.part_file import StorePart
from aggregator.problems import Problem, Refused
from aggregator.series import DEFAULT_POINTS, MAX_POINTS, MIN_POINTS, Span
from aggregator.store_series import read_series

MAX_SPAN_S = 400 * 86_400
MAX_SAMPLES = 50_000
MAX_VMS = 10_000
DEFAULT_VMS = 1_000
_DEFAULT_SPAN_S = 86_400
_MAX_TIME_S = 2**32 - 1  # a packed row's `ts`

_ETAG = re.compile(r'"([0-9a-f]{32})"')

T = TypeVar("T")
Query = Mapping[str, str]


class Live(Protocol):
    """VMs in memory, by id; `vm` alone, or those above `after`, at most `limit` of them."""

    def __call__(
        self, since_s: float, *, vm: str | None = None, after: str = "", limit: int | None = None
    ) -> list[dict[str, object]]: ...


class PartSource(Protocol):
    """See `giver.Giver`. Raises Refused."""

    async def read(self, vm_id: str, node: str) -> StorePart: ...
    async def drop(self, vm_id: str, node: str, mark: str) -> None: ...


@dataclass(frozen=True)
class AdminSources:
    """What the door shows and does.

    Attributes:
        live: (since_s, vm=, after=, limit=) → one mapping per VM seen since, by id: `vm`, `last_seen_s`, `skew_s`,
            `flags`, `boot`, `samples` (the last 10). Called in any thread.
        samples: (vm, from_s, to_s) → samples of the wire with from_s ≤ ts ≤ to_s, store and buffer merged. Blocks;
            called in any thread.
        buffered: vm → samples of the wire in memory, with `interval_s`: all that its store may lack. Any thread.
        flush: all_figures → starts a flush, or waits for the one that runs; fires with what it did. This and what
            follows is called in the reactor's thread.
        metrics: the Prometheus text.
        clock: Unix seconds. The reactor's own time only measures how long things take.
        store_path: where a VM's store lies.
        forgotten: (vm, life) → drops what is held here of a VM's lives before this one; fires with whether its store is
            gone: else that is tried again.
        drain: has VMs sent elsewhere, and begins a flush; or takes that back.
        parts: gives the stores of VMs whose home is another node; None: this aggregator gives none.
    """

    catalogue: Catalogue
    live: Live
    samples: Callable[[str, int, int], list[dict[str, object]]]
    buffered: Callable[[str], Iterable[Mapping[str, float | int | None]]]
    flush: Callable[[bool], Deferred[Mapping[str, object]]]
    metrics: Callable[[], bytes]
    clock: Callable[[], float]
    store_path: Callable[[str], Path]
    forgotten: Callable[[str, int], Deferred[bool]]
    drain: Callable[[Drain], None] = lambda _wanted: None
    parts: PartSource | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answers."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path; `{vm}` stands for an id.

    Attributes:
        is_open: needs no token.
        is_conditional: acts on what `If-Match` names alone.
        for_nodes: other programs of the fleet may ask it with a proof instead of the token.
    """

    method: str
    path: str
    name: str
    is_open: bool = False
    is_conditional: bool = False
    for_nodes: bool = False


ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", "healthz", is_open=True),
    Route("GET", "/metrics", "metrics", for_nodes=True),
    Route("GET", "/openapi.json", "openapi"),
    Route("GET", "/v1/vms", "vms"),
    Route("GET", "/v1/vms/{vm}", "vm"),
    Route("DELETE", "/v1/vms/{vm}", "forget"),
    Route("GET", "/v1/vms/{vm}/samples", "samples"),
    Route("GET", "/v1/vms/{vm}/series", "series", for_nodes=True),
    Route("GET", "/v1/vms/{vm}/part", "part", for_nodes=True),
    Route("DELETE", "/v1/vms/{vm}/part", "drop_part", is_conditional=True, for_nodes=True),
    Route("GET", "/v1/live", "live", for_nodes=True),
    Route("POST", "/v1/flush", "flush"),
    Route("POST", "/v1/drain", "drain"),
    Route("POST", "/v1/undrain", "undrain"),
)


class Routes:
    """The routes by name.

    Args: reactor: runs blocking work in its thread pool.
    """

    def __init__(self, sources: AdminSources, reactor: Any) -> None:
        self._sources = sources
        self._reactor = reactor
        self._openapi = files("aggregator").joinpath("openapi.json").read_bytes()

    async def healthz(self, _query: Query) -> Answer:
        return Answer(200, b'{"status": "ok"}')

    async def metrics(self, _query: Query) -> Answer:
        return Answer(200, self._sources.metrics(), CONTENT_TYPE_LATEST)

    async def openapi(self, _query: Query) -> Answer:
        return Answer(200, self._openapi)

    async def vms(self, query: Query) -> Answer:
        _check_names(query, "limit", "after")
        limit = _whole(query, "limit", DEFAULT_VMS, 1, MAX_VMS)
        after = query.get("after", "")
        if after and not is_vm_id(after):
            raise wrong(f"after: {after[:80]!r} is not a VM id")

        def read() -> bytes:
            records = self._sources.catalogue.vms(after=after, limit=limit + 1)
            following = records[limit - 1].vm if len(records) > limit else None
            return b'{"vms": %b, "next": %b}' % (_json_list(records[:limit]), msgspec.json.encode(following))

        return Answer(200, await self._in_thread(read))

    async def vm(self, query: Query, vm_id: str) -> Answer:
        _check_names(query)
        record = await self._in_thread(lambda: self._sources.catalogue.vm(vm_id))
        if record is None:
            raise _unknown(vm_id)
        return Answer(200, msgspec.json.encode(record))

    async def samples(self, query: Query, vm_id: str) -> Answer:
        _check_names(query, "from", "to", "step")
        step_s = _whole(query, "step", 0, 1, MAX_SPAN_S)
        from_s, to_s = self._span(query)

        def read() -> bytes:
            self._check_known(vm_id)
            fetch = partial(self._sources.samples, vm_id)
            found: Iterable[Mapping[str, object]] = between(fetch, from_s, to_s)
            rows = list(islice(bucket_means(found, step_s) if step_s else found, MAX_SAMPLES + 1))
            if len(rows) > MAX_SAMPLES:
                raise wrong(f"step: the answer would hold more than {MAX_SAMPLES}; ask for a longer step or less time")
            head = msgspec.json.encode({"vm": vm_id, "from_s": from_s, "to_s": to_s, "step_s": step_s or None})
            return b'%b,"samples":%b}' % (head[:-1], _json_list(rows))

        return Answer(200, await self._in_thread(read))

    async def series(self, query: Query, vm_id: str) -> Answer:
        _check_names(query, "from", "to", "points")
        points = _whole(query, "points", DEFAULT_POINTS, MIN_POINTS, MAX_POINTS)
        from_s, to_s = self._span(query)
        span = Span(from_s=from_s, to_s=to_s, points=points)

        def read() -> bytes:
            self._check_known(vm_id)
            # Memory first: what leaves it meanwhile is in the store by then.
            buffered = list(self._sources.buffered(vm_id))
            found = read_series(self._sources.store_path(vm_id), vm_id, span, buffered)
            return msgspec.json.encode(found.document())

        return Answer(200, await self._in_thread(read))

    async def forget(self, query: Query, vm_id: str) -> Answer:
        _check_names(query)
        catalogue, now_s = self._sources.catalogue, self._sources.clock()
        try:
            life = await self._in_thread(lambda: catalogue.forget(vm_id, now_s=now_s))
        except UnknownVmError as error:
            raise _unknown(vm_id) from error
        if await self._sources.forgotten(vm_id, life):
            return Answer(204)
        problem = "its store here could not be deleted: the log says why, and it is tried again"
        return Answer(202, msgspec.json.encode({"vm": vm_id, "problem": problem}))

    async def part(self, query: Query, vm_id: str) -> Answer:
        found = await self._parts().read(vm_id, _node(query))
        return Answer(200, found.body, "application/vnd.sqlite3", {"ETag": f'"{found.mark}"'})

    async def drop_part(self, query: Query, vm_id: str, if_match: str) -> Answer:
        node = _node(query)
        match = _ETAG.fullmatch(if_match)
        if match is None:
            raise Refused(Problem(428, "no-etag", "If-Match with the ETag of the part that was taken in is required"))
        await self._parts().drop(vm_id, node, match[1])
        return Answer(204)

    async def live(self, query: Query) -> Answer:
        _check_names(query, "since", "vm", "after", "limit")
        now_s = self._sources.clock()
        since_s = _whole(query, "since", 0, 0, _MAX_TIME_S)
        limit = _whole(query, "limit", MAX_VMS, 1, MAX_VMS) if "limit" in query else None
        vm, after = query.get("vm"), query.get("after", "")
        for name, vm_id in (("vm", vm), ("after", after)):
            if vm_id and not is_vm_id(vm_id):
                raise wrong(f"{name}: {vm_id[:80]!r} is not a VM id")

        def encode() -> bytes:
            vms = self._sources.live(since_s, vm=vm, after=after, limit=None if limit is None else limit + 1)
            more = limit is not None and len(vms) > limit
            following = vms[limit - 1]["vm"] if limit is not None and more else None
            head = b'{"now_s": %b, "next": %b' % (msgspec.json.encode(now_s), msgspec.json.encode(following))
            return b'%b, "vms": %b}' % (head, _json_list(vms[:limit]))

        return Answer(200, await self._in_thread(encode))

    async def flush(self, query: Query) -> Answer:
        _check_names(query, "figures")
        wanted = query.get("figures", "all")
        if wanted not in ("all", "due"):
            raise wrong(f"figures: {wanted[:100]!r} is neither all nor due")
        return Answer(200, msgspec.json.encode(await self._sources.flush(wanted == "all")))

    async def drain(self, query: Query) -> Answer:
        _check_names(query, "for_good")
        wanted = query.get("for_good", "0")
        if wanted not in ("0", "1"):
            raise wrong(f"for_good: {wanted[:100]!r} is neither 0 nor 1")
        self._sources.drain(Drain.FOR_GOOD if wanted == "1" else Drain.WANTED)
        return Answer(200, b'{"state": "draining"}')

    async def undrain(self, query: Query) -> Answer:
        _check_names(query)
        self._sources.drain(Drain.UNDONE)
        return Answer(200, b'{"state": "up"}')

    def _span(self, query: Query) -> tuple[int, int]:
        to_s = _whole(query, "to", int(self._sources.clock()), 0, _MAX_TIME_S)
        from_s = _whole(query, "from", max(to_s - _DEFAULT_SPAN_S, 0), 0, _MAX_TIME_S)
        if from_s >= to_s:
            raise wrong(f"from: {from_s} is not before to, {to_s}")
        if to_s - from_s > MAX_SPAN_S:
            raise wrong(f"from: the span to {to_s} is over {MAX_SPAN_S // 86_400} days")
        return from_s, to_s

    def _parts(self) -> PartSource:
        if self._sources.parts is None:
            raise Refused(Problem(404, "not-found", "this aggregator gives no parts of histories"))
        return self._sources.parts

    def _check_known(self, vm_id: str) -> None:
        if self._sources.catalogue.vm(vm_id) is None:
            raise _unknown(vm_id)

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)


def _node(query: Query) -> str:
    _check_names(query, "node")
    if "node" not in query:
        raise wrong("node: the name of the aggregator that is meant is required")
    return query["node"]


def _check_names(query: Query, *known: str) -> None:
    for name in query:
        if name not in known:
            raise wrong(f"{name[:80]!r} is not a parameter here (parameters: {', '.join(known) or 'none'})")


def _whole(query: Query, name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise wrong(f"{name}: {text[:80]!r} is not a whole number from {least} to {most}")
    return int(text)


def _json_list(items: Iterable[object]) -> bytes:
    # One by one: the encoder keeps the interpreter to itself while it runs, and the reactor needs its turns.
    return b"[%b]" % b",".join(msgspec.json.encode(item) for item in items)


def wrong(detail: str) -> Refused:
    """The answer to a request that is well-formed and asks for what cannot be."""
    return Refused(Problem(422, "invalid", detail))


def _unknown(vm_id: str) -> Refused:
    return Refused(Problem(404, "unknown-vm", f"{vm_id}: no such VM"))
