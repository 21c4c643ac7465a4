"""The demo at small size: every program, from simulated VMs to the report, and on to what is taken and given back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.house import ROOT, House

pytestmark = pytest.mark.real


def test_the_demo_ends_with_a_report_that_agrees_with_its_fleet(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench.demo` with 12 VMs and a day: exit 0, a ranking on stdout, and nothing it started is left."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TMPDIR", str(house.folder))
    report = house.folder / "report.txt"
    demo = house.programs.start(
        [Path(sys.executable).name, "-m", "bench.demo", "--vms", "12", "--days", "1"], stdout=report
    )
    house.programs.finish(demo, within_s=300)
    told = report.read_text()
    assert "sim-low-" in told
    assert "1. suspend sim-low-" in told, "at night updates keep the VMs awake for some minutes"
    assert "1. resume sim-low-" in told
    assert "exactly what was told and planned was suspended, and it is back" in demo.log.read_text()
    assert "verdicts on all 12 simulated VMs agree" in demo.log.read_text()
    assert not list(house.folder.glob("fallow-demo-*"))
    assert not [name for name in running() if str(house.folder) in name]


def running() -> list[str]:
    """Command lines of all processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return lines
