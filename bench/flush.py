"""The whole path on stores that already hold a history: pushes, journal, buffer, flush, stores, summaries.

Runs the real aggregator and drives it as a fleet would, one VM-minute a request, with the clock compressed: after
each flush interval's worth of minutes it asks for the flush that would come then, of the VMs whose turn it is. Counts
the CPU of all aggregator processes. An hour that is not measured comes first, so that as much waits in memory for
its turn when the measuring begins as in the long run, and as when it ends; that is checked.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.settings import parse_count, parse_host_port
from aggregator import rows
from aggregator.store_files import store_path
from aggregator.summary import WINDOWS_DAYS, Taken, WorkerSettings
from aggregator.tokens import KEY_FILE_NAME, TokenKeys
from aggregator.worker import FlushWorker
from bench import tree
from bench.admin_door import AdminDoor, check_steady
from bench.fleet_driver import FleetDriver
from bench.million_driver import Fleet, MillionDriver
from bench.outcome import Bar, Outcome, Say
from bench.programs import ProgramError, Programs

_FLUSH_MINUTES = 15  # the default flush interval
_TURNS = 4  # flushes in which each VM has its turn, as the aggregator comes
_TEMPLATES = 4
_DAY_S = 86400
_HOURS_BACK = 26  # history ends so long ago: 1,500 minutes fit between then and now
_GIB = 1 << 30
_FIGURES_A_SAMPLE = len(rows.SAMPLE_COLUMNS) - 2  # ts and interval are no figures


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m bench flush`."""
    parser.add_argument("--vms", type=parse_count, default=5_000, help="VMs of the main run (default 5000)")
    parser.add_argument("--minutes", type=parse_count, default=60, help="minutes of each VM (default 60)")
    parser.add_argument("--raw-days", type=parse_count, default=14, help="days of raw rows beforehand (default 14)")
    parser.add_argument("--connections", type=parse_count, default=200, help="kept connections (default 200)")
    parser.add_argument("--workers", type=parse_count, default=1, help="flush workers (default 1, as the aggregator's)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out the runs of 1,000, 10,000 and 100,000 VMs with equal VM-minutes, on stores with one day of "
        "raw rows (they need 20 GB of disk and about ten minutes)",
    )
    parser.add_argument("--folder", type=Path, help="where the data go (default: a temporary folder)")


