"""The ledger of `bench kill` against the stores and the fleet database of a stopped aggregator."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from aggregator.check import verify_store
from aggregator.store_files import connect_read_only, store_path
from bench.kill_driver import VmLedger
from bench.raw_rows import put_samples, raw_rows


@dataclass(slots=True)
class Findings:
    """What the stores say, against the ledger. Samples are counted, but for mismatches, which name what is wrong.

    Attributes:
        lost: acknowledged, and not stored or stored with other figures.
        doubled: stored, or counted in an hour, more than once.
        never_sent: stored, and not what any push said.
    """

    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    doubled: int = 0
    never_sent: int = 0
    rollup_mismatches: list[str] = field(default_factory=list)
    summary_mismatches: list[str] = field(default_factory=list)


def compare(data_dir: Path, ledgers: Iterable[VmLedger]) -> Findings:
    """Every store, and the fleet database, of a stopped aggregator against the ledger. Raises: sqlite3.Error."""
    findings = Findings()
    with closing(sqlite3.connect(f"file:{data_dir / 'fleet.db'}?mode=ro", uri=True)) as fleet:
        for ledger in ledgers:
            path = store_path(data_dir, ledger.vm)
            if not path.exists():
                count = sum(1 for _ in ledger.acknowledged())
                findings.acknowledged += count
                findings.lost += count
                continue
            with closing(connect_read_only(path)) as store:
                compare_rows(store, ledger, findings)
                findings.summary_mismatches += compare_summary(store, fleet, ledger.vm)
            findings.rollup_mismatches += [f"{ledger.vm}: {problem}" for problem in verify_store(path, ledger.vm)]
    return findings


def compare_rows(store: sqlite3.Connection, ledger: VmLedger, findings: Findings) -> None:
    """Adds what the raw rows of one store say."""
    compare_stores((store,), ledger, findings)


def compare_stores(stores: Iterable[sqlite3.Connection], ledger: VmLedger, findings: Findings) -> None:
    """Adds what the raw rows of one VM say that lie in these stores, of several aggregators: none may be in two."""
    right: set[int] = set()
    for store in stores:
        rows = raw_rows(store)
        for row in rows:
            ts = row[0] or 0
            if ts in right:
                findings.doubled += 1
            elif row == ledger.row(ts):
                right.add(ts)
            else:
                findings.never_sent += 1
        counted = store.execute("SELECT ifnull(sum(samples), 0) FROM hour").fetchone()[0]
        findings.doubled += max(0, counted - len(rows))
        findings.stored += len(rows)
    for ts in ledger.acknowledged():
        findings.acknowledged += 1
        findings.lost += ts not in right


_RAW_FIGURES = """
    SELECT ifnull(sum(interval_s), 0), sum(cpu_busy * interval_s) * 1e-5 / sum(interval_s), max(cpu_busy) * 1e-5,
           sum(net_rx * interval_s) * 1.0 / sum(interval_s)
    FROM sample WHERE ts > ?
"""
_SUMMARISED = """
    SELECT window_days, start_s, end_s, covered_s, cpu_busy_mean_ratio, cpu_busy_max_ratio, net_rx_mean_bytes_per_s
    FROM vm_window WHERE vm_id = ?
"""


def compare_summary(store: sqlite3.Connection, fleet: sqlite3.Connection, vm: str) -> list[str]:
    """Where a VM's summary differs from figures that SQL alone computes from its raw rows."""
    with closing(sqlite3.connect(":memory:")) as rows:
        put_samples(store, rows)
        return _compare_summary(rows, fleet, vm)


def _compare_summary(rows: sqlite3.Connection, fleet: sqlite3.Connection, vm: str) -> list[str]:
    problems = []
    newest_s = rows.execute("SELECT max(ts) FROM sample").fetchone()[0]
    summary = fleet.execute("SELECT newest_s, conflicts FROM vm_summary WHERE vm_id = ?", (vm,)).fetchone()
    if summary != (newest_s, 0):
        problems.append(f"{vm}: newest sample and conflicts are {summary}, not {(newest_s, 0)}")
    windows = fleet.execute(_SUMMARISED, (vm,)).fetchall()
    if not windows:
        problems.append(f"{vm}: has no windows")
    for days, start_s, end_s, *said in windows:
        found: Sequence[float | None] = rows.execute(_RAW_FIGURES, (start_s,)).fetchone()
        if end_s != newest_s or not all(_agree(one, other) for one, other in zip(said, found, strict=True)):
            problems.append(f"{vm}: the window of {days} days says {said} until {end_s}, its rows say {found}")
    return problems


def _agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    # A summary is rounded to nine digits after the point.
    return abs(one - other) <= 1e-8 + 1e-9 * abs(other)
