"""What the watch is set to, and what it notes of itself: `status.json`, which `fallow-orchestrate status` shows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from reports.words import iso_time

STATUS_FILE_NAME = "status.json"
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """How often the service looks.

    Args:
        every_s: between two turns: approved plans are applied and hosts looked at so often.
        reclaim_every_s: between two looks at what is idle.
        retry_s: an approved plan that may not be applied now, or a look that was stopped, is tried again after so long.

    Raises: ValueError: one is not positive.
    """

    every_s: float = 60.0
    reclaim_every_s: float = 3600.0
    retry_s: float = 300.0

    def __post_init__(self) -> None:
        if not min(self.every_s, self.reclaim_every_s, self.retry_s) > 0:
            raise ValueError("the watch cannot look more often than all the time")


class TurnEnd(StrEnum):
    """What became of a turn."""

    DONE = "done"
    # Another controller leads.
    STANDBY = "standby"
    # The kill switch, or the service is being stopped.
    STOPPED = "stopped"
    # The lease was lost on the way: another controller may lead by now.
    LOST = "lost"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn.

    Args:
        words: what was done and what was not, a sentence each, for people.
        problem: what somebody has to look at; None: nothing.
        runs: ids of the plans that were applied.
    """

    began_s: float
    ended_s: float
    end: TurnEnd
    words: tuple[str, ...] = ()
    problem: str | None = None
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the service is at.

    Args:
        site: where the owners' pages are served; None: they are not.
        next_s: of the next turn, at the latest.
        led_s: end of the last turn in which this process led; None: it never did.
    """

    holder: str
    pid: int
    started_s: float
    turn: Turn
    next_s: float
    led_s: float | None
    site: str | None


def status_document(status: Status) -> Mapping[str, object]:
    """JSON of it; times as Unix seconds, and the turn's end in words for people too."""
    return {"format": FORMAT, **asdict(status), "at": iso_time(status.turn.ended_s)}


def write_status(folder: Path, status: Status) -> None:
    """Replaces the file, so that nobody reads half of one. Raises: OSError."""
    target = folder / STATUS_FILE_NAME
    part = target.with_suffix(".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(status_document(status), file, allow_nan=False)
    part.replace(target)
