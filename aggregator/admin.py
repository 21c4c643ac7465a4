"""The admin door on 8900: what it answers, built on twisted.web. openapi.json describes every route.

Every route but `/healthz` asks for the bearer token of the file `admin.token`.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hmac import compare_digest
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from agent.settings import ConfigError, read_secret
from agent.wire import is_vm_id
from aggregator.admin_site import AdminSite
from aggregator.catalogue import Catalogue, UnknownVmError, delete_store
from aggregator.downsample import between, bucket_means
from aggregator.problems import Problem, Refused
from aggregator.store_files import StoreError
from aggregator.tokens import create_secret

TOKEN_FILE_NAME = "admin.token"  # noqa: S105
MAX_SPAN_S = 400 * 86_400
MAX_SAMPLES = 50_000
MAX_VMS = 10_000
DEFAULT_VMS = 1_000
_DEFAULT_SPAN_S = 86_400
_MAX_TIME_S = 2**32 - 1  # a packed row's `ts`
_MIN_TOKEN_CHARS = 16

T = TypeVar("T")
Query = Mapping[str, str]


@dataclass(frozen=True)
class AdminSources:
    """What the door shows and does.

    Attributes:
        live: since_s → one mapping per VM seen since: `vm`, `last_seen_s`, `skew_s`, `flags`, `samples` (the last 10).
            Called in any thread.
        samples: (vm, from_s, to_s) → samples of the wire with from_s ≤ ts ≤ to_s, store and buffer merged. Blocks;
            called in any thread.
        flush: all_figures → starts a flush, or waits for the one that runs; fires with what it did. This and what
            follows is called in the reactor's thread.
        metrics: the Prometheus text.
        store_path: where a VM's store lies.
        forgotten: told of a VM that was forgotten, before its store is deleted: what memory holds of it goes too.
    """

    catalogue: Catalogue
    live: Callable[[float], list[dict[str, object]]]
    samples: Callable[[str, int, int], list[dict[str, object]]]
    flush: Callable[[bool], Deferred[Mapping[str, object]]]
    metrics: Callable[[], bytes]
    store_path: Callable[[str], Path]
    forgotten: Callable[[str], None] = lambda _vm: None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a route answers."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path; `{vm}` stands for an id. `is_open`: needs no token."""

    method: str
    path: str
    name: str
    is_open: bool = False


ROUTES: tuple[Route, ...] = (
    Route("GET", "/healthz", "healthz", is_open=True),
    Route("GET", "/metrics", "metrics"),
    Route("GET", "/openapi.json", "openapi"),
    Route("GET", "/v1/vms", "vms"),
    Route("GET", "/v1/vms/{vm}", "vm"),
    Route("DELETE", "/v1/vms/{vm}", "forget"),
    Route("GET", "/v1/vms/{vm}/samples", "samples"),
    Route("GET", "/v1/live", "live"),
    Route("POST", "/v1/flush", "flush"),
)


def load_or_create_admin_token(path: Path) -> str:
    """The token of the file at `path`, which is made with mode 0600 where there is none.

    Raises: ConfigError: readable by others, unreadable, empty or shorter than 16 characters.
    """
    if not path.exists():
        create_secret(path, f"{secrets.token_urlsafe(32)}\n")
    token = read_secret(path)
    if len(token) < _MIN_TOKEN_CHARS or not token.isascii():
        raise ConfigError(f"{path}: is not at least {_MIN_TOKEN_CHARS} ASCII characters")
    return token


def make_admin_site(sources: AdminSources, *, token: str, reactor: Any) -> Site:
    """The door as a factory to listen with. `reactor` tells the time and runs blocking work in its thread pool."""
    return AdminSite(_Door(_Routes(sources, reactor), token), reactor=reactor)


class _Routes:
    """The routes: query → Answer, or Refused."""

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
            raise _wrong(f"after: {after[:80]!r} is not a VM id")

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
        to_s = _whole(query, "to", int(self._reactor.seconds()), 0, _MAX_TIME_S)
        from_s = _whole(query, "from", max(to_s - _DEFAULT_SPAN_S, 0), 0, _MAX_TIME_S)
        step_s = _whole(query, "step", 0, 1, MAX_SPAN_S)
        if from_s >= to_s:
            raise _wrong(f"from: {from_s} is not before to, {to_s}")
        if to_s - from_s > MAX_SPAN_S:
            raise _wrong(f"from: the span to {to_s} is over {MAX_SPAN_S // 86_400} days")

        def read() -> bytes:
            catalogue, fetch = self._sources.catalogue, partial(self._sources.samples, vm_id)
            if catalogue.vm(vm_id) is None:
                raise _unknown(vm_id)
            found: Iterable[Mapping[str, object]] = between(fetch, from_s, to_s)
            rows = list(islice(bucket_means(found, step_s) if step_s else found, MAX_SAMPLES + 1))
            if len(rows) > MAX_SAMPLES:
                raise _wrong(f"step: the answer would hold more than {MAX_SAMPLES}; ask for a longer step or less time")
            head = msgspec.json.encode({"vm": vm_id, "from_s": from_s, "to_s": to_s, "step_s": step_s or None})
            return b'%b,"samples":%b}' % (head[:-1], _json_list(rows))

        return Answer(200, await self._in_thread(read))

    async def forget(self, query: Query, vm_id: str) -> Answer:
        _check_names(query)
        catalogue, now_s = self._sources.catalogue, self._reactor.seconds()
        try:
            await self._in_thread(lambda: catalogue.forget(vm_id, now_s=now_s))
        except UnknownVmError as error:
            raise _unknown(vm_id) from error
        self._sources.forgotten(vm_id)
        await self._in_thread(lambda: delete_store(self._sources.store_path(vm_id)))
        return Answer(204)

    async def live(self, query: Query) -> Answer:
        _check_names(query, "since")
        now_s = self._reactor.seconds()
        since_s = _whole(query, "since", 0, 0, _MAX_TIME_S)

        def encode() -> bytes:
            vms = self._sources.live(since_s)
            return b'{"now_s": %b, "vms": %b}' % (msgspec.json.encode(now_s), _json_list(vms))

        return Answer(200, await self._in_thread(encode))

    async def flush(self, query: Query) -> Answer:
        _check_names(query, "figures")
        wanted = query.get("figures", "all")
        if wanted not in ("all", "due"):
            raise _wrong(f"figures: {wanted[:100]!r} is neither all nor due")
        return Answer(200, msgspec.json.encode(await self._sources.flush(wanted == "all")))

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)


