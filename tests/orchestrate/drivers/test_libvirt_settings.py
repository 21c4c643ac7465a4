"""The libvirt driver's settings: every mistake is named, and where."""

from __future__ import annotations

from typing import Any

import pytest

from agent.settings import ConfigError
from orchestrate.drivers.libvirt_settings import LibvirtSettings, parse_settings
from orchestrate.drivers.registry import DriverConfig


def parsed(**settings: Any) -> LibvirtSettings:
    return parse_settings(DriverConfig(name="lab", kind="libvirt", settings=settings, source="o.toml: drivers[0]"))


def test_addresses_alone_are_enough() -> None:
    """Hosts are called by the names in their addresses, under which VMs migrate too."""
    settings = parsed(hosts=["qemu+ssh://root@hv1/system", "qemu+ssh://root@hv2/system"])
    assert [host.host_id for host in settings.hosts] == ["hv1", "hv2"]
    assert all(host.migrate_uri == host.uri and host.accepts for host in settings.hosts)
    assert (settings.migrates, settings.stop_within_s, settings.migrate_mib_per_s) == (True, 120.0, None)
    assert settings.migrate_flags == frozenset()


def test_all_keys_are_read() -> None:
    """Of the driver and of a host."""
    settings = parsed(
        allow_plain=True,
        stop_within="5min",
        migrate_flags=["auto-converge", "tls"],
        migrate_mib_per_s=100,
        hosts=[
            {
                "uri": "qemu:///system?socket=/run/a",
                "name": "a",
                "migrate_uri": "qemu+tcp://10.0.0.1/system",
                "accepts": False,
                "tags": ["rack:1"],
            }
        ],
    )
    (host,) = settings.hosts
    assert host.migrate_uri is not None
    assert (host.host_id, host.migrate_uri.host, host.accepts, host.tags) == ("a", "10.0.0.1", False, ("rack:1",))
    assert (settings.stop_within_s, settings.migrate_mib_per_s) == (300.0, 100)
    assert settings.migrate_flags == {"auto-converge", "tls"}
    assert settings.migrates is False


def test_a_local_host_is_reached_by_no_other() -> None:
    """Its address means another machine there."""
    (host,) = parsed(hosts=["qemu:///system"]).hosts
    assert (host.host_id, host.migrate_uri) == ("localhost", None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "hosts: is missing"),
        ({"hosts": []}, "hosts: is not a list of hosts"),
        ({"hosts": "qemu:///system"}, "hosts: is not a list of hosts"),
        ({"hosts": [7]}, "hosts: 7 is neither an address nor a table"),
        ({"hosts": [{}]}, r"hosts\[0\]: uri: is missing"),
        ({"hosts": [{"uri": "test:///default", "nam": "x"}]}, r"hosts\[0\]: nam: unknown setting"),
        ({"hosts": [{"uri": "test:///default", "name": ""}]}, r"hosts\[0\]: '' is not a text"),
        ({"hosts": [{"uri": "test:///default", "accepts": 1}]}, r"hosts\[0\]: 1 is neither true nor false"),
        ({"hosts": [{"uri": "test:///default", "tags": "x"}]}, r"hosts\[0\]: 'x' is not a list of texts"),
        ({"hosts": ["file:///x"]}, r"hosts\[0\]: 'file:///x': the scheme 'file'"),
        ({"hosts": ["qemu+tcp://hv1/system"]}, r"hosts\[0\]: .* neither encrypts"),
        ({"hosts": ["qemu:///system", "qemu:///system?socket=/x"]}, r"hosts\[1\]: another host is called 'localhost'"),
        (
            {"hosts": [{"uri": "qemu:///system", "migrate_uri": "qemu:///system"}]},
            r"hosts\[0\]: migrate_uri: 'qemu:///system' names no host",
        ),
        (
            {"hosts": [{"uri": "qemu:///system", "migrate_uri": "qemu+tcp://a/system"}]},
            r"hosts\[0\]: migrate_uri: .* neither encrypts",
        ),
        (
            {"hosts": [{"uri": "test:///default", "migrate_uri": "qemu+tls://a/system"}]},
            r"hosts\[0\]: migrate_uri: libvirt's test driver moves no VM",
        ),
        ({"hosts": ["test:///default"], "migrate_flags": ["postcopy"]}, "migrate_flags: 'postcopy' is none of"),
        ({"hosts": ["test:///default"], "migrate_flags": "tls"}, "migrate_flags: 'tls' is not a list"),
        ({"hosts": ["test:///default"], "stop_within": 5}, "stop_within: 5 is not a duration"),
        ({"hosts": ["test:///default"], "uri": "x"}, "uri: unknown setting"),
    ],
)
def test_each_mistake_is_named(settings: dict[str, Any], words: str) -> None:
    """With the place where it stands."""
    with pytest.raises(ConfigError, match=r"o\.toml: drivers\[0\]: " + words):
        parsed(**settings)


def test_all_mistakes_are_told_at_once() -> None:
    """One round of mending is enough."""
    with pytest.raises(ConfigError) as raised:
        parsed(hosts=["file:///x", {"uri": "qemu+tcp://hv1/system"}], stop_within="never", speed=3)
    assert len(raised.value.problems) == 4
