"""What deploy/ ships for the watch fits the program."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrate.config import OrchestrateConfig
from reports.config import ReportConfig

UNIT = (Path(__file__).parents[2] / "deploy" / "fallow-orchestrate.service").read_text(encoding="utf-8")


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT, re.MULTILINE)


def test_the_unit_runs_the_watch_without_rights() -> None:
    """At boot, not as root, nothing writable but its directories, and wrong settings are not tried again."""
    assert values("ExecStart") == ["/opt/fallow/bin/fallow-orchestrate watch --config /etc/fallow/orchestrate.toml"]
    assert (values("User"), values("WantedBy")) == (["fallow"], ["multi-user.target"])
    assert (values("NoNewPrivileges"), values("ProtectSystem")) == (["yes"], ["strict"])
    assert (values("CapabilityBoundingSet"), values("Restart")) == ([""], ["always"])
    assert values("RestartPreventExitStatus") == ["2"]
    folders = [Path("/var/lib", name) for each in values("StateDirectory") for name in each.split()]
    assert folders == [OrchestrateConfig().data_dir, ReportConfig().data_dir]
