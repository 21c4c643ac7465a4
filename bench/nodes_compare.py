"""What several aggregators of one fleet hold at the end, against the ledger and against one that saw everything.

The fleet is computed anew from the ledger alone: one flush worker is given all samples of a VM at once, and one writer
of summaries puts what it says into a database of its own. That and the fleet database must then say the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aggregator import rows
from aggregator.check import verify_store
from aggregator.fleet import vm_evidence, vm_part, vm_summary, vm_window
from aggregator.fleet_db import migrate, open_fleet
from aggregator.store_files import connect_read_only, store_path
from aggregator.summaries import SummaryWriter
from aggregator.summary import WINDOWS_DAYS, Taken, WorkerSettings
from aggregator.worker import FlushWorker
from bench.kill_compare import Findings, compare_stores, compare_summary
from bench.kill_driver import INTERVAL_S, VmLedger, values_of
from bench.nodes_cluster import Cluster
from bench.outcome import Say
from bench.programs import ProgramError

_CHUNK_VMS = 100
_TOP = 50
_SAY_EVERY = 5_000
_DAY_S = 86_400.0
_NODE = "one"
# Of a VM's row, what follows from its samples alone, and not from when and where they came.
_SUMMARY_COLUMNS = (
    *("oldest_s", "newest_s", "interval_s", "conflicts"),
    *("cpu_count", "mem_total_bytes", "disk_total_bytes"),
)
_Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What aggregators that ended have stored.

    Attributes:
        findings: against what was acknowledged.
        differing: rows of the fleet database that one aggregator with all samples would have written otherwise.
        tops_differ: places of the report's top that differ.
    """

    findings: Findings
    differing: Mapping[str, Sequence[str]]
    tops_differ: int

    @property
    def rows_differ(self) -> int:
        """Rows of the fleet database that are not as they should be."""
        return sum(map(len, self.differing.values())) + len(self.findings.summary_mismatches)

    def problems(self) -> list[str]:
        """All that is wrong, in words."""
        found = self.findings
        counts = {"lost": found.lost, "stored twice": found.doubled, "stored, and never sent": found.never_sent}
        return [
            *(f"{count} samples are {what}" for what, count in counts.items() if count),
            *found.rollup_mismatches,
            *found.summary_mismatches,
            *(f"{table}: {row}" for table, rows_ in self.differing.items() for row in rows_),
            *([f"{self.tops_differ} places of the top differ"] if self.tops_differ else []),
        ]


def judge(
    cluster: Cluster, engine: sa.Engine, ledgers: Sequence[VmLedger], folder: Path, *, verify_every: int, say: Say
) -> Verdict:
    """Compares everything.

    Args:
        cluster: of aggregators that ended.
        engine: of their fleet database.
        folder: for the computation from all samples; does not exist yet.
        verify_every: of so many VMs one has its rollups computed anew.
    """
    say("comparing the stores with what was acknowledged")
    findings = compare_cluster(cluster, engine, ledgers, verify_every=verify_every, say=say)
    say("computing all figures from all samples")
    expected = one_aggregator(folder, ledgers, now_s=time.time(), say=say)
    try:
        differ = differing(engine, expected)
        tops = [top(one, window_days=1, count=_TOP) for one in (engine, expected)]
    finally:
        expected.dispose()
    places = sum(one != other for one, other in zip_longest(*tops))
    return Verdict(findings=findings, differing=differ, tops_differ=places)


