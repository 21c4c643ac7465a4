"""All scenarios: those of every `rows_*` module beside this one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection

import tests.faults
from tests.faults.scenario import Scenario


def gather() -> tuple[Scenario, ...]:
    """Every module's `SCENARIOS`, by their first row. Raises: ValueError: two have the same name."""
    modules = [
        importlib.import_module(f"tests.faults.{module.name}")
        for module in pkgutil.iter_modules(tests.faults.__path__)
        if module.name.startswith("rows_")
    ]
    found: list[Scenario] = [scenario for module in modules for scenario in getattr(module, "SCENARIOS", ())]
    names = [scenario.name for scenario in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two scenarios are named {', '.join(twice)}")
    return tuple(sorted(found, key=lambda scenario: (scenario.rows, scenario.name)))


SCENARIOS = gather()


def of_rows(rows: Collection[int]) -> tuple[Scenario, ...]:
    """The scenarios that stand for any of these rows."""
    return tuple(scenario for scenario in SCENARIOS if any(row in rows for row in scenario.rows))
