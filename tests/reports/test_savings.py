"""What freed capacity is worth."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from reports.savings import Freed, Prices, worth

GIB = 2.0**30


def freed(vcpus: float, mem_gib: float, disk_gib: float) -> Freed:
    return Freed(np.array([vcpus]), np.array([mem_gib * GIB]), np.array([disk_gib * GIB]))


def test_example_by_hand() -> None:
    """2 vCPU and 8 GiB: 4.616 W, so 3.37 kWh in 730 hours; money for the hours, the disk and the energy."""
    prices = Prices(currency="EUR", vcpu_hour=0.01, mem_gib_hour=0.002, disk_gib_month=0.1, kwh=0.3)
    found = worth(freed(2, 8, 50), prices)
    assert found.vcpu_equivalents[0] == 4
    assert found.kwh_per_month[0] == pytest.approx(3.36968)
    assert found.money_per_month[0] == pytest.approx(730 * 0.036 + 5 + 0.3 * 3.36968)


def test_unknown_size_is_worth_nothing() -> None:
    """Rather than making the sum of a fleet unknown."""
    found = worth(freed(math.nan, 8, math.nan), Prices())
    assert found.vcpu_equivalents[0] == 2


@given(st.floats(0, 1e3), st.floats(0, 1e4), st.floats(0, 1e5))
def test_worth_adds_up(vcpus: float, mem_gib: float, disk_gib: float) -> None:
    """Two VMs are worth what each is."""
    prices = Prices(currency="EUR", vcpu_hour=0.01, mem_gib_hour=0.002, disk_gib_month=0.1, kwh=0.3)
    one, double = (
        worth(freed(vcpus, mem_gib, disk_gib), prices),
        worth(freed(2 * vcpus, 2 * mem_gib, 2 * disk_gib), prices),
    )
    for single, both in zip(one, double, strict=True):
        assert both[0] == pytest.approx(2 * single[0])


def test_only_some_of_them() -> None:
    """The others give nothing back."""
    both = Freed(np.array([1.0, 2.0]), np.array([GIB, GIB]), np.array([math.nan, 0.0]))
    chosen = both.only(np.array([False, True]))
    assert [part.tolist() for part in chosen] == [[0.0, 2.0], [0.0, GIB], [0.0, 0.0]]
