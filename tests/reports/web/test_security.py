"""Who may ask the pages' server: names of this machine, pages of this server."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.problems import Refused
from reports.web.security import COOKIE, HEADERS, Csrf, Surface, check_csrf, check_origin, is_next_path, next_path


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8901", "127.0.0.1", "127.0.0.1:8901", "[::1]", "[::1]:1", "localhost:65535"]
)
def test_names_of_this_machine_are_taken(host: str) -> None:
    """With or without a port: a tunnel gives the server another one."""
    assert Surface().check_host(host) == f"http://{host.lower()}"


def test_configured_names_are_taken() -> None:
    """Those alone, with any port, whatever the case; over TLS the origin is one of https."""
    surface = Surface(names=("fallow.example.org",), secure=True)
    assert surface.check_host("Fallow.example.org:443") == "https://fallow.example.org:443"
    for host in ("example.org", "xfallow.example.org", "fallow.example.org.evil.example", "fallow.example.org."):
        with pytest.raises(Refused):
            surface.check_host(host)


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
        Surface().check_host(host)
    assert refused.value.problem.status == 403


@given(host=st.text(max_size=30))
def test_no_other_name_slips_through(host: str) -> None:
    """Whatever is taken begins with one of the three names and has at most a port behind it."""
    try:
        Surface().check_host(host)
    except Refused:
        return
    name, _, port = host.lower().rpartition(":") if host[-1:].isdigit() and ":" in host else (host.lower(), "", "")
    assert name in {"localhost", "127.0.0.1", "[::1]"} or host.lower() in {"localhost", "127.0.0.1", "[::1]"}
    assert port == "" or port.isdigit()


@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:8901", "HTTP://127.0.0.1:8901"])
@pytest.mark.parametrize("site", [None, "same-origin", "none"])
def test_own_pages_may_post(origin: str | None, site: str | None) -> None:
    """The server's own origin, or none from a program that is no browser."""
    check_origin(origin, "http://127.0.0.1:8901", site)


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
        check_origin(origin, "http://127.0.0.1:8901", site)
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


def test_session_without_a_secret_takes_no_form() -> None:
    """An empty token is never the right one, though nothing was expected."""
    check_csrf("secret", "secret")
    for expected, sent in (("", ""), ("secret", ""), ("secret", "Secret"), ("secret", "\ud800")):
        with pytest.raises(Refused):
            check_csrf(expected, sent)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "//evil.example",
            "\\\\evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "http://evil.example",
            "https:evil",
        ),
        *(
            "javascript:alert(1)",
            "",
            "vms",
            " /vms",
            "/vms\n",
            "/\t/evil.example",
            "/vms\x00",
            "/ä",
            "/a b",
            "/" + "a" * 2000,
        ),
        *("///evil.example", "/\r\nSet-Cookie: a=b", "?a=b", "#a", "@evil.example"),
    ],
)
def test_next_evil_400(text: str) -> None:
    """What a browser could take for another site, or a header for its end, is refused."""
    with pytest.raises(Refused) as refused:
        next_path(text)
    assert refused.value.problem.status == 400


@given(text=st.text(alphabet="/\\ab.:@?#%\t\n\r ", max_size=12))
def test_next_stays_here(text: str) -> None:
    """Whatever is taken, a browser that stands on a page of ours stays on this server."""
    if is_next_path(text):
        assert urlsplit(urljoin("https://here.example/login", text)).netloc == "here.example"
        assert text.startswith("/")
        assert not text.startswith(("//", "/\\"))


@pytest.mark.parametrize("text", ["/", "/vms?search=a%20b&page=2", "/vms/a%2Fb", "/policies#p95"])
def test_own_addresses_may_be_next(text: str) -> None:
    """Where people were going is where they go on."""
    assert next_path(text) == text


def test_cookie_is_found_among_others() -> None:
    """Only a value that this server can have made counts as one."""
    csrf = Csrf()
    value = csrf.make_cookie()
    assert csrf.cookie_of(f"a=b; {COOKIE}={value}; c=d") == value
    assert csrf.cookie_of(f"{COOKIE}=short") is None
    assert csrf.cookie_of(f"{COOKIE}={value.upper()}x") is None
    assert csrf.cookie_of(None) is None
    assert csrf.cookie_of("\x00;;=") is None
    made = csrf.set_cookie(value, secure=False)
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
