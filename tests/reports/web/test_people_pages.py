"""Logging in and out, one-time links, one's own account, and accounts for admins: as a browser walks through them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reports.config import ReportConfig
from reports.people.roles import Role, Scope
from reports.people.throttle import ACCOUNT
from reports.web.security import Surface
from tests.reports.fleets import one_of_each
from tests.reports.people.persons import PASSWORD, actor, bearer
from tests.reports.web.house import House, pages
from tests.reports.web.test_pages import form_token, form_version, text_of
from tests.reports.web.wire import Browser, Got

NEW = "new and long enough"
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Nobody is logged in; ann is an admin, bob a viewer, both with PASSWORD."""
    with pages(tmp_path, one_of_each(), role=None) as made:
        made.gate.people.add("ann", Role.ADMIN, PASSWORD, actor(made.now_s))
        made.gate.people.add("bob", Role.VIEWER, PASSWORD, actor(made.now_s))
        yield made


def log_in(browser: Browser, account: str = "ann", password: str = PASSWORD, href: str = "/") -> Got:
    """Fills in the form, as a person does."""
    token = form_token(browser.get("/login").text)
    return browser.post("/login", {"csrf": token, "account": account, "password": password, "next": href})


def entered(house: House, account: str = "ann") -> tuple[Browser, str]:
    """A browser in which somebody is logged in, and the token of its forms."""
    browser = house.new_browser()
    assert log_in(browser, account).status == 303
    return browser, form_token(browser.get("/account").text)


def test_person_logs_in_and_comes_back(house: House) -> None:
    """From a page to the form, and on to that page, with the name and a way out on it; then out."""
    browser = house.browser
    sent = browser.get("/vms?search=web")
    form = browser.get(sent.headers["location"])
    assert 'name="next" value="/vms?search=web"' in form.text
    assert 'href="/people"' not in form.text
    got = log_in(browser, href="/vms?search=web")
    assert (got.status, got.headers["location"]) == (303, "/vms?search=web")
    assert "HttpOnly; SameSite=Lax" in got.headers["set-cookie"]
    page = browser.get("/vms?search=web").text
    assert "ann" in text_of(page)
    assert 'href="/people"' in page
    assert browser.get("/login?next=/hosts").headers["location"] == "/hosts"
    out = browser.post("/logout", {"csrf": form_token(page)})
    assert (out.status, out.headers["location"]) == (303, "/login")
    assert "Max-Age=0" in out.headers["set-cookie"]
    assert browser.get("/vms").status == 303


def test_session_fixation(house: House) -> None:
    """An id that somebody planted in a browser before the log-in is not the session's, and stays nobody's."""
    planted = "fallow_session=" + "A" * 43
    house.browser.cookie = planted
    assert log_in(house.browser).status == 303
    assert house.browser.cookies["fallow_session"] != "A" * 43
    thief = house.new_browser()
    thief.cookie = planted
    assert thief.get("/").status == 303
    old = house.browser.cookie
    token = form_token(house.browser.get("/account").text)
    house.browser.post("/logout", {"csrf": token})
    thief.cookie = old
    assert thief.get("/").status == 303


@pytest.mark.parametrize("href", ["//evil.example", "/\\evil.example", "http://evil.example", "/\t/evil.example", "x"])
def test_next_evil_400(house: House, href: str) -> None:
    """A link to the log-in, or a form, that leads people to another site afterwards is refused, logged in or not."""
    browser = house.browser
    token = form_token(browser.get("/login").text)
    form = {"csrf": token, "account": "ann", "password": PASSWORD, "next": href}
    quoted = href.replace("\\", "%5C").replace("\t", "%09")
    assert browser.get(f"/login?next={quoted}").status == 400
    assert browser.get(f"/login/provider?next={quoted}").status == 400
    got = browser.post("/login", form)
    assert (got.status, "fallow_session" in browser.cookies) == (400, False)
    log_in(browser)
    assert browser.get(f"/login?next={quoted}").status == 400


def test_login_brute_force_429(house: House) -> None:
    """The form says so, with the time to wait; the right password is refused until then, and taken after."""
    browser = house.browser
    got = [log_in(browser, password=f"{NEW} {number}") for number in range(ACCOUNT.free + 3)]
    assert [one.status for one in got] == [401] * ACCOUNT.free + [429] * 3
    assert "wrong" in text_of(got[0].text)
    assert int(got[-1].headers["retry-after"]) >= 1
    assert log_in(browser).status == 429
    house.now_s += 60
    assert log_in(browser).status == 303


def test_wrong_log_in_keeps_the_name_and_no_password(house: House) -> None:
    """What was typed for a name is text, what was typed for a password is gone."""
    got = log_in(house.browser, EVIL, "my secret password")
    assert (got.status, EVIL in got.text) == (401, False)
    assert "&lt;script&gt;" in got.text
    assert "my secret password" not in got.text


def test_first_admin_by_link(tmp_path: Path) -> None:
    """Without any account the log-in says where the link is; that makes one admin, logs in, and is used up."""
    with pages(tmp_path, one_of_each(), role=None) as house:
        assert "no account yet" in text_of(house.browser.get("/login").text)
        secret = house.gate.people.make_first_link(actor(house.now_s))
        path = f"/first/{secret}"
        token = form_token(house.browser.get(path).text)
        form = {"csrf": token, "account": "Root", "password": PASSWORD, "again": PASSWORD}
        for wrong in ({"again": NEW}, {"password": "short", "again": "short"}, {"account": EVIL}):
            got = house.browser.post(path, {**form, **wrong})
            assert (got.status, EVIL in got.text) == (422, False)
            assert got.headers["referrer-policy"] == "origin"
            assert re.search(rf'name="{next(iter(wrong))}"[^>]*aria-invalid="true"', got.text)
        assert house.new_browser().post(path, form).status == 403
        assert house.browser.post(f"/password/{secret}", form).status == 404
        got = house.browser.post(path, form)
        assert (got.status, got.headers["location"]) == (303, "/")
        assert house.browser.get("/people").status == 200
        assert house.new_browser().get(path).status == 404
        assert house.browser.get(f"/first/{'x' * 43}").status == 404
        assert [one.name for one in house.gate.people.accounts()] == ["root"]


def test_own_password_is_changed(house: House) -> None:
    """With the old one; other browsers are logged out, this one goes on."""
    browser, token = entered(house, "bob")
    other, _ = entered(house, "bob")
    form = {"csrf": token, "old": PASSWORD, "password": NEW, "again": NEW}
    for wrong, why in (
        ({"again": "x"}, "not the same"),
        ({"old": NEW}, "old password is wrong"),
        ({"password": "short", "again": "short"}, "characters"),
    ):
        got = browser.post("/account/password", {**form, **wrong})
        assert (got.status, why in text_of(got.text)) == (422, True)
        assert NEW not in got.text
    assert browser.post("/account/password", form).status == 200
    assert browser.get("/account").status == 200
    assert other.get("/account").status == 303
    assert log_in(house.new_browser(), "bob").status == 401
    assert log_in(house.new_browser(), "bob", NEW).status == 303


def test_other_sessions_are_ended(house: House) -> None:
    """Everywhere but here."""
    browser, token = entered(house, "bob")
    other, _ = entered(house, "bob")
    third, _ = entered(house)
    assert "with 2 browsers" in text_of(browser.get("/account").text)
    assert browser.post("/account/sessions/end", {"csrf": token}).status == 200
    assert [each.get("/").status for each in (browser, other, third)] == [200, 303, 200]


def test_own_token_is_shown_once_and_works(house: House) -> None:
    """It stands on the page that answers, on none after it, opens what its scope does, and ends when it is revoked."""
    browser, token = entered(house)
    form = {"csrf": token, "label": EVIL, "scope": "read", "life": "30"}
    for wrong in ({"scope": "all"}, {"life": "31"}, {"life": "-1"}, {"label": " "}):
        assert browser.post("/account/tokens", {**form, **wrong}).status == 422
    page = browser.post("/account/tokens", form).text
    (text,) = re.findall(r"fallow_[0-9a-f]{8}_[0-9a-f]{64}", page)
    assert EVIL not in page
    again = browser.get("/account").text
    assert text not in again
    program, bearer_of = house.new_browser(), f"Authorization: Bearer {text}"
    assert program.get("/v1/report", bearer_of).status == 200
    assert program.get("/report.csv", bearer_of).status == 200
    assert program.call("DELETE", "/v1/exemptions/x", None, bearer_of).status == 403
    (revoke,) = re.findall(r'action="(/account/tokens/[0-9a-f]+/revoke)"', again)
    stranger, other_token = entered(house, "bob")
    assert stranger.post(revoke, {"csrf": other_token}).status == 404
    assert browser.post(revoke, {"csrf": token}).status == 303
    assert program.get("/v1/report", bearer_of).status == 401


