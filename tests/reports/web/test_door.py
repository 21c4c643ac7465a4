"""The server's edge: who is let in, what becomes of errors, and what every answer carries."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone

from aggregator.addresses import Proxies
from aggregator.admin_site import MAX_BODY_BYTES
from aggregator.problems import Problem, Refused
from reports.people.gate import open_gate
from reports.people.identity import Via
from reports.people.roles import Role, Scope
from reports.schema import open_report_db
from reports.web.answers import Answer, Asked, json_answer
from reports.web.door import MAX_WAITING, Doorkeeper, make_site
from reports.web.routes import ROUTES
from reports.web.security import HEADERS, Csrf, Surface
from reports.web.static import StaticFiles
from tests.aggregator.admin_fakes import InlineReactor, new_failure
from tests.reports.fleets import NOW_S, write_fleet
from tests.reports.people.persons import bearer, enter, quick_hasher
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
def keeper(tmp_path: Path) -> Iterator[Doorkeeper]:
    """Lets people of a database in that holds nothing else."""
    write_fleet(tmp_path, [])
    engine = open_report_db(None, tmp_path)
    gate = open_gate(engine, hasher=quick_hasher())
    yield Doorkeeper(gate=gate, surface=Surface(), clock=lambda: NOW_S, csrf=Csrf())
    engine.dispose()


def make_browser(keeper: Doorkeeper, seen: Seen, threads: Any = None, role: Role | None = Role.OPERATOR) -> Browser:
    """A browser before a door all of whose handlers are `seen`; somebody of this role is logged in."""
    reactor = InlineReactor()
    handlers = {route.name: seen for route in ROUTES}
    site = make_site(handlers, _error_page, FILES, keeper=keeper, reactor=reactor, threads=threads or reactor)
    browser = Browser(site, reactor)
    if role is not None:
        entry = enter(keeper.gate, role, NOW_S)
        browser.cookie, browser.csrf = entry.cookie, entry.csrf
    return browser


@pytest.fixture
def browser(keeper: Doorkeeper, seen: Seen) -> Browser:
    return make_browser(keeper, seen)


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


def test_csrf_token_missing_403(browser: Browser, seen: Seen) -> None:
    """A form is taken with the session and the token of a page of that session, and with nothing less."""
    browser.get("/")
    token = seen.asked.pop().csrf
    for form in ({"a": "1"}, {"csrf": "x"}, {"csrf": ""}, {"csrf": token + "0"}, {"csrf": "ü"}):
        assert browser.post("/exemptions", form).status == 403
    assert seen.asked == []
    got = browser.post("/vms/a%2Fb/keep", {"a": "ü", "csrf": token})
    assert got.status == 200
    assert dict(seen.asked[-1].form) == {"a": "ü", "csrf": token}
    assert seen.asked[-1].ids == ("a/b",)
    assert browser.ask("POST", "/exemptions", f"Origin: http://{HOST}", body=b"csrf=" + token.encode()).status == 415


def test_csrf_token_of_another_session_403(browser: Browser, keeper: Doorkeeper, seen: Seen) -> None:
    """Somebody's own token is of no use in the browser of another."""
    browser.get("/")
    token = seen.asked[-1].csrf
    other = make_browser(keeper, seen)
    other.get("/")
    assert seen.asked[-1].csrf != token
    assert other.post("/exemptions", {"csrf": token}).status == 403


def test_csrf_token_missing_403_for_scripts_too(browser: Browser, seen: Seen) -> None:
    """The API, asked with a cookie, needs the token in a header, which another site's page cannot send."""
    token, browser.csrf = browser.csrf, ""
    for method, target in (("POST", "/v1/exemptions"), ("DELETE", "/v1/exemptions/1")):
        assert browser.call(method, target, {} if method == "POST" else None).status == 403
        assert browser.call(method, target, {} if method == "POST" else None, "Fallow-Csrf: 0").status == 403
    assert seen.asked == []
    browser.csrf = token
    assert browser.call("DELETE", "/v1/exemptions/1").status == 200


