"""Every setting of the aggregator: its default, its bounds, and every mistake named at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from agent.config import OPTIONS, AgentConfig, parse_config
from agent.settings import ConfigError
from aggregator.config import _MAX_BATCH_SAMPLES, AggregatorConfig, option_name, parse_windows, refuse_open_password
from aggregator.decode import Push
from aggregator.journal_format import MAX_PAYLOAD_BYTES
from aggregator.record import encode_record
from tests.aggregator.flush_fakes import NOW_S, TS, row

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def parse(table: Mapping[str, Any], **options: str) -> AggregatorConfig:
    """Settings of a table and of options given by dotted key, `.` written as `__`."""
    given = {key.replace("__", "."): value for key, value in options.items()}
    return AggregatorConfig.parse(table, source="aggregator.toml", options=given)


def problems(table: Mapping[str, Any], **options: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(table, **options)
    return caught.value.problems


def test_nothing_needs_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file is the defaults, and they keep everything on this machine."""
    monkeypatch.delenv("FALLOW_DATA", raising=False)
    config = parse({})
    assert config == AggregatorConfig()
    assert config.data_dir == Path("/var/lib/fallow")
    assert (config.listen, config.admin) == (("127.0.0.1", 8899), ("127.0.0.1", 8900))
    assert (config.flush_interval_s, config.raw_retention_s, config.hour_retention_s) == (900, 14 * 86400, 400 * 86400)
    assert config.windows_days == (1, 3, 7, 14, 30)


def test_the_environment_names_the_data_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """FALLOW_DATA is a default only: file and command line go over it."""
    monkeypatch.setenv("FALLOW_DATA", "/srv/fallow")
    assert parse({}).data_dir == Path("/srv/fallow")
    assert parse({"data": "/a"}).data_dir == Path("/a")


def test_everything_can_be_set() -> None:
    """Each key of the file arrives in its unit."""
    config = parse(
        {
            "data": "/srv/a",
            "listen": "[::]:1",
            "admin": "localhost:0",
            "tls": {"cert": "c.pem", "key": "k.pem", "client_ca": "a.pem"},
            "plain_behind_proxy": True,
            "proxies": ["10.0.0.0/28", "::1"],
            "fleet": {"url": "postgresql+psycopg://db/fallow"},
            "node": {"name": "agg-1", "url": "https://agg1.example:8900", "ca": "n.pem"},
            "join": {"interval": "5s", "after": "2h"},
            "flush": {"interval": "30s", "workers": 3},
            "summary": {"windows": ["14d", "1d"]},
            "retention": {"raw": "7d", "hours": "30d"},
            "buffer": {"samples": 5},
            "journal": {"segment": "1MiB"},
            "limits": {
                "connections": 6,
                "per_address": 3,
                "per_token": 2,
                "batch_samples": 7,
                "body": "8KiB",
                "headers": 9,
                "request_time": "10s",
            },
        }
    )
    assert config == AggregatorConfig(
        data_dir=Path("/srv/a"),
        listen=("::", 1),
        admin=("localhost", 0),
        tls_cert=Path("c.pem"),
        tls_key=Path("k.pem"),
        tls_client_ca=Path("a.pem"),
        plain_behind_proxy=True,
        proxies=(ip_network("10.0.0.0/28"), ip_network("::1")),
        fleet_url="postgresql+psycopg://db/fallow",
        node_name="agg-1",
        node_url="https://agg1.example:8900",
        node_ca=Path("n.pem"),
        join_interval_s=5.0,
        join_after_s=7200.0,
        flush_interval_s=30.0,
        flush_workers=3,
        windows_days=(1, 14),
        raw_retention_s=7 * 86400.0,
        hour_retention_s=30 * 86400.0,
        buffer_samples=5,
        segment_bytes=1 << 20,
        connections=6,
        per_address=3,
        per_token=2,
        batch_samples=7,
        body_bytes=8 << 10,
        header_bytes=9,
        request_s=10.0,
    )


def test_the_command_line_overrules_the_file() -> None:
    """An option given counts, one not given leaves the file's."""
    config = parse({"flush": {"interval": "1h", "workers": 3}}, flush__interval="30s")
    assert (config.flush_interval_s, config.flush_workers) == (30.0, 3)


def test_unknown_keys_are_named() -> None:
    """A typo must not silently be a default."""
    assert problems({"colour": "red", "flush": {"intervall": "5min"}, "listen": {"port": 1}}) == [
        "aggregator.toml: colour: unknown setting",
        "aggregator.toml: flush.intervall: unknown setting",
        "aggregator.toml: listen.port: unknown setting",
    ]


