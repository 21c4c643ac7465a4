"""The owners' door on twisted.web: bounded requests, a thread that answers, and pages that nobody else may embed.

There is no login and no cookie: the address is the secret. So it stands in no log and is sent to no other site, and
nothing has to tell a form of ours from another's: whoever can post to the address has it.
"""

from __future__ import annotations

import re
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
from orchestrate.owners.links import MAX_LINK_CHARS
from orchestrate.owners.pages import OwnerPages
from reports.web.answers import Answer
from reports.web.security import HEADERS
from reports.web.static import StaticFiles

MAX_WAITING = 32
_RETRY_S = 2
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 20
_TOKEN = rf"([A-Za-z0-9_.-]{{1,{MAX_LINK_CHARS}}})"
_PAGES = re.compile(rf"/(?:(keep|resume)/{_TOKEN}|resume/{_TOKEN}/state)\Z")
_FILES = re.compile(r"/static/([A-Za-z0-9_.-]{1,100})\Z")
_HEADERS: Mapping[str, str] = {
    **HEADERS,
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "Cache-Control": "no-store",
    "Server": "fallow",
}
_FOR_GOOD = "public, max-age=31536000, immutable"

Work = Callable[[], Answer]


def make_site(pages: OwnerPages, static: StaticFiles, *, reactor: Any, threads: Any) -> Site:
    """The owners' pages as a factory to listen with.

    Args:
        reactor: tells the time.
        threads: a started thread pool of Twisted, in which pages are made.
    """
    site = AdminSite(_Door(pages, static, reactor, threads), reactor=reactor)
    site.noisy = False
    return site


class _Door(Resource):
    _log = Logger()

    def __init__(self, pages: OwnerPages, static: StaticFiles, reactor: Any, threads: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.isLeaf = True
        self._pages = pages
        self._static = static
        self._reactor = reactor
        self._threads = threads
        self._waiting = 0

    def render(self, request: Request) -> int:
        """Answers later; the one who asked may be gone by then."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        answer = Deferred.fromCoroutine(self._answer(request))
        answer.addCallback(lambda made: None if gone else _write(request, made))
        answer.addErrback(self._failed, request, gone)
        return NOT_DONE_YET

    def _failed(self, failure: Failure, request: Any, gone: list[object]) -> None:
        self._log.failure("the owners' door could not answer", failure)
        if not gone:
            request.loseConnection()

    async def _answer(self, request: Request) -> Answer:
        method, path = request.method.decode("latin-1"), request.path.decode("latin-1")
        root = "../" * max(path.count("/") - 1, 0) or "./"
        try:
            if (file := _FILES.match(path)) is not None and method in {"GET", "HEAD"}:
                return self._file(file[1])
            return await self._in_thread(self._work(request, method, path))
        except Refused as refused:
            problem = refused.problem
        except Exception:
            # The boundary of a request: a bug costs this answer, not the server. The path would tell the secret.
            self._log.failure("the owners' door failed")
            problem = Problem(500, "internal", "Something went wrong here. Please try again in some minutes.")
        headers = {"Allow": "GET, HEAD, POST"} if problem.status == HTTPStatus.METHOD_NOT_ALLOWED else {}
        if problem.retry_after_s is not None:
            headers["Retry-After"] = str(problem.retry_after_s)
        page = self._pages.problem(problem, root)
        return Answer(status=page.status, body=page.body, content_type=page.content_type, headers=headers)

    def _work(self, request: Request, method: str, path: str) -> Work:
        """What a thread does. Reads the request here, in the reactor's thread. Raises: Refused."""
        found = _PAGES.match(path)
        if found is None:
            raise Refused(Problem(404, "not-found", "There is no such page. A part of the link may be missing."))
        purpose, token, watched = found.groups()
        pages = self._pages
        if method in {"GET", "HEAD"}:
            if watched is not None:
                return lambda: pages.state(watched)
            return lambda: pages.keep(token) if purpose == "keep" else pages.resume(token)
        if method != "POST" or watched is not None:
            raise Refused(Problem(405, "method", "This address is looked at, and not written to."))
        if purpose == "resume":
            return lambda: pages.resume_it(token)
        form = _form(request)
        return lambda: pages.keep_it(token, form)

    async def _in_thread(self, work: Work) -> Answer:
        if self._waiting >= MAX_WAITING:
            raise Refused(Problem(503, "busy", "Too many ask at once.", retry_after_s=_RETRY_S))
        self._waiting += 1
        try:
            # A form that was sent is done even where nobody waits for the answer.
            answer: Answer = await deferToThreadPool(self._reactor, self._threads, work)
        finally:
            self._waiting -= 1
        return answer

    def _file(self, name: str) -> Answer:
        file = self._static.get(name)
        if file is None:
            raise Refused(Problem(404, "not-found", "There is no such file."))
        return Answer(body=file.body, content_type=file.content_type, headers={"Cache-Control": _FOR_GOOD})


def _form(request: Any) -> dict[str, str]:
    """The fields of a form. Raises: Refused."""
    kinds = request.requestHeaders.getRawHeaders(b"content-type") or [b""]
    if kinds[0].partition(b";")[0].strip().lower() != _FORM.encode():
        raise Refused(Problem(415, "media-type", f"A form is sent as {_FORM}."))
    body: bytes = request.content.read()
    try:
        pairs = parse_qsl(body.decode("ascii", "replace"), errors="replace", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise Refused(Problem(422, "invalid", "The form has too many fields.")) from error
    return dict(pairs)


def _write(request: Any, answer: Answer) -> None:
    request.setResponseCode(answer.status)
    for name, value in {**_HEADERS, **answer.headers}.items():
        request.setHeader(name, value)
    request.setHeader("Content-Type", answer.content_type)
    request.setHeader("Content-Length", str(len(answer.body)))
    request.write(answer.body)
    request.finish()
