"""From names to policies: what a run is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrate.simulation.fallow_policy import Fallow
from orchestrate.simulation.names import DVFS, FALLOW, PARAMETERS, PolicyName
from orchestrate.simulation.overload import LocalLine, MedianDeviation, OverloadTest, QuartileRange, Threshold
from orchestrate.simulation.placements import packed_by_memory
from orchestrate.simulation.policy import Placement, Policy
from orchestrate.simulation.reference import Dvfs, PowerAware
from orchestrate.simulation.selection import (
    MaximumCorrelation,
    MinimumMigrationTime,
    MinimumUtilisation,
    RandomSelection,
    Selection,
)

_TESTS: Mapping[str, Callable[[float], OverloadTest]] = {
    "THR": Threshold,
    "IQR": QuartileRange,
    "MAD": MedianDeviation,
    "LR": LocalLine,
    "LRR": LocalLine,
}
_SELECTIONS: Mapping[str, Callable[[int], Selection]] = {
    "MMT": lambda _seed: MinimumMigrationTime(),
    "MU": lambda _seed: MinimumUtilisation(),
    "MC": lambda _seed: MaximumCorrelation(),
    "RS": RandomSelection,
}
# Every policy of an honest run starts from it.
HONEST_START: Placement = packed_by_memory


def make_policy(name: PolicyName, seed: int) -> Policy:
    """A fresh policy for one run.

    Args: seed: of those that draw lots.
    Raises: ValueError: NPA, which is a figure and not a run.
    """
    if name.name == FALLOW:
        return Fallow()
    if name.name == DVFS:
        return Dvfs()
    if name.parts is None:
        raise ValueError(f"{name.name} is not simulated")
    test, selection = name.parts
    parameter = PARAMETERS[test] if name.parameter is None else name.parameter
    return PowerAware(_TESTS[test](parameter), _SELECTIONS[selection](seed))
