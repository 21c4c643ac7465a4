"""Replaying the journal at the start: what was acknowledged but not stored goes back into the buffer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from agent.settings import ConfigError
from aggregator.buffer import Buffer
from aggregator.flush import Flusher
from aggregator.lives import life_of
from aggregator.record import RecordError, decode_record, tells_generation

_FLUSH_AT = 0.9  # of the buffer
_TURN = 2_000  # records between two turns of the reactor
_RETRY_S = 5.0
_NAMED = 10  # VMs in a warning


class Replayable(Protocol):
    """What a replay asks of the journal."""

    def replay(self, segment: int) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What became of the old segments.

    Attributes:
        records: that were replayed.
        doubtful: samples that were dropped by VM: the version that noted them did not note of which token they came,
            and the VM was forgotten since. Those of a later token are lost with that.
    """

    records: int
    doubtful: dict[str, int]

    @property
    def warning(self) -> str | None:
        """What a person should know of it; None: nothing."""
        if not self.doubtful:
            return None
        names = sorted(self.doubtful)
        named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        return (
            f"dropped {sum(self.doubtful.values())} samples of {len(names)} VMs that were forgotten since: {named}. The"
            f" version that took them did not note their tokens: what came with a newer token is lost"
        )


async def replay_journal(
    segments: Iterable[int],
    *,
    journal: Replayable,
    buffer: Buffer,
    flusher: Flusher,
    pause: Callable[[float], Awaitable[object]],
    is_stopping: Callable[[], bool],
) -> Replay:
    """Puts old segments into the buffer, with a flush whenever that is nearly full.

    Args:
        segments: numbers, oldest first.
        pause: lets the reactor work for at least so many seconds.
        is_stopping: asked at every pause; once true, the rest is left for the next start.

    Raises: ConfigError: a record of another version; JournalError: a segment cannot be read.
    """
    records = 0
    doubtful: dict[str, int] = {}
    for number in segments:
        flusher.replayed_through = number - 1
        for payload in journal.replay(number):
            try:
                push, received_s = decode_record(payload)
            except RecordError as error:
                raise ConfigError(f"journal segment {number}: {error}") from error
            if not tells_generation(payload) and buffer.lives.is_over(push.vm, life_of(push.generation)):
                doubtful[push.vm] = doubtful.get(push.vm, 0) + push.count
            buffer.add(push, received_s)
            records += 1
            if records % _TURN == 0:
                await pause(0.0)
            while buffer.fullness >= _FLUSH_AT and not is_stopping():
                report = await flusher.flush(all_figures=False)
                if report.failures:
                    await pause(_RETRY_S)
            if is_stopping():
                return Replay(records=records, doubtful=doubtful)
        flusher.replayed_through = number
    flusher.replayed_through = None
    return Replay(records=records, doubtful=doubtful)
