"""Servers that stand for aggregators behind a load balancer: each notes what it is asked and answers as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that reached a server: its connection by the port of the other end."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int


class Stand:
    """One server on a free port of 127.0.0.1.

    Attributes:
        asked: requests but those for readiness, in their order.
        ready: what /readyz says.
        breaks_off: requests are read, and then the connection ends without an answer.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.ready = True
        self.breaks_off = False
        stand = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # The answer in one segment, at once.
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                status = 200 if stand.ready else 503
                if self.path != "/readyz":
                    stand._note(self, b"")
                self._answer(status)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stand._note(self, body)
                if stand.breaks_off:
                    self.close_connection = True
                else:
                    self._answer(204)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

            def setup(self) -> None:
                super().setup()
                stand._connections.add(self.connection)

            def finish(self) -> None:
                stand._connections.discard(self.connection)
                with suppress(OSError):
                    super().finish()

        self._connections: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address: tuple[str, int] = ("127.0.0.1", self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def vms(self) -> set[str]:
        """Of which pushes came."""
        return {asked.headers["fallow-vm"] for asked in self.asked}

    def die(self) -> None:
        """Listens no more, and ends its connections."""
        self._server.shutdown()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def _note(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append(Asked(handler.path, headers, body, handler.client_address[1]))


@contextmanager
def stands(count: int) -> Iterator[list[Stand]]:
    """So many servers."""
    with ExitStack() as stack:
        made = [Stand() for _ in range(count)]
        for stand in made:
            stack.callback(stand.die)
        yield made


def push(
    address: tuple[str, int], vms: Sequence[str], *, path: str = "/v1/samples", body: bytes = b"{}", **headers: str
) -> list[int]:
    """Pushes for each of these VMs over one connection; the statuses."""
    connection = HTTPConnection(*address, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        found = []
        for vm in vms:
            connection.request("POST", path, body, {"Fallow-VM": vm, **named})
            answer = connection.getresponse()
            answer.read()
            found.append(answer.status)
        return found
    finally:
        connection.close()
