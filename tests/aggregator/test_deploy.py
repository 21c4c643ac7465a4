"""What deploy/ ships for the aggregator works: the example's settings exist, the unit and the proxy fit the program."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from aggregator.__main__ import build_parser
from aggregator.addresses import per_address_of
from aggregator.config import AggregatorConfig
from aggregator.decode import DecodeLimits
from aggregator.door_parts import DoorLimits

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = (DEPLOY / "aggregator.toml").read_text(encoding="utf-8")
UNIT = (DEPLOY / "fallow-aggregator.service").read_text(encoding="utf-8")
PROXY = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FALLOW_DATA", raising=False)


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


def uncommented() -> dict[str, object]:
    """The tables of the example once the comment signs before its settings are gone."""
    return tomllib.loads(re.sub(r"^# (\[\w+\]|\w+ = .*)$", r"\1", EXAMPLE, flags=re.MULTILINE))


def keys(table: dict[str, object], prefix: str = "") -> set[str]:
    found = set()
    for key, value in table.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


# The settings


def test_the_example_as_it_is_changes_nothing() -> None:
    """Whoever copies it has the defaults."""
    assert AggregatorConfig.parse(tomllib.loads(EXAMPLE), source="aggregator.toml") == AggregatorConfig()


def test_the_example_names_every_setting() -> None:
    """Each setting there is, and none that is not."""
    assert keys(uncommented()) == {item.metadata["key"] for item in fields(AggregatorConfig)}


def test_every_commented_setting_shows_its_default() -> None:
    """Without the comment signs it parses and, but for what it calls examples, changes nothing."""
    config, default = AggregatorConfig.parse(uncommented(), source="aggregator.toml"), AggregatorConfig()
    shown = {item.name for item in fields(config) if getattr(config, item.name) != getattr(default, item.name)}
    limits = {"connections", "per_address", "per_token", "batch_samples", "body_bytes", "header_bytes", "request_s"}
    nodes = {"node_name", "node_url", "node_ca"}
    assert shown == {"tls_cert", "tls_key", "tls_client_ca", "proxies", "fleet_url", *nodes, *limits}
    assert config.fleet_url == f"sqlite:///{default.data_dir}/fleet.db"
    door = DoorLimits()
    assert (config.per_token, config.per_address) == (door.per_token, per_address_of(config.connections or 0))
    assert (config.request_s, config.header_bytes) == (door.request_s, door.http.head_bytes)
    assert (config.body_bytes, config.batch_samples) == (door.http.body_bytes, DecodeLimits().samples)


# The unit


def test_the_unit_runs_the_aggregator_without_rights() -> None:
    """At boot, not as root, nothing writable but its data directory, descriptors enough for connections."""
    assert (values("User"), values("WantedBy")) == (["fallow"], ["multi-user.target"])
    assert (values("NoNewPrivileges"), values("ProtectSystem")) == (["yes"], ["strict"])
    assert (values("CapabilityBoundingSet"), values("Restart")) == ([""], ["always"])
    assert [Path("/var/lib", name) for name in values("StateDirectory")] == [AggregatorConfig().data_dir]
    assert int(values("LimitNOFILE")[0]) > DoorLimits().connections


def test_the_unit_leaves_open_what_the_aggregator_needs() -> None:
    """It raises its descriptor limit and lowers its workers' priority; its TLS library makes code at run time."""
    assert values("SystemCallFilter") == ["@system-service", "~@privileged"]
    assert values("MemoryDenyWriteExecute") == []


def test_a_dead_worker_does_not_stop_the_service() -> None:
    """Workers are replaced by the aggregator, not by systemd, and end with it, not at the first signal."""
    assert (values("OOMPolicy"), values("KillMode")) == (["continue"], ["mixed"])


def test_the_units_command_line_is_understood() -> None:
    """The options in ExecStart exist, and settings that are wrong are not tried again."""
    (command,) = values("ExecStart")
    program, *words = command.split()
    assert Path(program).name == "fallow-aggregator"
    assert build_parser().parse_args(words).config == Path("/etc/fallow/aggregator.toml")
    assert values("RestartPreventExitStatus") == ["2"]


@pytest.mark.real
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")
@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("*.service")))
def test_systemd_understands_the_unit(name: str, tmp_path: Path) -> None:
    """systemd finds no unknown setting, section or value in it."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    # The program is not installed where tests run, and that alone would be a mistake.
    installed = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
    (tmp_path / name).write_text(installed, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    # Other units of the machine are read along: what is said about those is not meant here.
    assert (done.returncode, [line for line in done.stderr.splitlines() if name in line]) == (0, [])


@pytest.mark.real
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")
@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("*.service")))
def test_the_handbook_tells_how_far_the_unit_is_confined(name: str) -> None:
    """docs/operations.md has the figure of `systemd-analyze security`, and it is one of an unexposed service."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(DEPLOY / name)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d) OK", done.stdout)
    assert found is not None, done.stdout[-300:]
    handbook = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    assert f"| `{name}` | {found[1]} |" in handbook


# The proxy


def seconds(setting: str) -> float:
    (text,) = re.findall(rf"^ *timeout {setting} (\d+)s$", PROXY, re.MULTILINE)
    return float(text)


def test_the_proxy_keeps_connections_as_the_door_does() -> None:
    """An agent pushes once a minute: neither the proxy nor a request's deadline may end its connection between two."""
    door = DoorLimits()
    assert min(seconds("client"), seconds("http-keep-alive")) > door.idle_s
    assert seconds("http-request") >= door.request_s
    assert seconds("server") > door.request_s


def test_the_proxy_sends_a_vm_to_one_aggregator() -> None:
    """By the header that names the VM, whatever servers come and go; only to one that takes pushes."""
    lines = [line.strip() for line in PROXY.splitlines()]
    assert {"balance hdr(Fallow-VM)", "http-reuse always", "option httpchk"} <= set(lines)
    assert any(line.startswith("hash-type consistent") for line in lines)
    assert any("uri /readyz" in line for line in lines)


def test_the_proxy_names_what_decides_where_a_vm_goes() -> None:
    """Each server has an id of its own: by default that is its line, and a line that goes would move every VM."""
    found = re.findall(r"^ *server (\w+) \S+ id (\d+)$", PROXY, re.MULTILINE)
    assert len(found) >= 3
    assert len({number for _, number in found}) == len(found) == len(re.findall(r"^ *server ", PROXY, re.MULTILINE))
