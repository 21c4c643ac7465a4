"""Inputs of `bench bad-input` by number, and what came of them."""

from __future__ import annotations

import itertools
import random
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.bad_input_bodies import BODIES
from bench.bad_input_doors import AnswerError, answers_in
from bench.bad_input_frames import FRAMES, STRANGERS
from bench.bad_input_maker import Kind, Maker, Surroundings

KINDS: Final = (*STRANGERS, *FRAMES, *BODIES)
VMS: Final = 200
DAYS_BACK: Final = 13  # a minute for each input, all younger than raw retention
_SHOWN: Final = 10
_SHOWN_BYTES: Final = 2_000
_PAGE_BYTES: Final = resource.getpagesize()


@dataclass(frozen=True, slots=True)
class Made:
    """One input, and what it takes to make it again."""

    kind: Kind
    seed: int
    number: int
    data: bytes
    pieces: list[bytes]


@dataclass(slots=True)
class Findings:
    """What came of a run of inputs.

    Attributes:
        wrong: lines about answers of a wrong class, the first ones only.
        by_status: answers.
    """

    inputs: int = 0
    wrong_count: int = 0
    wrong: list[str] = field(default_factory=list)
    by_status: Counter[int] = field(default_factory=Counter)
    stored: int = 0
    rss_half_bytes: int = 0
    rss_end_bytes: int = 0
    failures: int = 0
    seconds: float = 0.0

    @property
    def growth_ratio(self) -> float:
        """Resident memory at the end / half-way."""
        return self.rss_end_bytes / self.rss_half_bytes if self.rss_half_bytes else 0.0

    def take(self, made: Made, answers: bytes) -> None:
        """Compares what was answered with what the kind promises."""
        self.inputs += 1
        try:
            found = answers_in(answers)
        except (AnswerError, ValueError, KeyError) as error:
            self.note(made, f"{error}")
            return
        self.by_status.update(status for status, _ in found)
        statuses = [status for status, _ in found]
        expected = made.kind.answers
        if not expected:
            if any(status >= 500 and status not in (501, 505) for status in statuses):
                self.note(made, f"answered {statuses}")
            return
        if len(found) != len(expected) or any(
            status not in allowed for status, allowed in zip(statuses, expected, strict=True)
        ):
            self.note(made, f"answered {statuses} instead of {[list(allowed) for allowed in expected]}")
        elif made.kind.holds not in found[-1][1]:
            self.note(made, f"answered without {made.kind.holds!r}: {found[-1][1]!r}")
        self.stored += made.kind.stored

    def note(self, made: Made, what: str) -> None:
        """Counts a wrong answer, and keeps the first ones with what it takes to have them again."""
        self.wrong_count += 1
        if len(self.wrong) < _SHOWN:
            again = f"--seed {made.seed} --first {made.number}"
            self.wrong.append(f"WRONG {made.kind.name} ({again}): {what}: {made.data[:_SHOWN_BYTES]!r}")


def inputs(shared: Surroundings, seed: int, numbers: range) -> Iterator[Made]:
    """The inputs of a run; each depends on the seed and its number alone."""
    bounds = list(itertools.accumulate(kind.weight for kind in KINDS))
    for number in numbers:
        maker = Maker(shared, seed, number)
        (kind,) = maker.draw.choices(KINDS, cum_weights=bounds)
        data = kind.make(maker)
        yield Made(kind, seed, number, data, pieces_of(data, maker.draw))


def pieces_of(data: bytes, draw: random.Random) -> list[bytes]:
    """Mostly the whole, sometimes cut as TCP might."""
    if draw.random() < 0.7 or len(data) < 2:
        return [data]
    cuts = sorted(draw.sample(range(1, len(data)), min(len(data) - 1, draw.randrange(1, 5))))
    return [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data)])]


def rss_bytes(pid: int | str) -> int:
    """Resident memory of a process as it is now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
