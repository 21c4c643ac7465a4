"""Bytes of one connection → requests, with every limit on the way in. Pure: no socket, no clock.

httptools (llhttp, strict) does the grammar and refuses a bare CR or LF, folded headers, two or malformed
Content-Lengths, and Content-Length beside Transfer-Encoding. It takes a missing Host, unbounded headers and
bodies, and upgrades: those are refused here. After a framing error nothing of the connection is read any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

import httptools
import msgspec

from agent.wire import MAX_BODY_BYTES
from aggregator.http_push import whole_push
from aggregator.problems import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds of one request: its headers all together, and its body as sent."""

    head_bytes: int = 16 * 1024
    body_bytes: int = MAX_BODY_BYTES


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request, whole.

    Args:
        method: `POST`, as sent.
        path: without query.
        authorization: value of that header, b"" if absent; so are the next three.
        fallow_vm: id of the VM the push is about.
        content_type: of the body.
        content_encoding: of the body.
        body: as sent, chunks joined.
        keep_alive: the peer wants to go on with this connection.
        forwarded_for: value of `X-Forwarded-For`, lines joined; to be believed of proxies alone.
        fallow_dropped: how many samples the agent has given up so far; b"" for none.
    """

    method: bytes
    path: bytes
    authorization: bytes
    fallow_vm: bytes
    content_type: bytes
    content_encoding: bytes
    body: bytes
    keep_alive: bool
    forwarded_for: bytes = b""
    fallow_dropped: bytes = b""


class Interim(Enum):
    """What is to be said while a request is still coming in."""

    CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


Event = Request | Problem | Interim

_FORWARDED_FOR: Final = b"x-forwarded-for"
# Read by us; each may come once, since two would let two readers disagree. Proxies may add a line each of the last.
_WANTED: Final = frozenset(
    (
        b"host",
        b"authorization",
        b"fallow-vm",
        b"fallow-dropped",
        b"content-type",
        b"content-encoding",
        b"content-length",
        b"transfer-encoding",
        b"expect",
        b"connection",
        _FORWARDED_FOR,
    )
)


class _StopError(Exception):
    """Leaves httptools from a callback; the reason is in `_problem`."""


class RequestParser:
    """Turns the bytes of one connection into requests.

    `feed` is handed whatever came in and returns what is complete by then. After a `Problem`, or a request
    without `keep_alive`, the connection is over and further bytes are ignored.

    Attributes:
        between: nothing of a next request has come yet.
        ended: nothing more will come out.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_events",
        "_head_bytes",
        "_head_is_whole",
        "_headers",
        "_limits",
        "_parser",
        "_problem",
        "_progress",
        "_silent_bytes",
        "_url",
        "between",
        "ended",
    )

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._events: list[Event] = []
        self._problem: Problem | None = None
        self._silent_bytes = 0
        self._progress = False
        self.between = True
        self.ended = False
        self.on_message_begin()
        self.between = True

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes; returns what they completed, in order."""
        if self.ended:
            return []
        if self.between and not self._silent_bytes:
            limits = self._limits
            parts = whole_push(data, head_bytes=limits.head_bytes, body_bytes=limits.body_bytes)
            if parts is not None:
                authorization, vm, content_type, encoding, dropped, forwarded_for, body = parts
                return [
                    Request(
                        b"POST",
                        b"/v1/samples",
                        authorization,
                        vm,
                        content_type,
                        encoding,
                        body,
                        True,
                        forwarded_for,
                        dropped,
                    )
                ]
        self._progress = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse_upgrade()
        except httptools.HttpParserError as error:
            self._refuse_broken(error)
        else:
            if self._progress:
                self._silent_bytes = 0
            else:
                # A header without an end lies in httptools until it ends: bound what no callback has shown.
                self._silent_bytes += len(data)
                if self._silent_bytes > self._limits.head_bytes and not self.between:
                    self._end(self._head_too_large())
        events = self._events
        if events:
            self._events = []
        return events

    @property
    def unfinished_bytes(self) -> int:
        """What is held of the body of a request that is not whole yet."""
        return 0 if self.between else self._body_bytes

    # httptools calls these.

    def on_message_begin(self) -> None:
        self.between = False
        self._progress = True
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._head_bytes = 0
        self._head_is_whole = False
        self._body: bytes | bytearray = b""
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._head_bytes += len(url)
        if self._head_bytes > self._limits.head_bytes:
            self._stop(self._head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._limits.head_bytes:
            self._stop(self._head_too_large())
        if self._head_is_whole:
            # A trailer. A proxy that vouches for headers lets these pass: they say nothing of who asks.
            return
        name = name.lower()
        if name in _WANTED:
            headers = self._headers
            if name in headers:
                if name != _FORWARDED_FOR:
                    self._stop(_broken(f"{name.decode()}: comes twice"))
                value = headers[name] + b", " + value
            headers[name] = value.strip()

    def on_headers_complete(self) -> None:
        self._progress = self._head_is_whole = True
        headers = self._headers
        if not headers.get(b"host") and (b"host" in headers or self._parser.get_http_version() != "1.0"):
            self._stop(_broken("host: is missing"))
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            self._stop(self._body_too_large())
        if b"transfer-encoding" in headers:
            self._check_transfer_encoding(headers[b"transfer-encoding"])
        if b"connection" in headers and self._parser.get_http_version() not in ("1.0", "1.1"):
            self._stop(Problem(505, "http-version", "only HTTP/1.1 and HTTP/1.0 are spoken here", close=True))
        if b"expect" in headers:
            self._answer_expectation(headers[b"expect"])

    def on_body(self, body: bytes) -> None:
        self._progress = True
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            self._stop(self._body_too_large())
        if not self._body:
            self._body = body
        else:
            # Not a list of the pieces: of two bytes each they would take twenty times their size.
            if not isinstance(self._body, bytearray):
                self._body = bytearray(self._body)
            self._body += body

    def on_message_complete(self) -> None:
        self._progress = True
        self.between = True
        parser = self._parser
        keep_alive = parser.should_keep_alive()
        path = self._url
        if b"?" in path or not path.startswith(b"/"):
            path = _path_of(path)
        body = self._body
        header = self._headers.get
        self._events.append(
            Request(
                parser.get_method(),
                path,
                header(b"authorization", b""),
                header(b"fallow-vm", b""),
                header(b"content-type", b""),
                header(b"content-encoding", b""),
                bytes(body),
                keep_alive,
                header(_FORWARDED_FOR, b""),
                header(b"fallow-dropped", b""),
            )
        )
        if not keep_alive:
            self.ended = True

    # What is refused, and how.

    def _check_transfer_encoding(self, value: bytes) -> None:
        if self._parser.get_http_version() == "1.0":
            self._stop(_broken("transfer-encoding: does not exist in HTTP/1.0"))
        if value.lower() != b"chunked":
            self._stop(Problem(501, "transfer-encoding", "transfer-encoding: only chunked is understood", close=True))

    def _answer_expectation(self, value: bytes) -> None:
        if value.lower() != b"100-continue":
            self._stop(Problem(417, "expectation", "expect: only 100-continue is understood", close=True))
        headers = self._headers
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            self._events.append(Interim.CONTINUE)

    def _refuse_upgrade(self) -> None:
        # The request itself was complete; it must not be answered as if nothing had been asked.
        if self._events and isinstance(self._events[-1], Request):
            self._events.pop()
        self._end(Problem(501, "upgrade", "this connection speaks HTTP/1.1 and nothing else", close=True))

    def _refuse_broken(self, error: Exception) -> None:
        if self._problem is not None:
            self._end(self._problem)
        elif not self.ended:  # else: bytes after the last request of the connection
            self._end(_broken(str(error)))

    def _head_too_large(self) -> Problem:
        return Problem(
            431, "headers-too-large", f"the headers are larger than {self._limits.head_bytes} bytes", close=True
        )

    def _body_too_large(self) -> Problem:
        return Problem(413, "body-too-large", f"the body is larger than {self._limits.body_bytes} bytes", close=True)

    def _stop(self, problem: Problem) -> None:
        self._problem = problem
        raise _StopError

    def _end(self, problem: Problem) -> None:
        self.ended = True
        self._events.append(problem)


def _broken(detail: str) -> Problem:
    return Problem(400, "http", detail, close=True)


def _path_of(target: bytes) -> bytes:
    """Path of a request target; of `http://host/path?query` too."""
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            return target
        target = b"/" + rest.partition(b"/")[2]
    return target.partition(b"?")[0]
