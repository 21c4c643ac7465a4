"""`fallow-orchestrate serve` as a program: what it opens, what it says, how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from reports.people.roles import Role
from tests.orchestrate.control_house import SETTINGS, house
from tests.orchestrate.pages.programs import admit, serving_plans

pytestmark = pytest.mark.real

LIBVIRT = 'kind = "libvirt"\nhosts = ["qemu+ssh://root@hypervisor.invalid/system"]'
SIMULATED = 'kind = "simulated"\npark = "{data}/park.toml"\nstate = "{data}/state.json"\npace = 0'


def test_it_serves_without_a_way_to_hypervisors(tmp_path: Path) -> None:
    """Hosts that nobody could reach do not matter to it: it opens no driver, and ends at SIGTERM."""
    with house(tmp_path) as cloud:
        assert SIMULATED in SETTINGS
        cloud.write_settings(text=SETTINGS.replace(SIMULATED, LIBVIRT))
        admit(cloud.folder, Role.ADMIN)
        with serving_plans(cloud) as server:
            with urlopen(server.url + "login") as answer:
                assert answer.status == 200
            assert "no account" not in server.said
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(timeout=30) == 0


def test_no_driver_is_loaded() -> None:
    """The pages' process has no code that speaks to hypervisors."""
    code = (
        "import sys, orchestrate.pages.service; print([m for m in sys.modules if 'libvirt' in m or 'simulated' in m])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_without_an_account_it_tells_how_to_make_one(tmp_path: Path) -> None:
    """It makes no link of its own, which would end that of the report's pages."""
    with house(tmp_path) as cloud, serving_plans(cloud) as server:
        while "there is no account yet" not in server.said:
            assert server.process.poll() is None
        assert "fallow-report user add NAME --role admin" in server.said
        assert "/first/" not in server.said


def test_plain_text_for_other_machines_is_refused(tmp_path: Path) -> None:
    """Exit 2, naming the settings that would do."""
    with house(tmp_path) as cloud:
        command = [sys.executable, "-m", "orchestrate", "serve", "--config", str(cloud.settings)]
        ended = subprocess.run([*command, "--listen", "0.0.0.0:0"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "orchestrate.pages.tls_cert" in ended.stderr
