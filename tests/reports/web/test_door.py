"""The server's edge: who is let in, what becomes of errors, and what every answer carries."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone

from aggregator.admin_site import MAX_BODY_BYTES
from aggregator.problems import Problem, Refused
from reports.web.answers import Answer, Asked, json_answer
from reports.web.door import MAX_WAITING, make_site
from reports.web.routes import ROUTES
from reports.web.security import HEADERS
from reports.web.static import StaticFiles
from tests.aggregator.admin_fakes import InlineReactor, new_failure
from tests.reports.web.wire import HOST, Browser, new_transport

SCRIPT = b"x" * 10_000
FILES = StaticFiles([("page.js", SCRIPT)], None)


class Held(InlineReactor):
    """Threads that do nothing yet."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[Callable[..., object], Callable[[], object]]] = []

    def callInThreadWithCallback(self, on_result: Callable[..., object], work: Callable[[], object]) -> None:
        self.waiting.append((on_result, work))


class Seen:
    """Handlers that note what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answer: Answer | Exception = Answer(body=b"<p>page</p>")

    def __call__(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def _error_page(problem: Problem, _asked: Asked) -> Answer:
    return Answer(status=problem.status, body=f"<h1>{problem.detail}</h1>".encode())


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def browser(seen: Seen) -> Browser:
    reactor = InlineReactor()
    handlers = {route.name: seen for route in ROUTES}
    return Browser(make_site(handlers, _error_page, FILES, reactor=reactor, threads=reactor), reactor)


def test_page_is_answered_with_every_header(browser: Browser) -> None:
    """Nothing goes out without the headers that keep other sites away."""
    got = browser.get("/")
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"<p>page</p>", "text/html; charset=utf-8")
    for name, value in HEADERS.items():
        assert got.headers[name.lower()] == value
    assert got.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("target", ["/", "/nothing", "/static/nothing.js", "/v1/report", "/v1/nothing"])
def test_errors_have_the_headers_too(browser: Browser, seen: Seen, target: str) -> None:
    """A page that failed is no way in either."""
    seen.answer = ValueError("broken")
    got = browser.get(target)
    assert got.status in {404, 500}
    assert HEADERS.items() <= {name: got.headers[name.lower()] for name in HEADERS}.items()
    assert b"broken" not in got.body


def test_other_names_get_nothing(browser: Browser, seen: Seen) -> None:
    """A name that somebody else pointed here is refused before anything is looked up, files and API too."""
    for target in ("/", "/v1/report", FILES.address("page.js"), "/nothing"):
        got = browser.ask("GET", target, host="evil.example:8901")
        assert got.status == 403
    assert browser.raw(b"GET / HTTP/1.0\r\n\r\n").status == 403
    assert browser.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n").status in {400, 403}
    assert seen.asked == []


def test_form_needs_its_token(browser: Browser, seen: Seen) -> None:
    """A form is taken with the cookie and the token of a page of this server, and with nothing less."""
    assert browser.post("/exemptions", {"csrf": "x"}).status == 403
    browser.get("/")
    token = seen.asked[-1].csrf
    assert browser.post("/exemptions", {"a": "1"}).status == 403
    assert browser.post("/exemptions", {"a": "1", "csrf": token + "0"}).status == 403
    got = browser.post("/vms/a%2Fb/keep", {"a": "ü", "csrf": token})
    assert got.status == 200
    assert dict(seen.asked[-1].form) == {"a": "ü", "csrf": token}
    assert seen.asked[-1].ids == ("a/b",)
    cookie, browser.cookie = browser.cookie, None
    assert browser.post("/exemptions", {"csrf": token}).status == 403
    browser.cookie = cookie
    assert browser.ask("POST", "/exemptions", f"Origin: http://{HOST}", body=b"csrf=" + token.encode()).status == 415


def test_cookie_is_given_once(browser: Browser, seen: Seen) -> None:
    """A browser that has one keeps it, so that two open pages both work."""
    assert "set-cookie" in browser.get("/").headers
    token = seen.asked[-1].csrf
    assert "set-cookie" not in browser.get("/").headers
    assert seen.asked[-1].csrf == token
    assert "set-cookie" not in browser.call("GET", "/v1/report").headers


@pytest.mark.parametrize(
    "headers", [("Origin: http://evil.example",), ("Origin: null",), ("Sec-Fetch-Site: cross-site",)]
)
def test_other_sites_may_not_change_anything(browser: Browser, seen: Seen, headers: tuple[str, ...]) -> None:
    """A page of another site cannot post a form or use the API, even with a token it stole."""
    browser.get("/")
    token = seen.asked.pop().csrf
    form = ("Content-Type: application/x-www-form-urlencoded", *headers)
    assert browser.ask("POST", "/exemptions", *form, body=f"csrf={token}".encode()).status == 403
    assert browser.ask("POST", "/v1/exemptions", "Content-Type: application/json", *headers, body=b"{}").status == 403
    assert browser.ask("DELETE", "/v1/exemptions/1", *headers).status == 403
    assert seen.asked == []


def test_api_takes_json_alone(browser: Browser, seen: Seen) -> None:
    """What a form of another site can send is never taken for a program's request."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert browser.ask("POST", "/v1/exemptions", f"Content-Type: {kind}", body=b"{}").status == 415
    assert browser.ask("POST", "/v1/exemptions", body=b"{}").status == 415
    for body in (b"{", b"", b"NaN", b"\xff", b"[" * 50_000):
        got = browser.ask("POST", "/v1/exemptions", "Content-Type: application/json", body=body)
        assert (got.status, got.headers["content-type"]) == (400, "application/problem+json")
    got = browser.ask("POST", "/v1/exemptions", "Content-Type: application/json; charset=utf-8", body=b'{"a": 1}')
    assert got.status == 200
    assert seen.asked[-1].document == {"a": 1}


