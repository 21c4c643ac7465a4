"""The keys of a table that say how its server listens."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from agent.settings import ConfigError, SettingsReader
from aggregator.listen_settings import ListenSettings, TlsFiles, take_listen_settings


def take(table: dict[str, Any], base: ListenSettings | None = None) -> ListenSettings:
    reader = SettingsReader({"door": table}, source="a.toml")
    found = take_listen_settings(reader, "door", base or ListenSettings())
    reader.finish()
    return found


def test_every_key_arrives() -> None:
    """Certificate, proxy and all."""
    table = {"tls_cert": "c.pem", "tls_key": "k.pem", "plain_behind_proxy": True, "proxies": ["10.0.0.0/8"]}
    assert take(table) == ListenSettings(
        tls=TlsFiles(cert=Path("c.pem"), key=Path("k.pem")),
        plain_behind_proxy=True,
        proxies=(ip_network("10.0.0.0/8"),),
    )


def test_what_a_table_leaves_out_stays() -> None:
    """An absent key is the base's, whichever that is."""
    base = take({"tls_cert": "c.pem", "tls_key": "k.pem", "proxies": ["10.0.0.0/8"]})
    assert take({}, base) == base
    assert take({}) == ListenSettings()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"tls_cert": "c.pem"}, "a.toml: door.tls_cert: tls_cert and tls_key: one needs the other"),
        ({"tls_key": "k.pem"}, "a.toml: door.tls_cert: tls_cert and tls_key: one needs the other"),
        ({"tls_cert": "c\0", "tls_key": "k.pem"}, "a.toml: door.tls_cert: 'c\\x00' is not a path"),
        ({"plain_behind_proxy": "yes"}, "a.toml: door.plain_behind_proxy: 'yes' is neither true nor false"),
        ({"proxies": "all"}, "a.toml: door.proxies: 'all' is not a network"),
        ({"client_ca": "x"}, "a.toml: door.client_ca: unknown setting"),
    ],
)
def test_a_mistake_is_named_with_its_key(table: dict[str, Any], problem: str) -> None:
    """File, key, and what is wrong."""
    with pytest.raises(ConfigError) as caught:
        take(table)
    assert any(line.startswith(problem) for line in caught.value.problems)


@pytest.mark.parametrize(
    ("settings", "is_https"),
    [
        (ListenSettings(), False),
        (ListenSettings(plain_behind_proxy=True), True),
        (ListenSettings(tls=TlsFiles(cert=Path("c"), key=Path("k"))), True),
    ],
)
def test_browsers_come_by_https_whoever_ends_it(settings: ListenSettings, is_https: bool) -> None:
    """A proxy that ends TLS is https for the browser as well."""
    assert settings.is_https is is_https