@pytest.mark.parametrize(
    "text", ["0s", "-5s", "5 parsecs", "", "15", "1e3s", "101000d", "9" * 400 + "d", 900, True, None]
)
def test_intervals_that_are_none_are_refused(text: object) -> None:
    """Interval 0, negative or '5 parsecs'; also no unit, and more than any clock can count."""
    (problem,) = problems({"flush": {"interval": text}})
    assert problem.startswith("aggregator.toml: flush.interval: ")
    if isinstance(text, str):
        (problem,) = problems({}, flush__interval=text)
        assert problem.startswith("--flush-interval: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", ""),
        ("node.name", "Agg 1"),
        ("node.name", "../x"),
        ("node.url", "http://agg1.example:8900"),
        ("node.url", "agg1.example"),
        ("join.interval", "0s"),
        ("join.after", 5),
        ("data", "a\0b"),
        ("data", 5),
        ("listen", "8899"),
        ("listen", "127.0.0.1:"),
        ("listen", ":8899"),
        ("listen", "127.0.0.1:65536"),
        ("admin", "127.0.0.1:http"),
        ("tls.cert", False),
        ("tls.client_ca", ""),
        ("plain_behind_proxy", "yes"),
        ("plain_behind_proxy", 1),
        ("proxies", 5),
        ("proxies", ["10.0.0.0/40"]),
        ("proxies", ["10.0.0.1/8"]),
        ("proxies", ["proxy.example"]),
        ("proxies", [10]),
        ("limits.per_address", 0),
        ("limits.per_token", 0),
        ("fleet.url", ""),
        ("flush.workers", 0),
        ("flush.workers", -1),
        ("flush.workers", 1.5),
        ("flush.workers", "two"),
        ("summary.windows", ""),
        ("summary.windows", []),
        ("summary.windows", "36h"),
        ("summary.windows", "1d,"),
        ("summary.windows", "401d"),
        ("summary.windows", ["1d", 7]),
        ("summary.windows", [f"{days}d" for days in range(1, 18)]),
        ("retention.raw", "14"),
        ("retention.hours", "100 years"),
        ("buffer.samples", 0),
        ("buffer.samples", True),
        ("journal.segment", "0"),
        ("journal.segment", "-1MiB"),
        ("journal.segment", "64 parsecs"),
        ("limits.connections", 0),
        ("limits.batch_samples", 20_001),
        ("limits.body", "big"),
        ("limits.headers", 0),
        ("limits.request_time", "0s"),
    ],
)
def test_values_out_of_range_are_refused_with_their_key(key: str, value: object) -> None:
    """One mistake, one line that begins with file and key."""
    section, _, name = key.rpartition(".")
    (problem,) = problems({section: {name: value}} if section else {name: value})
    assert problem.startswith(f"aggregator.toml: {key}: ")


def test_every_mistake_is_reported_at_once() -> None:
    """Of the file, of the command line, and those that only several settings show."""
    found = problems(
        {"flush": {"interval": "0s", "workers": 0}, "colour": 1, "tls": {"cert": "c.pem"}},
        listen="nowhere",
        retention__hours="1d",
    )
    assert sorted(line.split(": ")[0] + ": " + line.split(": ")[1] for line in found) == [
        "--listen: 'nowhere' is not HOST:PORT",
        "aggregator.toml: colour",
        "aggregator.toml: flush.interval",
        "aggregator.toml: flush.workers",
        "retention.hours: shorter than the longest of summary.windows",
        "tls.cert and tls.key: one needs the other",
    ]


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.0.2.1:0", "example.org:80"])
@pytest.mark.parametrize("key", ["listen", "admin"])
def test_plain_text_for_other_machines_is_refused(key: str, address: str) -> None:
    """Neither door listens without TLS off loopback, unless told so; the message names setting, key and option."""
    (problem,) = problems({key: address})
    assert problem.startswith(f"{key}: {address} would be plain text")
    assert "tls.cert and tls.key, or plain_behind_proxy (--plain-behind-proxy)" in problem
    assert problems({}, **{key: address}) == [problem]
    assert parse({key: address}, plain_behind_proxy="true").plain_behind_proxy
    assert parse({key: address, "tls": {"cert": "c", "key": "k"}}).listening.tls is not None


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:0", "LocalHost:0"])
def test_plain_text_on_loopback_needs_no_permission(address: str) -> None:
    """What stays on the machine is read by nobody on the way."""
    assert parse({"listen": address, "admin": address}).listening.tls is None


