"""Speaking to a site through a transport in memory: no sockets, no threads, no waiting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport
from twisted.web.server import Site

from reports.web.security import CSRF_HEADER
from tests.aggregator.admin_fakes import InlineReactor

HOST = "127.0.0.1:8901"
# Twisted's own is not typed.
new_transport: Any = StringTransport


@dataclass(frozen=True, slots=True)
class Got:
    """A response, as the peer reads it. Names of headers are in lower case; the last of several counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class Browser:
    """Sends requests to a site and keeps the cookies it is given.

    Attributes: csrf: what its programs send beside a cookie, as scripts of a page do.
    """

    def __init__(self, site: Site, reactor: InlineReactor, *, host: str = HOST) -> None:
        self.site: Any = site
        self._reactor = reactor
        self.host = host
        self.cookies: dict[str, str] = {}
        self.csrf = ""

    @property
    def cookie(self) -> str | None:
        """All of them, as they are sent; None without any."""
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items()) or None

    @cookie.setter
    def cookie(self, header: str | None) -> None:
        parts = [part.partition("=") for part in (header or "").split("; ") if part]
        self.cookies = {name: value for name, _, value in parts}

    def ask(self, method: str, target: str, *headers: str, body: bytes = b"", host: str | None = None) -> Got:
        """One request as it is given, with `Host` and the cookies."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host if host is None else host}"]
        if self.cookie is not None:
            lines.append(f"Cookie: {self.cookie}")
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, *headers, "Connection: close", "", ""])
        return self.raw(head.encode("latin-1") + body)

    def raw(self, data: bytes) -> Got:
        """Bytes as they are."""
        protocol = self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50_000))
        transport = new_transport(peerAddress=IPv4Address("TCP", "127.0.0.1", 50_000))
        protocol.makeConnection(transport)
        protocol.dataReceived(data)
        got = parse(transport.value())
        if (made := got.headers.get("set-cookie")) is not None:
            name, _, value = made.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if value:
                self.cookies[name] = value
        return got

    def get(self, target: str, *headers: str) -> Got:
        """A page."""
        return self.ask("GET", target, *headers)

    def post(self, target: str, fields: Mapping[str, str], *headers: str) -> Got:
        """A form, as a browser sends it from a page of this server."""
        sent = ("Content-Type: application/x-www-form-urlencoded", f"Origin: http://{self.host}", *headers)
        return self.ask("POST", target, *sent, body=urlencode(fields).encode())

    def call(self, method: str, target: str, document: object = None, *headers: str) -> Got:
        """The API, as a program uses it, or a script of a page where there is a cookie."""
        sent = (*headers, f"{CSRF_HEADER}: {self.csrf}") if self.csrf else headers
        if document is None:
            return self.ask(method, target, *sent)
        return self.ask(method, target, "Content-Type: application/json", *sent, body=json.dumps(document).encode())


def parse(data: bytes) -> Got:
    """A response out of what was written."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Got(int(first.split(" ")[1]), headers, body)