def run(options: argparse.Namespace, say: Say) -> Outcome:
    """Measures; see the module's docstring. Raises: ProgramError: the aggregator fails, or stored less than it took."""
    figures: dict[str, object] = {}
    bars: list[Bar] = []
    end_s = (int(time.time()) // 3600 - _HOURS_BACK) * 3600
    with work_folder(options.folder) as folder:
        size_bytes = write_templates(folder / "full", end_s, options.raw_days, 30)
        per_point = size_bytes / (options.raw_days * 1440 * _FIGURES_A_SAMPLE)
        figures["disk_bytes_per_data_point"] = round(per_point, 3)
        bars.append(Bar("bytes a data point, history of one noisy VM, rollups counted", round(per_point, 3), 4.5))
        say(f"one store of {options.raw_days} days: {size_bytes:,} bytes")
        bench = FlushBench(folder, end_s, options.connections, options.workers, say)
        main = bench.measure(folder / "full", vms=options.vms, minutes=options.minutes)
        figures.update(main.figures())
        bars.append(
            Bar("VM-minutes per CPU-second, whole path", round(main.vm_minutes_per_cpu_s), 8_000, at_least=True)
        )
        if not options.quick:
            write_templates(folder / "short", end_s, 1, 2)
            runs = [
                bench.measure(folder / "short", vms=vms, minutes=1_500_000 // vms) for vms in (1_000, 10_000, 100_000)
            ]
            costs_us = [1e6 / each.vm_minutes_per_cpu_s for each in runs]
            for each, cost_us in zip(runs, costs_us, strict=True):
                figures[f"vms_{each.vms}"] = each.figures() | {"cpu_us_per_vm_minute": round(cost_us, 1)}
            spread = max(costs_us) / min(costs_us)
            bars.append(Bar("dearest / cheapest VM-minute at 1,000, 10,000 and 100,000 VMs", round(spread, 3), 1.25))
            peak = runs[-1].peak_rss_bytes
            bars.append(Bar("peak memory with 100,000 VMs through a flush, bytes", peak, 600_000_000))
    return Outcome(figures, tuple(bars))


@dataclass(frozen=True, slots=True)
class Measured:
    """What the measured minutes of a fleet cost. `stored`: samples that flushes stored meanwhile."""

    vms: int
    vm_minutes: int
    cpu_s: float
    ingest_cpu_s: float
    flush_cpu_s: float
    workers_cpu_s: float
    seconds: float
    flush_seconds: float
    peak_rss_bytes: int
    stored: int
    summaries: int

    @property
    def vm_minutes_per_cpu_s(self) -> float:
        return self.vm_minutes / self.cpu_s

    def figures(self) -> dict[str, object]:
        return {
            "vms": self.vms,
            "vm_minutes": self.vm_minutes,
            "vm_minutes_per_cpu_s": round(self.vm_minutes_per_cpu_s),
            "cpu_s": round(self.cpu_s, 2),
            "ingest_cpu_s": round(self.ingest_cpu_s, 2),
            "flush_cpu_s": round(self.flush_cpu_s, 2),
            "workers_cpu_s": round(self.workers_cpu_s, 2),
            "seconds": round(self.seconds, 1),
            "flush_seconds": round(self.flush_seconds, 1),
            "peak_rss_bytes": self.peak_rss_bytes,
            "stored_samples": self.stored,
            "summaries": self.summaries,
        }


@dataclass(frozen=True, slots=True)
class FlushBench:
    """What all runs share.

    Args: buffered_minutes: of each VM there is room in the aggregator's memory for so many; None: as it comes. At half
        of that it flushes by itself.
    """

    folder: Path
    end_s: int
    connections: int
    workers: int
    say: Say
    buffered_minutes: int | None = None

    def measure(self, templates: Path, *, vms: int, minutes: int) -> Measured:
        """One fleet on fresh copies of the templates, through a real aggregator.

        Raises: ProgramError: it fails, stored another number of samples than it acknowledged, or holds more or fewer
            in memory at the end than at the beginning.
        """
        data = self.folder / f"data-{vms}"
        ids = [f"bench-{index:06d}" for index in range(vms)]
        self.say(f"{vms:,} VMs: laying out their stores ...")
        sources = sorted(templates.glob("*.db"))
        for index, vm_id in enumerate(ids):
            path = store_path(data, vm_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sources[index % len(sources)], path)
        os.sync()  # a history is at rest: what was just copied must not be written during the measurement
        keys = TokenKeys.load_or_create(data / KEY_FILE_NAME)
        programs = Programs(Path(sys.executable).parent, self.folder / f"logs-{vms}", time)
        try:
            aggregator = programs.start(
                ["fallow-aggregator", "run", "--data", str(data), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
                # The clock is compressed: this bench asks for each flush when its minutes have come.
                + ["--flush-interval", "1d", "--flush-workers", str(self.workers)]
                + ([] if self.buffered_minutes is None else ["--buffer-samples", str(vms * self.buffered_minutes)])
            )
            address, admin = (
                parse_host_port(programs.wait_for_line(data / name, running=[aggregator]))
                for name in ("agents.address", "admin.address")
            )
            driver = FleetDriver(
                address,
                vms=ids,
                token=lambda vm_id: keys.make(vm_id, 1),
                connections=self.connections,
            )
            door = AdminDoor(admin, data)
            self._warm_up(Fleet(ids, lambda vm_id: keys.make(vm_id, 1)), address, door)
            measured = self._drive(driver, aggregator.process.pid, door, data, vms, minutes)
            driver.close()
            # Not measured, since as much was in memory before. All that was acknowledged must be in the stores by now.
            door.flush()
            stored = door.stored_samples()
        finally:
            programs.stop_all()
        shutil.rmtree(data)
        acknowledged = vms * _TURNS * _FLUSH_MINUTES + measured.vm_minutes
        if stored != acknowledged or measured.summaries != vms:
            raise ProgramError(f"{acknowledged} acknowledged, {stored} stored: {measured}")
        return measured

    def _warm_up(self, fleet: Fleet, address: tuple[str, int], door: AdminDoor) -> None:
        """An hour in few pushes: workers start, the aggregator comes to know the VMs."""
        for turn in range(_TURNS):
            newest = self.end_s + 60 * _FLUSH_MINUTES * (turn + 1)
            # Anew for each: a flush of a large fleet takes longer than the aggregator keeps idle connections.
            driver = MillionDriver(address, self.connections)
            driver.push(fleet, [newest], pushes_per_s=None, samples=_FLUSH_MINUTES)
            driver.close()
            door.flush_turn()

    def _drive(self, driver: FleetDriver, pid: int, door: AdminDoor, data: Path, vms: int, minutes: int) -> Measured:
        waiting, stored = door.buffered_samples(), door.stored_samples()
        start_s = self.end_s + 60 * _TURNS * _FLUSH_MINUTES
        began_s, cpu_began_s, own_began_s = time.monotonic(), tree.cpu_s(pid), tree.own_cpu_s(pid)
        ingest_cpu_s = flush_seconds = 0.0
        acknowledged = 0
        for start in range(0, minutes, _FLUSH_MINUTES):
            upto = min(start + _FLUSH_MINUTES, minutes)
            driver.connect_anew()  # the warm-up, or a flush, was longer than idle connections are kept
            cpu_s = tree.cpu_s(pid)
            acknowledged += driver.push([start_s + 60 * minute for minute in range(start + 1, upto + 1)])
            ingest_cpu_s += tree.cpu_s(pid) - cpu_s
            report = door.flush_turn()
            flush_seconds += report["seconds"]
            self.say(f"{vms:,} VMs: {upto} of {minutes} minutes, flush {report['seconds']:.1f} s")
        cpu_s = tree.cpu_s(pid) - cpu_began_s
        check_steady(waiting, door.buffered_samples())
        return Measured(
            vms=vms,
            vm_minutes=acknowledged,
            cpu_s=cpu_s,
            ingest_cpu_s=ingest_cpu_s,
            flush_cpu_s=cpu_s - ingest_cpu_s,
            workers_cpu_s=cpu_s - (tree.own_cpu_s(pid) - own_began_s),
            seconds=time.monotonic() - began_s,
            flush_seconds=flush_seconds,
            peak_rss_bytes=tree.peak_rss_bytes(pid),
            stored=door.stored_samples() - stored,
            summaries=_count_summaries(data),
        )


def write_templates(folder: Path, end_s: int, raw_days: int, rollup_days: int) -> int:
    """Stores of noisy VMs whose histories end at `end_s`; returns the mean size with `raw_days` of rollups."""
    folder.mkdir(parents=True)
    settings = WorkerSettings(folder / "made", WINDOWS_DAYS, 400.0 * _DAY_S, 400.0 * _DAY_S)
    worker = FlushWorker(settings)
    sizes_bytes = []
    for number in range(_TEMPLATES):
        vm_id = f"template-{number}"
        noise = random.Random(number)  # a repeatable load
        for day in range(rollup_days, 0, -1):
            packed = b"".join(_noisy_row(noise, end_s - day * _DAY_S + 60 * minute) for minute in range(1, 1441))
            result = worker.flush([Taken(vm_id, packed, 0, end_s, 0.0, False)], now_s=end_s, may_forget=False)
            if result.failures:
                raise ProgramError(str(result.failures))
        path = store_path(settings.data_dir, vm_id)
        # Old rows go every few hours: each template is at another point on its way there.
        _trim(path, raw_s=end_s - raw_days * _DAY_S - number * 5400, rollups_s=0)
        shutil.copyfile(path, folder / f"{number}.db")
        _trim(path, raw_s=end_s - raw_days * _DAY_S, rollups_s=end_s - raw_days * _DAY_S)
        sizes_bytes.append(path.stat().st_size)
    shutil.rmtree(settings.data_dir)
    return sum(sizes_bytes) // len(sizes_bytes)


def _trim(path: Path, *, raw_s: int, rollups_s: int) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("DELETE FROM rows WHERE hour_s < ?", (raw_s,))
        connection.execute("DELETE FROM hour WHERE hour_s < ?", (rollups_s,))
        connection.execute("DELETE FROM hour_histogram WHERE hour_s < ?", (rollups_s,))
        connection.execute("VACUUM")
    finally:
        connection.close()


def _noisy_row(noise: random.Random, ts: int) -> bytes:
    """One sample whose every figure that can move does."""
    busy = min(1.0, noise.lognormvariate(-3.5, 0.8))
    return rows.ROW.pack(
        ts,
        60,
        busy,
        min(1.0, busy * noise.uniform(1.0, 4.0)),
        noise.random() * 0.01,
        noise.random() * 0.02,
        4,
        noise.random() * 3,
        8 * _GIB,
        _GIB + noise.randrange(_GIB) // 1024 * 1024,
        noise.randrange(1 << 20) // 1024 * 1024,
        50 * _GIB,
        20 * _GIB + noise.randrange(_GIB) // 4096 * 4096,
        noise.lognormvariate(9, 1.5),
        noise.lognormvariate(10, 1.5),
        noise.lognormvariate(9, 1.5),
        noise.lognormvariate(9, 1.5),
        noise.randrange(3),
        90 + noise.randrange(40),
        noise.random() * 0.01,
    )


def _count_summaries(data: Path) -> int:
    connection = sqlite3.connect(f"file:{data / 'fleet.db'}?mode=ro", uri=True)
    try:
        count: int = connection.execute("SELECT count(*) FROM vm_summary").fetchone()[0]
        return count
    finally:
        connection.close()


@contextmanager
def work_folder(chosen: Path | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fallow-flush-", dir=chosen))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
