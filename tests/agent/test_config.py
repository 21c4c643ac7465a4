"""Every setting has a default, every mistake is named with its place, and plain HTTP stays at home."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import AgentConfig, parse_config
from agent.server import Server, parse_server
from agent.settings import ConfigError


def parse(table: Mapping[str, Any], **options: object) -> AgentConfig:
    line = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return parse_config(table, source="agent.toml", options=line)


def problems(table: Mapping[str, Any], **options: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(table, **options)
    return caught.value.problems


def test_nothing_needs_to_be_set() -> None:
    """An empty file is the defaults."""
    assert parse({}) == AgentConfig()


def test_everything_can_be_set() -> None:
    """Each setting of the file arrives in its unit."""
    config = parse(
        {
            "aggregator": "https://fallow.example",
            "ca": "/etc/fallow/ca.pem",
            "state": "/srv/agent",
            "vm_id": "db-1",
            "interval": "5min",
            "join_token_file": "/etc/fallow/join.token",
            "timeout": "10s",
            "spool": {"max_size": "1MiB", "max_age": "2d"},
            "quarantine": {"max_files": 5},
        }
    )
    assert config == AgentConfig(
        aggregator=Server(tls=True, host="fallow.example", port=8899),
        ca=Path("/etc/fallow/ca.pem"),
        state=Path("/srv/agent"),
        vm_id="db-1",
        interval_s=300,
        join_token_file=Path("/etc/fallow/join.token"),
        timeout_s=10.0,
        spool_max_bytes=1 << 20,
        spool_max_age_s=172800.0,
        quarantine_max_files=5,
    )


def test_the_command_line_overrules_the_file() -> None:
    """An option given counts, one not given leaves the file's."""
    config = parse({"vm_id": "a", "state": "/a"}, vm_id="b")
    assert (config.vm_id, config.state) == ("b", Path("/a"))


def test_every_mistake_is_reported_at_once_with_its_place() -> None:
    """Key or option, and what is wrong with it."""
    found = problems(
        {"interval": "5 parsecs", "colour": "red", "spool": {"max_size": "0", "depth": 1}, "ca": ""},
        vm_id="../../x",
        aggregator="ftp://x",
    )
    assert len(found) == 7
    for start in (
        "agent.toml: ca: ",
        "agent.toml: colour: unknown setting",
        "agent.toml: interval: ",
        "agent.toml: spool.depth: unknown setting",
        "agent.toml: spool.max_size: ",
        "command line: --aggregator: ",
        "command line: --vm-id: ",
    ):
        assert sum(line.startswith(start) for line in found) == 1, start


@pytest.mark.parametrize("interval", ["0s", "-5s", "7s", "1.5s", "2h", 60, "", "5 parsecs", True])
def test_intervals_that_do_not_divide_an_hour_are_refused(interval: object) -> None:
    """A store's hours hold whole intervals only."""
    assert len(problems({"interval": interval})) == 1


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1", "http://fallow.example:8899", "http://localhost.example", "http://[2001:db8::1]"]
)
def test_plain_http_leaves_the_machine_only_when_asked_to(url: str) -> None:
    """A token must not be readable on the way: plain HTTP to another host needs --insecure-plain."""
    assert problems({"aggregator": url})[0].startswith("agent.toml: aggregator: ")
    assert problems({}, aggregator=url)[0].startswith("command line: --aggregator: ")
    assert str(parse({"aggregator": url}, insecure_plain=True).aggregator).startswith("http://")


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"tls": {"cert": "a.pem"}}, "tls.cert and tls.key: one needs the other"),
        ({"tls": {"key": "a.key"}}, "tls.cert and tls.key: one needs the other"),
        ({"tls": {"cert": "a.pem", "key": "a.key"}, "aggregator": "http://127.0.0.1"}, "is plain HTTP"),
        ({"tls": {"cert": 5, "key": "a.key"}}, "tls.cert: 5 is not a text"),
    ],
)
def test_a_certificate_needs_its_key_and_tls(table: dict[str, Any], problem: str) -> None:
    """Both files, and somebody to show the certificate to."""
    assert any(problem in line for line in problems({"aggregator": "https://x"} | table))


def test_a_certificate_of_the_vm_can_be_set() -> None:
    """Where the aggregator asks for one."""
    config = parse({"aggregator": "https://x", "tls": {"cert": "a.pem", "key": "a.key"}})
    assert (config.tls_cert, config.tls_key) == (Path("a.pem"), Path("a.key"))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://127.9.9.9", "http://localhost", "http://[::1]:8899", "https://x"]
)
def test_loopback_and_tls_need_no_permission(url: str) -> None:
    """What stays on the machine, or is encrypted, is fine."""
    assert parse({"aggregator": url})


@pytest.mark.parametrize(
    "url",
    ["", "fallow.example:8899", "https://", "https://h/path", "https://h?x=1", "https://u:p@h", "https://h:99999",
     "https://h:x", "file:///etc/passwd", "https://h\r\nX: y", "https://h h", "https://[::1", 5],
)  # fmt: skip
def test_addresses_that_are_none_are_refused(url: object) -> None:
    """Scheme, host and port, nothing else: no path, no password, no line break."""
    with pytest.raises(ValueError, match=r"not|port|Port|IPv6"):
        parse_server(url)


@given(text=st.text(max_size=40))
def test_no_address_raises_anything_but_value_error(text: str) -> None:
    """Whatever is written there, the mistake is reported as a mistake; what is taken reads back the same."""
    try:
        server = parse_server(text)
    except ValueError:
        return
    assert parse_server(str(server)) == server
