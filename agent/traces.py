"""Recorded VMs: our CSV and the Bitbrains layout, read and cleaned. Files in, values out.

docs/simulation.md describes both layouts and what cleaning does; each kind of dirt is counted. An archive
is read from front to back, one VM at a time; a CSV, whose VMs may be mixed, is held as plain tuples.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import math
import re
import statistics
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from pathlib import Path
from typing import TextIO

from agent.sample import FIELDS, Sample, Unit
from agent.wire import encode_sample, is_vm_id

BITBRAINS_INTERVAL_S = 300
BITBRAINS_PREFIX = "bb-"
BITBRAINS_COLUMNS = (
    "Timestamp [ms]",  # seconds, in spite of its name
    "CPU cores",
    "CPU capacity provisioned [MHZ]",
    "CPU usage [MHZ]",
    "CPU usage [%]",
    "Memory capacity provisioned [KB]",
    "Memory usage [KB]",
    "Disk read throughput [KB/s]",
    "Disk write throughput [KB/s]",
    "Network received throughput [KB/s]",
    "Network transmitted throughput [KB/s]",
)
_BITBRAINS_FIELDS = (
    "cpu_busy_ratio",
    "cpu_count",
    "mem_total_bytes",
    "mem_used_bytes",
    "disk_read_bytes_per_s",
    "disk_write_bytes_per_s",
    "net_rx_bytes_per_s",
    "net_tx_bytes_per_s",
)
_KB = 1024.0
_LARGEST = 8e9  # KB or KB/s; what is larger is damage, and would not fit on the wire
_LATEST_S = 1e11
_FIELD = {field.name: field for field in FIELDS}
_WHOLE = frozenset(field.name for field in FIELDS if field.unit in {Unit.COUNT, Unit.BYTES})

Figures = tuple[float | None, ...]  # in the order of Recording.fields; None is not measured


class TraceError(Exception):
    """A trace that cannot be used; the text names the file, and the line where there is one."""


@dataclass(slots=True)
class Dirt:
    """What cleaning met, in rows. A row may count under several names, but is kept or dropped once.

    Attributes:
        rows: all, but for headers and empty lines.
        kept: those that became samples.
        malformed: dropped: wrong number of columns, or not numbers.
        no_capacity: dropped: no cores or no memory, so that no ratio means anything.
        repeated: dropped: an earlier row of the file has the same time once snapped.
        backwards: time went back from the row before; sorted, not dropped.
        snapped: the time was not a multiple of the interval.
        clamped: a figure was below 0 or above what it is a part of.
    """

    rows: int = 0
    kept: int = 0
    malformed: int = 0
    no_capacity: int = 0
    repeated: int = 0
    backwards: int = 0
    snapped: int = 0
    clamped: int = 0

    def add(self, other: Dirt) -> None:
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One recorded VM, cleaned.

    Attributes:
        vm: its id here.
        source: its name in the trace.
        interval_s: divides 3600.
        fields: names of the figures in each row.
        rows: `ts` and figures, by time, each time once, a multiple of the interval.
    """

    vm: str
    source: str
    interval_s: int
    fields: tuple[str, ...]
    rows: Sequence[tuple[int, Figures]]
    dirt: Dirt

    def samples(self, shift_s: int = 0) -> Iterator[Sample]:
        """Its samples, oldest first, moved in time by `shift_s`, a multiple of the interval."""
        whole = tuple(name in _WHOLE for name in self.fields)
        for ts, figures in self.rows:
            values = {
                name: None if figure is None else int(figure) if is_whole else figure
                for name, figure, is_whole in zip(self.fields, figures, whole, strict=True)
            }
            # The loaders checked every figure and every name against FIELDS.
            yield Sample(ts=ts + shift_s, **values)  # type: ignore[arg-type]

    def texts(self, shift_s: int = 0) -> Iterator[str]:
        """Its samples as the JSON objects of the wire."""
        return map(encode_sample, self.samples(shift_s))


def read_trace(path: Path, *, prefix: str | None = None, vms: int | None = None) -> Iterator[Recording]:
    """The VMs of a trace, one at a time and in its order; folders by the number in their files' names.

    Args:
        path: a folder or tar archive of Bitbrains files, a folder of such archives, one such file, or our CSV (also
            .gz or .xz).
        prefix: of every VM's id; default `bb-` for Bitbrains files and none for our CSV.
        vms: stop after so many.
    Raises: TraceError: not readable, neither layout, or two VMs whose ids become the same.
    """
    seen: dict[str, str] = {}
    for recording in islice(_read(path, prefix), vms):
        other = seen.setdefault(recording.vm, recording.source)
        if other != recording.source:
            raise TraceError(f"{path}: {other} and {recording.source} would both be {recording.vm}")
        yield recording


