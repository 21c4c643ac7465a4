"""Policies by name, as published: `THR-MMT`, or with a parameter `THR-MMT-0.9`. Pure, without numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

NPA, DVFS, FALLOW = "NPA", "DVFS", "fallow"
# Each overload test with its usual parameter.
PARAMETERS = {"THR": 0.8, "IQR": 1.5, "MAD": 2.5, "LR": 1.2, "LRR": 1.2}
SELECTIONS = ("MMT", "MC", "MU", "RS")
NAMES = (NPA, DVFS, *(f"{test}-{selection}" for selection in SELECTIONS for test in PARAMETERS), FALLOW)
# What there is to compare with, from no management at all to the published policies that migrate least cost.
DEFAULTS = (NPA, DVFS, "THR-MMT", "IQR-MMT", "MAD-MMT", "LR-MMT", FALLOW)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyName:
    """A policy asked for. `parameter` is that of its overload test; None is the usual one, or none at all."""

    name: str
    parameter: float | None = None

    @property
    def parts(self) -> tuple[str, str] | None:
        """Overload test and selection rule; None for a policy that is no combination."""
        test, dash, selection = self.name.partition("-")
        return (test, selection) if dash else None


def parse_policy(text: str) -> PolicyName:
    """A name, or a combination's with its parameter. Raises ValueError: no such policy, or a wrong parameter."""
    by_lower = {name.lower(): name for name in NAMES}
    name = by_lower.get(text.lower())
    if name is not None:
        return PolicyName(name=name)
    head, _, tail = text.rpartition("-")
    name = by_lower.get(head.lower())
    if name is None or PolicyName(name=name).parts is None:
        raise ValueError(f"{text!r} is no policy (there are: {', '.join(NAMES)})")
    try:
        parameter = float(tail)
    except ValueError as error:
        raise ValueError(f"{text!r}: {tail!r} is not a number") from error
    if not (math.isfinite(parameter) and parameter > 0):
        raise ValueError(f"{text!r}: the parameter is not more than zero")
    return PolicyName(name=name, parameter=parameter)
