"""What a flush of a whole fleet costs its database on PostgreSQL: time, CPU, write-ahead log, and what is left dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from aggregator.fleet import vm_evidence, vm_summary, vm_window
from aggregator.summaries import SummaryWriter
from aggregator.summary import STATISTIC_COLUMNS, WINDOWS_DAYS, Figures, Summary
from bench import tree

# A quarter of the VMs closes an hour: their windows and histograms are written, too.
_FLUSH_S = 900
_CLOSE_EVERY = 4
_BATCH_VMS = 1_000
_SAMPLES = 50
_TABLES = (vm_summary, vm_window, vm_evidence)


class _History(NamedTuple):
    """What a VM's closed hour brings."""

    figures: list[Figures]
    evidence: bytes


class _Told(NamedTuple):
    """What the server says of itself."""

    cpu_s: float
    wal: int
    updated: Mapping[str, int]
    hot: Mapping[str, int]
    dead: Mapping[str, int]
    sizes: Mapping[str, int]


def measure_writes(url: str, *, vms: int, flushes: int, say: Callable[[str], None]) -> dict[str, object]:
    """Writes the summaries of VMs `flushes` times, each as its own node, and tells what that took.

    Args:
        url: of a server on this machine, with a fleet of `bench.report_fleet`.
        vms: so many of them, or all there are; in no order.
    """
    engine = sa.create_engine(url)
    try:
        histories = _histories(engine)
        before = _tell(engine)
        written = 0
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for number in range(flushes):
            say(f"PostgreSQL: flush {number + 1} of {flushes} ...")
            writers: dict[str, SummaryWriter] = {}
            for node, batch in _batches(engine, histories, vms, number):
                writer = writers.setdefault(node, SummaryWriter(engine, node))
                writer.write(batch, now_s=float(batch[0].newest_s))
                written += len(batch)
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
        after = _tell(engine)
    finally:
        engine.dispose()
    per_100k = 100_000 / written
    names = [table.name for table in _TABLES]
    return {
        "flushes": flushes,
        "summaries": written,
        "write_s": wall_s,
        "writer_cpu_s_per_100k": cpu_s * per_100k,
        "server_cpu_s_per_100k": (after.cpu_s - before.cpu_s) * per_100k,
        "wal_bytes_per_summary": (after.wal - before.wal) / written,
        "hot_ratio": {name: _share(after.hot, before.hot, after.updated, before.updated, name) for name in names},
        "dead_rows": {name: after.dead[name] for name in names},
        "bytes_before": {name: before.sizes[name] for name in names},
        "bytes_after": {name: after.sizes[name] for name in names},
    }


def table_bytes_per_vm(url: str, vms: int) -> dict[str, float]:
    """What each table takes with its indexes and what lies beside it, the large ones."""
    engine = sa.create_engine(url)
    try:
        return {name: size / vms for name, size in _sizes(engine).items() if size > vms}
    finally:
        engine.dispose()


def _share(
    part: Mapping[str, int],
    part_before: Mapping[str, int],
    whole: Mapping[str, int],
    whole_before: Mapping[str, int],
    name: str,
) -> float | None:
    every = whole[name] - whole_before[name]
    return (part[name] - part_before[name]) / every if every else None


def _histories(engine: sa.Engine) -> list[_History]:
    """Those of some VMs, as their rows say."""
    with engine.connect() as connection:
        bodies = connection.execute(sa.select(vm_evidence.c.vm_id, vm_evidence.c.body).limit(_SAMPLES)).all()
        columns = [vm_window.c[name] for name in ("window_days", "start_s", "covered_s", "users_s", *STATISTIC_COLUMNS)]
        every = vm_window.c.window_days.in_(WINDOWS_DAYS)  # they come first in its key
        return [
            _History(
                [
                    Figures(row[0], row[1], row[2], row[3], tuple(row[4:]))
                    for row in connection.execute(sa.select(*columns).where(every, vm_window.c.vm_id == vm_id))
                ],
                bytes(body),
            )
            for vm_id, body in bodies
        ]


def _batches(
    engine: sa.Engine, histories: Sequence[_History], vms: int, number: int
) -> Iterator[tuple[str, list[Summary]]]:
    """The VMs' summaries of the next flush, by node, as its chunks come: in no order of ids."""
    with engine.connect() as connection:
        some = sa.select(vm_summary).order_by(sa.func.md5(vm_summary.c.vm_id)).limit(vms)
        rows = connection.execute(some).all()
    fresh = cycle(histories)
    by_node: dict[str, list[Summary]] = {}
    for place, row in enumerate(rows):
        newest_s = row.newest_s + _FLUSH_S
        closed = next(fresh) if (place + number) % _CLOSE_EVERY == 0 else None
        by_node.setdefault(row.node, []).append(
            Summary(
                vm_id=row.vm_id,
                oldest_s=row.oldest_s,
                newest_s=newest_s,
                received_s=row.received_s + _FLUSH_S,
                skew_s=row.skew_s,
                interval_s=row.interval_s,
                conflicts=row.conflicts,
                cpu_count=row.cpu_count,
                mem_total_bytes=row.mem_total_bytes,
                disk_total_bytes=row.disk_total_bytes,
                flags=[],
                figures=[] if closed is None else closed.figures,
                evidence_hour_s=newest_s // 3600 * 3600,
                evidence=None if closed is None else closed.evidence,
            )
        )
    waiting = {node: iter(summaries) for node, summaries in by_node.items()}
    while waiting:
        for node, summaries in list(waiting.items()):
            batch = list(islice(summaries, _BATCH_VMS))
            if batch:
                yield node, batch
            else:
                del waiting[node]


def _tell(engine: sa.Engine) -> _Told:
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        connection.commit()
        wal = connection.scalar(sa.text("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"))
        stats = connection.exec_driver_sql(
            "SELECT relname, n_tup_upd, n_tup_hot_upd, n_dead_tup FROM pg_stat_user_tables"
        ).all()
        pid = connection.scalar(sa.text("SELECT pg_backend_pid()"))
    updated, hot, dead = ({row[0]: int(row[index]) for row in stats} for index in (1, 2, 3))
    return _Told(tree.cpu_s(_parent(int(pid or 0))), int(wal or 0), updated, hot, dead, _sizes(engine))


def _sizes(engine: sa.Engine) -> dict[str, int]:
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT relname, pg_total_relation_size(relid) FROM pg_stat_user_tables")
        return {name: int(size) for name, size in rows}


def _parent(pid: int) -> int:
    """The server's first process is the parent of the one that answers us."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return int(text.rpartition(")")[2].split()[1])
