"""One node, a million VMs: what a VM-minute costs on its way in and through a flush, and what a node needs for it.

Live part: a million VMs push once a minute, one VM-minute a request, through a real aggregator that checks their
tokens. Then the rows of a whole flush interval fill its memory, it is killed with SIGKILL, and its journal is held
against what it acknowledged. No flush falls into that: a million new stores would say nothing of old ones.

Flush part: a fleet whose stores hold a history already goes through a flush of 15 minutes; a quarter of the VMs has
its turn and closes an hour in it, as in each of the four flushes of an hour. Stores with a short history, so that
100,000 of them fit on a disk; a smaller fleet with the whole history goes through four flushes, and the dearer of the
two counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from agent.settings import parse_count
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from bench import tree
from bench.flush import FlushBench, Measured, work_folder, write_templates
from bench.ingest import aggregator
from bench.million_driver import Fleet, Floats, MillionDriver
from bench.million_kept import Kept, read_journal
from bench.outcome import Bar, Outcome, Say
from bench.sink import minute_days_ago, positive, vm_names

VMS = 1_000_000
_FLUSH_MINUTES = 15
_BUFFERED_MINUTES = 150  # at most half of that waits for its turn
_LIVE_ROWS = 10  # rows that stay in memory after a flush
_MAX_CORES = 2.0
_MAX_ACK_P99_S = 0.250
_MAX_PEAK_BYTES = 4 << 30
_FOLDERS = 65_536 + 256
_FOLDER_BYTES = 4096
_FILES_A_VM = 2  # a store and its rollback journal, which stays, empty


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench million`."""
    parser.add_argument("--vms", type=parse_count, default=VMS, help="VMs of the live part (default 1000000)")
    parser.add_argument("--minutes", type=parse_count, default=3, help="minutes of the live part (default 3)")
    parser.add_argument("--pushes-per-s", type=positive, help="pace of the live part (default: each VM once a minute)")
    parser.add_argument("--connections", type=parse_count, default=400, help="kept connections (default 400)")
    parser.add_argument(
        "--flush-vms", type=parse_count, default=100_000, help="VMs of the flush part (default 100000; 20 GB of disk)"
    )
    parser.add_argument(
        "--deep-vms", type=parse_count, default=2_000, help="VMs with a history of 14 days (default 2000)"
    )
    parser.add_argument("--workers", type=parse_count, default=1, help="flush workers (default 1, as the aggregator's)")
    parser.add_argument("--part", choices=("both", "live", "flush"), default="both", help="leave a part out")
    parser.add_argument("--folder", type=Path, help="where the data go (default: a temporary folder)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Measures; see the module's docstring. Raises: DriveError, ProgramError: something fails or is lost."""
    figures: dict[str, object] = {}
    bars: list[Bar] = []
    cost_us = 0.0
    with work_folder(options.folder) as folder:
        if options.part != "flush":
            live = measure_live(folder, options, say)
            figures |= live.figures()
            cost_us += live.cpu_us_per_push
            bars += live.bars()
        if options.part != "live":
            flushed, deep, size_bytes = measure_flush(folder, options, say)
            figures |= {"flush": flushed.figures(), "deep": deep.figures()}
            flush_us = [1e6 * one.flush_cpu_s / one.vm_minutes for one in (flushed, deep)]
            figures |= {"flush_cpu_us_per_vm_minute": flush_us[0], "deep_flush_cpu_us_per_vm_minute": flush_us[1]}
            figures |= disk_of_a_million(size_bytes)
            cost_us += max(flush_us)
    if options.part == "both":
        cores = cost_us * VMS / 60 / 1e6
        figures |= {"cpu_us_per_vm_minute": cost_us, "cores": cores}
        bars.append(Bar("cores for a million VMs, live and flush", cores, _MAX_CORES))
    return Outcome(figures, tuple(bars))


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the live part showed.

    Attributes:
        minutes_cpu_us: of the aggregator a push, minute by minute; in the first, it meets every VM for the first time.
        driver_cpu_us: of the driver a push.
        live_rss_bytes: peak after the paced pushes.
        full_rss_bytes: peak with the rows of a flush interval, and those that stay from before, of every VM.
    """

    vms: int
    pushes: int
    seconds: float
    ack_s: Floats
    minutes_cpu_us: Sequence[float]
    driver_cpu_us: float
    live_rss_bytes: int
    full_rss_bytes: int
    kept: Kept

    @property
    def cpu_us_per_push(self) -> float:
        return sum(self.minutes_cpu_us) / len(self.minutes_cpu_us)

    def figures(self) -> dict[str, object]:
        return {
            "live_vms": self.vms,
            "pushes": self.pushes,
            "pushes_per_s": self.pushes / self.seconds,
            "ack_p50_s": float(np.quantile(self.ack_s, 0.5)),
            "ack_p99_s": float(np.quantile(self.ack_s, 0.99)),
            "ack_max_s": float(self.ack_s.max()),
            "live_cpu_us_per_push": self.cpu_us_per_push,
            "live_cpu_us_per_push_by_minute": [round(one, 2) for one in self.minutes_cpu_us],
            "driver_cpu_us_per_push": self.driver_cpu_us,
            "live_rss_bytes": self.live_rss_bytes,
            "full_rss_bytes": self.full_rss_bytes,
            "journal_samples": self.kept.samples,
            "journal_lost": self.kept.lost,
            "journal_doubled": self.kept.doubled,
            "journal_strange": self.kept.strange,
            "journal_damaged": self.kept.damaged,
        }

    def bars(self) -> list[Bar]:
        return [
            Bar("ack p99, s", float(np.quantile(self.ack_s, 0.99)), _MAX_ACK_P99_S),
            Bar("acknowledged samples that the journal lacks after kill -9", self.kept.lost, 0),
            Bar("peak memory with a full flush interval of all VMs, bytes", self.full_rss_bytes, _MAX_PEAK_BYTES),
        ]


def measure_live(folder: Path, options: argparse.Namespace, say: Say) -> Live:
    """The live part. Raises: DriveError, ProgramError."""
    vms = vm_names(options.vms)
    # In memory at once before a flush: the rows of its interval, and those that the flush before left there.
    fill = max(1, _FLUSH_MINUTES + _LIVE_ROWS - options.minutes)
    start_ts = minute_days_ago(1)
    live_minutes = [start_ts + 60 * minute for minute in range(options.minutes)]
    pushes_per_s = options.pushes_per_s or options.vms / 60
    more = ["--flush-interval", "1d", "--buffer-samples", str(4 * (fill + options.minutes) * options.vms)]
    with aggregator(folder / "live", more) as real:
        keys = TokenKeys.load_or_create(real.data_dir / KEY_FILE_NAME)
        say(f"{options.vms:,} VMs: making their tokens ...")
        fleet = Fleet(vms, lambda vm: keys.make(vm, 1))
        driver = MillionDriver(real.address, options.connections)
        try:
            began_s, own_cpu_s, cpus_s, acks = time.monotonic(), time.process_time(), [tree.cpu_s(real.pid)], []
            for number, minute in enumerate(live_minutes):
                acks.append(driver.push(fleet, [minute], pushes_per_s=pushes_per_s))
                cpus_s.append(tree.cpu_s(real.pid))
                cost_us = 1e6 * (cpus_s[-1] - cpus_s[-2]) / len(fleet)
                p99_s = np.quantile(acks[-1], 0.99)
                say(f"minute {number + 1} of {options.minutes}: {cost_us:.1f} us a push, p99 {1000 * p99_s:.0f} ms")
            seconds = time.monotonic() - began_s
            own_cpu_s = time.process_time() - own_cpu_s
            live_rss_bytes = tree.peak_rss_bytes(real.pid)
            say(f"{fill} minutes more of every VM, in one push each ...")
            last_ts = live_minutes[-1] + 60 * fill
            driver.push(fleet, [last_ts], pushes_per_s=None, samples=fill)
            full_rss_bytes = tree.peak_rss_bytes(real.pid)
            os.kill(real.pid, signal.SIGKILL)
        finally:
            driver.close()
    say("reading the journal of the killed aggregator ...")
    kept = read_journal(folder / "live" / "data" / "journal", vms, list(range(start_ts, last_ts + 60, 60)))
    shutil.rmtree(folder / "live")
    pushes = len(fleet) * options.minutes
    return Live(
        vms=len(fleet),
        pushes=pushes,
        seconds=seconds,
        ack_s=np.concatenate(acks),
        minutes_cpu_us=[1e6 * (b - a) / len(fleet) for a, b in pairwise(cpus_s)],
        driver_cpu_us=1e6 * own_cpu_s / pushes,
        live_rss_bytes=live_rss_bytes,
        full_rss_bytes=full_rss_bytes,
        kept=kept,
    )


def measure_flush(folder: Path, options: argparse.Namespace, say: Say) -> tuple[Measured, Measured, int]:
    """The flush part: the large fleet, the deep one, and bytes of a store of 14 days. Raises: ProgramError."""
    end_s = (int(time.time()) // 3600 - 26) * 3600
    bench = FlushBench(folder, end_s, 200, options.workers, say, buffered_minutes=_BUFFERED_MINUTES)
    size_bytes = write_templates(folder / "deep", end_s, 14, 30)
    deep = bench.measure(folder / "deep", vms=options.deep_vms, minutes=4 * _FLUSH_MINUTES)
    write_templates(folder / "short", end_s, 1, 2)
    flushed = bench.measure(folder / "short", vms=options.flush_vms, minutes=_FLUSH_MINUTES)
    return flushed, deep, size_bytes


def disk_of_a_million(store_bytes: int) -> dict[str, object]:
    """Disk and inodes of a million VMs. Args: store_bytes: of one store of 14 days, raw rows and rollups."""
    return {
        "store_bytes_14_days": store_bytes,
        "disk_bytes_million_14_days": VMS * store_bytes + _FOLDERS * _FOLDER_BYTES,
        "inodes_million": _FILES_A_VM * VMS + _FOLDERS,
    }