def vm_id(source: str, prefix: str) -> str:
    """An id the wire takes, from a name in a trace. Raises: TraceError: nothing is left of the name."""
    text = re.sub(r"[^a-z0-9._-]+", "-", (prefix + source).lower()).lstrip("._-")[:64]
    if not is_vm_id(text):
        raise TraceError(f"{source!r} cannot be made a VM id")
    return text


def snap_s(ts: float, interval_s: int) -> int:
    """The multiple of the interval nearest to a time; the later one from the exact middle."""
    return math.floor((ts + interval_s / 2) / interval_s) * interval_s


def clean(rows: Iterable[tuple[float, Figures]], interval_s: int, dirt: Dirt) -> list[tuple[int, Figures]]:
    """Rows in file order, times as recorded → by time on the grid, the first of each time; counts into `dirt`."""
    kept: dict[int, Figures] = {}
    before_s = -math.inf
    for recorded_s, figures in rows:
        ts = snap_s(recorded_s, interval_s)
        dirt.snapped += ts != recorded_s
        dirt.backwards += recorded_s < before_s
        before_s = recorded_s
        if ts in kept:
            dirt.repeated += 1
        else:
            kept[ts] = figures
    dirt.kept += len(kept)
    return sorted(kept.items())


def read_bitbrains(lines: Iterable[str], *, where: str, source: str, prefix: str = BITBRAINS_PREFIX) -> Recording:
    """One VM from the lines of a Bitbrains file. Raises: TraceError: another header."""
    iterator = iter(lines)
    header = tuple(name.strip() for name in next(iterator, "").split(";"))
    if header != BITBRAINS_COLUMNS:
        raise TraceError(f"{where}: the first line is not the Bitbrains header: {';'.join(header)[:80]!r}")
    dirt = Dirt()
    return Recording(
        vm=vm_id(source, prefix),
        source=where,
        interval_s=BITBRAINS_INTERVAL_S,
        fields=_BITBRAINS_FIELDS,
        rows=clean(_bitbrains_rows(iterator, dirt), BITBRAINS_INTERVAL_S, dirt),
        dirt=dirt,
    )


def _bitbrains_rows(lines: Iterable[str], dirt: Dirt) -> Iterator[tuple[float, Figures]]:
    for line in lines:
        if not line.strip():
            continue
        dirt.rows += 1
        try:
            ts, cores, _, _, cpu, total, used, *rates = map(float, line.split(";"))
        except ValueError:
            dirt.malformed += 1
            continue
        figures = (cores, cpu, total, used, *rates)
        # A sum of finite figures is finite, and a comparison with NaN is never true.
        finite = abs(sum(figures)) < math.inf and 0 <= ts <= _LATEST_S
        if not finite or len(rates) != 4 or max(figures) > _LARGEST:
            dirt.malformed += 1
        elif cores < 1 or total <= 0:
            dirt.no_capacity += 1
        else:
            if cpu > 100 or used > total or min(figures) < 0:
                dirt.clamped += 1
                cpu, used = min(max(cpu, 0.0), 100.0), min(max(used, 0.0), total)
                rates = [max(rate, 0.0) for rate in rates]
            yield ts, (cpu / 100, cores, total * _KB, used * _KB, *(rate * _KB for rate in rates))


def read_csv(lines: Iterable[str], *, where: str, prefix: str = "") -> Iterator[Recording]:
    """The VMs of our CSV, in the order of their first rows.

    Its header names `vm`, `ts`, the figures that a sample must have, and any others of the wire; an
    empty cell was not measured. The interval is the column `interval_s`, or else the median step.

    Raises: TraceError: unknown or missing columns, a figure out of range, or no usable interval.
    """
    reader = csv.reader(lines)
    header = tuple(name.strip() for name in next(reader, []))
    unknown = sorted(set(header) - {"vm", "ts", "interval_s"} - _FIELD.keys())
    if unknown:
        raise TraceError(f"{where}: unknown columns: {', '.join(unknown)}")
    needed = ["vm", "ts", *(field.name for field in FIELDS if field.required)]
    missing = [name for name in needed if name not in header]
    if missing:
        raise TraceError(f"{where}: missing columns: {', '.join(missing)}")
    if len(set(header)) < len(header):
        raise TraceError(f"{where}: a column stands twice")
    names = tuple(name for name in header if name in _FIELD)
    rows: dict[str, list[tuple[float, Figures]]] = {}
    intervals: dict[str, set[float]] = {}
    for cells in reader:
        if not cells:
            continue
        line = f"{where}: line {reader.line_num}"
        if len(cells) != len(header):
            raise TraceError(f"{line}: {len(cells)} columns, the header has {len(header)}")
        row = dict(zip(header, cells, strict=True))
        figures = tuple(_figure(row[name], name, line) for name in names)
        rows.setdefault(row["vm"], []).append((_number(row["ts"], "ts", _LATEST_S, line), figures))
        if "interval_s" in row:
            interval_s = _number(row["interval_s"], "interval_s", 3600, line)
            intervals.setdefault(row["vm"], set()).add(interval_s)
    step_s = None if intervals else _median_step_s(rows.values())
    for source, recorded in rows.items():
        interval_s = _whole_interval(intervals.get(source, {step_s or 0.0}), f"{where}: {source}")
        dirt = Dirt(rows=len(recorded))
        cleaned = clean(recorded, interval_s, dirt)
        yield Recording(
            vm=vm_id(source, prefix), source=source, interval_s=interval_s, fields=names, rows=cleaned, dirt=dirt
        )


