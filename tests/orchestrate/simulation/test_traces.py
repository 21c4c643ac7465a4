"""Recorded load out of files and stores."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import ConfigError
from agent.traces import Dirt, Figures, Recording
from orchestrate.simulation.machines import Size
from orchestrate.simulation.traces import read_file, read_fleet, resample
from tests.aggregator.store_fakes import START_S, fill, minutes
from tests.reports.recordings import GIB, recording, write_bitbrains

GRID_S = 300


def recorded(
    rows: Sequence[tuple[int, float | None]], *, interval_s: int = 300, name: str = "vm", cores: float | None = None
) -> Recording:
    figures: list[tuple[int, Figures]] = [
        (ts, (busy, cores, None if cores is None else cores * GIB)) for ts, busy in rows
    ]
    return Recording(
        vm=name,
        source=name,
        interval_s=interval_s,
        fields=("cpu_busy_ratio", "cpu_count", "mem_total_bytes"),
        rows=figures,
        dirt=Dirt(),
    )


def test_a_planetlab_day(tmp_path: Path) -> None:
    """A VM a line in the order of the file; no sizes; compressed or not."""
    text = "vm b,10,20,30\nvm a,0,100,50\n\n"
    (tmp_path / "day.csv").write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "day.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write(text)
    for name in ("day.csv", "day.csv.gz"):
        trace = read_file(tmp_path / name, days=1)
        assert trace.load.name == name
        assert trace.load.ratio.tolist() == [[0.1, 0.0], [0.2, 1.0], [0.3, 0.5]]
        assert trace.sizes == (None, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,1,2\nb,1\n", "line 2: not a name and at least 2 figures"),
        ("a,1,2\nb,1,2,3\n", "line 2: 3 figures, the first line has 2"),
        ("a,1,2\n\nb,1,101\n", "line 3: figure 2: 101 is not between 0 and 100 %"),
        ("a,-1,2\n", "line 1: figure 1: -1 is not between"),
        ("a,nan,2\n", "line 1: figure 1: nan is not between"),
        ("a,1,x\n", "line 1: figure 2: 'x' is not a number"),
        ("a,1,\n", "line 1: figure 2: '' is not a number"),
        (",1,2\n", "line 1: not a name"),
        ("", "no VM in it"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, words: str) -> None:
    """File, line, place and what is wrong."""
    (tmp_path / "day.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"day\.csv: {words}"):
        read_file(tmp_path / "day.csv", days=1)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, or not what its ending says."""
    with pytest.raises(ConfigError, match=r"none\.csv: No such file"):
        read_file(tmp_path / "none.csv", days=1)
    (tmp_path / "bad.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(ConfigError, match=r"bad\.csv\.gz"):
        read_file(tmp_path / "bad.csv.gz", days=1)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00,1,2")
    with pytest.raises(ConfigError, match=r"bytes\.csv"):
        read_file(tmp_path / "bytes.csv", days=1)


def test_our_csv_is_resampled_and_keeps_sizes(tmp_path: Path) -> None:
    """Minutes become means of five; cores and memory are taken over."""
    lines = ["vm,ts,interval_s,cpu_busy_ratio,cpu_count,mem_total_bytes,mem_used_bytes"]
    lines += [f"web,{ts},60,{0.2 if ts <= 300 else 0.6},2,4000000000,1" for ts in range(60, 601, 60)]
    path = tmp_path / "vms.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    trace = read_file(path, days=1)
    assert trace.load.ratio[:, 0].tolist() == pytest.approx([0.2, 0.6])
    assert trace.sizes == (Size(vcpus=2, ram_bytes=4e9),)


def test_a_bitbrains_folder(tmp_path: Path) -> None:
    """Another layout, the same way."""
    folder = write_bitbrains(tmp_path / "trace", [recording("1", np.full(20, 0.25), interval_s=300, cpu_count=4)])
    trace = read_file(folder, days=1)
    assert trace.load.ratio.shape == (20, 1)
    assert trace.load.ratio[5, 0] == pytest.approx(0.25)
    assert trace.sizes[0] is not None
    assert trace.sizes[0].vcpus == 4


def test_gaps_hold_and_absence_is_nothing() -> None:
    """Between samples the last value holds; before the first and after the last a VM asks for nothing."""
    holed = recorded([(600, 0.5), (1500, 0.1)], name="holed")
    whole = recorded([(ts, 1.0) for ts in range(300, 2101, 300)], name="whole")
    trace = resample("made", [holed, whole], days=1)
    assert trace.load.ratio[:, 0].tolist() == [0, 0.5, 0.5, 0.5, 0.1, 0, 0]
    assert trace.load.ratio[:, 1].tolist() == [1] * 7


def test_long_intervals_fill_their_steps() -> None:
    """An hour's mean stands for twelve steps."""
    trace = resample("made", [recorded([(3600, 0.5), (7200, 0.25)], interval_s=3600)], days=1)
    assert trace.load.ratio[:, 0].tolist() == [0.5] * 12 + [0.25] * 12


def test_the_last_days_count() -> None:
    """What is older is left out, a VM that ended before then too."""
    day = [(ts, 0.5) for ts in range(300, 3 * 86_400 + 1, 300)]
    trace = resample("made", [recorded(day), recorded([(300, 0.5), (600, 0.5)], name="old")], days=1)
    assert trace.load.ratio.shape == (288, 1)


def test_what_was_not_measured() -> None:
    """Samples without CPU do not count, and a VM without any does not stop the rest."""
    rows = [(300, None), (600, 0.5), (900, 0.5)]
    trace = resample("made", [recorded(rows, cores=2.0), recorded([(300, None)], name="none")], days=1)
    assert trace.load.ratio[:, 0].tolist() == [0.5, 0.5]
    assert trace.sizes == (Size(vcpus=2, ram_bytes=2 * GIB),)


def test_too_little_is_no_trace() -> None:
    """Nothing, or a single step."""
    for recordings in ([], [recorded([(300, 0.5)])]):
        with pytest.raises(ConfigError, match="fewer than two steps"):
            resample("made", recordings, days=1)


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.floats(0, 1)), min_size=1, max_size=30, unique_by=lambda row: row[0]),
    st.sampled_from([20, 60, 300, 900, 3600]),
)
def test_resampling_stays_within_what_was_seen(rows: list[tuple[int, float]], interval_s: int) -> None:
    """No step is above the largest value or below 0, and every value's step is there."""
    made = [(ts * interval_s, value) for ts, value in sorted(rows)]
    try:
        ratio = resample("made", [recorded([*made], interval_s=interval_s)], days=10_000).load.ratio
    except ConfigError:
        return
    assert ratio.min() >= 0
    assert ratio.max() <= max(value for _, value in made) + 1e-12
    span_s = made[-1][0] - made[0][0] + interval_s
    assert abs(len(ratio) * GRID_S - span_s) <= 2 * max(GRID_S, interval_s)


