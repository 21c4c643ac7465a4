"""Reading and cleaning recorded VMs."""

from __future__ import annotations

import gzip
import lzma
import math
import statistics
import tarfile
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.traces import (
    BITBRAINS_COLUMNS,
    Dirt,
    Recording,
    TraceError,
    clean,
    read_bitbrains,
    read_csv,
    read_trace,
    snap_s,
    vm_id,
)
from tests.traces import trace

DATA = Path(__file__).resolve().parents[1] / "data"
HEADER = ";\t".join(BITBRAINS_COLUMNS)
REQUIRED = "vm,ts,cpu_busy_ratio,mem_total_bytes,mem_used_bytes"


def test_bitbrains_file_is_cleaned_and_every_fault_counted() -> None:
    """Each fault of the file is handled as docs/simulation.md says, and the counts add up."""
    (recording,) = read_trace(DATA / "bitbrains" / "82.csv")
    assert (recording.vm, recording.interval_s) == ("bb-82", 300)
    samples = list(recording.samples())
    assert [(sample.ts, sample.cpu_busy_ratio) for sample in samples] == [
        (1375308300, 0.00125),
        (1375308600, 1.0),  # 103.5 % clamped; the row with 77 % has the same time and came later
        (1375308900, 0.08),  # came after a later one
        (1375309200, 0.09),  # the row before it has no cores, so this is the first
        (1375309500, 0.0),
    ]
    assert asdict(recording.dirt) == {
        "rows": 10,
        "kept": 5,
        "malformed": 3,
        "no_capacity": 1,
        "repeated": 1,
        "backwards": 2,
        "snapped": 5,
        "clamped": 3,
    }
    dirt = recording.dirt
    assert dirt.rows == dirt.kept + dirt.malformed + dirt.no_capacity + dirt.repeated


def test_bitbrains_figures_come_in_our_units() -> None:
    """Percent become ratios and KB become 1024 bytes; what the hypervisor did not record is absent, not zero."""
    (recording,) = read_trace(DATA / "bitbrains" / "82.csv")
    first, *_, last = recording.samples()
    assert first.cpu_count == 2
    assert first.mem_total_bytes == 4 << 30
    assert first.mem_used_bytes == 1 << 30
    assert first.disk_read_bytes_per_s == 0
    assert first.disk_write_bytes_per_s == 1536
    assert first.net_rx_bytes_per_s == 2048
    assert first.net_tx_bytes_per_s == 256
    assert first.disk_used_bytes is first.cpu_max_ratio is first.users is None
    assert [sample.mem_used_bytes for sample in recording.samples()][2] == 4 << 30
    assert last.disk_read_bytes_per_s == 0


