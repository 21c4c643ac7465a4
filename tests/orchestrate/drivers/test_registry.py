"""Which kinds of drivers there are, and drivers out of settings."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from agent.settings import ConfigError
from orchestrate.driver import Driver
from orchestrate.drivers.registry import GROUP, DriverConfig, known_kinds, open_driver, parse_drivers


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


class Opened(Exception):
    """Carries what an opener was given."""


def open_fake(config: DriverConfig, clock: Callable[[], float]) -> Driver:
    raise Opened(config, clock())


def test_tables_become_configurations() -> None:
    """Name and kind are the same for all; the rest is the kind's own, in its order."""
    tables = [{"name": "lab", "kind": "libvirt", "hosts": ["test:///default"]}, {"name": "b", "kind": "simulated"}]
    first, second = parse_drivers(tables, source="o.toml: orchestrate")
    assert (first.name, first.kind, first.settings) == ("lab", "libvirt", {"hosts": ["test:///default"]})
    assert first.source == "o.toml: orchestrate: drivers[0]"
    assert (second.name, second.settings) == ("b", {})
    assert parse_drivers(None, source="x") == ()


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"name": "lab"}, "drivers: is not a list"),
        (["lab"], "drivers: is not a list"),
        ([{"kind": "libvirt"}], r"drivers\[0\]: name: is missing"),
        ([{"name": "lab"}], r"drivers\[0\]: kind: is missing"),
        ([{"name": "", "kind": "x"}], r"drivers\[0\]: name: '' is not a text"),
        ([{"name": "a/b", "kind": "x"}], r"drivers\[0\]: name: 'a/b' is not made of"),
        ([{"name": "../b", "kind": "x"}], r"drivers\[0\]: name: "),
        ([{"name": "-b", "kind": "x"}], r"drivers\[0\]: name: "),
        ([{"name": "x" * 65, "kind": "x"}], r"drivers\[0\]: name: "),
        ([{"name": "lab", "kind": 7}], r"drivers\[0\]: kind: 7 is not a text"),
        ([{"name": "a", "kind": "x"}, {"name": "a", "kind": "y"}], r"drivers\[1\]: name: 'a' is taken"),
    ],
)
def test_each_mistake_is_named(tables: object, words: str) -> None:
    """With the table where it stands."""
    with pytest.raises(ConfigError, match="o.toml: " + words):
        parse_drivers(tables, source="o.toml")


def test_all_mistakes_are_told_at_once() -> None:
    """One round of mending is enough."""
    with pytest.raises(ConfigError) as raised:
        parse_drivers([{}, {"name": "a"}, {"name": "a", "kind": "x"}], source="o.toml")
    assert len(raised.value.problems) == 2


def test_own_kinds_are_known_and_others_are_installed() -> None:
    """Entry points add to what is here."""
    assert {"libvirt", "simulated"} <= set(known_kinds(installed=[]))
    assert "fake" in known_kinds(installed=[entry("fake", f"{__name__}:open_fake")])


@pytest.mark.parametrize(
    "installed",
    [
        [entry("libvirt", "elsewhere:open_driver")],
        [entry("fake", "one:open_driver"), entry("fake", "two:open_driver")],
    ],
)
def test_no_package_takes_the_place_of_another(installed: list[EntryPoint]) -> None:
    """Which of two acts on VMs is not left to chance."""
    with pytest.raises(ConfigError, match="two drivers of the kind"):
        known_kinds(installed=installed)


def test_an_entry_that_is_found_twice_is_one() -> None:
    """A package may be on the search path twice."""
    same = entry("fake", f"{__name__}:open_fake")
    assert known_kinds(installed=[same, same])["fake"] == same


def test_a_kind_from_elsewhere_is_opened_with_its_settings() -> None:
    """It is given its configuration and the clock."""
    config = DriverConfig(name="lab", kind="fake", settings={"a": 1})
    with pytest.raises(Opened) as raised:
        open_driver(config, clock=lambda: 7.0, installed=[entry("fake", f"{__name__}:open_fake")])
    assert raised.value.args == (config, 7.0)


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("proxmox", None, "kind: 'proxmox' is none of libvirt, simulated"),
        ("fake", "no.such.module:open_driver", "kind: 'fake' cannot be loaded"),
        ("fake", f"{__name__}:no_such_name", "kind: 'fake' cannot be loaded"),
    ],
)
def test_a_kind_that_is_not_there_is_named(kind: str, value: str | None, words: str) -> None:
    """With the place in the settings."""
    installed: list[Any] = [] if value is None else [entry(kind, value)]
    with pytest.raises(ConfigError, match=r"o\.toml: drivers\[0\]: " + words):
        open_driver(DriverConfig(name="lab", kind=kind, source="o.toml: drivers[0]"), installed=installed)


def test_settings_are_not_shown() -> None:
    """They may hold secrets."""
    assert "hunter2" not in repr(DriverConfig(name="lab", kind="x", settings={"password": "hunter2"}))


@pytest.mark.real
def test_nothing_of_a_kind_is_imported_before_a_driver_is_opened() -> None:
    """A controller without libvirt needs no libvirt."""
    program = (
        "import sys; from orchestrate.drivers import registry; registry.known_kinds();"
        "assert not [name for name in sys.modules if 'libvirt' in name or 'simulated' in name]"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
