"""The pages' server on twisted.web: checks a request, lets a thread answer it, and writes what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from aggregator.admin_site import AdminSite
from aggregator.problems import Problem, Refused
from reports.web.answers import Answer, Asked, Handler, problem_answer, wrong
from reports.web.routes import Found, Kind, MethodRefused, Router, is_api
from reports.web.security import CSRF_FIELD, HEADERS, Csrf, check_host, check_origin
from reports.web.static import StaticFile, StaticFiles

# More requests at once than a person's browser sends are turned away rather than kept waiting.
MAX_WAITING = 64
_RETRY_S = 2
_MAX_FIELDS = 100
_FORM = "application/x-www-form-urlencoded"
_FOR_GOOD = "public, max-age=31536000, immutable"


def make_site(
    handlers: Mapping[str, Handler],
    error_page: Callable[[Problem, Asked], Answer],
    static: StaticFiles,
    *,
    reactor: Any,
    threads: Any,
    csrf: Csrf | None = None,
) -> Site:
    """The pages as a factory to listen with.

    Args:
        handlers: by the names of `reports.web.routes.ROUTES`, but for `static`; called in a thread, so they may block.
        error_page: shows a problem to a person; called in the reactor's thread, as trouble has to be told while every
            thread waits. It must not block.
        reactor: tells the time.
        threads: a started thread pool of Twisted.
    """
    site = AdminSite(_Door(handlers, error_page, static, csrf or Csrf(), reactor, threads), reactor=reactor)
    site.noisy = False
    return site


class _Door(Resource):
    _log = Logger()

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        error_page: Callable[[Problem, Asked], Answer],
        static: StaticFiles,
        csrf: Csrf,
        reactor: Any,
        threads: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.isLeaf = True
        self._handlers = handlers
        self._error_page = error_page
        self._static = static
        self._csrf = csrf
        self._reactor = reactor
        self._threads = threads
        self._router = Router()
        self._waiting = 0

    def render(self, request: Request) -> int:
        """Answers later; the one who asked may be gone by then."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        answer = Deferred.fromCoroutine(self._answer(request, gone))
        answer.addCallback(lambda made: None if gone else _write(request, made))
        answer.addErrback(self._failed, request, gone)
        return NOT_DONE_YET

    def _failed(self, failure: Failure, request: Any, gone: list[object]) -> None:
        self._log.failure("the pages' server could not answer", failure)
        if not gone:
            request.loseConnection()

    async def _answer(self, request: Request, gone: list[object]) -> Answer:
        cookie = self._csrf.cookie_of(_header(request, b"cookie"))
        given = cookie or self._csrf.make_cookie()
        asked = Asked(
            method=request.method.decode("latin-1"),
            csrf=self._csrf.token(given),
            target=request.uri.decode("latin-1"),
        )
        try:
            check_host(_header(request, b"host"))
            found = self._router.find(asked.method, request.path)
            if found.route.name == "static":
                return self._file(request, found)
            answer = await self._in_thread(self._work(request, found, asked, cookie), gone)
        except MethodRefused as refused:
            return self._problem(request, asked, refused.problem, {"Allow": ", ".join(refused.allowed)})
        except Refused as refused:
            return self._problem(request, asked, refused.problem)
        except Exception:
            # The boundary of a request: a bug costs this answer, not the server.
            self._log.failure("the pages' server failed at {path}", path=request.path)
            problem = Problem(500, "internal", "the server's log says more")
            return self._problem(request, asked, problem)
        if cookie is None and found.route.kind is Kind.PAGE and answer.status == HTTPStatus.OK:
            return _with_headers(answer, {"Set-Cookie": self._csrf.set_cookie(given)})
        return answer

    def _work(self, request: Request, found: Found, asked: Asked, cookie: str | None) -> Callable[[], Answer]:
        """What a thread does. Reads the request here, in the reactor's thread."""
        _, _, query = request.uri.partition(b"?")
        form: Mapping[str, str] = {}
        document: object = None
        if found.route.method != "GET":
            check_origin(_header(request, b"origin"), _header(request, b"host"), _header(request, b"sec-fetch-site"))
            kind = (_header(request, b"content-type") or "").partition(";")[0].strip().lower()
            body = _body(request)
            if found.route.kind is Kind.API:
                document = _document(body, kind) if found.route.method == "POST" else None
            else:
                form = _form(body, kind)
                self._csrf.check(cookie, form.get(CSRF_FIELD, ""))
        whole = Asked(
            method=asked.method,
            ids=found.ids,
            query=_query(query, found.route.kind),
            form=form,
            document=document,
            csrf=asked.csrf,
            target=asked.target,
        )
        handler = self._handlers[found.route.name]
        return lambda: handler(whole)

    def _problem(
        self, request: Request, asked: Asked, problem: Problem, headers: Mapping[str, str] | None = None
    ) -> Answer:
        if is_api(request.path):
            return problem_answer(problem, headers)
        try:
            page = self._error_page(problem, asked)
        except Exception:
            self._log.failure("the error page failed")
            return problem_answer(problem, headers)
        return _with_headers(page, headers or {})

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
    wanted = (_header(request, b"accept-encoding") or "").replace(" ", "").split(",")
    return any(part.partition(";")[0] == "gzip" and not part.endswith(";q=0") for part in wanted)


def _header(request: Request, name: bytes) -> str | None:
    values = request.requestHeaders.getRawHeaders(name)
    # A header that stands twice is read in two ways by two programs: neither counts.
    return values[0].decode("latin-1") if values and len(values) == 1 else None


def _body(request: Any) -> bytes:
    body: bytes = request.content.read()
    return body


def _fields(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            text.decode("ascii", "replace"), keep_blank_values=True, errors="replace", max_num_fields=_MAX_FIELDS
        )
    except ValueError as error:
        raise wrong(f"more than {_MAX_FIELDS} parameters") from error
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields:
            raise wrong(f"{name[:80]}: stands twice")
        fields[name] = value
    return fields


def _query(text: bytes, kind: Kind) -> dict[str, str]:
    # A form sends its empty fields too; a program that sends one means it.
    return {name: value for name, value in _fields(text).items() if value or kind is Kind.API}


def _form(body: bytes, kind: str) -> dict[str, str]:
    if kind != _FORM:
        raise Refused(Problem(415, "media-type", f"a form is sent as {_FORM}"))
    return _fields(body)


def _document(body: bytes, kind: str) -> object:
    # Another site's page cannot send this type without asking first, which is never granted.
    if kind != "application/json":
        raise Refused(Problem(415, "media-type", "the body has to be application/json"))
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(Problem(400, "json", "the body is not JSON")) from error


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _with_headers(answer: Answer, headers: Mapping[str, str]) -> Answer:
    return Answer(
        status=answer.status,
        body=answer.body,
        content_type=answer.content_type,
        headers={**answer.headers, **headers},
    )


def _write(request: Any, answer: Answer) -> None:
    request.setResponseCode(answer.status)
    for name, value in {"Server": "fallow", "Cache-Control": "no-store", **HEADERS, **answer.headers}.items():
        request.setHeader(name, value)
    if answer.status != HTTPStatus.NO_CONTENT:
        request.setHeader("Content-Type", answer.content_type)
        request.setHeader("Content-Length", str(len(answer.body)))
        request.write(answer.body)
    request.finish()