def test_certificates_of_agents_need_one_of_the_aggregator() -> None:
    """Nobody shows a certificate in plain text."""
    assert problems({"tls": {"client_ca": "a.pem"}}) == [
        "tls.client_ca: certificates of agents need tls.cert and tls.key"
    ]


def test_the_database_url_is_not_in_the_repr() -> None:
    """It may hold a password, and configurations end up in logs."""
    assert "secret" not in repr(parse({"fleet": {"url": "postgresql://u:secret@db/x"}}))


def test_windows_are_sorted_and_unique() -> None:
    """However they are written."""
    assert parse_windows("7d,1d,7d") == parse_windows(["1d", "168h"]) == (1, 7)


def test_the_largest_batch_fits_into_a_record_of_the_journal() -> None:
    """A batch that is admitted but can never be journalled would be answered 503 for ever."""
    rows = row(TS) * _MAX_BATCH_SAMPLES
    largest = Push("v" * 64, "\U0001f600" * 64, 2**53, NOW_S, 3600, rows, _MAX_BATCH_SAMPLES, TS, TS)
    assert len(encode_record(largest, NOW_S)) <= MAX_PAYLOAD_BYTES


def documented(heading: str) -> list[list[str]]:
    """Cells of the table under a heading of docs/configuration.md, its two head lines left out."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_document_lists_exactly_the_settings_of_the_aggregator() -> None:
    """Key, option and default of each, in the order of the code."""
    base = AggregatorConfig()
    shown = {
        "data": "`$FALLOW_DATA`, else `/var/lib/fallow`",
        "flush.interval": "`15min`",
        "retention.raw": "`14d`",
        "retention.hours": "`400d`",
        "journal.segment": "`64MiB`",
        "buffer.samples": "`4000000`",
        "summary.windows": "`1d,3d,7d,14d,30d`",
        "flush.workers": "`1`",
        "listen": "`127.0.0.1:8899`",
        "admin": "`127.0.0.1:8900`",
    }
    table = documented("Aggregator")
    assert [cells[0] for cells in table] == [f"`{item.metadata['key']}`" for item in fields(AggregatorConfig)]
    for item, cells in zip(fields(AggregatorConfig), table, strict=True):
        key = item.metadata["key"]
        assert cells[1] == f"`{option_name(key)}`"
        if key in shown:
            assert cells[2] == shown[key]
        if key != "data" and cells[2].startswith("`"):
            assert item.metadata["parse"](cells[2].strip("`")) == getattr(base, item.name)
        elif key != "data":
            assert getattr(base, item.name) in (None, ())
        assert cells[3]


def test_the_document_lists_exactly_the_settings_of_the_agent() -> None:
    """One key for each field of its configuration, all known to it, with the option and the default of each."""
    table = documented("Agent")
    keys = [cells[0].strip("`") for cells in table]
    assert len(keys) == len(set(keys)) == len(fields(AgentConfig))
    for key in keys:
        with pytest.raises(ConfigError) as caught:
            parse_config(nested({key: []}), source="agent.toml", options={})
        (problem,) = caught.value.problems
        assert problem.startswith(f"agent.toml: {key}: ")
        assert "unknown" not in problem
    options = {key: option for option, key in OPTIONS.items()}
    assert [cells[1] for cells in table] == [f"`{options[key]}`" if key in options else "" for key in keys]
    plain = {cells[0].strip("`"): cells[2].strip("`") for cells in table if re.fullmatch(r"`[^`]+`", cells[2])}
    values = {key: {"false": False}.get(text, int(text) if text.isdigit() else text) for key, text in plain.items()}
    assert len(values) > len(keys) // 2
    assert parse_config(nested(values), source="agent.toml", options={}) == AgentConfig()
    assert all(cells[2] and cells[3] for cells in table)


def nested(values: Mapping[str, object]) -> dict[str, Any]:
    """Tables of a TOML file from dotted keys."""
    tables: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (tables.setdefault(section, {}) if section else tables)[name] = value
    return tables


@pytest.mark.parametrize(("url", "is_refused"), [("postgresql://u:pw@db/x", True), ("postgresql://u@db/x", False)])
def test_a_file_with_a_password_that_others_may_read_is_refused(tmp_path: Path, url: str, is_refused: bool) -> None:
    """A world-readable secret is refused, also inside a settings file."""
    path = tmp_path / "aggregator.toml"
    path.touch(mode=0o644)
    path.chmod(0o644)
    if is_refused:
        with pytest.raises(ConfigError, match=r"aggregator\.toml: fleet\.url: holds a password.* chmod 600"):
            refuse_open_password(path, url)
    else:
        refuse_open_password(path, url)
    path.chmod(0o600)
    refuse_open_password(path, url)