def test_a_fleet_without_stores(tmp_path: Path) -> None:
    """The answer names the folder and the way out."""
    with pytest.raises(ConfigError, match="--trace"):
        read_fleet(tmp_path, days=1, now_s=1e9)


def test_the_fleets_own_stores(tmp_path: Path) -> None:
    """Raw samples of the last day become means of 300 s, VMs by id; the stores are only read."""
    for vm, busy in (("web", 0.5), ("db", 0.25)):
        fill(tmp_path, vm, minutes(START_S + 60, 60, cpu_busy_ratio=busy, cpu_count=2, mem_total_bytes=1 << 32))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.db")}
    trace = read_fleet(tmp_path, days=1, now_s=START_S + 3600.0)
    assert trace.load.ratio[0].tolist() == pytest.approx([0.25, 0.5])
    assert trace.load.ratio.shape == (12, 2)
    assert trace.sizes == (Size(vcpus=2, ram_bytes=float(1 << 32)),) * 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.db")} == before
    with pytest.raises(ConfigError, match="fewer than two steps"):
        read_fleet(tmp_path, days=1, now_s=START_S + 10 * 86_400.0)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    """Its path stands in the answer."""
    fill(tmp_path, "web", minutes(START_S + 60, 60)).write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match=r"web\.db"):
        read_fleet(tmp_path, days=1, now_s=START_S + 3600.0)
