"""The admin door on 8900, built on twisted.web: who may ask, which route answers, and errors as problem documents.

Every route but `/healthz` asks for the bearer token of the file `admin.token`. Other programs of the fleet may show a
proof instead (`aggregator.node_proof`), which gives them the routes that they need and is answered with one.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from agent.settings import ConfigError, read_secret
from agent.wire import is_vm_id
from aggregator.admin_routes import ROUTES, AdminSources, Answer, Query, Routes, wrong
from aggregator.admin_site import AdminSite
from aggregator.node_proof import ANSWER_HEADER, FOR_HEADER, SCHEME, Proof, Question, Said, answer_text, hash_body
from aggregator.problems import Problem, Refused
from aggregator.proof_check import ProofCheck
from aggregator.store_files import StoreError
from aggregator.tokens import create_secret

TOKEN_FILE_NAME = "admin.token"  # noqa: S105
_MIN_TOKEN_CHARS = 16
# Of more, the reactor hashes none itself: a tenth of a second for the largest store.
_HASHED_AT_ONCE_BYTES: Final = 256 << 10


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


def make_admin_site(sources: AdminSources, *, token: str, reactor: Any, proofs: ProofCheck | None = None) -> AdminSite:
    """The door as a factory to listen with.

    Args:
        reactor: times out the slow and runs blocking work in its threads.
        proofs: judges those of other programs of the fleet; None: no proof is taken.
    """
    return AdminSite(_Door(Routes(sources, reactor), token, proofs, reactor), reactor=reactor)


class _Door(Resource):
    """Finds the route, checks the token, and turns whatever comes back into an answer."""

    _log = Logger()

    def __init__(self, routes: Routes, token: str, proofs: ProofCheck | None, reactor: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.isLeaf = True
        self._token = token.encode()
        self._proofs = proofs
        self._reactor = reactor
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
        accepted: list[Proof] = []
        answer = await self._unproved(request, accepted)
        if self._proofs is None or not accepted:
            return answer
        body_hash = await self._hash(answer.body)
        said = Said(answer.status, answer.headers.get("ETag", ""), body_hash)
        proof = answer_text(self._proofs.key, accepted[0], said)
        return replace(answer, headers={**answer.headers, ANSWER_HEADER: proof})

    async def _unproved(self, request: Request, accepted: list[Proof]) -> Answer:
        """The answer; what it needs to prove goes into `accepted`: the proof that the one who asks has the token."""
        try:
            return await self._dispatch(request, accepted)
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

    def _dispatch(self, request: Request, accepted: list[Proof]) -> Awaitable[Answer]:
        segments = [_decode(unquote_to_bytes(part)) for part in request.path.strip(b"/").split(b"/")]
        method = request.method.decode("latin-1")
        matches = [found for found in self._routes if _matches(found[1], segments)]
        if not any(route.is_open for route, _, _ in matches):
            self._check_asker(request, accepted)
        if not matches:
            raise Refused(Problem(404, "not-found", "no such path; /openapi.json lists them"))
        for route, pattern, answer in matches:
            if route.method == ("GET" if method == "HEAD" else method):
                ids = [given for name, given in zip(pattern, segments, strict=True) if name == "{vm}"]
                if accepted and not route.for_nodes:
                    raise Refused(Problem(403, "not-by-proof", "a proof gives no more than nodes need of each other"))
                if not all(map(is_vm_id, ids)):
                    raise wrong(f"vm: {ids[0][:80]!r} is not a VM id")
                tag = [request.getHeader("if-match") or ""] if route.is_conditional else []
                made: Awaitable[Answer] = answer(_query(request.args), *ids, *tag)
                return made
        allowed = sorted({route.method for route, _, _ in matches})
        raise _MethodRefused(allowed + ["HEAD"] * ("GET" in allowed))

    def _check_asker(self, request: Request, accepted: list[Proof]) -> None:
        scheme, _, given = _header(request, b"authorization").partition(b" ")
        if self._proofs is not None and scheme.lower() == SCHEME.lower().encode():
            proof = self._proofs.authentic(
                given.strip().decode("latin-1"),
                _header(request, FOR_HEADER.encode()).decode("latin-1"),
                lambda node, url: _question(request, node, url),
            )
            # From here on the refusals prove that they are this node's too.
            accepted.append(proof)
            self._proofs.check_once(proof)
        elif scheme.lower() != b"bearer" or not compare_digest(given.strip(), self._token):
            raise Refused(Problem(401, "no-token", "Authorization: Bearer with the text of admin.token is required"))

    async def _hash(self, body: bytes) -> bytes:
        if len(body) <= _HASHED_AT_ONCE_BYTES:
            return hash_body(body)
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), lambda: hash_body(body))


class _MethodRefused(Refused):
    def __init__(self, allowed: list[str]) -> None:
        super().__init__(Problem(405, "method", f"only {', '.join(allowed)} here"))
        self.allowed = allowed


def _header(request: Request, name: bytes) -> bytes:
    found: bytes | None = request.getHeader(name)
    return found or b""


def _question(request: Any, node: str, url: str) -> Question:
    request.content.seek(0)
    return Question(
        node=node,
        url=url,
        method=request.method.decode("latin-1"),
        target=request.uri.decode("latin-1"),
        if_match=_header(request, b"if-match").decode("latin-1"),
        body=request.content.read(),
    )


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
            raise wrong(f"{_decode(name)[:80]}: stands twice")
        query[_decode(name)] = _decode(values[0])
    return query


def _problem(problem: Problem, headers: Mapping[str, str] | None = None) -> Answer:
    added = dict(headers or {})
    if problem.status == 401:
        added["WWW-Authenticate"] = "Bearer"
    if problem.retry_after_s is not None:
        added["Retry-After"] = str(problem.retry_after_s)
    return Answer(problem.status, problem.body(), "application/problem+json", added)


def _write(request: Any, answer: Answer) -> None:
    request.setResponseCode(answer.status)
    for name, value in answer.headers.items():
        request.setHeader(name, value)
    if answer.status != 204:
        request.setHeader("Content-Type", answer.content_type)
        request.setHeader("Content-Length", str(len(answer.body)))
        request.write(answer.body)
    request.finish()
