"""What a scenario did and what came of it: the figures of one line of the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bench.kill_compare import Findings


class FaultError(AssertionError):
    """The product did what it must not; the text says what, and where to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """One scenario.

    Attributes:
        injections: faults that did strike; one that never came to pass is not counted.
        acknowledged, stored: samples that were answered with success; rows in the stores at the end.
        lost: acknowledged, and not stored or stored with other figures.
        doubled: stored, or counted in an hour, more than once.
        notes: what else is worth a line, such as how long something took.
    """

    injections: int
    acknowledged: int
    stored: int
    lost: int
    doubled: int
    notes: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was lost and nothing is there twice."""
        return not self.lost and not self.doubled


def tally_of(findings: Findings, *, injections: int, notes: str = "") -> Tally:
    """The tally of a comparison. Raises: FaultError: stores hold what nobody sent, or rollups or summaries differ."""
    wrong = [*findings.rollup_mismatches, *findings.summary_mismatches]
    if findings.never_sent:
        wrong.append(f"{findings.never_sent} stored samples are not what any push said")
    if wrong:
        raise FaultError("; ".join(wrong[:5]))
    return Tally(
        injections=injections,
        acknowledged=findings.acknowledged,
        stored=findings.stored,
        lost=findings.lost,
        doubled=findings.doubled,
        notes=notes,
    )


def total(tallies: Iterable[Tally]) -> Tally:
    """The sum of all figures, without notes."""
    every = list(tallies)
    return Tally(
        injections=sum(tally.injections for tally in every),
        acknowledged=sum(tally.acknowledged for tally in every),
        stored=sum(tally.stored for tally in every),
        lost=sum(tally.lost for tally in every),
        doubled=sum(tally.doubled for tally in every),
    )
