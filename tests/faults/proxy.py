"""A small TCP proxy between an agent and the aggregator that can lose, cut, hold and delay what passes.

It knows requests and answers only as turns: bytes from the client after an answer are a new request. That fits
clients that wait for each answer, as agents do.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType

_BYTES = 1 << 16
_STARTS_WITHIN_S = 30.0


class Fate(Enum):
    """What becomes of one request and its answer."""

    PASS = auto()  # nothing
    LOSE_REPLY = auto()  # the server answered; the client sees the end of the connection instead
    HALF_REPLY = auto()  # the client gets half of the answer, then the end
    SWALLOW_REPLY = auto()  # the client gets nothing and waits
    HALF_REQUEST = auto()  # the server gets half of the request, then the end; so does the client
    HALF_CLOSE = auto()  # the server is told that no more comes while it works on the request
    HOLD = auto()  # the request waits for `release`


class Proxy:
    """Listens on a free port of 127.0.0.1 while it is entered.

    Args:
        upstream: where connections go; may be changed at any time and counts for new ones.
        draw: of the order in which held requests go on.
        fate: asked at the beginning of each request, on the proxy's own thread.
        latency_s: before each request goes on.
    Attributes:
        struck: how often each fate came to pass.
        begun_s: when each request began, by the monotonic clock.
        refusing: new connections are closed at once.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        draw: random.Random,
        *,
        fate: Callable[[], Fate] = lambda: Fate.PASS,
        latency_s: float = 0.0,
    ) -> None:
        self.upstream = upstream
        self.struck: Counter[Fate] = Counter()
        self.begun_s: list[float] = []
        self.refusing = False
        self._draw = draw
        self._fate = fate
        self._latency_s = latency_s
        self._loop = asyncio.new_event_loop()
        self._held: list[asyncio.Event] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._address = ("", 0)
        self._listening = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        if not self._listening.wait(_STARTS_WITHIN_S):
            raise TimeoutError("the proxy does not listen")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect."""
        return self._address

    @property
    def url(self) -> str:
        return f"http://{self._address[0]}:{self._address[1]}"

    @property
    def held(self) -> int:
        """Requests that wait for `release`."""
        return len(self._held)

    def release(self) -> None:
        """Lets all held requests go on, one after the other in random order."""
        self._loop.call_soon_threadsafe(self._let_go)

    def cut(self) -> None:
        """Resets every connection there is."""
        self._loop.call_soon_threadsafe(self._cut)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, backlog=1024)
        self._address = server.sockets[0].getsockname()[:2]
        self._listening.set()
        await self._over.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _let_go(self) -> None:
        held, self._held = self._held, []
        self._draw.shuffle(held)
        for place, event in enumerate(held):
            # So far apart that the kernel keeps the order.
            self._loop.call_later(place * 0.002, event.set)

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        server: asyncio.StreamWriter | None = None
        reads: list[asyncio.Future[bytes]] = []
        self._writers.add(writer)
        try:
            answers, server = await asyncio.open_connection(*self.upstream)
            self._writers.add(server)
            # At most one of each is under way: a task that waits for bytes is not thrown away with them.
            from_client = asyncio.ensure_future(reader.read(_BYTES))
            from_server = asyncio.ensure_future(answers.read(_BYTES))
            reads = [from_client, from_server]
            fate: Fate | None = None
            while True:
                await asyncio.wait({from_client, from_server}, return_when=asyncio.FIRST_COMPLETED)
                if from_client.done():
                    data = from_client.result()
                    if not data:
                        return
                    if fate is None:
                        self.begun_s.append(time.monotonic())
                        fate = self._fate()
                        if not await self._ask(data, fate, server):
                            return
                    else:
                        server.write(data)
                    reads[0] = from_client = asyncio.ensure_future(reader.read(_BYTES))
                else:
                    data = from_server.result()
                    if not data or not await self._answer(data, fate, writer):
                        return
                    # The client's patience is what ends a connection without answers.
                    fate = fate if fate is Fate.SWALLOW_REPLY else None
                    reads[1] = from_server = asyncio.ensure_future(answers.read(_BYTES))
        except (OSError, asyncio.CancelledError):
            # Of what is cancelled at the end, nobody wants to hear.
            return
        finally:
            for read in reads:
                read.cancel()
            for end in (writer, server):
                if end is not None:
                    self._writers.discard(end)
                    end.close()

    async def _ask(self, data: bytes, fate: Fate, server: asyncio.StreamWriter) -> bool:
        """Hands the begin of a request on; False: the connection is over."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        if fate is Fate.HOLD:
            event = asyncio.Event()
            self._held.append(event)
            await event.wait()
            self.struck[fate] += 1
        if fate is Fate.HALF_REQUEST:
            server.write(data[: len(data) // 2])
            await server.drain()
            self.struck[fate] += 1
            return False
        server.write(data)
        if fate is Fate.HALF_CLOSE:
            server.write_eof()
            self.struck[fate] += 1
        return True

    async def _answer(self, data: bytes, fate: Fate | None, client: asyncio.StreamWriter) -> bool:
        """Hands an answer on, or does not; False: the connection is over."""
        if fate in (Fate.LOSE_REPLY, Fate.HALF_REPLY, Fate.SWALLOW_REPLY):
            self.struck[fate] += 1
        if fate is Fate.LOSE_REPLY:
            return False
        if fate is Fate.HALF_REPLY:
            client.write(data[: len(data) // 2])
            await client.drain()
            return False
        if fate is not Fate.SWALLOW_REPLY:
            client.write(data)
        return True
