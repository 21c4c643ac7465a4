"""A crowd of agents in one process that all come at the same moment, each with a connection and a push of its own.

They behave as the real agent does: a wait that the answer asks for is kept, and a random part of a growing bound is
added to it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.push import backoff_s, retry_after_s

_PATIENCE_S = 30.0
_RETRIED = (429, 503)


@dataclass(slots=True)
class Crowd:
    """What came of it.

    Attributes:
        answers: by status.
        no_answer: connections refused, reset or ended early.
        seconds: until the last one was done.
        waits_s: what the agents told to come back were to wait, with their own jitter.
    """

    answers: Counter[int] = field(default_factory=Counter)
    no_answer: int = 0
    seconds: float = 0.0
    waits_s: list[float] = field(default_factory=list)


def send_all(address: tuple[str, int], requests: Sequence[bytes], draw: random.Random) -> Crowd:
    """Sends every request until it is answered 204 or 200. Any answer but these, 429 and 503 ends that agent."""
    crowd = Crowd()
    began_s = time.monotonic()

    async def everybody() -> None:
        held: list[asyncio.StreamWriter] = []
        await asyncio.gather(*(_agent(address, request, draw, crowd, held) for request in requests))
        crowd.seconds = time.monotonic() - began_s
        for writer in held:
            writer.close()

    asyncio.run(everybody())
    return crowd


async def _agent(
    address: tuple[str, int], request: bytes, draw: random.Random, crowd: Crowd, held: list[asyncio.StreamWriter]
) -> None:
    attempt = 0
    while True:
        attempt += 1
        asked_s = 0.0
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection(*address)
                writer.write(request)
                status, headers = await _answer(reader)
        except (OSError, EOFError, TimeoutError):
            crowd.no_answer += 1
            if writer is not None:
                writer.close()
        else:
            crowd.answers[status] += 1
            if headers.get("connection") == "close":
                writer.close()
            else:
                # As an agent keeps its connection for the next minute.
                held.append(writer)
            if status not in _RETRIED:
                return
            asked_s = retry_after_s(headers.get("retry-after"), now_s=time.time())
        wait_s = asked_s + backoff_s(attempt, draw.random())
        crowd.waits_s.append(wait_s)
        await asyncio.sleep(wait_s)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, Mapping[str, str]]:
    """Raises: EOFError: the connection ended first."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers
