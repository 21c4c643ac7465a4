"""One keep-alive connection to the aggregator on asyncio: for programs that hold several at once.

The real agent needs one connection and no event loop; see `agent.link`.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.link import tls_context
from agent.server import Server, parse_server
from agent.settings import ConfigError

_MAX_HEAD_BYTES = 16 << 10
_MAX_ANSWER_BYTES = 4 << 20


class BadAnswerError(Exception):
    """Bytes that are no HTTP answer, or one that this client does not read."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and the headers that matter. `length` None: the body lasts until the connection closes."""

    status: int
    length: int | None
    retry_after_s: float | None
    close: bool


@dataclass(frozen=True, slots=True)
class Answer:
    head: Head
    body: bytes

    def detail(self) -> str:
        """What a problem document says, or the start of whatever else came."""
        try:
            document = json.loads(self.body)
        except ValueError:
            document = None
        detail = document.get("detail") if isinstance(document, dict) else None
        return str(detail) if detail else self.body[:200].decode(errors="replace").strip()


def parse_head(head: bytes) -> Head:
    """Reads an answer's head, blank line included. Raises: BadAnswerError."""
    status_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    version, _, rest = status_line.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise BadAnswerError(f"no HTTP answer: {status_line[:80]!r}")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        raise BadAnswerError("an answer with Transfer-Encoding is not read here")
    length_text, status = headers.get("content-length"), int(code)
    if length_text is not None and not (length_text.isascii() and length_text.isdigit()):
        raise BadAnswerError(f"Content-Length {length_text!r} is not a number")
    length = 0 if status == 204 else None if length_text is None else int(length_text)
    if length is not None and length > _MAX_ANSWER_BYTES:
        raise BadAnswerError(f"an answer of {length} bytes is too long")
    retry_after = headers.get("retry-after", "")
    return Head(
        status=status,
        length=length,
        retry_after_s=float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None,
        close=headers.get("connection", "").lower() == "close" or length is None or version == "HTTP/1.0",
    )


@dataclass(frozen=True, slots=True)
class Address:
    """Where the aggregator listens. `tls` None: plain HTTP."""

    server: Server
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        return str(self.server).partition("://")[2]

    def __str__(self) -> str:
        return str(self.server)


def parse_address(url: str, *, ca: Path | None = None, insecure_plain: bool = False) -> Address:
    """Reads `http://host:port` or `https://host:port`; 8899 where the port is left out.

    Raises: ConfigError: no such URL, plain HTTP to another machine without `insecure_plain`, or a useless `ca`.
    """
    try:
        server = parse_server(url)
    except ValueError as error:
        raise ConfigError(f"--aggregator: {error}") from error
    if not server.tls:
        if ca is not None:
            raise ConfigError(f"--ca: {url} is plain HTTP, there is no certificate to verify")
        if not server.is_loopback and not insecure_plain:
            raise ConfigError(f"--aggregator: {url} would carry tokens in the clear: use https or --insecure-plain")
        return Address(server)
    try:
        return Address(server, tls_context(ca))
    except ConfigError as error:
        raise ConfigError(f"--ca: {error}") from error


class Connection:
    """One keep-alive connection; dials when it is needed."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> None:
        """Raises: OSError: nobody listens there, or the certificate is not trusted."""
        if self._streams is None:
            address = self._address
            self._streams = await asyncio.open_connection(
                address.server.host, address.server.port, ssl=address.tls, limit=_MAX_HEAD_BYTES
            )

    async def request(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends one POST and reads its answer. Raises: OSError, EOFError, BadAnswerError; it is closed then."""
        await self.open()
        assert self._streams is not None
        reader, writer = self._streams
        whole = False
        try:
            lines = [f"POST {path} HTTP/1.1", f"Host: {self._address.authority}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            lines += [f"Content-Length: {len(body)}", "", ""]
            writer.write("\r\n".join(lines).encode("latin-1") + body)
            await writer.drain()
            try:
                head = parse_head(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.LimitOverrunError as error:
                raise BadAnswerError("the head of the answer is too long") from error
            answer = Answer(head, await self._read_body(reader, head.length))
            whole = not head.close
            return answer
        finally:
            if not whole:
                self.close()

    async def _read_body(self, reader: asyncio.StreamReader, length: int | None) -> bytes:
        if length is not None:
            return await reader.readexactly(length)
        body = await reader.read(_MAX_ANSWER_BYTES)
        while piece := await reader.read(_MAX_ANSWER_BYTES):
            body += piece
            if len(body) > _MAX_ANSWER_BYTES:
                raise BadAnswerError("an answer without a length is too long")
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
