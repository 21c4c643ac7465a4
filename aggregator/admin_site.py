"""twisted.web with the bounds it lacks: strict framing, sizes, deadlines that bytes do not move, few connections.

What is refused here is answered as a problem document. Every answer carries the headers that browsers go by, unless
the one who made it said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from twisted.internet.interfaces import IAddress
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from aggregator.addresses import NO_PROXIES, PerAddress, Proxies, peer_of
from aggregator.answers import render_problem
from aggregator.problems import Problem

MAX_BODY_BYTES = 64 << 10
MAX_HEAD_BYTES = 16 << 10
REQUEST_DEADLINE_S = 60
_RETRY_S = 5
_HSTS: Final = ("Strict-Transport-Security", "max-age=31536000")
# What an answer that is no page of ours needs: nothing of it is run, embedded, kept or told to others.
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """Bounds of a site.

    Attributes:
        connections: open at once; one above is answered 503 and closed.
        per_address: the same of one address, but for loopback and proxies: 429.
        request_s: from a connection's start, or the answer before, to a request's last byte; and to take an answer.
        answer_s: how long making an answer may take; a flush of a large fleet takes minutes.
        linger_s: how long what still comes after a refusal is read and thrown away, so that the answer arrives.
    """

    connections: int = 512
    per_address: int = 256
    request_s: float = REQUEST_DEADLINE_S
    answer_s: float = 900.0
    linger_s: float = 5.0


class BoundedRequest(Request):
    """Holds a body of up to MAX_BODY_BYTES in memory; over it 413 and the end of the connection."""

    channel: Any

    def gotLength(self, length: int | None) -> None:  # noqa: ARG002
        """Never a temporary file: a full disk would drop the connection without an answer."""
        self.content = self._body = BytesIO()
        self._received_bytes = 0

    def handleContentChunk(self, data: bytes) -> None:
        """Counts what comes; nothing is kept once it is too much."""
        self._received_bytes += len(data)
        if self._received_bytes <= MAX_BODY_BYTES:
            self._body.write(data)
        else:
            self.channel.refuse(_BODY_TOO_LARGE)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """What was refused does not act, even if all of it came before the connection ended."""
        if not self.channel.is_refused:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]


class BoundedChannel(HTTPChannel):
    """A connection. Its time-outs run from a part of a request to its end: a byte buys no time.

    Attributes:
        is_refused: nothing more is read as a request.
        peer: address at the other end; empty where there is none.
        group: what `peer` is counted as.
    """

    site: AdminSite
    requests: list[BoundedRequest]
    maxHeaders = MAX_HEAD_BYTES  # noqa: N815 - Twisted's name; bytes are counted here, not lines

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_refused = False
        self.peer = ""
        self.group = ""
        self._head_bytes = 0
        self._abort_call: Any = None

    def connectionMade(self) -> None:
        """Takes the connection, or refuses it when there are too many."""
        super().connectionMade()  # type: ignore[no-untyped-call]
        problem = self.site.admit(self)
        if problem is not None:
            if self.site.is_overrun(self):
                self.is_refused = True
                self._transport.abortConnection()
            else:
                self.refuse(problem)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The connection is gone."""
        if self._abort_call is not None:
            self._abort_call.cancel()
            self._abort_call = None
        self.site.left(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:
        """After a refusal what still comes is thrown away."""
        if not self.is_refused:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def resetTimeout(self) -> None:
        """Called at every byte, which buys no time."""

    # Framing: what twisted.web takes and another reader before it may understand differently.

    def lineReceived(self, line: bytes) -> None:
        """Counts what the head takes, and refuses lines that go on in the next."""
        if self.is_refused:
            return
        self._head_bytes += len(line) + len(b"\r\n")
        if self._head_bytes > MAX_HEAD_BYTES:
            self.refuse(_HEAD_TOO_LARGE)
        elif line[:1] in {b" ", b"\t"}:
            self.refuse(_broken("a header is folded"))
        else:
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        """A line that does not end."""
        self.refuse(_HEAD_TOO_LARGE)

    def rawDataReceived(self, data: bytes) -> None:
        """A body, or what waits for the answer before it."""
        if not self.is_refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        """The head is whole."""
        self._head_bytes = 0
        headers = self.requests[-1].requestHeaders
        hosts = headers.getRawHeaders(b"host") or []
        if len(hosts) > 1 or not (hosts[0] if hosts else self._version == b"HTTP/1.0"):
            self.refuse(_broken("host: is missing, empty or comes twice"))
        elif headers.hasHeader(b"transfer-encoding") and (self.length is not None or self._version == b"HTTP/1.0"):
            self.refuse(_broken("transfer-encoding: only chunked is understood, and in HTTP/1.1"))
        elif self.length is not None and self.length > MAX_BODY_BYTES:
            self.refuse(_BODY_TOO_LARGE)
        else:
            super().allHeadersReceived()  # type: ignore[no-untyped-call]

    def _respondToBadRequestAndDisconnect(self) -> None:
        # twisted.web's own is a bare status line.
        self.refuse(_broken("this is not HTTP/1.1 as it is written"))

    # Time.

    def allContentReceived(self) -> None:
        """The request is whole; twisted.web would now wait for its answer without end."""
        super().allContentReceived()  # type: ignore[no-untyped-call]
        # Not where only the beginning of a next request has come.
        if self.requests and self._handlingRequest and not self.is_refused:
            self.setTimeout(self.site.limits.answer_s)  # type: ignore[no-untyped-call]

    def timeoutConnection(self) -> None:
        """A request that did not come in time, an answer that was not made or taken, or nothing was asked."""
        if not self.requests:
            self._abort_later(self.site.limits.linger_s)
            self.loseConnection()
        elif self._handlingRequest:
            self.refuse(Problem(503, "too-slow", "this took too long here", retry_after_s=_RETRY_S, close=True))
        else:
            seconds = self.site.limits.request_s
            self.refuse(Problem(408, "too-slow", f"no whole request in {seconds:g} s", close=True))

    def loseConnection(self) -> None:
        """Closes once all is sent, or without that where the peer does not read."""
        self._abort_later(self.site.limits.request_s)
        super().loseConnection()  # type: ignore[no-untyped-call]

    def _abort_later(self, seconds: float) -> None:
        if self._abort_call is None:
            self._abort_call = self.callLater(seconds, self._abort)  # type: ignore[no-untyped-call]

    def _abort(self) -> None:
        self._abort_call = None
        self._transport.abortConnection()

    # Answers.

    def refuse(self, problem: Problem) -> None:
        """Answers with a problem and ends the connection; only the first one counts."""
        if self.is_refused:
            return
        self.is_refused = True
        self.setTimeout(None)  # type: ignore[no-untyped-call]
        self.clearLineBuffer()  # type: ignore[no-untyped-call]
        headers = self.site.headers(is_secure=self.isSecure())  # type: ignore[no-untyped-call]
        transport = self._transport
        transport.write(
            render_problem(
                problem, close=True, headers={name.encode(): value.encode() for name, value in headers.items()}
            )
        )
        self._abort_later(self.site.limits.linger_s)
        if isinstance(transport, Connection):  # and not one wrapped in TLS
            # Unread input would make the kernel throw the answer away: read it first.
            self._networkProducer.unregisterProducer()
            transport.loseWriteConnection()  # type: ignore[no-untyped-call]
            transport.startReading()  # type: ignore[no-untyped-call]
        else:
            self.loseConnection()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Headers) -> None:
        """Adds what an answer of ours always has."""
        for name, value in self.site.headers(is_secure=self.isSecure()).items():  # type: ignore[no-untyped-call]
            if not headers.hasHeader(name):
                headers.setRawHeaders(name, [value])
        headers.setRawHeaders("Server", ["fallow"])
        super().writeHeaders(version, code, reason, headers)  # type: ignore[no-untyped-call]

    def _send100Continue(self) -> None:
        if not self.is_refused:
            super()._send100Continue()  # type: ignore[no-untyped-call]

    @property
    def _transport(self) -> Any:
        return self.transport