def test_folder_is_read_by_number_and_limited() -> None:
    """Files come in the order of their numbers; a VM without a row is there, but empty; a limit stops early."""
    recordings = list(read_trace(DATA / "bitbrains"))
    assert [recording.vm for recording in recordings] == ["bb-7", "bb-82", "bb-446"]
    assert [len(recording.rows) for recording in recordings] == [2, 5, 0]
    assert [recording.vm for recording in read_trace(DATA / "bitbrains", prefix="aug-", vms=1)] == ["aug-7"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_archive_is_the_same_as_its_folder(tmp_path: Path, mode: str) -> None:
    """Packing changes nothing but the order, which is the archive's own; other files in it are passed over."""
    path = tmp_path / "rnd.tar"
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(DATA / "bitbrains" / "82.csv", "rnd/2013-8/82.csv")
        archive.add(DATA / "fleet.csv", "rnd/readme.txt")
        archive.add(DATA / "fleet.csv", "rnd/2013-8/._7.csv")
        archive.add(DATA / "bitbrains" / "7.csv", "rnd/2013-8/7.csv")
    packed = list(read_trace(path))
    assert [recording.vm for recording in packed] == ["bb-82", "bb-7"]
    unpacked = {recording.vm: recording for recording in read_trace(DATA / "bitbrains")}
    for recording in packed:
        assert recording.rows == unpacked[recording.vm].rows
        assert recording.dirt == unpacked[recording.vm].dirt


def test_shift_moves_times_alone() -> None:
    """A shifted recording has the same figures at later times, in its texts too."""
    (recording,) = read_trace(DATA / "bitbrains" / "82.csv")
    plain, moved = list(recording.samples()), list(recording.samples(7_200))
    assert [sample.ts for sample in moved] == [sample.ts + 7_200 for sample in plain]
    assert [sample.cpu_busy_ratio for sample in moved] == [sample.cpu_busy_ratio for sample in plain]
    assert next(recording.texts(7_200)).startswith('{"ts": 1375315500, "cpu_busy_ratio": 0.00125')


def test_our_csv() -> None:
    """VMs may be mixed, ids are made fit, each has its interval, and an empty cell is not measured."""
    web, db = read_trace(DATA / "fleet.csv")
    assert (web.vm, web.source, web.interval_s) == ("web-1", "Web 1", 300)
    assert (db.vm, db.interval_s) == ("db", 60)
    first, second = web.samples()
    assert (first.ts, first.cpu_max_ratio, first.users) == (1700000400, 0.5, 2)
    assert (second.ts, second.cpu_max_ratio, second.users) == (1700000700, None, 0)
    assert [sample.ts for sample in db.samples()] == [1700000400, 1700000460]
    assert db.dirt == Dirt(rows=2, kept=2, snapped=1)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_our_csv_may_be_packed(tmp_path: Path, suffix: str, pack: object) -> None:
    """A CSV reads the same through gzip and xz."""
    path = tmp_path / f"fleet.csv{suffix}"
    path.write_bytes(pack((DATA / "fleet.csv").read_bytes()))  # type: ignore[operator]
    assert [recording.rows for recording in read_trace(path)] == [
        recording.rows for recording in read_trace(DATA / "fleet.csv")
    ]


def test_interval_is_the_median_step_where_no_column_says_it() -> None:
    """Gaps and a VM with a single row do not disturb it."""
    times = [0, 300, 600, 900, 9_000, 9_300]
    lines = [REQUIRED, *(f"a,{ts},0.5,1024,512" for ts in times), "b,600,0.5,1024,512"]
    a, b = read_csv(lines, where="x.csv")
    assert (a.interval_s, b.interval_s) == (300, 300)
    assert [ts for ts, _ in a.rows] == times


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["vm,ts,cpu_busy_ratio"], "x.csv: missing columns: mem_total_bytes, mem_used_bytes"),
        ([""], "x.csv: missing columns: vm, ts"),
        ([f"{REQUIRED},cpu,colour"], "x.csv: unknown columns: colour, cpu"),
        ([f"{REQUIRED},users,users"], "x.csv: a column stands twice"),
        ([REQUIRED, "a,60,0.5,1024"], "x.csv: line 2: 4 columns, the header has 5"),
        ([REQUIRED, "a,60,1.5,1024,512"], "x.csv: line 2: cpu_busy_ratio: 1.5 is not between 0 and 1"),
        ([REQUIRED, "a,60,nan,1024,512"], "x.csv: line 2: cpu_busy_ratio: nan is not between"),
        ([REQUIRED, "a,60,,1024,512"], "x.csv: line 2: cpu_busy_ratio: '' is not a number"),
        ([REQUIRED, "a,60,0.5,1024,512", "a,noon,0.5,1024,512"], "x.csv: line 3: ts: 'noon' is not a number"),
        ([REQUIRED, "a,60,0.5,1024,512"], "x.csv: a: an interval of 0 s does not divide an hour"),
        ([REQUIRED, "a,0,0.5,1,1", "a,7,0.5,1,1"], "x.csv: a: an interval of 7 s does not divide an hour"),
        ([f"{REQUIRED},interval_s", "a,0,0.5,1,1,60", "a,60,0.5,1,1,300"], "x.csv: a: interval_s changes: 60, 300"),
        ([REQUIRED, "...,0,0.5,1,1", "...,60,0.5,1,1"], "'...' cannot be made a VM id"),
    ],
)
def test_mistakes_in_our_csv_are_named(lines: list[str], named: str) -> None:
    """Our own layout is taken strictly: the file, the line, the column and the value are in the text."""
    with pytest.raises(TraceError) as raised:
        list(read_csv(lines, where="x.csv"))
    assert named in str(raised.value)


