"""What a benchmark returns: its figures, and the bars they are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

Say = Callable[[str], None]  # a line of progress for stderr


@dataclass(frozen=True, slots=True)
class Bar:
    """One promise and what was measured. `at_least` tells which side of `limit` is good."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures by name, units in the name, and the bars among them."""

    figures: Mapping[str, object]
    bars: tuple[Bar, ...] = ()