class _Door(Resource):
    """Finds the route, checks the token, and turns whatever comes back into an answer."""

    _log = Logger()

    def __init__(self, routes: _Routes, token: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.isLeaf = True
        self._token = token.encode()
        self._routes = [(route, route.path.strip("/").split("/"), getattr(routes, route.name)) for route in ROUTES]

    def render(self, request: Request) -> int:
        """Answers later, with a problem document where it must; `request` may be gone by then."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        answer = Deferred.fromCoroutine(self._answer(request))
        answer.addCallback(lambda made: None if gone else _write(request, made))
        answer.addErrback(lambda failure: self._log.failure("the admin door could not write", failure))
        return NOT_DONE_YET

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._dispatch(request)
        except _MethodRefused as refused:
            return _problem(refused.problem, {"Allow": ", ".join(refused.allowed)})
        except Refused as refused:
            return _problem(refused.problem)
        except StoreError as error:
            self._log.warn("a store cannot be read: {error}", error=error)
            return _problem(Problem(500, "store-unreadable", "the store of this VM cannot be read"))
        except Exception:
            # The boundary of a request: a bug costs this answer, not the door.
            self._log.failure("the admin door failed at {path}", path=request.path)
            return _problem(Problem(500, "internal", "the aggregator's log says more"))

    def _dispatch(self, request: Request) -> Awaitable[Answer]:
        segments = [_decode(unquote_to_bytes(part)) for part in request.path.strip(b"/").split(b"/")]
        method = request.method.decode("latin-1")
        matches = [found for found in self._routes if _matches(found[1], segments)]
        if not any(route.is_open for route, _, _ in matches):
            self._check_token(request)
        if not matches:
            raise Refused(Problem(404, "not-found", "no such path; /openapi.json lists them"))
        for route, pattern, answer in matches:
            if route.method == ("GET" if method == "HEAD" else method):
                ids = [given for name, given in zip(pattern, segments, strict=True) if name == "{vm}"]
                if not all(map(is_vm_id, ids)):
                    raise _wrong(f"vm: {ids[0][:80]!r} is not a VM id")
                made: Awaitable[Answer] = answer(_query(request.args), *ids)
                return made
        allowed = sorted({route.method for route, _, _ in matches})
        raise _MethodRefused(allowed + ["HEAD"] * ("GET" in allowed))

    def _check_token(self, request: Request) -> None:
        scheme, _, given = (request.getHeader(b"authorization") or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not compare_digest(given.strip(), self._token):
            raise Refused(Problem(401, "no-token", "Authorization: Bearer with the text of admin.token is required"))


class _MethodRefused(Refused):
    def __init__(self, allowed: list[str]) -> None:
        super().__init__(Problem(405, "method", f"only {', '.join(allowed)} here"))
        self.allowed = allowed


def _matches(pattern: list[str], segments: list[str]) -> bool:
    return len(pattern) == len(segments) and all(
        name in {"{vm}", given} for name, given in zip(pattern, segments, strict=True)
    )


def _decode(part: bytes) -> str:
    # A byte that is not UTF-8 becomes a character no path and no id holds.
    return part.decode("utf-8", "replace")


def _query(args: Mapping[bytes, list[bytes]]) -> Query:
    query = {}
    for name, values in args.items():
        if len(values) > 1:
            raise _wrong(f"{_decode(name)[:80]}: stands twice")
        query[_decode(name)] = _decode(values[0])
    return query


def _check_names(query: Query, *known: str) -> None:
    for name in query:
        if name not in known:
            raise _wrong(f"{name[:80]!r} is not a parameter here (parameters: {', '.join(known) or 'none'})")


def _whole(query: Query, name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise _wrong(f"{name}: {text[:80]!r} is not a whole number from {least} to {most}")
    return int(text)


def _json_list(items: Iterable[object]) -> bytes:
    # One by one: the encoder keeps the interpreter to itself while it runs, and the reactor needs its turns.
    return b"[%b]" % b",".join(msgspec.json.encode(item) for item in items)


def _wrong(detail: str) -> Refused:
    return Refused(Problem(422, "invalid", detail))


def _unknown(vm_id: str) -> Refused:
    return Refused(Problem(404, "unknown-vm", f"{vm_id}: no such VM"))


def _problem(problem: Problem, headers: Mapping[str, str] | None = None) -> Answer:
    added = dict(headers or {})
    if problem.status == 401:
        added["WWW-Authenticate"] = "Bearer"
    if problem.retry_after_s is not None:
        added["Retry-After"] = str(problem.retry_after_s)
    return Answer(problem.status, problem.body(), "application/problem+json", added)


def _write(request: Any, answer: Answer) -> None:
    request.setResponseCode(answer.status)
    for name, value in {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **answer.headers}.items():
        request.setHeader(name, value)
    if answer.status != 204:
        request.setHeader("Content-Type", answer.content_type)
        request.setHeader("Content-Length", str(len(answer.body)))
        request.write(answer.body)
    request.finish()