class AdminSite(Site):
    """A site of one leaf resource, silent about the requests it answers.

    Args:
        reactor: tells the time.
        limits: bounds.
    """

    protocol = BoundedChannel  # type: ignore[assignment]  # the base class names its own wrapper

    def __init__(self, resource: Resource, *, reactor: Any, limits: SiteLimits | None = None) -> None:
        self.limits = limits or SiteLimits()
        super().__init__(  # type: ignore[no-untyped-call]
            resource,
            requestFactory=BoundedRequest,
            parsePOSTFormSubmission=False,
            timeout=self.limits.request_s,
            reactor=reactor,
        )
        self._open = 0
        self._refused_at_once = self.limits.connections + max(1, self.limits.connections // 20)
        self.trust(NO_PROXIES)

    def trust(self, proxies: Proxies, *, is_https: bool = False) -> None:
        """Says what stands before the site. To be called before it listens.

        Args:
            proxies: whose connections are not counted by address.
            is_https: browsers come by https, also where a proxy ends TLS before it.
        """
        self._is_https = is_https
        self._per_address = PerAddress(self.limits.per_address, proxies)

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS may agree upon: HTTP/2 is not spoken here, whatever is installed."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A connection from `addr`."""
        channel: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        channel.peer = peer_of(addr)
        return channel

    def admit(self, channel: BoundedChannel) -> Problem | None:
        """Counts a new connection in. Returns why it is one too many, None: it is not."""
        self._open += 1
        channel.group = self._per_address.enter(channel.peer)
        if self._open > self.limits.connections:
            return Problem(503, "connections", "too many connections", retry_after_s=_RETRY_S, close=True)
        if self._per_address.is_over(channel.group):
            detail = f"too many connections from {channel.peer}"
            return Problem(429, "per-address", detail, retry_after_s=_RETRY_S, close=True)
        return None

    def is_overrun(self, channel: BoundedChannel) -> bool:
        """So many are being refused that there is no room to tell them."""
        return self._open > self._refused_at_once or self._per_address.is_overrun(channel.group)

    def left(self, channel: BoundedChannel) -> None:
        """Counts a connection out."""
        self._open -= 1
        self._per_address.leave(channel.group)

    def headers(self, *, is_secure: bool) -> Mapping[str, str]:
        """What every answer has, unless it says otherwise. Args: is_secure: the connection is TLS."""
        if is_secure or self._is_https:
            return {**SECURITY_HEADERS, _HSTS[0]: _HSTS[1]}
        return SECURITY_HEADERS

    def log(self, _request: object) -> None:
        """A scrape a minute and a poll every few seconds are no news."""


_BODY_TOO_LARGE = Problem(413, "too-large", f"the body is over {MAX_BODY_BYTES} bytes", close=True)
_HEAD_TOO_LARGE = Problem(431, "headers-too-large", f"the headers are larger than {MAX_HEAD_BYTES} bytes", close=True)


def _broken(detail: str) -> Problem:
    return Problem(400, "http", detail, close=True)
