"""What is given back, in words."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from reports.judgement import Judgement, Savings
from reports.savings_words import known_savings, savings_words, unknown_words
from reports.verdicts import Settings, Verdict
from tests.reports.columns import GIB, QUIET, evidence
from tests.reports.samples import OFFICE, PRICES
from tests.reports.test_explain import explained
from tests.reports.test_verdicts import BUSY, ROOMY

NOTHING = Savings(vcpus=0.0, mem_bytes=0.0, disk_bytes=0.0, kwh_per_month=0.0, money_per_month=None)


def idle(**changes: Any) -> Judgement:
    found = explained(QUIET, settings=Settings(prices=PRICES), **changes)
    assert found.verdict is Verdict.IDLE
    return found


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "nothing"),
        ({"vcpus": 1.5}, "1.5 vCPU"),
        ({"mem_bytes": 8.0 * GIB, "kwh_per_month": 3.0}, "8.0 GiB of memory (3 kWh a month)"),
        (
            {
                "vcpus": 1e6,
                "mem_bytes": 8.0 * GIB,
                "disk_bytes": 1.0 * GIB,
                "kwh_per_month": 3.0,
                "money_per_month": 2.5,
            },
            "1,000,000 vCPU, 8.0 GiB of memory and 1.0 GiB of disk (3 kWh and 2.50 EUR a month)",
        ),
    ],
)
def test_parts_of_nothing_are_left_out(changes: dict[str, float], text: str) -> None:
    """What is left reads as English, whatever is there."""
    assert savings_words(replace(NOTHING, **changes), "EUR") == text


def test_money_needs_prices() -> None:
    """None is no amount, not an amount of nothing."""
    assert "EUR" not in savings_words(replace(NOTHING, vcpus=1.0, kwh_per_month=1.0), "EUR")


def test_what_is_known_of_a_whole_size_is_the_savings() -> None:
    """Nothing is taken away from what is known."""
    for judgement in (idle(), explained(BUSY, body=evidence(profile=OFFICE)), explained(ROOMY, cpu_count=8)):
        known, savings = known_savings(judgement), judgement.savings
        assert all(getattr(known, name) == getattr(savings, name) for name in Savings.__dataclass_fields__)
        assert unknown_words(known) == ""


def test_an_unknown_size_is_not_a_size_of_nothing() -> None:
    """Each part that is not known is None, and what it would cost too where nothing is known."""
    known = known_savings(idle(cpu_count=math.nan))
    assert (known.vcpus, known.mem_bytes, known.disk_bytes) == (None, 8 * GIB, 40 * GIB)
    assert known.money_per_month is not None
    assert unknown_words(known) == "vCPU"
    judgement = idle(cpu_count=math.nan, mem_bytes=math.nan)
    known = known_savings(replace(judgement, disk_total_bytes=None, savings=replace(NOTHING, money_per_month=0.0)))
    assert {getattr(known, name) for name in Savings.__dataclass_fields__} == {None}
    assert unknown_words(known) == "vCPU, memory and disk"


def test_a_vm_that_gives_nothing_back_gives_zero() -> None:
    """That is known, whatever its size."""
    known = known_savings(explained(BUSY, cpu_count=math.nan))
    assert (known.vcpus, known.mem_bytes, known.disk_bytes, known.kwh_per_month) == (0.0, 0.0, 0.0, 0.0)