def test_body_has_a_limit(browser: Browser, seen: Seen) -> None:
    """A body over the limit is not even read."""
    browser.get("/")
    form = {"csrf": seen.asked.pop().csrf, "a": "x" * MAX_BODY_BYTES}
    assert browser.post("/exemptions", form).status == 413
    assert seen.asked == []


def test_other_methods_are_refused(browser: Browser, seen: Seen) -> None:
    """A page says which methods it takes; an unknown one is no way round the checks."""
    for method, target in (("POST", "/"), ("DELETE", "/vms"), ("PUT", "/v1/exemptions"), ("OPTIONS", "/v1/report")):
        got = browser.ask(method, target)
        assert got.status == 405
        assert "GET" in got.headers["allow"]
    assert seen.asked == []


def test_head_is_get_without_body(browser: Browser) -> None:
    """The same head, nothing behind it."""
    got = browser.ask("HEAD", "/")
    assert (got.status, got.body, got.headers["content-length"]) == (200, b"", "11")


def test_file_is_sent_as_it_is_asked_for(browser: Browser) -> None:
    """Compressed where the browser takes that, plain otherwise, and kept for good."""
    plain = browser.get(FILES.address("page.js"))
    assert (plain.body, plain.headers["cache-control"]) == (SCRIPT, "public, max-age=31536000, immutable")
    packed = browser.get(FILES.address("page.js"), "Accept-Encoding: br, gzip;q=0.5")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == SCRIPT
    assert "content-encoding" not in browser.get(FILES.address("page.js"), "Accept-Encoding: gzip;q=0").headers


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fetc%2Fpasswd", "../door.py", "%2e%2e/door.py", "page.js", "%00", "..", "%2Fetc%2Fpasswd"]
)
def test_nothing_but_files_of_the_pages_is_served(browser: Browser, name: str) -> None:
    """No name leads out of the table of files."""
    assert browser.get(f"/static/{name}").status == 404


def test_errors_are_pages_for_people_and_documents_for_programs(browser: Browser, seen: Seen) -> None:
    """The same trouble, told to each in its way."""
    seen.answer = Refused(Problem(503, "database-away", "gone", retry_after_s=7))
    page, document = browser.get("/vms"), browser.get("/v1/report")
    assert (page.status, page.body, page.headers["content-type"]) == (503, b"<h1>gone</h1>", "text/html; charset=utf-8")
    assert (document.status, document.headers["content-type"]) == (503, "application/problem+json")
    assert (document.json["detail"], document.headers["retry-after"]) == ("gone", "7")


def test_parameters_are_read_once(browser: Browser, seen: Seen) -> None:
    """Empty ones count as absent, doubled and endless ones are refused, odd bytes do not break anything."""
    browser.get("/vms?search=a+b%20c&owner=&policy=%C3%BC&x=%FF")
    assert dict(seen.asked[-1].query) == {"search": "a b c", "policy": "ü", "x": "\ufffd"}
    assert seen.asked[-1].target == "/vms?search=a+b%20c&owner=&policy=%C3%BC&x=%FF"
    assert browser.get("/vms?a=1&a=2").status == 422
    assert browser.get("/vms?" + "&".join(f"a{n}=1" for n in range(200))).status == 422


def test_crowd_is_turned_away(seen: Seen) -> None:
    """Requests beyond the limit get 503 at once, and room again once others are done."""
    reactor = InlineReactor()

    site = make_site({"api_report": seen}, _error_page, FILES, reactor=reactor, threads=Held())
    crowd = Browser(site, reactor)
    for _ in range(MAX_WAITING):
        with pytest.raises(IndexError):
            crowd.get("/v1/report")
    got = crowd.get("/v1/report")
    assert (got.status, json.loads(got.body)["type"]) == (503, "urn:fallow:problem:busy")


def test_answer_for_one_who_left_is_not_made(seen: Seen) -> None:
    """A thread does not work for a browser that is gone, and the server goes on."""
    reactor = InlineReactor()
    held = Held()
    site: Any = make_site({"api_report": seen}, _error_page, FILES, reactor=reactor, threads=held)
    channel, transport = site.buildProtocol(None), new_transport()
    channel.makeConnection(transport)
    channel.dataReceived(f"GET /v1/report HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    channel.connectionLost(new_failure(ConnectionDone()))
    ((on_result, work),) = held.waiting
    on_result(True, work())
    assert seen.asked == []
    assert transport.value() == b""


def test_json_of_the_api_is_strict() -> None:
    """A number that JSON has no word for is a mistake here, not in the reader."""
    with pytest.raises(ValueError, match="JSON"):
        json_answer({"a": float("nan")})


def test_trouble_is_told_while_every_thread_waits(seen: Seen) -> None:
    """Handlers that wait for a database take no error page with them: unknown pages, wrong methods, a full house."""
    reactor = InlineReactor()
    held = Held()
    handlers = {route.name: seen for route in ROUTES}
    crowd = Browser(make_site(handlers, _error_page, FILES, reactor=reactor, threads=held), reactor)
    for _ in range(MAX_WAITING):
        with pytest.raises(IndexError):
            crowd.get("/vms")
    answered = [crowd.get("/nothing"), crowd.post("/vms", {}), crowd.get("/vms"), crowd.get(FILES.address("page.js"))]
    assert [got.status for got in answered] == [404, 405, 503, 200]
    assert [got.body.startswith(b"<h1>") for got in answered] == [True, True, True, False]
    assert len(held.waiting) == MAX_WAITING
