"""The pages' server on twisted.web: checks a request, lets a thread answer it, and writes what comes back.

The checks, in this order: the Host, the address, who asks, whether that one may, whether a page of ours asked. So an
address that does not exist is told to anybody, and what a form says is read for nobody who may not send it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from aggregator.admin_site import AdminSite
from aggregator.problems import Problem, Refused
from reports.people.events import What
from reports.people.gate import Gate
from reports.people.identity import Identity, Via
from reports.web.answers import Answer, Asked, Handler, json_answer, problem_answer, see_other
from reports.web.fleet_source import refusing
from reports.web.received import Received, header, receive
from reports.web.routes import PEOPLE_ROUTES, ROUTES, Found, Kind, MethodRefused, Route, Router, is_api
from reports.web.security import (
    CSRF_FIELD,
    CSRF_HEADER,
    HEADERS,
    HSTS,
    Csrf,
    Surface,
    check_csrf,
    check_origin,
    is_next_path,
)
from reports.web.static import StaticFile, StaticFiles

# More requests at once than a person's browser sends are turned away rather than kept waiting.
MAX_WAITING = 64
LOGIN_PATH = "/login"
_RETRY_S = 2
_FOR_GOOD = "public, max-age=31536000, immutable"
_READS = ("GET", "HEAD")
_WITH_DOCUMENT = ("POST", "PUT")

ErrorPage = Callable[[Problem, Asked], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorkeeper:
    """What decides who is let in.

    Attributes:
        gate: knows people.
        surface: how browsers reach this server.
        clock: Unix time in seconds.
        csrf: for the forms of those who are not logged in.
        on_refusal: told of each whose role did not go so far, with the address and the time, in a thread; as often as
            the gate writes it down (`Gate.note_once`), so that asking again fills no log.
    """

    gate: Gate
    surface: Surface
    clock: Callable[[], float]
    csrf: Csrf
    on_refusal: Callable[[Identity, Route, str, float], None] = lambda _who, _route, _address, _now_s: None


def make_site(
    handlers: Mapping[str, Handler],
    error_page: ErrorPage,
    static: StaticFiles,
    *,
    keeper: Doorkeeper,
    reactor: Any,
    threads: Any,
    routes: Sequence[Route] = ROUTES,
) -> Site:
    """Pages and their API as a factory to listen with.

    Args:
        handlers: by the names of `routes`, but for `static` and `healthz`; called in a thread, so they may block.
        error_page: shows a problem to a person; called in the reactor's thread too, as trouble has to be told while
            every thread waits. It must not block.
        keeper: decides who is let in.
        reactor: tells the time.
        threads: a started thread pool of Twisted.
        routes: each with the role that it needs.
    """
    site = AdminSite(_Door(handlers, error_page, static, keeper, routes, reactor, threads), reactor=reactor)
    site.noisy = False
    return site


class _Door(Resource):
    _log = Logger()

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        error_page: ErrorPage,
        static: StaticFiles,
        keeper: Doorkeeper,
        routes: Sequence[Route],
        reactor: Any,
        threads: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.isLeaf = True
        self._handlers = handlers
        self._error_page = error_page
        self._static = static
        self._keeper = keeper
        self._surface = keeper.surface
        self._reactor = reactor
        self._threads = threads
        self._router = Router(routes)
        self._waiting = 0

    def render(self, request: Request) -> int:
        """Answers later; the one who asked may be gone by then."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        answer = Deferred.fromCoroutine(self._answer(request, gone))
        answer.addCallback(lambda made: None if gone else _write(request, made, secure=self._surface.secure))
        answer.addErrback(self._failed, request, gone)
        return NOT_DONE_YET

    def _failed(self, failure: Failure, request: Any, gone: list[object]) -> None:
        self._log.failure("the pages' server could not answer", failure)
        if not gone:
            request.loseConnection()

    async def _answer(self, request: Request, gone: list[object]) -> Answer:
        received = receive(request, CSRF_HEADER, self._surface.proxies)
        asked = Asked(
            method=received.method,
            target=received.target,
            address=received.address,
            cookie=received.cookie,
            if_match=received.if_match,
            browser=self._keeper.csrf.cookie_of(received.cookie),
        )
        try:
            asked = replace(asked, origin=self._surface.check_host(received.host))
            found = self._router.find(asked.method, received.path)
            shows = self._keeper.gate.shows_something(received.cookie, received.authorization)
            if (answer := self._at_once(request, received, found, asked, shows)) is not None:
                return answer
            return await self._in_thread(partial(self._guarded, received, found, asked, shows), gone)
        except MethodRefused as refused:
            return self._problem(asked, refused.problem, received.path, {"Allow": ", ".join(refused.allowed)})
        except Refused as refused:
            return self._problem(asked, refused.problem, received.path)
        except Exception:
            # The boundary of a request: a bug costs this answer, not the server. One-time links stand in paths.
            self._log.failure("the pages' server failed")
            return self._problem(asked, Problem(500, "internal", "the server's log says more"), received.path)

    def _at_once(self, request: Request, received: Received, found: Found, asked: Asked, shows: bool) -> Answer | None:
        """What costs no thread: files, whether the server lives, and nobody, as can be seen without the database."""
        if found.route.name == "static":
            return self._file(request, found)
        if found.route.name == "healthz":
            return json_answer({"status": "ok"})
        return None if found.route.open or shows else self._unknown(received, found, asked)

    def _guarded(self, received: Received, found: Found, asked: Asked, shows: bool) -> Answer:
        """What a thread does: who asks, whether that one may, and the handler."""
        route, gate = found.route, self._keeper.gate
        if not route.open or (shows and route.kind is Kind.PAGE):
            who = refusing(
                lambda: gate.identify(received.cookie, received.authorization, self._keeper.clock()), again=True
            )
            asked = replace(asked, who=who, csrf="" if who is None else who.csrf_secret)
        if not route.open and asked.who is None:
            return self._unknown(received, found, asked)
        try:
            if asked.who is not None:
                self._check_role(asked.who, route, received)
            return self._handled(received, found, asked)
        except Refused as refused:
            # Here, and not where it is caught otherwise: the page says who is logged in.
            return self._problem(asked, refused.problem, received.path)

    def _check_role(self, who: Identity, route: Route, received: Received) -> None:
        """Raises: Refused, 403, written down: this one may not."""
        if route.role is None or who.role.covers(route.role):
            return
        detail = f"{route.method} {route.path} needs {route.role}, {who.account} is {who.role} by {who.via}"
        address, now_s = received.address, self._keeper.clock()
        gate, of = self._keeper.gate, f"{who.account} {route.method} {route.path}"
        if refusing(lambda: gate.note_once(who.account, What.REFUSED, detail, address, now_s, of=of), again=False):
            refusing(lambda: self._keeper.on_refusal(who, route, address, now_s), again=False)
        raise Refused(Problem(403, "role", f"this needs the role {route.role}, and you are {who.role} here"))

    def _handled(self, received: Received, found: Found, asked: Asked) -> Answer:
        route, csrf = found.route, self._keeper.csrf
        given = asked.browser or csrf.make_cookie()
        if route.open:
            asked = replace(asked, csrf=csrf.token(given), browser=given)
        form: Mapping[str, str] = {}
        document: object = None
        if route.method not in _READS:
            check_origin(received.origin, asked.origin, received.site)
            if route.kind is Kind.PAGE:
                form = received.form()
            self._check_csrf(received, form, route, asked.who)
            if route.kind is Kind.API and route.method in _WITH_DOCUMENT:
                document = received.document()
        answer = self._handlers[route.name](
            replace(asked, ids=found.ids, query=received.parameters(route.kind), form=form, document=document)
        )
        if asked.who is not None and route.method not in _READS and route not in PEOPLE_ROUTES:
            self._note_change(asked.who, route, found.ids, received, answer)
        if route.open and csrf.cookie_of(received.cookie) is None and "Set-Cookie" not in answer.headers:
            return _with_headers(answer, {"Set-Cookie": csrf.set_cookie(given, secure=self._surface.secure)})
        return answer

    def _note_change(self, who: Identity, route: Route, ids: Sequence[str], received: Received, answer: Answer) -> None:
        """Writes down that somebody changed something. Accounts do that themselves, in one transaction."""
        if answer.status >= HTTPStatus.BAD_REQUEST:
            return
        detail = " ".join((route.method, route.path, *ids))
        try:
            self._keeper.gate.note(who.account, What.CHANGED, detail, received.address, self._keeper.clock())
        except Exception:
            # It is done: the answer must say so.
            self._log.failure("a change could not be written down: {who} {detail}", who=who.account, detail=detail)

    def _check_csrf(self, received: Received, form: Mapping[str, str], route: Route, who: Identity | None) -> None:
        """Raises: Refused, 403: no page of ours asked for the change. A program with a token has no cookie to abuse."""
        given = received.csrf if route.kind is Kind.API else form.get(CSRF_FIELD, "")
        if route.open:
            self._keeper.csrf.check(self._keeper.csrf.cookie_of(received.cookie), given)
        elif who is None or who.via is not Via.API_TOKEN:
            check_csrf("" if who is None else who.csrf_secret, given)

    def _unknown(self, received: Received, found: Found, asked: Asked) -> Answer:
        """For nobody known: a person logs in first and comes back, a program is told how to."""
        if found.route.kind is Kind.PAGE and received.authorization is None:
            comes_back = asked.method in _READS and is_next_path(asked.target)
            return see_other(f"{LOGIN_PATH}?next={quote(asked.target, safe='')}" if comes_back else LOGIN_PATH)
        wrong = received.authorization is not None
        detail = "the token is wrong, over or revoked" if wrong else "an API token or a log-in is needed"
        challenge = 'Bearer realm="fallow"' + (', error="invalid_token"' if wrong else "")
        return self._problem(asked, Problem(401, "unknown", detail), received.path, {"WWW-Authenticate": challenge})

    def _problem(self, asked: Asked, problem: Problem, path: bytes, headers: Mapping[str, str] | None = None) -> Answer:
        if is_api(path):
            return problem_answer(problem, headers)
        try:
            made = self._error_page(problem, asked)
        except Exception:
            self._log.failure("the error page failed")
            return problem_answer(problem, headers)
        return _with_headers(made, headers or {})

    async def _in_thread(self, work: Callable[[], Answer], gone: list[object]) -> Answer:
        if self._waiting >= MAX_WAITING:
            raise Refused(Problem(503, "busy", "too many pages are being made at once", retry_after_s=_RETRY_S))

        def unless_gone() -> Answer:
            # Nobody waits for it any more: the thread is free for those who do.
            return Answer(status=204) if gone else work()

        self._waiting += 1
        try:
            answer: Answer = await deferToThreadPool(self._reactor, self._threads, unless_gone)
        finally:
            self._waiting -= 1
        return answer

    def _file(self, request: Request, found: Found) -> Answer:
        file = self._static.get(found.ids[0])
        if file is None:
            raise Refused(Problem(404, "not-found", "there is no such file"))
        headers = {"Cache-Control": _FOR_GOOD, "Vary": "Accept-Encoding"}
        if file.compressed is not None and _takes_gzip(request):
            return _file_answer(file, file.compressed, {**headers, "Content-Encoding": "gzip"})
        return _file_answer(file, file.body, headers)


def _file_answer(file: StaticFile, body: bytes, headers: Mapping[str, str]) -> Answer:
    return Answer(body=body, content_type=file.content_type, headers=headers)


def _takes_gzip(request: Request) -> bool:
    wanted = (header(request, b"accept-encoding") or "").replace(" ", "").split(",")
    return any(part.partition(";")[0] == "gzip" and not part.endswith(";q=0") for part in wanted)


def _with_headers(answer: Answer, headers: Mapping[str, str]) -> Answer:
    return replace(answer, headers={**answer.headers, **headers})


def _write(request: Any, answer: Answer, *, secure: bool) -> None:
    request.setResponseCode(answer.status)
    always = {"Server": "fallow", "Cache-Control": "no-store", **HEADERS, **(HSTS if secure else {})}
    for name, value in {**always, **answer.headers}.items():
        request.setHeader(name, value)
    if answer.status != HTTPStatus.NO_CONTENT:
        request.setHeader("Content-Type", answer.content_type)
        request.setHeader("Content-Length", str(len(answer.body)))
        request.write(answer.body)
    request.finish()