def test_csrf_token_missing_403_before_a_log_in(keeper: Doorkeeper, seen: Seen) -> None:
    """Nobody is logged in as somebody else by another site's form: it lacks what only this browser has."""
    browser = make_browser(keeper, seen, role=None)
    assert browser.post("/login", {"csrf": "x"}).status == 403
    assert seen.asked == []
    assert "set-cookie" in browser.get("/login").headers
    token = seen.asked[-1].csrf
    assert "set-cookie" not in browser.get("/login").headers
    assert seen.asked.pop().csrf == token
    assert browser.post("/login", {"csrf": token}).status == 200
    stolen = make_browser(keeper, seen, role=None)
    stolen.get("/login")
    assert stolen.post("/login", {"csrf": token}).status == 403


def test_program_with_a_token_needs_no_csrf(keeper: Doorkeeper, seen: Seen) -> None:
    """An API token opens what its scope does, without any cookie; with a wrong one the cookie does not count."""
    browser = make_browser(keeper, seen, role=None)
    right = f"Authorization: {bearer(keeper.gate, Role.ADMIN, Scope.WRITE, NOW_S)}"
    assert browser.call("POST", "/v1/exemptions", {}, right).status == 200
    who = seen.asked[-1].who
    assert who is not None
    assert (who.account, who.role, who.via, who.csrf_secret) == ("admin-ann", Role.OPERATOR, Via.API_TOKEN, "")
    assert browser.call("GET", "/people", None, right).status == 403
    entry = enter(keeper.gate, Role.ADMIN, NOW_S)
    browser.cookie = entry.cookie
    for wrong in ("Bearer x", "Basic eDp5", "", f"{right[15:-1]}x", right[15:].upper().replace("FALLOW", "follow")):
        got = browser.call("GET", "/v1/report", None, f"Authorization: {wrong}")
        assert (got.status, got.headers["www-authenticate"]) == (401, 'Bearer realm="fallow", error="invalid_token"')
        assert browser.get("/", f"Authorization: {wrong}").status == 401
    twice = browser.get("/v1/report", right, right)
    assert twice.status == 401


def test_nobody_is_asked_to_log_in(keeper: Doorkeeper, seen: Seen) -> None:
    """A person goes to the form and comes back to where they wanted; a program is told what it needs."""
    browser = make_browser(keeper, seen, role=None)
    got = browser.get("/vms?search=a%20b&page=2")
    assert (got.status, got.headers["location"]) == (303, "/login?next=%2Fvms%3Fsearch%3Da%2520b%26page%3D2")
    assert browser.get("/vms?a=\\b").headers["location"] == "/login"
    assert browser.post("/exemptions", {}).headers["location"] == "/login"
    got = browser.call("POST", "/v1/exemptions", {})
    assert (got.status, got.headers["www-authenticate"]) == (401, 'Bearer realm="fallow"')
    browser.cookie = "fallow_session=" + "A" * 43
    assert browser.get("/").status == 303
    assert seen.asked == []


def test_viewer_who_acts_403_and_audited(keeper: Doorkeeper, seen: Seen) -> None:
    """Who may not, may not, and it stands in the record with the address; the form is not even read."""
    browser = make_browser(keeper, seen, role=Role.VIEWER)
    got = browser.post("/exemptions", {})
    assert (got.status, b"operator" in got.body) == (403, True)
    assert browser.call("DELETE", "/v1/exemptions/1").json["type"] == "urn:fallow:problem:role"
    assert seen.asked == []
    told = [event for event in keeper.gate.people.events(limit=9) if event.what == "refused"]
    assert [(event.who, event.address) for event in told] == [("viewer-ann", "127.0.0.1")] * 2
    assert "POST /exemptions needs operator" in told[1].detail
    for _ in range(20):
        assert browser.post("/exemptions", {}).status == 403
    assert len([event for event in keeper.gate.people.events(limit=99) if event.what == "refused"]) == 2


def test_refusal_is_told_as_often_as_it_is_written_down(keeper: Doorkeeper, seen: Seen) -> None:
    """Whoever is refused in a loop makes nobody's log grow at will: each try counts once a minute."""
    told: list[tuple[str, str, float]] = []
    now_s = NOW_S
    keeper = replace(
        keeper,
        clock=lambda: now_s,
        on_refusal=lambda who, route, _address, at_s: told.append((who.account, route.name, at_s)),
    )
    browser = make_browser(keeper, seen, role=Role.VIEWER)
    for _ in range(5):
        assert browser.post("/exemptions", {}).status == 403
    assert browser.call("DELETE", "/v1/exemptions/1").status == 403
    assert told == [("viewer-ann", name, NOW_S) for name in ("add_exemption", "api_end_exemption")]
    now_s += 61.0
    assert browser.post("/exemptions", {}).status == 403
    assert told[2:] == [("viewer-ann", "add_exemption", NOW_S + 61.0)]


def test_change_is_written_down(browser: Browser, keeper: Doorkeeper, seen: Seen) -> None:
    """Who changed what; what was refused was not changed."""
    browser.get("/")
    browser.post("/exemptions/ab12/end", {"csrf": seen.asked[-1].csrf})
    seen.answer = Refused(Problem(422, "invalid", "no"))
    browser.call("DELETE", "/v1/exemptions/cd34")
    told = [event for event in keeper.gate.people.events(limit=9) if event.what == "changed"]
    assert [(event.who, event.detail) for event in told] == [("operator-ann", "POST /exemptions/{exemption}/end ab12")]


def test_only_proxies_that_are_trusted_tell_addresses(keeper: Doorkeeper, seen: Seen) -> None:
    """X-Forwarded-For counts where the peer is a configured proxy, and there its last stranger alone."""
    browser = make_browser(keeper, seen)
    browser.get("/", "X-Forwarded-For: 203.0.113.9")
    assert seen.asked[-1].address == "127.0.0.1"
    behind = replace(keeper, surface=Surface(proxies=Proxies([ip_network("127.0.0.0/8")])))
    browser = make_browser(behind, seen)
    browser.get("/", "X-Forwarded-For: 198.51.100.1, 203.0.113.9")
    assert seen.asked[-1].address == "203.0.113.9"


def test_https_alone_when_it_is_spoken(keeper: Doorkeeper, seen: Seen) -> None:
    """Over TLS, or behind a proxy that ends it: cookies are Secure, forms come from https, browsers stay with it."""
    secure = replace(keeper, surface=Surface(secure=True, names=("fallow.example.org",)))
    browser = make_browser(secure, seen)
    browser.host = "fallow.example.org"
    got = browser.get("/")
    assert got.headers["strict-transport-security"] == "max-age=31536000"
    assert seen.asked[-1].origin == "https://fallow.example.org"
    form = ("Content-Type: application/x-www-form-urlencoded",)
    body = f"csrf={seen.asked[-1].csrf}".encode()
    assert browser.ask("POST", "/exemptions", *form, "Origin: http://fallow.example.org", body=body).status == 403
    assert browser.ask("POST", "/exemptions", *form, "Origin: https://fallow.example.org", body=body).status == 200
    assert make_browser(secure, seen, role=None).get("/login").headers["set-cookie"].endswith("; Secure")


def test_get_on_an_action_405(browser: Browser, seen: Seen) -> None:
    """What changes something is never done by an address alone."""
    actions = [route.path for route in ROUTES if route.method == "POST"]
    reads = {route.path for route in ROUTES if route.method == "GET"}
    for path in actions:
        if path not in reads:
            got = browser.get(re.sub("{[a-z]+}", "x", path))
            assert (got.status, got.headers["allow"]) == (405, "POST")
    assert seen.asked == []


def test_health_check_asks_nobody(keeper: Doorkeeper, seen: Seen) -> None:
    """A load balancer learns that the server lives, and nothing else, while every thread waits."""
    browser = make_browser(keeper, seen, threads=Held(), role=None)
    got = browser.get("/healthz")
    assert (got.status, got.json) == (200, {"status": "ok"})
    assert browser.ask("GET", "/healthz", host="evil.example").status == 403


@pytest.mark.parametrize(
    "headers", [("Origin: http://evil.example",), ("Origin: null",), ("Sec-Fetch-Site: cross-site",)]
)
def test_foreign_origin_403(browser: Browser, seen: Seen, headers: tuple[str, ...]) -> None:
    """A page of another site cannot post a form or use the API, even with a token it stole."""
    browser.get("/")
    token = seen.asked.pop().csrf
    form = ("Content-Type: application/x-www-form-urlencoded", *headers)
    assert browser.ask("POST", "/exemptions", *form, body=f"csrf={token}".encode()).status == 403
    assert browser.call("POST", "/v1/exemptions", {}, *headers).status == 403
    assert browser.call("DELETE", "/v1/exemptions/1", None, *headers).status == 403
    assert seen.asked == []


def test_api_takes_json_alone(browser: Browser, seen: Seen) -> None:
    """What a form of another site can send is never taken for a program's request."""
    token = f"Fallow-Csrf: {browser.csrf}"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert browser.ask("POST", "/v1/exemptions", f"Content-Type: {kind}", token, body=b"{}").status == 415
    assert browser.ask("POST", "/v1/exemptions", token, body=b"{}").status == 415
    for body in (b"{", b"", b"NaN", b"\xff", b"[" * 50_000):
        got = browser.ask("POST", "/v1/exemptions", "Content-Type: application/json", token, body=body)
        assert (got.status, got.headers["content-type"]) == (400, "application/problem+json")
    kind = "Content-Type: application/json; charset=utf-8"
    got = browser.ask("POST", "/v1/exemptions", kind, token, body=b'{"a": 1}')
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


def test_crowd_is_turned_away(keeper: Doorkeeper, seen: Seen) -> None:
    """Requests beyond the limit get 503 at once, and room again once others are done."""
    crowd = make_browser(keeper, seen, threads=Held())
    for _ in range(MAX_WAITING):
        with pytest.raises(IndexError):
            crowd.get("/v1/report")
    got = crowd.get("/v1/report")
    assert (got.status, json.loads(got.body)["type"]) == (503, "urn:fallow:problem:busy")


def test_answer_for_one_who_left_is_not_made(keeper: Doorkeeper, seen: Seen) -> None:
    """A thread does not work for a browser that is gone, and the server goes on."""
    held = Held()
    browser = make_browser(keeper, seen, threads=held)
    site: Any = browser.site
    channel, transport = site.buildProtocol(None), new_transport()
    channel.makeConnection(transport)
    channel.dataReceived(f"GET /v1/report HTTP/1.1\r\nHost: {HOST}\r\nCookie: {browser.cookie}\r\n\r\n".encode())
    channel.connectionLost(new_failure(ConnectionDone()))
    ((on_result, work),) = held.waiting
    on_result(True, work())
    assert seen.asked == []
    assert transport.value() == b""


def test_json_of_the_api_is_strict() -> None:
    """A number that JSON has no word for is a mistake here, not in the reader."""
    with pytest.raises(ValueError, match="JSON"):
        json_answer({"a": float("nan")})


def test_trouble_is_told_while_every_thread_waits(keeper: Doorkeeper, seen: Seen) -> None:
    """Handlers that wait for a database take no error page with them: unknown pages, wrong methods, a full house."""
    held = Held()
    crowd = make_browser(keeper, seen, threads=held)
    for _ in range(MAX_WAITING):
        with pytest.raises(IndexError):
            crowd.get("/vms")
    answered = [crowd.get("/nothing"), crowd.post("/vms", {}), crowd.get("/vms"), crowd.get(FILES.address("page.js"))]
    assert [got.status for got in answered] == [404, 405, 503, 200]
    assert [got.body.startswith(b"<h1>") for got in answered] == [True, True, True, False]
    assert len(held.waiting) == MAX_WAITING
