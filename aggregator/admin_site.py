"""twisted.web with the bounds it lacks: a body limit, one deadline for a whole request, no forms, no HTTP/2."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from aggregator.problems import Problem

MAX_BODY_BYTES = 64 << 10
REQUEST_DEADLINE_S = 60


class BoundedRequest(Request):
    """Holds a body of up to MAX_BODY_BYTES in memory; over it 413 and the end of the connection."""

    def gotLength(self, length: int | None) -> None:
        """Never a temporary file: a full disk would drop the connection without an answer."""
        self.content = self._body = BytesIO()
        self._received_bytes = 0
        if length is not None and length > MAX_BODY_BYTES:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """Counts what comes; nothing is kept once it is too much."""
        was_bytes, self._received_bytes = self._received_bytes, self._received_bytes + len(data)
        if self._received_bytes <= MAX_BODY_BYTES:
            self._body.write(data)
        elif was_bytes <= MAX_BODY_BYTES:
            self._refuse()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """What was refused does not act, even if all of it came before the connection ended."""
        if self._received_bytes <= MAX_BODY_BYTES:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]

    def _refuse(self) -> None:
        self._received_bytes = MAX_BODY_BYTES + 1
        body = Problem(413, "too-large", f"the body is over {MAX_BODY_BYTES} bytes").body()
        head = b"HTTP/1.1 413 Content Too Large\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
        channel: Any = self.channel
        channel.transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        channel.loseConnection()


class BoundedChannel(HTTPChannel):
    """A connection whose time-out runs from its start, or from the answer before, to the end of a request."""

    def resetTimeout(self) -> None:
        """Called at every byte: a byte buys no time."""


class AdminSite(Site):
    """A site of one leaf resource, silent about the requests it answers."""

    protocol = BoundedChannel  # type: ignore[assignment]  # the base class names its own wrapper

    def __init__(self, resource: Resource, *, reactor: Any) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            resource,
            requestFactory=BoundedRequest,
            parsePOSTFormSubmission=False,
            timeout=REQUEST_DEADLINE_S,
            reactor=reactor,
        )

    def log(self, _request: object) -> None:
        """A scrape a minute and a poll every few seconds are no news."""
