"""What deploy/ ships for the agent works: the example's settings exist, the unit keeps its promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from agent.__main__ import _parser
from agent.config import AgentConfig, parse_config
from agent.identity import CREDENTIAL, smbios_uuid
from agent.server import Server

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = (DEPLOY / "agent.toml").read_text(encoding="utf-8")
UNIT = (DEPLOY / "fallow-agent.service").read_text(encoding="utf-8")
SERVER = Server(tls=True, host="fallow.example", port=8899)


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


def test_the_example_as_it_is_changes_the_address_alone() -> None:
    """Whoever copies it and sets the address has the defaults."""
    assert parse_config(tomllib.loads(EXAMPLE), source="agent.toml", options={}) == AgentConfig(aggregator=SERVER)


def test_every_commented_setting_exists_and_shows_its_default() -> None:
    """Removing the comment signs gives valid settings; those that say so are the defaults."""
    text = re.sub(r"^# (\[?[\w.]+(?: = .*|\]))$", r"\1", EXAMPLE, flags=re.MULTILINE)
    table = tomllib.loads(text)
    config = parse_config(table, source="agent.toml", options={})
    default = AgentConfig()
    for name in (
        "state",
        "rotate_every_s",
        "timeout_s",
        "insecure_plain",
        "spool_max_bytes",
        "spool_max_age_s",
        "quarantine_max_files",
    ):
        assert getattr(config, name) == getattr(default, name), name
    assert set(table) == {
        *(
            "aggregator",
            "ca",
            "join_token_file",
            "state",
            "vm_id",
            "interval",
            "rotate_every",
            "timeout",
            "insecure_plain",
        ),
        *("spool", "quarantine", "tls"),
    }


def test_the_unit_runs_the_agent_without_rights() -> None:
    """At boot, not as root, nothing writable but its state, bounded memory, the UUID handed over."""
    assert values("User") == ["fallow-agent"]
    assert values("WantedBy") == ["multi-user.target"]
    assert (values("NoNewPrivileges"), values("ProtectSystem")) == (["yes"], ["strict"])
    assert (values("CapabilityBoundingSet"), values("Restart")) == ([""], ["always"])
    assert values("StateDirectory") == [AgentConfig().state.name]
    assert values("MemoryMax")
    assert values("LoadCredential") == [f"{CREDENTIAL}:/sys/class/dmi/id/product_uuid"]


def test_a_machine_without_uuid_starts_and_looks_further() -> None:
    """The default of the credential is taken for no id."""
    (default,) = values("SetCredential")
    name, _, value = default.partition(":")
    assert name == CREDENTIAL
    assert smbios_uuid(value) is None


def test_the_units_command_line_is_understood() -> None:
    """The options in ExecStart exist."""
    (command,) = values("ExecStart")
    words = command.split()[1:]
    assert _parser(words).parse_args(words).config == Path("/etc/fallow/agent.toml")


def test_the_unit_hides_nothing_that_is_measured() -> None:
    """Processes, interfaces and mounts of the whole VM must stay visible."""
    for key in ("ProtectProc", "ProcSubset", "PrivateNetwork", "PrivateMounts", "PrivateUsers"):
        assert values(key) == [], key
