"""A sample holds figures that can be, and nothing else."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sample import FIELDS, Field, Sample, Unit

REQUIRED: dict[str, Any] = {"ts": 60, "cpu_busy_ratio": 0.5, "mem_total_bytes": 1024, "mem_used_bytes": 512}


def test_fields_are_those_of_the_sample() -> None:
    """`FIELDS` is the one list: every figure but `ts` stands in it once, under one column, required where it must."""
    figures = {field.name: field for field in dataclasses.fields(Sample)}
    del figures["ts"]
    assert sorted(figures) == sorted(field.name for field in FIELDS)
    assert len({field.column for field in FIELDS}) == len(FIELDS)
    for field in FIELDS:
        assert (figures[field.name].default is dataclasses.MISSING) == field.required


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_figure_has_its_range(field: Field) -> None:
    """0 and the maximum are in it; below, above, NaN and infinity are not, and the message names the figure."""
    for value in (0, field.maximum):
        assert getattr(Sample(**REQUIRED | {field.name: value}), field.name) == value
    for value in (-1e-9, math.nextafter(field.maximum, math.inf), math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=field.name):
            Sample(**REQUIRED | {field.name: value})


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_only_what_is_required_must_be_there(field: Field) -> None:
    """None means not measured."""
    if field.required:
        with pytest.raises(ValueError, match=field.name):
            Sample(**REQUIRED | {field.name: None})
    else:
        assert getattr(Sample(**REQUIRED | {field.name: None}), field.name) is None
        assert getattr(Sample(**REQUIRED), field.name) is None


@given(st.floats(0, 1), st.integers(0, 2**53))
def test_a_sample_is_a_value(ratio: float, size: int) -> None:
    """Equal figures make equal samples; none can be changed."""
    one = Sample(**REQUIRED | {"cpu_busy_ratio": ratio, "mem_used_bytes": size})
    assert one == Sample(**REQUIRED | {"cpu_busy_ratio": ratio, "mem_used_bytes": size})
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.ts = 0  # type: ignore[misc]


@pytest.mark.parametrize("unit", Unit)
def test_a_maximum_is_a_whole_number_of_quanta_that_sqlite_holds(unit: Unit) -> None:
    """The largest figure fits an INTEGER column, and no figure is rounded above its maximum."""
    maxima = [field.maximum for field in FIELDS if field.unit is unit]
    assert maxima
    for maximum in maxima:
        steps = maximum / unit.quantum
        assert steps < 2**63
        assert round(steps) * unit.quantum == pytest.approx(maximum)


def test_the_page_of_the_wire_gives_each_figure_its_largest_value() -> None:
    """docs/wire.md names every figure once, with the maximum that the code accepts."""
    page = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
    table = page.partition("| figure of a sample |")[2].partition("\n\n")[0]
    told: dict[str, float] = {}
    for line in table.splitlines()[2:]:
        names, _, largest = (cell.strip() for cell in line.strip("|").split("|"))
        limits = [float(base) ** float(power or 1) for base, power in re.findall(r"(\d+)(?:\^(\d+))?", largest)]
        figures = [name for name in re.findall(r"`(\w+)`", names) if name != "ts"]
        told |= dict(zip(figures, limits if len(limits) > 1 else limits * len(figures), strict=False))
    assert told == {field.name: field.maximum for field in FIELDS}
