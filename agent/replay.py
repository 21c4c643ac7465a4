"""`fallow-agent replay`: pushes a recorded trace as if its VMs did.

The trace is read twice: first to clean and count it, so that its newest sample and its faults are known
before anything is sent, then to send it, so that it need not be held.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import logging
import math
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from agent.delivery import (
    add_delivery_options,
    deliver,
    guarded,
    option,
    parse_factor,
    parse_time_s,
    write_manifest,
)
from agent.load import Identity, Load
from agent.settings import ConfigError, parse_count
from agent.simulate import Sink
from agent.traces import BITBRAINS_PREFIX, Dirt, Recording, TraceError, read_trace

log = logging.getLogger(__name__)

_HOUR_S = 3_600
_EXAMPLES = """examples:
  # 20 VMs of a Bitbrains archive, moved so that they end within the last hour
  fallow-agent replay rnd.tar.xz --vms 20 --aggregator http://127.0.0.1:8899 --join-token-file token

  # our CSV at the times that stand in it, an hour of it every second
  fallow-agent replay week.csv --end keep --clock-factor 3600 --aggregator http://127.0.0.1:8899 --join-token-file token
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the first reading learns of one VM; times as recorded, `first_s` and `last_s` the `ts` of samples."""

    vm: str
    source: str
    interval_s: int
    first_s: int
    last_s: int
    samples: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `fallow-agent replay`."""
    parser.description = "Pushes recorded VMs. docs/simulation.md describes the layouts and how they are cleaned."
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("path", metavar="PATH", type=Path, help="our CSV, or a Bitbrains file, folder or tar archive")
    add(
        "--end",
        metavar="TIME",
        type=option(_parse_end),
        default="now",
        help="move the whole trace by whole hours so that it ends within the hour before now (default) or an "
        "ISO 8601 time; keep leaves its times alone",
    )
    add(
        "--clock-factor",
        metavar="F",
        type=option(parse_factor),
        default="max",
        help="how much faster than the wall the VMs' clock runs; max or 0: no waiting (default)",
    )
    add("--vms", metavar="N", type=option(parse_count), help="only the first N VMs (default: all)")
    prefix_help = f"of every VM's id (default {BITBRAINS_PREFIX} for Bitbrains files, none for our CSV)"
    add("--prefix", metavar="TEXT", help=prefix_help)
    add_delivery_options(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the command. Returns: an exit code."""
    return guarded(lambda: _run(options, now=time.time))


def _parse_end(text: str) -> int | str:
    return text if text in {"now", "keep"} else parse_time_s(text)


def _run(options: argparse.Namespace, *, now: Callable[[], float]) -> int:
    path: Path = options.path
    if not path.exists():
        raise ConfigError(f"PATH: {path} does not exist")

    def recordings() -> Iterator[Recording]:
        return read_trace(path, prefix=options.prefix, vms=options.vms)

    dirt = Dirt()
    entries = survey(recordings(), dirt)
    if not entries:
        raise TraceError(f"{path}: no usable samples")
    log.info("%s: %s", path, ", ".join(f"{name} {count}" for name, count in asdict(dirt).items()))
    newest_s = max(entry.last_s for entry in entries)
    end_s = now() if options.end == "now" else options.end
    shift_s = 0 if end_s == "keep" else shift_to(end_s, newest_s)
    write_manifest(options.manifest, manifest(entries, shift_s))

    async def produce(load: Load) -> None:
        if options.clock_factor is None:
            await send_all(recordings(), load, shift_s=shift_s, batch=options.batch)
            return
        with tempfile.TemporaryFile() as file:
            await send_paced(
                recordings(),
                load,
                file,
                shift_s=shift_s,
                factor=options.clock_factor,
                batch=options.batch,
                clock=time.monotonic,
                sleep=asyncio.sleep,
            )

    total = sum(entry.samples for entry in entries)
    return deliver(options, produce, total=total, extra={"shift_s": shift_s, "trace": asdict(dirt)})


def survey(recordings: Iterable[Recording], dirt: Dirt) -> list[Entry]:
    """Reads a trace through and adds up its dirt. VMs without a single usable row are left out."""
    entries = []
    for recording in recordings:
        dirt.add(recording.dirt)
        if recording.rows:
            entries.append(
                Entry(
                    vm=recording.vm,
                    source=recording.source,
                    interval_s=recording.interval_s,
                    first_s=recording.rows[0][0],
                    last_s=recording.rows[-1][0],
                    samples=len(recording.rows),
                )
            )
    return entries


def shift_to(end_s: float, newest_s: int) -> int:
    """Seconds to move a trace by so that end_s - 3600 < newest <= end_s.

    Whole hours, so that its hours stay hours: figures by the hour can be compared with the trace's own.
    """
    return math.floor((end_s - newest_s) / _HOUR_S) * _HOUR_S


def manifest(entries: Sequence[Entry], shift_s: int) -> list[dict[str, object]]:
    """What each VM is, in times after the shift. Whether it must be called idle is not known of real ones: null."""
    return [
        {
            "vm": entry.vm,
            "profile": "trace",
            "idle_expected": None,
            "started_s": entry.first_s - entry.interval_s + shift_s,
            "ended_s": entry.last_s + shift_s,
            "source": entry.source,
            "interval_s": entry.interval_s,
            "samples": entry.samples,
            "shift_s": shift_s,
        }
        for entry in entries
    ]


async def send_all(recordings: Iterable[Recording], load: Sink, *, shift_s: int, batch: int) -> None:
    """Sends one VM after the other, without waiting."""
    for recording in recordings:
        if not recording.rows:
            continue
        await load.enrol(_identity(recording))
        texts = recording.texts(shift_s)
        while piece := list(islice(texts, batch)):
            await load.push(recording.vm, piece, recording.interval_s)


@dataclass(slots=True)
class _Cursor:
    """How far one VM's lines in the temporary file are sent."""

    vm: str
    interval_s: int
    offset: int
    end: int


async def send_paced(
    recordings: Iterable[Recording],
    load: Sink,
    file: IO[bytes],
    *,
    shift_s: int,
    factor: float,
    batch: int,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Sends every sample when its time has come on a clock `factor` times as fast as `clock`.

    All VMs advance together, so their samples wait in `file`, `ts text` a line, VM after VM.
    """
    cursors: list[_Cursor] = []
    waiting: list[tuple[int, int]] = []
    for recording in recordings:
        if not recording.rows:
            continue
        await load.enrol(_identity(recording))
        cursor = _Cursor(recording.vm, recording.interval_s, file.tell(), 0)
        for (ts, _), text in zip(recording.rows, recording.texts(shift_s), strict=True):
            file.write(b"%d %s\n" % (ts, text.encode()))
        cursor.end = file.tell()
        waiting.append((recording.rows[0][0], len(cursors)))
        cursors.append(cursor)
    heapq.heapify(waiting)
    begin_s, began_s = waiting[0][0] if waiting else 0, clock()
    while waiting:
        next_s, index = waiting[0]
        elapsed_s = clock() - began_s
        clock_s = begin_s + elapsed_s * factor
        if next_s > clock_s:
            # No more than one round a second, however fast their minutes pass.
            await sleep(max(1.0, (next_s - begin_s) / factor - elapsed_s))
            continue
        cursor = cursors[index]
        texts, later_s = _take_due(file, cursor, clock_s, batch)
        await load.push(cursor.vm, texts, cursor.interval_s)
        if later_s is None:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, (later_s, index))


def _take_due(file: IO[bytes], cursor: _Cursor, clock_s: float, batch: int) -> tuple[list[str], int | None]:
    """The next texts with ts <= clock_s, at most `batch`, and the `ts` of what follows, None at the end."""
    texts: list[str] = []
    file.seek(cursor.offset)
    while cursor.offset < cursor.end:
        line = file.readline()
        ts, _, text = line.decode().rstrip("\n").partition(" ")
        if int(ts) > clock_s or len(texts) == batch:
            return texts, int(ts)
        texts.append(text)
        cursor.offset += len(line)
    return texts, None


def _identity(recording: Recording) -> Identity:
    return Identity(vm=recording.vm, hostname=recording.vm, machine={"system": "trace", "source": recording.source})