def test_unusable_paths_are_named(tmp_path: Path) -> None:
    """An empty folder, a broken archive, and a file of neither layout are told apart, each by its path."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.tar.xz").write_bytes(b"\xfd7zXZ\x00nothing of use")
    (tmp_path / "broken.csv.gz").write_bytes(b"\x1f\x8bnothing of use")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.csv").write_text("a;b;c\n")
    with tarfile.open(tmp_path / "none.tar", "w") as archive:
        archive.add(DATA / "fleet.csv", "fleet.txt")
    for name, text in [
        ("empty", "neither .csv files nor tar archives"),
        ("broken.tar.xz", "broken.tar.xz"),
        ("broken.csv.gz", "broken.csv.gz"),
        ("binary.csv", "binary.csv"),
        ("other", "1.csv: the first line is not the Bitbrains header"),
        ("none.tar", "no .csv files"),
        ("absent.csv", "absent.csv"),
    ]:
        with pytest.raises(TraceError, match=text):
            list(read_trace(tmp_path / name))


def test_a_folder_of_archives_gives_each_vm_once(tmp_path: Path) -> None:
    """Where one archive samples another, the larger one's recording of a VM counts."""
    for name, files in [("a-sample.tar.gz", ["7"]), ("b-all.tar", ["7", "8"])]:
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            for vm in files:
                archive.add(DATA / "bitbrains" / "7.csv", f"{Path(name).stem}/{vm}.csv")
    found = list(read_trace(tmp_path))
    assert [(recording.vm, recording.source) for recording in found] == [
        ("bb-7", "b-all/7.csv"),
        ("bb-8", "b-all/8.csv"),
    ]


def test_two_vms_never_become_one(tmp_path: Path) -> None:
    """Files of the same name in two folders, or names that differ only in what an id cannot hold, are refused."""
    for month in ("2013-7", "2013-8"):
        (tmp_path / month).mkdir()
        (tmp_path / month / "7.csv").write_text((DATA / "bitbrains" / "7.csv").read_text())
    with pytest.raises(TraceError, match=r"2013-7/7\.csv and 2013-8/7\.csv would both be bb-7"):
        list(read_trace(tmp_path))
    path = tmp_path / "fleet.csv"
    path.write_text("\n".join([REQUIRED, "a b,60,0,1,1", "a-b,60,0,1,1", "a b,120,0,1,1"]))
    with pytest.raises(TraceError, match="a b and a-b would both be a-b"):
        list(read_trace(path))


def test_ids() -> None:
    """Names become ids of the wire; one of which nothing is left is refused."""
    assert vm_id("13", "bb-") == "bb-13"
    assert vm_id("../../etc/passwd", "") == "etc-passwd"
    assert len(vm_id("x" * 100, "bb-")) == 64
    with pytest.raises(TraceError, match="cannot be made"):
        vm_id("---", "")


@given(st.floats(0, 4e9), st.sampled_from([1, 60, 300, 3_600]))
def test_snapping_goes_to_the_nearest_multiple(ts: float, interval_s: int) -> None:
    """Never further than half an interval, and a time on the grid stays."""
    snapped = snap_s(ts, interval_s)
    assert snapped % interval_s == 0
    assert abs(snapped - ts) <= interval_s / 2
    assert snap_s(snapped, interval_s) == snapped


