"""The smallest size that holds what a VM used."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from reports.sizing import GIB, SizingLimits, right_size
from tests.reports.columns import facts


def sizes(cpu_p95: float, mem_max: float, *, vcpus: float = 8, mem_gib: float = 16) -> tuple[bool, float, float]:
    """Whether it is oversized, and the proposal in vCPU and GiB."""
    one = facts(
        {"cpu_busy_p95_ratio": cpu_p95, "mem_used_max_ratio": mem_max}, cpu_count=vcpus, mem_bytes=mem_gib * GIB
    )
    found = right_size(one, 14, SizingLimits())
    return bool(found.oversized[0]), float(found.vcpus[0]), float(found.mem_bytes[0]) / GIB


def test_example_by_hand() -> None:
    """20 % of 8 vCPU are 1.6 busy ones: 3 hold them at 60 %; 30 % of 16 GiB at their peak: 6 GiB hold 4.8 at 80 %."""
    assert sizes(0.2, 0.3) == (True, 3.0, 6.0)


def test_exactly_at_the_limit_needs_no_more() -> None:
    """2 vCPU hold 1.2 busy ones at exactly 60 %, 8 GiB hold 6.4 at exactly 80 %."""
    assert sizes(0.15, 0.4) == (True, 2.0, 8.0)


def test_a_vm_that_fits_is_left_alone() -> None:
    """Nothing smaller holds it."""
    assert not sizes(0.6, 0.8)[0]


def test_little_is_not_worth_a_restart() -> None:
    """One vCPU of eight is under a quarter."""
    assert not sizes(0.52, 0.8)[0]


def test_smallest_vm_has_nothing_to_give() -> None:
    """One vCPU and a GiB are the least."""
    assert not sizes(0.0, 0.0, vcpus=1, mem_gib=1)[0]


def test_unknown_figure_gives_no_proposal() -> None:
    """Without a memory peak nobody knows what the VM needs."""
    one = facts({"cpu_busy_p95_ratio": 0.01})
    assert not right_size(one, 14, SizingLimits()).oversized[0]


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 128), st.integers(1, 512))
def test_proposal_holds_the_load_and_is_never_larger(cpu_p95: float, mem_max: float, vcpus: int, mem_gib: int) -> None:
    """P95 CPU within 60 % and peak memory within 80 % of it, unless the present size is over that itself."""
    oversized, new_vcpus, new_gib = sizes(cpu_p95, mem_max, vcpus=vcpus, mem_gib=mem_gib)
    assert 1 <= new_vcpus <= vcpus
    assert new_gib <= mem_gib
    if oversized:
        assert cpu_p95 * vcpus <= 0.6 * new_vcpus + 1e-6 or new_vcpus == vcpus
        assert mem_max * mem_gib <= 0.8 * new_gib + 1e-6 or new_gib == mem_gib
