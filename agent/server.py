"""Where an aggregator is, as settings name it. Pure; loads nothing that connects."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORT = 8899


@dataclass(frozen=True, slots=True)
class Server:
    """Where the aggregator is."""

    tls: bool
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there stays on this machine. A name other than localhost never counts."""
        if self.host in ("localhost", "::1"):
            return True
        try:
            return socket.inet_pton(socket.AF_INET, self.host)[0] == 127
        except OSError:
            return False


def parse_server(text: object) -> Server:
    """`https://host:8899` or `http://…`; the port may be left out.

    Raises: ValueError: another scheme, no host, or anything beside scheme, host and port.
    """
    wanted = f"{text!r} is not http://HOST:PORT or https://HOST:PORT"
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(wanted)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(wanted)
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError(wanted)
    port = parts.port
    return Server(parts.scheme == "https", parts.hostname, DEFAULT_PORT if port is None else port)