class _Fleet:
    """The fleet database as `compare_summary` asks it, which writes its questions for SQLite."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._mark = "?" if connection.dialect.name == "sqlite" else "%s"

    def execute(self, statement: str, values: tuple[object, ...]) -> Any:
        return self._connection.exec_driver_sql(statement.replace("?", self._mark), values)


def compare_cluster(
    cluster: Cluster, engine: sa.Engine, ledgers: Sequence[VmLedger], *, verify_every: int, say: Say
) -> Findings:
    """The stores of all nodes, which must have ended, and the fleet database against the ledger.

    Args: verify_every: of so many VMs one has its rollups computed anew.
    """
    findings = Findings()
    with engine.connect() as connection:
        fleet: Any = _Fleet(connection)
        for number, ledger in enumerate(ledgers):
            with ExitStack() as stack:
                paths = cluster.stores(ledger.vm)
                stores = [stack.enter_context(closing(connect_read_only(path))) for path in paths]
                compare_stores(stores, ledger, findings)
                if len(stores) == 1:
                    findings.summary_mismatches += compare_summary(stores[0], fleet, ledger.vm)
                else:
                    findings.summary_mismatches.append(f"{ledger.vm}: {len(stores)} aggregators hold a store of it")
            if number % verify_every == 0:
                for path in paths:
                    problems = verify_store(path, ledger.vm)
                    findings.rollup_mismatches += [f"{ledger.vm}: {problem}" for problem in problems]
            if number % _SAY_EVERY == _SAY_EVERY - 1:
                say(f"{number + 1:,} of {len(ledgers):,} VMs compared with their ledger")
    return findings


def one_aggregator(folder: Path, ledgers: Sequence[VmLedger], *, now_s: float, say: Say) -> sa.Engine:
    """A fleet database of what one aggregator says that got all acknowledged samples in one flush.

    Raises: ProgramError: it could not store some of them.
    """
    folder.mkdir()
    engine = open_fleet(None, folder)
    migrate(engine)
    writer = SummaryWriter(engine, _NODE)
    settings = WorkerSettings(folder / "stores-of-one", WINDOWS_DAYS, 400 * _DAY_S, 400 * _DAY_S)
    worker = FlushWorker(settings)
    for start in range(0, len(ledgers), _CHUNK_VMS):
        chunk = ledgers[start : start + _CHUNK_VMS]
        shares = [
            Taken(ledger.vm, b"".join(packed(ledger)), 0, now_s, 0.0, identity_conflict=False, wants_figures=True)
            for ledger in chunk
        ]
        result = worker.flush(shares, now_s=now_s, may_forget=False)
        if result.failures or result.conflicts:
            raise ProgramError(f"the computation from all samples failed: {result.failures or result.conflicts}")
        writer.write(result.summaries, now_s=now_s)
        for ledger in chunk:
            store_path(settings.data_dir, ledger.vm).unlink(missing_ok=True)
        if start % _SAY_EVERY == 0 and start:
            say(f"{start:,} of {len(ledgers):,} VMs computed from all their samples")
    return engine


def packed(ledger: VmLedger) -> Iterator[bytes]:
    """All acknowledged samples of a VM as the aggregator packs them."""
    for ts in ledger.acknowledged():
        row = ledger.row(ts)
        assert row is not None
        yield rows.ROW.pack(ts, INTERVAL_S, *values_of(row[2:]))


def differing(found: sa.Engine, expected: sa.Engine) -> dict[str, list[str]]:
    """Rows of the two fleet databases that are not equal, by table: the key of each, and in what it differs."""
    return {
        table.name: _differing(_read(found, table, columns), _read(expected, table, columns), columns)
        for table, columns in (
            (vm_summary, ("vm_id", *_SUMMARY_COLUMNS)),
            (vm_window, tuple(column.name for column in vm_window.columns)),
            (vm_evidence, ("vm_id", "hour_s", "body")),
            (vm_part, ("vm_id", "node")),
        )
    }


def _read(engine: sa.Engine, table: sa.Table, columns: Sequence[str]) -> dict[_Row, _Row]:
    keys = [column.name for column in table.primary_key]
    with engine.connect() as connection:
        read = connection.execute(sa.select(*(table.c[name] for name in columns))).all()
    places = [columns.index(name) for name in keys]
    return {tuple(row[place] for place in places): tuple(row) for row in read}


def _differing(found: dict[_Row, _Row], expected: dict[_Row, _Row], columns: Sequence[str]) -> list[str]:
    problems = [f"{key}: is there, and should not be" for key in found.keys() - expected.keys()]
    problems += [f"{key}: is missing" for key in expected.keys() - found.keys()]
    for key, row in expected.items():
        if (said := found.get(key)) is not None and said != row:
            apart = {name: (one, other) for name, one, other in zip(columns, said, row, strict=True) if one != other}
            problems.append(f"{key}: says, and should say: {apart}")
    return problems


def top(engine: sa.Engine, *, window_days: int, count: int) -> list[_Row]:
    """The VMs with the lowest mean CPU of a window, with all their figures: what a report ranks."""
    figure = vm_window.c.cpu_busy_mean_ratio
    statement = (
        sa.select(vm_window, vm_summary.c.newest_s)
        .join(vm_summary, vm_summary.c.vm_id == vm_window.c.vm_id)
        .where(vm_window.c.window_days == window_days)
        .order_by(figure, vm_window.c.vm_id)
        .limit(count)
    )
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(statement)]
