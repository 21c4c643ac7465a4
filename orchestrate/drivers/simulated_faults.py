"""What goes wrong at simulated hypervisors: by chance that a seed decides, or in the order that a test wants. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Protocol

from orchestrate.driver import Order


class Fault(StrEnum):
    """What may become of one order."""

    REFUSE = "refuse"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    # The deadline of the call passes: the order never arrived, or it did and is carried out.
    LOST_BEFORE = "lost-before"
    LOST_AFTER = "lost-after"
    # The task is given up half way, and the VM is as it was.
    FAIL = "fail"
    # The connection breaks while the task is waited for, which goes on.
    BROKEN = "broken"
    # It takes far longer than ever.
    STALL = "stall"
    # The VM ends on the way.
    CRASH = "crash"


class Faults(Protocol):
    """Decides what goes wrong."""

    def of_order(self, order: Order, number: int) -> Fault | None:
        """What becomes of the site's order number `number`, counted from 1."""

    def of_read(self, what: str, number: int) -> bool:
        """Whether read number `number` fails. Args: what: `inventory`, `find` or `counters`."""


class NoFaults:
    """Everything goes well."""

    def of_order(self, order: Order, number: int) -> Fault | None:  # noqa: ARG002 - as the protocol wants it
        return None

    def of_read(self, what: str, number: int) -> bool:  # noqa: ARG002 - as the protocol wants it
        return False


class SeededFaults:
    """By chance; the same seed and number give the same fault, in every process.

    Args: ratios: how often each happens, 0..1, together at most 1. read_ratio: how often a read fails.

    Raises: ValueError: a ratio is out of range.
    """

    def __init__(self, seed: int, ratios: Mapping[Fault, float], read_ratio: float = 0.0) -> None:
        if not 0.0 <= sum(ratios.values()) <= 1.0 or not all(0.0 <= r <= 1.0 for r in (*ratios.values(), read_ratio)):
            raise ValueError("faults happen with ratios of 0 to 1, together at most 1")
        self._seed = seed
        self._ratios = dict(ratios)
        self._read_ratio = read_ratio

    def of_order(self, order: Order, number: int) -> Fault | None:  # noqa: ARG002 - as the protocol wants it
        drawn = self._draw("order", number)
        for fault, ratio in self._ratios.items():
            if drawn < ratio:
                return fault
            drawn -= ratio
        return None

    def of_read(self, what: str, number: int) -> bool:  # noqa: ARG002 - as the protocol wants it
        return self._read_ratio > 0 and self._draw("read", number) < self._read_ratio

    def _draw(self, what: str, number: int) -> float:
        return random.Random(f"{self._seed} {what} {number}").random()  # noqa: S311 - no secret


class ScriptedFaults:
    """One after another, order by order; then nothing more. Args: reads: the numbers of the reads that fail."""

    def __init__(self, orders: Iterable[Fault | None] = (), *, reads: Iterable[int] = ()) -> None:
        self._orders = list(orders)
        self._reads = frozenset(reads)

    def of_order(self, order: Order, number: int) -> Fault | None:  # noqa: ARG002 - as the protocol wants it
        return self._orders[number - 1] if number <= len(self._orders) else None

    def of_read(self, what: str, number: int) -> bool:  # noqa: ARG002 - as the protocol wants it
        return number in self._reads