def _number(text: str, name: str, maximum: float, line: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise TraceError(f"{line}: {name}: {text!r} is not a number") from error
    if not (math.isfinite(value) and 0 <= value <= maximum):
        raise TraceError(f"{line}: {name}: {text} is not between 0 and {maximum:g}")
    return value


def _figure(text: str, name: str, line: str) -> float | None:
    field = _FIELD[name]
    if not text.strip() and not field.required:
        return None
    return _number(text, name, field.maximum, line)


def _median_step_s(recorded: Iterable[list[tuple[float, Figures]]]) -> float | None:
    times = (sorted({ts for ts, _ in rows}) for rows in recorded)
    steps = [later - earlier for series in times for earlier, later in pairwise(series)]
    return statistics.median(steps) if steps else None


def _whole_interval(intervals: set[float], where: str) -> int:
    interval_s = min(intervals)
    if len(intervals) > 1:
        raise TraceError(f"{where}: interval_s changes: {', '.join(f'{value:g}' for value in sorted(intervals))}")
    if interval_s < 1 or interval_s % 1 or 3600 % interval_s:
        raise TraceError(f"{where}: an interval of {interval_s:g} s does not divide an hour; give a column interval_s")
    return int(interval_s)


def _read(path: Path, prefix: str | None) -> Iterator[Recording]:
    bitbrains_prefix = BITBRAINS_PREFIX if prefix is None else prefix
    with _errors_named(path):
        if path.is_dir():
            files = _bitbrains_files(path)
            if not files:
                yield from _read_archives(path, bitbrains_prefix)
            for file in files:
                where = str(file.relative_to(path))
                with file.open(encoding="utf-8", errors="replace") as content:
                    yield read_bitbrains(content, where=where, source=file.stem, prefix=bitbrains_prefix)
        elif tarfile.is_tarfile(path):
            yield from _read_archive(path, bitbrains_prefix, frozenset())
        else:
            with _open_text(path) as stream:
                first = stream.readline()
                lines = _chain(first, stream)
                if first.startswith(BITBRAINS_COLUMNS[0]):
                    source = path.name.partition(".")[0]
                    yield read_bitbrains(lines, where=path.name, source=source, prefix=bitbrains_prefix)
                else:
                    yield from read_csv(lines, where=path.name, prefix=prefix or "")


def _read_archives(folder: Path, prefix: str) -> Iterator[Recording]:
    """Archives of a folder, the largest first; a VM that an earlier one held is not read again."""
    archives = [file for file in folder.iterdir() if file.is_file() and tarfile.is_tarfile(file)]
    if not archives:
        raise TraceError(f"{folder}: neither .csv files nor tar archives in the folder")
    seen: set[str] = set()
    for archive in sorted(archives, key=lambda file: (-file.stat().st_size, file.name)):
        for recording in _read_archive(archive, prefix, frozenset(seen)):
            seen.add(recording.vm)
            yield recording


def _read_archive(path: Path, prefix: str, known: AbstractSet[str]) -> Iterator[Recording]:
    found = False
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            name = Path(member.name)
            if not member.isfile() or name.suffix != ".csv" or name.name.startswith("."):
                continue
            content = archive.extractfile(member)
            assert content is not None  # true of every regular file
            found = True
            if vm_id(name.stem, prefix) in known:
                continue
            with io.TextIOWrapper(content, encoding="utf-8", errors="replace") as lines:
                yield read_bitbrains(lines, where=member.name, source=name.stem, prefix=prefix)
    if not found:
        raise TraceError(f"{path}: no .csv files in the archive")


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise TraceError(f"{path}: {error}") from error


def _bitbrains_files(folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*.csv") if not file.name.startswith(".")]
    return sorted(files, key=lambda file: [(len(part), part) for part in re.split(r"(\d+)", str(file))])


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _chain(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest
