"""Which kinds of drivers there are, and a driver out of its settings.

The kinds of this package are named here; others come as entry points of the group `fallow.drivers`. Nothing of a
kind is imported before a driver of it is opened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from agent.settings import ConfigError, parse_text
from orchestrate.driver import Driver

GROUP = "fallow.drivers"
BUILT_IN = (
    EntryPoint(name="libvirt", value="orchestrate.drivers.libvirt_driver:open_driver", group=GROUP),
    EntryPoint(name="simulated", value="orchestrate.drivers.simulated:open_driver", group=GROUP),
)
# A driver's name stands in front of UUIDs (`lab/6695eb01-…`), in tables and in file names.
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_MAX_NAME_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """One of `[[orchestrate.drivers]]`, as far as it is the same for all kinds.

    Args:
        settings: all further keys, which are the kind's own to read; they may hold secrets.
        source: where it stands, for messages: what `agent.settings.SettingsReader` takes as `source`.
    """

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    source: str = "driver"


# What an entry point must be: settings and a clock (Unix seconds) to a driver. It raises ConfigError for settings that
# cannot be used, and connects to nothing: a hypervisor that is down is told of by the driver's first call.
OpenDriver = Callable[[DriverConfig, Callable[[], float]], Driver]


def parse_drivers(tables: object, *, source: str) -> tuple[DriverConfig, ...]:
    """The drivers of `[[orchestrate.drivers]]`; none where `tables` is None.

    Raises: ConfigError: names each table without a name or a kind, and names that repeat.
    """
    if tables is None:
        return ()
    if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(f"{source}: drivers: is not a list of tables ([[orchestrate.drivers]])")
    problems: list[str] = []
    found: dict[str, DriverConfig] = {}
    for number, table in enumerate(tables):
        place = f"{source}: drivers[{number}]"
        try:
            name, kind = _name(table.get("name")), _text("kind", table.get("kind"))
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        if name in found:
            problems.append(f"{place}: name: {name!r} is taken by another driver")
        settings = {key: value for key, value in table.items() if key not in {"name", "kind"}}
        found[name] = DriverConfig(name=name, kind=kind, settings=settings, source=place)
    if problems:
        raise ConfigError(problems)
    return tuple(found.values())


def known_kinds(*, installed: Iterable[EntryPoint] | None = None) -> dict[str, EntryPoint]:
    """Where each kind of driver comes from, without importing it.

    Args: installed: entry points of GROUP; None: those of this Python.

    Raises: ConfigError: two packages, or a package and this one, bring a kind of the same name.
    """
    kinds = {entry.name: entry for entry in BUILT_IN}
    for entry in entry_points(group=GROUP) if installed is None else installed:
        taken = kinds.setdefault(entry.name, entry)
        if taken.value != entry.value:
            # Which of them would act on VMs must not depend on the order of a search path.
            raise ConfigError(f"two drivers of the kind {entry.name!r}: {taken.value} and {entry.value}")
    return kinds


def open_driver(
    config: DriverConfig,
    *,
    clock: Callable[[], float] = time.time,
    installed: Iterable[EntryPoint] | None = None,
) -> Driver:
    """The driver. It connects at its first call, not now.

    Args: clock: Unix seconds. installed: as for `known_kinds`.

    Raises: ConfigError: no such kind, a package that is missing, or settings the kind cannot use.
    """
    kinds = known_kinds(installed=installed)
    entry = kinds.get(config.kind)
    if entry is None:
        raise ConfigError(f"{config.source}: kind: {config.kind!r} is none of {', '.join(sorted(kinds))}")
    try:
        opener: OpenDriver = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{config.source}: kind: {config.kind!r} cannot be loaded: {error}") from error
    return opener(config, clock)


def _name(value: object) -> str:
    name = _text("name", value)
    if not _NAME_CHARS.issuperset(name) or name.startswith((".", "-")) or len(name) > _MAX_NAME_CHARS:
        raise ValueError(f"name: {name!r} is not made of letters, digits, '.', '_' and '-' ({_MAX_NAME_CHARS} at most)")
    return name


def _text(key: str, value: object) -> str:
    if value is None:
        raise ValueError(f"{key}: is missing")
    try:
        return parse_text(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
