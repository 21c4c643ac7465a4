"""Replaying the journal at the start: what was acknowledged but not stored goes back into the buffer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from agent.settings import ConfigError
from aggregator.buffer import Buffer
from aggregator.flush import Flusher
from aggregator.record import RecordError, decode_record

_FLUSH_AT = 0.9  # of the buffer
_TURN = 2_000  # records between two turns of the reactor
_RETRY_S = 5.0


class Replayable(Protocol):
    """What a replay asks of the journal."""

    def replay(self, segment: int) -> Iterator[bytes]: ...


async def replay_journal(
    segments: Iterable[int],
    *,
    journal: Replayable,
    buffer: Buffer,
    flusher: Flusher,
    pause: Callable[[float], Awaitable[object]],
    is_stopping: Callable[[], bool],
) -> int:
    """Puts old segments into the buffer, with a flush whenever that is nearly full.

    Args:
        segments: numbers, oldest first.
        pause: lets the reactor work for at least so many seconds.
        is_stopping: asked at every pause; once true, the rest is left for the next start.

    Returns: records replayed.
    Raises: ConfigError: a record of another version; JournalError: a segment cannot be read.
    """
    records = 0
    for number in segments:
        flusher.replayed_through = number - 1
        for payload in journal.replay(number):
            try:
                push, received_s = decode_record(payload)
            except RecordError as error:
                raise ConfigError(f"journal segment {number}: {error}") from error
            buffer.add(push, received_s)
            records += 1
            if records % _TURN == 0:
                await pause(0.0)
            while buffer.fullness >= _FLUSH_AT and not is_stopping():
                report = await flusher.flush(all_figures=False)
                if report.failures:
                    await pause(_RETRY_S)
            if is_stopping():
                return records
        flusher.replayed_through = number
    flusher.replayed_through = None
    return records
