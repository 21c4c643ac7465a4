"""What a command may use of the process that it runs in. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a command may use of the process that it runs in.

    Args:
        clock: Unix seconds. pause: waits so many seconds.
        width, colour: of text on `out`; None where lines may have any length.
        arguments: options that make another command read the same fleet by the same settings.
    """

    clock: Callable[[], float]
    pause: Callable[[float], None]
    out: TextIO
    err: TextIO
    width: int | None
    colour: bool
    arguments: tuple[str, ...]
