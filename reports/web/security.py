"""What keeps other people's pages and other names away from these pages. Pure.

Any page that a browser shows may send it here: by a name that points to this address (so the Host is checked), or by a
form, with the cookies of whoever sits before it (so the Origin and a token are checked).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from hmac import new as hmac

from aggregator.addresses import NO_PROXIES, Proxies
from aggregator.problems import Problem, Refused
from reports.people.sessions import cookie_value

COOKIE = "fallow_csrf"
CSRF_FIELD = "csrf"
CSRF_HEADER = "Fallow-Csrf"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_TARGET_CHARS = 2_000
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?\Z")
_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*\Z")
_COOKIE_VALUE = re.compile(r"[0-9a-f]{32}\Z")

# Plotly sets styles of its elements; scripts come from files of ours alone.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # With `no-referrer` a browser would send forms with the Origin `null`.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

HSTS: Mapping[str, str] = {"Strict-Transport-Security": "max-age=31536000"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """How browsers reach a server.

    Args:
        names: under which they may come, beside those of this machine; in lower case, without a port.
        secure: over TLS, spoken here or by the proxy in front.
        proxies: whose word on a client's address is taken.
    """

    names: Sequence[str] = ()
    secure: bool = False
    proxies: Proxies = field(default=NO_PROXIES)

    @property
    def scheme(self) -> str:
        return "https" if self.secure else "http"

    def check_host(self, host: str | None) -> str:
        """The origin that a request was sent to. Raises: Refused, 403: a name that is not one of this server's."""
        found = None if host is None else _HOST.match(host.lower())
        if found is None or (found[1] not in LOOPBACK_NAMES and found[1] not in self.names):
            raise Refused(
                Problem(
                    403,
                    "host",
                    "this is no name of this server: it has those of this machine (localhost, 127.0.0.1, [::1]) "
                    "and those in the setting names, with or without a port",
                )
            )
        return f"{self.scheme}://{found[0]}"


def check_origin(origin: str | None, own: str, site: str | None) -> None:
    """For a request that changes something. Programs that are no browser send neither origin nor site.

    Args:
        origin, site: the headers Origin and Sec-Fetch-Site.
        own: of `Surface.check_host`.

    Raises: Refused, 403: it comes from another site's page.
    """
    if (origin is not None and origin.lower() != own) or site not in {None, "same-origin", "none"}:
        raise Refused(Problem(403, "origin", "this was sent by a page of another site"))


def check_csrf(expected: str, given: str) -> None:
    """Raises Refused, 403: the form was not made by this server for this session."""
    if not expected or not compare_digest(expected.encode(), given.encode("utf-8", "replace")):
        raise _foreign_form()


def is_next_path(text: str) -> bool:
    """Whether it leads to this server, whatever a browser makes of it: no other host, no backslash, nothing unseen."""
    return len(text) <= MAX_TARGET_CHARS and _PATH.match(text) is not None


def next_path(text: str) -> str:
    """Where to go on after a log-in: an address of this server.

    Raises: Refused, 400: another server's, or one that a browser could take for that.
    """
    if not is_next_path(text):
        raise Refused(Problem(400, "next", "next is no address of these pages"))
    return text


class Csrf:
    """Tokens of the forms of those who are not logged in: the browser sends a cookie back, and the form what only this
    server makes of it. So nobody can be logged in as somebody else by another site's page.

    Args: secret: of this server; with another one, forms that are open have to be loaded again.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def cookie_of(self, header: str | None) -> str | None:
        """The value of our cookie in the header Cookie; None where there is no usable one."""
        return cookie_value(header, COOKIE, _COOKIE_VALUE)

    def make_cookie(self) -> str:
        """A value for a browser that has none."""
        return secrets.token_hex(16)

    def set_cookie(self, value: str, *, secure: bool) -> str:
        """The header Set-Cookie."""
        return f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"

    def token(self, cookie: str) -> str:
        """What forms of this browser carry."""
        return hmac(self._secret, cookie.encode(), sha256).hexdigest()

    def check(self, cookie: str | None, given: str) -> None:
        """Raises Refused, 403: the form was not made by this server for this browser."""
        check_csrf("" if cookie is None else self.token(cookie), given)


def _foreign_form() -> Refused:
    return Refused(Problem(403, "csrf", "the form is not of this server, or older than its start: load it again"))
