"""Which VM leaves first."""

from __future__ import annotations

import numpy as np

from orchestrate.simulation.selection import (
    MaximumCorrelation,
    MinimumMigrationTime,
    MinimumUtilisation,
    RandomSelection,
)
from tests.orchestrate.simulation.parks import park, view_of


def test_least_memory_first_of_several() -> None:
    """By memory, in order of arrival among equals."""
    view = view_of(park([4000], [1000] * 3, ram_mb=[900, 600, 600]), [[0, 2, 1]], [[0.1, 0.2, 0.3]])
    assert MinimumMigrationTime().choose(view, [0, 2, 1]) == 2


def test_least_use_first_of_several() -> None:
    """By use of its own CPU now, not of the host's, in order of arrival among equals."""
    view = view_of(park([9000], [4000, 1000, 1000]), [[2, 1, 0]], [[0.1, 0.2, 0.1], [0.0, 0.0, 0.0]])
    assert MinimumUtilisation().choose(view, [2, 1, 0]) == 2
    assert MinimumUtilisation().choose(view, [1, 0]) == 0


def test_most_correlated() -> None:
    """Two that move together are told from each other; of the two the better told one goes."""
    draw = np.random.default_rng(3)
    base, lone = draw.random(20), draw.random(20)
    history = np.column_stack([lone, base, 0.5 * base + 0.01 * draw.random(20)])
    view = view_of(park([9000], [1000] * 3), [[0, 1, 2]], history.tolist())
    assert MaximumCorrelation().choose(view, [0, 1, 2]) in {1, 2}


def test_correlation_falls_back_to_memory() -> None:
    """With fewer values than VMs nothing can be told."""
    view = view_of(park([9000], [1000] * 3, ram_mb=[900, 800, 700]), [[0, 1, 2]], [[0.1, 0.2, 0.3]] * 2)
    assert MaximumCorrelation().choose(view, [0, 1, 2]) == 2


def test_nothing_positive_takes_the_first() -> None:
    """Constant series cannot be told: the first one goes."""
    view = view_of(park([9000], [1000] * 2, ram_mb=[900, 800]), [[0, 1]], [[0.1, 0.2]] * 12)
    assert MaximumCorrelation().choose(view, [0, 1]) == 0


def test_lots_repeat_with_their_seed() -> None:
    """One seed one sequence, and every VM has its chance."""
    view = view_of(park([9000], [1000] * 4), [[0, 1, 2, 3]], [[0.1] * 4])
    first, second, other = RandomSelection(1), RandomSelection(1), RandomSelection(2)
    drawn = [first.choose(view, [0, 1, 2, 3]) for _ in range(50)]
    assert drawn == [second.choose(view, [0, 1, 2, 3]) for _ in range(50)]
    assert drawn != [other.choose(view, [0, 1, 2, 3]) for _ in range(50)]
    assert set(drawn) == {0, 1, 2, 3}
