"""Recorded VMs through the whole path: replay, journal, stores, summaries, report.

What must come out is computed here from the files alone, by the rules that docs/simulation.md states. Nothing of
`agent.traces` is used for it. FALLOW_WHOLE_TRACE=1 takes all 150 VMs instead of 20.
"""

from __future__ import annotations

import json
import math
import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.house import House
from tests.traces import trace

pytestmark = pytest.mark.real

INTERVAL_S = 300
DAY_S = 86_400
WINDOW_DAYS = 14
IN_USE = {"active", "oversized", "scheduled"}
EVERY = 8  # of the archive's VMs; and the dirty file 82
DIRTY = "82"
# Widest bin of a CPU histogram and of the others, relative; and what quantising adds.
CPU_BIN, OTHER_BIN = 2 ** (1 / 16) - 1, 2 ** (1 / 8) - 1
RATIO_STEP = 1e-5
MEM_STEP = 1e-4


@dataclass(frozen=True)
class Minute:
    """One kept row: figures in the units of the wire."""

    cpu_ratio: float
    mem_ratio: float
    cores: int
    mem_total_bytes: float
    net_rx_bytes_per_s: float
    disk_write_bytes_per_s: float


@dataclass(frozen=True)
class Expected:
    """What a report must say of one VM over its last 14 days; times as recorded."""

    rows: int
    newest_s: int
    covered_s: int
    window_s: int
    in_window: Sequence[Minute]
    newest: Minute

    def mean(self, name: str) -> float:
        return math.fsum(getattr(minute, name) for minute in self.in_window) / len(self.in_window)

    def quantile(self, name: str, percent: int) -> float:
        """The smallest value that so many percent of the rows do not exceed."""
        ordered = sorted(getattr(minute, name) for minute in self.in_window)
        return float(ordered[-(-percent * len(ordered) // 100) - 1])

    @property
    def coverage_ratio(self) -> float:
        return self.covered_s / self.window_s


def expect(text: str) -> Expected:
    """Cleans one file and computes its figures."""
    kept: dict[int, Minute] = {}
    for line in text.splitlines()[1:]:
        cells = line.split(";")
        if len(cells) != 11:
            continue
        try:
            at_s, cores, _, _, cpu, total, used, _read, write, received, _sent = (float(cell) for cell in cells)
        except ValueError:
            continue
        figures = (at_s, cores, cpu, total, used, _read, write, received, _sent)
        if not all(math.isfinite(figure) for figure in figures) or max(figures[1:]) > 8e9:
            continue
        if cores < 1 or total <= 0:
            continue
        down, rest = divmod(at_s, INTERVAL_S)
        ts = int(down + (rest * 2 >= INTERVAL_S)) * INTERVAL_S
        minute = Minute(
            cpu_ratio=min(max(cpu, 0.0), 100.0) / 100,
            mem_ratio=min(max(used, 0.0), total) / total,
            cores=int(cores),
            mem_total_bytes=total * 1024,
            net_rx_bytes_per_s=max(received, 0.0) * 1024,
            disk_write_bytes_per_s=max(write, 0.0) * 1024,
        )
        kept.setdefault(ts, minute)
    newest_s = max(kept)
    start_s = -(-newest_s // 3600) * 3600 - WINDOW_DAYS * DAY_S
    in_window = [minute for ts, minute in kept.items() if ts > start_s]
    return Expected(
        rows=len(kept),
        newest_s=newest_s,
        covered_s=INTERVAL_S * len(in_window),
        window_s=newest_s - start_s,
        in_window=in_window,
        newest=kept[newest_s],
    )


def chosen(archive: Path) -> Iterator[tuple[str, str]]:
    """Name and text of the VMs of this run."""
    whole = os.environ.get("FALLOW_WHOLE_TRACE") == "1"
    with tarfile.open(archive) as files:
        for number, member in enumerate(files):
            name = Path(member.name).stem
            if whole or number % EVERY == 0 or name == DIRTY:
                content = files.extractfile(member)
                assert content is not None
                yield name, content.read().decode()


def report(house: House, data: Path, policy: str) -> dict[str, Any]:
    done = house.run(
        *("fallow-report", "--data", str(data), "--json", "--all", "--window", f"{WINDOW_DAYS}d"),
        # The trace ends up to an hour ago.
        *("--policy", policy, "--silent-after", "2h"),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_recorded_fleet_gives_the_figures_of_its_files(house: House) -> None:
    """Means, percentiles within a bin, coverage and both policies' verdicts agree with the recorded files."""
    expected: dict[str, Expected] = {}
    folder = house.folder / "rnd"
    folder.mkdir()
    for name, text in chosen(trace("bitbrains/rnd-2013-08-dev150.tar.xz")):
        (folder / f"{name}.csv").write_text(text)
        expected[f"bb-{name}"] = expect(text)
    assert f"bb-{DIRTY}" in expected
    assert len(expected) >= 20

    aggregator = house.aggregator("--retention-raw", "60d")
    done = house.run(
        *("fallow-agent", "replay", str(folder), "--aggregator", aggregator.url, "--json"),
        *("--join-token-file", str(house.join_token(aggregator.data))),
        within_s=280,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    rows = sum(vm.rows for vm in expected.values())
    assert (counts["vms"], counts["stored"], counts["rejected"]) == (len(expected), rows, 0)
    flushed = aggregator.flush()
    assert (flushed["samples"], flushed["failures"]) == (rows, {})

    p95 = report(house, aggregator.data, "p95")
    found = {vm["vm"]: vm for vm in p95["vms"]}
    assert found.keys() == expected.keys()
    for vm, truth in expected.items():
        agree(found[vm], truth, shift_s=counts["shift_s"])
        assert_p95_verdict(found[vm], truth, now_s=p95["generated_at_s"], shift_s=counts["shift_s"])
    verdicts = {vm["verdict"] for vm in found.values()}
    assert "idle" in verdicts
    assert verdicts & IN_USE

    # Nothing is known of disks: what is quiet otherwise is never called idle, and what is busy needs no more to be so.
    classic = report(house, aggregator.data, "classic")
    assert classic["totals"]["idle"] == 0
    for vm in classic["vms"]:
        if found[vm["vm"]]["verdict"] in {"idle", *IN_USE}:
            means = [vm["statistics"][f"{figure}_mean_ratio"] for figure in ("cpu_busy", "mem_used")]
            if max(means) <= 0.1:
                assert (vm["verdict"], vm["cause"]) == ("insufficient data", "missing_figure"), vm["vm"]
            else:
                assert vm["verdict"] in IN_USE, vm["vm"]


def agree(said: dict[str, Any], truth: Expected, *, shift_s: int) -> None:
    """Asserts that every figure of a VM is the one of its file."""
    statistics = said["statistics"]
    name = said["vm"]
    assert said["newest_s"] == truth.newest_s + shift_s, name
    assert statistics["covered_s"] == truth.covered_s, name
    assert statistics["end_s"] - statistics["start_s"] == truth.window_s, name
    assert said["coverage_ratio"] == pytest.approx(truth.coverage_ratio, abs=1e-12), name
    assert said["cpu_count"] == truth.newest.cores, name
    assert said["mem_total_bytes"] == pytest.approx(truth.newest.mem_total_bytes, abs=1024), name

    assert statistics["cpu_busy_mean_ratio"] == pytest.approx(truth.mean("cpu_ratio"), abs=RATIO_STEP), name
    assert statistics["cpu_busy_max_ratio"] == pytest.approx(truth.quantile("cpu_ratio", 100), abs=RATIO_STEP), name
    assert statistics["mem_used_mean_ratio"] == pytest.approx(truth.mean("mem_ratio"), abs=MEM_STEP), name
    for metric in ("net_rx", "disk_write"):
        mean = truth.mean(f"{metric}_bytes_per_s")
        assert statistics[f"{metric}_mean_bytes_per_s"] == pytest.approx(mean, abs=1), name
    for column, figure, percent, width, step in (
        ("cpu_busy_p50_ratio", "cpu_ratio", 50, CPU_BIN, RATIO_STEP),
        ("cpu_busy_p95_ratio", "cpu_ratio", 95, CPU_BIN, RATIO_STEP),
        ("cpu_busy_p99_ratio", "cpu_ratio", 99, CPU_BIN, RATIO_STEP),
        ("mem_used_p95_ratio", "mem_ratio", 95, OTHER_BIN, MEM_STEP),
        ("net_rx_p95_bytes_per_s", "net_rx_bytes_per_s", 95, OTHER_BIN, 1),
    ):
        exact = truth.quantile(figure, percent)
        assert statistics[column] == pytest.approx(exact, abs=exact * width + step), (name, column)


def assert_p95_verdict(said: dict[str, Any], truth: Expected, *, now_s: float, shift_s: int) -> None:
    """Asserts the verdict that follows from the file; within a bin of the limit, the one that its own figure gives."""
    name = said["vm"]
    if now_s - (truth.newest_s + shift_s) > 2 * 3600:
        assert said["cause"] == "silent", name
    elif truth.coverage_ratio < 0.95:
        assert said["verdict"] == "insufficient data", name
    else:
        exact = truth.quantile("cpu_ratio", 95)
        if abs(exact - 0.05) <= 0.05 * CPU_BIN + RATIO_STEP:
            exact = said["statistics"]["cpu_busy_p95_ratio"]
        assert said["verdict"] in ({"idle"} if exact <= 0.05 else IN_USE), name
