"""One VM in the buffer, what it is made of, and what became of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class PushLike(Protocol):
    """The part of `decode.Push` that the buffer reads."""

    @property
    def vm(self) -> str: ...
    @property
    def boot(self) -> str: ...
    @property
    def sent_s(self) -> float: ...
    @property
    def rows(self) -> bytes: ...
    @property
    def count(self) -> int: ...
    @property
    def oldest_ts(self) -> int: ...
    @property
    def newest_ts(self) -> int: ...
    @property
    def generation(self) -> int: ...


class Added(NamedTuple):
    """What became of a push's samples, as far as memory can tell."""

    stored: int
    duplicate: int
    conflict: int


@dataclass(slots=True)
class Entry:
    """One VM. `stored_bytes <= taken_bytes <= len(rows)`, all multiples of ROW_BYTES.

    `first_ts` is the oldest sample of the push with which this boot appeared; `generation` that of the token of the
    last push: all rows are of its life; `conflicts` those not yet counted in the store.
    """

    rows: bytearray
    boot: str
    first_ts: int
    newest_ts: int
    received_s: float
    skew_s: float
    generation: int
    stored_bytes: int = 0
    taken_bytes: int = 0
    conflicts: int = 0
    taken_conflicts: int = 0
    former_boots: tuple[str, ...] = ()
    identity_conflict: bool = False
    news: bool = False  # the summary must change although no row came
    taken_news: bool = False
    late: bool = False  # some row came after one with a later ts
