"""What deploy/ ships for the report works: the example's settings exist, the units fit the programs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest

from reports.config import ReportConfig
from reports.savings import Prices

DEPLOY = Path(__file__).parents[2] / "deploy"
EXAMPLE = (DEPLOY / "report.toml").read_text(encoding="utf-8")
UNITS = {name: (DEPLOY / f"fallow-{name}.service").read_text(encoding="utf-8") for name in ("pages", "schedule")}


def uncommented() -> dict[str, object]:
    """The tables of the example once the comment signs before its settings are gone."""
    return tomllib.loads(re.sub(r"^# (\[[\w.]+\]|\w+ = .*)$", r"\1", EXAMPLE, flags=re.MULTILINE))


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNITS[unit], re.MULTILINE)


def test_the_example_as_it_is_changes_nothing() -> None:
    """Whoever copies it has the defaults."""
    assert ReportConfig.parse(tomllib.loads(EXAMPLE), source="report.toml") == ReportConfig()


def test_every_commented_setting_shows_its_default() -> None:
    """Without the comment signs it parses and, but for what it calls examples, changes nothing."""
    table = uncommented()["report"]
    assert isinstance(table, dict)
    url = table.pop("fleet")
    config = ReportConfig.parse({"report": table}, source="report.toml")
    assert url.startswith("postgresql+psycopg://")
    usual = Prices()
    assert (config.prices.watts_per_vcpu, config.prices.mem_gib_per_vcpu) == (0.74, usual.mem_gib_per_vcpu)
    assert config.admin_token_file == ReportConfig().admin_token_file
    same = replace(config, prices=usual, serve=replace(config.serve, admin_token_file=None, nodes_ca=None))
    assert same == ReportConfig()


def test_the_example_names_every_setting() -> None:
    """Each that a value of the configuration has, but for lists of tables."""
    table = uncommented()["report"]
    assert isinstance(table, dict)
    for name in ("sizing", "timetable", "prices", "serve"):
        # How the pages listen is one value of several settings, of which two are shown.
        values = [each.name for each in fields(getattr(ReportConfig(), name)) if each.name != "door"]
        assert len(table[name]) == len(values) + 2 * (name == "serve"), name
    assert {"data", "fleet", "window", "policy", "strictness", "top", "timezone"} <= table.keys()
    assert {"min_coverage", "silent_after", "exclude_tags"} <= table.keys()


@pytest.mark.parametrize(("unit", "command"), [("pages", "serve"), ("schedule", "schedule")])
def test_the_units_run_the_report_without_rights(unit: str, command: str) -> None:
    """At boot, not as root, nothing writable but the data directory, and wrong settings are not tried again."""
    assert values(unit, "ExecStart") == [f"/opt/fallow/bin/fallow-report {command} --config /etc/fallow/report.toml"]
    assert (values(unit, "User"), values(unit, "WantedBy")) == (["fallow"], ["multi-user.target"])
    assert (values(unit, "NoNewPrivileges"), values(unit, "ProtectSystem")) == (["yes"], ["strict"])
    assert (values(unit, "CapabilityBoundingSet"), values(unit, "Restart")) == ([""], ["always"])
    assert values(unit, "RestartPreventExitStatus") == ["2"]
    assert [Path("/var/lib", name) for name in values(unit, "StateDirectory")] == [ReportConfig().data_dir]
