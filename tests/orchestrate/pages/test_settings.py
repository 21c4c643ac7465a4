"""`[orchestrate.pages]`, and what deploy/ ships for the pages."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.settings import ConfigError
from orchestrate.config import OrchestrateConfig
from orchestrate.config_pages import PagesConfig
from orchestrate.owners.links import KEY_FILE_NAME
from reports.config import ReportConfig

DEPLOY = Path(__file__).parents[3] / "deploy"
UNIT = DEPLOY / "fallow-control-pages.service"


def parsed(text: str) -> PagesConfig:
    return OrchestrateConfig.parse(tomllib.loads(text), source="a.toml").pages


def test_every_setting_is_read() -> None:
    """Address, TLS, names and proxies; without a table they are for this machine alone."""
    text = (
        '[orchestrate.pages]\nlisten = "[::1]:9000"\nnames = ["Plans.example.org"]\nproxies = ["10.0.0.0/8"]\n'
        'tls_cert = "/c.pem"\ntls_key = "/k.pem"\nplain_behind_proxy = true\n'
    )
    pages = parsed(text)
    assert (pages.listen, pages.names) == (("::1", 9000), ("plans.example.org",))
    assert pages.door.tls is not None
    assert (pages.door.tls.cert, pages.door.tls.key) == (Path("/c.pem"), Path("/k.pem"))
    assert (pages.door.plain_behind_proxy, pages.door.proxies) == (True, (ip_network("10.0.0.0/8"),))
    assert parsed("") == PagesConfig()
    assert PagesConfig().listen == ("127.0.0.1", 8903)


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        ('listen = "8903"', "orchestrate.pages.listen"),
        ('names = "x"', "orchestrate.pages.names"),
        ('names = ["x:1"]', "orchestrate.pages.names"),
        ('tls_cert = "/c.pem"', "orchestrate.pages.tls_cert"),
        ('proxies = ["nowhere"]', "orchestrate.pages.proxies"),
        ("colour = 1", "orchestrate.pages.colour"),
    ],
)
def test_each_mistake_is_named(setting: str, place: str) -> None:
    """With its table and key."""
    with pytest.raises(ConfigError, match=re.escape(place)):
        parsed(f"[orchestrate.pages]\n{setting}\n")


def test_the_pages_decide_nothing() -> None:
    """Another address does not make plans void."""
    other = OrchestrateConfig.parse({"orchestrate": {"pages": {"listen": "127.0.0.1:1"}}}, source="a.toml")
    assert other.settings_sha256 == OrchestrateConfig().settings_sha256


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_unit_serves_without_rights_and_without_what_opens_hypervisors() -> None:
    """Not as root, nothing writable but two directories, and no key of ssh, no socket of libvirt, no key of links."""
    assert values("ExecStart") == ["/opt/fallow/bin/fallow-orchestrate serve --config /etc/fallow/orchestrate.toml"]
    assert (values("User"), values("WantedBy")) == (["fallow"], ["multi-user.target"])
    assert (values("NoNewPrivileges"), values("ProtectSystem")) == (["yes"], ["strict"])
    assert (values("CapabilityBoundingSet"), values("RestartPreventExitStatus")) == ([""], ["2"])
    config = OrchestrateConfig()
    folders = [Path("/var/lib", name) for each in values("StateDirectory") for name in each.split()]
    assert folders == [config.data_dir, ReportConfig().data_dir]
    hidden = {Path(each.removeprefix("-")) for each in values("InaccessiblePaths")[0].split()}
    assert hidden == {ReportConfig().data_dir / ".ssh", Path("/run/libvirt"), config.data_dir / KEY_FILE_NAME}


@pytest.mark.real
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)")
def test_systemd_calls_the_unit_confined() -> None:
    """As `systemd-analyze security` counts."""
    command = ["systemd-analyze", "security", "--offline=true", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d) OK", done.stdout)
    assert found is not None
    assert float(found[1]) <= 1.5
