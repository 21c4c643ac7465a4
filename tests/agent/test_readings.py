"""The readings of this very machine make sense, and sysfs decides which devices count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from agent.readings import Memory, SystemReadings, addresses, is_login, parse_memory
from agent.sampler import make_sample


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A small sysfs: a card, one below another card, lo; a disk, a hidden path to a disk, a loop."""
    root = tmp_path / "sys"
    nics = {
        "eth0": "devices/pci0/net/eth0",
        "enP1s1": "devices/pci1/net/enP1s1",
        "lo": "devices/virtual/net/lo",
    }
    for name, device in nics.items():
        (root / device).mkdir(parents=True)
        (root / "class/net").mkdir(parents=True, exist_ok=True)
        (root / "class/net" / name).symlink_to(f"../../{device}")
    (root / nics["enP1s1"] / "master").symlink_to("../../../pci0/net/eth0")
    disks = {"vda": "devices/pci0/block/vda", "nvme0c0n1": "devices/pci1/nvme0c0n1", "loop0": "devices/virtual/block/l"}
    for name, device in disks.items():
        (root / device).mkdir(parents=True)
        (root / "block").mkdir(parents=True, exist_ok=True)
        (root / "block" / name).symlink_to(f"../{device}")
        (root / device / "hidden").write_text("1\n" if name == "nvme0c0n1" else "0\n")
    return root


def test_sysfs_decides_which_devices_count(sysfs: Path) -> None:
    """A function below a master, lo, loop devices and hidden paths are left out."""
    readings = SystemReadings(sysfs=sysfs)
    assert readings.physical_nics() == ["eth0"]
    assert readings.whole_disks() == ["vda"]


def test_without_sysfs_there_are_no_devices(tmp_path: Path) -> None:
    """Where sysfs is not mounted no device is known, so that no rate is claimed."""
    readings = SystemReadings(sysfs=tmp_path / "none")
    assert (readings.physical_nics(), readings.whole_disks()) == ([], [])


def test_this_machine_can_be_sampled() -> None:
    """Two readings of the machine the test runs on make a sample with plausible figures."""
    readings = SystemReadings(own_traffic=lambda: (3, 4))
    before, after = readings.reading(), readings.reading()
    while after.tick.cpu.total_s <= before.tick.cpu.total_s:
        after = readings.reading()
    sample = make_sample(before, after, ts=60, elapsed_s=1.0, busiest_ratio=0.0)
    assert sample is not None
    assert 0 < sample.mem_used_bytes < sample.mem_total_bytes
    assert sample.procs is not None
    assert sample.procs >= 1
    assert sample.agent_cpu_s is not None
    assert sample.agent_cpu_s > 0
    assert (after.own_rx_bytes, after.own_tx_bytes) == (3, 4)


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("UID=1000\nCLASS=user\nSTATE=active\n", True),
        ("CLASS=user\nSTATE=online\nREMOTE=1\n", True),
        ("CLASS=user-early\nSTATE=active\n", True),
        ("CLASS=user\nSTATE=closing\n", False),
        ("CLASS=greeter\nSTATE=active\n", False),
        ("CLASS=background\nSTATE=active\n", False),
        ("CLASS=manager\nSTATE=active\n", False),
        ("", False),
        ("garbage", False),
    ],
)
def test_a_login_is_a_session_of_a_person(text: str, login: bool) -> None:
    """Greeters, cron jobs, user managers and closing sessions are nobody logged in."""
    assert is_login(text) is login


def test_users_come_from_logind_where_there_is_no_utmp(tmp_path: Path) -> None:
    """A system without utmp still says who is logged in; one without either does not claim that nobody is."""
    assert SystemReadings(run=tmp_path).reading().users is None
    sessions = tmp_path / "systemd/sessions"
    sessions.mkdir(parents=True)
    assert SystemReadings(run=tmp_path).reading().users == 0
    (sessions / "3").write_text("CLASS=user\nSTATE=active\n")
    (sessions / "c1").write_text("CLASS=greeter\nSTATE=active\n")
    (sessions / "3.ref").write_text("")
    assert SystemReadings(run=tmp_path).reading().users == 1


def test_addresses_are_those_others_could_know() -> None:
    """Loopback and link-local addresses are no evidence of who this is."""
    ips, macs = addresses()
    assert not [ip for ip in ips if ip.startswith(("127.", "fe80:", "169.254.")) or ip == "::1"]
    assert "00:00:00:00:00:00" not in macs
    assert ips == sorted(ips)


def test_cpu_counters_are_those_of_psutil() -> None:
    """Reading the line ourselves gives what psutil gives: between two of its readings."""
    before, ours, after = psutil.cpu_times(), SystemReadings().tick().cpu, psutil.cpu_times()

    def busy_s(times: Any) -> float:
        return float(times.user + times.nice + times.system + times.irq + times.softirq)

    def total_s(times: Any) -> float:
        return busy_s(times) + float(times.idle + times.iowait + times.steal)

    assert busy_s(before) - 0.001 <= ours.busy_s <= busy_s(after) + 0.001
    assert total_s(before) - 0.1 <= ours.total_s <= total_s(after) + 0.1
    assert before.steal - 0.001 <= ours.steal_s <= after.steal + 0.001


MEMINFO = (
    b"MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\nHugePages_Total: 0\n"
)


def test_memory_used_is_total_less_available() -> None:
    """Caches that can be given back are not used memory."""
    assert parse_memory(MEMINFO) == Memory(1000 * 1024, 600 * 1024, 30 * 1024)


def test_memory_that_is_not_told_is_not_guessed() -> None:
    """Without swap lines swap is unknown; without available memory there is no figure at all."""
    assert parse_memory(MEMINFO.replace(b"SwapFree", b"Other")).swap_used_bytes is None
    with pytest.raises(OSError, match="MemAvailable"):
        parse_memory(MEMINFO.replace(b"MemAvailable", b"Other"))


def test_a_card_that_gets_a_master_later_is_noticed(sysfs: Path) -> None:
    """The decision about a device is made again now and then, even if no device came or went."""
    (sysfs / "devices/pci1/net/enP1s1/master").unlink()
    readings = SystemReadings(sysfs=sysfs)
    assert readings.physical_nics() == ["enP1s1", "eth0"]
    (sysfs / "devices/pci1/net/enP1s1/master").symlink_to("../../../pci0/net/eth0")
    assert ["eth0"] in [readings.physical_nics() for _ in range(20)]


def test_a_new_device_is_noticed_at_once(sysfs: Path) -> None:
    """A disk that is plugged in counts from the next reading on."""
    readings = SystemReadings(sysfs=sysfs)
    readings.whole_disks()
    (sysfs / "devices/pci2/block/vdb").mkdir(parents=True)
    (sysfs / "block/vdb").symlink_to("../devices/pci2/block/vdb")
    assert readings.whole_disks() == ["vda", "vdb"]
