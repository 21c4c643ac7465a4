"""Who may ask the pages' server: names of this machine, pages of this server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.problems import Refused
from reports.web.security import COOKIE, HEADERS, Csrf, check_host, check_origin, is_loopback


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8901", "127.0.0.1", "127.0.0.1:8901", "[::1]", "[::1]:1", "localhost:65535"]
)
def test_names_of_this_machine_are_taken(host: str) -> None:
    """With or without a port: a tunnel gives the server another one."""
    check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        *(None, "", "evil.example", "evil.example:8901", "127.0.0.1.evil.example", "localhost.evil.example"),
        *(
            "localhost:8901@evil.example",
            "localhost:",
            "localhost:123456",
            "127.0.0.1\n",
            "::1",
            "0.0.0.0",
            "127.0.0.2",
        ),
        *("[::1", "localhost:80:80", "xlocalhost"),
    ],
)
def test_other_names_are_refused(host: str | None) -> None:
    """A name of somebody else that points here is how other people's pages would read these (DNS rebinding)."""
    with pytest.raises(Refused) as refused:
        check_host(host)
    assert refused.value.problem.status == 403


@given(host=st.text(max_size=30))
def test_no_other_name_slips_through(host: str) -> None:
    """Whatever is taken begins with one of the three names and has at most a port behind it."""
    try:
        check_host(host)
    except Refused:
        return
    name, _, port = host.lower().rpartition(":") if host[-1:].isdigit() and ":" in host else (host.lower(), "", "")
    assert name in {"localhost", "127.0.0.1", "[::1]"} or host.lower() in {"localhost", "127.0.0.1", "[::1]"}
    assert port == "" or port.isdigit()


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8901", "HTTP://127.0.0.1:8901"])
@pytest.mark.parametrize("site", [None, "same-origin", "none"])
def test_own_pages_may_post(origin: str | None, site: str | None) -> None:
    """The server's own origin, or none from a program that is no browser."""
    check_origin(origin, "127.0.0.1:8901", site)


@pytest.mark.parametrize(
    ("origin", "site"),
    [
        *(("http://evil.example", None), ("null", None), ("http://127.0.0.1:8902", None), ("", None)),
        *(("https://127.0.0.1:8901", None), ("http://localhost:8901", None)),
        *((None, "cross-site"), (None, "same-site"), ("http://127.0.0.1:8901", "cross-site")),
    ],
)
def test_other_pages_may_not_post(origin: str | None, site: str | None) -> None:
    """Another site, another port of this machine and a page without origin are all somebody else."""
    with pytest.raises(Refused) as refused:
        check_origin(origin, "127.0.0.1:8901", site)
    assert refused.value.problem.status == 403


def test_token_goes_with_its_cookie_and_server() -> None:
    """A form is taken with the token made for this cookie by this server, and with no other."""
    csrf = Csrf()
    cookie, other = csrf.make_cookie(), csrf.make_cookie()
    assert cookie != other
    csrf.check(cookie, csrf.token(cookie))
    for given_cookie, token in (
        (None, csrf.token(cookie)),
        (other, csrf.token(cookie)),
        (cookie, ""),
        (cookie, "ü"),
        (cookie, Csrf().token(cookie)),
        (cookie, csrf.token(cookie)[:-1]),
    ):
        with pytest.raises(Refused) as refused:
            csrf.check(given_cookie, token)
        assert refused.value.problem.status == 403


def test_cookie_is_found_among_others() -> None:
    """Only a value that this server can have made counts as one."""
    csrf = Csrf()
    value = csrf.make_cookie()
    assert csrf.cookie_of(f"a=b; {COOKIE}={value}; c=d") == value
    assert csrf.cookie_of(f"{COOKIE}=short") is None
    assert csrf.cookie_of(f"{COOKIE}={value.upper()}x") is None
    assert csrf.cookie_of(None) is None
    assert csrf.cookie_of("\x00;;=") is None
    made = csrf.set_cookie(value)
    assert "HttpOnly" in made
    assert "SameSite=Lax" in made


def test_scripts_come_from_files_alone() -> None:
    """No inline script, nobody's frame, nothing from elsewhere."""
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["form-action"] == "'self'"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.1.5", False), ("example.org", False), ("", False)),
    ],
)
def test_loopback_is_told_from_the_network(host: str, *, loopback: bool) -> None:
    """Without a login nothing but this machine may reach the pages."""
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    "other",
    ['grafana={"a":1}', "odd name=1", "=x", "x", 'q="a', f"{COOKIE}=short", f"not{COOKIE}={'0' * 32}", "a[1]=@,"],
)
def test_cookies_of_others_hide_none_of_ours(other: str) -> None:
    """Other programs on localhost set whatever they like beside it."""
    csrf = Csrf()
    made = csrf.make_cookie()
    assert csrf.cookie_of(f"{other}; {COOKIE}={made}") == made
    assert csrf.cookie_of(f"{COOKIE}={made};{other}") == made
    assert csrf.cookie_of(other) is None
