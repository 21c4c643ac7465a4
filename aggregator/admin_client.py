"""Asking an aggregator that runs: requests to its admin door, with plain reasons where it does not answer."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from agent.link import Server, parse_server, tls_context
from agent.settings import ConfigError, read_secret

ADMIN_PORT = 8900
DEFAULT_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 32 << 20
_CHUNK_BYTES = 64 << 10


class AdminUnavailable(Exception):
    """The aggregator gave no answer that can be used. `reason`: a sentence in plain words, without the token."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAnswer:
    """A response; `body` as it came, `etag` without its quotes, empty where there is none."""

    status: int
    body: bytes
    etag: str = ""

    @property
    def problem(self) -> tuple[str, str]:
        """Reason and detail of a problem document, both empty where the body is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return "", ""
        if not isinstance(document, dict):
            return "", ""
        return str(document.get("type", "")).rpartition(":")[2], str(document.get("detail", ""))


def parse_admin_url(text: object) -> Server:
    """`http://127.0.0.1:8900`; the port may be left out. Raises: ValueError: anything but scheme, host and port."""
    server = parse_server(text)
    return server if urlsplit(str(text)).port is not None else replace(server, port=ADMIN_PORT)


class AdminClient:
    """Reads from one admin door. Every question is a connection of its own, so any thread may ask; it blocks.

    Args:
        url: as `parse_admin_url` takes it. Proxies of the environment are not used.
        token_file: `admin.token`, read anew at each question: an aggregator that begins anew may have another.
        timeout_s: for connecting, for each wait, and for the answer as a whole.
        clock: seconds that never go back.
        ca: PEM authorities of the door's certificate; None: the system's.
        max_bytes: of an answer.

    Raises: ValueError: `url` is none.
    """

    def __init__(
        self,
        url: str,
        token_file: Path,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        ca: Path | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._server = parse_admin_url(url)
        self._token_file = token_file
        self._timeout_s = timeout_s
        self._clock = clock
        self._ca = ca
        self._max_bytes = max_bytes

    @property
    def place(self) -> str:
        """Who is asked, for messages."""
        return f"the aggregator at {self._server}"

    def get(self, target: str) -> AdminAnswer:
        """Any answer but 401 and those of 500 and above.

        Args: target: path and query, percent-encoded.

        Raises: AdminUnavailable: no token, no connection, no answer in time, refused, or in trouble.
        """
        return self._request("GET", target, {})

    def delete(self, target: str, *, etag: str) -> AdminAnswer:
        """Deletes what is there if it still has this `etag`; answers and raises as `get`."""
        return self._request("DELETE", target, {"If-Match": f'"{etag}"'})

    def _request(self, method: str, target: str, headers: Mapping[str, str]) -> AdminAnswer:
        try:
            token = read_secret(self._token_file)
        except ConfigError as error:
            raise AdminUnavailable(f"the token of the aggregator's admin door cannot be read: {error}") from error
        if not (token.isascii() and token.isprintable()):
            raise AdminUnavailable(f"{self._token_file}: holds no token of an admin door")
        try:
            answer = self._ask(method, target, {**headers, "Authorization": f"Bearer {token}", "Connection": "close"})
        except ConnectionRefusedError as error:
            raise AdminUnavailable(f"{self.place} does not run: nothing listens there") from error
        except TimeoutError as error:
            raise AdminUnavailable(f"{self.place} did not answer within {self._timeout_s:g} s") from error
        except OSError as error:
            raise AdminUnavailable(f"{self.place} cannot be reached: {error.strerror or error}") from error
        except ConfigError as error:
            raise AdminUnavailable(f"{self.place} cannot be reached: {error}") from error
        except http.client.HTTPException as error:
            raise AdminUnavailable(f"{self.place} did not answer as HTTP does: {type(error).__name__}") from error
        if answer.status == 401:
            raise AdminUnavailable(f"{self.place} refused the token of {self._token_file}")
        if answer.status >= 500:
            detail = answer.problem[1]
            raise AdminUnavailable(f"{self.place} answered {answer.status}{': ' if detail else ''}{detail}")
        return answer

    def get_json(self, target: str) -> object:
        """The value of a JSON answer of 200. Raises: AdminUnavailable: any other answer."""
        answer = self.get(target)
        if answer.status != 200:
            raise AdminUnavailable(f"{self.place} answered {answer.status}: {answer.problem[1] or 'no reason given'}")
        return self.decoded(answer)

    def decoded(self, answer: AdminAnswer) -> object:
        """The value of a JSON body. Raises: AdminUnavailable: it is none."""
        try:
            return json.loads(answer.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise AdminUnavailable(f"{self.place} answered with something that is not JSON") from error

    def _ask(self, method: str, target: str, headers: Mapping[str, str]) -> AdminAnswer:
        until_s = self._clock() + self._timeout_s
        connection = self._connect()
        try:
            connection.connect()
            with _deadline(connection.sock, until_s - self._clock()):
                connection.request(method, target, headers=dict(headers))
                return self._answer(connection, until_s)
        finally:
            connection.close()

    def _answer(self, connection: http.client.HTTPConnection, until_s: float) -> AdminAnswer:
        response = connection.getresponse()
        parts: list[bytes] = []
        size = 0
        while part := response.read1(_CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise AdminUnavailable(f"{self.place} answered with more than {self._max_bytes >> 20} MiB")
            if self._clock() > until_s:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        etag = (response.getheader("ETag") or "").strip('"')
        return AdminAnswer(status=response.status, body=b"".join(parts), etag=etag)

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._server.host, self._server.port
        if not self._server.tls:
            return http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=tls_context(self._ca))


@contextmanager
def _deadline(connected: socket.socket, seconds: float) -> Iterator[None]:
    """Shuts the socket down after so long: a peer that sends a byte now and then never runs into a time-out of a wait.

    Raises: TimeoutError: it was shut down, whatever came of that inside.
    """
    late = threading.Event()

    def shut() -> None:
        late.set()
        # The answer may have ended just now. Not TLS's own way: it takes the connection from under who reads.
        with suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR)

    timer = threading.Timer(max(seconds, 0.0), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if late.is_set():
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
    # An answer without a length that was cut off looks whole.
    if late.is_set():
        raise TimeoutError


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
