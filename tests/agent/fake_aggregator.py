"""A small aggregator for tests of what sends: a real socket, scripted answers, nothing stored."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from agent.wire import Batch, decode_batch

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
DROP = b""  # close instead of answering


def answer(status: int, document: object, *headers: str) -> bytes:
    body = json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} Text", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Request:
    connection: int
    path: str
    headers: dict[str, str]
    body: bytes

    def batch(self) -> Batch:
        return decode_batch(self.body)


@dataclass
class FakeAggregator:
    """Enrols everybody with `token-<vm>` and answers pushes with `script`, front first, then 204."""

    script: list[bytes] = field(default_factory=list)
    enrol_script: list[bytes] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hold: asyncio.Event | None = None
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pushes(self) -> list[Request]:
        return [request for request in self.requests if request.path == "/v1/samples"]

    @property
    def enrolments(self) -> list[Request]:
        return [request for request in self.requests if request.path == "/v1/enroll"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = self.connections
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers["content-length"]))
                if headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                request = Request(connection, head[0].split(" ")[1], headers, body)
                self.requests.append(request)
                if self.hold is not None:
                    await self.hold.wait()
                reply = self._reply(request)
                if reply == DROP:
                    return
                writer.write(reply)
                await writer.drain()
        except (EOFError, OSError):
            return
        finally:
            writer.close()

    def _reply(self, request: Request) -> bytes:
        if request.path == "/v1/enroll":
            if self.enrol_script:
                return self.enrol_script.pop(0)
            vm = json.loads(request.body)["vm"]
            return answer(201, {"vm": vm, "token": f"token-{vm}", "interval_s": 60})
        return self.script.pop(0) if self.script else NO_CONTENT


@asynccontextmanager
async def listening(fake: FakeAggregator, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeAggregator]:
    """Serves `fake` on a free port in this event loop."""
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, ssl=tls)
    fake.port = server.sockets[0].getsockname()[1]
    async with server:
        yield fake


@contextmanager
def in_thread(fake: FakeAggregator) -> Iterator[FakeAggregator]:
    """Serves `fake` on a free port from a thread, for commands that run an event loop of their own."""
    ready = threading.Event()
    stops: list[Callable[[], object]] = []

    async def main() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stopped.set))
        async with listening(fake):
            ready.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(30)
    try:
        yield fake
    finally:
        stops[0]()
        thread.join(30)


class Pauses:
    """A fake clock that `sleep` moves; remembers what was slept."""

    def __init__(self, on_sleep: Callable[[float], None] | None = None) -> None:
        self.now_s = 1_000.0
        self.slept_s: list[float] = []
        self._on_sleep = on_sleep

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds
        if self._on_sleep is not None:
            self._on_sleep(seconds)
        await asyncio.sleep(0)
