"""Asking an aggregator that runs: requests to its admin door, with plain reasons where it does not answer.

At an address of the settings it is shown the token of the fleet. At one that the fleet database gave it is shown a
proof (`aggregator.node_proof`), and believed where its answer has one: whoever can write the database gets neither the
token nor a word in.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from agent.link import tls_context
from agent.server import Server, parse_server
from agent.settings import ConfigError, read_secret
from aggregator.kept_connections import KeptConnections
from aggregator.node_proof import (
    ANSWER_HEADER,
    FOR_HEADER,
    NONCE_BYTES,
    SCHEME,
    Proof,
    Question,
    Said,
    answer_fits,
    hash_body,
    make_proof,
    proof_key,
)

ADMIN_PORT = 8900
DEFAULT_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 32 << 20
_CHUNK_BYTES = 64 << 10
_MAX_DETAIL_CHARS = 300


class AdminUnavailable(Exception):
    """The aggregator gave no answer that can be used. `reason`: a sentence in plain words, without the token."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAnswer:
    """A response; `body` as it came, `etag` without its quotes, empty where there is none, `proof` as it was sent."""

    status: int
    body: bytes
    etag: str = ""
    proof: str = ""

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
    """Reads from one admin door. No two questions share a connection at once, so any thread may ask; it blocks.

    Args:
        url: as `parse_admin_url` takes it. Proxies of the environment are not used.
        token_file: `admin.token`, read anew at each question: an aggregator that begins anew may have another.
        node: whose address the fleet database says that this is: it is asked with proofs, and only its own answers
            count. None: the address is one of the settings, and is shown the token.
        timeout_s: for connecting, for each wait, and for the answer as a whole.
        clock: seconds that never go back.
        ca: PEM authorities of the door's certificate; None: the system's.
        max_bytes: of an answer.
        kept: as many idle connections stay open for the next questions.
        unix_clock: Unix seconds, for proofs.

    Raises: ValueError: `url` is none.
    """

    def __init__(
        self,
        url: str,
        token_file: Path,
        *,
        node: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        ca: Path | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
        kept: int = 0,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._server = parse_admin_url(url)
        self._token_file = token_file
        self._node = node
        self._timeout_s = timeout_s
        self._clock = clock
        self._ca = ca
        self._max_bytes = max_bytes
        self._keeps = kept > 0
        self._connections = KeptConnections(self._connect, most=kept, clock=clock)
        self._unix_clock = unix_clock

    @property
    def place(self) -> str:
        """Who is asked, for messages."""
        return f"the aggregator at {self._server}"

    def get(self, target: str) -> AdminAnswer:
        """Any answer but 401 and those of 500 and above.

        Args: target: path and query, percent-encoded.

        Raises: AdminUnavailable: no token, no connection, no answer in time, refused, or in trouble.
        """
        return self._request("GET", target)

    def delete(self, target: str, *, etag: str) -> AdminAnswer:
        """Deletes what is there if it still has this `etag`; answers and raises as `get`."""
        return self._request("DELETE", target, f'"{etag}"')

    def close(self) -> None:
        """Closes the connections that are kept; the next question opens another."""
        self._connections.close()

    def _request(self, method: str, target: str, if_match: str = "") -> AdminAnswer:
        try:
            token = read_secret(self._token_file)
        except ConfigError as error:
            raise AdminUnavailable(f"the token of the aggregator's admin door cannot be read: {error}") from error
        if not (token.isascii() and token.isprintable()):
            raise AdminUnavailable(f"{self._token_file}: holds no token of an admin door")
        try:
            answer = self._ask(method, target, if_match, token)
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
        detail = answer.problem[1]
        if answer.status == 401 and self._node is None:
            raise AdminUnavailable(f"{self.place} refused the token of {self._token_file}")
        if answer.status == 401:
            raise AdminUnavailable(f"{self.place} refused the proof: {detail}")
        if answer.status >= 500:
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

    def _ask(self, method: str, target: str, if_match: str, token: str) -> AdminAnswer:
        until_s = self._clock() + self._timeout_s
        headers = ({"If-Match": if_match} if if_match else {}) | ({} if self._keeps else {"Connection": "close"})
        while True:
            connection, was_kept = self._connections.take()
            try:
                if self._node is None:
                    shown = {**headers, "Authorization": f"Bearer {token}"}
                    return self._ask_over(connection, method, target, shown, until_s)
                # Anew for each try: the door takes each proof once.
                key, question = proof_key(token), Question(self._node, str(self._server), method, target, if_match)
                nonce = secrets.token_hex(NONCE_BYTES)
                proof = make_proof(key, question, now_s=self._unix_clock(), nonce=nonce)
                shown = {**headers, "Authorization": f"{SCHEME} {proof.text}", FOR_HEADER: question.whom}
                answer = self._ask_over(connection, method, target, shown, until_s)
                return self._proved(answer, key, proof)
            except (ConnectionError, ssl.SSLEOFError):
                # Nothing here is different when it is asked twice.
                if not was_kept:
                    raise

    def _ask_over(
        self, connection: http.client.HTTPConnection, method: str, target: str, headers: dict[str, str], until_s: float
    ) -> AdminAnswer:
        try:
            if connection.sock is None:
                connection.connect()
            with _deadline(connection.sock, until_s - self._clock()):
                connection.request(method, target, headers=headers)
                answer, goes_on = self._answer(connection, until_s)
        except BaseException:
            connection.close()
            raise
        if goes_on:
            self._connections.give_back(connection)
        else:
            connection.close()
        return answer

    def _answer(self, connection: http.client.HTTPConnection, until_s: float) -> tuple[AdminAnswer, bool]:
        """The answer, and whether the connection can be asked again."""
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
        # It has not noticed that it is at its end, and the connection takes no question before that.
        response.close()
        etag = (response.getheader("ETag") or "").strip('"')
        proof = response.getheader(ANSWER_HEADER) or ""
        answer = AdminAnswer(status=response.status, body=b"".join(parts), etag=etag, proof=proof)
        return answer, self._keeps and not response.will_close

    def _proved(self, answer: AdminAnswer, key: bytes, proof: Proof) -> AdminAnswer:
        """Raises: AdminUnavailable: not the node answered, or it did not believe the proof."""
        etag = f'"{answer.etag}"' if answer.etag else ""
        if answer_fits(key, proof, Said(answer.status, etag, hash_body(answer.body)), answer.proof):
            return answer
        reason, detail = (text[:_MAX_DETAIL_CHARS] for text in answer.problem)
        match answer.status, reason:
            case 401, "no-token":
                why = "does not know proofs: an older version? Parts and charts of it wait for its upgrade"
            case 401, _:
                why = f"refused the proof made with {self._token_file}, which all nodes share: {detail}"
            case 421, _:
                why = f"is not node {self._node}, or that gives another address by now"
            case _:
                why = f"answered {answer.status} without proof that it is node {self._node}: {detail}".rstrip(": ")
        raise AdminUnavailable(f"{self.place} {why}")

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
