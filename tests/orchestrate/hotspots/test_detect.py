"""`fallow-orchestrate detect`: warnings, misses and false alarms by hand, and what traces it reads."""

from __future__ import annotations

import argparse
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.settings import ConfigError
from orchestrate.hotspots import detect_cli
from orchestrate.hotspots.detect_replay import grouped, replay, said
from orchestrate.hotspots.detectors import DETECTORS, Sandpiper
from tests.traces import trace

NAN = float("nan")
LIMITS = {"overload_ratio": 0.9, "horizon_s": 600.0}


def detect(*argv: str) -> str:
    parser = argparse.ArgumentParser()
    detect_cli.add_options(parser)
    out = io.StringIO()
    assert detect_cli.run(parser.parse_args(argv), out=out, err=io.StringIO()) == 0
    return out.getvalue()


def tally(*values: float, detector: Sandpiper | None = None) -> dict[str, Any]:
    (found,) = replay("t", np.array([values]), 60.0, [detector or Sandpiper()], **LIMITS)
    return {name: getattr(found, name) for name in found.__slots__}


def test_a_warning_before_an_overload() -> None:
    """Hot from the third sample above the threshold, overloaded two later: a lead of two minutes, no false alarm."""
    found = tally(*[0.3] * 10, 0.85, 0.86, 0.87, 0.88, 0.95, 0.95, *[0.3] * 5)
    assert (found["overloads"], found["warned"], found["late"], found["missed"]) == (1, 1, 0, 0)
    assert found["lead_s"] == 120.0
    assert (found["alarms"], found["false_alarms"]) == (1, 0)
    assert found["hot_minutes"] == 4.0


def test_late_and_missed() -> None:
    """An overload is noticed late once it is three samples long, and missed when it is over before that."""
    late = tally(*[0.1] * 10, *[1.0] * 6, *[0.1] * 5)
    assert (late["overloads"], late["warned"], late["late"], late["missed"], late["lead_s"]) == (1, 0, 1, 0, None)
    missed = tally(*[0.1] * 10, 1.0, 1.0, *[0.1] * 5)
    assert (missed["late"], missed["missed"], missed["alarms"]) == (0, 1, 0)


def test_false_alarms() -> None:
    """Hot, and nothing comes of it within the time that a warning counts for."""
    found = tally(*[0.3] * 10, *[0.85] * 5, *[0.3] * 20, 0.95)
    assert (found["alarms"], found["false_alarms"], found["warned"]) == (1, 1, 0)
    soon = tally(*[0.3] * 10, *[0.85] * 5, *[0.3] * 5, 0.95)
    assert (soon["alarms"], soon["false_alarms"], soon["warned"]) == (1, 0, 1)


def test_nothing_is_said_of_samples_to_come() -> None:
    """What is said of the first samples is the same whatever comes after."""
    draw = np.random.default_rng(1)
    one, other = draw.random((1, 40)), draw.random((1, 40))
    joined = np.concatenate([one[:, :25], other[:, 25:]], axis=1)
    for detector in DETECTORS.values():
        assert np.array_equal(said(detector, one)[:, :25], said(detector, joined)[:, :25])


def test_gaps_are_neither_hot_nor_overloaded() -> None:
    """A sample that was not recorded says nothing."""
    found = tally(*[0.95] * 10, NAN, NAN)
    assert found["hot_minutes"] == float(said(Sandpiper(), np.array([[0.95] * 10])).sum())


def test_several_vms_as_one_host() -> None:
    """Their sum, of a host that has less than all of theirs; what is left over makes no host."""
    assert grouped(np.array([[0.2], [0.4], [0.9]]), 2, 2.0) == pytest.approx(np.array([[0.6]]))


def test_a_planetlab_day(tmp_path: Path) -> None:
    """Names and whole percents, a sample every five minutes; every detector is there."""
    path = tmp_path / "day.csv.gz"
    rows = [f"vm{each}," + ",".join(["20"] * 100 + ["80"] * 20 + ["95"] * 10 + ["20"] * 158) for each in range(2)]
    path.write_bytes(gzip.compress(("\n".join(rows) + "\n").encode()))
    found = json.loads(detect("--trace", str(path), "--json"))
    assert [row["detector"] for row in found] == list(detect_cli.NAMES)
    sandpiper = found[0]
    assert (sandpiper["trace"], sandpiper["series"], sandpiper["overloads"], sandpiper["warned"]) == (
        "day.csv.gz",
        2,
        2,
        2,
    )
    assert sandpiper["hot_minutes"] % 10 == 0
    text = detect("--trace", str(path), "--detector", "lr", "sandpiper")
    assert [line.split()[1] for line in text.splitlines()[1:]] == ["lr", "sandpiper"]


def test_our_csv_keeps_its_interval(tmp_path: Path) -> None:
    """Samples of a minute are looked at minute by minute."""
    path = tmp_path / "vms.csv"
    rows = [f"a,{60 * (each + 1)},{0.95 if each >= 10 else 0.2},1,2,60" for each in range(20)]
    path.write_text("vm,ts,cpu_busy_ratio,mem_used_bytes,mem_total_bytes,interval_s\n" + "\n".join(rows) + "\n")
    (found,) = json.loads(detect("--trace", str(path), "--detector", "sandpiper", "--json"))
    assert (found["overloads"], found["late"]) == (1, 1)
    assert found["hot_minutes"] == 8.0


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    """No such file, a file of neither layout, and groups larger than the trace."""
    with pytest.raises(ConfigError, match=r"gone\.csv"):
        detect("--trace", str(tmp_path / "gone.csv"))
    odd = tmp_path / "odd.csv"
    odd.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"odd\.csv"):
        detect("--trace", str(odd))
    day = tmp_path / "day.csv"
    day.write_text("vm," + ",".join(["20"] * 288) + "\n")
    with pytest.raises(ConfigError, match="--vms-per-host"):
        detect("--trace", str(day), "--vms-per-host", "2")


def test_names_are_those_of_the_detectors() -> None:
    """The command offers every detector there is."""
    assert set(detect_cli.NAMES) == set(DETECTORS)


def test_recorded_days() -> None:
    """On a recorded day every overload is counted once, and Sandpiper warns more often than it misses."""
    path = trace("planetlab/20110303.csv.gz")
    rows = json.loads(detect("--trace", str(path), "--vms-per-host", "10", "--overcommit", "4", "--json"))
    for row in rows:
        assert row["warned"] + row["late"] + row["missed"] == row["overloads"]
        assert row["false_alarms"] <= row["alarms"]
    (sandpiper,) = [row for row in rows if row["detector"] == "sandpiper"]
    assert sandpiper["warned"] > sandpiper["missed"]