@given(st.lists(st.tuples(st.floats(0, 5_000), st.tuples(st.integers(0, 9))), max_size=60))
def test_cleaning_keeps_the_first_of_each_time_in_order(rows: list[tuple[float, tuple[float | None, ...]]]) -> None:
    """Whatever the order: times rise, each is the first row of the file with that time, and no row goes uncounted."""
    dirt = Dirt()
    cleaned = clean(rows, 300, dirt)
    assert all(earlier < later for (earlier, _), (later, _) in pairwise(cleaned))
    first = {snap_s(ts, 300): figures for ts, figures in reversed(rows)}
    assert dict(cleaned) == first
    assert dirt.kept + dirt.repeated == len(rows)
    assert dirt.backwards == sum(later < earlier for (earlier, _), (later, _) in pairwise(rows))


@given(st.lists(st.text(alphabet="0123456789.;\t-+enaif ", max_size=60), max_size=20))
def test_any_lines_are_samples_or_counted(lines: list[str]) -> None:
    """No content of a Bitbrains file raises anything: every row is a sample that the wire takes, or counted."""
    recording = read_bitbrains([HEADER, *lines], where="1.csv", source="1")
    dirt = recording.dirt
    assert len(list(recording.texts())) == dirt.kept
    assert dirt.kept + dirt.malformed + dirt.no_capacity + dirt.repeated == dirt.rows


figure = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-10, 1e5)


@given(st.lists(st.lists(figure, min_size=11, max_size=11), max_size=10))
def test_any_figures_are_samples_or_counted(rows: list[list[float]]) -> None:
    """Numbers of any size make samples in range or malformed rows, never an error."""
    lines = [HEADER, *(";\t".join(map(repr, row)) for row in rows)]
    recording = read_bitbrains(lines, where="1.csv", source="1")
    for sample in recording.samples():
        assert sample.mem_used_bytes <= sample.mem_total_bytes
        assert math.isfinite(sample.cpu_busy_ratio)


def recordings_by_vm(path: Path) -> dict[str, Recording]:
    return {recording.vm: recording for recording in read_trace(path)}


def test_real_files_as_published() -> None:
    """Four files byte for byte as published, file 82 among them: means equal those of a second, plain reading."""
    path = trace("bitbrains/raw-sample-4vms.tar.xz")
    recordings = recordings_by_vm(path)
    assert recordings.keys() == {"bb-6", "bb-7", "bb-8", "bb-82"}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            rows = [line.split(";\t") for line in content.read().decode().splitlines()[1:]]
            usable = [row for row in rows if float(row[1]) > 0 and float(row[5]) > 0]
            seen: dict[int, list[str]] = {}
            for row in usable:
                seen.setdefault(math.floor(int(row[0]) / 300 + 0.5) * 300, row)
            recording = recordings[f"bb-{Path(member.name).stem}"]
            assert [ts for ts, _ in recording.rows] == sorted(seen)
            cpu = statistics.fmean(min(float(row[4]), 100.0) / 100 for row in seen.values())
            mem = statistics.fmean(min(float(row[6]), float(row[5])) * 1024 for row in seen.values())
            samples = list(recording.samples())
            assert statistics.fmean(sample.cpu_busy_ratio for sample in samples) == pytest.approx(cpu, rel=1e-9)
            assert statistics.fmean(sample.mem_used_bytes for sample in samples) == pytest.approx(mem, rel=1e-6)
            assert recording.dirt.rows == len(rows)
            assert recording.dirt.no_capacity == len(rows) - len(usable)


def test_real_archive_is_read_whole() -> None:
    """150 VMs and a month: every row is kept or counted, and nothing is malformed."""
    dirt, vms = Dirt(), 0
    for recording in read_trace(trace("bitbrains/rnd-2013-08-dev150.tar.xz")):
        dirt.add(recording.dirt)
        vms += 1
    assert vms == 150
    assert dirt.malformed == 0
    assert dirt.rows == dirt.kept + dirt.no_capacity + dirt.repeated
    assert dirt.rows > 1_290_000
    assert dirt.clamped > 0
    assert dirt.no_capacity > 0
