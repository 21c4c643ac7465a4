"""Parks as files describe them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.settings import ConfigError
from orchestrate.simulation.machines import REFERENCE, Size, machines_for, read_machines

HOST = """
[[hosts]]
name = "big"
count = 2
cores = 8
core_mips = 2500
ram = "64GB"
net_per_s = "1250MB"
power_w = [100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200]
"""
VM = """
[[vms]]
name = "two"
mips = 5000
vcpus = 2
ram = "8GB"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "park.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_published_park() -> None:
    """800 hosts, the types in turn, and VM types in four runs of the trace."""
    park = REFERENCE.park([None] * 1052)
    assert len(park.hosts) == 800
    assert park.hosts.mips[:4].tolist() == [3720, 5320, 3720, 5320]
    assert park.hosts.power_w[1, 3] == 105
    assert [park.vms.mips.tolist().count(mips) for mips in (2500, 2000, 1000, 500)] == [263] * 4
    assert park.vms.mips[[0, 262, 263, 1051]].tolist() == [2500, 2500, 2000, 500]
    assert park.vms.ram_bytes[0] / 62.5e6 == 13.92


def test_runs_are_rounded_up() -> None:
    """Of ten VMs each type gets three, and the last what is left."""
    assert REFERENCE.park([None] * 10).vms.mips.tolist() == [2500] * 3 + [2000] * 3 + [1000] * 3 + [500]


def test_a_recorded_size_is_taken() -> None:
    """Cores times MIPS of a vCPU, and its memory; the others are typed as if they stood alone."""
    vms = REFERENCE.park([Size(vcpus=4, ram_bytes=8e9), None, None]).vms
    assert (vms.mips[0], vms.vcpus[0], vms.ram_bytes[0]) == (4 * 1860, 4, 8e9)
    assert vms.mips[1:].tolist() == [2500, 2000]


def test_a_file_describes_a_park(tmp_path: Path) -> None:
    """Hosts are dealt out in turn until all are there; what is left out is as published."""
    more = HOST.replace('"big"', '"small"').replace("count = 2", "count = 1").replace("cores = 8", "cores = 4")
    machines = read_machines(written(tmp_path, "vcpu_mips = 2000\n" + HOST + more + VM))
    park = machines.park([None, Size(vcpus=2, ram_bytes=4e9)])
    assert park.hosts.mips.tolist() == [20_000, 10_000, 20_000]
    assert park.hosts.net_bytes_per_s.tolist() == [1.25e9] * 3
    assert park.hosts.ram_bytes[0] == 64e9
    assert park.vms.mips.tolist() == [5000, 4000]
    assert read_machines(written(tmp_path, HOST)).vms == REFERENCE.vms
    assert read_machines(written(tmp_path, VM)).hosts == REFERENCE.hosts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hosts = 3", "hosts: give each type as a table"),
        ("hosts = []", "hosts: give each type as a table"),
        ("speed = 3", "speed: unknown setting"),
        ("vcpu_mips = 0", "vcpu_mips: 0 is not a number above zero"),
        ("vcpu_mips = true", "vcpu_mips: True is not a number"),
        (HOST + "colour = 1", "hosts 1: colour: unknown setting"),
        (HOST.replace("cores = 8", ""), "hosts 1: cores: missing"),
        (HOST.replace("cores = 8", "cores = 0"), "hosts 1: cores: 0 is not at least 1"),
        (HOST.replace("100, 110", "100"), "hosts 1: power_w: .* is not a list of 11"),
        (HOST.replace("100, 110", "100, -1"), "hosts 1: power_w: -1 is not a number above zero"),
        (HOST + VM + VM.replace("8GB", "much"), "vms 2: ram: 'much' is not a size"),
        ("[hosts", "park.toml"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    """File, table and key, and what is wrong with it."""
    with pytest.raises(ConfigError, match=f"park.toml.*{words}" if words != "park.toml" else words):
        read_machines(written(tmp_path, text))


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    """Whoever mends a file reads all of it in one go."""
    with pytest.raises(ConfigError) as caught:
        read_machines(written(tmp_path, "x = 1\n" + HOST.replace("cores = 8", "") + VM.replace("5000", "'y'")))
    assert len(caught.value.problems) == 3


def test_no_file(tmp_path: Path) -> None:
    """Its name is in the answer."""
    with pytest.raises(ConfigError, match=r"none\.toml"):
        read_machines(tmp_path / "none.toml")


def test_the_park_unless_told() -> None:
    """As published for VMs without sizes; common hosts with twice the room for those that have some."""
    assert machines_for([None, None]) is REFERENCE
    sizes = [Size(vcpus=8, ram_bytes=64e9)] * 40
    park = machines_for(sizes).park(sizes)
    assert len(park.hosts) == 10
    assert park.hosts.mips.sum() >= 2 * park.vms.mips.sum()
    assert len(machines_for(sizes[:1]).park(sizes[:1]).hosts) == 2
    large = [Size(vcpus=16, ram_bytes=1.5e12)]
    assert machines_for(large).park(large).hosts.ram_bytes.tolist() == [512e9 * 4] * 2
