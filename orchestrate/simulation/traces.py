"""Recorded load out of files or of the fleet's own stores, on a grid of 300 s. Files in, values out."""

from __future__ import annotations

import gzip
import lzma
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from agent.settings import ConfigError
from agent.traces import BITBRAINS_COLUMNS, Dirt, Recording, TraceError, read_trace
from aggregator.store_files import StoreError, read_samples
from orchestrate.simulation.load import Load
from orchestrate.simulation.machines import Size
from orchestrate.simulation.park import Floats
from orchestrate.simulation.policy import TICK_S

DAY_S = 86_400
FLEET = "fleet"
_FIELDS = ("cpu_busy_ratio", "cpu_count", "mem_total_bytes")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What VMs did, and how large they are where that was recorded."""

    load: Load
    sizes: tuple[Size | None, ...]


def read_file(path: Path, *, days: int) -> Trace:
    """The VMs of a trace.

    Args:
        path: a PlanetLab day: one VM a line, its name and then whole percents of its CPU, one every 300 s; or whatever
            `agent.traces` reads.
        days: the last so many of a trace whose samples have times. A PlanetLab day is taken whole.

    Raises:
        ConfigError: not readable, or a line that is wrong, with its number.
    """
    try:
        if path.is_dir() or not _is_planetlab(path):
            return resample(path.name, read_trace(path), days=days)
        with _open_text(path) as lines:
            return _planetlab(path, lines)
    except TraceError as error:
        raise ConfigError(f"--trace: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError, zlib.error) as error:
        words = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--trace: {path}: {words}") from error


def read_fleet(data_dir: Path, *, days: int, now_s: float) -> Trace:
    """The fleet's own last days, out of the aggregator's stores, which are only read. Raises ConfigError."""
    stores = sorted((data_dir / "stores").glob("*/*/*.db"), key=lambda path: path.name)
    if not stores:
        raise ConfigError(f"{data_dir}: no stores of VMs there; --trace FILE replays a recorded trace")
    return resample(FLEET, _recorded(stores, int(now_s) - days * DAY_S, int(now_s)), days=days)


def resample(name: str, recordings: Iterable[Recording], *, days: int) -> Trace:
    """Recordings on one grid: the mean of what falls into 300 s.

    A gap holds the last value; before its first sample and after its last one a VM asks for nothing. VMs without
    a sample in the last days are left out.

    Raises: ConfigError: fewer than two steps, or no VM at all.
    """
    kept = [one for recording in recordings if (one := _OnGrid.of(recording)) is not None]
    newest = max((one.last for one in kept), default=0)
    oldest = max(newest - days * DAY_S // TICK_S + 1, min((one.first for one in kept), default=0))
    kept = [one for one in kept if one.last >= oldest]
    if newest <= oldest:
        raise ConfigError(f"{name}: fewer than two steps of {TICK_S} s are recorded")
    ratio = np.stack([one.between(oldest, newest) for one in kept], axis=1)
    return Trace(load=Load(name=name, ratio=ratio), sizes=tuple(one.size for one in kept))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _OnGrid:
    """One VM from step `first` to step `last`; step n ends n * 300 s after the epoch."""

    first: int
    last: int
    ratio: Floats
    size: Size | None

    @classmethod
    def of(cls, recording: Recording) -> _OnGrid | None:
        """None where its CPU was never measured."""
        places = [recording.fields.index(name) if name in recording.fields else None for name in _FIELDS]
        table = np.array(
            [
                [ts, *(np.nan if place is None or figures[place] is None else figures[place] for place in places)]
                for ts, figures in recording.rows
            ],
            float,
        ).reshape(-1, 1 + len(_FIELDS))
        table = table[~np.isnan(table[:, 1])]
        if not len(table):
            return None
        ends_s, interval_s = table[:, 0], recording.interval_s
        lasts = np.ceil(ends_s / TICK_S).astype(int)
        firsts = np.minimum(np.floor((ends_s - interval_s) / TICK_S).astype(int) + 1, lasts)
        first, last = int(firsts.min()), int(lasts.max())
        total, count = np.zeros(last - first + 1), np.zeros(last - first + 1)
        for step in range(int((lasts - firsts).max()) + 1):
            within = firsts + step <= lasts
            np.add.at(total, (firsts + step - first)[within], table[within, 1])
            np.add.at(count, (firsts + step - first)[within], 1.0)
        filled = np.maximum.accumulate(np.where(count > 0, np.arange(len(count)), 0))
        ratio = (total / np.maximum(count, 1.0))[filled]
        return cls(first=first, last=last, ratio=np.clip(ratio, 0.0, 1.0), size=_size(table))

    def between(self, oldest: int, newest: int) -> Floats:
        found = np.zeros(newest - oldest + 1)
        begin, end = max(self.first, oldest), min(self.last, newest)
        found[begin - oldest : end - oldest + 1] = self.ratio[begin - self.first : end - self.first + 1]
        return found


def _size(table: Floats) -> Size | None:
    """The newest cores and memory that were measured; None without both."""
    newest = []
    for column in (2, 3):
        known = table[~np.isnan(table[:, column]), column]
        if not len(known) or known[-1] <= 0:
            return None
        newest.append(float(known[-1]))
    return Size(vcpus=newest[0], ram_bytes=newest[1])


def _is_planetlab(path: Path) -> bool:
    """Whether the first line is a name and figures, and no header that `agent.traces` knows nor an archive."""
    try:
        with _open_text(path) as lines:
            first = lines.readline(65_536)
    except UnicodeDecodeError:
        return False
    cells = [cell.strip() for cell in first.split(",")]
    return not first.startswith(BITBRAINS_COLUMNS[0]) and not {"vm", "ts"} <= set(cells) and "\0" not in first


def _open_text(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _planetlab(path: Path, lines: Iterable[str]) -> Trace:
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"--trace: {path}: line {number}"
        name, *cells = (cell.strip() for cell in line.split(","))
        if not name or len(cells) < 2:
            raise ConfigError(f"{where}: not a name and at least 2 figures")
        if rows and len(cells) != len(rows[0]):
            raise ConfigError(f"{where}: {len(cells)} figures, the first line has {len(rows[0])}")
        rows.append([_percent(cell, where, place) for place, cell in enumerate(cells, 1)])
    if not rows:
        raise ConfigError(f"--trace: {path}: no VM in it")
    ratio = np.array(rows).T / 100.0
    return Trace(load=Load(name=path.name, ratio=np.ascontiguousarray(ratio)), sizes=(None,) * len(rows))


def _percent(cell: str, where: str, place: int) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        raise ConfigError(f"{where}: figure {place}: {cell!r} is not a number") from error
    if not (math.isfinite(value) and 0 <= value <= 100):
        raise ConfigError(f"{where}: figure {place}: {cell} is not between 0 and 100 %")
    return value


def _recorded(stores: Sequence[Path], from_s: int, to_s: int) -> Iterator[Recording]:
    for path in stores:
        try:
            samples = read_samples(path, from_s + 1, to_s)
        except StoreError as error:
            raise ConfigError(f"{path}: {error}") from error
        # A change of interval within a store only blurs a step: the shortest one claims no more than was seen.
        intervals = [int(sample["interval_s"] or TICK_S) for sample in samples]
        rows = [(int(sample["ts"] or 0), tuple(sample[name] for name in _FIELDS)) for sample in samples]
        yield Recording(
            vm=path.stem,
            source=str(path),
            interval_s=min(intervals, default=TICK_S),
            fields=_FIELDS,
            rows=rows,
            dirt=Dirt(),
        )