def test_scope_is_no_further_than_the_role(house: House) -> None:
    """A viewer is offered reading alone, and given no more."""
    browser, token = entered(house, "bob")
    assert re.findall(r'<option value="(read|write|approve|admin)"', browser.get("/account").text) == ["read"]
    got = browser.post("/account/tokens", {"csrf": token, "label": "x", "scope": "admin", "life": "30"})
    assert (got.status, "no further" in text_of(got.text)) == (422, True)


def test_token_gives_itself_no_more(house: House) -> None:
    """A program with a token of small scope makes no other token and changes no password of its account."""
    program = house.new_browser()
    read = f"Authorization: {bearer(house.gate, Role.ADMIN, Scope.READ, house.now_s)}"
    form = {"label": "x", "scope": "admin", "life": "30", "old": PASSWORD, "password": NEW, "again": NEW}
    for path in ("/account/tokens", "/account/password", "/account/sessions/end", "/account/tokens/x/revoke"):
        got = program.post(path, form, read)
        assert (got.status, "not for API tokens" in text_of(got.text)) == (403, True)
    assert program.post("/people", {"name": "x", "role": "admin"}, read).status == 403


def test_admin_keeps_accounts(house: House) -> None:
    """Added with a link, given a role, disabled, enabled; each shows, and the account is let in or not."""
    browser, token = entered(house)
    assert browser.post("/people", {"csrf": token, "name": EVIL, "role": "viewer"}).status == 422
    assert browser.post("/people", {"csrf": token, "name": "bob", "role": "viewer"}).status == 422
    assert browser.post("/people", {"csrf": token, "name": "cleo", "role": "boss"}).status == 422
    page = browser.post("/people", {"csrf": token, "name": "Cleo", "role": "operator"}).text
    (path,) = re.findall(r"http://127\.0\.0\.1:8901(/password/[A-Za-z0-9_-]{43})", page)
    cleo = house.new_browser()
    link_token = form_token(cleo.get(path).text)
    assert cleo.post(path, {"csrf": link_token, "password": PASSWORD, "again": PASSWORD}).status == 303
    assert cleo.get("/exemptions").status == 200
    form = {"csrf": token, "was": "operator enabled", "role": "approver"}
    assert browser.post("/people/cleo/role", form).status == 303
    assert cleo.get("/exemptions").status == 303
    assert browser.post("/people/cleo/disable", {"csrf": token, "was": "approver enabled"}).status == 303
    assert log_in(house.new_browser(), "cleo").status == 401
    assert browser.post("/people/cleo/link", {"csrf": token}).status == 422
    assert browser.post("/people/cleo/enable", {"csrf": token, "was": "approver disabled"}).status == 303
    assert log_in(house.new_browser(), "cleo").status == 303
    assert browser.post("/people/nobody/enable", {"csrf": token}).status == 404
    last = browser.post("/people/ann/disable", {"csrf": token, "was": "admin enabled"})
    assert (last.status, "last admin" in text_of(last.text)) == (422, True)


def test_end_by_the_api_is_in_the_name_of_the_account(house: House) -> None:
    """Whoever asks cannot say that it was somebody else."""
    program, header = house.new_browser(), f"Authorization: {bearer(house.gate, Role.ADMIN, Scope.WRITE, house.now_s)}"
    new = {"kind": "vm", "subject": "vm-idle", "until": "30d", "reason": "closing", "owner": "bob"}
    kept = program.call("POST", "/v1/exemptions", new, header).json["id"]
    assert program.call("DELETE", f"/v1/exemptions/{kept}?by=bob", None, header).status == 422
    assert program.call("DELETE", f"/v1/exemptions/{kept}", None, header).status == 204
    (told,) = program.get("/v1/exemptions?all=1", header).json["exemptions"]
    assert told["ended_by"] == "admin-ann"


def test_password_link_is_under_the_name_of_the_server(tmp_path: Path) -> None:
    """Who is to open it is at another machine than the admin, who may have come by a tunnel."""

    def named(config: ReportConfig) -> ReportConfig:
        return replace(config, serve=replace(config.serve, names=("fallow.example.org", "other.example.org")))

    with pages(tmp_path, [], role=Role.ADMIN, change=named) as house:
        token = form_token(house.browser.get("/account").text)
        house.gate.people.add("bob", Role.VIEWER, None, actor(house.now_s))
        for path, form in (("/people", {"name": "cleo", "role": "viewer"}), ("/people/bob/link", {})):
            page = house.browser.post(path, {"csrf": token, **form}).text
            assert re.search(r"http://fallow\.example\.org:8901/password/[A-Za-z0-9_-]{43}", page)
            assert "127.0.0.1" not in page


def test_stale_page_412(house: House) -> None:
    """A form about an account or an exemption that somebody changed since the page was made changes nothing."""
    browser, token = entered(house)
    stale = {"csrf": token, "was": "viewer enabled", "role": "admin"}
    house.gate.people.set_role("bob", Role.OPERATOR, actor(house.now_s))
    for path in ("/people/bob/role", "/people/bob/disable", "/people/bob/enable"):
        assert browser.post(path, stale).status == 412
        assert browser.post(path, {"csrf": token, "role": "admin"}).status == 412
    keep = {"csrf": token, "kind": "tag", "subject": "production", "until": "30d", "reason": "db", "owner": ""}
    assert browser.post("/exemptions", keep).status == 303
    page = browser.get("/exemptions").text
    (kept,) = re.findall(r'action="(/exemptions/[0-9a-f]+)/end"', page)
    version = form_version(page)
    assert browser.post(f"{kept}/renew", {"csrf": token, "version": version, "until": "60d"}).status == 303
    for form in ({"csrf": token, "version": version, "until": "90d"}, {"csrf": token, "until": "90d"}):
        for what in ("renew", "end"):
            got = browser.post(f"{kept}/{what}", form)
            assert (got.status, "look again" in text_of(got.text)) == (412, True)
    now = form_version(browser.get("/exemptions").text)
    assert browser.post(f"{kept}/end", {"csrf": token, "version": now}).status == 303


def test_account_is_named_where_nobody_else_is(house: House) -> None:
    """Who keeps something and names nobody is named, who ends it always; the record says who did it in any case."""
    browser, token = entered(house)
    form = {"csrf": token, "until": "30d", "reason": "closing", "owner": ""}
    assert browser.post("/vms/vm-idle/keep", form).status == 303
    page = browser.get("/exemptions").text
    assert "ann" in re.sub(r"<header.*</header>", "", page, flags=re.DOTALL)
    (kept,) = re.findall(r'action="(/exemptions/[0-9a-f]+)/end"', page)
    assert 'name="by"' not in page
    browser.post(f"{kept}/end", {"csrf": token, "version": form_version(page), "by": "bob"})
    assert "ended by ann" in text_of(browser.get("/exemptions?all=1").text)
    told = [(event.who, event.detail) for event in house.gate.people.events(limit=9) if event.what == "changed"]
    assert told[1] == ("ann", "POST /vms/{vm}/keep vm-idle")


def test_viewer_sees_no_forms_that_are_not_for_viewers(house: House) -> None:
    """Nothing is offered that would be refused."""
    browser, _ = entered(house, "bob")
    for path in ("/exemptions", "/vms/vm-idle"):
        page = browser.get(path).text
        assert re.findall(r'method="post" action="([^"]+)"', page) == ["/logout"]
        assert 'href="/people"' not in page


def test_cookies_are_secure_over_tls(tmp_path: Path) -> None:
    """They go over no plain connection, and are taken back the same way."""
    with pages(tmp_path, [], role=None, surface=Surface(secure=True)) as house:
        house.gate.people.add("ann", Role.ADMIN, PASSWORD, actor(house.now_s))
        got = house.browser.get("/login")
        assert got.headers["set-cookie"].endswith("; Secure")
        form = {"csrf": form_token(got.text), "account": "ann", "password": PASSWORD}
        assert house.browser.post("/login", form).status == 403
        body = "&".join(f"{name}={value.replace(' ', '+')}" for name, value in form.items()).encode()
        kind = "Content-Type: application/x-www-form-urlencoded"
        got = house.browser.ask("POST", "/login", kind, f"Origin: https://{house.browser.host}", body=body)
        assert (got.status, got.headers["set-cookie"].endswith("; Secure")) == (303, True)
