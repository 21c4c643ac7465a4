"""What keeps other people's pages and other names away from these pages, which have no login yet. Pure.

Only a browser on this machine reaches a loopback address, but any page that it shows may send it there: by a name that
points to 127.0.0.1 (so the Host is checked), or by a form (so the Origin and a token are checked).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest
from hmac import new as hmac
from ipaddress import ip_address

from aggregator.problems import Problem, Refused

COOKIE = "fallow_csrf"
CSRF_FIELD = "csrf"
_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?\Z")
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


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_host(host: str | None) -> None:
    """Raises Refused, 403: a name that is not one of this machine's own."""
    if host is None or not _HOST.match(host.lower()):
        raise Refused(
            Problem(403, "host", "only localhost, 127.0.0.1 and [::1] are names of this server, with or without a port")
        )


def check_origin(origin: str | None, host: str | None, site: str | None) -> None:
    """For a request that changes something. Programs that are no browser send neither origin nor site.

    Args:
        origin, host, site: the headers Origin, Host and Sec-Fetch-Site.

    Raises: Refused, 403: it comes from another site's page.
    """
    if (origin is not None and origin.lower() != f"http://{(host or '').lower()}") or site not in {
        None,
        "same-origin",
        "none",
    }:
        raise Refused(Problem(403, "origin", "this was sent by a page of another site"))


class Csrf:
    """Tokens of forms: the browser sends a cookie back, and the form what only this server makes of it.

    Args: secret: of this server; with another one, forms that are open have to be loaded again.
    """

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)

    def cookie_of(self, header: str | None) -> str | None:
        """The value of our cookie in the header Cookie; None where there is no usable one."""
        # By hand: the standard library gives up at the first odd cookie, and other programs on localhost set such.
        for part in (header or "").split(";"):
            name, _, value = part.partition("=")
            if name.strip(" \t") == COOKIE and _COOKIE_VALUE.match(value.strip(" \t")):
                return value.strip(" \t")
        return None

    def make_cookie(self) -> str:
        """A value for a browser that has none."""
        return secrets.token_hex(16)

    def set_cookie(self, value: str) -> str:
        """The header Set-Cookie."""
        return f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax"

    def token(self, cookie: str) -> str:
        """What forms of this browser carry."""
        return hmac(self._secret, cookie.encode(), sha256).hexdigest()

    def check(self, cookie: str | None, given: str) -> None:
        """Raises Refused, 403: the form was not made by this server for this browser."""
        if cookie is None or not compare_digest(self.token(cookie).encode(), given.encode()):
            raise Refused(
                Problem(403, "csrf", "the form is not of this server, or older than its start: load it again")
            )
